//! The transform `enrich` on real servers.

mod streams;

use std::time::{Duration, Instant};

use bson::{Bson, Decimal128, Document, Timestamp, doc, rawdoc};
use mongodb::{Client, Collection};
use oplogue_api::{
    BadEvent, Batch, Context, Doc, Error, ErrorKind, Event, Namespace, Op, Options, Origin, Position, Registry,
    Transform,
};
use oplogue_testkit::{
    conformance,
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};
use streams::document;

/// A transform of a route whose source reads `origin`.
fn build(uri: &str, toml: &str, origin: Option<&str>) -> Result<Box<dyn Transform>, Error> {
    let mut registry = Registry::default();
    oplogue_mongo::register(&mut registry);
    let options = |uri: &str, more: &str| Options::new(format!("uri = {uri:?}\n{more}").parse().expect("TOML"));
    let origin = origin.map(|uri| Origin { kind: "mongo-oplog", options: options(uri, "") });
    let context = Context { name: "full".into(), route: Some("route".into()), origin, ..Context::default() };
    (registry.transforms["enrich"].build)(&context, &options(uri, toml))
}

fn key(id: impl Into<Bson>) -> Doc {
    let key = bson::RawDocumentBuf::try_from(&doc! {"_id": id.into()}).unwrap();
    key.into()
}

fn update(ns: &str, id: impl Into<Bson>, time: Timestamp) -> Event {
    let change = oplogue_api::Change::OplogV2(rawdoc! {"u": {"n": 1}}.into());
    let mut event = Event::new(Op::Update, Namespace::new(ns), time, rawdoc! {}.into());
    (event.key, event.change) = (Some(key(id)), Some(change));
    event
}

fn batch(events: Vec<Event>, head: Timestamp) -> Batch {
    let end = Position::at(events.last().map_or(head, |event| event.time));
    Batch { events, bad: Vec::new(), end, head, bytes: 0 }
}

async fn pass(enrich: &mut dyn Transform, batch: &mut Batch) {
    enrich.prepare(batch).await.expect("prepared");
    enrich.apply(batch).expect("applied");
}

fn images(batch: &Batch) -> Vec<Option<Document>> {
    batch.events.iter().map(|event| event.after.as_ref().map(document)).collect()
}

/// The time of the newest write of a client.
async fn now(client: &Client) -> Timestamp {
    let reply = client.database("admin").run_command(doc! {"ping": 1}).await.unwrap();
    reply.get_timestamp("operationTime").unwrap()
}

/// The finds of a database that its profiler saw, as collections with numbers of ids; by another than this test's client.
async fn finds(client: &Client, db: &str) -> Vec<(String, usize)> {
    let profile: Collection<Document> = client.database(db).collection("system.profile");
    let mut cursor =
        profile.find(doc! {"op": "query", "appName": "oplogue full"}).sort(doc! {"$natural": 1}).await.unwrap();
    let mut all = Vec::new();
    while cursor.advance().await.unwrap() {
        let entry = cursor.deserialize_current().unwrap();
        let command = entry.get_document("command").unwrap();
        let ids = command.get_document("filter").unwrap().get_document("_id").unwrap().get_array("$in").unwrap();
        all.push((command.get_str("find").unwrap().to_owned(), ids.len()));
    }
    all
}

async fn fresh(mongo: &Mongo) -> (Client, String, Collection<Document>) {
    let (client, db) = (mongo.client().await, unique("enrich"));
    let coll = client.database(&db).collection("c");
    client.database(&db).run_command(doc! {"profile": 2}).await.expect("a profiler");
    (client, db, coll)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_asks_once_in_each_collection() {
    for version in ["4.4.2", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db, coll) = fresh(mongo).await;
        let other: Collection<Document> = client.database(&db).collection("d");
        for id in 0..500 {
            coll.insert_one(doc! {"_id": id, "n": id}).await.unwrap();
        }
        other.insert_one(doc! {"_id": 1, "other": true}).await.unwrap();
        let time = now(&client).await;
        let (c, d) = (format!("{db}.c"), format!("{db}.d"));
        let mut events: Vec<Event> = (0..500).map(|id| update(&c, id, time)).collect();
        events.push(update(&d, 1, time));
        events.push(update(&c, 7, time));
        events.push(update(&c, "gone", time));
        // These have theirs, or can have none.
        events.push(Event { after: Some(key(1)), ..update(&c, 501, time) });
        events.push(Event { op: Op::Delete, change: None, ..update(&c, 502, time) });
        let mut enrich = build(&mongo.uri(), "", Some(&mongo.uri())).unwrap();
        let mut all = batch(events, time);
        pass(&mut *enrich, &mut all).await;
        let images = images(&all);
        for id in 0..500 {
            assert_eq!(images[id as usize], Some(doc! {"_id": id, "n": id}));
        }
        let wanted =
            [Some(doc! {"_id": 1, "other": true}), Some(doc! {"_id": 7, "n": 7}), None, Some(doc! {"_id": 1}), None];
        assert_eq!(images[500..], wanted, "{version}");
        assert_eq!(finds(&client, &db).await, [("c".to_owned(), 501), ("d".to_owned(), 1)], "{version}");
    }
}

