//! `initial = "copy"`.

use std::time::{Duration, Instant};

use oplogue_api::ErrorKind;
use oplogue_testkit::proxy::Proxy;

use super::*;

#[tokio::test]
async fn a_copy_is_equal_to_the_byte_with_ids_of_every_type() {
    for (version, at) in [("4.4.2", "6.0.5"), ("5.0.4", "4.4.2"), ("6.0.5", "5.0.4")] {
        let pair = Pair::of(servers::mongo_version(version).await, servers::mongo_version(at).await).await;
        let from = pair.from.database(&pair.db);
        pair.insert(&pair.from, "mixed", mixed(400)).await;
        pair.insert(&pair.from, "small", vec![rawdoc! {"_id": 1, "a": 2}]).await;
        from.create_collection("empty").await.unwrap();
        let index = |key: Document, name: &str, more: Document| {
            let mut index = doc! {"key": key, "name": name};
            index.extend(more);
            index
        };
        let indexes = vec![
            index(doc! {"n": 1, "x": -1}, "n_x", doc! {}),
            index(doc! {"text": 1}, "u", doc! {"unique": true, "partialFilterExpression": {"text": {"$exists": true}}}),
            index(doc! {"when": 1}, "ttl", doc! {"expireAfterSeconds": 3600}),
            index(doc! {"list": "hashed"}, "no", doc! {}),
        ];
        for index in indexes.into_iter().filter(|index| index.get_str("name").unwrap() != "no") {
            from.run_command(doc! {"createIndexes": "mixed", "indexes": [index]}).await.unwrap();
        }
        let copied = pair.copy(Initial::Copy).await.run().await.unwrap();
        let n = pair.assert_equal("mixed").await;
        assert_eq!(n, mixed(400).len());
        assert_eq!(pair.assert_equal("small").await + pair.assert_equal("empty").await, 1);
        assert_eq!((copied.documents, copied.conflicts), (n as u64 + 1, 0));
        assert!(pair.written().await.values().all(|times| *times == 1), "something was written twice");
        let pieces = metadata(&pair.to, names::COPIES)
            .count_documents(
                doc! {"link": pair.link.marker_id(0), "ns": format!("{}.mixed", pair.db), "step": {"$exists": true}},
            )
            .await
            .unwrap();
        assert!(pieces > 3, "{version}: {pieces} pieces");
    }
}

#[tokio::test]
async fn done_is_done() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", (0..10).map(numbered).collect()).await;
    let first = pair.copy(Initial::Copy).await;
    assert_eq!(first.meter.progress(), None);
    let copied = first.run().await.unwrap();
    assert!(copied.until >= first.marker.position.time);
    let progress = first.meter.progress().unwrap();
    assert!(progress.done && progress.documents == 10, "{progress:?}");
    // Later documents are those of the stream.
    pair.insert(&pair.from, "c", vec![numbered(100)]).await;
    let again = pair.copy_of(Initial::Copy, 2).await.run().await.unwrap();
    assert_eq!(again, copied);
    assert_eq!(pair.all(&pair.to, "c").await.len(), 10);
    assert_eq!(super::super::finished(&pair.to, &pair.link).await.unwrap(), Some(copied));
    super::super::forget(&pair.to, &pair.link).await.unwrap();
    assert_eq!(super::super::finished(&pair.to, &pair.link).await.unwrap(), None);
}

#[tokio::test]
async fn a_copy_that_is_dropped_anywhere_goes_on_and_writes_nothing_twice() {
    let pair = Pair::new().await;
    for coll in ["a", "b", "c"] {
        pair.insert(&pair.from, coll, mixed(300)).await;
    }
    let mut generation = 0;
    let mut seed = 0x9e37_79b9_u64;
    let copied = loop {
        generation += 1;
        let mut copy = pair.copy_of(Initial::Copy, generation).await;
        // The start was fixed by the first.
        copy.marker.position.time = Timestamp { time: 1, increment: 1 };
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let patience = Duration::from_millis(20 + (seed >> 33) % 40 * generation);
        match tokio::time::timeout(patience, copy.run()).await {
            Ok(copied) => break copied.unwrap(),
            Err(_) => assert!(generation < 200, "it gets nowhere"),
        }
    };
    println!("interrupted {} times", generation - 1);
    let mut n = 0;
    for coll in ["a", "b", "c"] {
        n += pair.assert_equal(coll).await;
    }
    assert_eq!(copied.documents, n as u64);
    let written = pair.written().await;
    assert_eq!(written.len(), n);
    assert!(written.values().all(|times| *times == 1), "something was written twice");
}

#[tokio::test]
async fn an_older_generation_cannot_go_on() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", mixed(200)).await;
    let old = pair.copy_of(Initial::Copy, 1).await;
    let interrupted = tokio::time::timeout(Duration::from_millis(50), old.run()).await;
    let mut new = pair.copy_of(Initial::Copy, 2).await;
    new.marker.position = old.marker.position.clone();
    patiently(&new).await.unwrap();
    if interrupted.is_err() {
        metadata(&pair.to, names::COPIES)
            .update_one(doc! {"_id": pair.link.marker_id(0)}, doc! {"$set": {"done": false}})
            .await
            .unwrap();
        assert_eq!(patiently(&old).await.unwrap_err().kind(), ErrorKind::Operator);
    }
    pair.assert_equal("c").await;
}

