//! `dedupe = "keys"`: what oplogtoredis and oplogue have in common in Redis.

use std::sync::Arc;

use bson::{Timestamp, doc};
use oplogue_api::{ErrorKind, Event, EventId, Op, Position, Saved, Severity, Sink};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
    unique,
};
use redis::aio::MultiplexedConnection;

use crate::support::{Place, Subscriber, at, behind, checkpoint, time, write};

/// A place whose keys nobody else has.
struct Keys {
    place: Place,
    prefix: String,
    connection: MultiplexedConnection,
    subscriber: Subscriber,
}

/// The number of the entry of the n-th event.
fn number(n: u32) -> u64 {
    u64::from(time(n).time) << 32 | u64::from(time(n).increment)
}

impl Keys {
    async fn new() -> Keys {
        let redis = servers::redis().await;
        Keys::at(redis, redis.url()).await
    }

    async fn at(redis: &Redis, url: String) -> Keys {
        let place = Place::new(url);
        let subscriber = Subscriber::of(&place, redis.client()).await;
        Keys { place, prefix: unique("otr::"), connection: redis.connection().await, subscriber }
    }

    fn sink_with(&self, more: &[(&str, &str)]) -> Arc<dyn Sink> {
        let mut all = vec![("dedupe", "keys"), ("metadata_prefix", self.prefix.as_str())];
        all.extend_from_slice(more);
        self.place.sink_with(&all)
    }

    fn sink(&self) -> Arc<dyn Sink> {
        self.sink_with(&[])
    }

    fn claim(&self, n: u32) -> String {
        format!("{}processed::{}::0", self.prefix, number(n))
    }

    fn resume(&self, ordinal: u32) -> String {
        format!("{}lastProcessedEntry.{ordinal}", self.prefix)
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        cmd.arg(words.collect::<Vec<_>>());
        cmd.query_async(&mut self.connection).await.unwrap()
    }

    async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&format!("KEYS {}*", self.prefix)).await;
        keys.sort();
        keys
    }

    async fn heard(&self) -> Vec<String> {
        self.subscriber.on(&self.place.ns("tasks")).await
    }

    /// What oplogtoredis does with the n-th insert: looks for the key, and without one sets it and publishes.
    async fn other_publishes(&mut self, n: u32) {
        let claim = self.claim(n);
        if self.ask::<Option<String>>(&format!("GET {claim}")).await.is_none() {
            let () = self.ask(&format!("SETEX {claim} 150 1")).await;
            let (channel, message) = (self.place.ns("tasks"), self.place.heard(n..n + 1).remove(0));
            let () = self.ask(&format!("PUBLISH {channel} {message}")).await;
        }
        let resume = self.resume(0);
        let () = self.ask(&format!("SET {resume} {}", number(n))).await;
    }
}

#[tokio::test]
async fn one_event_leaves_the_two_keys_of_oplogtoredis() {
    let mut keys = Keys::new().await;
    let sink = keys.sink();
    sink.open().await.unwrap();
    sink.ping().await.unwrap();
    assert_eq!(keys.keys().await, [""; 0]);
    let event = Event { time: Timestamp { time: 1_700_000_000, increment: 1 }, ..keys.place.insert(0, "t0") };
    let upto = Position::at(event.time);
    assert!(sink.write(&[event], Some(&upto)).await.unwrap().failed.is_empty());
    let (claim, resume) =
        (format!("{}processed::7301444403200000001::0", keys.prefix), format!("{}lastProcessedEntry.0", keys.prefix));
    assert_eq!(keys.keys().await, [resume.clone(), claim.clone()]);
    assert_eq!(keys.ask::<String>(&format!("GET {resume}")).await, "7301444403200000001");
    assert_eq!(keys.ask::<String>(&format!("GET {claim}")).await, "1");
    let ttl: i64 = keys.ask(&format!("TTL {claim}")).await;
    assert!((100..=150).contains(&ttl), "{ttl}");
    assert_eq!(keys.ask::<i64>(&format!("TTL {resume}")).await, -1);
    assert_eq!(keys.heard().await.len(), 1);
}

#[tokio::test]
async fn a_mixed_fleet_publishes_each_event_once() {
    let mut keys = Keys::new().await;
    let sink = keys.sink();
    for n in [0, 1, 2, 5] {
        keys.other_publishes(n).await;
    }
    let written = write(&sink, &keys.place.inserts(0..8), 7).await;
    assert_eq!(written.duplicates, 4);
    for n in 4..10 {
        keys.other_publishes(n).await;
    }
    assert_eq!(write(&keys.sink(), &keys.place.inserts(6..11), 10).await.duplicates, 4);
    let mut heard = keys.heard().await;
    heard.sort_by_key(|m| m.len());
    let mut expected = keys.place.heard(0..11);
    expected.sort_by_key(|m| m.len());
    heard[..10].sort();
    expected[..10].sort();
    assert_eq!(heard, expected, "each once");
}

