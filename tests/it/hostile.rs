//! A MongoDB that is harassed, and names and documents that nobody would choose.

use std::collections::HashSet;

use mongodb::bson::{Bson, Document, doc};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};
use serde_json::Value;

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::{source, to_redis},
    writer::{Writer, numbers},
};

/// A route that prints everything.
fn to_stdout(kind: &str, uri: &str) -> Oplogue {
    Oplogue::new(&format!(
        "{}\n[sinks.out]\ntype = \"stdout\"\n[[routes]]\nname = \"out\"\nfrom = [\"a\"]\nto = [\"out\"]\n",
        source(kind, uri)
    ))
}

async fn harassed(kind: &str) {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let redis = servers::redis().await;
    let db = unique("hostile");
    let channel = format!("{db}.c");
    let subscriber = Subscriber::start(&redis.url(), &channel).await;
    let mut oplogue = to_redis(kind, &mongo.uri(), &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for round in 0..3 {
        writer.write_more(30).await;
        let primary = mongo.wait_for_primary().await;
        let admin = mongo.direct_client(primary).await.database("admin");
        match round {
            0 => {
                // Every cursor that waits for the oplog, by its number.
                let ops = doc! {"aggregate": 1, "pipeline": [
                    {"$currentOp": {"idleCursors": true, "allUsers": true}}, {"$match": {"cursor.tailable": true}}
                ], "cursor": {}};
                let found = admin.run_command(ops).await.expect("currentOp");
                let found = found.get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
                let mut killed = 0;
                for op in &found {
                    let op = op.as_document().unwrap();
                    let ns = op.get_str("ns").unwrap();
                    let (db, coll) = ns.split_once('.').unwrap();
                    let id = op.get_document("cursor").unwrap().get_i64("cursorId").unwrap();
                    let db = admin.client().database(db);
                    killed += i32::from(db.run_command(doc! {"killCursors": coll, "cursors": [id]}).await.is_ok());
                }
                assert!(killed > 0, "{kind}: {found:?}");
            }
            1 => {
                admin.run_command(doc! {"killAllSessions": []}).await.expect("killAllSessions");
            }
            _ => {
                // All of them at once: nobody is left to answer.
                for member in 0..3 {
                    mongo.kill(member).await;
                }
                for member in 0..3 {
                    mongo.start_member(member).await;
                }
            }
        }
    }
    writer.write_more(30).await;
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| {
        let got: HashSet<_> = numbers(&subscriber.messages()).into_iter().collect();
        written.acknowledged.iter().all(|w| got.contains(w))
    });
    assert!(oplogue.terminate().success());
    subscriber.settle(&redis.url(), &channel).await;
    let mut got = numbers(&subscriber.messages());
    let distinct: HashSet<_> = got.iter().copied().collect();
    assert_eq!(distinct.len(), got.len(), "no message twice");
    got.retain(|w| !written.uncertain.contains(w));
    assert_eq!(got, written.acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_source_outlives_killed_cursors_and_sessions_and_the_death_of_all_members() {
    harassed("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_stream_source_outlives_killed_cursors_and_sessions_and_the_death_of_all_members() {
    harassed("mongo-change-stream").await;
}

/// A document whose sub-document is nested as deep as MongoDB allows on the way in.
fn nested(depth: usize) -> Document {
    (0..depth).fold(doc! {"end": "x"}, |inner, _| doc! {"d": inner})
}

const COLLECTIONS: [&str; 9] = [
    "ünïcødé ✓ 日本語 😀",
    "dots..and...dots",
    "new\nline\r\ttab",
    "quote\"back\\slash",
    "%s%00<script>&amp;",
    " leading and trailing ",
    "::1",
    "*?[a-z]{1}",
    "\u{202e}right to left\u{7f}\u{1}",
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_and_shapes_come_through_every_source_and_sink() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = servers::redis().await;
    let client = mongo.client().await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let name = unique("hostile-ü");
        let mut oplogue = Oplogue::new(&format!(
            r#"
            {}
            [sinks.out]
            type = "stdout"
            [sinks.meteor]
            type = "redis-oplog"
            url = "{}"
            metadata_prefix = "{name}::"
            [[routes]]
            name = "both"
            from = ["a"]
            to = ["out", "meteor"]
            "#,
            source(kind, &mongo.uri()),
            redis.url()
        ));
        oplogue.start();
        let db = client.database(&name);
        let longest = "L".repeat(255 - name.len() - 1);
        let mut names: Vec<&str> = COLLECTIONS.to_vec();
        names.push(&longest);
        let heard = Subscriber::start(&redis.url(), &format!("{name}.{}", COLLECTIONS[0])).await;
        for coll in &names {
            let coll = db.collection::<Document>(coll);
            coll.insert_one(doc! {"_id": 1, "": 0, "a.b": {"$c": 1, "": {"": 2}}, "$d": 3, "\n": "\u{0}\u{2028}"})
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            coll.insert_one(doc! {"_id": 2}).await.unwrap();
            coll.insert_one(doc! {"_id": 3, "deep": nested(95)}).await.unwrap();
            coll.insert_one(doc! {"_id": 4, "list": (0..5_000).collect::<Vec<i32>>(), "text": "\u{1}".repeat(1000)})
                .await
                .unwrap();
            coll.update_one(doc! {"_id": 2}, doc! {"$set": {"😀": {"": nested(90)}, "x": []}}).await.unwrap();
            coll.update_one(doc! {"_id": 4}, doc! {"$set": {"list.4999": Bson::Null, "list.0": {}}}).await.unwrap();
            coll.update_one(doc! {"_id": 4}, doc! {"$push": {"list": {"$each": [1], "$slice": -4000}}}).await.unwrap();
            let edit = doc! {"$replaceWith": {"$setField": {"field": "a.b", "input": "$$ROOT", "value": 7}}};
            coll.update_one(doc! {"_id": 1}, vec![edit]).await.unwrap();
            coll.replace_one(doc! {"_id": 1}, doc! {}).await.unwrap();
            coll.delete_one(doc! {"_id": 3}).await.unwrap();
        }
        // Gone, renamed, or both, with the events of before still on their way.
        let rename = doc! {"renameCollection": format!("{name}.{}", names[1]), "to": format!("{name}.new name"),
        "dropTarget": true};
        client.database("admin").run_command(rename).await.unwrap();
        db.collection::<Document>(names[2]).drop().await.unwrap();
        db.drop().await.unwrap();
        client.database(&format!("{name}-end")).collection("c").insert_one(doc! {"_id": "end"}).await.unwrap();

        oplogue.wait("told of the end", |o| o.events().iter().any(|e| e["key"]["_id"] == "end"));
        let ignored_or_sent = |o: &Oplogue| {
            ["delivered", "ignored"]
                .iter()
                .filter_map(|outcome| {
                    o.metric(&format!("oplogue_events_total{{outcome=\"{outcome}\",route=\"both/a->meteor\"}}"))
                })
                .sum::<f64>()
        };
        let printed = oplogue.events();
        oplogue.wait("done with Redis", |o| ignored_or_sent(o) == printed.len() as f64);
        assert!(oplogue.get("/readyz").is_some_and(|(code, _)| code == 200));
        assert!(oplogue.terminate().success());

        for coll in &names {
            let of_it: Vec<&Value> = printed.iter().filter(|e| e["ns"] == format!("{name}.{coll}").as_str()).collect();
            let ops: Vec<&str> =
                of_it.iter().filter(|e| e["key"].is_object()).map(|e| e["op"].as_str().unwrap()).collect();
            let expected =
                ["insert", "insert", "insert", "insert", "update", "update", "update", "update", "replace", "delete"];
            assert_eq!(ops, expected, "{kind} {coll:?}");
            let first = of_it.iter().find(|e| e["op"] == "insert").unwrap();
            assert_eq!(first["after"]["a.b"][""][""], 2, "{kind} {coll:?}");
            assert_eq!(first["after"]["\n"], "\u{0}\u{2028}");
        }
        assert!(printed.iter().any(|e| e["op"] == "rename"), "{kind}");
        assert!(printed.iter().any(|e| e["op"] == "dropDatabase"), "{kind}");
        heard.settle(&redis.url(), &format!("{name}.{}", COLLECTIONS[0])).await;
        let messages = heard.messages();
        assert_eq!(messages.len(), 10, "{kind}: {messages:?}");
        let first: Value = serde_json::from_str(&messages[0]).expect("JSON");
        assert_eq!(first["f"], serde_json::json!(["_id", "", "a.b", "$d", "\n"]), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_of_100_000_elements_is_changed_inside() {
    let mongo = servers::mongo().await;
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let db = unique("hostile");
        let mut oplogue = to_stdout(kind, &mongo.uri());
        oplogue.start();
        let coll = mongo.client().await.database(&db).collection::<Document>("c");
        coll.insert_one(doc! {"_id": 1, "a": vec![0; 100_000]}).await.unwrap();
        coll.update_one(doc! {"_id": 1}, doc! {"$set": {"a.99999": 5, "a.0": [1]}}).await.unwrap();
        coll.update_one(doc! {"_id": 1}, doc! {"$inc": {"a.$[]": 1}})
            .await
            .expect_err("an array cannot be incremented");
        coll.update_one(doc! {"_id": 1}, doc! {"$set": {"a.0": 0}}).await.unwrap();
        coll.update_one(doc! {"_id": 1}, doc! {"$inc": {"a.$[]": 1}}).await.unwrap();
        coll.update_one(doc! {"_id": 1}, vec![doc! {"$set": {"a": {"$slice": ["$a", 99_000]}}}]).await.unwrap();
        let of_it = |o: &Oplogue| {
            o.events().into_iter().filter(|e| e["ns"] == format!("{db}.c") && e["key"].is_object()).collect::<Vec<_>>()
        };
        oplogue.wait("told of all", |o| of_it(o).len() == 5);
        let events = of_it(&oplogue);
        assert_eq!(events[1]["update"]["set"]["a.99999"], 5, "{kind}");
        assert!(events[3]["update"]["set"].as_object().is_some_and(|s| !s.is_empty()), "{kind}");
        assert_eq!(events[4]["update"]["truncate"]["a"], 99_000, "{kind}: {}", &events[4].to_string()[..300]);
        assert!(oplogue.terminate().success());
    }
}