/// As the engine runs it: what is in the way for a while, such as a transaction that was cut off, is waited for.
async fn patiently(copy: &Copy) -> oplogue_api::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match copy.run().await {
            Err(e) if e.kind() == ErrorKind::Transient && Instant::now() < deadline => {}
            result => return result.map(drop),
        }
    }
}

#[tokio::test]
async fn a_target_with_documents_is_refused_and_left_alone() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", vec![numbered(1)]).await;
    pair.insert(&pair.to, "other", vec![numbered(2)]).await;
    let e = pair.copy(Initial::Copy).await.run().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.to_string().contains(&format!("`{}.other`", pair.db)), "{e}");
    assert!(e.get_hint().unwrap().contains("merge"), "{e}");
    assert!(pair.all(&pair.to, "c").await.is_empty());
    assert!(super::super::finished(&pair.to, &pair.link).await.unwrap().is_none());
}

#[tokio::test]
async fn a_start_that_moved_behind_an_unfinished_copy_is_refused() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", mixed(300)).await;
    let first = pair.copy(Initial::Copy).await;
    oplogue_testkit::wait_for("a copy that has begun", || async {
        let _ = tokio::time::timeout(Duration::from_millis(30), first.run()).await;
        metadata(&pair.to, names::COPIES).find_one(doc! {"_id": pair.link.marker_id(0)}).await.unwrap().is_some()
    })
    .await;
    metadata(&pair.to, names::COPIES)
        .update_one(doc! {"_id": pair.link.marker_id(0)}, doc! {"$set": {"done": false}})
        .await
        .unwrap();
    let mut moved = pair.copy_of(Initial::Copy, 2).await;
    moved.marker.position.time.time += 100;
    let e = moved.run().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.get_hint().unwrap().contains("__mmm.copies"), "{e}");
}

#[tokio::test]
async fn documents_of_16_mb_are_copied_each_in_its_transaction() {
    // The cache of the shared servers does not take a document of that size every time.
    let start = async |version| {
        let mongo = Mongo::start(MongoOptions { version, oplog_mb: 512, ..MongoOptions::default() }).await;
        mongo.admin(doc! {"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G"}).await;
        mongo
    };
    let from = start("6.0.5").await;
    for version in ["6.0.5", "4.4.2"] {
        let to = start(version).await;
        largest_documents(&Pair::of(&from, &to).await).await;
    }
}

async fn largest_documents(pair: &Pair) {
    let largest = |id: i32| {
        let empty = rawdoc! {"_id": id, "x": ""}.as_bytes().len();
        rawdoc! {"_id": id, "x": "z".repeat((16 << 20) - empty)}
    };
    for id in [1, 5, 6] {
        let doc = largest(id);
        assert_eq!(doc.as_bytes().len(), 16_777_216);
        pair.insert(&pair.from, "c", vec![doc]).await;
    }
    pair.insert(&pair.from, "c", (2..5).chain(7..200).map(numbered).collect()).await;
    pair.copy(Initial::Copy).await.run().await.unwrap();
    assert_eq!(pair.assert_equal("c").await, 199);
}