/// Keys that are equal to the server and not to the byte; and one that `$in` would take for a pattern.
#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_find_their_documents() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    let regex =
        Bson::RegularExpression(bson::Regex { pattern: "^a".try_into().unwrap(), options: "".try_into().unwrap() });
    coll.insert_one(doc! {"_id": 1_i64, "n": 1}).await.unwrap();
    coll.insert_one(doc! {"_id": "abc", "n": 2}).await.unwrap();
    coll.insert_one(doc! {"_id": {"a": 1}, "n": 3}).await.unwrap();
    let time = now(&client).await;
    let ns = format!("{db}.c");
    let decimal: Decimal128 = "1.0".parse().unwrap();
    let ids = [
        Bson::Int32(1),
        Bson::Double(1.0),
        Bson::Decimal128(decimal),
        regex,
        doc! {"a": 1}.into(),
        doc! {"$a": 1}.into(),
    ];
    let mut all = batch(ids.into_iter().map(|id| update(&ns, id, time)).collect(), time);
    pass(&mut *build(&mongo.uri(), "", Some(&mongo.uri())).unwrap(), &mut all).await;
    let n: Vec<_> = images(&all).into_iter().map(|image| image.map(|image| image.get_i32("n").unwrap())).collect();
    assert_eq!(n, [Some(1), Some(1), Some(1), None, Some(3), None]);
}

/// A document is kept for the changes that it holds, and never taken for a later one.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_gives_nothing_older_than_the_change() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    let ns = format!("{db}.c");
    coll.insert_one(doc! {"_id": 1, "n": 1}).await.unwrap();
    let early = now(&client).await;
    coll.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 2}}).await.unwrap();
    let head = now(&client).await;
    let mut enrich = build(&mongo.uri(), "", Some(&mongo.uri())).unwrap();
    // A backlog: three batches, all of changes up to `head`.
    for time in [early, early, head] {
        let mut all = batch(vec![update(&ns, 1, time), update(&ns, "gone", time)], head);
        pass(&mut *enrich, &mut all).await;
        assert_eq!(images(&all), [Some(doc! {"_id": 1, "n": 2}), None]);
    }
    assert_eq!(finds(&client, &db).await.len(), 1);
    coll.update_one(doc! {"_id": 1}, doc! {"$set": {"n": 3}}).await.unwrap();
    let later = now(&client).await;
    // Both events of a batch bring the same, although the cache would do for the first.
    let mut all = batch(vec![update(&ns, 1, early), update(&ns, 1, later)], later);
    pass(&mut *enrich, &mut all).await;
    assert_eq!(images(&all), [Some(doc! {"_id": 1, "n": 3}), Some(doc! {"_id": 1, "n": 3})]);
    assert_eq!(finds(&client, &db).await.len(), 2);

    // Nothing is kept of another deployment, whose times tell nothing; unless it is asked for, by age.
    for (more, count) in [("", 4), ("cache_ttl = \"1h\"", 5), ("cache_ttl = \"1h\"\ncache = \"0B\"", 7)] {
        let mut enrich = build(&mongo.uri(), more, None).unwrap();
        for _ in 0..2 {
            pass(&mut *enrich, &mut batch(vec![update(&ns, 1, later)], later)).await;
        }
        assert_eq!(finds(&client, &db).await.len(), count, "{more}");
    }
}

