use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use ::redis::AsyncCommands;
use bson::{Document, doc};

use super::*;
use crate::{proxy::Proxy, unique, wait_for};

async fn version_of(mongo: &Mongo) -> String {
    let reply = mongo.client().await.database("admin").run_command(doc! {"buildInfo": 1}).await.unwrap();
    reply.get_str("version").unwrap().to_string()
}

async fn insert_and_count(mongo: &Mongo, db: &str) -> u64 {
    let coll = mongo.client().await.database(db).collection::<Document>("c");
    coll.insert_one(doc! {"a": 1}).await.unwrap();
    coll.count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn the_shared_mongo_is_one_and_has_an_oplog() {
    let mongo = mongo().await;
    assert!(std::ptr::eq(mongo, super::mongo().await));
    assert_eq!(version_of(mongo).await, DEFAULT_VERSION);
    let db = unique("harness");
    assert_eq!(insert_and_count(mongo, &db).await, 1);
    let oplog = mongo.client().await.database("local").collection::<Document>("oplog.rs");
    assert!(oplog.find_one(doc! {"ns": format!("{db}.c"), "op": "i"}).await.unwrap().is_some());
}

#[tokio::test]
async fn every_version_starts() {
    for version in VERSIONS {
        let mongo = Mongo::start(MongoOptions { version, ..Default::default() }).await;
        assert_eq!(version_of(&mongo).await, *version);
        assert_eq!(insert_and_count(&mongo, "x").await, 1);
    }
}

#[tokio::test]
async fn a_member_keeps_its_data_over_kill_and_restart() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let uri = mongo.uri();
    assert_eq!(insert_and_count(&mongo, "x").await, 1);
    mongo.kill(0).await;
    assert_eq!(mongo.pid(0), None);
    mongo.start_member(0).await;
    assert_eq!(insert_and_count(&mongo, "x").await, 2);
    mongo.restart(0).await;
    assert_eq!(insert_and_count(&mongo, "x").await, 3);
    mongo.step_down().await;
    assert_eq!(insert_and_count(&mongo, "x").await, 4);
    assert_eq!(mongo.uri(), uri);
}

#[tokio::test]
async fn three_members_elect_another_primary() {
    let mongo = Mongo::start(MongoOptions { members: 3, ..Default::default() }).await;
    assert_eq!(insert_and_count(&mongo, "x").await, 1);
    let first = mongo.wait_for_primary().await;
    mongo.step_down().await;
    let second = mongo.wait_for_primary().await;
    assert_ne!(first, second);
    assert_eq!(insert_and_count(&mongo, "x").await, 2);
    mongo.kill(second).await;
    assert_ne!(mongo.wait_for_primary().await, second);
    assert_eq!(insert_and_count(&mongo, "x").await, 3);
    mongo.start_member(second).await;
    let reader = mongo.direct_client(second).await;
    let coll = reader.database("x").collection::<Document>("c");
    wait_for("the member to catch up", || async { coll.count_documents(doc! {}).await.is_ok_and(|n| n == 3) }).await;
}

#[tokio::test]
async fn authentication_and_tls() {
    let root = Credentials::new("root", "p@ss:w/ord%");
    for standalone in [false, true] {
        let options = MongoOptions { auth: Some(root.clone()), tls: true, standalone, ..Default::default() };
        let mongo = Mongo::start(options).await;
        assert_eq!(insert_and_count(&mongo, "x").await, 1);
        let reader = Credentials::new("reader", "r");
        mongo.add_user(&reader, vec![doc! {"role": "read", "db": "x"}]).await;
        let client = mongodb::Client::with_uri_str(mongo.uri_of(Some(&reader))).await.unwrap();
        let coll = client.database("x").collection::<Document>("c");
        assert_eq!(coll.count_documents(doc! {}).await.unwrap(), 1);
        coll.insert_one(doc! {}).await.unwrap_err();
        let nobody = mongodb::Client::with_uri_str(mongo.uri_of(None)).await.unwrap();
        nobody.database("x").collection::<Document>("c").count_documents(doc! {}).await.unwrap_err();
        assert!(!format!("{:?}", mongo.options()).contains("p@ss"));
    }
}

