//! What goes wrong on the way.

use super::*;

/// 9 MB are set, and `update-lookup` puts the document beside the description: 18 MB.
async fn large(version: &str) -> (&'static Mongo, Collection<Document>, String) {
    let mongo = servers::mongo_version(version).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    (mongo, c, scope(&db, "c") + "full_document = \"update-lookup\"\n")
}

async fn set_large(c: &Collection<Document>) {
    insert(c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"big": "x".repeat(9 << 20)}}).await.unwrap();
    insert(c, [2]).await;
}

#[tokio::test]
async fn a_large_event_is_split_and_joined() {
    let (mongo, c, toml) = large("6.0.27").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    set_large(&c).await;
    r.count(3).await;
    let update = r.events[1].clone();
    assert_eq!((update.op, int_ids(&r.events)), (Op::Update, vec![1, 1, 2]));
    assert_eq!(update.after.as_ref().unwrap().get_str("big").unwrap().len(), 9 << 20);
    let change = update.change.as_ref().unwrap();
    assert_eq!(change.decode().unwrap().set[0].1.as_str().map(str::len), Some(9 << 20));
    let places = r.ends.clone();
    for (seen, end) in places {
        let mut again = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Position(&end)).await;
        again.count(3 - seen).await;
        assert_eq!(
            again.events.iter().map(Event::id).collect::<Vec<_>>(),
            r.events[seen..].iter().map(Event::id).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_large_event_that_cannot_be_split_stops_the_route_with_a_hint() {
    let (mongo, c, toml) = large("6.0.5").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    set_large(&c).await;
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.to_string().contains("16 MB") && e.get_hint().is_some(), "{e}");
    // The remedy of the hint works from the same position, and nothing is lost.
    let end = r.end().clone();
    let seen = r.events.len();
    let lighter = toml.replace("update-lookup", "default");
    let mut again = Reader::open(KIND, &mongo.uri(), &lighter, StartAt::Position(&end)).await;
    again.count(3 - seen).await;
    assert_eq!(int_ids(&again.events), [1, 1, 2][seen..]);
}

#[tokio::test]
async fn stepping_down_loses_nothing() {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "c"), StartAt::Now).await;
    insert(&c, 0..5).await;
    r.count(5).await;
    let first = mongo.wait_for_primary().await;
    mongo.step_down().await;
    insert(&c, 5..10).await;
    // A cursor outlives a step-down. It does not outlive its server.
    mongo.kill(first).await;
    mongo.wait_for_primary().await;
    let writer = mongo.client().await.database(&db).collection::<Document>("c");
    insert(&writer, 10..15).await;
    let opened = r.until_in_spite("15 events", |r| r.events.len() >= 15).await;
    assert_eq!(int_ids(&r.events), (0..15).collect::<Vec<_>>());
    assert!(opened >= 1, "the member that the stream was opened on is gone");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_reply_loses_nothing() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let toml = scope(&db, "c") + "batch_size = 50";
    let mut r = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &toml, StartAt::Now).await;
    let docs: Vec<Document> = (0..400).map(|id| doc! {"_id": id, "fill": "x".repeat(2000)}).collect();
    c.insert_many(docs).await.unwrap();
    let mut opened = 0;
    for n in 1..=4 {
        proxy.cut_after_bytes(60_001);
        opened += r.until_in_spite("events", |r| r.events.len() >= 100 * n).await;
    }
    assert_eq!(int_ids(&r.events), (0..400).collect::<Vec<_>>());
    assert!(proxy.cuts() >= 2 && opened >= 2, "{} cuts, opened {opened} times", proxy.cuts());
}

#[tokio::test]
async fn a_silent_network_is_noticed() {
    let mongo = servers::mongo().await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let db = unique("cs");
    let mut r = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &scope(&db, "c"), StartAt::Now).await;
    r.step().await.unwrap();
    proxy.stall();
    // `step` fails the test if this takes for ever.
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
    proxy.heal();
    proxy.cut_once();
    let end = r.end().clone();
    insert(&mongo.client().await.database(&db).collection("c"), [1]).await;
    let mut again =
        Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &scope(&db, "c"), StartAt::Position(&end)).await;
    again.until("the insert", |r| r.events.iter().any(|e| e.op == Op::Insert)).await;
}
