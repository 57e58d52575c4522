//! Disks that are full, folders that are gone, checkpoint files that are damaged.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
};

use mongodb::bson::{Document, doc};
use oplogue_testkit::{servers, unique};

use crate::{process::Oplogue, support::source};

/// A route from a database to stdout, with the checkpoint in a file.
fn to_stdout(uri: &str, db: &str) -> Oplogue {
    Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.*"]
        operations = ["insert"]
        [sinks.out]
        type = "stdout"
        [[routes]]
        name = "out"
        from = ["a"]
        via = ["mine"]
        to = ["out"]
        [engine]
        checkpoint_interval = "100ms"
        "#,
        source("mongo-oplog", uri)
    ))
}

fn checkpoint(oplogue: &Oplogue) -> PathBuf {
    oplogue.dir.path().join("state/out.checkpoint.json")
}

async fn insert(db: &str, id: i32) {
    let coll = servers::mongo().await.client().await.database(db).collection::<Document>("c");
    coll.insert_one(doc! {"_id": id}).await.expect("an insert");
}

fn ids(oplogue: &Oplogue) -> Vec<i64> {
    oplogue.events().iter().map(|e| e["key"]["_id"].as_i64().expect("an integer id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_behind_stdout_is_waited_for_and_nothing_is_lost() {
    let db = unique("disk");
    let mut oplogue = to_stdout(&servers::mongo().await.uri(), &db);
    // A first run makes the checkpoint.
    oplogue.start();
    assert!(oplogue.terminate().success());
    let log = File::create(oplogue.dir.path().join("log")).unwrap();
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut child = Command::new(env!("CARGO_BIN_EXE_oplogue"))
        .arg("run")
        .arg(oplogue.config())
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    insert(&db, 1).await;
    oplogue_testkit::wait_for("/readyz to tell of the disk", || async {
        oplogue.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains("make room on the disk"))
    })
    .await;
    let delivered = oplogue.metric("oplogue_events_total{outcome=\"delivered\",route=\"out\"}");
    assert!(matches!(delivered, None | Some(0.0)), "{delivered:?}");
    let stop = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status();
    assert!(stop.is_ok_and(|s| s.success()));
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().expect("it ends");
    assert_eq!(status.code(), Some(0));
    // With room again.
    oplogue.start();
    oplogue.wait("told of the insert", |o| ids(o) == [1]);
    assert!(oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_file_stops_the_route_with_the_remedy_and_is_left_alone() {
    let db = unique("disk");
    let mut oplogue = to_stdout(&servers::mongo().await.uri(), &db);
    oplogue.start();
    insert(&db, 1).await;
    oplogue.wait("told of the insert", |o| ids(o) == [1]);
    assert!(oplogue.terminate().success());
    let sound = fs::read(checkpoint(&oplogue)).expect("a checkpoint");
    insert(&db, 2).await;
    let text = String::from_utf8(sound.clone()).unwrap();
    let foreign = text.replace("\"route\": \"out\"", "\"route\": \"other\"");
    assert_ne!(foreign, text);
    let damages: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("truncated", sound[..sound.len() / 2].to_vec()),
        ("zeros", vec![0; sound.len()]),
        ("of another route", foreign.into_bytes()),
        ("no token", b"{\"version\": 1, \"route\": \"out\", \"generation\": 5}".to_vec()),
        ("not UTF-8", vec![0xff, 0xfe, 0x00]),
    ];
    for (what, bytes) in damages {
        fs::write(checkpoint(&oplogue), &bytes).unwrap();
        oplogue.spawn();
        assert_eq!(oplogue.wait_exit().code(), Some(1), "{what}");
        let log = oplogue.log();
        let last = log.lines().rfind(|l| l.contains("damaged")).unwrap_or_else(|| panic!("{what}: {log}"));
        assert!(last.contains("position reset") || log.contains("position reset"), "{what}: {log}");
        assert_eq!(fs::read(checkpoint(&oplogue)).unwrap(), bytes, "{what}: left alone");
        assert_eq!(ids(&oplogue), [1], "I4: {what}");
    }
    fs::write(checkpoint(&oplogue), &sound).unwrap();
    oplogue.start();
    oplogue.wait("told of the insert meanwhile", |o| ids(o) == [1, 2]);
    assert!(oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_that_is_none_stops_the_route_with_the_remedy() {
    let mut oplogue = to_stdout(&servers::mongo().await.uri(), &unique("disk"));
    fs::write(oplogue.dir.path().join("state"), "a file").unwrap();
    oplogue.spawn();
    assert_eq!(oplogue.wait_exit().code(), Some(1));
    let log = oplogue.log();
    assert!(log.contains("state") && log.contains("`dir`"), "{log}");
}

/// Somebody cleans up too much: the route either goes on keeping its place or says that it is gone, and passes nothing over.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_removed_while_running_is_noticed() {
    let db = unique("disk");
    let mut oplogue = to_stdout(&servers::mongo().await.uri(), &db);
    oplogue.start();
    insert(&db, 1).await;
    oplogue.wait("told of the insert", |o| ids(o) == [1]);
    oplogue.wait("keeping its place", |o| checkpoint(o).exists());
    fs::remove_dir_all(oplogue.dir.path().join("state")).expect("a folder of state");
    insert(&db, 2).await;
    assert_eq!(oplogue.wait_exit().code(), Some(1));
    let log = oplogue.log();
    assert!(log.contains("is gone") && log.contains("put the file back"), "{log}");
}
