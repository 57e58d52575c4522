//! A Redis that forgets, refuses, sleeps or fails over while the route runs.

use mongodb::bson::{Document, Timestamp, doc};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions},
    unique, wait_for,
};

use crate::{
    process::{Oplogue, PATIENCE},
    subscriber::Subscriber,
    support::to_redis,
    writer::{Writer, numbers},
};

struct Bench {
    redis: Redis,
    db: String,
    channel: String,
    oplogue: Oplogue,
}

impl Bench {
    async fn new(options: RedisOptions, user: &str) -> Bench {
        let redis = Redis::start(options).await;
        let db = unique("forget");
        let url = redis.url().replace("redis://", &format!("redis://{user}"));
        let uri = servers::mongo().await.uri();
        let oplogue = to_redis("mongo-oplog", &uri, &url, &db, "[engine]\ncheckpoint_interval = \"100ms\"");
        Bench { redis, channel: format!("{db}.c"), db, oplogue }
    }

    async fn subscribe(&self) -> Subscriber {
        Subscriber::start(&self.redis.url(), &self.channel).await
    }

    async fn write(&self) -> Writer {
        Writer::start(servers::mongo().await.client().await, &self.db).await
    }

    async fn run(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut cmd = redis::cmd(command[0]);
        for arg in &command[1..] {
            cmd.arg(*arg);
        }
        // A paused Redis answers late.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = self.redis.client().get_multiplexed_async_connection_with_config(&config).await?;
        cmd.query_async(&mut connection).await
    }

    async fn must(&self, command: &[&str]) {
        if let Err(e) = self.run(command).await {
            panic!("{command:?}: {e}");
        }
    }

