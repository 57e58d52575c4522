//! The `mongo` checkpoint store on a real server.

use std::sync::Arc;

use bson::{Bson, Document, Timestamp, doc, rawdoc};
use oplogue_api::{
    Checkpoint, CheckpointStore, Context, Doc, Error, ErrorKind, Options, Position, Registry, Saved, Severity,
    async_trait,
};
use oplogue_testkit::{
    conformance::{self, StoreHarness},
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};

fn build(uri: &str, db: &str) -> Result<Arc<dyn CheckpointStore>, Error> {
    let mut registry = Registry::default();
    oplogue_mongo::register(&mut registry);
    let options = format!("uri = {uri:?}\ndatabase = {db:?}").parse().expect("TOML");
    let context =
        Context { name: "store".into(), route: Some("route".into()), state_dir: ".".into(), ..Context::default() };
    (registry.stores["mongo"].build)(&context, &Options::new(options))
}

fn store(uri: &str, db: &str) -> Arc<dyn CheckpointStore> {
    build(uri, db).expect("the store is built")
}

fn checkpoint(generation: u64) -> Checkpoint {
    let n = generation as u32;
    let token = rawdoc! {"token": {"_data": format!("82{n:08X}")}, "n": i64::from(n), "x.y": "dots", "d": 1.5};
    Checkpoint { position: Position { token: Doc::from(token), time: Timestamp { time: n, increment: 1 } }, generation }
}

#[tokio::test]
async fn a_checkpoint_is_kept_byte_for_byte() {
    for version in servers::VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let db = unique("store");
        let s = store(&mongo.uri(), &db);
        assert_eq!(s.load("r").await.unwrap(), None);
        for n in 1..=3 {
            assert_eq!(s.save("r", &checkpoint(n)).await.unwrap(), Saved::Stored, "{version}");
            assert_eq!(s.load("r").await.unwrap(), Some(checkpoint(n)), "{version}");
        }
        // Another instance sees it, and another route does not.
        let other = store(&mongo.uri(), &db);
        assert_eq!(other.load("r").await.unwrap(), Some(checkpoint(3)));
        assert_eq!(other.load("r2").await.unwrap(), None);
        assert!(!other.is_shared());
    }
}

#[tokio::test]
async fn saving_compares_the_generation() {
    let mongo = servers::mongo().await;
    let s = store(&mongo.uri(), &unique("store"));
    s.save("r", &checkpoint(1)).await.unwrap();
    s.save("r", &checkpoint(2)).await.unwrap();
    // Once more, because the reply was lost.
    assert_eq!(s.save("r", &checkpoint(2)).await.unwrap(), Saved::Stored);
    for generation in [1, 2, 4, 9] {
        let mut other = checkpoint(generation);
        other.position.time.increment = 99;
        assert_eq!(s.save("r", &other).await.unwrap(), Saved::Superseded(checkpoint(2)), "{generation}");
    }
    assert_eq!(s.load("r").await.unwrap(), Some(checkpoint(2)));
}

