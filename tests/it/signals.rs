//! Signals, at bad moments.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Redis, RedisOptions},
    unique, wait_for,
};

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::to_redis,
    writer::{Writer, numbers},
};

const GRACE: &str = "[engine]\nshutdown_grace = \"2s\"";

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_exits_with_0_each_time_and_neither_loses_nor_repeats() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("signals");
    let channel = format!("{db}.c");
    let subscriber = Subscriber::start(&redis.url(), &channel).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url(), &db, GRACE);
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for _ in 0..4 {
        writer.write_more(60).await;
        assert_eq!(oplogue.terminate().code(), Some(0));
        writer.write_more(30).await;
        oplogue.start();
    }
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| subscriber.count() >= written.acknowledged.len());
    assert_eq!(oplogue.terminate().code(), Some(0));
    subscriber.settle(&redis.url(), &channel).await;
    assert_eq!(numbers(&subscriber.messages()), written.acknowledged);
}

/// Redis does not answer, and there is something to deliver to it.
async fn stalled(redis: &Redis, proxy: &Proxy, grace: &str) -> (Oplogue, String) {
    let mongo = servers::mongo().await;
    let db = unique("signals");
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url_at(&proxy.addr()), &db, grace);
    oplogue.start();
    proxy.stall();
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    coll.insert_one(doc! {"_id": 1}).await.unwrap();
    coll.update_one(doc! {"_id": 1}, doc! {"$set": {"n7": 1}}).await.unwrap();
    oplogue.wait("holding an event", |o| o.metric("oplogue_in_flight_bytes{route=\"publish\"}") > Some(0.0));
    (oplogue, db)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_redis_is_silent_ends_within_the_grace_and_loses_nothing() {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = Proxy::start(redis.addr()).await;
    let (mut oplogue, db) = stalled(&redis, &proxy, GRACE).await;
    let asked = Instant::now();
    assert_eq!(oplogue.terminate().code(), Some(0));
    // The grace of 2 s and one for the last checkpoint, however slow this machine is.
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert!(oplogue.log().contains("stopped before everything"), "{}", oplogue.log());
    let channel = format!("{db}.c");
    let subscriber = Subscriber::start(&redis.url(), &channel).await;
    proxy.resume();
    oplogue.start();
    oplogue.wait("told of the update", |_| subscriber.count() > 0);
    assert!(oplogue.terminate().success());
    subscriber.settle(&redis.url(), &channel).await;
    assert_eq!(numbers(&subscriber.messages()), [(1, 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let redis = Redis::start(RedisOptions::default()).await;
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let proxy = Proxy::start(redis.addr()).await;
        // Longer than it takes to send the second one on a busy machine.
        let (mut oplogue, _) = stalled(&redis, &proxy, "[engine]\nshutdown_grace = \"60s\"").await;
        oplogue.signal(first);
        oplogue.wait("told to stop", |o| o.log().contains("a second signal"));
        let asked = Instant::now();
        oplogue.signal(second);
        let status = oplogue.wait_exit();
        assert_eq!(status.code(), Some(1), "{first}, {second}: {status}");
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_before_anything_is_reached_exits_with_0() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let proxies = [Proxy::start(mongo.addr(0)).await, Proxy::start(redis.addr()).await];
    // Nothing answers, then nothing listens.
    for cut in [false, true] {
        for proxy in &proxies {
            if cut { proxy.cut() } else { proxy.stall() }
        }
        let (uri, url) = (mongo.direct_uri(&proxies[0].addr()), redis.url_at(&proxies[1].addr()));
        for kind in ["mongo-oplog", "mongo-change-stream"] {
            for url in [&url, &redis.url()] {
                let mut oplogue = to_redis(kind, &uri, url, &unique("signals"), GRACE);
                oplogue.spawn();
                oplogue.wait("running", |o| o.get("/healthz").is_some_and(|(code, _)| code == 200));
                let asked = Instant::now();
                assert_eq!(oplogue.terminate().code(), Some(0));
                assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_it_like_kill_and_nothing_is_lost() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("signals");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis("mongo-change-stream", &mongo.uri(), &redis.url(), &db, GRACE);
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(30).await;
    oplogue.signal("HUP");
    let status = oplogue.wait_exit();
    assert_eq!(status.signal(), Some(1), "{status}");
    writer.write_more(30).await;
    oplogue.start();
    let written = writer.finish().await;
    wait_for("all messages", || async { subscriber.count() >= written.acknowledged.len() }).await;
    assert!(oplogue.terminate().success());
    assert_eq!(numbers(&subscriber.messages()), written.acknowledged);
}
