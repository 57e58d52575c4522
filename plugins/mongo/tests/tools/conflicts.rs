use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use oplogue_api::Outcome;

use crate::pair::Pair;

/// A record of the link from the factory to the cloud, so many hours old.
async fn record(pair: &Pair, hours: i64, id: i32, more: Document) -> ObjectId {
    let oid = ObjectId::new();
    let mut record = doc! {
        "_id": oid,
        "at": DateTime::from_millis(DateTime::now().timestamp_millis() - hours * 3_600_000),
        "link": pair.link(0), "ns": format!("{}.c", pair.db), "key": id, "kind": "update-update", "policy": "last-write",
        "winner": &pair.nodes[0], "status": "resolved",
        "local": {"node": &pair.nodes[1], "op": "update", "doc": {"_id": id, "secret": "theirs"}},
        "remote": {"node": &pair.nodes[0], "op": "update", "doc": {"_id": id, "secret": "ours", "b": 1}},
    };
    record.extend(more);
    pair.conflicts().insert_one(record).await.unwrap();
    oid
}

async fn status(pair: &Pair, id: ObjectId) -> String {
    let record = pair.conflicts().find_one(doc! {"_id": id}).await.unwrap().expect("the record");
    record.get_str("status").unwrap().to_owned()
}

#[tokio::test]
async fn conflicts_are_listed_newest_first_and_filtered_without_documents() {
    let pair = Pair::new("").await;
    let old = record(&pair, 50, 1, doc! {}).await;
    let parked = record(&pair, 3, 2, doc! {"kind": "unique", "status": "parked", "winner": Bson::Null}).await;
    let new = record(&pair, 1, 3, doc! {"ns": format!("{}.d", pair.db)}).await;
    let elsewhere = doc! {"link": "x->y", "at": DateTime::now(), "status": "resolved"};
    pair.conflicts().insert_one(elsewhere).await.unwrap();
    let listed = |out: String| -> Vec<ObjectId> {
        let id = |line: &str| {
            let found: Vec<_> = [old, parked, new].into_iter().filter(|id| line.contains(&id.to_hex())).collect();
            assert_eq!(found.len(), 1, "{line}");
            found[0]
        };
        out.lines().map(id).collect()
    };
    let namespace = format!("ns={}.d", pair.db);
    for (given, expected) in [
        (&[][..], &[new, parked, old][..]),
        (&["status=parked"], &[parked]),
        (&["kind=update-update"], &[new, old]),
        (&["kind=update-update", "kind=unique"], &[new, parked, old]),
        (&["since=5h"], &[new, parked]),
        (&["limit=1"], &[new]),
        (&["route=factory-out"], &[new, parked, old]),
        (&["route=cloud-out"], &[]),
        (&[namespace.as_str()], &[new]),
    ] {
        let ran = pair.run("conflicts", "list", given, false).await;
        assert_eq!(ran.notes.contains("more than"), given.contains(&"limit=1"), "{}", ran.notes);
        let out = ran.expect(Outcome::Well);
        assert!(!out.contains("secret"), "{out}");
        assert_eq!(listed(out), expected, "{given:?}");
    }
    let table = pair.run("conflicts", "list", &[], true).await.expect(Outcome::Well);
    assert!(table.starts_with("ID  ") && table.lines().count() == 4 && !table.contains("secret"), "{table}");
    for wrong in ["limit=0", "since=soon", "route=none", "ns=app"] {
        let e = pair.run("conflicts", "list", &[wrong], false).await.result.unwrap_err();
        assert_eq!(e.field(), wrong.split('=').next(), "{e}");
    }
}

