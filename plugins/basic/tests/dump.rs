//! Dumps of real servers, replayed.

use std::{collections::BTreeMap, path::Path};

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use oplogue_api::{Batch, Context, Event, Interest, Op, Options, Registry, Source, StartAt};
use oplogue_testkit::{servers, unique};

fn dump(path: &Path, batch_size: i64) -> Box<dyn Source> {
    let mut registry = Registry::default();
    oplogue_basic::register(&mut registry);
    let mut options = toml::Table::new();
    options.insert("path".to_owned(), path.to_str().unwrap().into());
    options.insert("batch_size".to_owned(), batch_size.into());
    (registry.sources["bson-dump"].build)(&Context::default(), &Options::new(options)).unwrap()
}

async fn replay(path: &Path, batch_size: i64) -> Vec<Batch> {
    let mut source = dump(path, batch_size);
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let mut all = Vec::new();
    while let Some(batch) = source.next().await.unwrap() {
        all.push(batch);
    }
    all
}

/// The newest entry's time.
async fn now(client: &mongodb::Client) -> Timestamp {
    let log = client.database("local").collection::<Document>("oplog.rs");
    let newest = log.find_one(doc! {}).sort(doc! {"$natural": -1}).await.unwrap().unwrap();
    newest.get_timestamp("ts").unwrap()
}

/// What mongodump writes for `{ts: {$gt: after}}`: the documents, one behind the other.
async fn save(client: &mongodb::Client, after: Timestamp, path: &Path) -> usize {
    let log = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let mut cursor = log.find(doc! {"ts": {"$gt": after}}).await.unwrap();
    let (mut bytes, mut entries) = (Vec::new(), 0);
    while cursor.advance().await.unwrap() {
        bytes.extend_from_slice(cursor.current().as_bytes());
        entries += 1;
    }
    std::fs::write(path, bytes).unwrap();
    entries
}

#[tokio::test]
async fn a_dump_of_a_real_server() {
    let mongo = servers::Mongo::start(servers::MongoOptions::default()).await;
    let client = mongo.client().await;
    let after = now(&client).await;
    let db = client.database("shop");
    db.create_collection("orders").await.unwrap();
    let orders = db.collection::<Document>("orders");
    orders.insert_one(doc! {"_id": 1, "status": "new", "items": [{"sku": "a", "n": 1}]}).await.unwrap();
    orders.insert_one(doc! {"_id": 2, "status": "new"}).await.unwrap();
    orders.update_one(doc! {"_id": 1}, doc! {"$set": {"status": "paid", "items.0.n": 2}}).await.unwrap();
    orders.replace_one(doc! {"_id": 2}, doc! {"total": 9.5}).await.unwrap();
    orders.delete_one(doc! {"_id": 2}).await.unwrap();
    db.run_command(doc! {"createIndexes": "orders", "indexes": [{"key": {"status": 1}, "name": "status_1"}]})
        .await
        .unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    orders.insert_one(doc! {"_id": 3, "status": "new"}).session(&mut session).await.unwrap();
    orders.update_one(doc! {"_id": 1}, doc! {"$unset": {"items": ""}}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    client.database("admin").run_command(doc! {"renameCollection": "shop.orders", "to": "shop.old"}).await.unwrap();
    db.drop().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.rs.bson");
    save(&client, after, &path).await;
    if let Ok(sample) = std::env::var("OPLOGUE_SAMPLE") {
        std::fs::copy(&path, sample).unwrap();
    }
    let batches = replay(&path, 3).await;
    assert!(batches.iter().all(|b| b.bad.is_empty()));
    let events: Vec<&Event> = batches.iter().flat_map(|b| &b.events).filter(|e| e.ns.db() == "shop").collect();
    use Op::{Create, Delete, Drop, DropDatabase, Index, Insert, Rename, Replace, Update};
    assert_eq!(
        events.iter().map(|e| e.op).collect::<Vec<_>>(),
        [Create, Insert, Insert, Update, Replace, Delete, Index, Insert, Update, Rename, Drop, DropDatabase]
    );
    let change = events[3].change.as_ref().unwrap();
    let update = change.decode().unwrap();
    let set: BTreeMap<String, Bson> =
        update.set.iter().map(|(path, v)| (path.to_string(), Bson::try_from(*v).unwrap())).collect();
    assert_eq!(set, BTreeMap::from([("status".into(), "paid".into()), ("items.0.n".into(), 2.into())]));
}

async fn insert_many_megabytes(
    client: &mongodb::Client,
    rows: &mongodb::Collection<Document>,
) -> mongodb::error::Result<()> {
    let text = "x".repeat(1_000_000);
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for n in 0..20 {
        rows.insert_one(doc! {"_id": n, "text": &text}).session(&mut session).await?;
    }
    session.commit_transaction().await
}

/// A transaction of more than 16 MB has several entries, which are read again from the file when the last one comes.
#[tokio::test]
async fn a_transaction_of_many_megabytes() {
    let mongo = servers::Mongo::start(servers::MongoOptions::default()).await;
    let client = &mongo.client().await;
    // Test servers have a small cache, and refuse such a transaction.
    mongo.admin(doc! {"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G"}).await;
    let db = unique("dump");
    let after = now(client).await;
    let rows = client.database(&db).collection::<Document>("rows");
    client.database(&db).create_collection("rows").await.unwrap();
    // The server may ask to try again.
    while let Err(e) = insert_many_megabytes(client, &rows).await {
        assert!(e.contains_label("TransientTransactionError"), "{e}");
    }
    rows.insert_one(doc! {"_id": 100}).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    save(client, after, &path).await;
    for batch_size in [1, 1000] {
        let batches = replay(&path, batch_size).await;
        assert!(batches.iter().all(|b| b.bad.is_empty()));
        // I6: never the whole transaction at once.
        assert!(batches.iter().all(|b| b.bytes < 20_000_000));
        let events: Vec<&Event> = batches.iter().flat_map(|b| &b.events).filter(|e| e.ns.db() == db).collect();
        let ids: Vec<i32> = events
            .iter()
            .filter(|e| e.op == Op::Insert)
            .map(|e| e.after.as_ref().unwrap().get_i32("_id").unwrap())
            .collect();
        assert_eq!(ids, (0..20).chain([100]).collect::<Vec<_>>());
        let inserts: Vec<&&Event> = events.iter().filter(|e| e.op == Op::Insert && e.txn.is_some()).collect();
        assert!(inserts.windows(2).all(|w| w[1].index == w[0].index + 1 && w[0].time == w[1].time));
    }
}
