//! A writer of numbered changes, and how to read the numbers at the other end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde_json::Value;

/// How many documents the changes go to, in turn.
pub const KEYS: u64 = 7;

/// Writes numbered changes to `<db>.c` until told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Written>,
}

/// What was written, as (key, number).
#[derive(Default)]
pub struct Written {
    /// The server has acknowledged these.
    pub acknowledged: Vec<(i64, u64)>,
    /// Nobody knows whether these took place.
    pub uncertain: Vec<(i64, u64)>,
}

impl Writer {
    pub async fn start(client: Client, db: &str) -> Writer {
        let coll = client.database(db).collection::<Document>("c");
        for key in 0..KEYS as i64 {
            coll.insert_one(doc! {"_id": key}).await.expect("a document to update");
        }
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&count));
        let task = tokio::spawn(async move {
            let mut written = Written::default();
            let mut number = 0u64;
            while !stopping.load(Ordering::Relaxed) {
                number += 1;
                let key = (number % KEYS) as i64;
                // The field's name carries the number, since redis-oplog messages carry names, not values; the document
                // is emptied now and then so that it stays small.
                let name = format!("n{number}");
                let done = if number % 500 < KEYS {
                    coll.replace_one(doc! {"_id": key}, doc! {"_id": key, &name: 1}).await.map(|_| ())
                } else {
                    coll.update_one(doc! {"_id": key}, doc! {"$set": {&name: 1}}).await.map(|_| ())
                };
                match done {
                    Ok(()) => {
                        written.acknowledged.push((key, number));
                        counting.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        written.uncertain.push((key, number));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            written
        });
        Writer { stop, count, task }
    }

    /// Waits until `n` more changes have been acknowledged.
    pub async fn write_more(&self, n: usize) {
        let until = self.count.load(Ordering::Relaxed) + n;
        oplogue_testkit::wait_for(format!("{n} more writes"), || async { self.count.load(Ordering::Relaxed) >= until })
            .await;
    }

    /// How many changes have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub async fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer")
    }
}

/// The number that an event on stdout carries in a field's name.
pub fn number(event: &Value) -> u64 {
    let names: Vec<&String> = match &event["after"] {
        Value::Object(after) => after.keys().collect(),
        _ => event["update"]["set"].as_object().expect("a $set").keys().collect(),
    };
    names.iter().find_map(|n| n.strip_prefix('n')?.parse().ok()).expect("a numbered field")
}

/// The (key, number) of redis-oplog messages.
pub fn numbers(messages: &[String]) -> Vec<(i64, u64)> {
    messages
        .iter()
        .map(|m| {
            let m: Value = serde_json::from_str(m).expect("JSON");
            let field =
                m["f"].as_array().and_then(|f| f.iter().find_map(|n| n.as_str()?.strip_prefix('n'))).expect("f");
            (m["d"]["_id"].as_i64().expect("an integer id"), field.parse().expect("a number"))
        })
        .collect()
}
