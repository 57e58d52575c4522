use std::time::Duration;

use bson::{RawDocument, Timestamp, rawdoc};
use mongodb::{Client, options::InsertManyOptions};
use oplogue_api::{Doc, Namespace, Op, Txn};
use oplogue_testkit::{generate, servers, unique};

use super::*;
use crate::{
    client::reply,
    oplog::{
        log::{Log, ReadConcern, op_time},
        reply::Reply,
    },
};

fn event(ns: &str, in_txn: bool) -> Event {
    let time = Timestamp { time: 1, increment: 1 };
    let raw: Doc = rawdoc! {"_id": 1}.into();
    let txn = in_txn.then(|| Txn { lsid: raw.clone(), number: 1, replicated: false }.into());
    Event { txn, ..Event::new(Op::Replace, Namespace::new(ns), time, raw) }
}

fn feed(echoes: &mut Echoes, plain: usize, marked: usize, size: usize) -> Option<Form> {
    let (one, other) = ([event("a.b", false)], [event(MARKERS, true)]);
    (0..plain).for_each(|_| echoes.saw(200, &one));
    (0..marked).for_each(|_| echoes.saw(size, &other));
    let turn = echoes.turn();
    echoes.form = turn.unwrap_or(echoes.form);
    turn
}

#[test]
fn echoes_are_cut_while_they_are_what_mostly_comes() {
    let mut echoes = Echoes::new(true);
    assert_eq!(feed(&mut echoes, 1000, 5, 10_000), None, "a fifth");
    assert_eq!(feed(&mut echoes, 10, 10, 10_000), None, "too early to tell");
    assert_eq!(feed(&mut echoes, 10, 20, 10_000), Some(Form::Cut));
    // Cut, an echo is as small as others are.
    assert_eq!(feed(&mut echoes, 1000, 100, 200), None);
    assert_eq!(feed(&mut echoes, 1000, 10, 200), None, "no going to and fro near the limit");
    assert_eq!(feed(&mut echoes, 2000, 2, 200), Some(Form::Whole));
    // Markers by themselves spare nothing.
    let plain = [event(MARKERS, false)];
    (0..1000).for_each(|_| echoes.saw(5_000, &plain));
    assert_eq!(echoes.turn(), None);

    let mut never = Echoes::new(false);
    assert_eq!(feed(&mut never, 10, 1000, 10_000), None);
}

async fn read(log: &Log, from: Timestamp, upto: Timestamp, form: Form) -> Vec<Doc> {
    let wait = Duration::from_millis(50);
    let mut cursor = log.tail(from, 1000, wait, form, None).await.unwrap().expect("a cursor");
    let mut entries = Vec::new();
    loop {
        let batch = Reply::read(reply(cursor.next().await.unwrap().unwrap()).unwrap()).unwrap();
        for entry in batch.entries(0) {
            let entry = entry.unwrap();
            let ts = op_time(&entry).unwrap().ts;
            entries.push(entry);
            if ts >= upto {
                return entries;
            }
        }
    }
}

async fn newest(log: &Log) -> Timestamp {
    log.newest(crate::errors::Phase::Open).await.unwrap().expect("an entry").ts
}

