//! The metrics of the original, in the text that a running process gives.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions, Redis, RedisOptions},
    unique,
};

use super::DropIn;
use crate::subscriber::Subscriber;

/// Name, type and labels as oplogtoredis has them.
const METRICS: &[(&str, &str, &[&str])] = &[
    ("otr_buffer_available", "gauge", &["clientIndex", "ordinal"]),
    ("otr_denylist_filter_enabled", "gauge", &["db"]),
    ("otr_oplog_entries_by_size", "histogram", &["database", "status"]),
    ("otr_oplog_entries_filtered", "counter", &["database"]),
    ("otr_oplog_entries_max_size", "gauge", &["database", "status"]),
    ("otr_oplog_entries_received", "counter", &["database", "status"]),
    ("otr_oplog_entries_received_size", "counter", &["database"]),
    ("otr_oplog_last_received_staleness", "gauge", &["ordinal"]),
    ("otr_oplog_resume_gap_seconds", "histogram", &["status"]),
    ("otr_oplog_tail_failed_to_start", "counter", &["reason"]),
    ("otr_oplog_unprocessable_changed_fields", "counter", &[]),
    ("otr_redispub_entry_staleness_seconds", "histogram", &["ordinal", "status"]),
    ("otr_redispub_last_entry_staleness_seconds", "gauge", &["ordinal", "status"]),
    ("otr_redispub_oldest_message_age", "gauge", &["clientIndex", "ordinal"]),
    ("otr_redispub_pre_retry_staleness", "gauge", &["ordinal"]),
    ("otr_redispub_processed_messages", "counter", &["status"]),
    ("otr_redispub_redis_batch_size", "histogram", &["ordinal", "status"]),
    ("otr_redispub_redis_command_duration_seconds", "histogram", &["ordinal"]),
    ("otr_redispub_temporary_send_failures", "counter", &[]),
];

