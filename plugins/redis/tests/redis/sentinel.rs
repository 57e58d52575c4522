use std::{sync::Arc, time::Duration};

use oplogue_api::{ErrorKind, Severity, Sink};
use oplogue_testkit::{
    servers::{Redis, RedisOptions, Sentinels, SentinelsOptions},
    wait_for,
};

use crate::support::{Place, Subscriber, assert_no_secret, behind, checkpoint, try_sink_toml, write, write_until_done};

/// How many scripts a Redis has run.
async fn scripts(redis: &Redis) -> u64 {
    let stats: String = redis.ask(redis::cmd("INFO").arg("commandstats")).await.unwrap();
    let calls = |name: &str| {
        let line = stats.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{name}:calls=")))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    calls("eval").unwrap_or(0) + calls("evalsha").unwrap_or(0)
}

fn endpoint(group: &Sentinels, more: &str) -> String {
    format!(
        "endpoint = {{ type = \"sentinel\", name = \"mymaster\", nodes = [\"{}\"] {more} }}",
        group.sentinel_addr(0)
    )
}

#[tokio::test]
async fn a_planned_failover_is_followed_and_the_old_master_is_left_at_once() {
    let group = Sentinels::start(SentinelsOptions::default()).await;
    let place = Place::new(group.url());
    let sink = place.sink();
    sink.open().await.unwrap();
    let old = group.redis(0);
    let heard_before = Subscriber::of(&place, old.client()).await;
    write(&sink, &place.inserts(0..10), 9).await;
    assert_eq!(heard_before.on(&place.ns("tasks")).await, place.heard(0..10));

    group.sentinel_command(0, &["FAILOVER", Sentinels::NAME]).await;
    // It still takes writes: Sentinel demotes it ten seconds later.
    let mut n = 10;
    let new = loop {
        write_until_done(&sink, &place.inserts(n..n + 1), n).await;
        n += 1;
        if let Some(new) = group.master().await.filter(|m| *m != 0) {
            break new;
        }
    };
    let before = scripts(old).await;
    let after = Subscriber::of(&place, group.redis(new).client()).await;
    write_until_done(&sink, &place.inserts(n..n + 10), n + 9).await;
    assert_eq!(after.on(&place.ns("tasks")).await, place.heard(n..n + 10));
    assert_eq!(scripts(old).await, before, "nothing runs on the old master any more");
    let role: Vec<redis::Value> = old.ask(&redis::cmd("ROLE")).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString("master".into()), "though it would have");
    let stored = sink.checkpoints().unwrap().load(&place.route).await.unwrap().unwrap();
    assert_eq!(stored.position, behind(n + 9));
}

