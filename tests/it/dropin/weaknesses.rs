//! What oplogtoredis was measured to lose, hold up or give away; each here with nothing lost. (Its hanging at SIGTERM: `start.rs`.)

use std::time::{Duration, Instant};

use mongodb::{
    Client, Collection,
    bson::{Binary, Document, doc, spec::BinarySubtype},
};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions, Sentinels, SentinelsOptions},
    unique, wait_for,
};

use super::{DropIn, ear::Ear, model};

struct Place {
    client: Client,
    coll: Collection<Document>,
    db: String,
    channel: String,
}

impl Place {
    async fn new() -> Place {
        Place::at(servers::mongo().await).await
    }

    async fn at(mongo: &Mongo) -> Place {
        let client = mongo.client().await;
        let db = unique("weak");
        let coll = client.database(&db).collection("c");
        Place { client, coll, channel: format!("{db}.c"), db }
    }

    async fn put(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        let ids: Vec<_> = numbers.map(|n| format!("id{n:05}")).collect();
        for id in &ids {
            self.coll.insert_one(doc! {"_id": id}).await.unwrap();
        }
        ids
    }
}

/// Only published messages moved its position, and each new cursor began where that was, or now if that was too old.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_quiet_time_loses_nothing() {
    // Longer than the ten seconds after which a server that nobody writes to makes an entry of its own.
    const MOST: u64 = 15;
    let mongo = servers::mongo().await;
    let (place, redis) = (Place::new().await, Redis::start(RedisOptions::default()).await);
    let proxy = Proxy::start(mongo.addr(0)).await;
    let ear = Ear::open(&redis.url(), &place.db).await;
    let most = format!("{MOST}s");
    let mut otr = DropIn::of(&mongo.direct_uri(&proxy.addr()), &redis.url()).var("OTR_MAX_CATCH_UP", &most);
    otr.started().await;
    let mut all = place.put(0..1).await;
    ear.wait_id(&place.channel, &all[0]).await;
    let clock = Instant::now();
    wait_for("quiet time to pass", || async { clock.elapsed() > Duration::from_secs(MOST + 3) }).await;
    proxy.cut();
    all.extend(place.put(1..21).await);
    proxy.heal();
    ear.wait_id(&place.channel, all.last().unwrap()).await;
    assert_eq!(ear.ids(&place.channel), all);
    assert_eq!(otr.metric("oplogue_gaps_total{route=\"redis\"}"), Some(0.0));

    // So does a restart: what is older than the limit is the last message, not the position.
    let clock = Instant::now();
    wait_for("quiet time to pass", || async { clock.elapsed() > Duration::from_secs(MOST + 3) }).await;
    otr.kill();
    all.extend(place.put(21..22).await);
    otr.started().await;
    ear.wait_id(&place.channel, all.last().unwrap()).await;
    assert_eq!(ear.ids(&place.channel), all);
}

/// A dead Redis held up all others once 10,000 messages waited for it, and what waited was lost with the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_delays_no_other_and_catches_up() {
    const MANY: usize = 12_000;
    let (place, well, ill) =
        (Place::new().await, Redis::start(RedisOptions::default()).await, Redis::start(RedisOptions::default()).await);
    let proxy = Proxy::start(ill.addr()).await;
    let (ear, late) = (Ear::open(&well.url(), &place.db).await, Ear::open(&ill.url(), &place.db).await);
    let urls = format!("{},{}", well.url(), ill.url_at(&proxy.addr()));
    let mut otr = DropIn::of(&servers::mongo().await.uri(), &urls);
    otr.started().await;
    place.put(0..1).await;
    late.wait_count(&place.channel, 1).await;
    proxy.cut();
    for first in (1..MANY).step_by(1000) {
        let documents: Vec<_> = (first..MANY.min(first + 1000)).map(|n| doc! {"_id": format!("id{n:05}")}).collect();
        place.coll.insert_many(documents).await.unwrap();
    }
    ear.wait_count(&place.channel, MANY).await;
    let (code, body) = otr.http("GET", "/healthz");
    assert_eq!((code, body.as_str()), (500, "{\"mongoOK\":true,\"redisOK\":false}\n"));
    assert_eq!(late.on(&place.channel).len(), 1);
    // Its position is its own: the process may end meanwhile.
    otr.kill();
    proxy.heal();
    otr.started().await;
    late.wait_count(&place.channel, MANY).await;
    let expected: Vec<_> = (0..MANY).map(|n| format!("id{n:05}")).collect();
    assert_eq!(late.ids(&place.channel), expected);
    assert_eq!(ear.ids(&place.channel), expected, "and nothing twice");
}

