//! The original's acceptance cases: one process, two destinations that must both hear all of it and nothing else. Those of the
//! denylist are in `denylist.rs`, the count of keys in `start.rs`.

use mongodb::{
    Client, Collection, IndexModel,
    bson::{Document, doc},
};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions, Sentinels, SentinelsOptions},
    unique,
};

use super::{
    DropIn,
    ear::{Ear, parts},
};

struct Bench {
    otr: DropIn,
    client: Client,
    db: String,
    ears: Vec<Ear>,
    // Dropped last.
    _redis: (Sentinels, Redis),
    ends: u32,
}

/// Channel, `e`, id and `f`.
type Expected<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

impl Bench {
    async fn new() -> Bench {
        let mongo = servers::mongo().await;
        let db = unique("tests");
        // As there: one destination behind a Sentinel, the other one plain.
        let options = SentinelsOptions { replicas: 0, sentinels: 1, quorum: 1, ..Default::default() };
        let (group, redis) = (Sentinels::start(options).await, Redis::start(RedisOptions::default()).await);
        let ears = vec![Ear::open(&group.redis(0).url(), &db).await, Ear::open(&redis.url(), &db).await];
        let urls = format!("{},{}", group.url(), redis.url());
        let mut otr = DropIn::of(&mongo.uri(), &urls)
            .var("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "true")
            .var("OPLOGUE_DENYLIST_SEED", "");
        otr.started().await;
        Bench { otr, client: mongo.client().await, db, ears, _redis: (group, redis), ends: 0 }
    }

    fn coll(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.db).collection(name)
    }

    /// Waits for the messages of a last write, behind which nothing of the others can come.
    async fn end(&mut self) {
        self.ends += 1;
        self.coll("end").insert_one(doc! {"_id": self.ends.to_string()}).await.unwrap();
        let channel = format!("{}.end::{}", self.db, self.ends);
        for ear in &self.ears {
            ear.wait_count(&channel, 1).await;
        }
    }

