//! The `mongo-change-stream` source on real servers.

mod streams;

use std::collections::BTreeSet;

use bson::{Document, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Change, ErrorKind, Event, Namespace, Op, Position, Source, StartAt, async_trait};
use oplogue_testkit::{
    conformance::{self, SourceHarness},
    generate::{Step, Work},
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};
use streams::{Reader, brief, build, document, errors, ids};

const KIND: &str = "mongo-change-stream";

fn scope(db: &str, coll: &str) -> String {
    format!("database = {db:?}\ncollection = {coll:?}\nawait = \"100ms\"\n")
}

fn database(db: &str) -> String {
    format!("database = {db:?}\nawait = \"100ms\"\n")
}

async fn coll(client: &Client, db: &str, name: &str) -> Collection<Document> {
    client.database(db).create_collection(name).await.expect("the collection is made");
    client.database(db).collection(name)
}

async fn insert(coll: &Collection<Document>, ids: impl IntoIterator<Item = i32>) {
    for id in ids {
        coll.insert_one(doc! {"_id": id}).await.expect("insert");
    }
}

/// A transaction of `n` inserts with ids from `first` on.
async fn transaction(client: &Client, coll: &Collection<Document>, first: i32, n: i32) {
    let mut session = client.start_session().await.expect("session");
    session.start_transaction().await.expect("transaction");
    for id in first..first + n {
        coll.insert_one(doc! {"_id": id}).session(&mut session).await.expect("insert");
    }
    session.commit_transaction().await.expect("commit");
}

fn int_ids(events: &[Event]) -> Vec<i32> {
    ids(events).iter().map(|id| id.as_i32().expect("an int id")).collect()
}

#[tokio::test]
async fn events_of_documents_are_normalised() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    c.insert_one(doc! {"_id": 1, "a": {"b": 1}}).await.unwrap();
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a.b": 2}}).await.unwrap();
    c.replace_one(doc! {"_id": 1}, doc! {"x": 1}).await.unwrap();
    c.delete_one(doc! {"_id": 1}).await.unwrap();
    r.count(4).await;
    let ops: Vec<Op> = r.events.iter().map(|e| e.op).collect();
    assert_eq!(ops, [Op::Insert, Op::Update, Op::Replace, Op::Delete]);
    assert!(r.events.iter().all(|e| e.ns == Namespace::of(&db, "c") && e.wall.is_some() && e.txn.is_none()));
    assert_eq!(int_ids(&r.events), [1, 1, 1, 1]);
    assert_eq!(document(r.events[0].after.as_ref().unwrap()), doc! {"_id": 1, "a": {"b": 1}});
    assert!(matches!(r.events[1].change, Some(Change::OplogV2(_))), "6.0 gives the exact diff");
    assert!(r.events[1].after.is_none(), "not asked for");
    assert_eq!(document(r.events[2].after.as_ref().unwrap()), doc! {"_id": 1, "x": 1});
    assert!(r.events[3].after.is_none() && r.events[3].change.is_none());
}

#[tokio::test]
async fn scopes_show_what_lies_in_them() {
    let mongo = servers::mongo().await;
    let client = mongo.client().await;
    let (a, b) = (unique("cs"), unique("cs"));
    let (ax, ay, bx) = (coll(&client, &a, "x").await, coll(&client, &a, "y").await, coll(&client, &b, "x").await);
    let mut one = Reader::open(KIND, &mongo.uri(), &scope(&a, "x"), StartAt::Now).await;
    let mut db = Reader::open(KIND, &mongo.uri(), &database(&a), StartAt::Now).await;
    let mut all = Reader::open(KIND, &mongo.uri(), "await = \"100ms\"", StartAt::Now).await;
    insert(&bx, [1]).await;
    insert(&ay, [2]).await;
    insert(&ax, [3]).await;
    one.count(1).await;
    db.count(2).await;
    // Other tests write too.
    let mine = |r: &Reader| -> Vec<Event> {
        r.events.iter().filter(|e| e.op == Op::Insert && [&a, &b].iter().any(|d| e.ns.db() == *d)).cloned().collect()
    };
    all.until("three inserts", |r| mine(r).len() == 3).await;
    assert_eq!(int_ids(&one.events), [3]);
    assert_eq!(int_ids(&db.events), [2, 3]);
    assert_eq!(int_ids(&mine(&all)), [1, 2, 3]);
}

