//! The option `collections`: which channels, and what is left out.

use bson::{Bson, DateTime, doc};
use oplogue_api::{ErrorKind, Event};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
};

use crate::support::{Place, Subscriber, at, behind, with_images, write};

const TEMPLATES: &str = "
    [[collections]]
    match = 'DB.tasks'
    namespaces = ['company::{companyId}']
    channels = ['threads::{threadId}::messages']";

/// The channels, without the database, of the messages that a subscriber heard.
async fn channels(subscriber: &Subscriber, place: &Place) -> Vec<String> {
    let strip = |c: String| c.strip_prefix(&place.ns("")).unwrap().to_owned();
    subscriber.all().await.into_iter().map(|(channel, _)| strip(channel)).collect()
}

/// Mistakes of other publishers (tests/redis/meteor/mod.rs), row 6 (the union of before and after).
#[tokio::test]
async fn templates_add_channels_for_where_the_document_was_and_where_it_is() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let ns = place.ns("tasks");
    let at_c9 = doc! {"_id": "t1", "companyId": "c9", "threadId": 42};
    let at_c10 = doc! {"_id": "t1", "companyId": "c10", "threadId": 42};
    let moved = sample::update(&ns, "t1", doc! {"companyId": "c10"});
    let table: Vec<(Event, &[&str])> = vec![
        (sample::insert(&ns, at_c9.clone()), &["company::c9::tasks", "threads::42::messages"]),
        (
            with_images(moved.clone(), Some(at_c9.clone()), Some(at_c10.clone())),
            &["company::c9::tasks", "company::c10::tasks", "threads::42::messages"],
        ),
        // Nothing that a template holds has changed: one image is enough.
        (
            with_images(sample::update(&ns, "t1", doc! {"n": 1}), None, Some(at_c10.clone())),
            &["company::c10::tasks", "threads::42::messages"],
        ),
        (
            with_images(sample::delete(&ns, "t1"), Some(at_c10.clone()), None),
            &["company::c10::tasks", "threads::42::messages"],
        ),
        // What is not known cannot be told; the channels that everybody has are.
        (sample::delete(&ns, "t1"), &[]),
        (sample::update(&ns, "t1", doc! {"n": 2}), &[]),
        (sample::insert(&ns, doc! {"_id": "t1", "companyId": Bson::Null}), &[]),
        (sample::insert(&ns, doc! {"_id": "t1", "companyId": ["a", "b"]}), &["company::a::tasks", "company::b::tasks"]),
        (
            sample::insert(&ns, doc! {"_id": "t1", "companyId": {"x": 1}, "threadId": DateTime::from_millis(1)}),
            &["company::x::tasks"],
        ),
        (sample::insert(&place.ns("other"), doc! {"_id": "t1", "companyId": "c9"}), &[]),
    ];
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let events: Vec<Event> = table.iter().enumerate().map(|(n, row)| at(n as u32, row.0.clone())).collect();
    let sink = place.sink_of(TEMPLATES);
    let written = write(&sink, &events, 100).await;
    assert_eq!((written.duplicates, written.ignored), (0, 0));
    let mut expected = Vec::new();
    for (event, further) in &table {
        let coll = event.ns.coll();
        expected.extend([coll.to_owned(), format!("{coll}::t1")]);
        expected.extend(further.iter().map(|c| (*c).to_owned()));
    }
    assert_eq!(channels(&subscriber, &place).await, expected);
    // All channels of an event carry the same bytes.
    let heard = subscriber.all().await;
    assert!(heard[..4].iter().all(|(_, text)| *text == heard[0].1));
    assert_eq!(write(&sink, &events, 100).await.duplicates, 10);
}

/// Mistakes, rows 4 and 5: no separator that data may contain.
#[tokio::test]
async fn whatever_is_in_an_id_or_a_field_the_channel_is_whole() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let odd = "a$b,c::d|e f\n\0é{g}";
    let event = sample::insert(&place.ns("tasks"), doc! {"_id": "price$100", "companyId": odd, "threadId": odd});
    write(&place.sink_of(TEMPLATES), &[at(0, event)], 0).await;
    assert_eq!(
        channels(&subscriber, &place).await,
        [
            "tasks".to_owned(),
            "tasks::price$100".into(),
            format!("company::{odd}::tasks"),
            format!("threads::{odd}::messages")
        ]
    );
}

#[tokio::test]
async fn a_channel_that_is_one_of_the_others_is_used_once() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink =
        place.sink_of("collections = [{ match = 'DB.tasks', channels = ['tasks', 'tasks::{_id}', 'all', '{x}'] }]");
    write(&sink, &[place.insert(0, "t0"), at(1, sample::delete(&place.ns("tasks"), "t0"))], 1).await;
    assert_eq!(channels(&subscriber, &place).await, ["tasks", "tasks::t0", "all", "tasks", "tasks::t0", "all"]);
}

