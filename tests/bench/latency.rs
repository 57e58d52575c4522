//! How long a change takes: from the acknowledgement of a write until a subscriber of Redis has its message.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bson::doc;
use futures_util::StreamExt;
use mongodb::{
    Client, Collection,
    options::{CollectionOptions, InsertManyOptions, WriteConcern},
};
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use crate::{Failure, Plan, route::Router};

/// A command is sent each millisecond, whether those before it are answered or not.
const TICK: Duration = Duration::from_millis(1);
/// Not counted: connections are made, pages are touched.
const WARM_UP: Duration = Duration::from_secs(1);
const COUNTED: Duration = Duration::from_secs(5);

/// What is measured: the source's read concern, and the documents a command inserts.
pub const RUNS: [(&str, usize); 4] = [("local", 1), ("local", 10), ("majority", 1), ("majority", 10)];

/// The route while it was measured.
pub struct Latency {
    /// From the acknowledgement to the message; zero when the message was first. Ascending.
    delays: Vec<Duration>,
    /// What the router used, in processors.
    cpu: f64,
}

/// Runs a route from now on, and writes.
pub async fn measure(plan: &Plan, (concern, documents): (&str, usize)) -> Result<Latency, Failure> {
    let name = format!("latency-{concern}-{documents}");
    let collection = collection(&plan.mongo, &name).await?;
    let client = redis::Client::open(plan.redis.as_str())?;
    let mut messages = client.get_async_pubsub().await?;
    messages.subscribe(format!("bench.{name}")).await?;

    let source = format!("start = \"now\"\nread_concern = \"{concern}\"");
    let sink = format!("type = \"redis-oplog\"\nurl = \"{}\"", plan.redis);
    let mut router = Router::start(plan, &source, &sink)?;
    router.running()?;

    let commands = (WARM_UP + COUNTED).as_millis() as usize;
    let (sender, mut acknowledged) = mpsc::unbounded_channel();
    let before = router.used(plan)?.0;
    let began = Instant::now();
    let writing = tokio::spawn(write(collection, commands, documents, sender));
    let mut seen = HashMap::new();
    let mut stream = messages.on_message();
    while seen.len() < commands * documents {
        let message = tokio::time::timeout(Duration::from_secs(30), stream.next()).await?.ok_or("Redis hung up")?;
        let now = Instant::now();
        let message: serde_json::Value = serde_json::from_slice(message.get_payload_bytes())?;
        let id: usize = message["d"]["_id"].as_str().ok_or("a message without an id")?.parse()?;
        seen.insert(id, now);
    }
    let cpu = (router.used(plan)?.0 - before).as_secs_f64() / began.elapsed().as_secs_f64();
    writing.await??;
    router.stop()?;

    let mut delays = Vec::with_capacity(seen.len());
    while let Some((first, at)) = acknowledged.recv().await {
        if at > began + WARM_UP {
            delays.extend((first..first + documents).filter_map(|id| Some(seen.get(&id)?.duration_since(at))));
        }
    }
    delays.sort();
    Ok(Latency { delays, cpu })
}

async fn collection(uri: &str, name: &str) -> Result<Collection<bson::Document>, Failure> {
    let mut options = CollectionOptions::default();
    options.write_concern = Some(WriteConcern::nodes(1));
    let db = Client::with_uri_str(uri).await?.database("bench");
    db.create_collection(name).await?;
    Ok(db.collection_with_options(name, options))
}

/// Sends the commands; tells of each the first id, and when it was acknowledged.
async fn write(
    collection: Collection<bson::Document>,
    commands: usize,
    documents: usize,
    acknowledged: mpsc::UnboundedSender<(usize, Instant)>,
) -> Result<(), Failure> {
    let options = InsertManyOptions::builder().ordered(false).build();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = JoinSet::new();
    for first in (0..commands * documents).step_by(documents) {
        tick.tick().await;
        let (collection, acknowledged, options) = (collection.clone(), acknowledged.clone(), options.clone());
        writes.spawn(async move {
            let ids = first..first + documents;
            let batch: Vec<_> = ids.map(|id| doc! {"_id": id.to_string(), "status": "open", "total": 1.5}).collect();
            collection.insert_many(batch).with_options(options).await?;
            let _ = acknowledged.send((first, Instant::now()));
            Ok::<_, mongodb::error::Error>(())
        });
        while let Some(written) = writes.try_join_next() {
            written??;
        }
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    Ok(())
}

impl Latency {
    /// A line of the table.
    pub fn line(&self, (concern, documents): (&str, usize)) -> String {
        let at = |share: f64| {
            let place = (self.delays.len().saturating_sub(1) as f64 * share) as usize;
            self.delays.get(place).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
        };
        format!(
            "read_concern {concern:<9}{:>7}/s{:>10.2} ms{:>10.2} ms{:>10.2} ms{:>9.0} %\n",
            documents * 1000,
            at(0.5),
            at(0.99),
            at(1.0),
            self.cpu * 100.0
        )
    }
}
