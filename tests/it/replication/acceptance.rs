//! The cases that earlier tools failed, one by one: nothing is lost, nothing comes back, nothing happens twice.

use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};

use super::mesh::{Logged, Mesh, Ops, text};

/// The cases of a pair and of a mesh.
async fn cases(mut mesh: Mesh) {
    mesh.router.start();
    let last = mesh.ends.len() - 1;
    // Quick updates of one document, all distinct.
    let coll = mesh.coll(0, "quick");
    coll.insert_one(doc! {"_id": 1}).await.unwrap();
    for n in 1..=20 {
        coll.update_one(doc! {"_id": 1}, doc! {"$set": {"n": n}}).await.unwrap();
    }
    // Deletes and inserts of the same id.
    let coll = mesh.coll(last, "again");
    for n in 0..50 {
        coll.insert_one(doc! {"_id": n, "first": true}).await.unwrap();
        coll.delete_one(doc! {"_id": n}).await.unwrap();
        coll.insert_one(doc! {"_id": n, "second": true}).await.unwrap();
    }
    // Names with dots and `$`, and an array that becomes shorter.
    let coll = mesh.coll(0, "names");
    coll.insert_one(doc! {"_id": 1, "arr": [1, 2, 3, {"x": 4}], "a": {"b": 1}}).await.unwrap();
    for name in [Bson::from("a.b"), Bson::Document(doc! {"$literal": "$x"}), "0".into()] {
        let set = doc! {"$replaceWith": {"$setField": {"field": name, "input": "$$ROOT", "value": "here"}}};
        coll.update_one(doc! {"_id": 1}, vec![set]).await.unwrap();
    }
    coll.update_one(doc! {"_id": 1}, vec![doc! {"$set": {"arr": {"$slice": ["$arr", 2]}}}]).await.unwrap();
    // A transaction over three collections, two of which it creates.
    mesh.coll(0, "x").insert_one(doc! {"_id": 0}).await.unwrap();
    let mut session = mesh.ends[0].client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for name in ["x", "y", "z"] {
        mesh.coll(0, name).insert_one(doc! {"_id": 1, "in": name}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    // An update that changes nothing leaves no entry.
    mesh.coll(0, "quick").update_one(doc! {"_id": 1}, doc! {"$set": {"n": 20}}).await.unwrap();
    mesh.settle().await;
    // Read, modify, replace, in turn.
    for n in 0..mesh.ends.len() * 2 {
        let coll = mesh.coll(n % mesh.ends.len(), "quick");
        let mut document = coll.find_one(doc! {"_id": 1}).await.unwrap().expect("it is here");
        document.insert(format!("turn{n}"), n as i32);
        coll.replace_one(doc! {"_id": 1}, document).await.unwrap();
        mesh.settle().await;
    }
    mesh.assert_equal("after the cases").await;

    let turns = mesh.ends.len() * 2;
    for n in 0..mesh.ends.len() {
        assert_eq!(mesh.coll(n, "again").count_documents(doc! {"second": true}).await.unwrap(), 50);
        let document = mesh.coll(n, "quick").find_one(doc! {"_id": 1}).await.unwrap().unwrap();
        assert_eq!((document.get_i32("n").unwrap(), document.len()), (20, 2 + turns));
        assert_eq!(mesh.conflicts(n).await, Vec::<Document>::new(), "end {n}");
    }
    mesh.assert_once("after the cases").await;
    // The transaction is one, at every end.
    for n in 0..mesh.ends.len() {
        let log = mesh.log(n).await;
        let times: Vec<_> = log
            .iter()
            .filter(|logged| logged.op.get_document("o").is_ok_and(|o| o.contains_key("in")))
            .map(|logged| logged.entry.get_timestamp("ts").unwrap())
            .collect();
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| *time == times[0]), "end {n}");
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_between_two() {
    cases(Mesh::pair().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_among_three() {
    cases(Mesh::of_three().await).await;
}

fn filling(n: usize) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![b'x'; n] })
}

/// A transaction that is no single entry of the log, at the origin and at the peer: its later entries do not begin with a
/// marker, and are not echoed either.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_an_entry_of_the_log() {
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    mesh.settle().await;
    let mut session = mesh.ends[0].client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..5 {
        let document = doc! {"_id": n, "data": filling(5_000_000)};
        mesh.coll(0, "large").insert_one(document).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    mesh.settle_equal("a large transaction").await;
    // What comes back would come now, by another round.
    mesh.settle().await;
    let five = Ops { inserts: 5, ..Ops::default() };
    assert_eq!(mesh.ops(0).await, [five, Ops::default()]);
    assert_eq!(mesh.ops(1).await, [Ops::default(), five]);
    assert!(mesh.router.terminate().success());
}

/// Documents as large as there are.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_the_greatest_size() {
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    // { _id: int, data: binary, n: int } is 42 bytes without what the binary holds.
    let mut document = doc! {"_id": 1, "data": filling(0), "n": 1};
    let room = 16 * 1024 * 1024 - mongodb::bson::serialize_to_vec(&document).unwrap().len();
    document.insert("data", filling(room));
    mesh.coll(0, "large").insert_one(document).await.expect("a document of 16 MB");
    mesh.coll(0, "large").update_one(doc! {"_id": 1}, doc! {"$set": {"n": 2}}).await.unwrap();
    mesh.settle_equal("a document of 16 MB").await;
    mesh.coll(1, "large").update_one(doc! {"_id": 1}, doc! {"$set": {"n": 3}}).await.unwrap();
    mesh.settle_equal("an update from the other side").await;
    let found = mesh.coll(0, "large").find_one(doc! {"n": 3}).await.unwrap();
    assert!(found.is_some());
    mesh.assert_once("large documents").await;
    assert!(mesh.router.terminate().success());
}

/// Each transaction of the replicator begins with its marker, and no two markers are equal: an equal one would not be in the
/// log, and the transaction would look like an application's.
#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_begins_with_a_marker_of_its_own() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    for n in 0..30 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n}).await.unwrap();
        if n % 10 == 0 {
            mesh.settle().await;
        }
    }
    mesh.settle_equal("plain inserts").await;
    let (_, id) = mesh.marker(0, 1);
    let mut seqs = Vec::new();
    for Logged { entry, .. } in mesh.log(1).await {
        if text(&entry, "op") == "c" && entry.get_document("o").is_ok_and(|o| !o.contains_key("applyOps")) {
            // DDL is recognised by other means.
            continue;
        }
        let first = entry.get_document("o").and_then(|o| o.get_array("applyOps")).expect("a transaction");
        let first = first[0].as_document().unwrap();
        assert_eq!(text(first, "ns"), "__mmm.markers");
        let marker = first.get_document("o").unwrap();
        assert_eq!(text(marker, "_id"), id);
        seqs.push((marker.get_i64("seq").unwrap(), entry.get_timestamp("ts").unwrap()));
    }
    seqs.dedup();
    assert!(seqs.len() > 2);
    assert!(seqs.windows(2).all(|two| two[0].0 < two[1].0), "{seqs:?}");
    assert!(mesh.router.terminate().success());
}
