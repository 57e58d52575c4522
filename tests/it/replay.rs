//! `oplogue replay`: dead letters and captures, through the routes once more.

use std::path::Path;

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions},
    unique,
};

use crate::{
    cli::{Done, run},
    process::Oplogue,
    subscriber::Subscriber,
};

async fn replay(config: &Path, arguments: &[&str]) -> Done {
    let config = config.to_str().expect("UTF-8");
    run(&[&["replay", config], arguments].concat()).await
}

/// A user of Redis may publish to some channels only: what is refused goes to a file, and is replayed when the right is there.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_delivered_when_their_trouble_is_mended() {
    let (mongo, redis) = (servers::mongo().await, Redis::start(RedisOptions::default()).await);
    let db = unique("replay");
    let mut connection = redis.connection().await;
    let mut allow = async |channel: &str| {
        let mut set = redis::cmd("ACL");
        set.arg("SETUSER").arg("some").arg("on").arg(">secret").arg("~*").arg("+@all").arg(format!("&{channel}"));
        set.query_async::<()>(&mut connection).await.expect("a user");
    };
    allow(&format!("{db}.ok*")).await;
    let dir = tempfile::tempdir().unwrap();
    let letters = dir.path().join("letters.bson");
    let mut oplogue = Oplogue::new(&format!(
        r#"
        [sources.a]
        type = "mongo-oplog"
        uri = "{}"
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.*"]
        [sinks.meteor]
        type = "redis-oplog"
        url = "redis://some:secret@{}"
        on_refused = "bad-event"
        [sinks.letters]
        type = "file"
        path = {letters:?}
        [[routes]]
        name = "publish"
        from = ["a"]
        via = ["mine"]
        to = ["meteor"]
        on_bad_event = "dead-letter"
        dead_letter = "letters"
        "#,
        mongo.uri(),
        redis.addr()
    ));
    oplogue.start();
    let client = mongo.client().await;
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.ok")).await;
    let secret = Subscriber::start(&redis.url(), &format!("{db}.secret")).await;
    for n in 0..3 {
        for coll in ["ok", "secret"] {
            client.database(&db).collection::<Document>(coll).insert_one(doc! {"_id": n}).await.unwrap();
        }
    }
    oplogue.wait("three letters", |o| {
        o.metric("oplogue_events_total{outcome=\"dead_letter\",route=\"publish\"}") == Some(3.0)
            && subscriber.count() == 3
    });
    assert!(oplogue.terminate().success());
    let file = letters.to_str().unwrap();

    let shown = replay(&oplogue.config(), &[file, "--dry-run"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let lines: Vec<serde_json::Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|e| (e["ns"].clone(), e["key"]["_id"].clone(), e["source"].clone())).collect();
    let ns = serde_json::Value::from(format!("{db}.secret"));
    assert_eq!(told, [0, 1, 2].map(|n| (ns.clone(), n.into(), "publish".into())));
    assert!(shown.stderr.contains("3 would be delivered"), "{}", shown.stderr);

    // Still not allowed: they are refused again, and kept.
    let left = dir.path().join("left.bson");
    let refused = replay(&oplogue.config(), &[file, "--left", left.to_str().unwrap()]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("3 refused"), "{}", refused.stderr);

    allow(&format!("{db}.secret*")).await;
    // Later changes are published meanwhile: that must not make the old ones count as delivered.
    oplogue.start();
    client.database(&db).collection::<Document>("ok").insert_one(doc! {"_id": "later"}).await.unwrap();
    oplogue.wait("the later one", |_| subscriber.count() == 4);
    assert!(oplogue.terminate().success());
    for round in 0..2 {
        let delivered = replay(&oplogue.config(), &[left.to_str().unwrap()]).await;
        assert_eq!(delivered.code, Some(0), "{}", delivered.stderr);
        assert!(delivered.stderr.contains("3 delivered"), "{}", delivered.stderr);
        secret.settle(&redis.url(), &format!("{db}.secret")).await;
        assert_eq!(secret.count(), 3 * (round + 1), "each time anew");
    }
    assert_eq!(subscriber.count(), 4);
    // Nothing of the replay stays in Redis.
    let keys: Vec<String> = redis::cmd("KEYS").arg("*replay)*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, [""; 0]);
}

/// A route that is captured, and run through another configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_is_run_through_another_configuration() {
    let mongo = servers::mongo().await;
    let db = unique("replay");
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("capture.bson");
    let mut oplogue = Oplogue::new(&format!(
        "[sources.a]\ntype = \"mongo-change-stream\"\nuri = \"{}\"\n[transforms.mine]\ntype = \"filter\"\nnamespaces = [\"{db}.*\"]\n\
         [sinks.capture]\ntype = \"file\"\npath = {capture:?}\n[[routes]]\nname = \"c\"\nfrom = [\"a\"]\nvia = [\"mine\"]\nto = [\"capture\"]\n",
        mongo.uri()
    ));
    oplogue.start();
    let client = mongo.client().await;
    let (kept, other) = (client.database(&db).collection::<Document>("kept"), client.database(&db).collection("other"));
    for n in 0..100 {
        kept.insert_one(doc! {"_id": n}).await.unwrap();
        other.insert_one(doc! {"_id": n, "x": "y"}).await.unwrap();
        kept.update_one(doc! {"_id": n}, doc! {"$set": {"n": n}}).await.unwrap();
        if n == 50 {
            // A document that is cut in two must not end the file.
            oplogue.kill();
            oplogue.start();
        }
    }
    oplogue.wait("all of them", |o| o.metric("oplogue_events_total{outcome=\"delivered\",route=\"c\"}") >= Some(100.0));
    kept.delete_one(doc! {"_id": 0}).await.unwrap();
    let through = Oplogue::new(&format!(
        "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://nowhere.invalid\"\n[transforms.some]\ntype = \"filter\"\n\
         namespaces = [\"{db}.kept\"]\noperations = [\"update\", \"delete\"]\n[sinks.meteor]\ntype = \"redis-oplog\"\nurl = \"redis://nowhere.invalid\"\n\
         [[routes]]\nname = \"publish\"\nfrom = [\"a\"]\nvia = [\"some\"]\nto = [\"meteor\"]\n"
    ));
    let mut ids = Vec::new();
    oplogue_testkit::wait_for("the delete in the file", || async {
        std::fs::read(&capture).unwrap().windows(6).any(|w| w == b"delete")
    })
    .await;
    let shown = replay(&through.config(), &[capture.to_str().unwrap(), "--dry-run"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for line in shown.stdout.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["ns"], format!("{db}.kept"));
        ids.push((event["op"].as_str().unwrap().to_owned(), event["key"]["_id"].as_i64().unwrap()));
    }
    // After the kill some came again.
    ids.dedup();
    let updates: std::collections::BTreeSet<_> = ids.iter().filter(|(op, _)| op == "update").map(|(_, n)| *n).collect();
    assert_eq!(updates.into_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert_eq!(ids.last().unwrap(), &("delete".to_owned(), 0));
    assert!(oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = Oplogue::new(
        "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://nowhere.invalid\"\n[sinks.out]\ntype = \"stdout\"\n\
         [sinks.cloud]\ntype = \"mongo-mmm\"\nuri = \"mongodb://nowhere.invalid\"\nnode = \"a\"\npeer = \"b\"\n\
         [[routes]]\nname = \"out\"\nfrom = [\"a\"]\nto = [\"out\"]\n[[routes]]\nname = \"cloud\"\nfrom = [\"a\"]\nto = [\"cloud\"]\n",
    );
    let event = doc! {"op": "insert", "ns": "a.b", "key": {"_id": 1}, "after": {"_id": 1}, "time": mongodb::bson::Timestamp {time: 5, increment: 1}};
    let letter = |route: &str, event: Document| {
        let raw = doc! {"route": route, "error": "x", "event": event};
        doc! {"op": "deadLetter", "ns": "a.b", "time": mongodb::bson::Timestamp {time: 5, increment: 1}, "raw": raw}
    };
    let bytes = |documents: &[Document]| -> Vec<u8> {
        documents.iter().flat_map(|d| mongodb::bson::serialize_to_vec(d).unwrap()).collect()
    };
    let file = dir.path().join("events.bson");
    let path = file.to_str().unwrap().to_owned();
    type Case<'a> = (&'a str, Vec<u8>, &'a [&'a str], i32, &'a str);
    let cases: [Case<'_>; 8] = [
        ("no file", vec![], &["--route", "out"], 0, "nothing to replay"),
        ("json", b"{\"op\":\"insert\"}\n".to_vec(), &["--route", "out"], 1, "no BSON document"),
        ("torn", bytes(std::slice::from_ref(&event))[..40].to_vec(), &["--route", "out"], 1, "breaks off"),
        ("no event", bytes(&[doc! {"op": "insert", "ns": "a.b"}]), &["--route", "out"], 1, "has no `time`"),
        ("another route", bytes(&[letter("gone", event.clone())]), &[], 2, "there is no route `gone`"),
        (
            "another transform",
            bytes(&[{
                let mut l = letter("out", event.clone());
                l.get_document_mut("raw").unwrap().insert("by", "mend");
                l
            }]),
            &[],
            1,
            "no transform `mend`",
        ),
        ("replication", bytes(&[letter("cloud", event.clone())]), &[], 1, "oplogue conflicts redrive"),
        ("good", bytes(&[letter("out", event.clone())]), &[], 0, "1 delivered"),
    ];
    for (name, content, arguments, code, told) in cases {
        std::fs::write(&file, content).unwrap();
        let all: Vec<&str> = std::iter::once(path.as_str()).chain(arguments.iter().copied()).collect();
        let done = replay(&config.config(), &all).await;
        assert_eq!(done.code, Some(code), "{name}: {}", done.stderr);
        assert!(done.stderr.contains(told), "{name}: {}", done.stderr);
    }
    let missing = replay(&config.config(), &["/nowhere/events.bson"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("cannot be opened"), "{}", missing.stderr);
}
