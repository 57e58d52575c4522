//! `make demo`: three processes at work together, on one terminal.
//!
//! - a writer makes a handful of changes in MongoDB: this program again, with the argument `write`;
//! - `oplogue run config.example.toml` reads them from the oplog, shows them and publishes them;
//! - `redis-cli PSUBSCRIBE` receives the messages in Redis.
//!
//! `MONGO_URL` and `REDIS_URL` name servers to use; for those that are not set, servers are fetched and started in a
//! temporary folder, and end with this program. It runs until Ctrl-C; without a terminal, with `CI` set or with
//! `DEMO_SECONDS=n` it ends by itself (not before everything was seen, or a minute has passed). The exit code tells
//! whether all events and messages were seen.

mod oplogue;
mod processes;
mod servers;
mod show;
mod writer;

use std::{
    env,
    io::{IsTerminal, stdin, stdout},
    process::ExitCode,
    time::{Duration, Instant},
};

use oplogue::{Oplogue, Outcome, interrupted};
use processes::{CONFIG, Seen, Subscriber, environment, write};
use servers::Servers;
use show::{DEMO, Who, say};

const WRITER: Who = Who { name: "writer → mongo", colour: "33" };
const REDIS: Who = Who { name: "redis → reader", colour: "35" };

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("write") {
        return match writer::run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("the writer failed: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let mut stage = Stage::default();
    let end = tokio::select! {
        end = play(&mut stage) => end,
        () = interrupted() => {
            println!();
            if stage.complete { Ok(()) } else { Err("interrupted before everything was seen".into()) }
        }
    };
    let end = end.and(stage.leave().await);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(DEMO, &format!("failed: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// What runs, so that it can be ended in order however the play ends.
#[derive(Default)]
struct Stage {
    oplogue: Option<Oplogue>,
    subscriber: Option<Subscriber>,
    servers: Option<Servers>,
    /// oplogue has run, and may have left something behind.
    was_ready: bool,
    complete: bool,
}

async fn play(stage: &mut Stage) -> Outcome<()> {
    let servers = stage.servers.insert(Servers::start().await?);
    let seen = Seen::default();
    stage.subscriber = Some(Subscriber::start(servers, &seen).await?);
    let oplogue = stage.oplogue.insert(Oplogue::start(CONFIG, &environment(servers), &servers.http, {
        let seen = seen.clone();
        move |line| seen.event(line)
    })?);
    oplogue.wait_until_ready().await?;
    stage.was_ready = true;
    let since = Instant::now();
    say(DEMO, "oplogue is ready; now a second process writes to MongoDB");
    write(servers).await?;
    seen.wait_for_all().await?;
    stage.complete = true;
    say(DEMO, &format!("all seen: {}", seen.summary()));
    match how_long() {
        Some(stay) => tokio::time::sleep(stay.saturating_sub(since.elapsed())).await,
        None => {
            say(DEMO, "It goes on: write to the database `app` yourself, or look at the metrics. Ctrl-C ends it all.");
            say(DEMO, &format!("MongoDB {}", servers.mongo_shown()));
            say(DEMO, &format!("Redis   {}", servers.redis_shown()));
            say(DEMO, &format!("metrics http://{}/metrics", servers.http));
            oplogue.wait_for_end().await?;
        }
    }
    Ok(())
}

impl Stage {
    /// Ends everything: oplogue first, so that it can still save its checkpoints.
    async fn leave(mut self) -> Outcome<()> {
        let ended = match self.oplogue.take() {
            Some(oplogue) => oplogue.stop().await,
            None => Ok(()),
        };
        drop(self.subscriber.take());
        if let Some(servers) = self.servers.take() {
            servers.leave(self.was_ready).await;
        }
        ended
    }
}

/// How long to go on, or without end.
fn how_long() -> Option<Duration> {
    match env::var("DEMO_SECONDS").map(|s| s.parse()) {
        Ok(Ok(seconds)) => Some(Duration::from_secs(seconds)),
        _ if env::var_os("CI").is_some() || !stdin().is_terminal() || !stdout().is_terminal() => Some(Duration::ZERO),
        _ => None,
    }
}