#[tokio::test]
async fn a_standalone_has_no_oplog() {
    let mongo = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    assert_eq!(insert_and_count(&mongo, "x").await, 1);
    let names = mongo.client().await.database("local").list_collection_names().await.unwrap();
    assert!(!names.contains(&"oplog.rs".to_string()), "{names:?}");
}

#[tokio::test]
async fn a_paused_member_answers_after_it_is_resumed() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    mongo.pause(0);
    let ask = tokio::time::timeout(Duration::from_millis(300), insert_and_count(&mongo, "x"));
    assert!(ask.await.is_err());
    mongo.resume(0);
    insert_and_count(&mongo, "x").await;
}

#[tokio::test]
async fn redis_answers_and_comes_back_on_its_port() {
    let plain = Redis::start(RedisOptions::default()).await;
    let () = plain.connection().await.set("a", 1).await.unwrap();
    plain.kill().await;
    plain.client().get_multiplexed_async_connection().await.unwrap_err();
    plain.restart().await;
    let gone: Option<i32> = plain.connection().await.get("a").await.unwrap();
    assert_eq!(gone, None);

    let kept = Redis::start(RedisOptions {
        appendonly: true,
        password: Some("secret".into()),
        lines: vec!["appendfsync always".into()],
        ..Default::default()
    })
    .await;
    let () = kept.connection().await.set("a", 1).await.unwrap();
    kept.kill().await;
    kept.start_again().await;
    let there: Option<i32> = kept.connection().await.get("a").await.unwrap();
    assert_eq!(there, Some(1));
    let stranger = ::redis::Client::open(format!("redis://{}", kept.addr())).unwrap();
    let refused: ::redis::RedisResult<i32> = match stranger.get_multiplexed_async_connection().await {
        Ok(mut c) => c.get("a").await,
        Err(e) => Err(e),
    };
    refused.unwrap_err();
}

#[tokio::test]
async fn redis_with_tls_users_a_limit_and_a_replica() {
    let redis = Redis::start(RedisOptions {
        tls: true,
        users: vec!["app on >pw ~app:* &* +@all".into()],
        maxmemory: Some("4mb".into()),
        ..Default::default()
    })
    .await;
    let mut c = redis.connection().await;
    let whoami: String = ::redis::cmd("AUTH").arg("app").arg("pw").query_async(&mut c).await.unwrap();
    assert_eq!(whoami, "OK");
    c.set::<_, _, ()>("other", 1).await.unwrap_err();
    let mut n = 0;
    let e = loop {
        if let Err(e) = c.set::<_, _, ()>(format!("app:{n}"), vec![0u8; 256 << 10]).await {
            break e;
        }
        n += 1;
        assert!(n < 100, "the limit is ignored");
    };
    assert_eq!(e.code(), Some("OOM"), "{e}");

    let primary = Redis::start(RedisOptions::default()).await;
    let replica = Redis::start(RedisOptions { replica_of: Some(primary.port()), ..Default::default() }).await;
    let () = primary.connection().await.set("a", 1).await.unwrap();
    let from = replica.connection().await;
    wait_for("the replica to follow", || {
        let mut from = from.clone();
        async move { from.get::<_, Option<i32>>("a").await.is_ok_and(|v| v == Some(1)) }
    })
    .await;
}

