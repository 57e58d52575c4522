//! Where reading begins: the option `start`, positions, and positions that are lost.

use bson::{Document, Timestamp, doc};
use oplogue_api::{ErrorKind, Event, Op, Position, StartAt};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique, wait_for,
};

use super::{KIND, QUICK, documents, insert, now, of_db};
use crate::streams::{Reader, document, ids};

/// The position with another timestamp or term.
pub fn moved(position: &Position, edit: impl FnOnce(&mut Timestamp, &mut i64)) -> Position {
    let mut token = document(&position.token);
    let mut ts = token.get_timestamp("ts").unwrap();
    let mut t = token.get_i64("t").unwrap();
    edit(&mut ts, &mut t);
    token.extend(doc! {"ts": ts, "t": t});
    Position { token: bson::RawDocumentBuf::try_from(&token).unwrap().into(), time: ts }
}

async fn refused(mongo: &Mongo, position: &Position) -> oplogue_api::Error {
    match Reader::try_open(KIND, &mongo.uri(), QUICK, StartAt::Position(position)).await {
        Ok(_) => panic!("the position was opened"),
        Err(e) => e,
    }
}

#[tokio::test]
async fn every_end_resumes_exactly_behind_it() {
    for version in ["4.4.2", "5.0.4", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        let toml = format!("{QUICK}batch_size = 3");
        let mut reader = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
        insert(&coll, 0..8).await;
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for id in 100..105 {
            coll.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
        insert(&coll, 10..14).await;
        coll.delete_many(doc! {}).await.unwrap();
        let all: Vec<_> = documents(&mut reader, &db, 34).await.iter().map(Event::id).collect();
        let mut places = reader.ends.clone();
        places.dedup_by_key(|(_, end)| end.time);
        assert!(places.len() > 8, "{version}: {} ends", places.len());
        for (seen, end) in places {
            let seen = reader.events[..seen].iter().filter(|e| e.ns.db() == db && !e.op.is_barrier()).count();
            let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await;
            assert_eq!(again.end(), &end);
            let got: Vec<_> = documents(&mut again, &db, 34 - seen).await.iter().map(Event::id).collect();
            assert_eq!(got, all[seen..], "{version}: behind event {seen}");
            // Of a place that another program has kept nothing but its time is known.
            let mut by_time = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&Position::at(end.time))).await;
            assert_eq!(by_time.end(), &end);
            let got: Vec<_> = documents(&mut by_time, &db, 34 - seen).await.iter().map(Event::id).collect();
            assert_eq!(got, all[seen..], "{version}: behind event {seen}, by time");
        }
    }
}

#[tokio::test]
async fn a_time_alone_is_a_position_only_where_there_is_an_entry() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    let end = now(mongo, "").await.end().clone();
    insert(&coll, 0..3).await;
    // In the second before, where the server has been already.
    let never = Timestamp { time: end.time.time - 1, increment: 1_000_000_000 };
    for time in [never, Timestamp { time: 1, increment: 1 }] {
        let error = refused(mongo, &Position::at(time)).await;
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(error.get_hint().is_some());
    }
}

#[tokio::test]
async fn idle_time_moves_the_position() {
    let mongo = Mongo::start(MongoOptions {
        args: vec!["--setParameter=periodicNoopIntervalSecs=1".into()],
        ..Default::default()
    })
    .await;
    let mut reader = now(&mongo, "").await;
    let start = reader.end().time;
    reader.until("a heartbeat that moves", |r| r.end().time.time > start.time).await;
    assert!(reader.events.is_empty());
}

