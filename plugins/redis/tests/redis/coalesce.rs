//! `coalesce = true`.

use bson::doc;
use oplogue_api::{Change, ErrorKind, Event, Op};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
};

use crate::support::{Place, Subscriber, at, behind, write};

fn numbered(events: Vec<Event>) -> Vec<Event> {
    events.into_iter().enumerate().map(|(n, e)| at(n as u32, e)).collect()
}

fn update(place: &Place, id: &str, name: &str) -> Event {
    sample::update(&place.ns("tasks"), id, doc! {name: 1})
}

fn message(e: &str, id: &str, f: &str) -> String {
    format!(r#"{{"e":"{e}","d":{{"_id":"{id}"}},"f":[{f}]}}"#)
}

#[tokio::test]
async fn a_backlog_becomes_one_message_a_document() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("coalesce = true");
    let ns = place.ns("tasks");
    let events = numbered(vec![
        sample::insert(&ns, doc! {"_id": "x", "a": 1}),
        update(&place, "y", "p"),
        update(&place, "x", "b"),
        update(&place, "y", "q"),
        sample::delete(&ns, "y"),
        sample::insert(&ns, doc! {"_id": "y"}),
        update(&place, "x", "a"),
        sample::insert(&ns, doc! {"_id": "z"}),
    ]);
    let written = write(&sink, &events, 7).await;
    assert_eq!((written.ignored, written.duplicates), (3, 0));
    let expected = [
        message("u", "y", r#""p","q""#),
        message("r", "y", ""),
        message("i", "y", r#""_id""#),
        message("u", "x", r#""_id","a","b""#),
        message("i", "z", r#""_id""#),
    ];
    assert_eq!(subscriber.on(&ns).await, expected);
    // Two that come one by one stay two.
    write(&sink, &[at(8, update(&place, "x", "b"))], 8).await;
    write(&sink, &[at(9, update(&place, "x", "b"))], 9).await;
    assert_eq!(subscriber.on(&ns).await.len(), expected.len() + 2);
    // Read again, as after a crash: nothing is told twice.
    let again = write(&place.sink_of("coalesce = true"), &events, 7).await;
    assert_eq!((again.ignored, again.duplicates), (3, 5));
}

#[tokio::test]
async fn a_twin_that_stands_in_the_middle_of_a_run_loses_nothing() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let (a, b) = (place.sink_of("coalesce = true"), place.sink_of("coalesce = true"));
    let events = numbered(["p", "q", "r", "s"].map(|name| update(&place, "x", name)).to_vec());
    write(&a, &events[..2], 1).await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    write(&b, &events, 3).await;
    write(&a, &events[2..], 3).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await, [message("u", "x", r#""p","q","r","s""#)]);
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_runs_loses_no_change() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut connection = redis.connection().await;
    let place = Place::new(format!("redis://app:pw@{}", redis.addr()));
    let mut allow = async |channels: String| {
        let rights = format!("on >pw ~oplogue::* +eval +evalsha +publish +hmget +hset resetchannels {channels}");
        let mut cmd = redis::cmd("ACL");
        cmd.arg("SETUSER").arg("app").arg(rights.split(' ').collect::<Vec<_>>());
        let _: () = cmd.query_async(&mut connection).await.unwrap();
    };
    allow(format!("&{}.tasks*", place.db)).await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("coalesce = true");
    let events = numbered(vec![
        update(&place, "w", "a"),
        update(&place, "x", "p"),
        update(&place, "y", "p"),
        sample::delete(&place.ns("private"), 1),
        update(&place, "x", "q"),
    ]);
    let written = sink.write(&events, Some(&behind(4))).await.unwrap();
    // The update of p was to be told with that of q.
    let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(failed, [1, 2, 3, 4].map(|n| (n, ErrorKind::Transient)));
    let again = sink.write(&events[1..], Some(&behind(4))).await.unwrap();
    assert_eq!(again.failed[0].error.kind(), ErrorKind::Transient);
    // Somebody mends it, and the route begins again; even one event at a time.
    allow("&*".to_owned()).await;
    for (n, event) in events.iter().enumerate().skip(1) {
        assert_eq!(write(&sink, std::slice::from_ref(event), n as u32).await.duplicates, 0);
    }
    let heard = subscriber.on(&place.ns("tasks")).await;
    for expected in [message("u", "x", r#""p""#), message("u", "x", r#""q""#), message("u", "y", r#""p""#)] {
        assert!(heard.contains(&expected), "{heard:?}");
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_told_ends_what_is_put_together() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("coalesce = true");
    let bad = Event { change: Some(Change::OplogV2(sample::key_of(1))), op: Op::Update, ..update(&place, "x", "p") };
    let events = numbered(vec![
        update(&place, "x", "p"),
        update(&place, "y", "p"),
        bad.clone(),
        update(&place, "x", "q"),
        update(&place, "y", "q"),
    ]);
    // x at 0 is told with the bad one first, then alone.
    let written = sink.write(&events, Some(&behind(4))).await.unwrap();
    let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(failed[0], (2, ErrorKind::Data), "{failed:?}");
    assert_eq!(failed.len(), 3);
    let expected = vec![message("u", "x", r#""p""#), message("u", "y", r#""p""#)];
    assert_eq!(subscriber.on(&place.ns("tasks")).await, expected);
    write(&sink, &events[3..], 4).await;
    let rest = [message("u", "x", r#""q""#), message("u", "y", r#""q""#)];
    assert_eq!(subscriber.on(&place.ns("tasks")).await, [&expected[..], &rest].concat());
}

#[tokio::test]
async fn thousands_of_changes_of_a_few_documents() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("coalesce = true");
    let events =
        numbered((0..10_000).map(|n| update(&place, &format!("x{}", n % 3), &format!("f{}", n % 7))).collect());
    let written = write(&sink, &events, 9_999).await;
    // One message a document for each call of the script.
    let calls = 10_000usize.div_ceil(1024);
    let heard = subscriber.on(&place.ns("tasks")).await;
    assert_eq!((heard.len(), written.ignored as usize), (3 * calls, 10_000 - 3 * calls));
    assert!((0..7).all(|n| heard[0].contains(&format!("f{n}"))), "{}", heard[0]);
}
