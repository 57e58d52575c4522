//! kill -9 at random points: no gap, order per key kept, repeats only behind the checkpoint, and none for subscribers of
//! Redis.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use oplogue_testkit::{proxy::Proxy, servers, unique};

use crate::{
    process::{Oplogue, cluster_time},
    subscriber::Subscriber,
    support::{Chance, source, to_redis},
    writer::{KEYS, Writer, number, numbers},
};

const KILLS: usize = 6;
const QUICK: &str = "checkpoint = \"file\"\n[engine]\ncheckpoint_interval = \"100ms\"";

/// What stood at a kill.
struct Kill {
    /// Complete events on stdout.
    events: usize,
    /// The checkpoint in the state folder, as cluster time.
    checkpoint: Option<(u64, u64)>,
}

/// Kills and restarts the process at random points while the writer writes.
async fn torment(oplogue: &mut Oplogue, chance: &mut Chance) -> Vec<Kill> {
    let mut kills = Vec::new();
    for round in 0..KILLS {
        // Now and then before it has even come up.
        let wait = Duration::from_millis(chance.below(if round % 3 == 2 { 150 } else { 1500 }));
        tokio::time::sleep(wait).await;
        oplogue.kill();
        kills.push(Kill { events: oplogue.events().len(), checkpoint: oplogue.checkpoint() });
        if round % 2 == 0 {
            oplogue.start();
        } else {
            oplogue.spawn();
        }
    }
    kills
}

async fn killed_writing_to_a_file(kind: &str) {
    let db = unique("crash");
    let mut chance = Chance::new();
    let uri = servers::mongo().await.uri();
    let mut oplogue = Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.c"]
        operations = ["update", "replace"]
        [sinks.out]
        type = "stdout"
        [[routes]]
        name = "file"
        from = ["a"]
        via = ["mine"]
        to = ["out"]
        "#,
        source(kind, &uri)
    ));
    oplogue.start();
    let writer = Writer::start(servers::mongo().await.client().await, &db).await;
    let kills = torment(&mut oplogue, &mut chance).await;
    let written = writer.finish().await.acknowledged;
    assert!(written.len() > 20, "the writer wrote {}", written.len());
    oplogue.wait("caught up", |o| {
        let seen: HashSet<u64> = o.events().iter().map(number).collect();
        written.iter().all(|(_, n)| seen.contains(n))
    });
    assert!(oplogue.terminate().success());

    let events = oplogue.events();
    let mut backward = 0;
    let mut last: HashMap<i64, u64> = HashMap::new();
    for event in &events {
        let key = event["key"]["_id"].as_i64().expect("an integer key");
        let before = last.insert(key, number(event));
        if before.is_some_and(|before| before >= number(event)) {
            backward += 1;
        }
    }
    // A repeat begins at one place, and shows on each key at the most once a restart.
    assert!(backward <= KILLS * KEYS as usize, "{backward} steps back by {KILLS} kills, seed {}", chance.seed());
    // Repeats are bounded by the checkpoint: what came back after a kill lies behind it.
    assert!(kills.iter().any(|k| k.checkpoint.is_some()), "checkpoints were saved");
    for (kill, next) in kills.iter().zip(kills.iter().skip(1).map(|k| k.events).chain([events.len()])) {
        for event in &events[kill.events..next] {
            assert!(Some(cluster_time(&event["time"])) > kill.checkpoint, "seed {}", chance.seed());
        }
    }
    // In the order of first sight nothing overtakes, per key.
    let mut seen: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for event in &events {
        let of_key = seen.entry(event["key"]["_id"].as_i64().unwrap()).or_default();
        if !of_key.contains(&number(event)) {
            of_key.push(number(event));
        }
    }
    let mut expected: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for (key, n) in written {
        expected.entry(key).or_default().push(n);
    }
    assert_eq!(seen, expected, "seed {}", chance.seed());
}

async fn killed_publishing_to_redis(kind: &str) {
    let db = unique("crash");
    let mut chance = Chance::new();
    let uri = servers::mongo().await.uri();
    let redis = servers::redis().await;
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis(kind, &uri, &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(servers::mongo().await.client().await, &db).await;
    torment(&mut oplogue, &mut chance).await;
    let written = writer.finish().await.acknowledged;
    assert!(written.len() > 20, "the writer wrote {}", written.len());
    oplogue.wait("caught up", |_| subscriber.count() >= written.len());
    assert!(oplogue.terminate().success());

    // Exactly once, and in the order of writing: one writer, one channel.
    let got = numbers(&subscriber.messages());
    assert_eq!(got, written, "seed {}", chance.seed());
}

#[tokio::test(flavor = "multi_thread")]
async fn oplog_to_a_file_survives_kill_9() {
    killed_writing_to_a_file("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_stream_to_a_file_survives_kill_9() {
    killed_writing_to_a_file("mongo-change-stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oplog_to_redis_survives_kill_9_without_a_repeat() {
    killed_publishing_to_redis("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_stream_to_redis_survives_kill_9_without_a_repeat() {
    killed_publishing_to_redis("mongo-change-stream").await;
}

/// What was read but is still on its way to a sink that hangs is not behind the checkpoint, which others keep.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_sink_hangs() {
    let db = unique("crash");
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let proxy = Proxy::start(redis.addr()).await;
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url_at(&proxy.addr()), &db, QUICK);
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for _ in 0..3 {
        writer.write_more(30).await;
        proxy.stall();
        writer.write_more(30).await;
        // Read but not delivered for longer than ten checkpoints are apart.
        oplogue.wait("behind", |o| o.metric("oplogue_lag_seconds{route=\"publish\"}").is_some_and(|lag| lag > 1.0));
        oplogue.kill();
        proxy.resume();
        oplogue.start();
    }
    let written = writer.finish().await.acknowledged;
    oplogue.wait("caught up", |_| subscriber.count() >= written.len());
    assert!(oplogue.terminate().success());
    assert_eq!(numbers(&subscriber.messages()), written);
}
