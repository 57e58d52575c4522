use bson::doc;
use oplogue_api::{ErrorKind, Severity};
use oplogue_testkit::{
    sample,
    servers::{self, Redis, RedisOptions},
};

use crate::support::{Place, Subscriber, assert_no_secret, at, behind, try_sink, write};

/// All that the sink needs, and nothing else.
const RIGHTS: &str = "~oplogue::* +eval +evalsha +publish +hmget +hset +hdel +select";

#[tokio::test]
async fn wrong_credentials_are_the_operators_business() {
    let user = format!("app on >s3cret-app {RIGHTS} &*");
    let redis =
        Redis::start(RedisOptions { password: Some("s3cret".into()), users: vec![user], ..Default::default() }).await;
    let addr = redis.addr();
    for (url, code) in [
        (format!("redis://{addr}"), "NOAUTH"),
        (format!("redis://:s3cret-wrong@{addr}"), "WRONGPASS"),
        (format!("redis://app:s3cret-wrong@{addr}"), "WRONGPASS"),
        (format!("redis://nobody:s3cret@{addr}"), "WRONGPASS"),
        (format!("redis://:s3cret@{addr}/99"), "no database 99"),
    ] {
        let sink = Place::new(&url).sink();
        let error = sink.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
        assert!(error.message().contains(code) && error.get_hint().is_some(), "{url}: {error}");
        assert_no_secret(&error, &["s3cret"]);
        let findings = sink.check().await;
        assert!(findings.iter().any(|f| f.severity == Severity::Error && f.what.contains(code)), "{findings:?}");
    }
    for url in [format!("redis://:s3cret@{addr}"), format!("redis://app:s3cret-app@{addr}/3")] {
        let place = Place::new(&url);
        let sink = place.sink();
        sink.open().await.unwrap();
        write(&sink, &place.inserts(0..2), 1).await;
    }
    // A password where none is asked for.
    let open = servers::redis().await;
    let error = Place::new(format!("redis://:s3cret@{}", open.addr())).sink().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
}

#[tokio::test]
async fn a_refused_channel_is_not_marked_and_goes_out_once_it_is_allowed() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut connection = redis.connection().await;
    let place = Place::new(format!("redis://app:pw@{}", redis.addr()));
    let rules = format!("on >pw {RIGHTS} resetchannels &{}.tasks*", place.db);
    let mut acl = async |rules: &str| {
        let mut cmd = redis::cmd("ACL");
        cmd.arg("SETUSER").arg("app").arg(rules.split(' ').collect::<Vec<_>>());
        let _: () = cmd.query_async(&mut connection).await.unwrap();
    };
    acl(&rules).await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    sink.open().await.unwrap();
    let secret = at(2, sample::insert(&place.ns("private"), doc! {"_id": "s3cret-id"}));
    let events = [place.insert(0, "t0"), place.insert(1, "t1"), secret, place.insert(3, "t3")];
    // It is tried again for as long as it takes: nothing behind it is sent.
    let written = sink.write(&events, Some(&behind(3))).await.unwrap();
    let failed: Vec<_> = written.failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!((failed, written.duplicates), (vec![(2, ErrorKind::Transient), (3, ErrorKind::Transient)], 0));
    for _ in 0..3 {
        let again = sink.write(&events[2..], Some(&behind(3))).await.unwrap();
        assert_eq!((again.failed.len(), again.failed[0].index), (2, 0));
        for error in [&again.failed[0].error, &written.failed[0].error] {
            assert_eq!(error.kind(), ErrorKind::Transient);
            assert!(error.message().contains("NOPERM") && error.get_hint().unwrap().contains("ACL SETUSER"), "{error}");
            // I8: the text of the refusal would quote the channel, which holds the id.
            assert_no_secret(error, &["s3cret-id"]);
        }
    }
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..2));
    assert_eq!(sink.checkpoints().unwrap().load(&place.route).await.unwrap(), None);

    acl("&*").await;
    assert_eq!(write(&sink, &events, 3).await.duplicates, 2);
    let tasks = subscriber.on(&place.ns("tasks")).await;
    assert_eq!(tasks, [place.heard(0..2), place.heard(3..4)].concat());
    assert_eq!(subscriber.on(&place.ns("private")).await, [r#"{"e":"i","d":{"_id":"s3cret-id"},"f":["_id"]}"#]);
}

#[tokio::test]
async fn the_mark_does_not_pass_half_of_the_events_of_one_id() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut connection = redis.connection().await;
    let place = Place::new(format!("redis://app:pw@{}", redis.addr()));
    let mut allow = async |channels: String| {
        let mut cmd = redis::cmd("ACL");
        cmd.arg("SETUSER").arg("app").arg(format!("on >pw {RIGHTS} {channels}").split(' ').collect::<Vec<_>>());
        let _: () = cmd.query_async(&mut connection).await.unwrap();
    };
    allow(format!("resetchannels &{}.tasks*", place.db)).await;
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink = place.sink();
    let second = at(1, sample::delete(&place.ns("private"), "p"));
    let events = [place.insert(0, "t0"), place.insert(1, "t1"), second];
    let written = sink.write(&events, Some(&behind(1))).await.unwrap();
    assert_eq!(written.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [2]);
    allow("&*".to_owned()).await;
    assert_eq!(write(&sink, &events[2..], 1).await.duplicates, 0);
    assert_eq!(subscriber.on(&place.ns("private")).await.len(), 1);
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..2));
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_before_anything_is_sent() {
    let users = vec![
        "no-script on >pw ~* &* +hmget +hset +publish".to_owned(),
        "no-key on >pw ~other* &* +@all".to_owned(),
        "no-write on >pw ~* &* +@all -hset".to_owned(),
    ];
    let redis = Redis::start(RedisOptions { users, ..Default::default() }).await;
    for user in ["no-script", "no-key", "no-write"] {
        let place = Place::new(format!("redis://{user}:pw@{}", redis.addr()));
        let subscriber = Subscriber::of(&place, redis.client()).await;
        let sink = place.sink();
        for error in
            [sink.open().await.unwrap_err(), sink.write(&place.inserts(0..2), Some(&behind(1))).await.unwrap_err()]
        {
            assert_eq!(
                (error.kind(), error.message().contains("NOPERM")),
                (ErrorKind::Operator, true),
                "{user}: {error}"
            );
        }
        assert_eq!(subscriber.all().await, []);
    }
}

