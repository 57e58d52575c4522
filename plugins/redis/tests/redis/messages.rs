use bson::{Binary, Bson, DateTime, doc, oid::ObjectId, spec::BinarySubtype};
use oplogue_api::{ErrorKind, Event, Op};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
    unique,
};

use crate::support::{Place, Subscriber, at, behind, write};

#[tokio::test]
async fn a_subscriber_hears_the_bytes_of_the_protocol() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let ns = place.ns("tasks");
    let oid = ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap();
    let hex = "aaaaaaaaaaaaaaaaaaaaaaaa";
    let table: Vec<(Event, &str, &str)> = vec![
        (
            sample::insert(&ns, doc! {"_id": "t1", "title": "a", "done": false}),
            "t1",
            r#"{"e":"i","d":{"_id":"t1"},"f":["_id","title","done"]}"#,
        ),
        (
            sample::update(&ns, oid, doc! {"title": "b"}),
            "5ae7d0042b2acc1f1796c0b6",
            r#"{"e":"u","d":{"_id":{"$type":"oid","$value":"5ae7d0042b2acc1f1796c0b6"}},"f":["title"]}"#,
        ),
        (
            sample::replace(&ns, doc! {"_id": "t1", "title": "c"}),
            "t1",
            r#"{"e":"u","d":{"_id":"t1"},"f":["_id","title"]}"#,
        ),
        (sample::delete(&ns, "t1"), "t1", r#"{"e":"r","d":{"_id":"t1"},"f":[]}"#),
        (
            sample::update(&ns, hex, doc! {"n": 1}),
            "-aaaaaaaaaaaaaaaaaaaaaaaa",
            r#"{"e":"u","d":{"_id":"aaaaaaaaaaaaaaaaaaaaaaaa"},"f":["n"]}"#,
        ),
        (sample::update(&ns, 5, doc! {"n": 1}), "~5", r#"{"e":"u","d":{"_id":5},"f":["n"]}"#),
        (sample::delete(&ns, 5i64), "~5", r#"{"e":"r","d":{"_id":5},"f":[]}"#),
        (sample::delete(&ns, 1.5), "~1.5", r#"{"e":"r","d":{"_id":1.5},"f":[]}"#),
        (sample::delete(&ns, 1e21), "~1e+21", r#"{"e":"r","d":{"_id":1e+21},"f":[]}"#),
        (sample::delete(&ns, true), "~true", r#"{"e":"r","d":{"_id":true},"f":[]}"#),
        (sample::delete(&ns, Bson::Null), "~null", r#"{"e":"r","d":{"_id":null},"f":[]}"#),
        (sample::delete(&ns, "-x"), "--x", r#"{"e":"r","d":{"_id":"-x"},"f":[]}"#),
        (sample::delete(&ns, "~x"), "-~x", r#"{"e":"r","d":{"_id":"~x"},"f":[]}"#),
        (sample::delete(&ns, "{x"), "-{x", r#"{"e":"r","d":{"_id":"{x"},"f":[]}"#),
        (sample::delete(&ns, ""), "", r#"{"e":"r","d":{"_id":""},"f":[]}"#),
        (sample::delete(&ns, "price$100,a::b"), "price$100,a::b", r#"{"e":"r","d":{"_id":"price$100,a::b"},"f":[]}"#),
        (
            sample::delete(&ns, "<é\u{2028}&\0\n>"),
            "<é\u{2028}&\0\n>",
            r#"{"e":"r","d":{"_id":"\u003cé\u2028\u0026\u0000\n\u003e"},"f":[]}"#,
        ),
    ];
    let events: Vec<Event> = table.iter().enumerate().map(|(n, row)| at(n as u32, row.0.clone())).collect();
    let written = write(&place.sink(), &events, 100).await;
    assert_eq!((written.duplicates, written.ignored), (0, 0));
    let mut expected = Vec::new();
    for (_, suffix, text) in &table {
        expected.push((ns.clone(), (*text).to_owned()));
        expected.push((format!("{ns}::{suffix}"), (*text).to_owned()));
    }
    assert_eq!(subscriber.all().await, expected);
}

#[tokio::test]
async fn what_has_no_message_is_counted_and_lets_the_rest_pass() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let ids: Vec<Bson> = vec![
        DateTime::from_millis(1).into(),
        Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }.into(),
        doc! {"a": 1}.into(),
    ];
    let mut events: Vec<Event> = ids.into_iter().enumerate().map(|(n, id)| place.insert(n as u32, id)).collect();
    events.push(at(3, sample::barrier(Op::Drop, &place.ns("other"))));
    events.push(at(4, sample::barrier(Op::Create, &place.ns("other"))));
    events.push(place.insert(5, "t5"));
    let written = write(&place.sink(), &events, 5).await;
    assert_eq!((written.duplicates, written.ignored), (0, 5));
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(5..6));
    // Nothing to publish at all moves the position, too.
    let sink = place.sink();
    write(&sink, &[at(6, sample::barrier(Op::Index, &place.ns("tasks")))], 6).await;
    let stored = sink.checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored, crate::support::checkpoint(6, 2));
}

#[tokio::test]
async fn the_prefix_replaces_the_database() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let prefix = unique("x:");
    let subscriber = Subscriber::new(redis.client(), &[format!("{prefix}*"), format!("{}*", place.db)]).await;
    write(&place.sink_with(&[("prefix", &prefix)]), &place.inserts(1..2), 1).await;
    let channels: Vec<String> = subscriber.all().await.into_iter().map(|(channel, _)| channel).collect();
    assert_eq!(channels, [format!("{prefix}tasks"), format!("{prefix}tasks::t1")]);
}

#[tokio::test]
async fn sixteen_megabytes_in_an_id() {
    // Redis cuts subscribers that have more than 32 MB to come, by default.
    let lines = vec!["client-output-buffer-limit pubsub 0 0 0".to_owned()];
    let redis = Redis::start(RedisOptions { lines, ..Default::default() }).await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let id = "<".repeat(16 << 20);
    write(&place.sink(), &[place.insert(1, "t1"), place.insert(2, id.clone()), place.insert(3, "t3")], 3).await;
    let heard = subscriber.all().await;
    assert_eq!(heard.len(), 6);
    assert_eq!(heard[3].0.len(), place.ns("tasks::").len() + id.len());
    let text = r#"{"e":"i","d":{"_id":""},"f":["_id","n"]}"#.len() + 6 * id.len();
    assert_eq!((heard[2].1.len(), heard[3].1.len()), (text, text));
    assert_eq!(heard[4].1, place.heard(3..4)[0]);
}

#[tokio::test]
async fn a_write_of_many_events_is_split_and_stays_in_order() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    let events = place.inserts(0..5000);
    let written = write(&sink, &events, 5000).await;
    assert_eq!(written.duplicates, 0);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..5000));
    assert_eq!(write(&sink, &events, 5000).await.duplicates, 5000);
}

#[tokio::test]
async fn an_event_that_cannot_be_rendered_fails_with_all_behind_it() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    let mut events = place.inserts(1..5);
    events[2].after = None;
    let written = sink.write(&events, Some(&behind(4))).await.unwrap();
    let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(failed, [(2, ErrorKind::Data), (3, ErrorKind::Transient)]);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(1..3));
    // The position has not passed the event.
    assert_eq!(sink.checkpoints().unwrap().load(&place.route).await.unwrap(), None);
    write(&sink, &events[3..], 4).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await.last(), place.heard(4..5).last());
}

/// Any other text ends the process of a subscriber.
#[tokio::test]
async fn nothing_but_messages_is_ever_published() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    sink.open().await.unwrap();
    sink.ping().await.unwrap();
    assert!(!sink.check().await.is_empty());
    write(&sink, &[], 0).await;
    write(&sink, &[at(1, sample::barrier(Op::Gap, "")), at(2, sample::barrier(Op::Drop, &place.ns("tasks")))], 2).await;
    sink.close().await.unwrap();
    assert_eq!(subscriber.all().await, []);
}