#[tokio::test]
async fn more_channels_than_the_limit_are_a_bad_event() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of("collections = [{ match = 'DB.tasks', namespaces = ['{a}'] }]");
    let many = |n: i32| doc! {"_id": n, "a": (0..n).collect::<Vec<_>>()};
    let insert = |n: i32| sample::insert(&place.ns("tasks"), many(n));
    let written = sink.write(&[at(0, insert(1000)), at(1, insert(1001))], Some(&behind(1))).await.unwrap();
    assert_eq!((written.failed[0].index, written.failed[0].error.kind()), (1, ErrorKind::Data));
    assert_eq!(subscriber.all().await.len(), 1002);
}

#[tokio::test]
async fn a_custom_channel_that_is_refused_is_published_when_it_is_allowed() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut connection = redis.connection().await;
    let place = Place::new(format!("redis://app:pw@{}", redis.addr()));
    let mut allow = async |channels: &str| {
        let rights = format!("on >pw ~oplogue::* +eval +evalsha +publish +hmget +hset resetchannels {channels}");
        let mut cmd = redis::cmd("ACL");
        cmd.arg("SETUSER").arg("app").arg(rights.split(' ').collect::<Vec<_>>());
        let _: () = cmd.query_async(&mut connection).await.unwrap();
    };
    allow(&format!("&{}.tasks*", place.db)).await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of(TEMPLATES);
    let event = [at(0, sample::insert(&place.ns("tasks"), doc! {"_id": "t1", "companyId": "c9", "threadId": 1}))];
    for _ in 0..2 {
        let written = sink.write(&event, Some(&behind(0))).await.unwrap();
        assert_eq!(written.failed[0].error.kind(), ErrorKind::Transient);
    }
    allow(&format!("&{}.*", place.db)).await;
    assert_eq!(write(&sink, &event, 0).await.duplicates, 0);
    assert_eq!(subscriber.on(&place.ns("threads::1::messages")).await.len(), 1);
    assert_eq!(subscriber.on(&place.ns("company::c9::tasks")).await.len(), 1);
}

#[tokio::test]
async fn what_is_left_out_is_counted_and_the_position_moves_on() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_of(
        "[[collections]]
         match = 'DB.audit*'
         publish = false
         [[collections]]
         match = '/.*\\.(tasks|users)/'
         skip_if_only = ['lastSeen', 'ip']",
    );
    let tasks = place.ns("tasks");
    let events = [
        sample::insert(&place.ns("audit_log"), doc! {"_id": 1}),
        place.insert(0, "t0"),
        sample::update(&tasks, "t0", doc! {"lastSeen": 1}),
        sample::update(&tasks, "t0", doc! {"lastSeen": 1, "name": "x"}),
        sample::update(&tasks, "t0", doc! {"ip": 1, "lastSeen": 5}),
        sample::replace(&tasks, doc! {"_id": "t0", "lastSeen": 9}),
        sample::delete(&tasks, "t0"),
        sample::update(&place.ns("other"), "t0", doc! {"lastSeen": 1}),
        sample::delete(&place.ns("audit"), 1),
    ];
    let events: Vec<Event> = events.into_iter().enumerate().map(|(n, e)| at(n as u32, e)).collect();
    assert_eq!(write(&sink, &events, 8).await.ignored, 4);
    let heard = subscriber.on(&tasks).await;
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert_eq!(heard[1], r#"{"e":"u","d":{"_id":"t0"},"f":["lastSeen","name"]}"#);
    assert_eq!(subscriber.all().await.len(), 10);
    let stored = sink.checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored.position, behind(8));
}

#[tokio::test]
async fn databases_have_prefixes_of_their_own() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let (a, b, c) = (format!("{}a", place.db), format!("{}b", place.db), format!("{}c", place.db));
    let events = [&a, &b, &c, &a].map(|db| sample::insert(&format!("{db}.tasks"), doc! {"_id": "t", "x": 1}));
    let events: Vec<Event> = events.into_iter().enumerate().map(|(n, e)| at(n as u32, e)).collect();
    for (prefix, of_c) in [("", format!("{c}.")), ("prefix = 'all-DB:'", format!("all-{}:", place.db))] {
        let sink = place.sink_of(&format!(
            "dedupe = 'off'
             {prefix}
             prefixes = {{ {a} = 'one-DB.', {b} = 'DB-' }}
             collections = [{{ match = '*.tasks', namespaces = ['{{x}}'] }}]"
        ));
        let subscriber = Subscriber::new(redis.client(), &[format!("*{}*", place.db)]).await;
        write(&sink, &events, 3).await;
        let heard: Vec<String> = subscriber.all().await.into_iter().map(|(channel, _)| channel).collect();
        let of_a = format!("one-{}.", place.db);
        let of_b = format!("{}-", place.db);
        let expected: Vec<String> = [&of_a, &of_b, &of_c, &of_a]
            .iter()
            .flat_map(|p| [format!("{p}tasks"), format!("{p}tasks::t"), format!("{p}1::tasks")])
            .collect();
        assert_eq!(heard, expected);
    }
    for wrong in ["prefixes = 5", "prefixes = { a = 5 }", "prefixes = { 'a.b' = 'x' }"] {
        let error = place.try_sink_of(wrong).err().unwrap();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Operator, Some("prefixes")), "{wrong}: {error}");
    }
}
