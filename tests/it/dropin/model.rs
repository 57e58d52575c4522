//! What oplogtoredis 3.9 does to MongoDB and Redis, as far as another program on the same Redis can tell: it takes every oplog
//! entry by itself, numbers the writes in it, claims a key for each, publishes, and stores how far it came.

use futures_util::StreamExt;
use mongodb::{
    Client,
    bson::{Document, Timestamp, doc},
    options::{CursorType, FindOptions},
};
use redis::aio::MultiplexedConnection;

const PREFIX: &str = "oplogtoredis::";

/// A write of an entry.
pub struct Message {
    /// Without the prefix.
    pub key: String,
    pub channels: Vec<String>,
    pub payload: String,
}

pub fn number(ts: Timestamp) -> u64 {
    u64::from(ts.time) << 32 | u64::from(ts.increment)
}

/// The messages of one oplog entry, for ids that are texts and `$v: 2`.
pub fn messages(entry: &Document) -> Vec<Message> {
    let ts = entry.get_timestamp("ts").expect("every entry has its time");
    let mut out = Vec::new();
    let mut index = 0;
    each(entry, &mut |operation| {
        let id = |part: &str| operation.get_document(part).ok()?.get_str("_id").ok();
        let o = operation.get_document("o").expect("every write has an `o`");
        let (event, id, fields): (_, _, Vec<&str>) = match operation.get_str("op") {
            Ok("i") => ("i", id("o"), o.keys().map(String::as_str).collect()),
            Ok("d") => ("r", id("o"), Vec::new()),
            _ => ("u", id("o2"), changed(o)),
        };
        if let (Some(id), Ok(ns)) = (id, operation.get_str("ns")) {
            let fields = serde_json::to_string(&fields).expect("names are JSON");
            out.push(Message {
                key: format!("processed::{}::{index}", number(ts)),
                channels: vec![ns.to_owned(), format!("{ns}::{id}")],
                payload: format!(r#"{{"e":"{event}","d":{{"_id":"{id}"}},"f":{fields}}}"#),
            });
        }
        index += 1;
    });
    out
}

/// Calls `see` for every insert, update and delete of an entry, at whatever depth.
fn each<'a>(operation: &'a Document, see: &mut impl FnMut(&'a Document)) {
    match operation.get_str("op") {
        Ok("i" | "u" | "d") => see(operation),
        Ok("c") => {
            if let Ok(operations) = operation.get_document("o").and_then(|o| o.get_array("applyOps")) {
                operations.iter().filter_map(|o| o.as_document()).for_each(|o| each(o, see));
            }
        }
        _ => {}
    }
}

/// The top-level names of an update.
fn changed(o: &Document) -> Vec<&str> {
    let Ok(diff) = o.get_document("diff") else { return o.keys().map(String::as_str).collect() };
    let mut names = Vec::new();
    for (section, value) in diff {
        match (section.as_str(), value.as_document()) {
            ("i" | "u" | "d", Some(fields)) => names.extend(fields.keys().map(String::as_str)),
            (section, _) => names.push(&section[1..]),
        }
    }
    names
}

/// The claim and its messages, not undone when a message is refused.
const PUBLISH: &str = "
if redis.call('GET', KEYS[1]) then return 0 end
redis.call('SETEX', KEYS[1], 150, 1)
for i = 2, #ARGV do redis.call('PUBLISH', ARGV[i], ARGV[1]) end
return 1";

/// A running instance, for one database; stopped at once on drop.
pub struct Model(tokio::task::JoinHandle<()>);

impl Model {
    /// Starts where the resume key says, or now; returns when it has fixed that place.
    pub async fn start(client: &Client, redis: &redis::Client, db: &str) -> Model {
        let mut connection = redis.get_multiplexed_async_connection().await.expect("a connection");
        let stored: Option<u64> =
            redis::cmd("GET").arg(resume_key()).query_async(&mut connection).await.expect("the resume key");
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let start = match stored {
            Some(n) => Timestamp { time: (n >> 32) as u32, increment: n as u32 },
            None => {
                let newest = oplog.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("the oplog");
                newest.expect("an entry").get_timestamp("ts").expect("its time")
            }
        };
        let options = FindOptions::builder().cursor_type(CursorType::TailableAwait).build();
        let mut entries = oplog.find(doc! {"ts": {"$gt": start}}).with_options(options).await.expect("a cursor");
        let db = db.to_owned();
        Model(tokio::spawn(async move {
            while let Some(entry) = entries.next().await {
                let entry = entry.expect("an entry");
                let messages = messages(&entry);
                let mut published = false;
                for message in messages {
                    if message.channels[0].starts_with(&format!("{db}.")) {
                        publish(&mut connection, &message).await;
                        published = true;
                    }
                }
                if !published {
                    continue;
                }
                let at = number(entry.get_timestamp("ts").expect("its time"));
                let () = redis::cmd("SET").arg(resume_key()).arg(at).query_async(&mut connection).await.expect("SET");
            }
        }))
    }

    /// kill -9.
    pub async fn kill(self) {
        self.0.abort();
        let ended = self.0.await;
        assert!(ended.is_err_and(|e| e.is_cancelled()), "it runs until it is killed");
    }
}

async fn publish(connection: &mut MultiplexedConnection, message: &Message) {
    let mut script = redis::cmd("EVAL");
    script.arg(PUBLISH).arg(1).arg(format!("{PREFIX}{}", message.key)).arg(&message.payload).arg(&message.channels);
    let _: i64 = script.query_async(connection).await.expect("the script");
}

pub fn resume_key() -> String {
    format!("{PREFIX}lastProcessedEntry.0")
}
