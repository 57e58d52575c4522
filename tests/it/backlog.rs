//! Much to do at once: memory stays within what the configuration allows, and all of it arrives.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions},
    unique,
};

use crate::{process::Oplogue, subscriber::Subscriber, support::source};

/// In the debug build, with `max_in_flight` at 16 MiB, where a reply of large documents fits in: the default is less.
const MOST_MEGABYTES: u64 = 150;

/// The most memory that the process has ever had, in megabytes.
fn peak(oplogue: &Oplogue) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", oplogue.pid())).expect("the process runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

fn to_redis(kind: &str, uri: &str, redis: &str, db: &str, more: &str) -> Oplogue {
    Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.c"]
        operations = ["insert"]
        [sinks.meteor]
        type = "redis-oplog"
        url = "{redis}"
        metadata_prefix = "{db}::"
        [sinks.out]
        type = "stdout"
        [[routes]]
        name = "publish"
        from = ["a"]
        via = ["mine"]
        to = ["meteor"]
        {more}
        "#,
        source(kind, uri),
    ))
}

/// The integer ids of redis-oplog messages.
fn ids(messages: &[String]) -> Vec<i64> {
    let id = |m: &String| {
        let m: serde_json::Value = serde_json::from_str(m).expect("JSON");
        m["d"]["_id"].as_i64().expect("an integer id")
    };
    messages.iter().map(id).collect()
}

const SMALL: i64 = 60_000;
const LARGE: i64 = 64;

async fn stalled(kind: &str) {
    let mongo = Mongo::start(MongoOptions { oplog_mb: 512, ..Default::default() }).await;
    let redis = servers::redis().await;
    let proxy = Proxy::start(redis.addr()).await;
    let db = unique("backlog");
    let window = "max_in_flight = \"16MiB\"";
    let mut oplogue = to_redis(kind, &mongo.uri(), &redis.url_at(&proxy.addr()), &db, window);
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    oplogue.start();
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    coll.insert_one(doc! {"_id": -1}).await.unwrap();
    oplogue.wait("told of one", |_| subscriber.count() == 1);
    proxy.stall();
    let text = "x".repeat(1 << 20);
    for chunk in 0..8 {
        let each = SMALL / 8;
        coll.insert_many((chunk * each..(chunk + 1) * each).map(|n| doc! {"_id": n, "name": "small"})).await.unwrap();
        for n in 0..LARGE / 8 {
            coll.insert_one(doc! {"_id": SMALL + chunk * LARGE / 8 + n, "text": &text}).await.unwrap();
        }
    }
    oplogue.wait("full", |o| o.metric("oplogue_in_flight_bytes{route=\"publish\"}") > Some(8e6));
    let full = peak(&oplogue);
    assert!(full < MOST_MEGABYTES, "{full} MB while Redis was silent");
    proxy.resume();
    oplogue.wait("caught up", |_| subscriber.count() as i64 > SMALL + LARGE);
    let after = peak(&oplogue);
    assert!(after < MOST_MEGABYTES, "{after} MB after catching up");
    assert!(oplogue.terminate().success());
    println!("{kind}: {full} MB, {after} MB");

    let mut expected = vec![-1];
    for chunk in 0..8 {
        expected.extend(chunk * (SMALL / 8)..(chunk + 1) * (SMALL / 8));
        expected.extend((0..LARGE / 8).map(|n| SMALL + chunk * LARGE / 8 + n));
    }
    assert!(ids(&subscriber.messages()) == expected, "all of them, once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_redis_is_silent_and_the_oplog_grows() {
    stalled("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_redis_is_silent_and_the_change_stream_grows() {
    stalled("mongo-change-stream").await;
}

/// About 22 MB, which the server logs as two entries.
const OPERATIONS: i64 = 50_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_transaction_arrives_whole_once_and_in_order_at_every_sink() {
    let mongo = Mongo::start(MongoOptions { oplog_mb: 512, ..Default::default() }).await;
    mongo.admin(doc! {"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G"}).await;
    let redis = Redis::start(RedisOptions::default()).await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let db = unique("backlog");
        let print = "[[routes]]\nname = \"print\"\nfrom = [\"a\"]\nvia = [\"mine\"]\nto = [\"out\"]\n";
        let mut oplogue = to_redis(kind, &mongo.uri(), &redis.url(), &db, print);
        let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
        let client = mongo.client().await;
        client.database(&db).create_collection("c").await.unwrap();
        oplogue.start();
        let coll = client.database(&db).collection::<Document>("c");
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let text = "t".repeat(400);
        for chunk in 0..10 {
            let each = OPERATIONS / 10;
            let documents = (chunk * each..(chunk + 1) * each).map(|n| doc! {"_id": n, "text": &text});
            coll.insert_many(documents).session(&mut session).await.expect("a write in the transaction");
        }
        session.commit_transaction().await.unwrap();
        coll.insert_one(doc! {"_id": OPERATIONS}).await.unwrap();

        oplogue.wait("told of all on Redis", |_| subscriber.count() as i64 > OPERATIONS);
        let delivered = "oplogue_events_total{outcome=\"delivered\",route=\"print\"}";
        oplogue.wait("told of all on stdout", |o| o.metric(delivered) == Some((OPERATIONS + 1) as f64));
        let most = peak(&oplogue);
        println!("{kind}: {most} MB");
        // Two routes, each with a window of its own and one entry of 16 MB beside it.
        assert!(most < 2 * MOST_MEGABYTES, "{kind}: {most} MB");
        assert!(oplogue.terminate().success());
        let expected: Vec<i64> = (0..=OPERATIONS).collect();
        assert!(ids(&subscriber.messages()) == expected, "{kind}: Redis");
        let printed = oplogue.events();
        assert!(printed.iter().map(|e| e["key"]["_id"].as_i64().unwrap()).eq(expected), "{kind}: stdout");
        let transaction = &printed[0]["txn"];
        assert!(transaction.is_object() && printed[..OPERATIONS as usize].iter().all(|e| e["txn"] == *transaction));
    }
}