#[tokio::test]
async fn a_key_of_somebody_else_is_left_alone() {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let mut connection = redis.connection().await;
    let _: () = redis::cmd("SET").arg(place.key()).arg("theirs").query_async(&mut connection).await.unwrap();
    let sink = place.sink();
    let store = sink.checkpoints().unwrap();
    for error in [
        sink.open().await.unwrap_err(),
        sink.write(&place.inserts(0..1), None).await.unwrap_err(),
        store.load(&place.route).await.unwrap_err(),
        store.save(&place.route, &crate::support::checkpoint(0, 1)).await.unwrap_err(),
        store.reset(&place.route, None).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
        assert!(error.get_hint().unwrap().contains("metadata_prefix"), "{error}");
    }
    let value: String = redis::cmd("GET").arg(place.key()).query_async(&mut connection).await.unwrap();
    assert_eq!(value, "theirs");

    // And one of a version to come.
    let place = Place::new(redis.url());
    let _: () = redis::cmd("HSET").arg(place.key()).arg("format").arg("2").query_async(&mut connection).await.unwrap();
    let error = place.sink().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
    assert!(error.message().contains("another version"), "{error}");
}

#[test]
fn a_wrong_url_is_refused_without_being_repeated() {
    for url in [
        "",
        "localhost",
        "http://u:s3cret@h/",
        "redis-sentinel://u:s3cret@h:1/",
        "redis://u:s3cret@/",
        "redis://u:s3cret@h:99999/",
        "redis://u:s3cret@h/s3cret",
        "redis://u:s3cret#x@h/",
    ] {
        let error = try_sink("r", &[("url", url)]).err().unwrap_or_else(|| panic!("accepted: {url}"));
        assert_eq!((error.kind(), error.field()), (ErrorKind::Operator, Some("url")), "{url}: {error}");
        assert_no_secret(&error, &["s3cret"]);
    }
    assert!(try_sink("r", &[]).is_err());
    assert!(try_sink("r", &[("url", "redis://h"), ("dedupe", "sometimes")]).is_err());
    assert!(try_sink("r", &[("url", "redis://h"), ("surl", "x")]).is_err());
}