    /// Both destinations have heard exactly this since the last call, whatever the order.
    async fn expect(&mut self, expected: &[Expected<'_>]) {
        self.end().await;
        let mut wanted: Vec<_> = expected
            .iter()
            .map(|(channel, e, id, f)| {
                let f = f.iter().map(|f| (*f).to_owned()).collect();
                (format!("{}.{channel}", self.db), ((*e).to_owned(), format!("\"{id}\""), f))
            })
            .collect();
        wanted.sort();
        let end = format!("{}.end", self.db);
        for ear in &self.ears {
            let mut heard: Vec<_> = ear.all().into_iter().filter(|(channel, _)| !channel.starts_with(&end)).collect();
            heard.sort();
            let mut heard: Vec<_> = heard.iter().map(|(channel, text)| (channel.clone(), parts(text))).collect();
            heard.sort();
            assert_eq!(heard, wanted);
            ear.clear();
        }
    }

    /// The documents are there, and what was heard of them is forgotten.
    async fn given(&mut self, coll: &str, documents: &[Document]) {
        self.coll(coll).insert_many(documents).await.unwrap();
        self.end().await;
        for ear in &self.ears {
            ear.clear();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents() {
    let mut b = Bench::new().await;
    let foo = b.coll("Foo");

    // TestInsert
    foo.insert_one(doc! {"_id": "someid", "hello": "world"}).await.unwrap();
    b.expect(&[("Foo", "i", "someid", &["_id", "hello"]), ("Foo::someid", "i", "someid", &["_id", "hello"])]).await;
    // TestUpdate
    foo.update_one(doc! {"_id": "someid"}, doc! {"$set": {"hello": "new", "world": 1}}).await.unwrap();
    b.expect(&[("Foo", "u", "someid", &["hello", "world"]), ("Foo::someid", "u", "someid", &["hello", "world"])]).await;
    // TestUpdateReplace
    foo.replace_one(doc! {"_id": "someid"}, doc! {"world": 2}).await.unwrap();
    b.expect(&[("Foo", "u", "someid", &["_id", "world"]), ("Foo::someid", "u", "someid", &["_id", "world"])]).await;
    // TestRemove
    foo.delete_one(doc! {"_id": "someid"}).await.unwrap();
    b.expect(&[("Foo", "r", "someid", &[]), ("Foo::someid", "r", "someid", &[])]).await;
    // TestRemoveMultiple
    b.given("Foo", &[doc! {"_id": "a"}, doc! {"_id": "b"}]).await;
    foo.delete_many(doc! {}).await.unwrap();
    b.expect(&[("Foo", "r", "a", &[]), ("Foo", "r", "b", &[]), ("Foo::a", "r", "a", &[]), ("Foo::b", "r", "b", &[])])
        .await;

    // TestUpdateArraySet
    let values = |a: i32, b: i32, c: i32| vec![doc! {"value": a}, doc! {"value": b}, doc! {"value": c}];
    let given =
        [doc! {"_id": "someid", "hello": values(10, 20, 10)}, doc! {"_id": "someid2", "hello": values(1, 2, 30)}];
    b.given("Foo", &given).await;
    foo.update_many(doc! {"hello.value": {"$gt": 15}}, doc! {"$inc": {"hello.$.value": 100}}).await.unwrap();
    b.expect(&[
        ("Foo", "u", "someid", &["hello.1.value"]),
        ("Foo::someid", "u", "someid", &["hello.1.value"]),
        ("Foo", "u", "someid2", &["hello.2.value"]),
        ("Foo::someid2", "u", "someid2", &["hello.2.value"]),
    ])
    .await;
    // TestUpdateArrayPush
    b.given("Foo", &[doc! {"_id": "pushed", "hello": [1, 2, 3]}]).await;
    let push = doc! {"$push": {"hello": {"$each": [9], "$position": 1}}};
    foo.update_one(doc! {"_id": "pushed"}, push).await.unwrap();
    b.expect(&[("Foo", "u", "pushed", &["hello"]), ("Foo::pushed", "u", "pushed", &["hello"])]).await;

    // TestHealthz, TestMetrics
    let (code, body) = b.otr.http("GET", "/healthz");
    assert_eq!((code, body.as_str()), (200, "{\"mongoOK\":true,\"redisOK\":true}\n"));
    assert_eq!(b.otr.http("GET", "/metrics").0, 200);
    assert_eq!(b.otr.failed(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_what_has_no_message() {
    let mut b = Bench::new().await;
    // TestTransaction
    b.client.database(&b.db).create_collection("Tx").await.unwrap();
    let mut session = b.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let tx = b.coll("Tx");
    tx.insert_one(doc! {"_id": "foo", "bar": 1}).session(&mut session).await.unwrap();
    tx.update_one(doc! {"_id": "foo"}, doc! {"$set": {"bar": 2}}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    b.end().await;
    let on = b.ears[0].on(&format!("{}.Tx", b.db));
    assert_eq!(on, [r#"{"e":"i","d":{"_id":"foo"},"f":["_id","bar"]}"#, r#"{"e":"u","d":{"_id":"foo"},"f":["bar"]}"#]);
    let both: &[&str] = &["_id", "bar"];
    b.expect(&[
        ("Tx", "i", "foo", both),
        ("Tx::foo", "i", "foo", both),
        ("Tx", "u", "foo", &["bar"]),
        ("Tx::foo", "u", "foo", &["bar"]),
    ])
    .await;
    // TestAddIndex
    tx.create_index(IndexModel::builder().keys(doc! {"bar": 1}).build()).await.unwrap();
    b.expect(&[]).await;
    // TestDropCollection
    b.given("Gone", &[doc! {"_id": "x"}]).await;
    b.coll("Gone").drop().await.unwrap();
    b.expect(&[]).await;
}