#[tokio::test]
async fn start_says_where_to_begin() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    insert(&coll, 1..4).await;
    let times: Vec<Timestamp> = {
        let mut oldest =
            Reader::open(KIND, &mongo.uri(), &format!("{QUICK}start = \"oldest\""), StartAt::Configured).await;
        let start = oldest.end().clone();
        let events = documents(&mut oldest, &db, 3).await;
        assert!(of_db(&oldest, &db)[0].op == Op::Create);
        // The first position includes the oldest entry.
        let mut again = Reader::open(KIND, &mongo.uri(), QUICK, StartAt::Position(&start)).await;
        documents(&mut again, &db, 3).await;
        assert_eq!(again.events.len(), oldest.events.len());
        events.iter().map(|e| e.time).collect()
    };
    let first_of = |toml: String| {
        let (mongo, db, coll) = (&mongo, &db, &coll);
        async move {
            let mut reader = Reader::open(KIND, &mongo.uri(), &format!("{QUICK}{toml}"), StartAt::Configured).await;
            let next = coll.count_documents(doc! {}).await.unwrap() as i32 + 1;
            insert(coll, [next]).await;
            reader.until("the newest", |r| ids(&r.events).contains(&bson::Bson::Int32(next))).await;
            let first = reader.events.iter().find(|e| e.ns.db() == db && !e.op.is_barrier()).unwrap();
            (ids(std::slice::from_ref(first))[0].as_i32().unwrap(), next)
        }
    };
    for toml in ["", "start = \"now\"", "read_concern = \"local\""] {
        let (first, next) = first_of(toml.into()).await;
        assert_eq!(first, next, "{toml}");
    }
    let at = |ts: Timestamp| format!("start = {{ at = \"{}.{}\" }}", ts.time, ts.increment);
    assert_eq!(first_of(at(times[1])).await.0, 2);
    assert_eq!(first_of(at(Timestamp { increment: times[1].increment + 1, ..times[1] })).await.0, 3);
    // Before the replica set existed, nothing can be missing.
    assert_eq!(first_of("start = { at = 2001-01-01T00:00:00Z }".into()).await.0, 1);
    let future = format!("{QUICK}start = {{ at = 2100-01-01T00:00:00Z }}");
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &future, StartAt::Configured).await else { panic!("opened") };
    assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some("start")), "{e}");
}

#[tokio::test]
async fn a_position_that_was_rolled_back_is_lost() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    let mut reader = now(mongo, "").await;
    insert(&coll, 0..2).await;
    let events = documents(&mut reader, &db, 2).await;
    let end = reader.end().clone();
    // Another entry has taken its timestamp.
    let e = refused(mongo, &moved(&end, |_, t| *t += 1)).await;
    assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
    assert!(e.to_string().contains("rolled back") && e.get_hint().is_some());
    // No entry has, but there are earlier and later ones.
    let between = moved(&end, |ts, _| *ts = Timestamp { increment: 1 << 30, time: events[0].time.time - 1 });
    assert_eq!(refused(mongo, &between).await.kind(), ErrorKind::PositionLost);
    // This server may only be late.
    let ahead = moved(&end, |ts, _| ts.time += 1000);
    assert_eq!(refused(mongo, &ahead).await.kind(), ErrorKind::Transient);
}

#[tokio::test]
async fn an_oplog_that_was_overrun_is_a_lost_position() {
    // The storage engine truncates up to its last checkpoint only: one a second.
    let args = vec!["--syncdelay=1".into()];
    let mongo = Mongo::start(MongoOptions { oplog_mb: 16, args, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    let mut reader = now(&mongo, "batch_size = 1").await;
    insert(&coll, [1]).await;
    documents(&mut reader, &db, 1).await;
    let end = reader.end().clone();
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let big = "x".repeat(1 << 20);
    let mut n = 10;
    // `reader` stays open meanwhile: its cursor is overtaken.
    wait_for("the oplog to roll over", || {
        n += 1;
        let (coll, oplog, big, end) = (coll.clone(), oplog.clone(), big.clone(), end.time);
        async move {
            coll.insert_one(doc! {"_id": n, "big": big}).await.unwrap();
            let oldest = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).await.unwrap().unwrap();
            oldest.get_timestamp("ts").unwrap() > end
        }
    })
    .await;
    for _ in 0..2 {
        let e = refused(&mongo, &end).await;
        assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
        assert!(e.to_string().contains("no longer reaches back") && e.get_hint().is_some());
    }
    // What the open one still reads is without a gap; then it says so.
    let mut last = 1;
    let e = loop {
        let before = reader.events.len();
        if let Err(e) = reader.step().await {
            break Some(e);
        }
        for event in reader.events[before..].iter().filter(|e| e.ns.db() == db && e.op == Op::Insert) {
            let id = ids(std::slice::from_ref(event))[0].as_i32().unwrap();
            assert!(id == last + 1 || (last, id) == (1, 11), "{id} comes behind {last}");
            last = id;
        }
        if last == n {
            break None;
        }
    };
    if let Some(e) = e {
        assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
        assert_eq!(refused(&mongo, reader.end()).await.kind(), ErrorKind::PositionLost);
    }
    let early = format!("{QUICK}start = {{ at = {} }}", end.time.time);
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &early, StartAt::Configured).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    let mut oldest = Reader::open(KIND, &mongo.uri(), &format!("{QUICK}start = \"oldest\""), StartAt::Configured).await;
    documents(&mut oldest, &db, 1).await;
}

#[tokio::test]
async fn the_position_of_another_replica_set_is_refused() {
    let (mongo, other) = (servers::mongo().await, servers::mongo_version("6.0.27").await);
    let theirs = now(other, "").await.end().clone();
    let e = refused(mongo, &theirs).await;
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.to_string().contains("another replica set") && e.get_hint().is_some());
}
