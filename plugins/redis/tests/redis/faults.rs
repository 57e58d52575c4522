use std::sync::Arc;

use oplogue_api::{ErrorKind, Sink};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Redis, RedisOptions},
    wait_for,
};

use crate::support::{Place, Subscriber, behind, checkpoint, try_sink, write, write_until_done};

#[tokio::test]
async fn a_killed_redis_loses_nothing_and_repeats_nothing() {
    let redis = Redis::start(RedisOptions { appendonly: true, ..Default::default() }).await;
    let place = Place::new(redis.url());
    let before = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    write(&sink, &place.inserts(0..10), 9).await;
    assert_eq!(before.on(&place.ns("tasks")).await, place.heard(0..10));

    redis.kill().await;
    let error = sink.write(&place.inserts(10..20), Some(&behind(19))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    redis.start_again().await;

    let after = Subscriber::of(&place, redis.client()).await;
    // As if the first write's reply had been lost, too.
    let (_, known) = write_until_done(&sink, &place.inserts(0..20), 19).await;
    assert_eq!(known, 10);
    assert_eq!(after.on(&place.ns("tasks")).await, place.heard(10..20));
    assert_eq!(sink.checkpoints().unwrap().load(&place.route).await.unwrap(), Some(checkpoint(19, 2)));
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_used_on() {
    let redis = Redis::start(RedisOptions::default()).await;
    let place = Place::new(redis.url());
    let sink = place.sink();
    write(&sink, &place.inserts(0..10), 9).await;
    redis.kill().await;
    redis.start_again().await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    write_until_done(&sink, &place.inserts(10..20), 19).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(10..20));
    assert_eq!(sink.checkpoints().unwrap().load(&place.route).await.unwrap(), Some(checkpoint(19, 1)));
}

#[tokio::test]
async fn a_connection_cut_anywhere_in_a_reply_loses_nothing_and_repeats_nothing() {
    let redis = servers::redis().await;
    let proxy = Proxy::start(redis.addr()).await;
    let place = Place::new(redis.url_at(&proxy.addr()));
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    sink.open().await.unwrap();
    let (mut n, mut lost_replies, mut known) = (0, 0, 0);
    // A reply has about 60 bytes: cut before, within and behind it.
    for bytes in 0..70 {
        let events = place.inserts(n..n + 3);
        n += 3;
        proxy.cut_after_bytes(bytes);
        let first = sink.write(&events, Some(&behind(n))).await;
        proxy.heal();
        if let Err(e) = first {
            assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
            lost_replies += 1;
        }
        known += write_until_done(&sink, &events, n).await.1;
    }
    assert!(lost_replies > 30, "only {lost_replies} of the cuts hit a reply");
    assert_eq!(known, u64::from(n), "what a script had published before the cut was left out the second time");
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..n));
}

#[tokio::test]
async fn a_redis_out_of_reach_is_waited_for() {
    let redis = servers::redis().await;
    let proxy = Proxy::start(redis.addr()).await;
    let place = Place::new(redis.url_at(&proxy.addr()));
    let sink = place.sink();
    proxy.cut();
    for error in [sink.open().await.unwrap_err(), sink.ping().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.message().contains(&proxy.addr()) && error.get_hint().is_some(), "{error}");
    }
    proxy.heal();
    sink.open().await.unwrap();
    sink.ping().await.unwrap();
    sink.close().await.unwrap();
    // Closing is no end: the engine may open again.
    sink.open().await.unwrap();
    drop(sink);
    let nobody = try_sink("r", &[("url", "redis://127.0.0.1:1/")]).unwrap();
    let error = nobody.open().await.unwrap_err();
    assert!(error.message().contains("connection refused"), "{error}");
    let nowhere = try_sink("r", &[("url", "redis://no-such-host.invalid/")]).unwrap();
    assert_eq!(nowhere.open().await.unwrap_err().kind(), ErrorKind::Transient);
}

#[tokio::test]
async fn nothing_is_published_by_a_replica() {
    let master = Redis::start(RedisOptions::default()).await;
    let replica = Redis::start(RedisOptions { replica_of: Some(master.port()), ..Default::default() }).await;
    let place = Place::new(replica.url());
    let subscriber = Subscriber::of(&place, replica.client()).await;
    let sink = place.sink();
    let refused = async || sink.write(&place.inserts(0..3), Some(&behind(2))).await.unwrap_err();
    wait_for("the replica to be in step", || async { refused().await.message().contains("READONLY") }).await;
    for error in [refused().await, sink.open().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.message().contains("replica") && error.get_hint().unwrap().contains("master"), "{error}");
    }
    assert_eq!(subscriber.all().await, []);
    // Promoted, it is a Redis like any other.
    let mut connection = replica.connection().await;
    let _: () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut connection).await.unwrap();
    sink.open().await.unwrap();
    write(&sink, &place.inserts(0..3), 2).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3));
}

#[tokio::test]
async fn nothing_is_published_while_there_is_no_memory() {
    let redis = Redis::start(RedisOptions::default()).await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    write(&sink, &place.inserts(0..3), 2).await;
    let mut connection = redis.connection().await;
    let mut limit = async |bytes: u32| {
        let _: () =
            redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query_async(&mut connection).await.unwrap();
    };
    limit(1).await;
    for _ in 0..3 {
        let error = sink.write(&place.inserts(3..6), Some(&behind(5))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.message().contains("(OOM)"), "{error}");
    }
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3));
    limit(0).await;
    assert_eq!(write(&sink, &place.inserts(0..6), 5).await.duplicates, 3);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..6));
}

#[tokio::test]
async fn a_redis_that_is_loading_is_waited_for() {
    // 10 ms a key, and it answers between the keys.
    let lines = vec!["key-load-delay 10000".to_owned(), "loading-process-events-interval-bytes 1024".to_owned()];
    let redis = Redis::start(RedisOptions { lines, ..Default::default() }).await;
    let mut connection = redis.connection().await;
    connection.set_response_timeout(std::time::Duration::from_secs(120));
    let _: () = redis::cmd("DEBUG").arg("POPULATE").arg(5000).query_async(&mut connection).await.unwrap();
    let mut reloading = redis.connection().await;
    reloading.set_response_timeout(std::time::Duration::from_secs(120));
    let reload = tokio::spawn(async move {
        let _: () = redis::cmd("DEBUG").arg("RELOAD").query_async(&mut reloading).await.unwrap();
    });
    let place = Place::new(redis.url());
    let sink: Arc<dyn Sink> = place.sink();
    wait_for("Redis to be loading", || async {
        match sink.open().await {
            Ok(()) => false,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
                e.message().contains("(LOADING)")
            }
        }
    })
    .await;
    let _: () =
        redis::cmd("CONFIG").arg("SET").arg("key-load-delay").arg(0).query_async(&mut connection).await.unwrap();
    reload.await.unwrap();
    sink.open().await.unwrap();
    write(&sink, &place.inserts(0..3), 2).await;
}
