//! Five routes, each with a trouble of its own but one: that one is not disturbed, and the pages say which of the others are
//! down, and why.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Redis, RedisOptions},
    unique, wait_for,
};
use serde_json::Value;

use crate::process::Oplogue;

fn state(oplogue: &Oplogue, route: &str) -> Option<Value> {
    let (_, body) = oplogue.get("/api/v1/routes")?;
    let page: Value = serde_json::from_str(&body).expect("JSON");
    page["routes"].as_array().expect("routes").iter().find(|r| r["name"] == route).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_routes_each_trouble_stays_with_its_own_and_the_pages_say_which_and_why() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions { password: Some("the-secret".into()), ..Default::default() }).await;
    let dead = Proxy::start(redis.addr()).await;
    dead.cut();
    let db = unique("troubles");
    let uri = mongo.uri();
    let config = format!(
        r#"
        [sources.a]
        type = "mongo-oplog"
        uri = "{uri}"
        [sources.stream]
        type = "mongo-change-stream"
        uri = "{uri}"
        [sources.damaged]
        type = "bson-dump"
        path = "DUMP"
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.c"]
        operations = ["insert"]
        [sinks.out]
        type = "stdout"
        [sinks.null]
        type = "null"
        [sinks.dead]
        type = "redis-oplog"
        url = "{}"
        [sinks.locked]
        type = "redis-oplog"
        url = "redis://:wrong-secret@{}"
        [[routes]]
        name = "sound"
        from = ["a"]
        via = ["mine"]
        to = ["out"]
        [[routes]]
        name = "dead-redis"
        from = ["a"]
        to = ["dead"]
        [[routes]]
        name = "wrong-password"
        from = ["stream"]
        to = ["locked"]
        [[routes]]
        name = "lost"
        from = ["a"]
        to = ["null"]
        [[routes]]
        name = "bad-event"
        from = ["damaged"]
        to = ["null"]
        "#,
        redis.url_at(&dead.addr()),
        redis.addr(),
    );
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("oplog.bson");
    let mut bytes = Vec::new();
    doc! {"ts": mongodb::bson::Timestamp { time: 1_700_000_000, increment: 1 }, "op": "?", "ns": "d.c", "o": {}}
        .to_writer(&mut bytes)
        .unwrap();
    std::fs::write(&dump, bytes).unwrap();
    let mut oplogue = Oplogue::new(&config.replace("DUMP", &dump.display().to_string()));
    // A checkpoint that is older than the server: its place is not in the oplog.
    first_run(&mut oplogue);
    let checkpoint = oplogue.dir.path().join("state/lost.checkpoint.json");
    let text = std::fs::read_to_string(&checkpoint).expect("a checkpoint");
    let mut json: Value = serde_json::from_str(&text).unwrap();
    age(&mut json);
    std::fs::write(&checkpoint, json.to_string()).unwrap();

    oplogue.spawn();
    for (route, is, kind, says) in [
        ("dead-redis", "retrying", "transient", "Redis"),
        ("wrong-password", "stopped", "operator", "WRONGPASS"),
        ("lost", "stopped", "position_lost", "no longer reaches back"),
        ("bad-event", "stopped", "data", "1700000000.1"),
    ] {
        oplogue.wait(&format!("telling of {route}"), |o| state(o, route).is_some_and(|s| s["state"] == is));
        let found = state(&oplogue, route).unwrap();
        assert_eq!(found["reason"]["kind"], kind, "{found}");
        assert!(found["reason"]["message"].as_str().is_some_and(|m| m.contains(says)), "{found}");
        assert!(found["reason"]["hint"].is_string(), "{found}");
        assert_eq!(oplogue.metric(&format!("oplogue_route_up{{route=\"{route}\"}}")), Some(0.0), "{route}");
    }
    oplogue.wait("running the sound one", |o| state(o, "sound").is_some_and(|s| s["state"] == "running"));
    let (code, body) = oplogue.get("/readyz").unwrap();
    assert_eq!(code, 503);
    for route in ["dead-redis", "wrong-password", "lost", "bad-event", "sound"] {
        assert!(body.contains(route), "{body}");
    }
    assert!(!body.contains("secret") && !oplogue.log().contains("secret"), "I8: {body}");

    let coll = mongo.client().await.database(&db).collection::<Document>("c");
    for chunk in 0..10 {
        coll.insert_many((0..200).map(|n| doc! {"_id": chunk * 200 + n})).await.unwrap();
    }
    let delivered = "oplogue_events_total{outcome=\"delivered\",route=\"sound\"}";
    oplogue.wait("told of all", |o| o.events().len() == 2000);
    wait_for("the count", || async { oplogue.metric(delivered) == Some(2000.0) }).await;
    oplogue.wait("level with the server", |o| o.metric("oplogue_lag_seconds{route=\"sound\"}") == Some(0.0));
    assert_eq!(oplogue.metric("oplogue_route_up{route=\"sound\"}"), Some(1.0));

    // The one that can come back does.
    dead.heal();
    oplogue.wait("back at Redis", |o| state(o, "dead-redis").is_some_and(|s| s["state"] == "running"));
    assert!(oplogue.get("/readyz").is_some_and(|(code, _)| code == 503), "three are still down");
    assert_eq!(oplogue.terminate().code(), Some(1), "three of five have failed");
}

/// Runs until the route `lost` has a checkpoint.
fn first_run(oplogue: &mut Oplogue) {
    oplogue.spawn();
    oplogue.wait("keeping a place", |o| o.dir.path().join("state/lost.checkpoint.json").exists());
    oplogue.terminate();
}

/// Takes every cluster time in a checkpoint back to 2001.
fn age(json: &mut Value) {
    match json {
        Value::Object(map) => {
            if let Some(ts) = map.get_mut("$timestamp") {
                ts["t"] = 1_000_000_000.into();
            }
            map.values_mut().for_each(age);
        }
        Value::Array(list) => list.iter_mut().for_each(age),
        _ => {}
    }
}
