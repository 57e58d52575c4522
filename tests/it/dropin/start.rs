//! Configuration from the environment, the start, the end.

use std::{
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions},
    unique,
};

use super::{DropIn, ids};
use crate::subscriber::Subscriber;

const OPLOGUE: &str = env!("CARGO_BIN_EXE_oplogue");

fn text(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Under its own name, as a subcommand, and from the printed text: the same, and each goes on where the other was.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_configuration_runs_and_goes_on_where_the_drop_in_was() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let other = Redis::start(RedisOptions::default()).await;
    let db = unique("import");
    let channel = format!("{db}.c");
    let subscribers =
        [Subscriber::start(&redis.url(), &channel).await, Subscriber::start(&other.url(), &channel).await];
    let urls = format!("{},{}", redis.url(), other.url());
    let (first, second) = (redis.url(), other.url());
    // The two that a file needs set; the drop-in has its own.
    let more = [("OTR_REDIS_URL_1", first.as_str()), ("OTR_REDIS_URL_2", second.as_str())];
    let mut dropin = DropIn::new(&mongo.uri(), &urls, "i::", &more);
    let out = dropin.command(OPLOGUE, &["import", "oplogtoredis"]).output().unwrap();
    let (printed, told) = text(&out);
    assert!(out.status.success() && told.is_empty(), "{told}");
    assert!(!printed.contains(&redis.addr()) && !printed.contains(&mongo.addr(0)), "{printed}");
    let file = dropin.dir.path().join("printed.toml");
    std::fs::write(&file, &printed).unwrap();
    let file = file.display().to_string();
    let out = dropin.command(OPLOGUE, &["check", &file]).output().unwrap();
    let (routes, told) = text(&out);
    assert!(out.status.success() && told.is_empty(), "{told}");
    assert!(routes.contains("redis-1: mongo (mongo-oplog) -> redis-1 (redis-oplog)"), "{routes}");

    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    let ways: [(&str, &[&str]); 4] = [
        ("oplogtoredis", &[]),
        (OPLOGUE, &["run", &file]),
        (OPLOGUE, &["oplogtoredis"]),
        ("oplogtoredis", &["ignored"]),
    ];
    let mut written = 0;
    for (program, args) in ways {
        dropin.spawn_as(program, args);
        dropin.wait("listening", |o| o.is_open());
        // One while it runs, and one while nothing does.
        for _ in 0..2 {
            coll.insert_one(doc! {"_id": format!("n{written}")}).await.unwrap();
            written += 1;
            if written % 2 == 1 {
                dropin.wait("told", |_| subscribers.iter().all(|s| s.count() == written));
                assert!(dropin.terminate().0.success());
            }
        }
    }
    dropin.start();
    dropin.wait("told", |_| subscribers.iter().all(|s| s.count() == written));
    for subscriber in &subscribers {
        assert_eq!(ids(&subscriber.messages()), (0..written).map(|n| format!("n{n}")).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_environment_is_told_all_at_once_without_secrets() {
    let more = [("OTR_MAX_CATCH_UP", "2 minutes"), ("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "yes")];
    let dropin = DropIn::new("hunter2://u:hunter2@m", "redis://a,nonsense://:hunter2@b", "x::", &more);
    let out = dropin.command("oplogtoredis", &[]).output().unwrap();
    let (_, told) = text(&out);
    assert_eq!(out.status.code(), Some(2), "{told}");
    for named in [
        "OTR_MAX_CATCH_UP `2 minutes`",
        "OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES `yes`",
        "OTR_REDIS_URL_2",
        "OTR_MONGO_URL",
    ] {
        assert!(told.contains(named), "{named}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");

    for command in [&["oplogtoredis"][..], &["import", "oplogtoredis"]] {
        let out = Command::new(OPLOGUE).args(command).env_clear().output().unwrap();
        let (_, told) = text(&out);
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.contains("OTR_REDIS_URL is required") && told.contains("OTR_MONGO_URL is required"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_one_insert_there_are_two_keys() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let db = unique("keys");
    let more = [("OTR_SENTRY_ENABLED", "true"), ("OTR_PG_PERSISTENCE_URL", "postgres://u:hunter2@h/d")];
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), "", &more);
    dropin.start();
    mongo.client().await.database(&db).collection("c").insert_one(doc! {"_id": "x"}).await.unwrap();
    let mut connection = redis.connection().await;
    let mine = async |connection: &mut redis::aio::MultiplexedConnection| -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(connection).await.unwrap();
        keys.sort();
        keys
    };
    oplogue_testkit::wait_for("the mark", || {
        let mut connection = connection.clone();
        async move { mine(&mut connection).await.iter().any(|key| key.starts_with("processed::")) }
    })
    .await;
    assert!(dropin.terminate().0.success());
    // Other tests write to this MongoDB as well, each event with a mark of its own.
    let keys = mine(&mut connection).await;
    let others: Vec<_> = keys.iter().filter(|key| !key.starts_with("processed::")).collect();
    assert_eq!(others, ["lastProcessedEntry.0"], "{keys:?}");
    let log = dropin.log();
    assert!(log.contains("OTR_SENTRY_ENABLED has no effect") && log.contains("OTR_PG_PERSISTENCE_URL has no effect"));
    assert!(!log.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_opens_when_every_later_write_is_published_and_a_dead_redis_delays_it_only_a_while() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = Redis::start(RedisOptions::default()).await;
    let subscriber = Subscriber::start(&redis.url(), "app.c").await;
    let coll = mongo.client().await.database("app").collection::<Document>("c");
    coll.insert_one(doc! {"_id": "before"}).await.unwrap();
    mongo.pause(0);
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), "p::", &[]);
    dropin.spawn();
    dropin.wait("started", |o| o.log().contains("oplogue starts"));
    assert!(!dropin.is_open(), "nobody knows yet where it begins");
    mongo.resume(0);
    dropin.wait("listening", |o| o.is_open());
    coll.insert_one(doc! {"_id": "after"}).await.unwrap();
    dropin.wait("told", |_| subscriber.count() > 0);
    assert_eq!(ids(&subscriber.messages()), ["after"]);
    assert!(dropin.terminate().0.success());

    let dead = Redis::start(RedisOptions::default()).await;
    dead.stop().await;
    let mut dropin = DropIn::new(&mongo.uri(), &format!("{},{}", redis.url(), dead.url()), "p::", &[]);
    dropin.start();
    coll.insert_one(doc! {"_id": "more"}).await.unwrap();
    dropin.wait("told", |_| subscriber.count() == 2);
    assert_eq!(dropin.http("GET", "/healthz").0, 500);
    dead.start_again().await;
    dropin.wait("well", |o| o.http("GET", "/healthz").0 == 200);
}

/// oplogtoredis trusts whom the machine does. A private authority stands among many there.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_of_the_machine_is_trusted() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions { tls: true, ..RedisOptions::default() }).await;
    let db = unique("tls");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.pem");
    let system = oplogue::oplogtoredis::authorities(&|_| None).and_then(|file| std::fs::read_to_string(file).ok());
    let private = std::fs::read_to_string(redis.ca_file().unwrap()).unwrap();
    std::fs::write(&file, format!("{}\n{private}", system.unwrap_or_default())).unwrap();
    let bundle = file.display().to_string();
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), &format!("{db}::"), &[("SSL_CERT_FILE", &bundle)]);
    dropin.start();
    dropin.wait("well", |o| o.http("GET", "/healthz").0 == 200);
    mongo.client().await.database(&db).collection("c").insert_one(doc! {"_id": "x"}).await.unwrap();
    let sent = "otr_redispub_processed_messages{status=\"sent\"}";
    dropin.wait("sent", |o| o.metric(sent) >= Some(1.0));
    assert_eq!(dropin.http("PUT", "/denylist/abc").0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_it_at_once() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let dropin = DropIn::new(&mongo.uri(), &redis.url(), &format!("{}::", unique("port")), &[]);
    let _taken = std::net::TcpListener::bind(dropin.http).unwrap();
    let out = dropin.command("oplogtoredis", &[]).output().unwrap();
    let (_, told) = text(&out);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot listen on"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_ends_it_soon_and_nothing_is_lost_or_sent_twice() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("load");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), &format!("{db}::"), &[]);
    dropin.start();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicUsize::new(0));
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    let writing = tokio::spawn({
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        async move {
            while !stop.load(Relaxed) {
                let first = written.load(Relaxed);
                let documents = (first..first + 100).map(|n| doc! {"_id": format!("n{n}")});
                coll.insert_many(documents).await.expect("inserts");
                written.store(first + 100, Relaxed);
            }
        }
    });
    for round in 1..=3 {
        let before = subscriber.count();
        dropin.wait("under load", |_| subscriber.count() > before + 500);
        let (status, took) = dropin.terminate();
        assert!(status.success(), "{status}");
        // The grace, and what a busy machine adds; the original hangs for as long as the load lasts.
        assert!(took < Duration::from_secs(30), "{took:?} in round {round}");
        assert!(!dropin.log().contains("stopped before everything"), "drained");
        dropin.start();
    }
    stop.store(true, Relaxed);
    writing.await.unwrap();
    let all = written.load(Relaxed);
    dropin.wait("caught up", |_| subscriber.count() >= all);
    assert_eq!(ids(&subscriber.messages()), (0..all).map(|n| format!("n{n}")).collect::<Vec<_>>());
}
