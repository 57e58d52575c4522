//! `/denylist`.

use std::collections::BTreeSet;

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{self, Redis, RedisOptions},
    unique,
};

use super::{DropIn, ids};
use crate::subscriber::Subscriber;

fn listed(dropin: &DropIn) -> BTreeSet<String> {
    let (code, body, head) = dropin.ask("GET", "/denylist").unwrap();
    assert!(code == 200 && head.contains("content-type: application/json") && body.ends_with('\n'), "{head}\n{body}");
    serde_json::from_str(&body).unwrap()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_the_original_have_its_answers() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let prefix = format!("{}::", unique("denylist"));
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), &prefix, &[("OPLOGUE_DENYLIST_SEED", "")]);
    dropin.start();
    let o = &dropin;
    let answer = |method: &str, path: &str| o.http(method, path);
    let nothing = String::new();
    assert_eq!(answer("GET", "/denylist"), (200, "[]\n".into()));
    assert_eq!(answer("PUT", "/denylist/abc"), (201, nothing.clone()));
    assert_eq!(answer("PUT", "/denylist/abc"), (204, nothing.clone()));
    assert_eq!(answer("GET", "/denylist"), (200, "[\"abc\"]\n".into()));
    assert_eq!(answer("GET", "/denylist/abc"), (200, "\"abc\"\n".into()));
    assert_eq!(answer("PUT", "/denylist/def").0, 201);
    assert_eq!(answer("GET", "/denylist/def"), (200, "\"def\"\n".into()));
    assert_eq!(listed(o), set(&["abc", "def"]));
    assert_eq!(answer("DELETE", "/denylist/abc"), (204, nothing.clone()));
    assert_eq!(answer("DELETE", "/denylist/abc"), (204, nothing));
    assert_eq!(answer("GET", "/denylist/abc"), (404, "denylist entry not found with that id\n".into()));
    assert_eq!(listed(o), set(&["def"]));
    // A name in the encoding of URLs; a path with more parts is no name; the empty name is one.
    assert_eq!(answer("PUT", "/denylist/a%20b").0, 201);
    assert_eq!(answer("GET", "/denylist/a%20b"), (200, "\"a b\"\n".into()));
    for path in ["/denylist/x/y", "/denylist/x%2Fy"] {
        assert_eq!(answer("PUT", path).0, 404, "{path}");
    }
    assert_eq!(answer("PUT", "/denylist/%zz").0, 400);
    assert_eq!(answer("PUT", "/denylist/").0, 201);
    assert_eq!(answer("GET", "/denylist/"), (200, "\"\"\n".into()));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(answer(method, "/denylist").0, 404, "{method}");
    }
    assert_eq!(answer("POST", "/denylist/abc").0, 404);
    assert_eq!(listed(o), set(&["", "a b", "def"]));
    assert_eq!(o.metric("otr_denylist_filter_enabled{db=\"def\"}"), Some(1.0));
    assert_eq!(o.metric("otr_denylist_filter_enabled{db=\"abc\"}"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_denied_database_are_dropped_while_it_is_denied() {
    let mongo = servers::mongo().await;
    let redis = servers::redis().await;
    let db = unique("denied");
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.Foo")).await;
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), &format!("{db}::"), &[]);
    dropin.start();
    let coll = mongo.client().await.database(&db).collection::<Document>("Foo");
    let insert = async |id: &str| coll.insert_one(doc! {"_id": id}).await.map(drop).expect("an insert");
    insert("id1").await;
    dropin.wait("told of id1", |_| subscriber.count() == 1);
    assert_eq!(dropin.http("PUT", &format!("/denylist/{db}")).0, 201);
    insert("id2").await;
    let filtered = format!("otr_oplog_entries_filtered{{database=\"{db}\"}}");
    dropin.wait("past id2", |o| o.metric(&filtered) == Some(1.0));
    assert!(dropin.metric("oplogue_events_total{outcome=\"filtered\",route=\"redis\"}").unwrap() >= 1.0);
    assert_eq!(dropin.http("DELETE", &format!("/denylist/{db}")).0, 204);
    insert("id3").await;
    dropin.wait("told of id3", |_| subscriber.count() >= 2);
    assert_eq!(ids(&subscriber.messages()), ["id1", "id3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_outlives_a_kill_reaches_others_and_costs_no_key_while_it_is_the_default() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions { appendonly: true, ..RedisOptions::default() }).await;
    let mut connection = redis.connection().await;
    let db = unique("kept");
    let denying = |seeds: &str| DropIn::new(&mongo.uri(), &redis.url(), "d::", &[("OPLOGUE_DENYLIST_SEED", seeds)]);
    let (mut one, mut two) = (denying("admin"), denying("admin"));
    one.start();
    two.start();
    assert_eq!(listed(&one), set(&["admin"]));
    let key = "d::checkpoint::(denylist)";
    let exists = async |connection: &mut redis::aio::MultiplexedConnection| -> bool {
        redis::cmd("EXISTS").arg(key).query_async(connection).await.unwrap()
    };
    mongo.client().await.database(&db).collection("c").insert_one(doc! {"_id": "x"}).await.unwrap();
    let received = format!("otr_oplog_entries_received{{database=\"{db}\",status=\"processed\"}}");
    one.wait("past the insert", |o| o.metric(&received) == Some(1.0));
    assert!(!exists(&mut connection).await);
    for name in ["abc", "def"] {
        assert_eq!(one.http("PUT", &format!("/denylist/{name}")).0, 201);
    }
    assert!(exists(&mut connection).await);
    two.wait("told by the other", |o| listed(o) == set(&["abc", "admin", "def"]));
    assert_eq!(two.http("DELETE", "/denylist/admin").0, 204);
    one.wait("told by the other", |o| listed(o) == set(&["abc", "def"]));
    one.kill();
    two.kill();
    one.start();
    assert_eq!(listed(&one), set(&["abc", "admin", "def"]), "what the configuration says is there again");
    assert_eq!(one.http("DELETE", "/denylist/abc").0, 204);
    assert_eq!(listed(&one), set(&["admin", "def"]));

    // What cannot be kept holds, is owned up to, and is kept when that is possible.
    redis.stop().await;
    assert_eq!(one.http("PUT", "/denylist/ghi").0, 500);
    assert_eq!(listed(&one), set(&["admin", "def", "ghi"]));
    redis.start_again().await;
    let mut third = denying("");
    third.start();
    third.wait("told by the first", |o| listed(o).contains("ghi"));
    assert_eq!(listed(&third), set(&["admin", "def", "ghi"]));
}
