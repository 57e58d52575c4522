//! What statements give as events, version by version.

use bson::{Document, doc};
use oplogue_api::{Change, Event, Op, oplog::apply};
use oplogue_testkit::{
    servers::{self, VERSIONS},
    unique,
};

use super::{documents, now, of_db, settle};
use crate::streams::{document, id_of};

/// `op id` of each event.
fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{} {}", e.op.name(), id_of(e.key.as_ref().unwrap()))).collect()
}

#[tokio::test]
async fn every_kind_of_write() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        let mut reader = now(mongo, "").await;
        coll.insert_one(doc! {"_id": 1, "x": 1}).await.unwrap();
        coll.insert_many([doc! {"_id": 2}, doc! {"_id": 3}]).await.unwrap();
        coll.update_one(doc! {"_id": 1}, doc! {"$inc": {"x": 1}}).await.unwrap();
        coll.update_one(doc! {"_id": 1}, doc! {"$set": {"x": 2}}).await.unwrap(); // without effect
        coll.update_many(doc! {"_id": {"$gt": 1}}, doc! {"$set": {"y": 1}}).await.unwrap();
        coll.update_one(doc! {"_id": 4}, doc! {"$set": {"z": 1}}).upsert(true).await.unwrap();
        coll.replace_one(doc! {"_id": 2}, doc! {"w": 1}).await.unwrap();
        coll.find_one_and_update(doc! {"_id": 2}, doc! {"$set": {"w": 2}}).await.unwrap();
        coll.find_one_and_delete(doc! {"_id": 3}).await.unwrap();
        coll.delete_many(doc! {}).await.unwrap();
        let events = documents(&mut reader, &db, 13).await;
        let expected = [
            "insert 1",
            "insert 2",
            "insert 3",
            "update 1",
            "update 2",
            "update 3",
            "insert 4",
            "replace 2",
            "update 2",
            "delete 3",
            "delete 1",
            "delete 2",
            "delete 4",
        ];
        assert_eq!(lines(&events), expected, "{version}");
        assert!(events.iter().all(|e| e.txn.is_none() && e.index == 0 && e.wall.is_some()), "{version}");
        assert!(events.windows(2).all(|w| w[0].id() < w[1].id()), "{version}");
        assert_eq!(document(events[7].after.as_ref().unwrap()), doc! {"_id": 2, "w": 1}, "{version}");
        let is_v1 = matches!(events[3].change, Some(Change::OplogV1(_)));
        assert_eq!(is_v1, *version == "4.4.2", "{version}: {:?}", events[3].change);
    }
}

#[tokio::test]
async fn diffs_of_a_server_applied_to_the_old_document_give_the_new() {
    let start =
        doc! {"_id": 1, "x": 1, "n": {"a": 1, "b": [1, 2, 3]}, "arr": [{"k": 1}, {"k": 2}], "p": 1, "q": [1, 2, 3, 4]};
    let updates = || {
        vec![
            vec![doc! {"$set": {"x": 2}}],
            vec![doc! {"$set": {"n.a": 5}}],
            vec![doc! {"$set": {"r.s.t": 5}}],
            vec![doc! {"$unset": {"p": 1}, "$set": {"x": 3, "new": 1, "n.b.0": 7}}],
            vec![doc! {"$push": {"arr": {"k": 3}}}],
            vec![doc! {"$set": {"arr.0.k": 9}}],
            vec![doc! {"$set": {"arr.5": 1}}],
            vec![doc! {"$pull": {"arr": {"k": 2}}}],
            vec![doc! {"$rename": {"x": "y"}}],
            vec![doc! {"$set": {"n.0": "not an index"}}],
            vec![doc! {"$set": {"q": {"$slice": ["$q", 2]}}}],
            vec![doc! {"$unset": "n.b"}, doc! {"$set": {"n.c": ["$y"]}}],
            vec![doc! {"$replaceWith": {"$setField": {"field": "a.b", "input": "$$ROOT", "value": 5}}}],
            vec![doc! {"$replaceWith": {"$setField": {"field": {"$literal": "$d"}, "input": "$$ROOT", "value": 6}}}],
        ]
    };
    for version in ["5.0.4", "6.0.5", "6.0.27"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        let mut reader = now(mongo, "").await;
        // Large enough that a diff is smaller than a replacement.
        let mut before = start.clone();
        before.insert("fill", "x".repeat(1000));
        coll.insert_one(&before).await.unwrap();
        let mut states = vec![before];
        for update in updates() {
            let pipeline = update.len() > 1
                || update[0].keys().any(|k| k == "$replaceWith")
                || update[0].get_document("$set").is_ok_and(|s| s.get_document("q").is_ok());
            let filter = doc! {"_id": 1};
            if pipeline {
                coll.update_one(filter, update).await.unwrap();
            } else {
                coll.update_one(filter, update[0].clone()).await.unwrap();
            }
            states.push(coll.find_one(doc! {"_id": 1}).await.unwrap().unwrap());
        }
        let events = documents(&mut reader, &db, states.len()).await;
        for (event, pair) in events[1..].iter().zip(states.windows(2)) {
            let Some(Change::OplogV2(diff)) = &event.change else { panic!("{version}: {:?} to {}", event.op, pair[1]) };
            let after = apply(diff, &bson::RawDocumentBuf::try_from(&pair[0]).unwrap()).unwrap();
            assert_eq!(Document::try_from(after).unwrap(), pair[1], "{version}: {}", document(diff));
        }
        let exact = events[13].change.as_ref().unwrap().decode().unwrap();
        assert_eq!(exact.set[0].0, oplogue_api::Path::Exact(vec![oplogue_api::PathPart::Field("a.b")]), "{version}");
    }
}