#[tokio::test]
async fn collections_come_with_their_options() {
    let pair = Pair::new().await;
    let from = pair.from.database(&pair.db);
    let create = async |command: Document| from.run_command(command).await.unwrap();
    create(doc! {"create": "nocase", "collation": {"locale": "en", "strength": 2}}).await;
    create(doc! {"create": "clustered", "clusteredIndex": {"key": {"_id": 1}, "unique": true}}).await;
    create(doc! {"create": "ruled", "validator": {"n": {"$type": "int"}}, "validationAction": "error"}).await;
    create(doc! {"create": "capped", "capped": true, "size": 1 << 20, "max": 500}).await;
    create(doc! {"create": "series", "timeseries": {"timeField": "t", "metaField": "m"}}).await;
    create(doc! {"create": "seen", "viewOn": "nocase", "pipeline": [{"$match": {"n": {"$gt": 5}}}]}).await;
    let words: Vec<_> = (0..700)
        .map(|n| rawdoc! {"_id": format!("{}{n}", if n % 2 == 0 { "A" } else { "a" }), "n": n, "x": "y".repeat(100)})
        .collect();
    pair.insert(&pair.from, "nocase", words).await;
    pair.insert(&pair.from, "clustered", mixed(100)).await;
    pair.insert(&pair.from, "capped", (0..300).rev().map(numbered).collect()).await;
    let when = |n: i64| bson::DateTime::from_millis(1_700_000_000_000 + n * 1000);
    pair.insert(&pair.from, "series", (0..500).map(|n| rawdoc! {"t": when(n), "m": n % 3, "v": n}).collect()).await;
    // One that is older than the rule.
    from.run_command(doc! {"insert": "ruled", "documents": [{"_id": 1, "n": "text"}, {"_id": 2, "n": 3}], "bypassDocumentValidation": true}).await.unwrap();
    // GridFS is two collections, one of them with a unique index.
    from.run_command(doc! {"createIndexes": "fs.chunks", "indexes": [{"key": {"files_id": 1, "n": 1}, "name": "files_id_1_n_1", "unique": true}]}).await.unwrap();
    pair.insert(&pair.from, "fs.chunks", (0..9).map(|n| rawdoc! {"_id": n, "files_id": 1, "n": n, "data": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1; 255 << 10] }}).collect()).await;

    pair.copy(Initial::Copy).await.run().await.unwrap();
    for coll in ["nocase", "clustered", "ruled", "fs.chunks", "capped"] {
        assert!(pair.assert_equal(coll).await > 0);
    }
    let listed = async |at: &Client| {
        let cursor = at.database(&pair.db).run_cursor_command(doc! {"listCollections": 1}).await.unwrap();
        let mut all: Vec<Document> = cursor.try_collect().await.unwrap();
        for one in &mut all {
            one.get_document_mut("info").unwrap().remove("uuid");
        }
        all.sort_by_key(|d| d.get_str("name").unwrap().to_owned());
        all
    };
    assert_eq!(listed(&pair.from).await, listed(&pair.to).await);
    let natural = async |at: &Client, coll: &str, sort: Document| -> Vec<RawDocumentBuf> {
        let found = at.database(&pair.db).collection::<RawDocumentBuf>(coll).find(doc! {}).sort(sort).await.unwrap();
        found.try_collect().await.unwrap()
    };
    for (coll, sort) in [("capped", doc! {"$natural": 1}), ("series", doc! {"t": 1}), ("seen", doc! {"_id": 1})] {
        let there = natural(&pair.from, coll, sort.clone()).await;
        assert!(!there.is_empty());
        let here = natural(&pair.to, coll, sort).await;
        assert_eq!(there.len(), here.len(), "{coll}");
        // The server itself puts the fields of a measurement into an order.
        let fields = |doc: &RawDocumentBuf| {
            Document::try_from(doc.as_ref()).unwrap().into_iter().collect::<std::collections::BTreeMap<_, _>>()
        };
        for (a, b) in there.iter().zip(&here) {
            assert!(if coll == "series" { fields(a) == fields(b) } else { a == b }, "{coll}: {a:?} is not {b:?}");
        }
    }
}

#[tokio::test]
async fn cut_connections_on_both_sides_cost_nothing() {
    let (from, to) = (servers::mongo().await, other().await);
    let mut pair = Pair::new().await;
    pair.insert(&pair.from, "c", mixed(400)).await;
    let (near, far) = (Proxy::start(from.addr(0)).await, Proxy::start(to.addr(0)).await);
    let through = async |mongo: &Mongo, proxy: &Proxy| {
        let mut options = ClientOptions::parse(mongo.direct_uri(&proxy.addr())).await.unwrap();
        options.server_selection_timeout = Some(Duration::from_secs(1));
        Client::with_options(options).unwrap()
    };
    let straight = std::mem::replace(&mut pair.to, through(to, &far).await);
    let source = std::mem::replace(&mut pair.from, through(from, &near).await);
    let start = {
        let direct = Pair { from: source.clone(), to: straight.clone(), db: pair.db.clone(), link: pair.link.clone() };
        direct.copy(Initial::Copy).await.marker.position
    };
    let mut run = 0;
    let copied = loop {
        run += 1;
        assert!(run < 200, "it gets nowhere");
        let mut copy = {
            let direct =
                Pair { from: source.clone(), to: straight.clone(), db: pair.db.clone(), link: pair.link.clone() };
            direct.copy_of(Initial::Copy, run).await
        };
        (copy.from, copy.to) = (pair.from.clone(), pair.to.clone());
        copy.marker.position = start.clone();
        if run < 20 {
            far.cut_after_bytes(3_000 * run);
            near.cut_after_bytes(9_000 * run);
        }
        match copy.run().await {
            Ok(copied) => break copied,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Transient, "{e}"),
        }
    };
    (pair.from, pair.to) = (source, straight);
    assert!(far.cuts() + near.cuts() > 1, "{} and {} cuts", far.cuts(), near.cuts());
    assert_eq!(pair.assert_equal("c").await as u64, copied.documents);
    assert!(pair.written().await.values().all(|times| *times == 1), "something was written twice");
}

#[tokio::test]
async fn a_timestamp_of_zero_stays_zero() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", vec![numbered(1)]).await;
    let zero =
        doc! {"$replaceWith": {"$mergeObjects": ["$$ROOT", {"$literal": {"at": Timestamp { time: 0, increment: 0 }}}]}};
    pair.from.database(&pair.db).collection::<Document>("c").update_one(doc! {"_id": 1}, vec![zero]).await.unwrap();
    let there = pair.all(&pair.from, "c").await;
    assert_eq!(there[0].get_timestamp("at").unwrap().time, 0, "the server does not let it be there");
    pair.copy(Initial::Copy).await.run().await.unwrap();
    pair.assert_equal("c").await;
}
