//! Two instances of one route on one Redis: each message once and in order, whatever happens to either of them.

use std::collections::HashSet;

use oplogue_testkit::{proxy::Proxy, servers, unique};

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::{Chance, to_redis},
    writer::{Writer, Written, numbers},
};

/// One of the two. The proxies are the network between it and the servers.
struct Twin {
    oplogue: Oplogue,
    mongo: Proxy,
    redis: Proxy,
}

impl Twin {
    async fn new(kind: &str, db: &str) -> Twin {
        let mongo = Proxy::start(servers::mongo().await.addr(0)).await;
        let redis = Proxy::start(servers::redis().await.addr()).await;
        let uri = servers::mongo().await.direct_uri(&mongo.addr());
        let oplogue = to_redis(kind, &uri, &servers::redis().await.url_at(&redis.addr()), db, "");
        Twin { oplogue, mongo, redis }
    }

    fn wait_until_ready(&mut self) {
        self.oplogue.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    }
}

/// Everything that was written, once, in order.
async fn assert_exact(subscriber: &Subscriber, twins: &mut [Twin; 2], written: &Written, channel: &str, seed: u64) {
    assert!(written.uncertain.is_empty());
    twins[0].oplogue.wait("caught up", |_| subscriber.count() >= written.acknowledged.len());
    for twin in twins.iter_mut() {
        twin.wait_until_ready();
        assert!(twin.oplogue.terminate().success());
    }
    // A repeat that comes late is seen, too: both have ended, and what Redis still had to send has arrived.
    subscriber.settle(&servers::redis().await.url(), channel).await;
    let got = numbers(&subscriber.messages());
    let distinct: HashSet<_> = got.iter().collect();
    assert_eq!(distinct.len(), got.len(), "no message twice, seed {seed}");
    assert_eq!(got, written.acknowledged, "seed {seed}");
}

async fn tormented(kind: &str) {
    let db = unique("twins");
    let channel = format!("{db}.c");
    let mut chance = Chance::new();
    let subscriber = Subscriber::start(&servers::redis().await.url(), &channel).await;
    let mut twins = [Twin::new(kind, &db).await, Twin::new(kind, &db).await];
    // Together, with no checkpoint yet: whichever is ready first, from then on nothing may be missed.
    for twin in &mut twins {
        twin.oplogue.spawn();
    }
    twins[0].wait_until_ready();
    let writer = Writer::start(servers::mongo().await.client().await, &db).await;
    twins[1].wait_until_ready();
    for _ in 0..10 {
        writer.write_more(20 + chance.below(60) as usize).await;
        let twin = &mut twins[chance.below(2) as usize];
        match chance.below(5) {
            0 | 1 => {
                twin.oplogue.kill();
                writer.write_more(chance.below(60) as usize).await;
                twin.oplogue.spawn();
            }
            2 => twin.mongo.cut_after_bytes(1 + chance.below(3000)),
            3 => twin.redis.cut_after_bytes(1 + chance.below(200)),
            _ => {
                // Silent for a while, then what was held goes on, late.
                twin.redis.stall();
                writer.write_more(60).await;
                twin.redis.resume();
            }
        }
    }
    let written = writer.finish().await;
    assert_exact(&subscriber, &mut twins, &written, &channel, chance.seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_that_read_the_oplog_publish_each_message_once_and_in_order() {
    tormented("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_that_read_change_streams_publish_each_message_once_and_in_order() {
    tormented("mongo-change-stream").await;
}

/// The first start of both, under load, over and over: what is written once one of them is ready is published, also by the
/// other one alone.
#[tokio::test(flavor = "multi_thread")]
async fn twins_that_start_for_the_first_time_at_the_same_moment_leave_nothing_out() {
    let mut chance = Chance::new();
    for _ in 0..5 {
        let db = unique("twins");
        let channel = format!("{db}.c");
        let subscriber = Subscriber::start(&servers::redis().await.url(), &channel).await;
        let mut twins = [Twin::new("mongo-oplog", &db).await, Twin::new("mongo-oplog", &db).await];
        // Noise, so that the two find different ends of the oplog.
        let noise = Writer::start(servers::mongo().await.client().await, &unique("noise")).await;
        twins[0].oplogue.spawn();
        tokio::time::sleep(std::time::Duration::from_millis(chance.below(40))).await;
        twins[1].oplogue.spawn();
        twins[0].wait_until_ready();
        let writer = Writer::start(servers::mongo().await.client().await, &db).await;
        writer.write_more(10).await;
        // Dead before it has published all of them.
        twins[0].oplogue.kill();
        writer.write_more(20).await;
        twins[0].oplogue.spawn();
        let written = writer.finish().await;
        assert_exact(&subscriber, &mut twins, &written, &channel, chance.seed()).await;
        noise.finish().await;
    }
}
