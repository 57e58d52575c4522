//! `full_document = "update-lookup"`: what updates bring, and what goes wrong on the way.

use std::time::{Duration, Instant};

use bson::{Bson, Decimal128, Document, doc};
use mongodb::{Client, Collection, options::WriteConcern};
use oplogue_api::{ErrorKind, Event, Op, Severity, StartAt};
use oplogue_testkit::{
    generate,
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};

use super::{KIND, QUICK, documents, insert, now, of_db};
use crate::streams::{LIMIT, Reader, build, document, errors, id_of, ids};

const LOOKUP: &str = "full_document = \"update-lookup\"\n";
const VERSIONS: [&str; 3] = ["4.4.2", "5.0.4", "6.0.5"];

async fn fresh(mongo: &Mongo) -> (Client, String, Collection<Document>) {
    let (client, db) = (mongo.client().await, unique("lookup"));
    let coll = client.database(&db).collection("c");
    (client, db, coll)
}

async fn set(coll: &Collection<Document>, id: impl Into<Bson>, n: i32) {
    let done = coll.update_one(doc! {"_id": {"$eq": id.into()}}, doc! {"$set": {"n": n}}).await.expect("update");
    assert_eq!(done.modified_count, 1);
}

/// Writes a marker. A majority read shows then all that was written before.
async fn mark(client: &Client, db: &str) {
    let marker = client.database(db).collection::<Document>("settled");
    marker.insert_one(doc! {}).write_concern(WriteConcern::majority()).await.expect("insert");
}

fn has_marker(events: &[Event], db: &str) -> bool {
    events.iter().any(|e| e.ns.db() == db && e.ns.coll() == "settled" && e.op == Op::Insert)
}

/// Writes a marker and reads up to it.
async fn settle(reader: &mut Reader, client: &Client, db: &str) {
    mark(client, db).await;
    reader.until("the marker", |r| has_marker(&r.events, db)).await;
}

/// What the updates in a database bring, with their ids.
fn images(reader: &Reader, db: &str) -> Vec<(Bson, Option<Document>)> {
    let updates = of_db(reader, db).into_iter().filter(|e| e.op == Op::Update);
    updates.map(|e| (id_of(e.key.as_ref().unwrap()), e.after.as_ref().map(document))).collect()
}

#[tokio::test]
async fn updates_bring_the_document_as_it_is_now() {
    for version in VERSIONS {
        for toml in [LOOKUP.to_owned(), format!("{LOOKUP}read_concern = \"local\"")] {
            let mongo = servers::mongo_version(version).await;
            let (client, db, coll) = fresh(mongo).await;
            let other = client.database(&db).collection::<Document>("d");
            insert(&coll, 1..5).await;
            insert(&other, [1]).await;
            let mut reader = now(mongo, &toml).await;
            set(&coll, 1, 1).await;
            set(&other, 1, 10).await;
            set(&coll, 2, 2).await;
            set(&coll, 3, 3).await;
            set(&coll, 1, 4).await;
            coll.delete_one(doc! {"_id": 2}).await.unwrap();
            coll.replace_one(doc! {"_id": 3}, doc! {"r": 1}).await.unwrap();
            let mut session = client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            for n in [5, 6] {
                coll.update_one(doc! {"_id": 4}, doc! {"$set": {"n": n}}).session(&mut session).await.unwrap();
            }
            session.commit_transaction().await.unwrap();
            settle(&mut reader, &client, &db).await;
            let one = Some(doc! {"_id": 1, "n": 4});
            let four = Some(doc! {"_id": 4, "n": 6});
            let expected = [
                (Bson::Int32(1), one.clone()),
                (Bson::Int32(1), Some(doc! {"_id": 1, "n": 10})),
                (Bson::Int32(2), None),
                (Bson::Int32(3), Some(doc! {"_id": 3, "r": 1})),
                (Bson::Int32(1), one),
                (Bson::Int32(4), four.clone()),
                (Bson::Int32(4), four),
            ];
            assert_eq!(images(&reader, &db), expected, "{version} {toml}");
            // Nothing else is touched: replacements, inserts and deletes are what they were.
            let replaced = of_db(&reader, &db).into_iter().find(|e| e.op == Op::Replace).unwrap();
            assert_eq!(document(replaced.after.as_ref().unwrap()), doc! {"_id": 3, "r": 1}, "{version}");
            assert!(of_db(&reader, &db).iter().all(|e| e.op != Op::Delete || e.after.is_none()));
        }
    }
}

