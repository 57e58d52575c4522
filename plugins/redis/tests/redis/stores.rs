use std::sync::Arc;

use oplogue_api::{CheckpointStore, ErrorKind, Saved};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions},
    unique,
};

use crate::support::{Place, Subscriber, checkpoint, store, write};

async fn alone() -> Arc<dyn CheckpointStore> {
    store(&[("url", &servers::redis().await.url()), ("metadata_prefix", &unique("meta"))])
}

#[tokio::test]
async fn a_store_alone_compares_and_sets() {
    let store = alone().await;
    assert!(!store.is_shared());
    assert_eq!(store.load("r").await.unwrap(), None);
    assert_eq!(store.save("r", &checkpoint(5, 1)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("r", &checkpoint(5, 1)).await.unwrap(), Saved::Stored, "a lost reply does no harm");
    assert_eq!(store.save("r", &checkpoint(9, 2)).await.unwrap(), Saved::Stored);
    for other in [checkpoint(9, 1), checkpoint(10, 2), checkpoint(10, 4), checkpoint(9, 9)] {
        assert_eq!(store.save("r", &other).await.unwrap(), Saved::Superseded(checkpoint(9, 2)));
    }
    // Backwards is the writer's own decision where it is alone.
    assert_eq!(store.save("r", &checkpoint(3, 3)).await.unwrap(), Saved::Stored);
    assert_eq!(store.load("r").await.unwrap(), Some(checkpoint(3, 3)));
    assert_eq!(store.load("another").await.unwrap(), None);
}

#[tokio::test]
async fn a_checkpoint_that_was_removed_meanwhile_is_an_error() {
    let store = alone().await;
    let error = store.save("r", &checkpoint(5, 7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
    assert_eq!(store.load("r").await.unwrap(), None);
}

#[tokio::test]
async fn reset_sets_or_removes_and_shows_a_running_writer() {
    let store = alone().await;
    store.reset("r", None).await.unwrap();
    store.reset("r", Some(&checkpoint(5, 1).position)).await.unwrap();
    assert_eq!(store.load("r").await.unwrap(), Some(checkpoint(5, 1)));
    store.save("r", &checkpoint(9, 2)).await.unwrap();
    store.reset("r", Some(&checkpoint(1, 1).position)).await.unwrap();
    assert_eq!(store.load("r").await.unwrap(), Some(checkpoint(1, 3)));
    assert_eq!(store.save("r", &checkpoint(10, 3)).await.unwrap(), Saved::Superseded(checkpoint(1, 3)));
    store.reset("r", None).await.unwrap();
    assert_eq!(store.load("r").await.unwrap(), None);
}

#[tokio::test]
async fn a_checkpoint_survives_a_kill_of_redis() {
    let redis = Redis::start(RedisOptions { appendonly: true, ..Default::default() }).await;
    let store = store(&[("url", &redis.url())]);
    store.save("r", &checkpoint(5, 1)).await.unwrap();
    redis.kill().await;
    assert_eq!(store.load("r").await.unwrap_err().kind(), ErrorKind::Transient);
    redis.start_again().await;
    assert_eq!(store.load("r").await.unwrap(), Some(checkpoint(5, 1)));
}

#[tokio::test]
async fn a_damaged_checkpoint_is_an_error_and_never_none() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let store = place.sink().checkpoints().unwrap();
    let mut connection = redis.connection().await;
    for (field, value) in [("token", "no BSON"), ("time", "yesterday"), ("generation", "many")] {
        store.reset(&place.route, Some(&checkpoint(5, 1).position)).await.unwrap();
        let _: () =
            redis::cmd("HSET").arg(place.key()).arg(field).arg(value).query_async(&mut connection).await.unwrap();
        let error = store.load(&place.route).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Operator, "{field}: {error}");
        let _: () = redis::cmd("HDEL").arg(place.key()).arg(field).query_async(&mut connection).await.unwrap();
        assert_eq!(store.load(&place.route).await.unwrap_err().kind(), ErrorKind::Operator, "without {field}");
    }
}

#[tokio::test]
async fn twins_share_a_checkpoint_that_moves_forward_only() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let (a, b) = (place.sink().checkpoints().unwrap(), place.sink().checkpoints().unwrap());
    assert!(a.is_shared());
    let route = place.route.as_str();
    // The first start of both: the second is told where the first began.
    assert_eq!(a.save(route, &checkpoint(5, 1)).await.unwrap(), Saved::Stored);
    assert_eq!(b.save(route, &checkpoint(8, 1)).await.unwrap(), Saved::Superseded(checkpoint(5, 1)));
    assert_eq!(b.save(route, &checkpoint(4, 2)).await.unwrap(), Saved::Superseded(checkpoint(5, 1)));
    assert_eq!(b.save(route, &checkpoint(8, 2)).await.unwrap(), Saved::Stored);
    assert_eq!(a.save(route, &checkpoint(8, 2)).await.unwrap(), Saved::Stored);
    assert_eq!(a.save(route, &checkpoint(7, 3)).await.unwrap(), Saved::Superseded(checkpoint(8, 2)));
    // A write moves it as well, and a later one of the twin that is behind does not move it back.
    write(&place.sink(), &place.inserts(9..12), 11).await;
    assert_eq!(a.load(route).await.unwrap(), Some(checkpoint(11, 3)));
    write(&place.sink(), &place.inserts(9..10), 9).await;
    assert_eq!(b.load(route).await.unwrap(), Some(checkpoint(11, 3)));
    // Gone with a Redis that keeps nothing: the position of what was delivered is stored again.
    a.reset(route, None).await.unwrap();
    assert_eq!(a.save(route, &checkpoint(12, 7)).await.unwrap(), Saved::Stored);
}

#[tokio::test]
async fn reset_of_a_sink_moves_the_mark_with_the_position() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    let store = sink.checkpoints().unwrap();
    write(&sink, &place.inserts(0..10), 9).await;
    // Back: what comes behind the position is published again, by this instance and by a new one.
    store.reset(&place.route, Some(&checkpoint(4, 1).position)).await.unwrap();
    assert_eq!(write(&sink, &place.inserts(5..8), 7).await.duplicates, 0);
    assert_eq!(write(&place.sink(), &place.inserts(5..10), 9).await.duplicates, 3);
    // Forward: a twin that still stands before the new position publishes nothing of what was skipped.
    store.reset(&place.route, Some(&checkpoint(50, 1).position)).await.unwrap();
    assert_eq!(write(&place.sink(), &place.inserts(10..20), 19).await.duplicates, 10);
    assert_eq!(write(&place.sink(), &place.inserts(51..53), 52).await.duplicates, 0);
    let heard = [place.heard(0..10), place.heard(5..8), place.heard(8..10), place.heard(51..53)].concat();
    assert_eq!(subscriber.on(&place.ns("tasks")).await, heard);
    // Away: nothing is left of the key.
    store.reset(&place.route, None).await.unwrap();
    let mut connection = redis.connection().await;
    let there: bool = redis::cmd("EXISTS").arg(place.key()).query_async(&mut connection).await.unwrap();
    assert!(!there);
}
