//! Redis as the configuration names it: roles, credentials, connections that end.

use oplogue_testkit::{
    servers::{self, Redis, RedisOptions, Sentinels, SentinelsOptions},
    unique, wait_for,
};
use std::{collections::HashSet, process::Command};

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::{source, to_redis},
    writer::{Writer, numbers},
};

/// Everything acknowledged has been heard, once.
async fn all_once(oplogue: &mut Oplogue, writer: Writer, subscriber: &Subscriber) {
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| subscriber.count() >= written.acknowledged.len());
    assert!(oplogue.terminate().success());
    assert_eq!(numbers(&subscriber.messages()), written.acknowledged);
}

fn is_retrying(oplogue: &Oplogue, why: &str) -> bool {
    oplogue.get("/api/v1/routes").is_some_and(|(_, body)| body.contains("retrying") && body.contains(why))
}

/// E8.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_told_by_name_and_a_demoted_master_is_waited_for() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let replica = Redis::start(RedisOptions { replica_of: Some(redis.port()), ..Default::default() }).await;
    let db = unique("endpoint");
    let at_replica = to_redis("mongo-oplog", &mongo.uri(), &replica.url(), &db, "");
    wait_for("the replica to be in step", || async {
        let info: String = replica.ask(redis::cmd("INFO").arg("replication")).await.unwrap();
        info.contains("master_link_status:up")
    })
    .await;
    let checked = Command::new(env!("CARGO_BIN_EXE_oplogue"))
        .args(["check", "--connect"])
        .arg(at_replica.config())
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success(), "{said}");
    assert!(said.contains(&replica.addr()) && said.contains(&format!("a replica of {}", redis.addr())), "{said}");

    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &redis.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(100).await;
    wait_for("messages", || async { subscriber.count() > 50 }).await;
    let turn = async |redis: &Redis, to: [&str; 2]| {
        let _: () = redis.ask(redis::cmd("REPLICAOF").arg(&to)).await.expect("REPLICAOF");
    };
    turn(&replica, ["NO", "ONE"]).await;
    turn(&redis, ["127.0.0.1", &replica.port().to_string()]).await;
    oplogue.wait("waiting", |o| is_retrying(o, "READONLY"));
    writer.write_more(100).await;
    turn(&redis, ["NO", "ONE"]).await;
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| {
        let heard: HashSet<_> = numbers(&subscriber.messages()).into_iter().collect();
        written.acknowledged.iter().all(|w| heard.contains(w))
    });
    assert!(oplogue.terminate().success());
}

/// E9.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_the_replicas_that_it_wants_is_waited_for() {
    let lines = vec!["min-replicas-to-write 1".to_owned(), "min-replicas-max-lag 2".into()];
    let group = Sentinels::start(SentinelsOptions { lines, ..Default::default() }).await;
    let mongo = servers::mongo().await;
    let db = unique("endpoint");
    let subscriber = Subscriber::start(&group.redis(0).url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &group.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(100).await;
    for n in 1..3 {
        group.redis(n).kill().await;
    }
    oplogue.wait("waiting", |o| is_retrying(o, "NOREPLICAS"));
    writer.write_more(100).await;
    for n in 1..3 {
        group.redis(n).start_again().await;
    }
    all_once(&mut oplogue, writer, &subscriber).await;
}

/// E11.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_redis_and_sentinel_work_and_are_not_repeated_when_they_do_not() {
    let options = SentinelsOptions {
        password: Some("s3cret-default".into()),
        users: vec!["app on >s3cret-app ~* &* +@all".into()],
        sentinel_password: Some("s3cret-sentinel".into()),
        ..Default::default()
    };
    let group = Sentinels::start(options).await;
    let mongo = servers::mongo().await;
    let db = unique("endpoint");
    let config = |of_sentinel: &str, of_redis: &str| {
        format!(
            r#"
            {}
            [transforms.mine]
            type = "filter"
            namespaces = ["{db}.c"]
            operations = ["update", "replace"]
            [sinks.meteor]
            type = "redis-oplog"
            endpoint = {{ type = "sentinel", name = "mymaster", nodes = ["{}"], password = "{of_sentinel}" }}
            user = "app"
            password = "{of_redis}"
            [[routes]]
            name = "publish"
            from = ["a"]
            via = ["mine"]
            to = ["meteor"]
            "#,
            source("mongo-oplog", &mongo.uri()),
            group.sentinel_addr(0)
        )
    };
    let subscriber = Subscriber::start(&group.redis(0).url(), &format!("{db}.c")).await;
    let mut oplogue = Oplogue::new(&config("s3cret-sentinel", "s3cret-app"));
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    writer.write_more(100).await;
    all_once(&mut oplogue, writer, &subscriber).await;

    for (of_sentinel, of_redis, place) in [
        ("s3cret-sentinel", "s3cret-wrong", group.redis(0).addr()),
        ("s3cret-wrong", "s3cret-app", group.sentinel_addr(0)),
    ] {
        let mut oplogue = Oplogue::new(&config(of_sentinel, of_redis));
        oplogue.spawn();
        assert_eq!(oplogue.wait_exit().code(), Some(1));
        let log = oplogue.log();
        assert!(log.contains("WRONGPASS") && log.contains(&place), "{log}");
        assert!(!log.contains("s3cret"), "I8: {log}");
    }
}

/// E12.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_over_and_over_lose_and_repeat_nothing() {
    let group = Sentinels::start(SentinelsOptions::default()).await;
    let mongo = servers::mongo().await;
    let db = unique("endpoint");
    let subscriber = Subscriber::start(&group.redis(0).url(), &format!("{db}.c")).await;
    let mut oplogue = to_redis("mongo-oplog", &mongo.uri(), &group.url(), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    for _ in 0..20 {
        let heard = subscriber.count();
        wait_for("messages", || async { subscriber.count() > heard + 20 }).await;
        // What was heard may have come over the connection that was killed last, and the next is not made yet.
        wait_for("a connection to kill", || async {
            let mut kill = redis::cmd("CLIENT");
            group.redis(0).ask::<i64>(kill.arg("KILL").arg("TYPE").arg("normal")).await.expect("CLIENT KILL") > 0
        })
        .await;
    }
    all_once(&mut oplogue, writer, &subscriber).await;
}