#[tokio::test]
async fn without_the_option_updates_bring_nothing() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    insert(&coll, [1]).await;
    let mut reader = now(mongo, "full_document = \"default\"").await;
    set(&coll, 1, 1).await;
    settle(&mut reader, &client, &db).await;
    assert_eq!(images(&reader, &db), [(Bson::Int32(1), None)]);
}

#[tokio::test]
async fn ids_of_every_type_are_found_and_numbers_are_compared_as_the_server_does() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db, coll) = fresh(mongo).await;
        let mut all = generate::ids(3);
        all.extend([Bson::Null, Bson::Boolean(true), Bson::MinKey, Bson::MaxKey, Bson::Double(f64::INFINITY)]);
        all.push(Bson::Document(doc! {"$ref": "c", "$id": 1}));
        for id in &all {
            coll.insert_one(doc! {"_id": id}).await.unwrap();
        }
        let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
        let pairs = [
            // The same number: a later document of the same key.
            (Bson::Int32(101), Bson::Double(101.0), true),
            (Bson::Int64(102), Bson::Int32(102), true),
            (Bson::Double(103.0), decimal("103.00"), true),
            (Bson::Document(doc! {"a": 1}), Bson::Document(doc! {"a": 1.0}), true),
            // Another number, though not as a double.
            (Bson::Double(0.1), decimal("0.1"), false),
            (Bson::String("104".into()), Bson::Int32(104), false),
        ];
        for (old, _, _) in &pairs {
            coll.insert_one(doc! {"_id": old}).await.unwrap();
        }
        let mut reader = now(mongo, LOOKUP).await;
        for id in all.iter().chain(pairs.iter().map(|(old, _, _)| old)) {
            set(&coll, id.clone(), 1).await;
        }
        for (old, new, _) in &pairs {
            coll.delete_one(doc! {"_id": {"$eq": old}}).await.unwrap();
            coll.insert_one(doc! {"_id": new, "n": 2}).await.unwrap();
        }
        settle(&mut reader, &client, &db).await;
        let mut expected: Vec<_> = all.iter().map(|id| (id.clone(), Some(doc! {"_id": id, "n": 1}))).collect();
        expected.extend(pairs.map(|(old, new, same)| (old, same.then(|| doc! {"_id": new, "n": 2}))));
        assert_eq!(images(&reader, &db), expected, "{version}");
    }
}

#[tokio::test]
async fn a_collation_neither_confuses_ids_nor_costs_the_index() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db, coll) = fresh(mongo).await;
        let create = doc! {"create": "c", "collation": {"locale": "en", "strength": 2}};
        client.database(&db).run_command(create).await.unwrap();
        for id in ["abc", "xyz", "\u{e9}"] {
            coll.insert_one(doc! {"_id": id}).await.unwrap();
        }
        coll.insert_many((0..50).map(|n| doc! {"_id": n.to_string()})).await.unwrap();
        let mut reader = now(mongo, LOOKUP).await;
        for id in ["abc", "xyz", "\u{e9}"] {
            set(&coll, id, 1).await;
        }
        coll.delete_one(doc! {"_id": "abc"}).await.unwrap();
        coll.insert_one(doc! {"_id": "ABC", "n": 2}).await.unwrap();
        settle(&mut reader, &client, &db).await;
        let expected = [("abc", None), ("xyz", Some(1)), ("\u{e9}", Some(1))]
            .map(|(id, n)| (Bson::from(id), n.map(|n| doc! {"_id": id, "n": n})));
        assert_eq!(images(&reader, &db), expected, "{version}");

        // Why no collation is given: only that of the collection has the index of `_id`.
        let examined = async |more: Document| {
            let mut find = doc! {"find": "c", "filter": {"_id": {"$in": ["xyz", "7"]}}};
            find.extend(more);
            let explained = doc! {"explain": find, "verbosity": "executionStats"};
            let answer = client.database(&db).run_command(explained).await.unwrap();
            answer.get_document("executionStats").unwrap().get_i32("totalDocsExamined").unwrap()
        };
        assert_eq!(examined(doc! {}).await, 2, "{version}");
        assert!(examined(doc! {"collation": {"locale": "simple"}}).await > 50, "{version}");
    }
}