const BUCKETS: &[(&str, &[&str])] = &[
    ("otr_oplog_resume_gap_seconds", &["1", "2.5", "5", "10", "25", "50", "100", "250", "500", "1000", "+Inf"]),
    ("otr_redispub_redis_batch_size", &["1", "2", "5", "10", "18", "25", "50", "100", "+Inf"]),
    (
        "otr_redispub_redis_command_duration_seconds",
        &["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "+Inf"],
    ),
    (
        "otr_redispub_entry_staleness_seconds",
        &["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "3", "5", "7", "10", "20", "50", "100", "+Inf"],
    ),
];

/// The labels of a series: `name{a="x",b="y"} 1`.
fn labels(series: &str) -> BTreeMap<String, String> {
    let Some((_, rest)) = series.split_once('{') else { return BTreeMap::new() };
    let inner = rest.rsplit_once('}').expect("a closing brace").0;
    inner
        .split("\",")
        .map(|label| label.trim_end_matches('"').split_once("=\"").expect("a label"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_types_labels_and_buckets_are_those_of_the_original() {
    let mongo = servers::mongo().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let other = Redis::start(RedisOptions::default()).await;
    let (db, denied) = (unique("metrics"), unique("denied"));
    let subscriber = Subscriber::start(&redis.url(), &format!("{db}.c")).await;
    let urls = format!("{},{}", redis.url(), other.url());
    let mut dropin = DropIn::new(&mongo.uri(), &urls, "m::", &[("OPLOGUE_DENYLIST_SEED", &denied)]);
    dropin.start();
    // From the start, for whoever computes a rate.
    for status in ["sent", "failed"] {
        assert!(dropin.metric(&format!("otr_redispub_processed_messages{{status=\"{status}\"}}")).is_some());
    }
    let client = mongo.client().await;
    client.database(&denied).collection("c").insert_one(doc! {"_id": "x"}).await.unwrap();
    let coll = client.database(&db).collection::<Document>("c");
    for id in ["a", "b"] {
        coll.insert_one(doc! {"_id": id}).await.unwrap();
    }
    // One entry, two writes, the first of them in this database.
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    coll.insert_one(doc! {"_id": "t"}).session(&mut session).await.unwrap();
    client.database(&db).collection("other").insert_one(doc! {"_id": "t"}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    dropin.wait("done", |_| subscriber.count() == 3);

    let received = format!("otr_oplog_entries_received{{database=\"{db}\",status=\"processed\"}}");
    assert_eq!(dropin.metric(&received), Some(3.0), "entries, once whatever the number of destinations");
    assert_eq!(dropin.metric(&format!("otr_oplog_entries_filtered{{database=\"{denied}\"}}")), Some(1.0));
    let (code, text) = dropin.http("GET", "/metrics");
    assert_eq!(code, 200);
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let found: BTreeSet<&str> = types.keys().copied().filter(|name| name.starts_with("otr_")).collect();
    assert_eq!(found, METRICS.iter().map(|(name, ..)| *name).collect());
    for (name, kind, wanted) in METRICS {
        assert_eq!(types[name], *kind, "{name}");
        let of = |line: &&str| {
            let series = line.split(['{', ' ']).next().unwrap();
            let suffixes: &[&str] = if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            suffixes.iter().any(|suffix| series.strip_suffix(suffix) == Some(name))
        };
        let all: Vec<&str> = text.lines().filter(of).collect();
        assert!(!all.is_empty(), "{name}");
        for line in all {
            let mut names: BTreeSet<String> = labels(line).into_keys().collect();
            names.remove("le");
            assert_eq!(names, wanted.iter().map(|l| (*l).to_owned()).collect(), "{line}");
        }
    }
    for (name, wanted) in BUCKETS {
        let all = text.lines().filter(|line| line.starts_with(&format!("{name}_bucket")));
        let found: BTreeSet<String> = all.map(|line| labels(line).remove("le").unwrap()).collect();
        assert_eq!(found, wanted.iter().map(|b| (*b).to_owned()).collect(), "{name}");
    }
    let sizes = text.lines().filter(|line| line.starts_with("otr_oplog_entries_by_size_bucket") && line.contains(&db));
    let sizes: Vec<String> =
        sizes.filter(|l| l.contains("processed")).map(|line| labels(line).remove("le").unwrap()).collect();
    assert_eq!((sizes.len(), &sizes[0][..], &sizes[1][..], &sizes[29][..]), (31, "0", "8", "2147483648"), "{sizes:?}");
    // Our own are there too.
    assert!(types.contains_key("oplogue_events_total") && types.contains_key("process_resident_memory_bytes"));
}

/// What the fault-injection suite of the original reads.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_a_restart_are_counted_as_the_original_does() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = Redis::start(RedisOptions { appendonly: true, ..RedisOptions::default() }).await;
    let coll = mongo.client().await.database("testdb").collection::<Document>("Test");
    let insert = async |n: i32| coll.insert_one(doc! {"_id": format!("id{n}")}).await.map(drop).expect("an insert");
    let sent = "otr_redispub_processed_messages{status=\"sent\"}";
    let temporary = "otr_redispub_temporary_send_failures";
    let received = "otr_oplog_entries_received{database=\"testdb\",status=\"processed\"}";
    let mut dropin = DropIn::new(&mongo.uri(), &redis.url(), "o::", &[]);
    dropin.start();
    assert_eq!(dropin.metric(temporary), Some(0.0));
    insert(0).await;
    dropin.wait("sent", |o| o.metric(sent) == Some(1.0));
    redis.stop().await;
    for n in 1..30 {
        insert(n).await;
    }
    dropin.wait("failing", |o| o.metric(temporary) > Some(0.0) && o.metric(received) == Some(30.0));
    redis.start_again().await;
    dropin.wait("sent", |o| o.metric(sent) >= Some(30.0));
    assert_eq!(dropin.metric(sent), Some(30.0));
    assert_eq!(dropin.metric("otr_redispub_processed_messages{status=\"failed\"}"), Some(0.0));
    assert!(dropin.terminate().0.success());

    for n in 30..40 {
        insert(n).await;
    }
    dropin.start();
    dropin.wait("sent", |o| o.metric(sent) >= Some(10.0));
    assert_eq!((dropin.metric(sent), dropin.metric(received)), (Some(10.0), Some(10.0)));
    assert_eq!(dropin.metric("otr_oplog_resume_gap_seconds_count{status=\"success\"}"), Some(1.0));
    assert_eq!(dropin.metric("otr_oplog_resume_gap_seconds_count{status=\"failed\"}"), Some(0.0));
}