/// Entries of all kinds, with names that an expression could take for something else, and a transaction of a replicator.
async fn write(client: &Client, db: &str, version: &str) {
    let c = client.database(db).collection::<RawDocumentBuf>("c");
    let mut rng = generate::Rng::new(3);
    for (n, id) in generate::ids(1).into_iter().enumerate() {
        let mut document = generate::document(&mut rng, 4);
        document.insert("_id", id);
        document.insert("n", n as i32);
        let _ = client.database(db).collection::<Document>("ids").insert_one(document).await;
    }
    let mut odd = rawdoc! {
        "_id": 1, "a.b": {"c.d": 1, "": 2}, "e": ["$ts", {"f.g": "$$ROOT"}, []], "applyOps": [{"ns": MARKERS, "op": "i"}],
        "double": -0.0, "min": bson::raw::RawBson::MinKey, "undefined": bson::raw::RawBson::Undefined,
    };
    // Twice the same name.
    odd.append(bson::cstr!("twice"), 1);
    odd.append(bson::cstr!("twice"), "x");
    c.insert_one(&odd).await.unwrap();
    if !version.starts_with('4') {
        c.insert_one(rawdoc! {"_id": 2, "$set": {"$x": 1}, "$op": "$op", "x.$y": "$$CURRENT"}).await.unwrap();
        c.replace_one(doc! {"_id": 2}, rawdoc! {"_id": 2, "n": {"$c": "$op", "$v": 2}, "diff": {"u": 1}})
            .await
            .unwrap();
    }
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"e.1.h": 5, "double": 1.5}, "$unset": {"min": 1}}).await.unwrap();
    c.update_many(doc! {}, vec![doc! {"$set": {"z": "$_id"}}]).await.unwrap();
    let many = (10..20).map(|id| rawdoc! {"_id": id});
    c.insert_many(many).with_options(InsertManyOptions::builder().ordered(false).build()).await.unwrap();
    c.find_one_and_update(doc! {"_id": 11}, doc! {"$set": {"x": 1}}).await.unwrap();
    c.delete_many(doc! {"_id": {"$lt": 12}}).await.unwrap();
    c.create_index(mongodb::IndexModel::builder().keys(doc! {"x": 1}).build()).await.unwrap();
    client.database(db).run_command(doc! {"collMod": "c", "validator": {"$expr": {"$ne": ["$ts", 1]}}}).await.unwrap();
    let user = doc! {"applyOps": [
        {"op": "i", "ns": MARKERS, "o": {"_id": db, "by": "a user"}}, {"op": "i", "ns": format!("{db}.c"), "o": {"_id": 50}},
    ]};
    client.database("admin").run_command(user).await.unwrap();
    let markers = client.database("__mmm").collection::<Document>("markers");
    markers.replace_one(doc! {"_id": db}, doc! {"_id": db, "plain": true}).await.unwrap();
    let d = client.database(db).collection::<Document>("ids");
    let mut session = client.start_session().await.unwrap();
    for marker_first in [true, false] {
        session.start_transaction().await.unwrap();
        let marker = doc! {"_id": db, "seq": marker_first, "a.b": {"$literal.c": 1}, "token": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] }};
        let marker = if version.starts_with('4') {
            doc! {"_id": db, "seq": marker_first, "a.b": 1}
        } else {
            marker
        };
        if marker_first {
            markers.replace_one(doc! {"_id": db}, &marker).session(&mut session).await.unwrap();
        }
        d.insert_one(doc! {"_id": format!("t{marker_first}"), "x.y": 1}).session(&mut session).await.unwrap();
        d.delete_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
        if !marker_first {
            markers.replace_one(doc! {"_id": db}, &marker).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
    }
    client.database(db).collection::<Document>("c").drop().await.unwrap();
}

fn element<'a>(doc: &'a RawDocument, name: &str) -> bson::RawBsonRef<'a> {
    doc.get(name).unwrap().expect("it is there")
}

/// The fields of an entry, sorted: a projection with an expression moves that to the end.
fn fields(entry: &RawDocument) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = entry
        .iter_elements()
        .map(|e| {
            let e = e.unwrap();
            let mut value = RawDocumentBuf::new();
            value.append(bson::cstr!("v"), e.value().unwrap());
            (e.key().as_str().to_owned(), value.into_bytes())
        })
        .collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn the_server_cuts_a_replicators_transactions_and_changes_nothing_else() {
    for version in servers::VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("cut"));
        let _ = client.database("__mmm").create_collection("markers").await;
        let log = Log::new(&client, ReadConcern::Majority);
        assert!(log.can_cut().await.unwrap(), "{version}");
        let from = newest(&log).await;
        write(&client, &db, version).await;
        let upto = newest(&log).await;
        let (whole, cut) = (read(&log, from, upto, Form::Whole).await, read(&log, from, upto, Form::Cut).await);
        assert_eq!(whole.len(), cut.len());
        let mut echoes = 0;
        for (whole, cut) in whole.iter().zip(&cut) {
            let (mut left, mut right) = (fields(whole), fields(cut));
            if left == right {
                continue;
            }
            // `o` alone differs, and is that of a replicator.
            left.retain(|(name, _)| name != "o");
            right.retain(|(name, _)| name != "o");
            assert_eq!(left, right, "{version}");
            let operations = |entry: &Doc| {
                let o = entry.get_document("o").unwrap();
                assert_eq!(o.iter_elements().next().unwrap().unwrap().key().as_str(), "applyOps", "in front");
                element(o, "applyOps").as_array().unwrap().to_owned()
            };
            let (all, first) = (operations(whole), operations(cut));
            assert!((&*all).into_iter().count() > 1 && (&*first).into_iter().count() == 1, "{version}");
            let (a, b) = (all.get_document(0).unwrap(), first.get_document(0).unwrap());
            assert_eq!(a.as_bytes(), b.as_bytes(), "{version}: to the byte");
            assert_eq!(a.get_str("ns").unwrap(), MARKERS);
            // Other tests write markers too.
            echoes += usize::from(a.get_document("o2").is_ok_and(|o2| o2.get_str("_id").is_ok_and(|id| id == db)));
        }
        assert_eq!(echoes, 1, "{version}: neither a user's applyOps nor one with the marker behind");
    }
}
