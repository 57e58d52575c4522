//! The processes that the demo runs beside the servers and oplogue.

use std::{
    env,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use oplogue_testkit::servers::redis_cli;
use tokio::{
    io::{BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Duration, sleep, timeout},
};

use crate::{
    REDIS, WRITER,
    oplogue::{Outcome, PATIENCE, lines, program},
    servers::Servers,
    show::{DEMO, say},
    writer::{AUDIT, CHANGES, COLLECTION},
};

pub const CONFIG: &str = "config.example.toml";

/// What has come out at the other ends.
#[derive(Clone, Default)]
pub struct Seen(Arc<Counts>);

#[derive(Default)]
struct Counts {
    events: AtomicUsize,
    messages: AtomicUsize,
    held_back: AtomicUsize,
}

impl Seen {
    pub fn event(&self, line: &str) {
        // The line that begins an event ends with the key of the document; that of `create` has none.
        count(line, &format!("{COLLECTION} {{"), &self.0.events);
        count(line, AUDIT, &self.0.held_back);
    }

    fn message(&self, channel: &str) {
        count(channel, COLLECTION, &self.0.messages);
        count(channel, AUDIT, &self.0.held_back);
    }

    /// Waits until every change was shown, and published both on its collection's channel and on its document's.
    pub async fn wait_for_all(&self) -> Outcome<()> {
        let since = Instant::now();
        loop {
            let (events, messages) = (self.0.events.load(Ordering::SeqCst), self.0.messages.load(Ordering::SeqCst));
            if self.0.held_back.load(Ordering::SeqCst) > 0 {
                return Err("the filter let through what it should hold back".into());
            }
            if events >= CHANGES && messages >= 2 * CHANGES {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("of {CHANGES} changes only these were seen: {}", self.summary()).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn summary(&self) -> String {
        let (events, messages) = (self.0.events.load(Ordering::SeqCst), self.0.messages.load(Ordering::SeqCst));
        format!("{events} events on the terminal, {messages} messages in Redis")
    }
}

fn count(text: &str, collection: &str, counter: &AtomicUsize) {
    if without_colour(text).contains(&format!("app.{collection}")) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// A line without the escapes that colour it.
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, text)| text))
}

/// `redis-cli PSUBSCRIBE`.
pub struct Subscriber {
    _child: Child,
}

impl Subscriber {
    pub async fn start(servers: &Servers, seen: &Seen) -> Outcome<Subscriber> {
        let pattern = format!("*{COLLECTION}*");
        say(DEMO, &format!("redis-cli PSUBSCRIBE '{pattern}'"));
        let mut child = Command::new(redis_cli().await)
            .args(["--no-auth-warning", "-u", &servers.redis_url, "PSUBSCRIBE", &pattern])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = lines(&mut child)?;
        // Four lines a message: its kind, the pattern, the channel and the text. The first is the answer, of three.
        let answer = timeout(PATIENCE, async {
            let kind = lines.next_line().await?;
            lines.next_line().await?;
            lines.next_line().await?;
            std::io::Result::Ok(kind)
        });
        match answer.await {
            Ok(Ok(Some(kind))) if kind == "psubscribe" => {}
            Ok(Ok(Some(answer))) => return Err(format!("redis-cli could not subscribe: {answer}").into()),
            _ => return Err("redis-cli could not subscribe".into()),
        }
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some([_, _, channel, text]) = message(&mut lines).await {
                say(REDIS, &format!("{channel}  {text}"));
                seen.message(&channel);
            }
        });
        Ok(Subscriber { _child: child })
    }
}

async fn message(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<[String; 4]> {
    let mut read = [const { String::new() }; 4];
    for line in &mut read {
        *line = lines.next_line().await.ok()??;
    }
    Some(read)
}

/// Runs the writer to its end.
pub async fn write(servers: &Servers) -> Outcome<()> {
    let mut child = Command::new(env::current_exe()?)
        .arg("write")
        .env("MONGO_URL", &servers.mongo_url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = lines(&mut child)?;
    while let Some(line) = lines.next_line().await? {
        say(WRITER, &line);
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("the writer ended with {status}").into()) }
}

/// Whether a Redis that is not ours holds a checkpoint of one of the demo's routes, which then is not ours to remove.
pub async fn has_positions(servers: &Servers) -> Outcome<bool> {
    let out = Command::new(program()?)
        .args(["position", "show", CONFIG])
        .envs(environment(servers))
        .stdin(Stdio::null())
        .output()
        .await?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned().into());
    }
    let shown = String::from_utf8_lossy(&out.stdout);
    Ok(shown.lines().any(|line| line.starts_with("  position") && !line.contains("none:")))
}

/// Takes the checkpoints of the demo's routes out of a Redis that is not ours: they are of no use to a later run.
pub async fn reset_positions(servers: &Servers) -> Outcome<()> {
    let out = Command::new(program()?)
        .args(["position", "reset", CONFIG, "--yes"])
        .envs(environment(servers))
        .stdin(Stdio::null())
        .output()
        .await?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).trim().to_owned().into()) }
}

/// What config.example.toml wants to know.
pub fn environment(servers: &Servers) -> [(&'static str, String); 4] {
    [
        ("MONGO_URL", servers.mongo_url.clone()),
        ("REDIS_URL", servers.redis_url.clone()),
        ("OPLOGUE_HTTP", servers.http.clone()),
        ("OPLOGUE_STATE", servers.state().display().to_string()),
    ]
}
