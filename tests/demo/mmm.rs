//! `make demo-mmm`: two deployments of MongoDB, both written to, and oplogue between them.
//!
//! `FACTORY_MONGO_URL` and `CLOUD_MONGO_URL` name deployments to use; for those that are not set, servers are fetched and started in
//! a temporary folder, and end with this program. The line between is cut once: by a proxy before our own cloud, by stopping
//! oplogue for one that was given. It ends by itself; the exit code tells whether everything came out as it should.

mod oplogue;
mod show;
mod sites;

use std::{process::ExitCode, time::Instant};

use bson::{Document, doc};
use oplogue::{Oplogue, Outcome, PATIENCE, interrupted, program};
use show::{DEMO, Who, say};
use sites::{COLLECTION, Site, Sites};
use tokio::{
    process::Command,
    time::{Duration, sleep},
};

const ROUTER: Who = Who { name: "$ oplogue", colour: "36" };

#[tokio::main]
async fn main() -> ExitCode {
    let mut stage = Stage::default();
    let end = tokio::select! {
        end = play(&mut stage) => end,
        () = interrupted() => Err("interrupted before everything was seen".into()),
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
    sites: Option<Sites>,
}

impl Stage {
    fn sites(&self) -> Outcome<&Sites> {
        Ok(self.sites.as_ref().ok_or("no servers")?)
    }

    async fn start(&mut self) -> Outcome<()> {
        let sites = self.sites()?;
        let mut oplogue = Oplogue::start(&sites.config(), &sites.environment(), &sites.http, |_| {})?;
        oplogue.wait_until_ready().await?;
        self.oplogue = Some(oplogue);
        Ok(())
    }

    async fn stop(&mut self) -> Outcome<()> {
        match self.oplogue.take() {
            Some(oplogue) => oplogue.stop().await,
            None => Ok(()),
        }
    }

    /// Oplogue first, so that it can still save its checkpoints.
    async fn leave(mut self) -> Outcome<()> {
        let ended = self.stop().await;
        if let Some(sites) = self.sites.take() {
            sites.leave().await;
        }
        ended
    }
}

async fn play(stage: &mut Stage) -> Outcome<()> {
    let began = Instant::now();
    stage.sites = Some(Sites::start().await?);
    stage.start().await?;

    say(DEMO, "-- 1. both are written to, and each gets what the other has");
    let (factory, cloud) = (&stage.sites()?.factory, &stage.sites()?.cloud);
    factory.tell("insert  lathe: {state: \"raw\", at: {hall: 1, place: \"A\"}}");
    factory.tasks().insert_one(doc! {"_id": "lathe", "state": "raw", "at": {"hall": 1, "place": "A"}}).await?;
    cloud.tell("insert  order-7: {part: \"lathe\", count: 3}");
    cloud.tasks().insert_one(doc! {"_id": "order-7", "part": "lathe", "count": 3}).await?;
    cloud.gets("lathe", |found| found.is_some()).await?;
    factory.gets("order-7", |found| found.is_some()).await?;
    cloud.tell("update  lathe: {$set: {\"at.hall\": 2}}");
    cloud.tasks().update_one(doc! {"_id": "lathe"}, doc! {"$set": {"at.hall": 2}}).await?;
    factory.gets("lathe", |found| hall(found) == Some(2)).await?;
    factory.tell("delete  order-7");
    factory.tasks().delete_one(doc! {"_id": "order-7"}).await?;
    cloud.gets("order-7", |found| found.is_none()).await?;

    say(DEMO, "-- 2. the line is cut; the same document is changed at both ends");
    if stage.sites()?.cut() {
        say(DEMO, "the proxy between oplogue and the cloud is cut");
    } else {
        stage.stop().await?;
    }
    let (factory, cloud) = (&stage.sites()?.factory, &stage.sites()?.cloud);
    factory.tell("update  lathe: {$set: {state: \"painted\"}}");
    factory.tasks().update_one(doc! {"_id": "lathe"}, doc! {"$set": {"state": "painted"}}).await?;
    factory.tell("insert  drill: {state: \"raw\"}");
    factory.tasks().insert_one(doc! {"_id": "drill", "state": "raw"}).await?;
    sleep(Duration::from_millis(50)).await; // later, by any clock
    cloud.tell("update  lathe: {$set: {state: \"sold\"}}");
    cloud.tasks().update_one(doc! {"_id": "lathe"}, doc! {"$set": {"state": "sold"}}).await?;
    cloud.tell("insert  order-8: {part: \"drill\", count: 1}");
    cloud.tasks().insert_one(doc! {"_id": "order-8", "part": "drill", "count": 1}).await?;

    say(DEMO, "-- 3. it heals: both get all, and agree about the lathe");
    if !stage.sites()?.heal() {
        stage.start().await?;
    }
    let (factory, cloud) = (&stage.sites()?.factory, &stage.sites()?.cloud);
    cloud.gets("drill", |found| found.is_some()).await?;
    factory.gets("order-8", |found| found.is_some()).await?;
    let sold =
        |found: Option<&Document>| found.is_some_and(|lathe| lathe.get_str("state").is_ok_and(|state| state == "sold"));
    factory.gets("lathe", sold).await?;
    cloud.gets("lathe", sold).await?;
    stage.sites()?.wait_until_equal().await?;
    // What was written down is listed when the journal has it, up to 100 ms later.
    let since = Instant::now();
    while !output(stage.sites()?, &["conflicts", "list"]).await?.0.contains("lathe") && since.elapsed() < PATIENCE {
        sleep(Duration::from_millis(50)).await;
    }
    say(DEMO, "the conflict was written down, with both versions:");
    let conflicts = run(stage.sites()?, &["conflicts", "list"]).await?;
    if !conflicts.contains("lathe") {
        return Err("the conflict is not in the list".into());
    }
    say(DEMO, "are both ends the same?");
    run(stage.sites()?, &["verify"]).await?;

    say(DEMO, "-- 4. nobody writes, so oplogue does not either");
    let idle = stage.sites()?.idle(Duration::from_secs(3)).await?;
    say(DEMO, &format!("in 3 s the logs of both have grown by {idle} entries"));
    if idle > 0 {
        return Err("an idle pair writes".into());
    }
    let seconds = began.elapsed().as_secs();
    say(
        DEMO,
        &format!("done in {seconds} s: 8 writes at two ends, one cut, one conflict, both ends equal, and silence"),
    );
    Ok(())
}

fn hall(lathe: Option<&Document>) -> Option<i32> {
    lathe?.get_document("at").ok()?.get_i32("hall").ok()
}

/// A command of oplogue about the pair; what it prints is shown.
async fn run(sites: &Sites, command: &[&str]) -> Outcome<String> {
    say(ROUTER, &format!("{} {}", command.join(" "), sites.config()));
    let (text, errors) = output(sites, command).await?;
    for line in text.lines().chain(errors.lines()) {
        say(ROUTER, line);
    }
    Ok(text)
}

/// What a command says on stdout and stderr.
async fn output(sites: &Sites, command: &[&str]) -> Outcome<(String, String)> {
    let config = sites.config();
    let out = Command::new(program()?).args(command).arg(&config).envs(sites.environment()).kill_on_drop(true).output();
    let out = tokio::time::timeout(PATIENCE, out).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (text, errors) = (text(&out.stdout), text(&out.stderr));
    match out.status.success() {
        true => Ok((text, errors)),
        false => Err(format!("it ended with {}: {text}{errors}", out.status).into()),
    }
}

impl Site {
    fn tell(&self, what: &str) {
        say(self.who, what);
    }

    /// Waits until a document is there, or gone, and says how long that took.
    async fn gets(&self, id: &str, wanted: impl Fn(Option<&Document>) -> bool) -> Outcome<()> {
        let since = Instant::now();
        loop {
            let found = self.tasks().find_one(doc! {"_id": id}).await?;
            if wanted(found.as_ref()) {
                let what = found.map_or("is gone".to_owned(), |found| format!("{}", bson::Bson::Document(found)));
                say(self.who, &format!("        {id}: {what} ({} ms later)", since.elapsed().as_millis()));
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("`{id}` in {COLLECTION} did not arrive").into());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}