/// The tail began behind the hole without a word. What is gone is gone, but it is seen, and subscribers can be told.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_rolled_over_is_told() {
    let args = vec!["--syncdelay".to_owned(), "1".to_owned()];
    let mongo = Mongo::start(MongoOptions { oplog_mb: 16, args, ..Default::default() }).await;
    let place = Place::at(&mongo).await;
    let redis = Redis::start(RedisOptions::default()).await;
    let mut otr = DropIn::of(&mongo.uri(), &redis.url()).var("OTR_MAX_CATCH_UP", "1h").var("OPLOGUE_RESYNC", "gap");
    otr.started().await;
    let first = place.put(0..1).await;
    let claim = async |id: &str| {
        let oplog = place.client.database("local").collection::<Document>("oplog.rs");
        let entry = oplog.find_one(doc! {"o._id": id}).await.unwrap();
        entry.map(|entry| format!("oplogtoredis::{}", model::messages(&entry)[0].key))
    };
    let key = claim(&first[0]).await.unwrap();
    let exists = async |key: &str| redis.ask::<i64>(redis::cmd("EXISTS").arg(key)).await.unwrap() == 1;
    wait_for("the first message", || exists(&key)).await;
    otr.kill();
    crate::outage::roll_over(&mongo, &place.db).await;
    let client = redis.client();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.subscribe("app.anything").await.unwrap();
    otr.started().await;
    // redis-oplog loads everything again when its connection is cut.
    let cut =
        tokio::time::timeout(crate::process::PATIENCE, futures_util::StreamExt::next(&mut subscription.on_message()))
            .await;
    assert!(cut.expect("in time").is_none());
    assert_eq!(otr.metric("oplogue_gaps_total{route=\"redis\"}"), Some(1.0));
    assert!(otr.log().contains("Events between these times are missing"), "{}", otr.log());
    let last = place.put(1..2).await;
    let key = claim(&last[0]).await.unwrap();
    wait_for("the message behind the gap", || exists(&key)).await;
}

/// It wrote the password at start, and whole documents with ids that it could not publish.
#[tokio::test(flavor = "multi_thread")]
async fn neither_passwords_nor_documents_are_logged() {
    let options = RedisOptions { password: Some("s3cret-pw".into()), ..Default::default() };
    let (place, redis) = (Place::new().await, Redis::start(options).await);
    let ear = Ear::open(&redis.url(), &place.db).await;
    let mut otr = DropIn::of(&servers::mongo().await.uri(), &redis.url());
    otr.started().await;
    let id = Binary { subtype: BinarySubtype::Generic, bytes: b"s3cret-id".to_vec() };
    place.coll.insert_one(doc! {"_id": id, "text": "s3cret-text"}).await.unwrap();
    place.coll.insert_one(doc! {"_id": "s3cret-name", "s3cret-field": "s3cret-value"}).await.unwrap();
    ear.wait_count(&place.channel, 1).await;
    redis.restart().await;
    place.coll.insert_one(doc! {"_id": "s3cret-other"}).await.unwrap();
    wait_for("a failed attempt", || async { otr.log().contains("tr") && otr.http("GET", "/healthz").0 == 200 }).await;
    let (_, metrics) = otr.http("GET", "/metrics");
    let (_, routes) = otr.http("GET", "/api/v1/routes");
    assert!(otr.terminate().0.success());
    for text in [otr.log(), metrics, routes] {
        assert!(!text.is_empty() && !text.contains("s3cret"), "{text}");
    }
    assert!(otr.log().contains("_id is of a type"), "an id that has no channel is told of by its namespace");
}

/// The claims lie with the messages: those that a failover forgets are published again, by the position that lies there too.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_forgets_nothing() {
    let place = Place::new().await;
    let group = Sentinels::start(SentinelsOptions::default()).await;
    let mut otr = DropIn::of(&servers::mongo().await.uri(), &group.url());
    otr.started().await;
    let coll = place.coll.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while n < 3000 {
            coll.insert_one(doc! {"_id": format!("id{n:05}")}).await.unwrap();
            n += 1;
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    });
    let sent = otr.sent();
    wait_for("load", || async { otr.sent() > sent + 100.0 }).await;
    // The old master is alive, takes writes for another ten seconds, and forgets them.
    group.sentinel_command(0, &["FAILOVER", Sentinels::NAME]).await;
    let second = group.switched_from(0).await;
    let sent = otr.sent();
    wait_for("load", || async { otr.sent() > sent + 100.0 }).await;
    group.redis(second).kill().await;
    let third = group.switched_from(second).await;
    group.redis(second).start_again().await;
    writing.await.unwrap();

    let oplog = place.client.database("local").collection::<Document>("oplog.rs");
    let mut entries = oplog.find(doc! {"ns": &place.channel, "op": "i"}).sort(doc! {"$natural": 1}).await.unwrap();
    let mut claims = Vec::new();
    while entries.advance().await.unwrap() {
        let entry = entries.deserialize_current().unwrap();
        claims.extend(model::messages(&entry).into_iter().map(|m| format!("oplogtoredis::{}", m.key)));
    }
    assert_eq!(claims.len(), 3000);
    let master = group.redis(third);
    let exists = async |keys: &[String]| master.ask::<usize>(redis::cmd("EXISTS").arg(keys)).await.unwrap_or(0);
    wait_for("the last message", || async { exists(&claims[2999..]).await == 1 }).await;
    assert_eq!(exists(&claims).await, 3000, "claims at the master that Sentinel names");
    assert!(otr.terminate().0.success());
}