/// More documents than a reply holds.
#[tokio::test(flavor = "multi_thread")]
async fn large_documents_come_in_several_replies() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    let text = "x".repeat(5 << 20);
    for id in 0..8 {
        coll.insert_one(doc! {"_id": id, "text": &text}).await.unwrap();
    }
    let time = now(&client).await;
    let mut all = batch((0..8).map(|id| update(&format!("{db}.c"), id, time)).collect(), time);
    pass(&mut *build(&mongo.uri(), "", Some(&mongo.uri())).unwrap(), &mut all).await;
    assert!(images(&all).iter().zip(0..).all(|(image, id)| image.as_ref().unwrap().get_i32("_id").unwrap() == id));
    let asked = finds(&client, &db).await;
    assert!((2..=4).contains(&asked.len()), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_gone_is_missing() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    coll.insert_one(doc! {"_id": 1}).await.unwrap();
    let time = now(&client).await;
    let ns = format!("{db}.c");
    let elsewhere = Namespace::of(&db, "other");
    for (missing, events, bad) in [("keep", 3, 1), ("drop", 2, 1), ("error", 2, 2)] {
        let options = format!("missing = \"{missing}\"\nnamespaces = [\"{db}.c\"]");
        let mut enrich = build(&mongo.uri(), &options, Some(&mongo.uri())).unwrap();
        let events_in = vec![
            update(&ns, "gone", time),
            update(&ns, 1, time),
            Event { ns: elsewhere.clone(), ..update(&ns, 2, time) },
        ];
        let mut all = batch(events_in, time);
        // Refused before, it may go on one day: it gets its document as well.
        all.bad.push(BadEvent::refused(2, update(&ns, 1, time), Error::data("by another")));
        pass(&mut *enrich, &mut all).await;
        assert_eq!((all.events.len(), all.bad.len()), (events, bad), "{missing}");
        let refused = all.bad.last().unwrap();
        assert_eq!(refused.before, if missing == "keep" { 2 } else { 1 }, "{missing}");
        assert!(refused.event.as_ref().unwrap().after.is_some());
        if missing == "error" {
            let own = &all.bad[0];
            assert_eq!((own.before, own.error.kind()), (0, ErrorKind::Data));
            assert!(own.error.get_hint().is_some() && own.event.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_apart() {
    let user = Credentials::new("joe", "s3cret-word");
    let root = Credentials::new("root", "root");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    mongo.add_user(&user, vec![doc! {"role": "read", "db": "mine"}]).await;
    let client = mongo.client().await;
    client.database("mine").collection("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let time = now(&client).await;
    let mine = || batch(vec![update("mine.c", 1, time)], time);
    let uri = mongo.uri_of(Some(&user));
    let failed = async |uri: &str, all: &Batch| {
        let e = build(uri, "", None).unwrap().prepare(all).await.unwrap_err();
        let told = format!("{e} {e:?} {:?}", e.get_hint());
        assert!(!told.contains("s3cret") && !told.contains("wrong-word"), "{told}");
        e
    };
    pass(&mut *build(&uri, "", None).unwrap(), &mut mine()).await;
    let e = failed(&uri, &batch(vec![update("theirs.c", 1, time)], time)).await;
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.to_string().contains("theirs.c") && e.get_hint().unwrap().contains("`namespaces` of `enrich`"), "{e}");
    let check = async |options: &str| {
        let found = build(&uri, options, None).unwrap().check().await;
        found.into_iter().map(|finding| (finding.severity, finding.what)).collect::<Vec<_>>()
    };
    use oplogue_api::Severity::{Error as Wrong, Ok as Fine, Warning};
    assert!(matches!(&check("namespaces = [\"mine.*\"]").await[..], [(Fine, _), (Fine, _)]));
    assert!(matches!(&check("").await[..], [(Fine, _), (Warning, what)] if what.contains("every database")));
    assert!(
        matches!(&check("namespaces = [\"theirs.c\"]").await[..], [(Fine, _), (Wrong, what)] if what.contains("theirs.c"))
    );
    let e = failed(&uri.replace("s3cret-word", "wrong-word"), &mine()).await;
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");

    // Away, and back: the same batch works then.
    let proxy = Proxy::start(mongo.addr(0)).await;
    let away = mongo.direct_uri(&proxy.addr());
    let away = format!("{away}{}serverSelectionTimeoutMS=1000", if away.contains('?') { "&" } else { "/?" });
    let mut enrich = build(&away, "", None).unwrap();
    pass(&mut *enrich, &mut mine()).await;
    proxy.cut();
    let mut all = mine();
    let begun = Instant::now();
    assert_eq!(enrich.prepare(&all).await.unwrap_err().kind(), ErrorKind::Transient);
    assert!(begun.elapsed() < Duration::from_secs(60));
    proxy.heal();
    let begun = Instant::now();
    while let Err(e) = enrich.prepare(&all).await {
        assert!(e.kind() == ErrorKind::Transient && begun.elapsed() < streams::LIMIT, "{e}");
    }
    enrich.apply(&mut all).unwrap();
    assert_eq!(images(&all), [Some(doc! {"_id": 1})]);
    // A batch that was not prepared is a fault, and no update goes on without its document for that.
    assert_eq!(enrich.apply(&mut mine()).unwrap_err().kind(), ErrorKind::Bug);
}

#[test]
fn wrong_options_are_named() {
    for (uri, toml, field) in [
        ("http://h", "", "uri"),
        ("mongodb://h", "namespaces = []", "namespaces"),
        ("mongodb://h", "namespaces = [\"!a.*\"]", "namespaces"),
    ] {
        let e = build(uri, toml, None).map(drop).unwrap_err();
        assert!(e.field() == Some(field) && e.get_hint().is_some(), "{e}");
    }
    assert!(build("mongodb://h", "missing = \"no\"", None).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    let uri = servers::mongo().await.uri();
    tokio::task::spawn_blocking(move || {
        for toml in ["", "missing = \"drop\"", "missing = \"error\""] {
            let make = || build(&uri, toml, None).unwrap();
            assert_eq!(conformance::transform(&make).skipped_clauses(), [""; 0], "{toml}");
        }
    })
    .await
    .unwrap();
}
