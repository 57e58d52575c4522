//! The original's fault cases: three members of MongoDB 5.0.4, one Redis, numbered inserts, everything in order.

use std::time::Duration;

use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    options::{ClientOptions, WriteConcern},
};
use oplogue_testkit::{
    servers::{Mongo, MongoOptions, Redis, RedisOptions},
    wait_for,
};

use super::{DropIn, ear::Ear};

const DB: &str = "testdb";
const CHANNEL: &str = "testdb.Test";

struct Bench {
    mongo: Mongo,
    redis: Redis,
    ear: Ear,
    coll: Collection<Document>,
}

impl Bench {
    async fn new() -> Bench {
        let mongo = Mongo::start(MongoOptions { version: "5.0.4", members: 3, ..Default::default() }).await;
        let redis = Redis::start(RedisOptions { appendonly: true, ..Default::default() }).await;
        let ear = Ear::open(&redis.url(), DB).await;
        // A write that a step-down interrupts is told as failed, and not repeated by the driver.
        let mut options = ClientOptions::parse(mongo.uri()).await.unwrap();
        options.retry_writes = Some(false);
        options.server_selection_timeout = Some(Duration::from_millis(500));
        options.write_concern = Some(WriteConcern::majority());
        let coll = Client::with_options(options).unwrap().database(DB).collection("Test");
        Bench { mongo, redis, ear, coll }
    }

    fn otr(&self) -> DropIn {
        DropIn::of(&self.mongo.uri(), &self.redis.url())
    }

    /// Inserts numbered documents, and gives the ids that were acknowledged.
    async fn insert(&self, numbers: std::ops::Range<usize>, pause: Duration) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for n in numbers {
            let id = format!("id{n:03}");
            if self.coll.insert_one(doc! {"_id": &id}).await.is_ok() {
                acknowledged.push(id);
            }
            tokio::time::sleep(pause).await;
        }
        acknowledged
    }

    async fn put(&self, id: &str) {
        self.coll.insert_one(doc! {"_id": id}).await.unwrap();
    }

    /// All of these have arrived, in this order; what was not acknowledged may be among them.
    async fn expect(&self, ids: &[String]) {
        if let Some(last) = ids.last() {
            self.ear.wait_id(CHANNEL, last).await;
        }
        let heard: Vec<_> = self.ear.ids(CHANNEL).into_iter().filter(|id| ids.contains(id)).collect();
        assert_eq!(heard, ids);
    }
}

