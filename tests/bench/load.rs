//! The workload: many small inserts.

use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, Timestamp, doc, oid::ObjectId, rawdoc};
use mongodb::{
    Client,
    error::ErrorKind,
    options::{ClientOptions, InsertManyOptions},
};

use crate::Failure;

const CHUNK: u64 = 1000;

/// Makes the mongod at `uri` a replica set of one, and waits until it takes writes.
pub async fn initiate(uri: &str) -> Result<(), Failure> {
    let mut options = ClientOptions::parse(uri).await?;
    let host = options.hosts.first().ok_or("no host in BENCH_MONGO")?.to_string();
    options.repl_set_name = None;
    options.direct_connection = Some(true);
    let admin = Client::with_options(options)?.database("admin");
    let config = doc! {"_id": "rs0", "members": [{"_id": 0, "host": host}]};
    match admin.run_command(doc! {"replSetInitiate": config}).await {
        // AlreadyInitialized: an earlier part has done it.
        Err(e) if !matches!(&*e.kind, ErrorKind::Command(e) if e.code == 23) => return Err(e.into()),
        _ => {}
    }
    let started = Instant::now();
    while !admin.run_command(doc! {"hello": 1}).await?.get_bool("isWritablePrimary").unwrap_or(false) {
        if started.elapsed() > Duration::from_secs(60) {
            return Err("mongod is no primary after 60 s".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Inserts `events` documents into an empty database and gives the time of the newest oplog entry.
pub async fn insert(uri: &str, events: u64) -> Result<Timestamp, Failure> {
    let client = Client::with_uri_str(uri).await?;
    let orders = client.database("bench").collection::<RawDocumentBuf>("orders");
    let options = InsertManyOptions::builder().ordered(false).build();
    for first in (0..events).step_by(CHUNK as usize) {
        let documents: Vec<RawDocumentBuf> = (first..events.min(first + CHUNK)).map(order).collect();
        orders.insert_many(documents).with_options(options.clone()).await?;
    }
    let reply = client.database("admin").run_command(doc! {"ping": 1}).await?;
    Ok(reply.get_timestamp("operationTime")?)
}

fn order(n: u64) -> RawDocumentBuf {
    rawdoc! {
        "_id": ObjectId::new(),
        "number": n as i64,
        "customer": format!("customer-{:06}", n % 50_000),
        "status": "open",
        "total": (n % 10_000) as f64 / 100.0,
        "lines": [{"article": "a-100", "count": 1_i32}, {"article": "b-200", "count": 2_i32}],
        "created": bson::DateTime::now(),
    }
}
