use std::sync::Arc;

use oplogue_api::{ErrorKind, Event, Op, Sink};
use oplogue_testkit::{sample, servers};

use crate::support::{Place, Subscriber, at, behind, checkpoint, time, write};

#[tokio::test]
async fn two_instances_publish_each_event_once_and_in_order() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let events = place.inserts(0..3000);
    // Both read the same stream, each in batches of its own size, as fast as it can.
    let run = |sink: Arc<dyn Sink>, size: usize| {
        let events = events.clone();
        tokio::spawn(async move {
            let mut known = 0;
            for (i, batch) in events.chunks(size).enumerate() {
                known += write(&sink, batch, (i * size + batch.len()) as u32 - 1).await.duplicates;
            }
            known
        })
    };
    let (a, b) = (run(place.sink(), 37), run(place.sink(), 101));
    let known = a.await.unwrap() + b.await.unwrap();
    assert_eq!(known, 3000, "each event is new to one of the two");
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3000));
    let stored = place.sink().checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored.position, behind(2999));
}

#[tokio::test]
async fn without_dedupe_everything_is_published_again() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink_with(&[("dedupe", "off")]);
    for _ in 0..2 {
        assert_eq!(write(&sink, &place.inserts(0..3), 2).await.duplicates, 0);
    }
    let twice: Vec<String> = place.heard(0..3).into_iter().chain(place.heard(0..3)).collect();
    assert_eq!(subscriber.on(&place.ns("tasks")).await, twice);
}

#[tokio::test]
async fn routes_and_metadata_prefixes_do_not_meet() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let other_route = Place { route: format!("{}2", place.route), db: place.db.clone(), url: place.url.clone() };
    let events = place.inserts(0..3);
    assert_eq!(write(&place.sink(), &events, 2).await.duplicates, 0);
    assert_eq!(write(&other_route.sink(), &events, 2).await.duplicates, 0);
    assert_eq!(write(&place.sink_with(&[("metadata_prefix", "fleet-b::")]), &events, 2).await.duplicates, 0);
    assert_eq!(write(&place.sink(), &events, 2).await.duplicates, 3);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    let mut connection = redis.connection().await;
    for n in 0..3 {
        write(&sink, &place.inserts(n..n + 1), n).await;
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    }
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3));
}

#[tokio::test]
async fn events_of_one_id_are_published_together() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    // More of one id than a call of the script takes as a rule.
    let events: Vec<Event> = (0..3000).map(|n| at(1 + n / 1500, place.inserts(n..n + 1).remove(0))).collect();
    let sink = place.sink();
    assert_eq!(write(&sink, &events, 2).await.duplicates, 0);
    assert_eq!(write(&sink, &events, 2).await.duplicates, 3000);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3000));
}

#[tokio::test]
async fn operations_of_one_transaction_have_places_of_their_own() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let in_one = |(n, e): (usize, Event)| Event { index: 2 * n as u32, time: time(1), ..e };
    let events: Vec<Event> = place.inserts(0..12).into_iter().enumerate().map(in_one).collect();
    let sink = place.sink();
    write(&sink, &events[..5], 0).await;
    let written = write(&sink, &events, 1).await;
    assert_eq!(written.duplicates, 5);
    assert_eq!(subscriber.on(&place.ns("tasks")).await.len(), 12);
}

#[tokio::test]
async fn a_gap_takes_the_mark_and_the_position_back() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    write(&sink, &place.inserts(0..50), 49).await;
    // After a rollback the stream goes on from an earlier time with other events.
    let mut events = vec![at(19, sample::barrier(Op::Gap, ""))];
    events.extend(place.inserts(20..30));
    let written = write(&sink, &events, 29).await;
    assert_eq!((written.duplicates, written.ignored), (0, 1));
    let heard: Vec<String> = place.heard(0..50).into_iter().chain(place.heard(20..30)).collect();
    assert_eq!(subscriber.on(&place.ns("tasks")).await, heard);
    let stored = sink.checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored, checkpoint(29, 2));
    // A gap that lies ahead takes nothing forward.
    assert_eq!(write(&sink, &[at(99, sample::barrier(Op::Gap, ""))], 99).await.ignored, 1);
    assert_eq!(write(&sink, &place.inserts(30..31), 100).await.duplicates, 0);
}

#[tokio::test]
async fn a_redis_that_forgot_what_it_confirmed_sends_the_route_back() {
    sent_back("watermark").await;
}

#[tokio::test]
async fn without_dedupe_it_is_noticed_too() {
    sent_back("off").await;
}

async fn sent_back(dedupe: &str) {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let sink = place.sink_with(&[("dedupe", dedupe)]);
    write(&sink, &place.inserts(0..10), 9).await;
    let mut connection = redis.connection().await;
    let saved: Vec<(String, Vec<u8>)> =
        redis::cmd("HGETALL").arg(place.key()).query_async(&mut connection).await.unwrap();
    write(&sink, &place.inserts(10..20), 19).await;
    // What a replica holds that lagged when it was promoted.
    let _: () = redis::cmd("HSET").arg(place.key()).arg(&saved).query_async(&mut connection).await.unwrap();
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let error = sink.write(&place.inserts(20..30), Some(&behind(29))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    let stored = sink.checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored.position, behind(9));
    assert_eq!(write(&sink, &place.inserts(10..30), 29).await.duplicates, 0);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(10..30));
}

/// The next checkpoint may notice before the next event does.
#[tokio::test]
async fn a_redis_that_forgot_keeps_no_later_position_and_gets_no_later_event_before_its_own_is_loaded() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let sink = place.sink();
    let store = sink.checkpoints().unwrap();
    write(&sink, &place.inserts(0..10), 9).await;
    let mut connection = redis.connection().await;
    let saved: Vec<(String, Vec<u8>)> =
        redis::cmd("HGETALL").arg(place.key()).query_async(&mut connection).await.unwrap();
    write(&sink, &place.inserts(10..20), 19).await;
    let _: () = redis::cmd("HSET").arg(place.key()).arg(&saved).query_async(&mut connection).await.unwrap();
    let subscriber = Subscriber::of(&place, redis.client()).await;
    for _ in 0..2 {
        let error = store.save(&place.route, &checkpoint(25, 2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        let error = sink.write(&place.inserts(20..30), Some(&behind(29))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    }
    assert_eq!(store.load(&place.route).await.unwrap().unwrap().position, behind(9));
    assert_eq!(write(&sink, &place.inserts(10..30), 29).await.duplicates, 0);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(10..30));
    assert_eq!(store.load(&place.route).await.unwrap().unwrap().position, behind(29));
}