#[tokio::test]
async fn both_servers_work_through_the_proxy() {
    let mongo = mongo().await;
    let proxy = Proxy::start(mongo.addr(0)).await;
    let client = mongodb::Client::with_uri_str(mongo.direct_uri(&proxy.addr())).await.unwrap();
    let coll = client.database(&unique("proxied")).collection::<Document>("c");
    coll.insert_many((0..100).map(|i| doc! {"_id": i, "pad": "x".repeat(1000)})).await.unwrap();
    // A cursor sees its reply cut in the middle; what comes after the cut works.
    let mut cursor = coll.find(doc! {}).batch_size(10).await.unwrap();
    proxy.cut_after_bytes(15_000);
    let mut seen = 0;
    let end = loop {
        match cursor.advance().await {
            Ok(true) => seen += 1,
            other => break other,
        }
    };
    assert!(end.is_err() && (10..30).contains(&seen), "{end:?} after {seen}");
    assert_eq!(proxy.cuts(), 1);
    wait_for("the driver to be back", || async { coll.count_documents(doc! {}).await.is_ok_and(|n| n == 100) }).await;

    let redis = redis().await;
    let proxy = Proxy::start(redis.addr()).await;
    let client = ::redis::Client::open(redis.url_at(&proxy.addr())).unwrap();
    let mut c = client.get_multiplexed_async_connection().await.unwrap();
    let key = unique("proxied");
    let () = c.set(&key, 1).await.unwrap();
    assert_eq!(proxy.connections(), 1);
    proxy.cut();
    c.get::<_, i32>(&key).await.unwrap_err();
    client.get_multiplexed_async_connection().await.unwrap_err();
    assert!(proxy.refused() >= 1);
    proxy.heal();
    let mut c = client.get_multiplexed_async_connection().await.unwrap();
    assert_eq!(c.get::<_, i32>(&key).await.unwrap(), 1);
}

#[tokio::test]
async fn a_port_that_somebody_took_first_is_told_from_other_troubles() {
    use process::{Home, Process, StartError};
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let home = Home::new();
    let mut mongod = Process::new(&home, "mongod", "Waiting for connections");
    let program = fetch::program("mongod-6.0.5".into(), "mongod").await;
    let dir = format!("--dbpath={}", mongod.dir().display());
    mongod.set_command(
        &program,
        [dir.clone(), format!("--port={port}"), "--bind_ip=127.0.0.1".into(), "--nounixsocket".into()],
    );
    assert!(matches!(mongod.start().await, Err(StartError::PortTaken)));
    mongod.set_command(&program, [dir, "--no-such-option".into()]);
    assert!(matches!(mongod.start().await, Err(StartError::Other(why)) if why.contains("no-such-option")));

    let mut redis = Process::new(&home, "redis", "Ready to accept connections");
    let program = fetch::program("redis".into(), "redis-server").await;
    redis.set_command(&program, ["--port".into(), port.to_string(), "--bind".into(), "127.0.0.1".into()]);
    assert!(matches!(redis.start().await, Err(StartError::PortTaken)));
}

const CHILD: &str = "OPLOGUE_TESTKIT_CHILD";

/// Starts itself, with servers in it, and kills that process.
#[tokio::test]
async fn a_killed_test_process_leaves_nothing_behind() {
    if std::env::var_os(CHILD).is_some() {
        let (redis, mongo) = (redis().await, mongo().await);
        let home = redis.folder().display().to_string();
        println!("\nSERVERS {} {} {home} {}", redis.pid().unwrap(), mongo.pid(0).unwrap(), mongo.folder().display());
        return std::future::pending().await;
    }
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me)
        .args(["--exact", "servers::tests::a_killed_test_process_leaves_nothing_behind", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let line = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        std::io::BufReader::new(out).lines().map_while(Result::ok).find(|l| l.starts_with("SERVERS ")).unwrap()
    })
    .await
    .unwrap();
    let words: Vec<String> = line.split(' ').skip(1).map(|w| w.to_string()).collect();
    let left = || {
        let (pids, folders) = words.split_at(2);
        let running = pids.iter().filter(|p| Path::new(&format!("/proc/{p}/exe")).read_link().is_ok()).count();
        running + folders.iter().filter(|f| Path::new(f).exists()).count()
    };
    assert_eq!(left(), 4, "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("servers and folders to go", || async { left() == 0 }).await;
}