#[tokio::test]
async fn both_versions_are_shown() {
    let pair = Pair::new("").await;
    let id = format!("id={}", record(&pair, 1, 1, doc! {}).await.to_hex());
    let shown = pair.run("conflicts", "show", &[&id], true).await.expect(Outcome::Well);
    for part in ["theirs", "ours", "differences\n  secret\n", "remote  1\n", "policy    last-write"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = pair.run("conflicts", "show", &[&id], false).await.expect(Outcome::Well);
    assert!(json.contains(r#""doc":{"_id":1,"secret":"ours","b":1}"#) && json.lines().count() == 1, "{json}");
    let unknown = pair.run("conflicts", "show", &["id=nothing"], true).await.result.unwrap_err();
    assert_eq!(unknown.field(), Some("id"));
}

#[tokio::test]
async fn a_chosen_version_is_written_as_a_change_of_the_peer() {
    let pair = Pair::new("").await;
    let local = record(&pair, 1, 1, doc! {}).await;
    let gone = doc! {"node": &pair.nodes[0], "op": "delete", "doc": Bson::Null};
    let deleted = record(&pair, 1, 2, doc! {"kind": "update-delete", "remote": gone}).await;
    pair.at(1, "c").insert_one(doc! {"_id": 1, "secret": "ours", "b": 1}).await.unwrap();
    pair.at(1, "c").insert_one(doc! {"_id": 2, "x": 1}).await.unwrap();
    let id = |id: ObjectId| format!("id={}", id.to_hex());

    let e = pair.run("conflicts", "redrive", &[&id(local)], false).await.result.unwrap_err();
    assert_eq!(e.field(), Some("winner"), "{e}");
    let out = pair.run("conflicts", "redrive", &[&id(local), "winner=local"], false).await.expect(Outcome::Well);
    assert!(out.contains("the local version was written") && !out.contains("theirs"), "{out}");
    assert_eq!(pair.both("c", 1).await[1], Some(bson::rawdoc! {"_id": 1, "secret": "theirs"}));
    assert_eq!(status(&pair, local).await, "redriven");
    pair.run("conflicts", "redrive", &[&id(deleted), "winner=remote"], false).await.expect(Outcome::Well);
    assert_eq!(pair.both("c", 2).await[1], None);
    assert_eq!(status(&pair, deleted).await, "redriven");

    // Not as a replicator's: the transaction does not begin with a marker.
    let oplog = pair.cloud.database("local").collection::<Document>("oplog.rs");
    let ns = format!("{}.c", pair.db);
    let entry = oplog.find_one(doc! {"o.applyOps.ns": &ns}).await.unwrap().expect("a transaction");
    let first = entry.get_document("o").unwrap().get_array("applyOps").unwrap()[0].as_document().unwrap();
    assert_eq!(first.get_str("ns").unwrap(), ns);
}

#[tokio::test]
async fn what_was_parked_is_tried_again_and_stays_parked_while_it_is_refused() {
    let pair = Pair::new("").await;
    let parked = |doc: Bson| {
        let remote = doc! {"node": &pair.nodes[0], "op": "update", "doc": doc};
        doc! {"kind": "unique", "status": "parked", "winner": Bson::Null, "local": {"node": &pair.nodes[1]}, "remote": remote}
    };
    let coll = pair.at(1, "c");
    let index = mongodb::IndexModel::builder()
        .keys(doc! {"u": 1})
        .options(mongodb::options::IndexOptions::builder().unique(true).build())
        .build();
    coll.create_index(index).await.unwrap();
    coll.insert_one(doc! {"_id": 9, "u": "taken"}).await.unwrap();
    let refused = record(&pair, 2, 1, parked(Bson::Document(doc! {"_id": 1, "u": "taken"}))).await;
    // An update without a document: it is fetched from the factory.
    pair.at(0, "c").insert_one(doc! {"_id": 2, "u": "free"}).await.unwrap();
    let fetched = record(&pair, 1, 2, parked(Bson::Null)).await;
    let resolved = record(&pair, 1, 3, doc! {}).await;

    let ran = pair.run("conflicts", "redrive", &["all"], false).await;
    assert!(ran.notes.contains("a unique index refuses the document") && !ran.notes.contains("taken"), "{}", ran.notes);
    ran.expect(Outcome::Unwell);
    assert_eq!(status(&pair, refused).await, "parked");
    assert_eq!(status(&pair, fetched).await, "redriven");
    assert_eq!(status(&pair, resolved).await, "resolved");
    assert_eq!(pair.both("c", 2).await[1], Some(bson::rawdoc! {"_id": 2, "u": "free"}));
    assert_eq!(pair.both("c", 1).await[1], None);

    coll.delete_one(doc! {"_id": 9}).await.unwrap();
    pair.run("conflicts", "redrive", &["all", "kind=unique"], false).await.expect(Outcome::Well);
    assert_eq!(pair.both("c", 1).await[1], Some(bson::rawdoc! {"_id": 1, "u": "taken"}));
    assert_eq!(status(&pair, refused).await, "redriven");
    let none = pair.run("conflicts", "redrive", &["all"], false).await;
    assert!(none.notes.contains("no conflict matches"));
    assert_eq!(pair.run("conflicts", "redrive", &[], false).await.result.unwrap_err().field(), Some("id"));
}

/// Two documents that met over a unique value: the one that is chosen takes the place of the other.
#[tokio::test]
async fn a_unique_value_goes_to_the_other_document() {
    let pair = Pair::new("").await;
    let coll = pair.at(1, "c");
    let index = mongodb::IndexModel::builder()
        .keys(doc! {"u": 1})
        .options(mongodb::options::IndexOptions::builder().unique(true).build())
        .build();
    coll.create_index(index).await.unwrap();
    let there = doc! {"_id": 2, "u": "one"};
    let local = doc! {"node": &pair.nodes[1], "key": 2, "op": "insert", "doc": &there};
    let remote = doc! {"node": &pair.nodes[0], "op": "insert", "doc": {"_id": 1, "u": "one"}};
    let more =
        doc! {"kind": "unique", "status": "resolved", "winner": &pair.nodes[1], "local": local, "remote": remote};
    coll.insert_one(&there).await.unwrap();
    let first = record(&pair, 1, 1, more.clone()).await;
    let id = |id: ObjectId| format!("id={}", id.to_hex());
    let out = pair.run("conflicts", "redrive", &[&id(first), "winner=remote"], false).await.expect(Outcome::Well);
    assert!(
        out.contains("the remote version was written, and the document that had its unique value deleted"),
        "{out}"
    );
    assert_eq!(pair.both("c", 1).await[1], Some(bson::rawdoc! {"_id": 1, "u": "one"}));
    assert_eq!(pair.both("c", 2).await[1], None);
    // And back, where the other one has another value by now: it stays.
    coll.update_one(doc! {"_id": 1}, doc! {"$set": {"u": "two"}}).await.unwrap();
    let second = record(&pair, 1, 1, more).await;
    let out = pair.run("conflicts", "redrive", &[&id(second), "winner=local"], false).await.expect(Outcome::Well);
    assert!(out.contains("the local version was written") && !out.contains("deleted"), "{out}");
    assert_eq!(pair.both("c", 2).await[1], Some(bson::rawdoc! {"_id": 2, "u": "one"}));
    assert_eq!(pair.both("c", 1).await[1], Some(bson::rawdoc! {"_id": 1, "u": "two"}));
}

#[tokio::test]
async fn old_records_are_removed_and_parked_ones_only_when_asked_for() {
    let pair = Pair::new("").await;
    let old = record(&pair, 24 * 40, 1, doc! {}).await;
    let parked = record(&pair, 24 * 40, 2, doc! {"status": "parked"}).await;
    let new = record(&pair, 24 * 20, 3, doc! {}).await;
    let left = async || -> Vec<ObjectId> {
        let mut left = Vec::new();
        for id in [old, parked, new] {
            if pair.conflicts().find_one(doc! {"_id": id}).await.unwrap().is_some() {
                left.push(id);
            }
        }
        left
    };
    let out = pair.run("conflicts", "purge", &["older-than=30d"], false).await.expect(Outcome::Well);
    assert!(out.contains(&format!("{}: 1 removed", pair.link(0))), "{out}");
    assert_eq!(left().await, [parked, new]);
    pair.run("conflicts", "purge", &["older-than=30d", "status=parked"], false).await.expect(Outcome::Well);
    assert_eq!(left().await, [new]);
    let e = pair.run("conflicts", "purge", &["older-than=old"], false).await.result.unwrap_err();
    assert_eq!(e.field(), Some("older-than"));
}