#[tokio::test]
async fn views_and_time_series_are_not_looked_up() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db, coll) = fresh(mongo).await;
        let database = client.database(&db);
        insert(&coll, [1]).await;
        insert(&database.collection("d"), [1]).await;
        let mut reader = now(mongo, &format!("{LOOKUP}include_system = true")).await;
        set(&coll, 1, 1).await;
        coll.drop().await.unwrap();
        database.run_command(doc! {"create": "c", "viewOn": "d", "pipeline": []}).await.unwrap();
        if version != "4.4.2" {
            let create = doc! {"create": "series", "timeseries": {"timeField": "at"}};
            database.run_command(create).await.unwrap();
            let series = database.collection::<Document>("series");
            for n in 0..2 {
                series.insert_one(doc! {"at": bson::DateTime::from_millis(1000 + n), "n": n}).await.unwrap();
            }
        }
        settle(&mut reader, &client, &db).await;
        let images = images(&reader, &db);
        assert_eq!(images.len(), 1 + usize::from(version != "4.4.2"), "{version}");
        assert!(images.iter().all(|(_, after)| after.is_none()), "{version}: {images:?}");
    }
}

#[tokio::test]
async fn only_the_namespaces_asked_for_are_looked_up() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    let others = ["cc", "d.x", "e"].map(|name| client.database(&db).collection::<Document>(name));
    for coll in others.iter().chain([&coll]) {
        insert(coll, [1]).await;
    }
    let mut reader = now(mongo, &format!("{LOOKUP}full_document_namespaces = [\"{db}.c\", \"{db}.d*\"]")).await;
    for coll in [&coll].into_iter().chain(&others) {
        set(coll, 1, 1).await;
    }
    settle(&mut reader, &client, &db).await;
    let with: Vec<bool> = images(&reader, &db).iter().map(|(_, after)| after.is_some()).collect();
    assert_eq!(with, [true, false, true, false]);
}

#[tokio::test]
async fn wrong_options_are_told() {
    for (toml, field) in [
        ("full_document_namespaces = [\"a.b\"]".to_owned(), Some("full_document_namespaces")),
        (format!("{LOOKUP}full_document_namespaces = []"), Some("full_document_namespaces")),
        (format!("{LOOKUP}full_document_namespaces = [\"app\"]"), Some("full_document_namespaces")),
        ("full_document = \"required\"".to_owned(), None),
    ] {
        let Err(e) = build(KIND, "mongodb://127.0.0.1:9/", &toml) else { panic!("{toml} was built") };
        assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, field), "{e}");
    }
}

/// Reads up to the marker and gives the sizes of the batches that have updates of `db`.
async fn batches(reader: &mut Reader, db: &str) -> Vec<usize> {
    let mut sizes = Vec::new();
    loop {
        let batch = reader.source.next().await.unwrap().unwrap();
        assert!(batch.bad.is_empty());
        let is_last = has_marker(&batch.events, db);
        if batch.events.iter().any(|e| e.ns.db() == db && e.op == Op::Update) {
            let largest = batch.events.iter().map(Event::size).max().unwrap();
            assert!(batch.bytes >= largest, "{} of {largest}", batch.bytes);
            sizes.push(batch.bytes);
        }
        reader.events.extend(batch.events);
        reader.ends.push((reader.events.len(), batch.end));
        if is_last {
            return sizes;
        }
    }
}