#[tokio::test]
async fn operations_are_numbered_as_oplogtoredis_numbers_them() {
    let mut keys = Keys::new().await;
    let ns = keys.place.ns("tasks");
    // The third operation of a transaction of two entries is the first of its second entry.
    let mut event = at(7, sample::insert(&ns, doc! {"_id": "x"}));
    event.index = 2;
    event.entry = Some(EventId { time: time(7), index: 0 });
    let mut earlier = at(7, sample::insert(&ns, doc! {"_id": "y"}));
    earlier.index = 1;
    earlier.entry = Some(EventId { time: time(5), index: 1 });
    write(&keys.sink(), &[earlier, event], 7).await;
    let (a, b) = (number(5), number(7));
    let claims = [format!("{}processed::{a}::1", keys.prefix), format!("{}processed::{b}::0", keys.prefix)];
    assert_eq!(keys.keys().await[1..], claims);
}

#[tokio::test]
async fn every_resume_key_is_read_and_written() {
    let mut keys = Keys::new().await;
    let sink = keys.sink_with(&[]);
    let store = sink.checkpoints().unwrap();
    assert_eq!(store.load("any").await.unwrap(), None);
    // Before oplogtoredis had several writers.
    let old = format!("{}lastProcessedEntry", keys.prefix);
    let () = keys.ask(&format!("SET {old} {}", number(3))).await;
    assert_eq!(store.load("any").await.unwrap().unwrap().position, Position::at(time(3)));

    let three = sink_of(&keys, 3);
    let store = three.checkpoints().unwrap();
    for (ordinal, n) in [(0, 9), (2, 6)] {
        let resume = keys.resume(ordinal);
        let () = keys.ask(&format!("SET {resume} {}", number(n))).await;
    }
    // The writer that has had nothing to write has no key.
    assert_eq!(store.load("any").await.unwrap().unwrap().position, Position::at(time(6)));
    write(&three, &keys.place.inserts(7..8), 7).await;
    let mut entries = Vec::new();
    for ordinal in 0..3 {
        let resume = keys.resume(ordinal);
        entries.push(keys.ask::<u64>(&format!("GET {resume}")).await);
    }
    assert_eq!(entries, [number(9), number(7), number(7)], "none goes back");
}

fn sink_of(keys: &Keys, ordinals: i64) -> Arc<dyn Sink> {
    let options = oplogue_api::Options::new(toml::toml! { dedupe = "keys" });
    let mut table = options.table().clone();
    table.insert("url".into(), keys.place.url.clone().into());
    table.insert("metadata_prefix".into(), keys.prefix.clone().into());
    table.insert("ordinals".into(), ordinals.into());
    crate::support::try_sink_with(&keys.place.route, table).unwrap()
}

