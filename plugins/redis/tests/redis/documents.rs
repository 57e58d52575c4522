//! `document = "full"` and `"previous"`.

use bson::{DateTime, Regex, doc};
use oplogue_api::{ErrorKind, Event};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
};

use crate::support::{Place, Subscriber, assert_no_secret, at, behind, with_images, write};

fn numbered(events: Vec<Event>) -> Vec<Event> {
    events.into_iter().enumerate().map(|(n, e)| at(n as u32, e)).collect()
}

#[tokio::test]
async fn full_documents_are_those_after_the_event() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("collections = [{ match = 'DB.tasks', document = 'full' }]");
    let ns = place.ns("tasks");
    let document = doc! {"_id": "t1", "at": DateTime::from_millis(1_700_000_000_000), "r": f64::NAN,
    "bin": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] }, "esc": {"$date": 5}};
    let update = sample::update(&ns, "t1", doc! {"at": DateTime::from_millis(1_700_000_000_000)});
    let events = numbered(vec![
        sample::insert(&ns, doc! {"_id": "t1", "a": "<"}),
        with_images(update.clone(), None, Some(document)),
        sample::replace(&ns, doc! {"_id": "t1"}),
        // The lookup found nothing: the deletion says it, an id alone would say that all fields are gone.
        update,
        sample::delete(&ns, "t1"),
    ]);
    assert_eq!(write(&sink, &events, 4).await.ignored, 1);
    assert_eq!(
        subscriber.on(&ns).await,
        [
            r#"{"e":"i","d":{"_id":"t1","a":"\u003c"},"f":["_id","a"]}"#,
            r#"{"e":"u","d":{"_id":"t1","at":{"$date":1700000000000},"r":{"$InfNaN":0},"bin":{"$binary":"AQID"},"esc":{"$escape":{"$date":5}}},"f":["at"]}"#,
            r#"{"e":"u","d":{"_id":"t1"},"f":["_id"]}"#,
            r#"{"e":"r","d":{"_id":"t1"},"f":[]}"#,
        ]
    );
}

#[tokio::test]
async fn a_document_that_cannot_be_sent_whole_is_not_sent_by_its_id() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("collections = [{ match = 'DB.tasks', document = 'full' }]");
    let pattern = Regex { pattern: "(?i)s3cret".try_into().unwrap(), options: "".try_into().unwrap() };
    let bad = sample::insert(&place.ns("tasks"), doc! {"_id": "s3cret", "r": pattern});
    let events = numbered(vec![place.insert(0, "t0"), bad, place.insert(2, "t2")]);
    let written = sink.write(&events, Some(&behind(2))).await.unwrap();
    let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(failed, [(1, ErrorKind::Data), (2, ErrorKind::Transient)]);
    assert!(written.failed[0].error.get_hint().is_some());
    assert_no_secret(&written.failed[0].error, &["s3cret"]);
    assert_eq!(subscriber.all().await.len(), 2);
    // Passed over, the rest goes on.
    write(&sink, &events[2..], 2).await;
    assert_eq!(subscriber.all().await.len(), 4);
}

#[tokio::test]
async fn previous_documents_are_those_before_the_event() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("collections = [{ match = 'DB.tasks', document = 'previous' }]");
    let ns = place.ns("tasks");
    let old = || Some(doc! {"_id": "t1", "n": 1});
    let events = numbered(vec![
        sample::insert(&ns, doc! {"_id": "t1", "n": 1}),
        with_images(sample::update(&ns, "t1", doc! {"n": 2}), old(), Some(doc! {"_id": "t1", "n": 2})),
        sample::update(&ns, "t1", doc! {"n": 2}),
        with_images(sample::replace(&ns, doc! {"_id": "t1", "m": 2}), old(), None),
        with_images(sample::delete(&ns, "t1"), old(), None),
        sample::delete(&ns, "t1"),
    ]);
    write(&sink, &events, 5).await;
    assert_eq!(
        subscriber.on(&ns).await,
        [
            r#"{"e":"i","d":{"_id":"t1"},"f":["_id","n"]}"#,
            r#"{"e":"u","d":{"_id":"t1","n":1},"f":["n"]}"#,
            r#"{"e":"u","d":{"_id":"t1"},"f":["n"]}"#,
            r#"{"e":"u","d":{"_id":"t1","n":1},"f":["_id","m","n"]}"#,
            r#"{"e":"r","d":{"_id":"t1","n":1},"f":[]}"#,
            r#"{"e":"r","d":{"_id":"t1"},"f":[]}"#,
        ]
    );
}

#[tokio::test]
async fn sixteen_megabytes_in_a_document() {
    // Redis cuts subscribers that have more than 32 MB to come, by default.
    let lines = vec!["client-output-buffer-limit pubsub 0 0 0".to_owned()];
    let redis = Redis::start(RedisOptions { lines, ..Default::default() }).await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("collections = [{ match = 'DB.tasks', document = 'full' }]");
    let text = "x".repeat((16 << 20) - 100);
    let big = |n: i32| sample::insert(&place.ns("tasks"), doc! {"_id": n, "t": text.as_str()});
    write(&sink, &numbered(vec![big(0), sample::delete(&place.ns("tasks"), 0), big(1)]), 2).await;
    let lengths: Vec<usize> = subscriber.on(&place.ns("tasks")).await.iter().map(String::len).collect();
    let whole = r#"{"e":"i","d":{"_id":0,"t":""},"f":["_id","t"]}"#.len() + text.len();
    assert_eq!(lengths, [whole, r#"{"e":"r","d":{"_id":0},"f":[]}"#.len(), whole]);
}