#[tokio::test]
async fn every_position_resumes_exactly_behind_it() {
    for version in servers::VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("cs"));
        let c = coll(&client, &db, "c").await;
        let toml = scope(&db, "c") + "batch_size = 3";
        let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
        insert(&c, 0..8).await;
        transaction(&client, &c, 100, 5).await;
        insert(&c, 10..14).await;
        c.delete_many(doc! {}).await.unwrap();
        r.count(34).await;
        let all: Vec<_> = r.events.iter().map(Event::id).collect();
        assert!(
            all.is_sorted() && all.iter().collect::<BTreeSet<_>>().len() == 34,
            "{version}: {:?}",
            brief(&r.events)
        );
        let mut places: Vec<(usize, Position)> = r.ends.clone();
        places.dedup();
        assert!(places.len() > 8, "{version}: {} ends", places.len());
        for (seen, end) in places {
            let inside = (9..13).contains(&seen);
            let begin = if inside { 8 } else { seen };
            let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await;
            again.count(34 - begin).await;
            let got: Vec<_> = again.events.iter().map(Event::id).collect();
            assert_eq!(got, all[begin..], "{version}: behind event {seen}");
        }
    }
}

#[tokio::test]
async fn a_batch_never_ends_inside_a_transaction() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let toml = scope(&db, "c") + "batch_size = 10";
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    insert(&c, [0]).await;
    transaction(&client, &c, 100, 25).await;
    r.count(26).await;
    let before = r.ends.iter().find(|(seen, _)| *seen == 10).expect("a reply of ten").1.clone();
    assert!(r.events[1..].iter().all(|e| e.txn.is_some() && e.time == r.events[1].time));
    assert_eq!(r.events[1..].iter().map(|e| e.index).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
    assert_eq!(before.time, r.events[0].time);
    for (seen, end) in &r.ends {
        assert!((*seen <= 1) || *end == before || *seen == 26, "an end inside the transaction, after {seen} events");
    }
    // Nothing follows, but the end of the oplog does.
    r.until("the end of the transaction", |r| r.end().time >= r.events[1].time).await;
    let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&before)).await;
    again.count(25).await;
    assert_eq!(int_ids(&again.events), (100..125).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_index_counts_operations_outside_the_scope_too() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let (x, y) = (coll(&client, &db, "x").await, coll(&client, &db, "y").await);
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "y"), StartAt::Now).await;
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 0..3 {
        x.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
        y.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    r.count(3).await;
    assert_eq!(r.events.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 3, 5]);
}

#[tokio::test]
async fn idle_time_moves_the_position() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "quiet").await;
    let other = coll(&client, &db, "loud").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "quiet"), StartAt::Now).await;
    let start = r.end().time;
    insert(&other, 0..3).await;
    r.until("a heartbeat that moves", |r| r.end().time > start).await;
    assert!(r.events.is_empty());
    insert(&c, [7]).await;
    r.count(1).await;
    assert_eq!(int_ids(&r.events), [7]);
}

#[tokio::test]
async fn a_dropped_collection_is_watched_on() {
    for version in ["4.4.2", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("cs"));
        let c = coll(&client, &db, "c").await;
        let toml = scope(&db, "c");
        let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
        insert(&c, [1]).await;
        c.drop().await.unwrap();
        let c = coll(&client, &db, "c").await;
        insert(&c, [2]).await;
        client
            .database("admin")
            .run_command(doc! {"renameCollection": format!("{db}.c"), "to": format!("{db}.d")})
            .await
            .unwrap();
        let c = coll(&client, &db, "c").await;
        insert(&c, [3]).await;
        r.until("all inserts", |r| r.events.iter().filter(|e| e.op == Op::Insert).count() == 3).await;
        let ops: Vec<Op> = r.events.iter().map(|e| e.op).filter(|op| *op != Op::Create).collect();
        assert_eq!(ops, [Op::Insert, Op::Drop, Op::Insert, Op::Rename, Op::Insert], "{version}");
        let rename = r.events.iter().find(|e| e.op == Op::Rename).unwrap();
        assert_eq!(rename.to, Some(Namespace::of(&db, "d")));
        // Every place resumes, those at an invalidate too.
        let all: Vec<_> = r.events.iter().map(Event::id).collect();
        let mut places = r.ends.clone();
        places.dedup();
        for (seen, end) in places {
            let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await;
            again.count(all.len() - seen).await;
            assert_eq!(again.events.iter().map(Event::id).collect::<Vec<_>>(), all[seen..], "{version}: behind {seen}");
        }
    }
}

