//! What one does beside a running router: look, check, tap, and move its position.

use std::process::{Command, Output, Stdio};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions},
    unique, wait_for,
};

use crate::{
    process::{Oplogue, read_events},
    subscriber::Subscriber,
    support::{source, to_redis},
    writer::{Writer, numbers},
};

fn command(args: &[&str], oplogue: &Oplogue, rest: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oplogue"))
        .args(args)
        .arg(oplogue.config())
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Everything in the oplog but no-ops, as text.
async fn oplog(client: &Client) -> Vec<String> {
    let log = client.database("local").collection::<Document>("oplog.rs");
    let mut cursor = log.find(doc! {"op": {"$ne": "n"}}).await.expect("the oplog");
    let mut entries = Vec::new();
    while cursor.advance().await.expect("the oplog") {
        entries.push(format!("{:?}", cursor.current()));
    }
    entries
}

/// All keys of a Redis with what they hold.
async fn dump(redis: &Redis) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut connection = redis.connection().await;
    let mut keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("KEYS");
    keys.sort();
    let mut all = Vec::new();
    for key in keys {
        all.push((key.clone(), redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.expect("DUMP")));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_show_change_nothing_at_any_server() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = Redis::start(RedisOptions::default()).await;
    let client = mongo.client().await;
    client.database("d").collection("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let _: () = redis::cmd("SET").arg("other").arg("1").query_async(&mut redis.connection().await).await.unwrap();
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        for route in ["", "checkpoint = \"mongo\"", "checkpoint = \"redis\"", "checkpoint = \"file\""] {
            let more = format!(
                "{route}\n[state.mongo]\nuri = \"{}\"\n[state.redis]\nurl = \"{}\"\n",
                mongo.uri(),
                redis.url()
            );
            let oplogue = to_redis(kind, &mongo.uri(), &redis.url(), "d", &more);
            let before = (oplog(&client).await, dump(&redis).await);
            for args in [&["check", "--connect"][..], &["check"], &["position", "show"]] {
                let out = command(args, &oplogue, &[]);
                assert!(out.status.success(), "{args:?} {route}: {}", text(&out));
            }
            let after = (oplog(&client).await, dump(&redis).await);
            assert!(before == after, "{kind} {route}");
            assert!(!oplogue.dir.path().join("state").exists(), "{kind} {route}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_beside_a_running_route_sees_the_same_and_disturbs_nothing() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let db = unique("beside");
        let channel = format!("{db}.c");
        let subscriber = Subscriber::start(&redis.url(), &channel).await;
        let mut oplogue = to_redis(kind, &mongo.uri(), &redis.url(), &db, "");
        oplogue.start();
        let path = oplogue.dir.path().join("tapped");
        let mut tap = Command::new(env!("CARGO_BIN_EXE_oplogue"))
            .arg("tap")
            .arg(oplogue.config())
            .args(["a", "--start", "now"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&path).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary starts");
        let probe = mongo.client().await.database(&format!("{db}_probe")).collection::<Document>("c");
        wait_for("the tap to run", || async {
            probe.insert_one(doc! {}).await.unwrap();
            !read_events(&path).is_empty()
        })
        .await;
        let writer = Writer::start(mongo.client().await, &db).await;
        writer.write_more(50).await;
        let written = writer.finish().await.acknowledged;
        let mine = || {
            let changes =
                |e: &serde_json::Value| e["ns"] == channel.as_str() && e["op"] != "insert" && e["key"].is_object();
            read_events(&path).iter().filter(|e| changes(e)).map(crate::writer::number).collect::<Vec<_>>()
        };
        oplogue.wait("tapped", |_| mine().len() >= written.len());
        assert_eq!(mine(), written.iter().map(|(_, n)| *n).collect::<Vec<_>>(), "{kind}");
        tap.kill().unwrap();
        tap.wait().unwrap();
        oplogue.wait("caught up", |_| subscriber.count() >= written.len());
        assert!(oplogue.terminate().success());
        subscriber.settle(&redis.url(), &channel).await;
        assert_eq!(numbers(&subscriber.messages()), written, "{kind}");
    }
}

/// With a file, the router holds a lock: looking is allowed, changing is refused, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_a_file_can_be_seen_but_not_moved_while_the_router_runs() {
    let mongo = servers::mongo().await;
    let db = unique("beside");
    let mut oplogue = Oplogue::new(&format!(
        "{}\n[transforms.mine]\ntype = \"filter\"\nnamespaces = [\"{db}.c\"]\noperations = [\"insert\"]\n\
         [sinks.out]\ntype = \"stdout\"\n\
         [[routes]]\nname = \"out\"\nfrom = [\"a\"]\nvia = [\"mine\"]\nto = [\"out\"]\n",
        source("mongo-oplog", &mongo.uri())
    ));
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    oplogue.start();
    coll.insert_one(doc! {"_id": 1}).await.unwrap();
    oplogue.wait("told of the insert", |o| o.events().len() == 1);
    let shown = command(&["position", "show"], &oplogue, &["out"]);
    assert!(shown.status.success() && text(&shown).contains("position"), "{}", text(&shown));
    for (args, rest) in [(&["position", "set"][..], &["out", "--now"][..]), (&["position", "reset"], &["out", "--yes"])]
    {
        let refused = command(args, &oplogue, rest);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains("another process"), "{}", text(&refused));
    }
    coll.insert_one(doc! {"_id": 2}).await.unwrap();
    oplogue.wait("told of the insert", |o| o.events().len() == 2);
    assert!(oplogue.terminate().success());

    // Stopped: forwards, and what was written meanwhile is passed over, as was asked for.
    coll.insert_one(doc! {"_id": 3}).await.unwrap();
    let set = command(&["position", "set"], &oplogue, &["out", "--now"]);
    assert!(set.status.success(), "{}", text(&set));
    coll.insert_one(doc! {"_id": 4}).await.unwrap();
    oplogue.start();
    oplogue.wait("told of the insert", |o| o.events().len() == 3);
    assert!(oplogue.terminate().success());
    // Reset: as if for the first time.
    let reset = command(&["position", "reset"], &oplogue, &["out", "--yes"]);
    assert!(reset.status.success(), "{}", text(&reset));
    coll.insert_one(doc! {"_id": 5}).await.unwrap();
    oplogue.start();
    coll.insert_one(doc! {"_id": 6}).await.unwrap();
    oplogue.wait("told of the insert", |o| o.events().len() == 4);
    assert!(oplogue.terminate().success());
    let ids: Vec<_> = oplogue.events().iter().map(|e| e["key"]["_id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 4, 6]);
}

/// With Redis several may write: a position that is set backwards is taken up by the router that runs, which repeats from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_redis_that_is_set_backwards_is_taken_up_while_the_router_runs() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("beside");
    let channel = format!("{db}.c");
    let subscriber = Subscriber::start(&redis.url(), &channel).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(30).await;
    let written = writer.finish().await.acknowledged;
    oplogue.wait("caught up", |_| subscriber.count() == written.len());
    let first = {
        let log = mongo.client().await.database("local").collection::<Document>("oplog.rs");
        let entry = log.find_one(doc! {"ns": &channel, "op": "u"}).sort(doc! {"$natural": 1}).await.unwrap().unwrap();
        entry.get_timestamp("ts").unwrap()
    };
    let at = format!("{}.{}", first.time, first.increment);
    let set = command(&["position", "set"], &oplogue, &["publish", "--at", &at]);
    assert!(set.status.success(), "{}", text(&set));
    oplogue.wait("repeating", |_| subscriber.count() == 2 * written.len());
    assert!(oplogue.terminate().success());
    subscriber.settle(&redis.url(), &channel).await;
    let got = numbers(&subscriber.messages());
    assert_eq!(got, [written.clone(), written].concat());
}
