use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId};
use mongodb::IndexModel;
use oplogue_api::Outcome;

use crate::pair::Pair;

/// The links do not run: they are idle after a moment.
const SOON: &str = "settle=300ms";

/// The lines about documents, as `id: state`.
fn lines(out: &str) -> Vec<String> {
    let read = |line: &str| serde(line);
    let mut all: Vec<_> = out
        .lines()
        .map(read)
        .filter(|line| line.contains_key("id"))
        .map(|line| format!("{}: {}", line["id"], line.get_str("state").unwrap()))
        .collect();
    all.sort();
    all
}

fn serde(line: &str) -> Document {
    let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    // Ids of these tests need no types.
    bson::serialize_to_document(&value).expect("an object")
}

fn counts(out: &str, coll: &str) -> Document {
    let is_it = |line: &Document| line.contains_key("documents") && line.get_str("ns").unwrap().ends_with(coll);
    out.lines().map(serde).find(is_it).expect("the counts of the collection")
}

#[tokio::test]
async fn equal_ends_are_equal_whatever_their_ids() {
    let pair = Pair::new("").await;
    let ids = [
        Bson::Int32(1),
        Bson::Double(1.5),
        Bson::String("x".into()),
        Bson::Null,
        Bson::ObjectId(ObjectId::new()),
        Bson::Document(doc! {"a": 1, "b": "y"}),
        Bson::DateTime(DateTime::from_millis(5)),
        Bson::Boolean(true),
        Bson::MinKey,
        Bson::MaxKey,
    ];
    // More than a range, so that ranges begin at ids of several types.
    let mut documents: Vec<_> = (10..5_500).map(|n| doc! {"_id": n, "n": n}).collect();
    documents.extend((0..5_500).map(|n| doc! {"_id": format!("s{n}")}));
    documents.extend(ids.into_iter().map(|id| doc! {"_id": id, "a": {"b": [1, 2]}}));
    for end in 0..2 {
        pair.at(end, "c").insert_many(&documents).await.unwrap();
    }
    pair.at(0, "system.no").clone_with_type::<Document>();
    let ran = pair.run("verify", "", &[SOON], false).await;
    assert_eq!(ran.notes, "");
    let out = ran.expect(Outcome::Well);
    let count = counts(&out, ".c");
    assert_eq!(out.lines().count(), 1, "{out}");
    let documents = documents.len() as i64;
    let expected = doc! {pair.nodes[0].as_str(): documents, pair.nodes[1].as_str(): documents};
    assert_eq!(count.get_document("documents").unwrap(), &expected);
}

