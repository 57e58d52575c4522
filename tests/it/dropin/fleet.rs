//! Fleets of oplogtoredis and oplogue on one Redis: each message once, whoever runs, and either takes over from the other.

use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions},
    unique,
};

use super::{
    DropIn,
    ear::Ear,
    model::{self, Model},
};

struct Fleet {
    client: Client,
    coll: Collection<Document>,
    db: String,
    redis: Redis,
    ear: Ear,
    channel: String,
    written: Vec<String>,
}

impl Fleet {
    async fn new() -> Fleet {
        let client = servers::mongo().await.client().await;
        let db = unique("fleet");
        let redis = Redis::start(RedisOptions::default()).await;
        let ear = Ear::open(&redis.url(), &db).await;
        let coll = client.database(&db).collection("c");
        // Of itself no transaction makes a collection.
        client.database(&db).create_collection("c").await.unwrap();
        Fleet { client, coll, channel: format!("{db}.c"), db, redis, ear, written: Vec::new() }
    }

    async fn otr(&self) -> DropIn {
        DropIn::of(&servers::mongo().await.uri(), &self.redis.url())
    }

    async fn model(&self) -> Model {
        Model::start(&self.client, &self.redis.client(), &self.db).await
    }

    /// Numbered documents, some of them in transactions.
    async fn write(&mut self, n: usize) {
        let end = self.written.len() + n;
        while self.written.len() < end {
            let first = self.written.len();
            let count = if first.is_multiple_of(7) { 4 } else { 1 };
            let ids: Vec<_> = (first..first + count).map(|n| format!("id{n:04}")).collect();
            let mut session = self.client.start_session().await.unwrap();
            if count > 1 {
                session.start_transaction().await.unwrap();
            }
            for id in &ids {
                self.coll.insert_one(doc! {"_id": id, "n": 1}).session(&mut session).await.unwrap();
            }
            if count > 1 {
                session.commit_transaction().await.unwrap();
            }
            self.written.extend(ids);
        }
    }

    async fn wait(&self) {
        self.ear.wait_id(&self.channel, self.written.last().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_once_whoever_runs_and_is_killed() {
    let mut f = Fleet::new().await;
    let mut model = Some(f.model().await);
    let mut otr = f.otr().await;
    f.write(30).await;
    otr.started().await;
    f.write(60).await;
    f.wait().await;
    for _ in 0..3 {
        // Killed while both have something to do.
        f.write(25).await;
        model.take().unwrap().kill().await;
        f.write(40).await;
        f.wait().await;
        model = Some(f.model().await);
        f.write(25).await;
        otr.kill();
        f.write(40).await;
        f.wait().await;
        otr.started().await;
    }
    f.write(20).await;
    f.wait().await;
    assert!(otr.terminate().0.success());
    assert_eq!(f.ear.ids(&f.channel), f.written, "each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_takes_over_where_the_other_stopped() {
    let mut f = Fleet::new().await;
    let mut otr = f.otr().await;
    let model = f.model().await;
    f.write(10).await;
    f.wait().await;
    model.kill().await;
    for _ in 0..2 {
        // Nobody runs.
        f.write(20).await;
        otr.started().await;
        f.wait().await;
        assert!(otr.terminate().0.success());
        f.write(20).await;
        let model = f.model().await;
        f.wait().await;
        model.kill().await;
    }
    assert_eq!(f.ear.ids(&f.channel), f.written, "each once, in order");
}

/// A transaction that takes several entries, and one that makes a collection.
#[tokio::test(flavor = "multi_thread")]
async fn claims_have_the_names_that_oplogtoredis_gives_them() {
    let f = Fleet::new().await;
    let mut otr = f.otr().await;
    otr.started().await;
    let mut session = f.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..4 {
        let text = "x".repeat(6 << 20);
        f.coll.insert_one(doc! {"_id": format!("big{n}"), "text": text}).session(&mut session).await.unwrap();
        let change = doc! {"$set": {"more": n}};
        f.coll.update_one(doc! {"_id": format!("big{n}")}, change).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    session.start_transaction().await.unwrap();
    let new = f.client.database(&f.db).collection::<Document>("new");
    new.insert_one(doc! {"_id": "made"}).session(&mut session).await.unwrap();
    f.coll.delete_one(doc! {"_id": "big0"}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    f.ear.wait_count(&f.channel, 9).await;

    let oplog = f.client.database("local").collection::<Document>("oplog.rs");
    let mut entries = oplog.find(doc! {"op": "c", "o.applyOps.ns": &f.channel}).await.unwrap();
    let mut expected = Vec::new();
    let mut count = 0;
    while entries.advance().await.unwrap() {
        count += 1;
        let entry = entries.deserialize_current().unwrap();
        expected.extend(model::messages(&entry).into_iter().map(|m| format!("oplogtoredis::{}", m.key)));
    }
    assert!(count >= 3, "{count} entries: the transaction was to take several");
    assert_eq!(expected.len(), 10);
    let mut connection = f.redis.connection().await;
    for key in expected {
        let there: i64 = redis::cmd("EXISTS").arg(&key).query_async(&mut connection).await.unwrap();
        assert_eq!(there, 1, "{key}");
    }
}