#[tokio::test]
async fn a_dropped_database_is_watched_on() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    client.database(&db).drop().await.unwrap();
    insert(&c, [1]).await;
    r.until("the insert", |r| r.events.iter().any(|e| e.op == Op::Insert)).await;
    let ops: Vec<Op> = r.events.iter().map(|e| e.op).collect();
    assert_eq!(ops, [Op::Drop, Op::DropDatabase, Op::Create, Op::Insert]);
    assert_eq!(r.events[1].ns, Namespace::new(&db));
}

#[tokio::test]
async fn lost_history_is_a_lost_position() {
    // The log is kept for as long as a recovery from the last checkpoint would need it: a checkpoint a second, not a minute.
    let args = vec!["--syncdelay=1".to_owned()];
    let mongo = Mongo::start(MongoOptions { oplog_mb: 16, args, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let toml = scope(&db, "c");
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    insert(&c, [1]).await;
    r.count(1).await;
    let end = r.end().clone();
    r.source.close().await;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let big = "x".repeat(1 << 20);
    let mut n = 10;
    oplogue_testkit::wait_for("the oplog to roll over", || {
        n += 1;
        let (c, oplog, big, end) = (c.clone(), oplog.clone(), big.clone(), end.time);
        async move {
            c.insert_one(doc! {"_id": n, "big": big}).await.unwrap();
            let oldest = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).await.unwrap().unwrap();
            oldest.get_timestamp("ts").unwrap() > end
        }
    })
    .await;
    for _ in 0..2 {
        let Err(e) = Reader::try_open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await else {
            panic!("a lost position was opened");
        };
        assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
        assert!(e.get_hint().is_some());
    }
    // A configured time before the history is no lost position, but a wrong configuration.
    let early = toml.clone() + &format!("start = {{ at = {} }}", end.time.time);
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &early, StartAt::Configured).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    let mut oldest = Reader::open(KIND, &mongo.uri(), &(toml + "start = \"oldest\""), StartAt::Configured).await;
    oldest.count(1).await;
    assert_eq!(oldest.events[0].op, Op::Insert);
}

/// 9 MB are set, and `update-lookup` puts the document beside the description: 18 MB.
async fn large(version: &str) -> (&'static Mongo, Collection<Document>, String) {
    let mongo = servers::mongo_version(version).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    (mongo, c, scope(&db, "c") + "full_document = \"update-lookup\"\n")
}

async fn set_large(c: &Collection<Document>) {
    insert(c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"big": "x".repeat(9 << 20)}}).await.unwrap();
    insert(c, [2]).await;
}