    /// /readyz is red and says this.
    fn wait_red(&mut self, text: &str) {
        self.oplogue.wait(&format!("red with `{text}`"), |o| {
            o.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains(text))
        });
    }

    fn wait_green(&mut self) {
        self.oplogue.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_when_redis_is_flushed_paused_and_put_to_sleep() {
    let mut bench = Bench::new(RedisOptions::default(), "").await;
    let subscriber = bench.subscribe().await;
    bench.oplogue.start();
    let writer = bench.write().await;
    for round in ["FLUSHALL", "SCRIPT FLUSH", "CLIENT PAUSE 700", "DEBUG SLEEP 0.7", "FLUSHALL", "SCRIPT FLUSH SYNC"] {
        writer.write_more(60).await;
        let command: Vec<&str> = round.split(' ').collect();
        bench.must(&command).await;
    }
    writer.write_more(60).await;
    let written = writer.finish().await.acknowledged;
    bench.oplogue.wait("caught up", |_| subscriber.count() >= written.len());
    assert!(bench.oplogue.terminate().success());
    subscriber.settle(&bench.redis.url(), &bench.channel).await;
    assert_eq!(numbers(&subscriber.messages()), written);
}

/// What is taken away comes back, and the route goes on by itself.
async fn waited_for(options: RedisOptions, user: &str, take: &[&[&str]], says: &str, give: &[&str]) {
    let mut bench = Bench::new(options, user).await;
    let subscriber = bench.subscribe().await;
    bench.oplogue.start();
    let writer = bench.write().await;
    writer.write_more(30).await;
    for command in take {
        bench.must(command).await;
    }
    writer.write_more(30).await;
    bench.wait_red(says);
    bench.must(give).await;
    writer.write_more(30).await;
    bench.wait_green();
    let written = writer.finish().await.acknowledged;
    bench.oplogue.wait("caught up", |_| subscriber.count() >= written.len());
    assert!(bench.oplogue.terminate().success());
    subscriber.settle(&bench.redis.url(), &bench.channel).await;
    assert_eq!(numbers(&subscriber.messages()), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_waited_for() {
    let full: [&[&str]; 2] =
        [&["CONFIG", "SET", "maxmemory-policy", "noeviction"], &["CONFIG", "SET", "maxmemory", "1"]];
    waited_for(RedisOptions::default(), "", &full, "maxmemory", &["CONFIG", "SET", "maxmemory", "0"]).await;
}

/// Whoever mends the rights does not have to know that oplogue waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_refused_is_waited_for() {
    let users = vec!["app on >app-secret ~* &* +@all".to_owned()];
    let options = RedisOptions { users, ..Default::default() };
    let take: [&[&str]; 1] = [&["ACL", "SETUSER", "app", "resetchannels"]];
    waited_for(options, "app:app-secret@", &take, "NOPERM", &["ACL", "SETUSER", "app", "allchannels"]).await;
}

/// A person has to act: the route stops, the process (it has no other route) ends with 1, and the next start goes on from there.
async fn stopped_by(take: &[&str], says: &str, give: &[&[&str]]) {
    let users = vec!["app on >app-secret ~* &* +@all".to_owned()];
    let mut bench = Bench::new(RedisOptions { users, ..Default::default() }, "app:app-secret@").await;
    let subscriber = bench.subscribe().await;
    bench.oplogue.start();
    let writer = bench.write().await;
    writer.write_more(30).await;
    bench.must(take).await;
    writer.write_more(30).await;
    assert_eq!(bench.oplogue.wait_exit().code(), Some(1), "{take:?}");
    let log = bench.oplogue.log();
    assert!(log.contains(says) && !log.contains("app-secret"), "{take:?}: {log}");
    for command in give {
        bench.must(command).await;
    }
    bench.oplogue.start();
    writer.write_more(30).await;
    let written = writer.finish().await.acknowledged;
    bench.oplogue.wait("caught up", |_| subscriber.count() >= written.len());
    assert!(bench.oplogue.terminate().success());
    subscriber.settle(&bench.redis.url(), &bench.channel).await;
    assert_eq!(numbers(&subscriber.messages()), written, "{take:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_stops_the_route_and_nothing_is_lost() {
    let keys: [&[&str]; 1] = [&["ACL", "SETUSER", "app", "allkeys"]];
    stopped_by(&["ACL", "SETUSER", "app", "resetkeys"], "NOPERM", &keys).await;
    let user: [&[&str]; 1] = [&["ACL", "SETUSER", "app", "on", ">app-secret", "~*", "&*", "+@all"]];
    stopped_by(&["ACL", "DELUSER", "app"], "WRONGPASS", &user).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_stops_the_route_and_is_left_alone() {
    let mut bench = Bench::new(RedisOptions::default(), "").await;
    let subscriber = bench.subscribe().await;
    bench.oplogue.start();
    let key = format!("{}::route::publish", bench.db);
    let writer = bench.write().await;
    writer.write_more(10).await;
    bench.must(&["SET", &key, "mine"]).await;
    writer.write_more(10).await;
    assert_eq!(bench.oplogue.wait_exit().code(), Some(1));
    assert!(bench.oplogue.log().contains("WRONGTYPE"), "{}", bench.oplogue.log());
    let kept: String = redis::cmd("GET").arg(&key).query_async(&mut bench.redis.connection().await).await.unwrap();
    assert_eq!(kept, "mine");
    let written = writer.finish().await.acknowledged;
    // What was published is the beginning of what was written: nothing without a mark, nothing out of order.
    subscriber.settle(&bench.redis.url(), &bench.channel).await;
    let got = numbers(&subscriber.messages());
    assert_eq!(got, written[..got.len()]);
}

/// The master fails over, by hand, to a replica that stands some writes behind: what it had not received comes again. When
/// nothing is written meanwhile, it is the next checkpoint that must not pass it over.
async fn failed_over(idle: bool) {
    let mut bench = Bench::new(RedisOptions::default(), "").await;
    let replica = Redis::start(RedisOptions { replica_of: Some(bench.redis.port()), ..Default::default() }).await;
    let before = bench.subscribe().await;
    bench.oplogue.start();
    let writer = bench.write().await;
    writer.write_more(40).await;
    wait_for("messages", || async { before.count() >= 40 }).await;
    // The replica has the route's state, and gets no more from here on.
    let key = format!("{}::route::publish", bench.db);
    let mut there = replica.connection().await;
    wait_for("the replica to have the watermark", || async {
        let mut there = there.clone();
        redis::cmd("HEXISTS").arg(&key).arg("watermark").query_async::<bool>(&mut there).await.unwrap_or(false)
    })
    .await;
    let _: redis::Value = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut there).await.unwrap();
    let last_there = number_of(&there_watermark(&mut there, &key).await).await;
    writer.write_more(40).await;
    wait_for("more messages", || async {
        numbers(&before.messages()).last().is_some_and(|(_, n)| *n >= last_there + 20)
    })
    .await;
    let (writer, written) = if idle { (None, Some(writer.finish().await)) } else { (Some(writer), None) };
    if let Some(written) = &written {
        wait_for("all messages", || async { numbers(&before.messages()).last() == written.acknowledged.last() }).await;
    }
    // What was the master becomes a copy of what was the replica, and then the master again: at the same address.
    let port = replica.port().to_string();
    bench.must(&["REPLICAOF", "127.0.0.1", &port]).await;
    wait_for("the copy", || async {
        let info: String =
            redis::cmd("INFO").arg("replication").query_async(&mut bench.redis.connection().await).await.unwrap();
        info.contains("master_link_status:up")
    })
    .await;
    let after = bench.subscribe().await;
    let written = if idle {
        bench.must(&["REPLICAOF", "NO", "ONE"]).await;
        written.expect("the writer has ended").acknowledged
    } else {
        bench.wait_red("replica");
        bench.must(&["REPLICAOF", "NO", "ONE"]).await;
        let writer = writer.expect("the writer goes on");
        writer.write_more(40).await;
        writer.finish().await.acknowledged
    };
    let last = *written.last().unwrap();
    bench.oplogue.wait("caught up", |_| numbers(&after.messages()).last() == Some(&last));
    bench.wait_green();
    assert!(bench.oplogue.terminate().success());
    assert!(bench.oplogue.log().contains("forgotten"), "{}", bench.oplogue.log());
    // The subscriber of the new master gets, in order and once, exactly what the replica had not received.
    let rest = written.iter().position(|(_, n)| *n == last_there).expect("a number that was written") + 1;
    assert_eq!(numbers(&after.messages()), written[rest..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_to_a_replica_that_lagged_the_rest_comes_again() {
    failed_over(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_while_nothing_is_written_the_rest_comes_again() {
    failed_over(true).await;
}

async fn there_watermark(there: &mut redis::aio::MultiplexedConnection, key: &str) -> String {
    redis::cmd("HGET").arg(key).arg("watermark").query_async(there).await.expect("a watermark")
}

/// The number of the write that the event with this watermark (seconds, increment, index) stands for.
async fn number_of(watermark: &str) -> u64 {
    let part = |from: usize| watermark[from..from + 10].parse().expect("ten digits");
    let ts = Timestamp { time: part(0), increment: part(10) };
    let oplog = servers::mongo().await.client().await.database("local").collection::<Document>("oplog.rs");
    let entry = oplog.find_one(doc! {"ts": ts}).await.expect("the oplog").expect("the entry of the watermark");
    let text = entry.to_string();
    let name = text.split('"').find_map(|t| t.strip_prefix('n')?.parse().ok());
    name.unwrap_or_else(|| panic!("no numbered field: {text}"))
}