#[tokio::test]
async fn large_documents_cut_the_batch_and_not_the_memory() {
    for version in VERSIONS {
        let mongo = servers::mongo_version(version).await;
        let (client, db, coll) = fresh(mongo).await;
        let mib = |n: usize| "x".repeat(n << 20);
        // 16 MiB to the byte when `n` is set: the frame, `_id`, `n` and the head of the string take 38 bytes.
        let largest = "x".repeat((16 << 20) - 29);
        coll.insert_one(doc! {"_id": 0, "n": 0, "x": &largest}).await.unwrap();
        let (five, many) = (mib(5), 8);
        for id in 1..=many {
            coll.insert_one(doc! {"_id": id, "n": 0, "x": &five}).await.unwrap();
        }
        let mut reader = now(mongo, LOOKUP).await;
        let first = reader.end().clone();
        for id in 0..=many {
            set(&coll, id, 1).await;
        }
        // In one transaction: it comes in parts, none of which ends inside it.
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for id in 1..=many {
            coll.update_one(doc! {"_id": id}, doc! {"$set": {"n": 2}}).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
        mark(&client, &db).await;

        let sizes = batches(&mut reader, &db).await;
        assert!(sizes.len() >= 4, "{version}: {sizes:?}");
        assert!(sizes.iter().all(|size| *size < 40 << 20), "{version}: {sizes:?}");
        let found = images(&reader, &db);
        assert_eq!(found.len(), 2 * many as usize + 1, "{version}");
        assert_eq!(found[0].1.as_ref().unwrap().get_str("x").unwrap(), largest, "{version}");
        for (id, after) in &found[1..] {
            let after = after.as_ref().unwrap();
            assert_eq!(after.get("_id"), Some(id), "{version}");
            assert_eq!((after.get_i32("n").unwrap(), after.get_str("x").unwrap().len()), (2, 5 << 20), "{version}");
        }
        let updates: Vec<Event> =
            of_db(&reader, &db).into_iter().filter(|e| e.op == Op::Update).map(Event::detach).collect();
        let transaction = updates[many as usize + 1].time;
        let parts = reader.ends.iter().filter(|(seen, end)| {
            let seen = of_db(&reader, &db).iter().take(*seen).filter(|e| e.txn.is_some()).count();
            (1..many as usize).contains(&seen) && end.time < transaction
        });
        assert!(parts.count() >= 1, "{version}: {:?}", reader.ends.len());

        // From each end, what is missing comes.
        let ends: Vec<_> = reader.ends.iter().map(|(_, end)| end.clone()).collect();
        drop(reader);
        let mut seen = 0;
        for end in ends {
            let expected: Vec<_> = updates.iter().filter(|e| e.time > end.time).map(Event::id).collect();
            if expected.is_empty() || end.time < first.time {
                continue;
            }
            let mut again = Reader::open(KIND, &mongo.uri(), QUICK, StartAt::Position(&end)).await;
            let events = documents(&mut again, &db, expected.len()).await;
            let got: Vec<_> = events.iter().filter(|e| e.op == Op::Update).map(Event::id).collect();
            assert_eq!(got, expected, "{version}");
            seen += 1;
        }
        assert!(seen > 2, "{version}");
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_early_gets_everything_once() {
    let mongo = servers::mongo().await;
    let (_, db, coll) = fresh(mongo).await;
    insert(&coll, 0..20).await;
    let mut reader = now(mongo, &format!("{LOOKUP}batch_size = 3")).await;
    for n in 0..60 {
        set(&coll, n % 20, n + 1).await;
    }
    let mut events = Vec::new();
    let since = Instant::now();
    while events.len() < 60 {
        assert!(since.elapsed() < LIMIT, "only {} updates came", events.len());
        let next = reader.source.next();
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(300), next).await {
            events.extend(batch.unwrap().unwrap().events.into_iter().filter(|e| e.ns.db() == db));
        }
    }
    assert_eq!(ids(&events), (0..60).map(|n| Bson::Int32(n % 20)).collect::<Vec<_>>());
    assert!(events.iter().all(|e| e.after.is_some()));
}

#[tokio::test]
async fn a_connection_cut_in_a_lookup_loses_nothing() {
    let mongo = servers::mongo().await;
    let (client, db, coll) = fresh(mongo).await;
    let fill = "x".repeat(100_000);
    coll.insert_many((0..100).map(|id| doc! {"_id": id, "fill": &fill})).await.unwrap();
    let proxy = Proxy::start(mongo.addr(0)).await;
    let toml = format!("{QUICK}{LOOKUP}batch_size = 50");
    let mut reader = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &toml, StartAt::Now).await;
    for id in 0..100 {
        set(&coll, id, 1).await;
    }
    mark(&client, &db).await;
    let mut opened = 0;
    for n in 1..=3 {
        // The entries have some 20 KB, the documents 10 MB: it is a look-up that is cut.
        proxy.cut_after_bytes(1_000_001);
        opened += reader.until_in_spite("updates", |r| images(r, &db).len() >= 30 * n).await;
    }
    opened += reader.until_in_spite("all", |r| has_marker(&r.events, &db)).await;
    let found = images(&reader, &db);
    assert_eq!(
        found.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
        (0..100).map(Bson::Int32).collect::<Vec<_>>()
    );
    assert!(found.iter().all(|(_, after)| after.as_ref().is_some_and(|d| d.get_i32("n").ok() == Some(1))));
    assert!(proxy.cuts() >= 1 && opened >= 1, "{} cuts, opened {opened} times", proxy.cuts());
}

#[tokio::test]
async fn an_image_is_never_older_than_its_event_whichever_member_answers() {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let (client, db, _) = fresh(&mongo).await;
    for (concern, preference) in
        [("majority", "secondary"), ("majority", "nearest"), ("local", "secondary"), ("local", "nearest")]
    {
        let coll = client.database(&db).collection::<Document>(&format!("{concern}_{preference}"));
        insert(&coll, 0..5).await;
        let uri = format!("{}&readPreference={preference}", mongo.uri());
        let toml = format!("{QUICK}{LOOKUP}read_concern = {concern:?}\nbatch_size = 7");
        let mut reader = Reader::open(KIND, &uri, &toml, StartAt::Now).await;
        let writer = async {
            for n in 1..=300 {
                set(&coll, n % 5, n).await;
            }
        };
        let updates = |r: &Reader| r.events.iter().filter(|e| e.op == Op::Update && e.ns.coll() == coll.name()).count();
        tokio::join!(reader.until_in_spite("the updates", |r| updates(r) == 300), writer);
        let (mut n, mut last) = (0, [0; 5]);
        for event in reader.events.iter().filter(|e| e.op == Op::Update && e.ns.coll() == coll.name()) {
            n += 1;
            let at = event.after.as_ref().expect("an image").get_i32("n").unwrap();
            assert!(at >= n, "{concern}, {preference}: the image of {at} for update {n}");
            // Nor do the images of a document go back.
            let last = &mut last[n as usize % 5];
            assert!(at >= *last, "{concern}, {preference}: the image of {at} behind that of {last}");
            *last = at;
        }
    }
}

#[tokio::test]
async fn a_missing_privilege_is_told_with_the_namespace() {
    let root = Credentials::new("root", "r00t");
    for version in VERSIONS {
        let mongo = Mongo::start(MongoOptions { version, auth: Some(root.clone()), ..Default::default() }).await;
        let user = Credentials::new("reader", "r0");
        let roles = vec![doc! {"role": "read", "db": "local"}, doc! {"role": "read", "db": "app"}];
        mongo.add_user(&user, roles).await;
        let client = mongo.client().await;
        let (may, may_not) = (client.database("app").collection("c"), client.database("shop").collection("c"));
        insert(&may, [1]).await;
        insert(&may_not, [1]).await;
        let uri = mongo.uri_of(Some(&user));
        let mut reader = Reader::open(KIND, &uri, &format!("{QUICK}{LOOKUP}"), StartAt::Now).await;
        set(&may, 1, 1).await;
        reader.until("the update", |r| images(r, "app").len() == 1).await;
        assert_eq!(images(&reader, "app")[0].1, Some(doc! {"_id": 1, "n": 1}), "{version}");
        set(&may_not, 1, 1).await;
        let e = loop {
            if let Err(e) = reader.step().await {
                break e;
            }
        };
        assert_eq!(e.kind(), ErrorKind::Operator, "{version}: {e}");
        assert!(e.to_string().contains("shop.c") && e.get_hint().is_some_and(|h| h.contains("grant")), "{e}");
        // With the remedy it goes on from where it stood.
        let end = reader.end().clone();
        let narrowed = format!("{QUICK}{LOOKUP}full_document_namespaces = [\"app.*\"]");
        let mut again = Reader::open(KIND, &uri, &narrowed, StartAt::Position(&end)).await;
        again.until("the update", |r| images(r, "shop") == [(Bson::Int32(1), None)]).await;

        let findings = async |namespaces: &str| {
            let toml = format!("{QUICK}{LOOKUP}{namespaces}");
            build(KIND, &uri, &toml).unwrap().check().await
        };
        let found = findings("full_document_namespaces = [\"shop.c\"]").await;
        assert!(errors(&found).iter().any(|f| f.what.contains("shop.c") && f.hint.is_some()), "{version}: {found:?}");
        for namespaces in ["", "full_document_namespaces = [\"shop.*\"]"] {
            let found = findings(namespaces).await;
            assert!(errors(&found).is_empty(), "{found:?}");
            let warned = found.iter().any(|f| f.severity == Severity::Warning && f.what.contains("stops the route"));
            assert!(warned, "{version} {namespaces}: {found:?}");
        }
        let found = findings("full_document_namespaces = [\"app.c\", \"app.*\"]").await;
        let said = found.iter().any(|f| f.severity == Severity::Ok && f.what.contains("full documents"));
        assert!(said && errors(&found).is_empty(), "{version}: {found:?}");
    }
}
