//! What goes wrong before or beside the events: wrong servers, wrong credentials, closed pipes, odd documents.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use oplogue_testkit::{
    generate,
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};

use crate::{process::Oplogue, support::source};

fn to_stdout(kind: &str, uri: &str, rest: &str) -> Oplogue {
    Oplogue::new(&format!(
        "{}\n[sinks.out]\ntype = \"stdout\"\n[transforms.mine]\ntype = \"filter\"\noperations = [\"insert\"]\n\
         [[routes]]\nname = \"out\"\nfrom = [\"a\"]\nvia = [\"mine\"]\nto = [\"out\"]\n{rest}\n",
        source(kind, uri)
    ))
}

/// Runs to the end; the exit code and the log.
fn refused(mut oplogue: Oplogue) -> String {
    oplogue.spawn();
    assert_eq!(oplogue.wait_exit().code(), Some(1), "{}", oplogue.log());
    assert!(oplogue.events().is_empty());
    oplogue.log()
}

/// `check --connect`; the exit code and everything it printed.
fn check(oplogue: &Oplogue) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_oplogue"))
        .args(["check", "--connect"])
        .arg(oplogue.config())
        .output()
        .expect("the binary starts");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_refused_with_the_remedy() {
    let mongo = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let oplogue = to_stdout(kind, &mongo.uri(), "");
        let (code, text) = check(&oplogue);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("standalone") && text.contains("--replSet"), "{text}");
        let log = refused(oplogue);
        assert!(log.contains("standalone") && log.contains("--replSet"), "{kind}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_missing_privileges_are_named_and_secrets_are_not() {
    let root = Credentials::new("root", "top-secret-0");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    let weak = Credentials::new("weak", "top-secret-1");
    mongo.add_user(&weak, vec![doc! {"role": "readWrite", "db": "app"}]).await;
    let wrong = Credentials::new("root", "top-secret-2");
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let oplogue = to_stdout(kind, &mongo.uri_of(Some(&wrong)), "");
        let (code, text) = check(&oplogue);
        assert_eq!(code, Some(1), "{text}");
        let log = refused(oplogue);
        assert!(text.contains("the password") && log.contains("the password"), "{kind}: {text}{log}");
        assert!(!text.contains("top-secret") && !log.contains("top-secret"), "I8: {text}{log}");

        let oplogue = to_stdout(kind, &mongo.uri_of(Some(&weak)), "");
        let (code, text) = check(&oplogue);
        assert_eq!(code, Some(1), "{text}");
        let log = refused(oplogue);
        let privilege = if kind == "mongo-oplog" { "local" } else { "changeStream" };
        assert!(text.contains(privilege) && log.contains(privilege), "{kind}: {text}{log}");
        assert!(!text.contains("top-secret") && !log.contains("top-secret"), "I8: {text}{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_waited_for_and_readyz_says_so() {
    let mongo = servers::mongo().await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    proxy.cut();
    let db = unique("bad");
    let mut oplogue = to_stdout("mongo-oplog", &mongo.direct_uri(&proxy.addr()), "");
    oplogue.spawn();
    oplogue.wait("not ready, and says why", |o| {
        o.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains("retrying"))
    });
    assert_eq!(oplogue.get("/healthz").expect("healthz").0, 200);
    proxy.heal();
    oplogue.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    coll.insert_one(doc! {"_id": &db}).await.unwrap();
    oplogue.wait("told of the insert", |o| o.events().iter().any(|e| e["key"]["_id"] == db.as_str()));
    assert!(oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_the_process_quietly() {
    let mongo = servers::mongo().await;
    let db = unique("bad");
    let oplogue = to_stdout("mongo-oplog", &mongo.uri(), "");
    let mut child = Command::new(env!("CARGO_BIN_EXE_oplogue"))
        .arg("run")
        .arg(oplogue.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopping = std::sync::Arc::clone(&stop);
    // Inserts until the process has ended: the first shows that it runs, a later one that the pipe is closed.
    let writing = tokio::spawn(async move {
        while !stopping.load(std::sync::atomic::Ordering::Relaxed) {
            coll.insert_one(doc! {}).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let status = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        drop(lines);
        let out = child.wait_with_output().expect("it ends");
        (out.status, String::from_utf8_lossy(&out.stderr).into_owned())
    })
    .await
    .unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.await.unwrap();
    assert_eq!(status.0.code(), Some(0), "{}", status.1);
    assert!(!status.1.contains("ERROR") && !status.1.contains("WARN"), "quietly: {}", status.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_every_type_and_a_document_of_16_megabytes_pass() {
    let mongo = servers::mongo().await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let db = unique("bad");
        let mut oplogue = to_stdout(kind, &mongo.uri(), "");
        oplogue.start();
        let coll = mongo.client().await.database(&db).collection::<Document>("c");
        let ids: Vec<Bson> = generate::ids(1);
        assert!(ids.len() > 12);
        for id in &ids {
            coll.insert_one(doc! {"_id": id.clone()}).await.expect("an id that the server takes");
        }
        let big = ObjectId::new();
        // `_id`, the field's own name, lengths and terminators take the rest of the 16 MiB.
        let text = "y".repeat(16 * 1024 * 1024 - 64);
        coll.insert_one(doc! {"_id": big, "t": &text}).await.expect("16 MB");
        oplogue.wait("told of all", |o| o.events().iter().filter(|e| e["ns"] == format!("{db}.c")).count() > ids.len());
        let events: Vec<_> = oplogue.events().into_iter().filter(|e| e["ns"] == format!("{db}.c")).collect();
        for (id, event) in ids.iter().zip(&events) {
            assert_eq!(event["key"]["_id"], id.clone().into_relaxed_extjson(), "{kind}");
        }
        assert_eq!(events.last().unwrap()["after"]["t"].as_str().map(str::len), Some(text.len()));
        assert!(oplogue.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_on_the_same_state_is_refused() {
    let mongo = servers::mongo().await;
    let mut one = to_stdout("mongo-oplog", &mongo.uri(), "");
    one.start();
    // The same state, another port.
    let text = std::fs::read_to_string(one.config()).unwrap();
    let two = Oplogue::new("");
    let (before, _) = text.split_once("[http]").unwrap();
    let state = one.dir.path().join("state");
    std::fs::write(two.config(), format!("{before}\n[state]\ndir = {state:?}\n")).unwrap();
    let log = refused(two);
    assert!(log.contains("another process"), "{log}");
    assert!(one.get("/readyz").is_some_and(|(code, _)| code == 200));
}

/// A dump with a damaged entry between two sound ones.
fn damaged_dump(path: &std::path::Path) {
    let entry = |n: i32, op: &str| {
        let ts = Bson::Timestamp(mongodb::bson::Timestamp { time: 1_700_000_000 + n as u32, increment: 1 });
        doc! {"ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": "d.c", "o": {"_id": n}, "o2": {"_id": n},
        "wall": Bson::DateTime(mongodb::bson::DateTime::from_millis(0))}
    };
    let mut file = std::fs::File::create(path).unwrap();
    for document in [entry(1, "i"), entry(2, "?"), entry(3, "i")] {
        let mut bytes = Vec::new();
        document.to_writer(&mut bytes).unwrap();
        file.write_all(&bytes).unwrap();
    }
}

#[test]
fn an_undecodable_entry_stops_is_skipped_or_is_kept_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("oplog.bson");
    damaged_dump(&dump);
    let run = |policy: &str| {
        let mut oplogue = Oplogue::new(&format!(
            "[sources.a]\ntype = \"bson-dump\"\npath = {dump:?}\n[sinks.out]\ntype = \"stdout\"\n\
             [sinks.letters]\ntype = \"stdout\"\n\
             [[routes]]\nname = \"out\"\nfrom = [\"a\"]\nto = [\"out\"]\n{policy}\n"
        ));
        oplogue.spawn();
        let status = oplogue.wait_exit();
        (status.code(), oplogue.events(), oplogue.log())
    };
    let (code, _, log) = run("");
    assert_eq!(code, Some(1));
    assert!(log.contains("1700000002") && log.contains("on_bad_event"), "{log}");

    let (code, events, log) = run("on_bad_event = \"skip\"");
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(events.iter().map(|e| e["key"]["_id"].clone()).collect::<Vec<_>>(), [1, 3]);
    assert!(log.contains("skipped"), "{log}");

    let (code, events, log) = run("on_bad_event = \"dead-letter\"\ndead_letter = \"letters\"");
    assert_eq!(code, Some(0), "{log}");
    let letter = events.iter().find(|e| e["op"] == "deadLetter").expect("a dead letter");
    assert_eq!(letter["detail"]["route"], "out");
    let kept = letter["detail"]["event"]["$binary"]["base64"].as_str().expect("the raw bytes");
    assert!(kept.len() > 50);
    assert_eq!(events.len(), 3);
}