#[tokio::test]
async fn a_large_event_is_split_and_joined() {
    let (mongo, c, toml) = large("6.0.27").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    set_large(&c).await;
    r.count(3).await;
    let update = r.events[1].clone();
    assert_eq!((update.op, int_ids(&r.events)), (Op::Update, vec![1, 1, 2]));
    assert_eq!(update.after.as_ref().unwrap().get_str("big").unwrap().len(), 9 << 20);
    let change = update.change.as_ref().unwrap();
    assert_eq!(change.decode().unwrap().set[0].1.as_str().map(str::len), Some(9 << 20));
    let places = r.ends.clone();
    for (seen, end) in places {
        let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await;
        again.count(3 - seen).await;
        assert_eq!(
            again.events.iter().map(Event::id).collect::<Vec<_>>(),
            r.events[seen..].iter().map(Event::id).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_large_event_that_cannot_be_split_stops_the_route_with_a_hint() {
    let (mongo, c, toml) = large("6.0.5").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    set_large(&c).await;
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.to_string().contains("16 MB") && e.get_hint().is_some(), "{e}");
    // The remedy of the hint works from the same position, and nothing is lost.
    let end = r.end().clone();
    let seen = r.events.len();
    let lighter = toml.replace("update-lookup", "default");
    let mut again = Reader::open(KIND, &mongo.uri(), &lighter, StartAt::Position(&end)).await;
    again.count(3 - seen).await;
    assert_eq!(int_ids(&again.events), [1, 1, 2][seen..]);
}

#[tokio::test]
async fn stepping_down_loses_nothing() {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "c"), StartAt::Now).await;
    insert(&c, 0..5).await;
    r.count(5).await;
    let first = mongo.wait_for_primary().await;
    mongo.step_down().await;
    insert(&c, 5..10).await;
    // A cursor outlives a step-down. It does not outlive its server.
    mongo.kill(first).await;
    mongo.wait_for_primary().await;
    let writer = mongo.client().await.database(&db).collection::<Document>("c");
    insert(&writer, 10..15).await;
    let opened = r.until_in_spite("15 events", |r| r.events.len() >= 15).await;
    assert_eq!(int_ids(&r.events), (0..15).collect::<Vec<_>>());
    assert!(opened >= 1, "the member that the stream was opened on is gone");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_reply_loses_nothing() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let toml = scope(&db, "c") + "batch_size = 50";
    let mut r = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &toml, StartAt::Now).await;
    let docs: Vec<Document> = (0..400).map(|id| doc! {"_id": id, "fill": "x".repeat(2000)}).collect();
    c.insert_many(docs).await.unwrap();
    let mut opened = 0;
    for n in 1..=4 {
        proxy.cut_after_bytes(60_001);
        opened += r.until_in_spite("events", |r| r.events.len() >= 100 * n).await;
    }
    assert_eq!(int_ids(&r.events), (0..400).collect::<Vec<_>>());
    assert!(proxy.cuts() >= 2 && opened >= 2, "{} cuts, opened {opened} times", proxy.cuts());
}

#[tokio::test]
async fn a_silent_network_is_noticed() {
    let mongo = servers::mongo().await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let db = unique("cs");
    let mut r = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &scope(&db, "c"), StartAt::Now).await;
    r.step().await.unwrap();
    proxy.stall();
    // `step` fails the test if this takes for ever.
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
    proxy.heal();
    proxy.cut_once();
    let end = r.end().clone();
    insert(&mongo.client().await.database(&db).collection("c"), [1]).await;
    let mut again =
        Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &scope(&db, "c"), StartAt::Position(&end)).await;
    again.until("the insert", |r| r.events.iter().any(|e| e.op == Op::Insert)).await;
}

#[tokio::test]
async fn a_foreign_position_is_refused() {
    let (mongo, other) = (servers::mongo().await, servers::mongo_version("6.0.27").await);
    let db = unique("cs");
    let theirs = Reader::open(KIND, &other.uri(), &scope(&db, "c"), StartAt::Now).await.end().clone();
    let elsewhere = Reader::open(KIND, &mongo.uri(), &scope(&db, "d"), StartAt::Now).await.end().clone();
    for (position, word) in [(theirs, "deployment"), (elsewhere, "checkpoint")] {
        let Err(e) = Reader::try_open(KIND, &mongo.uri(), &scope(&db, "c"), StartAt::Position(&position)).await else {
            panic!("a foreign position was opened")
        };
        assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
        assert!(e.to_string().contains(word) && e.get_hint().is_some(), "{e}");
    }
}

#[tokio::test]
async fn what_an_old_server_lacks_is_left_out_or_said() {
    let mongo = servers::mongo_version("4.4.2").await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let mut r = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    let c = coll(&client, &db, "c").await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    r.count(2).await;
    assert_eq!(r.events.iter().map(|e| e.op).collect::<Vec<_>>(), [Op::Insert, Op::Update]);
    assert!(matches!(r.events[1].change, Some(Change::ChangeStream(_))));
    let raw = database(&db) + "update_description = \"raw\"";
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &raw, StartAt::Now).await else { panic!("opened") };
    assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some("update_description")), "{e}");
    let images = database(&db) + "full_document = \"required\"";
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &images, StartAt::Now).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
}

