//! The yardstick: the driver's raw batches of 1000, each entry visited, nothing made of it. A process of its own, as the
//! router is.

use std::{
    env,
    io::{BufRead, BufReader, Read, stdin},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bson::{Timestamp, doc};
use futures_util::StreamExt;
use mongodb::{Client, options::RunCursorCommandOptions};

use crate::{
    Failure, Plan,
    measure::{Run, used},
};

/// In the child: reads the oplog from its beginning to the entry at `newest`, says how many entries that were, and stays
/// until standard input ends, so that its figures can be read.
pub async fn read_until(uri: &str, newest: Timestamp) -> Result<(), Failure> {
    let local = Client::with_uri_str(uri).await?.database("local");
    let command = doc! {"find": "oplog.rs", "filter": {}, "tailable": true, "awaitData": true, "batchSize": 1000};
    let mut options = RunCursorCommandOptions::default();
    options.batch_size = Some(1000);
    options.max_time = Some(Duration::from_secs(1));
    let mut cursor = local.run_cursor_command(command).with_options(options).batch().await?;
    let mut entries = 0u64;
    loop {
        let batch = cursor.next().await.ok_or("the cursor has ended")??;
        let mut last = None;
        for entry in batch.doc_slices()? {
            last = entry?.as_document();
            entries += 1;
        }
        if let Some(last) = last
            && last.get_timestamp("ts")? >= newest
        {
            break;
        }
    }
    println!("{entries}");
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Measures such a child.
pub fn measure(plan: &Plan, newest: Timestamp) -> Result<Run, Failure> {
    let started = Instant::now();
    let mut child = Command::new(env::current_exe()?)
        .args(["raw", &plan.mongo, &newest.time.to_string(), &newest.increment.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let wall = started.elapsed();
    let entries: u64 = line.trim().parse().map_err(|_| "the raw reader failed, see above")?;
    let (cpu, peak_rss) = used(child.id(), plan.ticks)?;
    drop(child.stdin.take());
    child.wait()?;
    if entries < plan.events {
        return Err(format!("the raw reader saw {entries} entries of {}: is the oplog too small?", plan.events).into());
    }
    Ok(Run { events: plan.events, wall, cpu, peak_rss, redis: None })
}