#[tokio::test]
async fn the_position_moves_forward_unless_it_is_set() {
    let mut keys = Keys::new().await;
    let sink = keys.sink();
    let store = sink.checkpoints().unwrap();
    assert!(store.is_shared());
    assert_eq!(store.save("any", &checkpoint(5, 1)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("any", &checkpoint(5, 2)).await.unwrap(), Saved::Stored);
    let Saved::Superseded(there) = store.save("any", &checkpoint(3, 2)).await.unwrap() else { panic!("went back") };
    assert_eq!(there.position, Position::at(time(5)));
    store.reset("any", Some(&behind(2))).await.unwrap();
    assert_eq!(store.load("any").await.unwrap().unwrap().position, Position::at(time(2)));
    // A number with more digits is later, whatever its first digit.
    let resume = keys.resume(0);
    let () = keys.ask(&format!("SET {resume} 999999999999999999")).await;
    assert_eq!(store.save("any", &checkpoint(3, 2)).await.unwrap(), Saved::Stored);
    store.reset("any", None).await.unwrap();
    assert_eq!(store.load("any").await.unwrap(), None);
    assert_eq!(keys.keys().await, [""; 0]);

    let () = keys.ask(&format!("SET {resume} nonsense")).await;
    let e = store.load("any").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(!e.to_string().contains("nonsense"));
    // A gap: the position holds although it is an earlier one.
    let () = keys.ask(&format!("SET {resume} {}", number(9))).await;
    let gap = at(4, Event::new(Op::Gap, oplogue_api::Namespace::new(""), time(4), oplogue_api::Doc::empty()));
    assert_eq!(write(&sink, &[gap], 4).await.ignored, 1);
    assert_eq!(keys.ask::<u64>(&format!("GET {resume}")).await, number(4));
}

#[tokio::test]
async fn a_redis_that_has_forgotten_claims_is_noticed_and_one_that_has_nothing_is_not() {
    let mut keys = Keys::new().await;
    let sink = keys.sink();
    let store = sink.checkpoints().unwrap();
    store.load("any").await.unwrap();
    write(&sink, &keys.place.inserts(0..3), 2).await;
    write(&sink, &keys.place.inserts(3..5), 4).await;
    // As after a failover to a replica that has not got the last batch.
    for n in 3..5 {
        let claim = keys.claim(n);
        let () = keys.ask(&format!("DEL {claim}")).await;
    }
    let resume = keys.resume(0);
    let () = keys.ask(&format!("SET {resume} {}", number(2))).await;
    for _ in 0..2 {
        let e = sink.write(&keys.place.inserts(5..6), Some(&behind(5))).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
        let e = store.save("any", &checkpoint(4, 2)).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
        sink.ping().await.unwrap();
    }
    let loaded = store.load("any").await.unwrap().unwrap();
    assert_eq!(loaded.position, Position::at(time(2)));
    assert_eq!(write(&sink, &keys.place.inserts(3..6), 5).await.duplicates, 0);
    assert_eq!(keys.heard().await, [keys.place.heard(0..5), keys.place.heard(3..6)].concat());

    // Its subscribers load their data anew: nothing to repeat.
    let all = keys.keys().await.join(" ");
    let () = keys.ask(&format!("DEL {all}")).await;
    assert_eq!(write(&sink, &keys.place.inserts(6..7), 6).await.duplicates, 0);
}

#[tokio::test]
async fn a_refused_message_is_not_claimed() {
    let mut users = Vec::new();
    for user in ["a", "b"] {
        users.push(format!(
            "{user} on >pw ~otr* &none* +eval +evalsha +publish +get +set +mget +del +exists +ttl +ping +role"
        ));
    }
    let redis = Redis::start(RedisOptions { users, ..Default::default() }).await;
    for (user, policy, kind) in [("a", "retry", ErrorKind::Transient), ("b", "bad-event", ErrorKind::Data)] {
        let mut keys = Keys::at(&redis, format!("redis://{user}:pw@{}", redis.addr())).await;
        let sink = keys.sink_with(&[("on_refused", policy)]);
        sink.open().await.unwrap();
        let allow = format!("ACL SETUSER {user} resetchannels &{}.tasks", keys.place.db);
        let () = keys.ask(&allow).await;
        // The channel of the collection is allowed, those of documents are not.
        let written = sink.write(&keys.place.inserts(0..3), Some(&behind(2))).await.unwrap();
        let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
        assert_eq!(failed, [(0, kind), (1, ErrorKind::Transient), (2, ErrorKind::Transient)]);
        assert!(written.failed[0].error.message().contains("NOPERM"), "{}", written.failed[0].error);
        assert_eq!(keys.keys().await, [""; 0], "nothing is marked");
        let () = keys.ask(&format!("ACL SETUSER {user} &*")).await;
        assert_eq!(write(&sink, &keys.place.inserts(0..3), 2).await.duplicates, 0);
        assert_eq!(keys.heard().await, [keys.place.heard(0..1), keys.place.heard(0..3)].concat());
        let findings = sink.check().await;
        assert!(findings.iter().all(|f| f.severity != Severity::Error), "{findings:?}");
    }
}

#[test]
fn options_that_have_no_meaning_are_refused() {
    for (key, value) in [("dedupe_ttl", "30s"), ("resync_user", "meteor")] {
        let e = crate::support::try_sink("r", &[("url", "redis://h"), (key, value)]).err().unwrap();
        assert_eq!(e.field(), Some(key), "{e}");
    }
    let table = toml::toml! {
        url = "redis://h"
        dedupe = "keys"
        coalesce = true
    };
    assert_eq!(crate::support::try_sink_with("r", table).err().unwrap().field(), Some("coalesce"));
    for ttl in ["0s", "10ms"] {
        let all = [("url", "redis://h"), ("dedupe", "keys"), ("dedupe_ttl", ttl)];
        assert_eq!(crate::support::try_sink("r", &all).err().unwrap().field(), Some("dedupe_ttl"));
    }
}