#[tokio::test]
async fn classic_descriptions_on_request() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let toml = scope(&db, "c") + "update_description = \"classic\"";
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    r.count(2).await;
    assert!(matches!(r.events[1].change, Some(Change::ChangeStream(_))));
}

#[tokio::test]
async fn system_collections_are_shown_on_request_only() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let mut without = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    let system = database(&db) + "include_system = true";
    let mut with = Reader::open(KIND, &mongo.uri(), &system, StartAt::Now).await;
    let series = doc! {"create": "weather", "timeseries": {"timeField": "t"}};
    client.database(&db).run_command(series).await.unwrap();
    client.database(&db).collection("weather").insert_one(doc! {"t": bson::DateTime::now(), "c": 5}).await.unwrap();
    let plain = coll(&client, &db, "plain").await;
    insert(&plain, [1]).await;
    let last = |r: &Reader| r.events.iter().any(|e| e.op == Op::Insert && e.ns.coll() == "plain");
    without.until("the last insert", last).await;
    with.until("the last insert", last).await;
    assert!(without.events.iter().all(|e| !e.ns.is_system()), "{:?}", brief(&without.events));
    assert!(
        with.events.iter().any(|e| e.op == Op::Insert && e.ns.coll() == "system.buckets.weather"),
        "{:?}",
        brief(&with.events)
    );
    // The position of the one is good for the other, which shows less: resumed by time, and nothing comes twice.
    let (seen, end) = with.ends.iter().rev().find(|(n, _)| *n < with.events.len()).cloned().expect("an earlier end");
    let rest: Vec<_> = with.events[seen..].iter().filter(|e| !e.ns.is_system()).map(Event::id).collect();
    let mut again = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Position(&end)).await;
    again.count(rest.len()).await;
    assert_eq!(again.events.iter().map(Event::id).collect::<Vec<_>>(), rest);
}

#[tokio::test]
async fn images_come_where_they_are_stored() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let images = doc! {"create": "c", "changeStreamPreAndPostImages": {"enabled": true}};
    client.database(&db).run_command(images).await.unwrap();
    let c = client.database(&db).collection::<Document>("c");
    let required = "full_document = \"required\"\nfull_document_before_change = \"required\"\n";
    let mut source = build(KIND, &mongo.uri(), &(scope(&db, "c") + required)).unwrap();
    assert!(errors(&source.check().await).is_empty());
    let mut r = Reader::open(KIND, &mongo.uri(), &(database(&db) + required), StartAt::Now).await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 2}}).await.unwrap();
    r.count(3).await;
    // As it was then, not as it is now.
    assert_eq!(document(r.events[1].after.as_ref().unwrap()), doc! {"_id": 1, "a": 1});
    assert_eq!(document(r.events[1].before.as_ref().unwrap()), doc! {"_id": 1});
    let bare = coll(&client, &db, "bare").await;
    insert(&bare, [1]).await;
    bare.delete_one(doc! {"_id": 1}).await.unwrap();
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.get_hint().is_some_and(|hint| hint.contains("changeStreamPreAndPostImages")));
    let mut source = build(KIND, &mongo.uri(), &(database(&db) + required)).unwrap();
    let findings = source.check().await;
    assert!(errors(&findings).iter().any(|f| f.what.contains(&format!("{db}.bare"))), "{findings:?}");
}