const PACE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn baseline_restart_and_step_down() {
    let b = Bench::new().await;
    let mut otr = b.otr();
    otr.started().await;
    // TestBaseline
    let first = b.insert(0..100, Duration::ZERO).await;
    assert_eq!(first.len(), 100);
    b.expect(&first).await;

    // TestRestart
    let mut writing = std::pin::pin!(b.insert(100..200, PACE));
    tokio::select! {
        _ = &mut writing => panic!("no time to restart"),
        () = b.ear.wait_count(CHANNEL, 130) => {}
    }
    otr.kill();
    let heard = b.ear.on(CHANNEL).len();
    let second = tokio::join!(writing, async {
        wait_for("a write that nobody tells of", || async {
            b.coll.estimated_document_count().await.is_ok_and(|n| n as usize >= heard + 10)
        })
        .await;
        otr.started().await;
    })
    .0;
    assert_eq!(second.len(), 100);
    b.expect(&second).await;
    // What the killed process did not get to do, and nothing that it did.
    wait_for("the count", || async { otr.entries(DB) >= (200 - heard) as f64 }).await;
    assert!(otr.entries(DB) <= (200 - 130) as f64, "{}", otr.entries(DB));

    // TestMongoStepdown
    let (third, ()) = tokio::join!(b.insert(200..300, PACE), async {
        b.ear.wait_count(CHANNEL, 220).await;
        b.mongo.step_down().await;
    });
    assert!(third.len() >= 50, "{}", third.len());
    b.expect(&third).await;
    assert!(otr.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ha_and_a_redis_that_is_away() {
    let b = Bench::new().await;
    // TestHA
    let (mut one, mut two) = (b.otr(), b.otr());
    one.started().await;
    two.started().await;
    let first = b.insert(0..100, PACE).await;
    b.expect(&first).await;
    assert_eq!(b.ear.ids(CHANNEL), first, "each once");
    assert!(one.terminate().0.success());

    // TestRedisStopStart
    let before = two.sent();
    let (second, ()) = tokio::join!(b.insert(100..200, PACE), async {
        b.ear.wait_count(CHANNEL, 120).await;
        b.redis.stop().await;
        wait_for("a failed attempt", || async {
            two.metric("otr_redispub_temporary_send_failures").is_some_and(|n| n > 0.0)
        })
        .await;
        let (code, body) = two.http("GET", "/healthz");
        assert_eq!((code, body.as_str()), (500, "{\"mongoOK\":true,\"redisOK\":false}\n"));
        b.redis.start_again().await;
    });
    assert_eq!(second.len(), 100);
    wait_for("all to be sent", || async { two.sent() - before >= 100.0 }).await;
    // Messages that were sent before the subscriber was back are nobody's fault.
    assert!(b.ear.ids(CHANNEL).len() >= 160);
    wait_for("good health", || async { two.http("GET", "/healthz").0 == 200 }).await;
    assert_eq!((two.sent() - before, two.failed()), (100.0, 0.0));
    assert!(two.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn mongo_is_stopped_and_started() {
    let b = Bench::new().await;
    let mut otr = b.otr();
    otr.started().await;
    // TestMongoStopStart
    let (ids, ()) = tokio::join!(
        async {
            let mut acknowledged = b.insert(0..60, PACE).await;
            let mut n = 60;
            while acknowledged.len() < 100 {
                assert!(n < 2000, "MongoDB does not come back");
                acknowledged.extend(b.insert(n..n + 10, PACE).await);
                n += 10;
            }
            acknowledged
        },
        async {
            b.ear.wait_count(CHANNEL, 20).await;
            for member in 0..3 {
                b.mongo.stop(member).await;
            }
            wait_for("bad health", || async {
                otr.http("GET", "/healthz").1 == "{\"mongoOK\":false,\"redisOK\":true}\n"
            })
            .await;
            for member in 0..3 {
                b.mongo.start_member(member).await;
            }
        }
    );
    b.expect(&ids).await;
    assert!(otr.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn resume() {
    // TestResume
    const MOST: u64 = 12;
    let b = Bench::new().await;
    for id in ["id1", "id2", "id3"] {
        b.put(id).await;
    }
    let mut otr = b.otr().var("OTR_MAX_CATCH_UP", &format!("{MOST}s"));
    otr.started().await;
    b.put("id4").await;
    b.ear.wait_id(CHANNEL, "id4").await;
    assert_eq!(otr.entries(DB), 1.0);
    otr.kill();
    b.put("id5").await;
    otr.started().await;
    b.put("id6").await;
    b.ear.wait_id(CHANNEL, "id6").await;
    assert_eq!(otr.entries(DB), 2.0);
    otr.kill();
    b.put("id7").await;
    // The position is that of the last entry before the end: it must be older than the limit by the clock.
    let clock = std::time::Instant::now();
    wait_for("the limit to pass", || async { clock.elapsed() > Duration::from_secs(MOST + 2) }).await;
    otr.started().await;
    b.put("id8").await;
    b.ear.wait_id(CHANNEL, "id8").await;
    assert_eq!(otr.entries(DB), 1.0);
    assert_eq!(b.ear.ids(CHANNEL), ["id4", "id5", "id6", "id8"]);
    assert!(otr.log().contains("max_catch_up"), "what is skipped is told");
    // TestDenylistPersistence, with Redis in the place of PostgreSQL
    for name in ["abc", "def"] {
        assert_eq!(otr.http("PUT", &format!("/denylist/{name}")).0, 201);
    }
    otr.kill();
    otr.started().await;
    let list = |otr: &DropIn| {
        let mut list: Vec<String> = serde_json::from_str(&otr.http("GET", "/denylist").1).unwrap();
        list.sort();
        list
    };
    assert_eq!(list(&otr), ["abc", "admin", "def"]);
    assert_eq!(otr.http("DELETE", "/denylist/abc").0, 204);
    assert_eq!(list(&otr), ["admin", "def"]);
}