#[tokio::test]
async fn commands_are_barriers_in_their_place() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let database = client.database(&db);
        let coll = database.collection::<Document>("c");
        let mut reader = now(mongo, "").await;
        coll.insert_one(doc! {"_id": 1}).await.unwrap();
        database.run_command(doc! {"createIndexes": "c", "indexes": [{"key": {"x": 1}, "name": "x_1"}]}).await.unwrap();
        database.run_command(doc! {"dropIndexes": "c", "index": "x_1"}).await.unwrap();
        database.run_command(doc! {"collMod": "c", "validationLevel": "off"}).await.unwrap();
        database.run_command(doc! {"create": "view", "viewOn": "c", "pipeline": []}).await.unwrap();
        let rename = doc! {"renameCollection": format!("{db}.c"), "to": format!("{db}.d")};
        client.database("admin").run_command(rename).await.unwrap();
        database.collection::<Document>("d").insert_one(doc! {"_id": 2}).await.unwrap();
        let mut out = database.collection::<Document>("d").aggregate([doc! {"$out": "o"}]).await.unwrap();
        assert!(!out.advance().await.unwrap());
        database.collection::<Document>("o").drop().await.unwrap();
        settle(&mut reader, &client, &db).await;
        database.drop().await.unwrap();
        reader.until("the end of the database", |r| of_db(r, &db).iter().any(|e| e.op == Op::DropDatabase)).await;

        let show = |e: &&Event| {
            let coll = if e.ns.coll().starts_with("tmp") { "TMP" } else { e.ns.coll() };
            let to = e.to.as_ref().map(|to| format!(" -> {}", to.coll())).unwrap_or_default();
            format!("{} {coll}{to}", e.op.name())
        };
        let lines: Vec<String> = of_db(&reader, &db).iter().map(show).collect();
        let until_marker = lines.iter().position(|l| l == "create settled").unwrap();
        let expected = [
            "create c",
            "insert c",
            "index c",
            "index c",
            "other c",
            "create view",
            "rename c -> d",
            "insert d",
            "rename TMP -> o",
            "drop o",
        ];
        assert_eq!(lines[..until_marker], expected, "{version}");
        assert_eq!(lines.last().unwrap(), "dropDatabase ", "{version}");
    }
}

#[tokio::test]
async fn internal_namespaces_come_when_asked_for() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let mut reader = now(mongo, "include_system = true").await;
    let mut without = now(mongo, "").await;
    client.database(&db).run_command(doc! {"create": "view", "viewOn": "c", "pipeline": []}).await.unwrap();
    settle(&mut reader, &client, &db).await;
    settle(&mut without, &client, &db).await;
    assert!(of_db(&reader, &db).iter().any(|e| e.ns.coll() == "system.views" && e.op == Op::Insert));
    assert!(without.events.iter().all(|e| !e.ns.is_system()));
}

#[tokio::test]
async fn an_atomic_apply_ops_of_a_user_is_unwound() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    coll.insert_one(doc! {"_id": 0}).await.unwrap();
    let mut reader = now(mongo, "").await;
    let ns = format!("{db}.c");
    let ops = [
        doc! {"op": "i", "ns": &ns, "o": {"_id": 1}},
        doc! {"op": "u", "ns": &ns, "o": {"$v": 2, "diff": {"u": {"x": 1}}}, "o2": {"_id": 1}},
        doc! {"op": "d", "ns": &ns, "o": {"_id": 0}},
    ];
    client.database("admin").run_command(doc! {"applyOps": ops}).await.unwrap();
    let events = documents(&mut reader, &db, 3).await;
    assert_eq!(lines(&events), ["insert 1", "update 1", "delete 0"]);
    assert!(events.iter().all(|e| e.txn.is_none() && e.time == events[0].time));
    assert_eq!(events.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1, 2]);
}
