//! Elections, servers that are no replica set, users without privileges, and what `check` says about them.

use bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use oplogue_api::{ErrorKind, Interest, Op, Severity, StartAt};
use oplogue_testkit::{
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};

use super::{KIND, QUICK, insert, now, of_db};
use crate::streams::{LIMIT, Reader, build, errors, ids};

#[tokio::test]
async fn elections_lose_nothing() {
    for toml in ["", "read_concern = \"local\""] {
        let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
        let (client, db) = (mongo.client().await, unique("oplog"));
        let coll = client.database(&db).collection::<Document>("c");
        let mut reader = now(&mongo, toml).await;
        let read = mongo.wait_for_primary().await;
        insert(&coll, 0..5).await;
        mongo.step_down().await;
        insert(&coll, 5..10).await;
        // The cursor survives on the member that is a secondary now.
        reader.step().await.unwrap();
        mongo.kill(read).await;
        mongo.wait_for_primary().await;
        let writer = mongo.client().await.database(&db).collection::<Document>("c");
        insert(&writer, 10..15).await;
        let inserts = |r: &Reader| of_db(r, &db).iter().filter(|e| e.op == Op::Insert).count();
        let opened = reader.until_in_spite("15 events", |r| inserts(r) >= 15).await;
        let events: Vec<_> = of_db(&reader, &db).into_iter().filter(|e| e.op == Op::Insert).cloned().collect();
        assert_eq!(ids(&events), (0..15).map(Bson::Int32).collect::<Vec<_>>(), "{toml}");
        assert!(opened >= 1, "killing the member cuts the cursor");
    }
}

#[tokio::test]
async fn a_standalone_server_is_told() {
    let mongo = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), QUICK, StartAt::Now).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.to_string().contains("standalone") && e.get_hint().is_some_and(|h| h.contains("--replSet")), "{e}");
    let findings = build(KIND, &mongo.uri(), QUICK).unwrap().check().await;
    assert!(errors(&findings).iter().any(|f| f.what.contains("standalone")));
}

#[tokio::test]
async fn privileges_are_told_by_name() {
    let root = Credentials::new("root", "pa ss/w@rd:%");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    let (nothing, reader) = (Credentials::new("nothing", "n0"), Credentials::new("reader", "r0"));
    mongo.add_user(&nothing, vec![doc! {"role": "read", "db": "test"}]).await;
    mongo.add_user(&reader, vec![doc! {"role": "read", "db": "local"}]).await;

    let uri = mongo.uri_of(Some(&nothing));
    let Err(e) = Reader::try_open(KIND, &uri, QUICK, StartAt::Now).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.get_hint().is_some_and(|h| h.contains("local")), "{:?}", e.get_hint());
    let findings = build(KIND, &uri, QUICK).unwrap().check().await;
    let found = errors(&findings);
    assert!(found.iter().any(|f| f.what.contains("local.oplog.rs") && f.hint.is_some()), "{findings:?}");

    let wrong = mongo.uri_of(Some(&Credentials::new("reader", "wrong")));
    let Err(e) = Reader::try_open(KIND, &wrong, QUICK, StartAt::Now).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(!e.to_string().contains("wrong") || e.to_string().contains("password"), "{e}");

    // `read` on `local` is enough to read, and to resume.
    let uri = mongo.uri_of(Some(&reader));
    let mut source = Reader::open(KIND, &uri, QUICK, StartAt::Now).await;
    let coll = mongo.client().await.database("app").collection::<Document>("c");
    insert(&coll, [1]).await;
    source.until("the insert", |r| r.events.iter().any(|e| e.op == Op::Insert && e.ns.db() == "app")).await;
    Reader::open(KIND, &uri, QUICK, StartAt::Position(source.end())).await;
    let findings = build(KIND, &uri, QUICK).unwrap().check().await;
    assert!(errors(&findings).is_empty(), "{findings:?}");
}

#[tokio::test]
async fn a_check_of_a_good_server_finds_nothing_wrong() {
    let mongo = servers::mongo().await;
    let findings = build(KIND, &mongo.uri(), QUICK).unwrap().check().await;
    assert!(findings.iter().all(|f| f.severity == Severity::Ok), "{findings:?}");
    for word in ["6.0.5", "local.oplog.rs", "reaches back", "clocks"] {
        assert!(findings.iter().any(|f| f.what.contains(word)), "{word}: {findings:?}");
    }
    let findings = build(KIND, "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200", QUICK).unwrap().check().await;
    assert_eq!(errors(&findings).len(), 1);
}

#[tokio::test]
async fn wrong_options_are_told_before_anything_is_connected() {
    let uri = "mongodb://127.0.0.1:9/";
    for (toml, field) in [("batch_size = 0", "batch_size"), ("await = \"2h\"", "await")] {
        let Err(e) = build(KIND, uri, toml) else { panic!("{toml} was built") };
        assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some(field)), "{e}");
    }
    for toml in ["start = \"later\"", "start = { at = \"noon\" }", "read_concern = \"linearizable\"", "bach_size = 1"] {
        let Err(e) = build(KIND, uri, toml) else { panic!("{toml} was built") };
        assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    }
}

#[tokio::test]
async fn a_rollback_is_a_lost_position_for_local_reads_and_nothing_for_majority_reads() {
    let args = vec!["--setParameter=enableTestCommands=1".into()];
    let mongo = Mongo::start(MongoOptions { members: 3, args, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    client.database(&db).collection::<Document>("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let mut local = now(&mongo, "read_concern = \"local\"").await;
    let mut majority = now(&mongo, "").await;
    let primary = mongo.wait_for_primary().await;
    let others: Vec<usize> = (0..3).filter(|member| *member != primary).collect();
    // The others follow the primary no more, but let it be primary.
    let replicate = |mode: &'static str| {
        let (mongo, others) = (&mongo, &others);
        async move {
            for member in others {
                let admin = mongo.direct_client(*member).await.database("admin");
                admin.run_command(doc! {"configureFailPoint": "stopReplProducer", "mode": mode}).await.unwrap();
            }
        }
    };
    replicate("alwaysOn").await;
    let alone = mongo.direct_client(primary).await;
    let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    alone.database(&db).collection("c").insert_one(doc! {"_id": 2}).write_concern(one).await.unwrap();
    let has = |r: &Reader, id: i32| {
        r.events.iter().any(|e| e.ns.db() == db && ids(std::slice::from_ref(e))[0] == Bson::Int32(id))
    };
    local.until("the insert that only one member has", |r| has(r, 2)).await;
    mongo.kill(primary).await;
    mongo.wait_for_primary().await;
    replicate("off").await;
    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    insert(&coll, [3]).await;

    majority.until_in_spite("the insert of the new primary", |r| has(r, 3)).await;
    assert!(!has(&majority, 2), "what was rolled back was never delivered");

    let end = local.end().clone();
    while local.step().await.is_ok() {}
    let since = std::time::Instant::now();
    let e = loop {
        assert!(since.elapsed() < LIMIT, "the position stays uncertain");
        match local.source.open(StartAt::Position(&end), &Interest::default()).await {
            Ok(_) => panic!("the position was opened"),
            Err(e) if e.kind() == ErrorKind::Transient => {}
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::PositionLost, "{e}");
    assert!(e.to_string().contains("rolled back"), "{e}");
}
