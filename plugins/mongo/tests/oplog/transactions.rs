//! Transactions: of one entry, of many, prepared.

use bson::{Document, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Event, Op, StartAt};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};

use super::{KIND, QUICK, documents, insert, now};
use crate::streams::{Reader, ids};

async fn transaction(client: &Client, coll: &Collection<Document>, documents: impl IntoIterator<Item = Document>) {
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for document in documents {
        coll.insert_one(document).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

fn indexes(events: &[Event]) -> Vec<u32> {
    events.iter().map(|e| e.index).collect()
}

#[tokio::test]
async fn a_transaction_comes_whole_and_an_aborted_one_not_at_all() {
    for version in servers::VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        coll.insert_one(doc! {"_id": 0, "x": 0}).await.unwrap();
        let mut reader = now(mongo, "").await;
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        coll.insert_one(doc! {"_id": 99}).session(&mut session).await.unwrap();
        session.abort_transaction().await.unwrap();
        session.start_transaction().await.unwrap();
        coll.insert_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
        coll.update_one(doc! {"_id": 0}, doc! {"$set": {"x": 1}}).session(&mut session).await.unwrap();
        // A collection that is made in a transaction counts as an operation.
        client
            .database(&db)
            .collection::<Document>("new")
            .insert_one(doc! {"_id": 5})
            .session(&mut session)
            .await
            .unwrap();
        coll.delete_one(doc! {"_id": 0}).session(&mut session).await.unwrap();
        session.commit_transaction().await.unwrap();
        insert(&coll, [2]).await;
        let events = documents(&mut reader, &db, 5).await;
        let ops: Vec<Op> = events.iter().map(|e| e.op).collect();
        assert_eq!(ops, [Op::Insert, Op::Update, Op::Insert, Op::Delete, Op::Insert], "{version}");
        assert_eq!(indexes(&events), [0, 1, 3, 4, 0], "{version}");
        assert!(events[..4].iter().all(|e| e.time == events[0].time && e.txn.is_some() && e.txn == events[0].txn));
        assert!(events[4].txn.is_none() && events[4].time > events[0].time, "{version}");
        let create = reader.events.iter().find(|e| e.op == Op::Create && e.ns.coll() == "new").unwrap();
        assert_eq!((create.index, create.time), (2, events[0].time), "{version}");
    }
}

#[tokio::test]
async fn a_transaction_larger_than_an_entry_comes_whole_from_every_place() {
    for version in ["5.0.4", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        let mut reader = now(mongo, "").await;
        insert(&coll, [0]).await;
        let fill = "x".repeat(1 << 20);
        transaction(&client, &coll, (100..140).map(|id| doc! {"_id": id, "fill": &fill})).await;
        insert(&coll, [1]).await;
        let events = documents(&mut reader, &db, 42).await;
        assert_eq!(indexes(&events[1..41]), (0..40).collect::<Vec<_>>(), "{version}");
        assert!(events[1..41].iter().all(|e| e.time == events[1].time && e.txn == events[1].txn && e.txn.is_some()));
        let expected: Vec<i32> = [0].into_iter().chain(100..140).chain([1]).collect();
        let got: Vec<i32> = ids(&events).iter().map(|id| id.as_i32().unwrap()).collect();
        assert_eq!(got, expected, "{version}");

        // It came in several batches, none of which ends inside it.
        let inside = |seen: usize| {
            let seen = reader.events[..seen].iter().filter(|e| e.ns.db() == db && !e.op.is_barrier()).count();
            (2..41).contains(&seen)
        };
        let ends: Vec<_> = reader.ends.iter().filter(|(seen, _)| inside(*seen)).map(|(_, end)| end).collect();
        assert!(ends.len() >= 2, "{version}: {} batches", ends.len());
        assert!(ends.iter().all(|end| end.time < events[1].time), "{version}");

        // Its entries are places of their own: from each, the whole of it comes, since nothing of it was delivered before.
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let filter = doc! {"ts": {"$gte": events[0].time, "$lt": events[1].time}, "ns": {"$in": ["admin.$cmd", format!("{db}.c")]}};
        let mut cursor = oplog.find(filter).projection(doc! {"ts": 1, "t": 1}).await.unwrap();
        let mut tried = 0;
        while cursor.advance().await.unwrap() {
            let ts = cursor.current().get_timestamp("ts").unwrap();
            let place = super::places::moved(reader.end(), |to, _| *to = ts);
            let mut again = Reader::open(KIND, &mongo.uri(), QUICK, StartAt::Position(&place)).await;
            let got = documents(&mut again, &db, 41).await;
            assert_eq!(ids(&got), ids(&events[1..]), "{version}");
            tried += 1;
        }
        assert!(tried >= 3, "{version}: {tried}");
    }
}

#[tokio::test]
async fn a_prepared_transaction_comes_at_its_commit_or_never() {
    let args = vec!["--setParameter=enableTestCommands=1".into()];
    let mongo = Mongo::start(MongoOptions { args, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    insert(&coll, [0]).await;
    let mut reader = now(&mongo, "").await;
    let admin = client.database("admin");
    for (id, commit) in [(1, false), (2, true)] {
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        coll.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
        coll.insert_one(doc! {"_id": id + 10}).session(&mut session).await.unwrap();
        let reply = admin.run_command(doc! {"prepareTransaction": 1}).session(&mut session).await.unwrap();
        let prepared = reply.get_timestamp("prepareTimestamp").unwrap();
        // Written between prepare and commit, so delivered first.
        insert(&coll, [id + 100]).await;
        let end = match commit {
            true => doc! {"commitTransaction": 1, "commitTimestamp": prepared},
            false => doc! {"abortTransaction": 1},
        };
        admin.run_command(end).session(&mut session).await.unwrap();
    }
    insert(&coll, [1000]).await;
    let events = documents(&mut reader, &db, 5).await;
    let got: Vec<i32> = ids(&events).iter().map(|id| id.as_i32().unwrap()).collect();
    assert_eq!(got, [101, 102, 2, 12, 1000]);
    assert!(events[2].txn.is_some() && events[2].txn == events[3].txn && events[2].time > events[1].time);
    assert_eq!(indexes(&events[2..4]), [0, 1]);
    // The place behind the prepared entry is one to resume from.
    let place = reader.ends.iter().find(|(_, end)| end.time >= events[1].time && end.time < events[2].time);
    if let Some((_, end)) = place {
        let mut again = Reader::open(KIND, &mongo.uri(), QUICK, StartAt::Position(end)).await;
        assert_eq!(ids(&documents(&mut again, &db, 3).await), ids(&events[2..]));
    }
}