#[tokio::test]
async fn each_difference_is_told_by_its_id() {
    let pair = Pair::new("").await;
    let (here, there) = (pair.at(0, "c"), pair.at(1, "c"));
    for n in 0..100 {
        for coll in [&here, &there] {
            coll.insert_one(doc! {"_id": n, "a": 1, "b": 2, "hidden": "content"}).await.unwrap();
        }
    }
    there.delete_one(doc! {"_id": 3}).await.unwrap();
    here.delete_one(doc! {"_id": 4}).await.unwrap();
    there.replace_one(doc! {"_id": 5}, doc! {"_id": 5, "b": 2, "a": 1, "hidden": "content"}).await.unwrap();
    there.update_one(doc! {"_id": 6}, doc! {"$set": {"a": 1.0}}).await.unwrap();
    there.insert_one(doc! {"_id": "text"}).await.unwrap();
    pair.at(0, "only").insert_one(doc! {"_id": 1}).await.unwrap();
    let ran = pair.run("verify", "", &[SOON], false).await;
    assert!(!ran.notes.contains("content") && ran.notes.contains("did not move"), "{}", ran.notes);
    let out = ran.expect(Outcome::Unwell);
    let [a, b] = &pair.nodes;
    let expected = [
        format!("\"text\": only at {b}"),
        format!("1: only at {a}"),
        format!("3: only at {a}"),
        format!("4: only at {b}"),
        "5: differs".to_owned(),
        "6: differs".to_owned(),
    ];
    assert_eq!(lines(&out), expected, "{out}");
    assert!(!out.contains("content"));
    assert_eq!(counts(&out, ".c").get("differing"), Some(&Bson::Int64(5)));
    assert!(out.contains(&format!(r#""schema":"collection","state":"only at {a}""#)), "{out}");
    // Narrowed down, and for people.
    let only = format!("ns={}.only", pair.db);
    let table = pair.run("verify", "", &[&only, "rate=1MB/s", SOON], true).await.expect(Outcome::Unwell);
    assert!(table.contains(&format!("1  only at {a}\n")) && !table.contains(".c "), "{table}");
}

#[tokio::test]
async fn indexes_and_options_are_compared_too() {
    let pair = Pair::new("").await;
    for end in 0..2 {
        pair.at(end, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    }
    pair.at(0, "c").create_index(IndexModel::builder().keys(doc! {"a": 1}).build()).await.unwrap();
    let modify = doc! {"collMod": "c", "validator": {"a": {"$exists": true}}};
    pair.cloud.database(&pair.db).run_command(modify).await.unwrap();
    let view = doc! {"create": "v", "viewOn": "c", "pipeline": []};
    pair.cloud.database(&pair.db).run_command(view).await.unwrap();
    let ran = pair.run("verify", "", &[SOON], true).await;
    assert!(ran.notes.contains("v is not compared: it is a view"), "{}", ran.notes);
    let out = ran.expect(Outcome::Well);
    for part in ["c  options: differs", &format!("c  index a_1: only at {}", pair.nodes[0]), "v  collection: only at"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[tokio::test]
async fn a_stamp_is_no_difference() {
    for (more, outcome) in [("", Outcome::Unwell), ("stamp = \"document\"", Outcome::Well)] {
        let pair = Pair::new(more).await;
        pair.at(0, "c").insert_one(doc! {"_id": 1, "a": 1}).await.unwrap();
        pair.at(1, "c").insert_one(doc! {"_id": 1, "a": 1, "__mmm": {"o": "x", "h": 5i64}}).await.unwrap();
        pair.run("verify", "", &[SOON], false).await.expect(outcome);
    }
}

#[tokio::test]
async fn a_repair_follows_the_policy_and_is_no_change_of_the_peer() {
    let pair = Pair::new("").await;
    // Without a priority, the greater name: that of the factory.
    let (here, there) = (pair.at(0, "c"), pair.at(1, "c"));
    here.insert_one(doc! {"_id": 1, "v": "factory"}).await.unwrap();
    there.insert_one(doc! {"_id": 1, "v": "cloud"}).await.unwrap();
    here.insert_one(doc! {"_id": 2}).await.unwrap();
    there.insert_one(doc! {"_id": 3, "x": "cloud"}).await.unwrap();
    there.insert_one(doc! {"_id": 4}).await.unwrap();
    let tombstone = doc! {"_id": {"ns": format!("{}.c", pair.db), "id": 4}, "at": DateTime::now()};
    pair.factory.database("__mmm").collection("tombstones").insert_one(tombstone).await.unwrap();

    pair.run("verify", "", &["repair", SOON], false).await.expect(Outcome::Well);
    let expected = [
        (1, Some(bson::rawdoc! {"_id": 1, "v": "factory"})),
        (2, Some(bson::rawdoc! {"_id": 2})),
        (3, Some(bson::rawdoc! {"_id": 3, "x": "cloud"})),
        (4, None::<RawDocumentBuf>),
    ];
    for (id, document) in expected {
        assert_eq!(pair.both("c", id).await, [document.clone(), document], "{id}");
    }
    assert_eq!(pair.run("verify", "", &[SOON], false).await.expect(Outcome::Well).lines().count(), 1);

    let records: Vec<_> = records(&pair).await;
    assert_eq!(records, ["copy 2", "copy 3", "name 1", "tombstone 4"]);
    // Every transaction that wrote the data begins with a marker of the link.
    let ns = format!("{}.c", pair.db);
    for (client, link, writes) in [(&pair.cloud, pair.link(0), 3), (&pair.factory, pair.link(1), 1)] {
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let mut cursor = oplog.find(doc! {"o.applyOps.ns": &ns}).await.unwrap();
        let mut found = 0;
        while cursor.advance().await.unwrap() {
            let entry = cursor.deserialize_current().unwrap();
            let first =
                entry.get_document("o").unwrap().get_array("applyOps").unwrap()[0].as_document().unwrap().clone();
            assert_eq!(first.get_str("ns").unwrap(), "__mmm.markers");
            assert_eq!(first.get_document("o").unwrap().get_str("node").unwrap(), link.split("->").next().unwrap());
            found += 1;
        }
        assert_eq!(found, writes, "{link}");
    }
}

/// `policy key` of all records of repairs of this pair.
async fn records(pair: &Pair) -> Vec<String> {
    let mut all = Vec::new();
    for (client, link) in [(&pair.cloud, pair.link(0)), (&pair.factory, pair.link(1))] {
        let coll = client.database("__mmm").collection::<Document>("conflicts");
        let mut cursor = coll.find(doc! {"link": link, "kind": "repair"}).await.unwrap();
        while cursor.advance().await.unwrap() {
            let record = cursor.deserialize_current().unwrap();
            all.push(format!("{} {}", record.get_str("policy").unwrap(), record.get("key").unwrap()));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn priority_and_one_way_links_decide_as_they_say() {
    let mut pair = Pair::new("").await;
    pair.prefer(1);
    for (end, v) in [(0, "factory"), (1, "cloud")] {
        pair.at(end, "c").insert_one(doc! {"_id": 1, "v": v}).await.unwrap();
    }
    pair.run("verify", "", &["repair", SOON], false).await.expect(Outcome::Well);
    let cloud = Some(bson::rawdoc! {"_id": 1, "v": "cloud"});
    assert_eq!(pair.both("c", 1).await, [cloud.clone(), cloud]);

    pair.at(1, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"v": "other"}}).await.unwrap();
    pair.at(1, "c").insert_one(doc! {"_id": 2}).await.unwrap();
    let out = pair.run("verify", "", &["repair", "route=factory-out", SOON], false).await.expect(Outcome::Unwell);
    let cloud = Some(bson::rawdoc! {"_id": 1, "v": "cloud"});
    assert_eq!(pair.both("c", 1).await, [cloud.clone(), cloud]);
    assert_eq!(pair.both("c", 2).await, [None, Some(bson::rawdoc! {"_id": 2})]);
    assert!(out.contains("not repaired: the link is one-way"), "{out}");
}

#[tokio::test]
async fn what_the_loser_refuses_is_told_and_left() {
    let pair = Pair::new("").await;
    let unique = mongodb::options::IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! {"u": 1}).options(unique).build();
    pair.at(1, "c").create_index(index).await.unwrap();
    for end in 0..2 {
        pair.at(end, "c").insert_one(doc! {"_id": 1, "u": "taken"}).await.unwrap();
    }
    pair.at(0, "c").insert_one(doc! {"_id": 2, "u": "taken"}).await.unwrap();
    pair.at(0, "c").insert_one(doc! {"_id": 3, "u": "free"}).await.unwrap();
    let out = pair.run("verify", "", &["repair", SOON], false).await.expect(Outcome::Unwell);
    assert!(out.contains("not repaired: a unique index refuses the document"), "{out}");
    assert_eq!(pair.both("c", 2).await[1], None);
    assert_eq!(pair.both("c", 3).await[1], Some(bson::rawdoc! {"_id": 3, "u": "free"}));
}

/// Stands for a replicator that is behind: copies everything now and then, and then says how far it has come.
async fn replicate(pair: &Pair, stop: &AtomicBool) {
    let markers = pair.cloud.database("__mmm").collection::<Document>("markers");
    let mut seq = 0i64;
    while !stop.load(Relaxed) {
        let reply = pair.factory.database("admin").run_command(doc! {"ping": 1}).await.unwrap();
        let time: Timestamp = reply.get_timestamp("operationTime").unwrap();
        let mut cursor = pair.at(0, "c").find(doc! {"_id": {"$lt": 1000}}).await.unwrap();
        while cursor.advance().await.unwrap() {
            let document = cursor.deserialize_current().unwrap();
            let id = document.get("_id").unwrap().clone();
            pair.at(1, "c").replace_one(doc! {"_id": id}, document).upsert(true).await.unwrap();
        }
        seq += 1;
        let zero = Timestamp { time: 0, increment: 0 };
        let token = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![5, 0, 0, 0, 0] };
        let marker = doc! {
            "_id": pair.link(0), "node": &pair.nodes[0], "peer": &pair.nodes[1], "lane": 0, "route": "r",
            "generation": 1i64, "seq": seq, "origin": &pair.nodes[0], "position": {"token": token, "time": time},
            "done": {"time": time, "index": 0i64}, "clock": 0i64, "seen": {}, "saw": {},
            "writes": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: Vec::new() },
            "log": {"clock": 0i64, "since": zero, "since_clock": 0i64},
        };
        markers.replace_one(doc! {"_id": pair.link(0)}, marker).upsert(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn changes_on_their_way_are_no_differences_and_a_difference_among_them_is() {
    let pair = Pair::new("").await;
    let stop = AtomicBool::new(false);
    for n in 0..100 {
        pair.at(0, "c").insert_one(doc! {"_id": n, "n": 0}).await.unwrap();
    }
    pair.at(0, "c").insert_one(doc! {"_id": 5000, "lost": true}).await.unwrap();
    let write = async {
        let mut n = 0;
        while !stop.load(Relaxed) {
            n += 1;
            // A key rests between two writes for longer than the replicator takes.
            pair.at(0, "c").update_one(doc! {"_id": n % 100}, doc! {"$set": {"n": n}}).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    let check = async {
        let ran = pair.run("verify", "", &["route=factory-out", "settle=60s", "wait=10m"], false).await;
        stop.store(true, Relaxed);
        ran
    };
    let (ran, (), ()) = futures_util::future::join3(check, write, replicate(&pair, &stop)).await;
    assert_eq!(ran.notes, "");
    let out = ran.expect(Outcome::Unwell);
    assert_eq!(lines(&out), [format!("5000: only at {}", pair.nodes[0])], "{out}");
}

#[tokio::test]
async fn arguments_and_ends_that_make_no_sense_are_refused() {
    let pair = Pair::new("").await;
    for wrong in ["rate=fast", "rate=0", "ns=app", "wait=long", "settle=x", "route=none"] {
        let e = pair.run("verify", "", &[wrong], false).await.result.unwrap_err();
        assert_eq!(e.field(), wrong.split('=').next(), "{e}");
    }
    let mut same = Pair::new("").await;
    same.merge();
    let e = same.run("verify", "", &[], false).await.result.unwrap_err();
    assert!(e.to_string().contains("are the same deployment") && e.get_hint().is_some(), "{e}");
}

/// Why the documents travel: what the server can hash with does not tell types apart.
#[tokio::test]
async fn a_hash_by_the_server_takes_equal_numbers_for_the_same() {
    let pair = Pair::new("").await;
    let coll = pair.at(0, "c");
    coll.insert_many([doc! {"_id": 1, "a": {"n": 1}}, doc! {"_id": 2, "a": {"n": 1.0}}]).await.unwrap();
    let mut cursor = coll.aggregate([doc! {"$project": {"hash": {"$toHashedIndexKey": "$a"}}}]).await.unwrap();
    let mut hashes = Vec::new();
    while cursor.advance().await.unwrap() {
        hashes.push(cursor.deserialize_current().unwrap().get_i64("hash").unwrap());
    }
    assert_eq!(hashes[0], hashes[1]);
}
