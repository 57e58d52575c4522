//! The option `resync`: subscribers are made to connect again.

use futures_util::StreamExt;
use oplogue_api::{Doc, ErrorKind, Event, Namespace, Op, Severity};
use oplogue_testkit::servers::{Redis, RedisOptions};

use crate::support::{Place, at, behind, time, try_sink_with, write};

fn barrier(n: u32, op: Op, ns: &str) -> Event {
    at(n, Event::new(op, Namespace::new(ns), time(n), Doc::empty()))
}

fn sink(place: &Place, more: toml::Table) -> std::sync::Arc<dyn oplogue_api::Sink> {
    let mut table = toml::Table::new();
    table.insert("url".into(), place.url.clone().into());
    table.extend(more);
    try_sink_with(&place.route, table).unwrap()
}

#[tokio::test]
async fn subscribers_are_disconnected_behind_what_came_before() {
    let users = vec!["meteor on >pw ~* &* +@all".to_owned(), "other on >pw ~* &* +@all".to_owned()];
    let redis = Redis::start(RedisOptions { users, ..Default::default() }).await;
    let subscribe = async |user: &str, db: &str| {
        let client = redis::Client::open(format!("redis://{user}:pw@{}", redis.addr())).unwrap();
        let mut subscription = client.get_async_pubsub().await.unwrap();
        subscription.psubscribe(format!("{db}.*")).await.unwrap();
        subscription.into_on_message()
    };
    for (more, op, concerned) in [
        (toml::toml! { resync = ["drop"] }, Op::Drop, true),
        (toml::toml! { resync = ["drop"] }, Op::DropDatabase, true),
        (toml::toml! { resync = ["rename"] }, Op::Rename, true),
        (toml::toml! { resync = ["gap"] }, Op::Gap, true),
        (toml::toml! { resync = ["gap", "rename"] }, Op::Drop, false),
        (toml::toml! { resync = ["drop"] }, Op::Create, false),
        (toml::Table::new(), Op::Drop, false),
    ] {
        let place = Place::new(redis.url());
        let sink = sink(&place, more);
        let mut subscription = subscribe("meteor", &place.db).await;
        let dropped = barrier(1, op, &place.ns("tasks"));
        let events = [place.insert(0, "t0"), dropped.clone(), place.insert(2, "t2")];
        let written = write(&sink, &events, 2).await;
        assert_eq!((written.ignored, written.duplicates), (1, 0), "{op:?}");
        let first = subscription.next().await.unwrap();
        assert_eq!(first.get_channel_name(), place.ns("tasks"));
        subscription.next().await.unwrap();
        let third = subscription.next().await;
        assert_eq!(third.is_none(), concerned, "{op:?}");
        if op == Op::Gap {
            continue;
        }
        // What was passed once is passed.
        let mut subscription = subscribe("meteor", &place.db).await;
        write(&sink, &events, 2).await;
        write(&sink, &[place.insert(3, "t3")], 3).await;
        let next = subscription.next().await.expect("is not disconnected again");
        assert!(next.get_payload::<String>().unwrap().contains("t3"));
    }

    // Only those of one user.
    let place = Place::new(redis.url());
    let more = toml::toml! {
        resync = ["drop"]
        resync_user = "meteor"
    };
    let sink = sink(&place, more);
    let (mut meteor, mut other) = (subscribe("meteor", &place.db).await, subscribe("other", &place.db).await);
    write(&sink, &[barrier(1, Op::Drop, &place.ns("tasks")), place.insert(2, "t2")], 2).await;
    assert!(meteor.next().await.is_none());
    assert!(other.next().await.is_some());
}

#[tokio::test]
async fn a_missing_right_stops_the_route_before_the_barrier() {
    let users = vec!["app on >pw ~* &* +@all -client|kill".to_owned()];
    let redis = Redis::start(RedisOptions { users, ..Default::default() }).await;
    let place = Place::new(format!("redis://app:pw@{}", redis.addr()));
    let sink = sink(&place, toml::toml! { resync = ["drop"] });
    let drop = barrier(1, Op::Drop, &place.ns("tasks"));
    let written = sink.write(&[place.insert(0, "t0"), drop.clone()], Some(&behind(1))).await.unwrap();
    assert_eq!(written.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [1]);
    let e = sink.write(&[drop], Some(&behind(1))).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert_eq!(sink.checkpoints().unwrap().load(&place.route).await.unwrap(), None);
    let findings = sink.check().await;
    assert!(findings.iter().any(|f| f.severity == Severity::Error && f.what.contains("CLIENT|KILL")), "{findings:?}");
}
