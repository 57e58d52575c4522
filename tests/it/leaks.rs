//! What lost connections leave behind: nothing.

use mongodb::{Client, bson::doc};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Mongo, MongoOptions},
    unique, wait_for,
};

use crate::{process::Oplogue, subscriber::Subscriber, support::to_redis, writer::Writer};

#[derive(Debug)]
struct Held {
    descriptors: i64,
    tasks: i64,
    cursors: i64,
    connections: i64,
}

async fn held(client: &Client, oplogue: &Oplogue) -> Held {
    let count =
        |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", oplogue.pid())).expect("/proc").count() as i64;
    let status = client.database("admin").run_command(doc! {"serverStatus": 1}).await.expect("serverStatus");
    let number = |path: &[&str]| {
        let (last, folders) = path.split_last().unwrap();
        let mut at = &status;
        for folder in folders {
            at = at.get_document(folder).unwrap();
        }
        at.get_i64(last).or_else(|_| at.get_i32(last).map(i64::from)).unwrap()
    };
    Held {
        descriptors: count("fd"),
        tasks: count("task"),
        cursors: number(&["metrics", "cursor", "open", "total"]),
        connections: number(&["connections", "current"]),
    }
}

async fn time_and_again(kind: &str) {
    // Of its own: on a shared one others have connections, too.
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = servers::redis().await;
    let (mongo_proxy, redis_proxy) = (Proxy::start(mongo.addr(0)).await, Proxy::start(redis.addr()).await);
    let db = unique("leaks");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let uri = mongo.direct_uri(&mongo_proxy.addr());
    let mut oplogue = to_redis(kind, &uri, &redis.url_at(&redis_proxy.addr()), &db, "");
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    let client = mongo.client().await;
    let mut before = None;
    let retries = "oplogue_retries_total{kind=\"transient\",place=\"source\",route=\"publish\"}";
    for round in 0..30 {
        if round == 5 {
            // By now whatever is made once has been made.
            before = Some(held(&client, &oplogue).await);
        }
        writer.write_more(3).await;
        let seen = oplogue.metric(retries).unwrap_or(0.0);
        if round % 5 == 0 {
            redis_proxy.cut_once();
        }
        // Again, should nothing have been under way.
        oplogue.wait("told of the cut", |o| {
            mongo_proxy.cut_once();
            o.metric(retries) > Some(seen)
        });
        let seen = subscriber.count();
        writer.write_more(1).await;
        oplogue.wait("on its way again", |_| subscriber.count() > seen);
    }
    let written = writer.finish().await;
    oplogue.wait("caught up", |_| subscriber.count() >= written.acknowledged.len());
    let before = before.unwrap();
    // What is left over at the server goes when it notices; nothing may stay.
    wait_for(format!("no more than {before:?}"), || async {
        let now = held(&client, &oplogue).await;
        now.descriptors <= before.descriptors + 4
            && now.tasks <= before.tasks + 4
            && now.cursors <= before.cursors + 2
            && now.connections <= before.connections + 4
    })
    .await;
    assert!(oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_leave_no_cursors_connections_or_descriptors_of_the_oplog_source() {
    time_and_again("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_leave_no_cursors_connections_or_descriptors_of_the_change_stream_source() {
    time_and_again("mongo-change-stream").await;
}
