//! The commands that talk to servers.

use std::{net::TcpListener, process::Stdio};

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{File, PATIENCE, command, finish, run};

/// A configuration with an oplog of a real server, printed with file checkpoints and published to a real Redis.
async fn live() -> (File, mongodb::Database) {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("cli");
    let text = format!(
        r#"
[sources.mongo]
type = "mongo-oplog"
uri = "{}"
[transforms.mine]
type = "filter"
namespaces = ["{db}.*"]
[sinks.out]
type = "stdout"
[sinks.queue]
type = "redis-oplog"
url = "{}"
metadata_prefix = "{db}"
[[routes]]
from = "mongo"
via = "mine"
to = ["out", "queue"]
[state]
dir = "STATE"
"#,
        mongo.uri(),
        redis.url()
    );
    (File::new(&text), mongo.client().await.database(&db))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_the_servers() {
    let (file, _) = live().await;
    let done = file.run(&["check"], &["--connect"]).await.expect(0);
    for title in ["source mongo (mongo-oplog)", "sink out (stdout)", "sink queue (redis-oplog)", "checkpoints in files"]
    {
        assert!(done.stdout.contains(&format!("\n{title}")), "{title} is not in\n{}", done.stdout);
    }
    assert!(done.stdout.contains('✓') && !done.stdout.contains('✗'), "{}", done.stdout);
    assert!(!file.dir.path().join("state").exists(), "a check makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_of_servers_that_are_not_there() {
    // A port that nobody listens on, and one that nobody answers on.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        r#"
[sources.mongo]
type = "mongo-oplog"
uri = "mongodb://user:hunter2@{closed}/?replicaSet=rs0"
[sinks.queue]
type = "redis-oplog"
url = "redis://:hunter2@{}"
[[routes]]
from = "mongo"
to = "queue"
"#,
        silent.local_addr().unwrap()
    );
    let done = File::new(&text).run(&["check"], &["--connect"]).await.expect(1);
    assert_eq!(done.stdout.matches("  ✗ ").count(), 3, "source, sink and its checkpoints:\n{}", done.stdout);
    assert!(done.stdout.matches("    hint: ").count() >= 3, "{}", done.stdout);
    assert!(!format!("{}{}", done.stdout, done.stderr).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_shown_set_and_reset() {
    let (file, db) = live().await;
    db.collection::<Document>("c").insert_one(doc! {"_id": 1}).await.unwrap();

    let none = file.run(&["position", "show"], &[]).await.expect(0).stdout;
    assert!(none.contains("route mongo->out\n  kept        in files under "), "{none}");
    assert!(none.contains("route mongo->queue\n  kept        with the sink queue (redis-oplog)\n"), "{none}");
    assert_eq!(none.matches("  position    none").count(), 2, "{none}");

    for route in ["mongo->out", "mongo->queue"] {
        let set = file.run(&["position", "set"], &[route, "--now"]).await.expect(0).stdout;
        assert!(set.starts_with(&format!("route {route}: set to 20")), "{set}");
        let shown = file.run(&["position", "show"], &[route]).await.expect(0).stdout;
        assert!(shown.contains("ago; ") && shown.contains("\n  generation  1\n"), "{shown}");
        assert!(shown.contains("\n  token       {"), "{shown}");
        let set = file.run(&["position", "set"], &[route, "--oldest"]).await.expect(0).stdout;
        assert!(set.starts_with(&format!("route {route}: set to 20")), "{set}");
    }

    let wrong = file.run(&["position", "set"], &["mongo->out", "--at", "yesterday"]).await.expect(2);
    assert!(wrong.stderr.contains("`at` must be"), "{}", wrong.stderr);

    let removed = file.run(&["position", "reset"], &["mongo->out"]).await.expect(0).stdout;
    assert_eq!(removed, "route mongo->out: checkpoint removed\n");
    let left = file.run(&["position", "show"], &[]).await.expect(0).stdout;
    assert_eq!(left.matches("  position    none").count(), 1, "the other one is untouched:\n{left}");
    file.run(&["position", "reset"], &["--yes"]).await.expect(0);
    let left = file.run(&["position", "show"], &[]).await.expect(0).stdout;
    assert_eq!(left.matches("  position    none").count(), 2, "{left}");
}

/// The route resumes where `position set` put it: at a time before a change that it has not seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_resumes_where_it_was_set() {
    let (file, db) = live().await;
    db.collection::<Document>("c").insert_one(doc! {"_id": "before"}).await.unwrap();
    let hello = db.run_command(doc! {"hello": 1}).await.unwrap();
    let time = hello.get_document("$clusterTime").unwrap().get_timestamp("clusterTime").unwrap();
    db.collection::<Document>("c").insert_one(doc! {"_id": "after"}).await.unwrap();
    let at = format!("{}.{}", time.time, time.increment + 1);
    file.run(&["position", "set"], &["mongo->out", "--at", &at]).await.expect(0);

    let mut child = command(&["run", &file.path().display().to_string()]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("an event").unwrap().unwrap();
    assert!(first.contains("\"after\""), "{first}");
    terminate(&child);
    finish(child).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tap_prints_and_touches_nothing() {
    let (file, db) = live().await;
    for id in 0..3 {
        db.collection::<Document>("c").insert_one(doc! {"_id": id, "of": db.name()}).await.unwrap();
    }
    let path = file.path().display().to_string();
    let mut child = command(&["tap", &path, "mongo", "--start", "oldest"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ids = Vec::new();
    while ids.len() < 3 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("an event").unwrap().expect("a line");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["after"]["of"] == db.name() {
            assert_eq!((&event["op"], &event["source"]), (&"insert".into(), &"mongo".into()), "{line}");
            ids.push(event["after"]["_id"].as_i64());
        }
    }
    assert_eq!(ids, [Some(0), Some(1), Some(2)]);

    // The reader goes away: the next event ends it, quietly.
    drop(lines);
    let writing = tokio::spawn(async move {
        for id in 3.. {
            db.collection::<Document>("c").insert_one(doc! {"_id": id}).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let done = finish(child).await;
    writing.abort();
    assert_eq!(done.expect(0).stderr, "");
    assert!(!file.dir.path().join("state").exists(), "a tap keeps no checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn tap_ends_when_it_is_told() {
    let (file, db) = live().await;
    let path = file.path().display().to_string();
    let mut child = command(&["tap", &path, "mongo", "--start", "oldest", "--format", "pretty"]).spawn().unwrap();
    db.collection::<Document>("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("an event").unwrap().expect("a line");
    terminate(&child);
    finish(child).await.expect(0);
}

/// `oplogue tap … | head -1` on a server where nothing more happens.
#[tokio::test(flavor = "multi_thread")]
async fn tap_notices_without_an_event_that_its_reader_has_gone() {
    // Of its own: on a shared one there is always one more event, which finds the pipe closed.
    let mongo = Mongo::start(MongoOptions::default()).await;
    mongo.client().await.database("d").collection::<Document>("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let file = File::new(&format!("[sources.mongo]\ntype = \"mongo-oplog\"\nuri = \"{}\"\n", mongo.uri()));
    let path = file.path().display().to_string();
    let mut child = command(&["tap", &path, "mongo", "--start", "oldest"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("an event").unwrap().expect("a line");
    drop(lines);
    finish(child).await.expect(0);
}

fn terminate(child: &tokio::process::Child) {
    let pid = child.id().expect("it runs");
    let status =
        std::process::Command::new("sh").arg("-c").arg(format!("kill {pid}")).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// Nobody answers at all: a command gives up, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_not_wait_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("mongodb://{}/?replicaSet=rs0", silent.local_addr().unwrap());
    let file = File::new(&format!(
        "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"{uri}\"\n[sinks.b]\ntype = \"stdout\"\n\
         [[routes]]\nfrom = \"a\"\nto = \"b\"\n[state]\ndir = \"STATE\"\n"
    ));
    let path = file.path().display().to_string();
    let done = run(&["position", "set", &path, "a->b", "--now"]).await.expect(1);
    assert!(done.stderr.contains("error: route a->b: "), "{}", done.stderr);
}
