//! Positions: where reading begins, ends and goes on.

use super::*;

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
            // Of a place that another program has kept nothing but its time is known.
            let by_time = Position::at(end.time);
            let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&by_time)).await;
            again.count(34 - begin).await;
            let got: Vec<_> = again.events.iter().map(Event::id).collect();
            assert_eq!(got, all[begin..], "{version}: behind event {seen}, by time");
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
    // The stream that was open all the time notices, at the latest when it is opened again.
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert!(matches!(e.kind(), ErrorKind::PositionLost | ErrorKind::Transient), "{e}");
    assert!(r.events.len() == 1, "it went on behind a gap");
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
