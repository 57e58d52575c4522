//! Servers that go away: step-down, restart, cut connections, a rolled-over oplog.

use std::collections::HashSet;

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions},
    unique, wait_for,
};

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::{source, to_redis},
    writer::{Writer, Written, numbers},
};

/// Everything acknowledged is there once, in order, and nothing but what was written.
fn assert_exact(got: &[(i64, u64)], written: &Written) {
    let uncertain: HashSet<_> = written.uncertain.iter().collect();
    let certain: Vec<_> = got.iter().filter(|w| !uncertain.contains(w)).copied().collect();
    assert_eq!(certain, written.acknowledged);
    let mut seen = HashSet::new();
    assert!(got.iter().all(|w| seen.insert(w)), "no message twice");
}

async fn step_down_and_restart(kind: &str) {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let redis = servers::redis().await;
    let db = unique("outage");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis(kind, &mongo.uri(), &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(30).await;
    mongo.step_down().await;
    writer.write_more(30).await;
    let primary = mongo.wait_for_primary().await;
    mongo.kill(primary).await;
    writer.write_more(30).await;
    mongo.start_member(primary).await;
    writer.write_more(30).await;
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| {
        let got: HashSet<_> = numbers(&subscriber.messages()).into_iter().collect();
        written.acknowledged.iter().all(|w| got.contains(w))
    });
    assert!(oplogue.terminate().success());
    assert_exact(&numbers(&subscriber.messages()), &written);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_source_outlives_a_step_down_and_a_killed_primary() {
    step_down_and_restart("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_stream_source_outlives_a_step_down_and_a_killed_primary() {
    step_down_and_restart("mongo-change-stream").await;
}

async fn cut_in_mid_reply(kind: &str) {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let db = unique("outage");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis(kind, &mongo.direct_uri(&proxy.addr()), &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for round in 0..8 {
        let cuts = proxy.cuts();
        proxy.cut_after_bytes(1 + round * 701);
        writer.write_more(40).await;
        wait_for("a cut connection", || async { proxy.cuts() > cuts }).await;
    }
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| subscriber.count() >= written.acknowledged.len());
    assert!(oplogue.metric("oplogue_retries_total{kind=\"transient\",place=\"source\",route=\"publish\"}") > Some(0.0));
    assert!(oplogue.terminate().success());
    assert_exact(&numbers(&subscriber.messages()), &written);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_source_loses_nothing_when_its_connection_is_cut_in_mid_reply() {
    cut_in_mid_reply("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_stream_source_loses_nothing_when_its_connection_is_cut_in_mid_reply() {
    cut_in_mid_reply("mongo-change-stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_and_cut_in_mid_reply_repeats_and_loses_nothing() {
    let mongo = servers::mongo().await;
    let lines = vec!["appendfsync always".to_owned()];
    let redis = Redis::start(RedisOptions { appendonly: true, lines, ..Default::default() }).await;
    let proxy = Proxy::start(redis.addr()).await;
    let db = unique("outage");
    let channel = format!("{db}.c");
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url_at(&proxy.addr()), &db, "");
    let mut subscriber = Subscriber::start(&redis.url(), &channel).await;
    let mut messages = Vec::new();
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for round in 0..4 {
        writer.write_more(30).await;
        let cuts = proxy.cuts();
        proxy.cut_after_bytes(1 + round * 40);
        writer.write_more(30).await;
        wait_for("a cut connection", || async { proxy.cuts() > cuts }).await;
        // The subscriber must not miss what is published before it is back: nothing passes until then.
        proxy.cut();
        // What Redis was given before the cut it has now published, and the subscriber has it: pub/sub itself loses
        // what a killed Redis still had to send.
        subscriber.settle(&redis.url(), &channel).await;
        redis.kill().await;
        messages.extend(subscriber.messages());
        redis.start_again().await;
        subscriber = Subscriber::start(&redis.url(), &channel).await;
        writer.write_more(30).await;
        proxy.heal();
    }
    let written = writer.finish().await;
    let before = messages.len();
    oplogue.wait("caught up", |_| before + subscriber.count() >= written.acknowledged.len());
    assert!(oplogue.terminate().success());
    messages.extend(subscriber.messages());
    assert_exact(&numbers(&messages), &written);
}

/// Writes until the server has dropped the entry at `position` from its oplog.
pub async fn roll_over(mongo: &Mongo, db: &str) {
    let client = mongo.client().await;
    let coll = client.database(db).collection::<Document>("filler");
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("an oplog").expect("an entry");
    let filler = "x".repeat(1 << 20);
    wait_for("the oplog to roll over", || async {
        for _ in 0..8 {
            coll.insert_one(doc! {"filler": &filler}).await.expect("a write");
        }
        let oldest = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).await.expect("an oplog").expect("an entry");
        oldest.get_timestamp("ts").unwrap() > newest.get_timestamp("ts").unwrap()
    })
    .await;
}

async fn rolled_over_while_stopped(kind: &str) {
    // The server keeps what its last checkpoint on disk needs, and makes one each minute unless told otherwise.
    let args = vec!["--syncdelay".to_owned(), "1".to_owned()];
    let mongo = Mongo::start(MongoOptions { oplog_mb: 16, args, ..Default::default() }).await;
    let db = unique("outage");
    let config = |policy: &str| {
        format!(
            r#"
            {}
            [transforms.mine]
            type = "filter"
            namespaces = ["{db}.c"]
            [sinks.out]
            type = "stdout"
            [[routes]]
            name = "out"
            from = ["a"]
            via = ["mine"]
            to = ["out"]
            on_position_lost = "{policy}"
            "#,
            source(kind, &mongo.uri())
        )
    };
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    let mut stops = Oplogue::new(&config("stop"));
    stops.start();
    coll.insert_one(doc! {"_id": 1}).await.unwrap();
    stops.wait("told of the insert", |o| o.events().iter().any(|e| e["key"]["_id"] == 1));
    assert!(stops.terminate().success());
    let mut goes_on = Oplogue::new(&config("from-now"));
    goes_on.start();
    assert!(goes_on.terminate().success());

    roll_over(&mongo, &db).await;
    coll.insert_one(doc! {"_id": 2}).await.unwrap();

    // The only route stops, so the process ends, and says what to do. The checkpoint stays where it was.
    for _ in 0..2 {
        stops.spawn();
        assert_eq!(stops.wait_exit().code(), Some(1));
    }
    let log = stops.log();
    assert!(log.contains("position_lost") && log.contains("on_position_lost"), "{log}");
    assert_eq!(stops.events().iter().filter(|e| e["op"] == "insert").count(), 1, "I4: no silent jump");

    goes_on.start();
    coll.insert_one(doc! {"_id": 3}).await.unwrap();
    goes_on.wait("told of the insert", |o| o.events().iter().any(|e| e["key"]["_id"] == 3));
    let events = goes_on.events();
    let gap = events.iter().position(|e| e["op"] == "gap").expect("a gap event");
    assert!(events[gap + 1..].iter().any(|e| e["key"]["_id"] == 3));
    assert_eq!(goes_on.metric("oplogue_gaps_total{route=\"out\"}"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_rolled_over_while_stopped_is_seen_by_the_oplog_source() {
    rolled_over_while_stopped("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_rolled_over_while_stopped_is_seen_by_the_change_stream_source() {
    rolled_over_while_stopped("mongo-change-stream").await;
}