#[tokio::test]
async fn start_oldest_and_at_a_time() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "c"), StartAt::Configured).await;
    insert(&c, 0..4).await;
    r.count(4).await;
    let t = r.events[2].time;
    for (start, want) in [("\"oldest\"".to_owned(), 0), (format!("{{ at = \"{}.{}\" }}", t.time, t.increment), 2)] {
        let toml = scope(&db, "c") + &format!("start = {start}");
        let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Configured).await;
        let inserts = |r: &Reader| r.events.iter().filter(|e| e.op == Op::Insert).cloned().collect::<Vec<_>>();
        again.until("the inserts", |r| inserts(r).len() == 4 - want as usize).await;
        assert_eq!(int_ids(&inserts(&again)), (want..4).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn check_names_what_is_missing() {
    let lone = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    let mut source = build(KIND, &lone.direct_uri(&lone.addr(0)), "").unwrap();
    let findings = source.check().await;
    assert!(errors(&findings)[0].what.contains("standalone"), "{findings:?}");
    assert!(errors(&findings)[0].hint.as_ref().is_some_and(|h| h.contains("--replSet")));
    let Err(e) = Reader::try_open(KIND, &lone.direct_uri(&lone.addr(0)), "", StartAt::Now).await else {
        panic!("opened")
    };
    assert_eq!(e.kind(), ErrorKind::Operator);

    let root = Credentials::new("root", "p@ss/word");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    let reader = Credentials::new("reader", "secret");
    mongo.add_user(&reader, vec![doc! {"role": "read", "db": "mine"}]).await;
    let mut mine = build(KIND, &mongo.uri_of(Some(&reader)), "database = \"mine\"").unwrap();
    assert!(errors(&mine.check().await).is_empty());
    let mut all = build(KIND, &mongo.uri_of(Some(&reader)), "").unwrap();
    let findings = all.check().await;
    assert!(errors(&findings)[0].what.contains("privilege"), "{findings:?}");
    assert!(errors(&findings)[0].hint.as_ref().is_some_and(|h| h.contains("changeStream")));
    let stranger = Credentials::new("reader", "hunter2");
    let mut source = build(KIND, &mongo.uri_of(Some(&stranger)), "").unwrap();
    let findings = source.check().await;
    assert!(errors(&findings)[0].what.contains("password"), "{findings:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
    let mut nowhere = build(KIND, "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300", "").unwrap();
    let findings = nowhere.check().await;
    assert_eq!(errors(&findings).len(), 1, "{findings:?}");
}

struct Harness {
    mongo: &'static Mongo,
    other: &'static Mongo,
    proxy: Proxy,
    client: Client,
    db: String,
}

#[async_trait]
impl SourceHarness for Harness {
    async fn source(&self) -> Box<dyn Source> {
        let toml = scope(&self.db, "c") + "batch_size = 4";
        build(KIND, &self.mongo.direct_uri(&self.proxy.addr()), &toml).expect("the source is built")
    }

    async fn produce(&self, work: &[Work]) {
        let c = self.client.database(&self.db).collection::<Document>("c");
        for work in work {
            match work {
                Work::One(step) => write(&c, step, None).await,
                Work::Txn(steps) => {
                    let mut session = self.client.start_session().await.expect("session");
                    session.start_transaction().await.expect("transaction");
                    for step in steps {
                        write(&c, step, Some(&mut session)).await;
                    }
                    session.commit_transaction().await.expect("commit");
                }
            }
        }
    }

    fn ns(&self) -> Namespace {
        Namespace::of(&self.db, "c")
    }

    async fn foreign_position(&self) -> Option<Position> {
        Some(Reader::open(KIND, &self.other.uri(), &scope(&self.db, "c"), StartAt::Now).await.end().clone())
    }

    async fn disrupt(&self) -> bool {
        self.proxy.cut_once();
        true
    }
}

async fn write(c: &Collection<Document>, step: &Step, session: Option<&mut mongodb::ClientSession>) {
    let filter = doc! {"_id": {"$eq": step.id()}};
    macro_rules! run {
        ($action:expr) => {
            match session {
                Some(session) => drop($action.session(session).await.expect("write")),
                None => drop($action.await.expect("write")),
            }
        };
    }
    match step {
        Step::Insert(doc) => run!(c.insert_one(doc)),
        Step::Update(_, set) => run!(c.update_one(filter, doc! {"$set": set})),
        Step::Replace(doc) => run!(c.replace_one(filter, doc)),
        Step::Delete(_) => run!(c.delete_one(filter)),
    }
}

#[tokio::test]
async fn the_contract_holds() {
    for version in ["6.0.5", "4.4.2"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("cs"));
        coll(&client, &db, "c").await;
        let proxy = Proxy::start(mongo.addr(0)).await;
        let other = servers::mongo_version("6.0.27").await;
        let report = conformance::source(&Harness { mongo, other, proxy, client, db }).await;
        // A lost position needs an oplog of its own: `lost_history_is_a_lost_position`. It does not end (S12), and the
        // server sends no event that cannot be decoded (P4).
        assert_eq!(report.skipped_clauses(), ["S8", "S12", "P4"], "{version}");
    }
}