#[tokio::test]
async fn of_many_writers_one_wins() {
    let mongo = servers::mongo().await;
    let (uri, db) = (mongo.uri(), unique("store"));
    store(&uri, &db).save("r", &checkpoint(1)).await.unwrap();
    for round in 2..6 {
        let writers = (0..6).map(|w| {
            let s = store(&uri, &db);
            async move {
                let mut mine = checkpoint(round);
                mine.position.time.increment = 100 + w;
                (mine.clone(), s.save("r", &mine).await.unwrap())
            }
        });
        let results = futures_util::future::join_all(writers).await;
        let winners: Vec<_> = results.iter().filter(|(_, saved)| *saved == Saved::Stored).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        for (_, saved) in &results {
            assert!(matches!(saved, Saved::Stored) || *saved == Saved::Superseded(winners[0].0.clone()));
        }
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_gone_is_noticed() {
    let mongo = servers::mongo().await;
    let s = store(&mongo.uri(), &unique("store"));
    s.save("r", &checkpoint(1)).await.unwrap();
    s.reset("r", None).await.unwrap();
    let e = s.save("r", &checkpoint(2)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.to_string().contains("\"r\""), "{e}");
    assert_eq!(s.load("r").await.unwrap(), None);
}

#[tokio::test]
async fn reset_sets_and_removes_whatever_is_there() {
    let mongo = servers::mongo().await;
    let db = unique("store");
    let s = store(&mongo.uri(), &db);
    s.reset("r", None).await.unwrap();
    s.reset("r", Some(&checkpoint(7).position)).await.unwrap();
    let set = s.load("r").await.unwrap().unwrap();
    assert_eq!((set.generation, &set.position), (1, &checkpoint(7).position));
    s.reset("r", Some(&checkpoint(8).position)).await.unwrap();
    assert_eq!(s.load("r").await.unwrap().unwrap().generation, 2);
    // A writer that was running meanwhile notices.
    assert!(matches!(s.save("r", &checkpoint(2)).await.unwrap(), Saved::Superseded(_)));
    let coll = mongo.client().await.database(&db).collection::<Document>("checkpoints");
    coll.replace_one(doc! {"_id": "r"}, doc! {"nonsense": 1}).await.unwrap();
    s.reset("r", Some(&checkpoint(9).position)).await.unwrap();
    assert_eq!(s.load("r").await.unwrap().unwrap().position, checkpoint(9).position);
    s.reset("r", None).await.unwrap();
    assert_eq!(s.load("r").await.unwrap(), None);
}

#[tokio::test]
async fn a_document_of_another_shape_is_an_error_that_names_it() {
    let mongo = servers::mongo().await;
    let db = unique("store");
    let s = store(&mongo.uri(), &db);
    s.save("r", &checkpoint(1)).await.unwrap();
    let coll = mongo.client().await.database(&db).collection::<Document>("checkpoints");
    for (field, value) in [("generation", Bson::String("secret".into())), ("position", Bson::Null)] {
        coll.update_one(doc! {"_id": "r"}, doc! {"$set": {field: value}}).await.unwrap();
        for e in [s.load("r").await.unwrap_err(), s.save("r", &checkpoint(2)).await.map(|_| ()).unwrap_err()] {
            assert_eq!(e.kind(), ErrorKind::Operator);
            let text = e.to_string();
            assert!(text.contains("\"r\"") && text.contains(&db) && !text.contains("secret"), "{text}");
            assert!(e.get_hint().is_some());
        }
    }
}

#[tokio::test]
async fn it_outlives_elections_and_cut_connections() {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let s = store(&mongo.uri(), "ck");
    s.save("r", &checkpoint(1)).await.unwrap();
    let first = mongo.wait_for_primary().await;
    mongo.kill(first).await;
    let mut tries = 0;
    oplogue_testkit::wait_for("a save behind the election", || {
        tries += 1;
        let s = s.clone();
        async move {
            match s.save("r", &checkpoint(2)).await {
                Ok(saved) => saved == Saved::Stored,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
                    false
                }
            }
        }
    })
    .await;
    assert_eq!(s.load("r").await.unwrap(), Some(checkpoint(2)));

    let shared = servers::mongo().await;
    let proxy = Proxy::start(shared.addr(0)).await;
    let s = store(&shared.direct_uri(&proxy.addr()), &unique("store"));
    for n in 1..=8 {
        if n % 2 == 0 {
            proxy.cut_after_bytes(20 * n);
        }
        oplogue_testkit::wait_for("a save through cuts", || {
            let s = s.clone();
            // The write may have been done although its reply was cut off: then it is there already.
            async move { matches!(s.save("r", &checkpoint(n)).await, Ok(Saved::Stored)) }
        })
        .await;
    }
    assert_eq!(s.load("r").await.unwrap(), Some(checkpoint(8)));
}

#[tokio::test]
async fn check_says_what_is_missing_and_writes_nothing() {
    let mongo = Mongo::start(MongoOptions { auth: Some(Credentials::new("root", "pw")), ..Default::default() }).await;
    let (reader, writer) = (Credentials::new("reader", "hunter2"), Credentials::new("writer", "pw"));
    mongo.add_user(&reader, vec![doc! {"role": "read", "db": "oplogue"}]).await;
    mongo.add_user(&writer, vec![doc! {"role": "readWrite", "db": "oplogue"}]).await;
    let findings = store(&mongo.uri_of(Some(&writer)), "oplogue").check().await;
    assert!(findings.iter().all(|f| f.severity == Severity::Ok), "{findings:?}");
    for (uri, word) in [
        (mongo.uri_of(Some(&reader)), "insert"),
        (mongo.uri_of(Some(&Credentials::new("writer", "wrong"))), "password"),
        ("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300".to_owned(), "server"),
    ] {
        let findings = store(&uri, "oplogue").check().await;
        assert!(
            findings.iter().any(|f| f.severity == Severity::Error && f.what.contains(word)),
            "{word}: {findings:?}"
        );
        assert!(!format!("{findings:?}").contains("hunter2"));
    }
    let e = store(&mongo.uri_of(Some(&reader)), "oplogue").save("r", &checkpoint(1)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    let names = mongo.client().await.list_database_names().await.unwrap();
    assert!(!names.contains(&"oplogue".to_owned()), "check made something");
}

/// No oplog is needed here.
#[tokio::test]
async fn a_standalone_server_will_do() {
    let lone = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    let s = store(&lone.direct_uri(&lone.addr(0)), "oplogue");
    assert!(s.check().await.iter().all(|f| f.severity == Severity::Ok));
    for n in 1..=2 {
        assert_eq!(s.save("r", &checkpoint(n)).await.unwrap(), Saved::Stored);
    }
    assert_eq!(s.load("r").await.unwrap(), Some(checkpoint(2)));
}

struct Harness {
    mongo: &'static Mongo,
    proxy: Proxy,
    db: String,
}

#[async_trait]
impl StoreHarness for Harness {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        let mut uri = self.mongo.direct_uri(&self.proxy.addr());
        uri.push_str(if uri.contains('?') { "&" } else { "/?" });
        uri.push_str("serverSelectionTimeoutMS=1000");
        store(&uri, &self.db)
    }
    async fn damage(&self, route: &str) -> bool {
        let coll = self.mongo.client().await.database(&self.db).collection::<Document>("checkpoints");
        let damaged = coll.update_one(doc! {"_id": route}, doc! {"$unset": {"position": 1}}).await;
        damaged.expect("damage").modified_count == 1
    }
    async fn disrupt(&self) -> bool {
        self.proxy.cut();
        true
    }
    async fn mend(&self) {
        self.proxy.heal();
    }
}

#[tokio::test]
async fn the_contract_holds() {
    for version in ["6.0.5", "4.4.2"] {
        let mongo = servers::mongo_version(version).await;
        let proxy = Proxy::start(mongo.addr(0)).await;
        let report = conformance::store(&Harness { mongo, proxy, db: unique("store") }).await;
        assert!(report.skipped.is_empty(), "{version}: {report:?}");
    }
}

#[test]
fn wrong_options_name_their_key() {
    for (uri, db, field) in
        [("localhost", "a", "uri"), ("mongodb://h/", "a.b", "database"), ("mongodb://h/", "", "database")]
    {
        let e = build(uri, db).map(|_| ()).unwrap_err();
        assert_eq!(e.field(), Some(field));
    }
}
