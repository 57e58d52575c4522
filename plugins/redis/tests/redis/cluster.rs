use oplogue_api::{ErrorKind, Severity};
use oplogue_testkit::{
    servers::{self, RedisCluster},
    wait_for,
};

use crate::support::{Place, Subscriber, behind, try_sink_toml, write, write_until_done};

#[tokio::test]
async fn a_cluster_is_followed_from_any_node_and_heard_on_every_other() {
    let cluster = RedisCluster::start().await;
    let place = Place::new("");
    let owner = cluster.owner(&place.key()).await.unwrap();
    let (seed, node) = cluster.nodes().iter().enumerate().find(|(n, _)| *n != owner).unwrap();
    let place = Place { url: node.url(), ..place };
    // node-redis subscribes with plain SUBSCRIBE on the one node that it knows: here each node has a subscriber.
    let mut subscribers = Vec::new();
    for node in cluster.nodes() {
        subscribers.push(Subscriber::of(&place, node.client()).await);
    }
    let sink = place.sink();
    sink.open().await.unwrap();
    write(&sink, &place.inserts(0..10), 9).await;
    for subscriber in &subscribers {
        wait_for("the message on every node", || async { subscriber.on(&place.ns("tasks")).await.len() >= 10 }).await;
        assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..10));
    }
    let found = sink.check().await;
    assert!(found.iter().all(|f| f.severity != Severity::Error), "{found:?}");
    assert!(found.iter().any(|f| f.what.contains("Redis Cluster of 6 nodes")), "{found:?}");

    // The node that the options name is gone; so is then the one that keeps the key.
    cluster.nodes()[seed].kill().await;
    sink.open().await.unwrap();
    write_until_done(&sink, &place.inserts(10..20), 19).await;
    cluster.nodes()[seed].start_again().await;
    cluster.settle().await;
    let watching = (0..6).find(|n| *n != owner && *n != seed).unwrap();
    cluster.nodes()[owner].kill().await;
    let (tries, _) = write_until_done(&sink, &place.inserts(20..30), 29).await;
    assert!(tries > 1);
    // Some nodes hear of the failover later than the sink, which has asked the new owner.
    wait_for("all nodes to name the new owner", || async {
        cluster.owner(&place.key()).await.is_some_and(|new| new != owner)
    })
    .await;
    let new = cluster.owner(&place.key()).await.unwrap();
    let heard = &subscribers[watching];
    wait_for("the messages", || async { heard.on(&place.ns("tasks")).await.len() >= 30 }).await;
    assert_eq!(heard.on(&place.ns("tasks")).await, place.heard(0..30));

    // The old one comes back: it asks the others who it is before it answers for a key.
    cluster.nodes()[owner].start_again().await;
    write_until_done(&sink, &place.inserts(30..40), 39).await;
    cluster.settle().await;
    assert_eq!(cluster.owner(&place.key()).await, Some(new));
    write_until_done(&sink, &place.inserts(40..50), 49).await;
    wait_for("the messages", || async { heard.on(&place.ns("tasks")).await.len() >= 50 }).await;
    assert_eq!(heard.on(&place.ns("tasks")).await, place.heard(0..50));
}

#[tokio::test]
async fn a_slot_that_is_being_moved_is_followed() {
    let cluster = RedisCluster::start().await;
    let place = Place::new("");
    let nodes = cluster.nodes();
    let owner = cluster.owner(&place.key()).await.unwrap();
    let target = (0..3).find(|n| *n != owner).unwrap();
    let slot: u16 = nodes[0].ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(place.key())).await.unwrap();
    let id = async |n: usize| nodes[n].ask::<String>(redis::cmd("CLUSTER").arg("MYID")).await.unwrap();
    let (from, to) = (id(owner).await, id(target).await);
    let setslot = async |n: usize, what: &str, id: &str| {
        let mut cmd = redis::cmd("CLUSTER");
        let _: () = nodes[n].ask(cmd.arg("SETSLOT").arg(slot).arg(what).arg(id)).await.unwrap();
    };
    let sink = place.sink_toml(&format!(
        "endpoint = {{ type = \"cluster\", nodes = [\"127.0.0.1:1\", \"{}\"] }}",
        nodes[target].addr()
    ));
    // The key is not there yet: the owner sends to the target with ASK.
    setslot(target, "IMPORTING", &from).await;
    setslot(owner, "MIGRATING", &to).await;
    write(&sink, &place.inserts(0..3), 2).await;
    for n in 0..3 {
        setslot(n, "NODE", &to).await;
    }
    write_until_done(&sink, &place.inserts(3..6), 5).await;
    let fields: Vec<Option<String>> =
        nodes[target].ask(redis::cmd("HMGET").arg(place.key()).arg("format").arg("time")).await.unwrap();
    assert!(fields.iter().all(Option::is_some));
    assert_eq!(sink.write(&place.inserts(0..6), Some(&behind(5))).await.unwrap().duplicates, 6);
}

#[tokio::test]
async fn what_needs_keys_or_subscribers_of_one_node_is_refused() {
    let cluster = RedisCluster::start().await;
    let place = Place::new(cluster.nodes()[0].url());
    for option in ["dedupe = \"keys\"", "resync = [\"drop\"]"] {
        let sink = place.sink_toml(&format!("url = \"{}\"\n{option}", place.url));
        let error = sink.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
        assert!(error.message().contains("Cluster") && error.get_hint().is_some(), "{error}");
        let found = sink.check().await;
        assert!(found.iter().any(|f| f.severity == Severity::Error && f.what.contains("Cluster")), "{found:?}");
    }
}

#[tokio::test]
async fn what_is_no_cluster_is_told() {
    let redis = servers::redis().await;
    let text = format!("endpoint = {{ type = \"cluster\", nodes = [\"{}\"] }}", redis.addr());
    let error = try_sink_toml("r", &text).unwrap().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
    assert!(error.message().contains("not in cluster mode") && error.get_hint().is_some(), "{error}");
}