#[tokio::test]
async fn what_the_new_master_never_got_is_told_as_a_lost_position() {
    let group = Sentinels::start(SentinelsOptions::default()).await;
    let place = Place::new(group.url());
    let sink = place.sink_toml(&endpoint(&group, ""));
    write(&sink, &place.inserts(0..10), 9).await;
    wait_for("the replicas to have it", || async {
        let mut all = true;
        for n in 1..3 {
            all &= group.redis(n).ask::<i64>(redis::cmd("EXISTS").arg(place.key())).await.unwrap() == 1;
        }
        all
    })
    .await;
    // The replicas are thrown out, and have no password to come back with.
    let old = group.redis(0);
    let mut connection = old.connection().await;
    let mut run = async |args: &[&str]| {
        let _: redis::Value = redis::cmd(args[0]).arg(&args[1..]).query_async(&mut connection).await.unwrap();
    };
    run(&["CONFIG", "SET", "requirepass", "x"]).await;
    run(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    write(&sink, &place.inserts(10..20), 19).await;
    old.kill().await;
    group.switched_from(0).await;
    let error = loop {
        match sink.write(&place.inserts(20..21), Some(&behind(20))).await {
            Err(e) if e.kind() == ErrorKind::Transient => sink.open().await.unwrap_or(()),
            Err(e) => break e,
            Ok(written) => panic!("written: {written:?}"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    let store = sink.checkpoints().unwrap();
    assert_eq!(store.load(&place.route).await.unwrap(), Some(checkpoint(9, 1)));
    write(&sink, &place.inserts(10..21), 20).await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_changed() {
    let group = Sentinels::start(SentinelsOptions::default()).await;
    let place = Place::new(group.url());
    let sink = place.sink();
    write(&sink, &place.inserts(0..1), 0).await;
    group.kill_sentinel(1);
    group.kill_sentinel(2);
    // A new connection needs one, and says so, while the open one is used.
    let another = Place::new(group.url()).sink();
    wait_for("a refusal", || async {
        another.close().await.unwrap();
        let refused = another.open().await.err();
        refused.is_some_and(|e| e.kind() == ErrorKind::Transient && e.message().contains("majority"))
    })
    .await;
    for n in 1..5 {
        write(&sink, &place.inserts(n..n + 1), n).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // It ends when the server is no master any more, whoever says so.
    let _: () = group.redis(0).ask(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(group.redis(1).port())).await.unwrap();
    wait_for("the connection to be given up", || async {
        let refused = sink.write(&place.inserts(5..6), Some(&behind(5))).await.err();
        refused.is_some_and(|e| e.message().contains("majority"))
    })
    .await;
    group.kill_sentinel(0);
    let error = sink.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.message().contains("no sentinel"), "{error}");
    let found = sink.check().await;
    assert!(found.iter().any(|f| f.severity == Severity::Error && f.what.contains("no sentinel")), "{found:?}");
}

#[tokio::test]
async fn credentials_of_redis_and_of_the_sentinels_are_two_things() {
    let options = SentinelsOptions {
        replicas: 1,
        sentinels: 1,
        quorum: 1,
        password: Some("s3cret".into()),
        users: vec!["app on >s3cret-app ~* &* +@all".into()],
        sentinel_password: Some("s3cret-sentinel".into()),
        ..Default::default()
    };
    let group = Sentinels::start(options).await;
    let place = Place::new("");
    let of_sentinel = endpoint(&group, ", password = \"s3cret-sentinel\"");
    for data in ["password = \"s3cret\"", "user = \"app\"\npassword = \"s3cret-app\"\ndatabase = 2"] {
        let before = group.sentinel_connections(0).await;
        let sink = place.sink_toml(&format!("{of_sentinel}\n{data}"));
        let gone = async || group.sentinel_connections(0).await == before;
        sink.open().await.unwrap();
        assert!(!gone().await, "the sentinel is listened to");
        sink.close().await.unwrap();
        wait_for("closing to leave nothing", gone).await;
        sink.open().await.unwrap();
        assert!(!gone().await);
        drop(sink);
        wait_for("dropping to leave nothing", gone).await;
    }
    let cases = [
        (of_sentinel.clone(), "NOAUTH", "password"),
        (format!("{of_sentinel}\npassword = \"s3cret-wrong\""), "WRONGPASS", "password"),
        (format!("{of_sentinel}\npassword = \"s3cret\"\ndatabase = 99"), "no database 99", "database"),
        (format!("{}\npassword = \"s3cret\"", endpoint(&group, "")), "NOAUTH", "endpoint"),
        (
            format!("{}\npassword = \"s3cret\"", endpoint(&group, ", password = \"s3cret-wrong\"")),
            "WRONGPASS",
            "endpoint",
        ),
        (
            format!("{}\npassword = \"s3cret\"", of_sentinel.replace("mymaster", "other")),
            "no master of the name other",
            "monitor",
        ),
    ];
    for (text, what, hint) in cases {
        let sink = place.sink_toml(&text);
        let error = sink.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Operator, "{what}: {error}");
        assert!(
            error.message().contains(what) && error.get_hint().unwrap().contains(hint),
            "{error} {:?}",
            error.get_hint()
        );
        assert_no_secret(&error, &["s3cret"]);
        let found = sink.check().await;
        assert!(found.iter().any(|f| f.severity == Severity::Error && f.what.contains(what)), "{what}: {found:?}");
    }
    let found = place.sink_toml(&format!("{of_sentinel}\npassword = \"s3cret\"")).check().await;
    for what in ["1 of 1 sentinels name", "quorum 1", "1 replicas are known", "may publish"] {
        assert!(found.iter().any(|f| f.severity == Severity::Ok && f.what.contains(what)), "{what}: {found:?}");
    }
    assert!(found.iter().any(|f| f.severity == Severity::Warning && f.what.contains("only 1")), "{found:?}");
}

#[tokio::test]
async fn an_epoch_that_falls_on_all_sentinels_needs_a_person() {
    let group = Sentinels::start(SentinelsOptions { sentinels: 2, ..Default::default() }).await;
    let place = Place::new(group.url());
    let sink = place.sink();
    sink.open().await.unwrap();
    group.sentinel_command(0, &["FAILOVER", Sentinels::NAME]).await;
    let new = group.switched_from(0).await;
    let open = async || sink.open().await;
    wait_for("the new master", || async { open().await.is_ok() }).await;
    let port = group.redis(new).port().to_string();
    for n in 0..2 {
        group.sentinel_command(n, &["REMOVE", Sentinels::NAME]).await;
    }
    for n in 0..2 {
        group.sentinel_command(n, &["MONITOR", Sentinels::NAME, "127.0.0.1", &port, "2"]).await;
    }
    wait_for("the epochs in an error", || async {
        match open().await {
            Err(e) if e.kind() == ErrorKind::Operator => {
                assert!(e.message().contains("epoch 0") && e.message().contains("epoch 1"), "{e}");
                true
            }
            _ => false,
        }
    })
    .await;
    // Whoever starts anew believes them.
    let anew = Place::new(group.url()).sink();
    wait_for("the sentinels to know each other", || async { anew.open().await.is_ok() }).await;
}

#[tokio::test]
async fn of_several_redis_exactly_one_is_a_master() {
    let master = Redis::start(RedisOptions::default()).await;
    let replica = Redis::start(RedisOptions { replica_of: Some(master.port()), ..Default::default() }).await;
    let place = Place::new("");
    let text = format!("endpoint = {{ type = \"static\", nodes = [\"{}\", \"{}\"] }}", replica.addr(), master.addr());
    let sink: Arc<dyn Sink> = place.sink_toml(&text);
    sink.open().await.unwrap();
    write(&sink, &place.inserts(0..3), 2).await;
    assert_eq!(master.ask::<i64>(redis::cmd("EXISTS").arg(place.key())).await.unwrap(), 1);
    let found = sink.check().await;
    assert!(found.iter().all(|f| f.severity != Severity::Error), "{found:?}");
    wait_for("the replica to have it", || async {
        replica.ask::<i64>(redis::cmd("EXISTS").arg(place.key())).await.unwrap() == 1
    })
    .await;
    // No master, two of them, and the other one.
    master.kill().await;
    let error = sink.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("none") && error.message().contains(&replica.addr()), "{error}");
    let _: () = replica.ask(redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await.unwrap();
    sink.open().await.unwrap();
    write(&sink, &place.inserts(0..6), 5).await;
    master.start_again().await;
    let error = sink.open().await.unwrap_err();
    assert!(error.message().contains("more than one"), "{error}");
    let found = sink.check().await;
    assert!(found.iter().any(|f| f.severity == Severity::Error && f.what.contains("more than one")), "{found:?}");
}

#[test]
fn where_to_is_said_once_and_right() {
    for (text, field) in [
        ("", "url"),
        ("url = \"redis://h\"\nendpoint = { type = \"static\", nodes = [\"h\"] }", "endpoint"),
        ("url = \"redis://h\"\npassword = \"s3cret\"", "password"),
        ("url = \"redis://h\"\ntls = true", "tls"),
        ("url = \"redis-sentinel://:s3cret@h\"", "url"),
        ("endpoint = \"s3cret\"", "endpoint"),
        ("endpoint = { type = \"s3ntinel\", nodes = [\"h\"] }", "endpoint"),
        ("endpoint = { type = \"static\" }", "endpoint"),
        ("endpoint = { type = \"static\", nodes = [] }", "endpoint"),
        ("endpoint = { type = \"static\", nodes = [\"h:x\"] }", "endpoint"),
        ("endpoint = { type = \"sentinel\", nodes = [\"h\"] }", "endpoint"),
        ("endpoint = { type = \"sentinel\", name = \"\", nodes = [\"h\"] }", "endpoint"),
        ("endpoint = { type = \"sentinel\", name = \"m\", nodes = [\"h\"], password = 5 }", "endpoint"),
        ("endpoint = { type = \"sentinel\", name = \"m\", nodes = [\"h\"], user = \"u\" }", "endpoint"),
        ("endpoint = { type = \"sentinel\", name = \"m\", nodes = [\"h\"], pass = \"s3cret\" }", "endpoint"),
        ("endpoint = { type = \"cluster\", nodes = [\"h\"] }\ndatabase = 1", "database"),
        ("endpoint = { type = \"cluster\", nodes = [\"h\"] }\nuser = \"u\"", "user"),
        ("endpoint = { type = \"cluster\", nodes = [\"h\"] }\ndatabase = -1", "database"),
        ("endpoint = { type = \"cluster\", nodes = [\"h\"] }\nca_file = \"f\"", "ca_file"),
    ] {
        let error = try_sink_toml("r", text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!((error.kind(), error.field()), (ErrorKind::Operator, Some(field)), "{text}: {error}");
        assert!(error.get_hint().is_some(), "{error}");
        assert_no_secret(&error, &["s3cret"]);
    }
}
