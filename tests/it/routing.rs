//! Routes that choose their events: groups, from a real MongoDB to their sinks, and what the commands show of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use mongodb::bson::{Bson, Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use oplogue::api::{Event, Namespace, Op};
use oplogue_testkit::{servers, unique};

use crate::{
    cli::run,
    process::Oplogue,
    support::{Chance, source},
};

/// The documents of a file of the sink `file`, but for one that is still being written.
fn written(path: &Path) -> Vec<Document> {
    let bytes = fs::read(path).unwrap_or_default();
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        match Document::from_reader(&mut rest) {
            Ok(document) => all.push(document),
            Err(_) => break,
        }
    }
    all
}

/// What identifies an event: the same in each file, and when it comes again.
fn id(event: &Document) -> (Timestamp, i64) {
    let index = event.get("index").map_or(0, |n| n.as_i64().or(n.as_i32().map(i64::from)).unwrap());
    (event.get_timestamp("time").unwrap(), index)
}

/// Three routes at paces of their own, killed again and again: every event is in exactly one of their files, and in the right one.
async fn every_event_has_one_route(kind: &str) {
    let mongo = servers::mongo().await;
    let db = unique("routing");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let route = |name: &str, says: &str| {
        format!(
            "[sinks.{name}]\ntype = \"file\"\npath = {:?}\n[[routes]]\nname = \"{name}\"\ngroup = \"g\"\nfrom = [\"a\"]\n\
             via = [\"mine\"]\nto = [\"{name}\"]\n{says}\n",
            file(name)
        )
    };
    let mut oplogue = Oplogue::new(&format!(
        "{}[transforms.mine]\ntype = \"filter\"\nnamespaces = [\"{db}.*\"]\n{}{}{}",
        source(kind, &mongo.uri()),
        route("rest", "default = true"),
        route(
            "large",
            "when = { namespaces = [\"*.a\", \"*.b\"], after = { n = { \"$gte\" = 50 } }, missing = \"drop\" }"
        ),
        route("third", "lanes = 1\nmax_in_flight = \"64KiB\"\nwhen = { key = { _id = { \"$mod\" = [3, 0] } } }"),
    ));
    oplogue.start();
    let database = mongo.client().await.database(&db);
    let mut chance = Chance::new();
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    let mut route_of = |op: &str, coll: &str, id: i64, n: Option<i64>| {
        let name = if coll != "c" && n.is_some_and(|n| n >= 50) {
            "large"
        } else if id % 3 == 0 {
            "third"
        } else {
            "rest"
        };
        *expected.entry(name).or_default() += 1;
        (op.to_owned(), format!("{db}.{coll}"), id, name)
    };
    let mut all = Vec::new();
    for round in 0..4 {
        for id in round * 40..(round + 1) * 40 {
            let coll = ["a", "b", "c"][chance.below(3) as usize];
            let c = database.collection::<Document>(coll);
            let n = chance.below(100) as i64;
            c.insert_one(doc! {"_id": id, "n": n}).await.unwrap();
            all.push(route_of("insert", coll, id, Some(n)));
            c.update_one(doc! {"_id": id}, doc! {"$set": {"n": n + 100}}).await.unwrap();
            all.push(route_of("update", coll, id, None));
            if chance.below(2) == 0 {
                c.replace_one(doc! {"_id": id}, doc! {"n": 99 - n}).await.unwrap();
                all.push(route_of("replace", coll, id, Some(99 - n)));
            }
            if chance.below(3) == 0 {
                c.delete_one(doc! {"_id": id}).await.unwrap();
                all.push(route_of("delete", coll, id, None));
            }
            if chance.below(12) == 0 {
                oplogue.kill();
                oplogue.start();
            }
        }
    }
    let names = ["large", "third", "rest"];
    let documents = |name: &str| -> BTreeSet<(Timestamp, i64)> {
        let of_documents = |event: &Document| event.contains_key("key");
        written(&file(name)).iter().filter(|event| of_documents(event)).map(id).collect()
    };
    oplogue.wait("all events", |_| names.iter().map(|name| documents(name).len()).sum::<usize>() >= all.len());
    assert!(oplogue.terminate().success());
    for name in names {
        assert_eq!(documents(name).len() as u64, expected[name], "{kind}, {name}, seed {}", chance.seed());
        for event in written(&file(name)).iter().filter(|event| event.contains_key("key")) {
            let key = match event.get_document("key").unwrap().get("_id") {
                Some(Bson::Int64(n)) => *n,
                other => panic!("{other:?}"),
            };
            let told = (event.get_str("op").unwrap().to_owned(), event.get_str("ns").unwrap().to_owned(), key, name);
            assert!(all.contains(&told), "{kind}: {told:?}, seed {}", chance.seed());
        }
    }
    // Collections were made: the default hears of it, and all whose `when` lets it pass.
    let made = |name: &str| written(&file(name)).iter().filter(|e| e.get_str("op").unwrap() == "create").count();
    if kind == "mongo-oplog" {
        assert!(made("rest") >= 3 && made("third") >= 3 && made("large") >= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_the_oplog_has_one_route() {
    every_event_has_one_route("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_change_stream_has_one_route() {
    every_event_has_one_route("mongo-change-stream").await;
}

/// The blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(path).unwrap();
    let mark = format!("```{language}\n");
    text.split(&mark).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The configuration of the documentation, its cases, and what `check` prints of it.
#[tokio::test]
async fn the_example_of_the_documentation_holds() {
    let toml = blocks("routing.md", "toml");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("oplogue.toml");
    fs::write(&config, &toml[0]).unwrap();
    fs::write(dir.path().join("oplogue.test.toml"), &toml[1]).unwrap();
    let done = run(&["test", config.to_str().unwrap()]).await.expect(0);
    assert_eq!(done.stdout, "✓ large orders go their own way\n1 of 1 cases hold\n");
    let done = run(&["check", config.to_str().unwrap()]).await.expect(0);
    let shown = done.stdout.replace(config.to_str().unwrap(), "oplogue.toml");
    assert_eq!(shown, blocks("routing.md", "text")[0]);
}

fn update(n: i32) -> Event {
    let time = Timestamp { time: 1_764_000_000, increment: n as u32 };
    let mut event = Event::new(Op::Update, Namespace::new("app.orders"), time, rawdoc! {}.into());
    event.key = Some(rawdoc! {"_id": n}.into());
    event.change = Some(oplogue::api::Change::OplogV2(rawdoc! {"u": {"secret": "x", "status": "paid"}}.into()));
    event
}

fn letter(event: &Event, route: &str) -> RawDocumentBuf {
    let letter = rawdoc! {
        "route": route, "error": "x", "ns": event.ns.as_str(), "time": event.time, "by": "(when)",
        "event": event.to_document(),
    };
    Event::new(Op::DeadLetter, event.ns.clone(), event.time, letter.into()).to_document()
}

const REPLAYED: &str = r#"
[sources.a]
type = "mongo-oplog"
uri = "mongodb://nowhere.invalid"
[transforms.safe]
type = "redact"
fields = ["secret"]
[sinks.x]
type = "null"
[sinks.y]
type = "null"
[[routes]]
name = "paid"
group = "g"
when = { after = { status = "paid" }, missing = "MISSING" }
from = ["a"]
to = ["x"]
[[routes]]
name = "rest"
group = "g"
default = true
from = ["a"]
via = ["safe"]
to = ["y"]
"#;

/// A capture shows where its events would go. A letter of a `when` is asked about again, and what is replayed through another route
/// passes all of its chain.
#[tokio::test]
async fn replay_shows_where_events_go() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("oplogue.toml");
    let events = dir.path().join("events.bson");
    let replay = async |missing: &str, all: &[RawDocumentBuf], more: &[&str]| {
        fs::write(&config, REPLAYED.replace("MISSING", missing)).unwrap();
        fs::write(&events, all.iter().flat_map(|e| e.as_bytes().to_vec()).collect::<Vec<u8>>()).unwrap();
        let start = ["replay", config.to_str().unwrap(), events.to_str().unwrap(), "--dry-run"];
        run(&[&start, more].concat()).await
    };
    let mut known = update(1);
    known.after = Some(rawdoc! {"_id": 1, "status": "paid"}.into());
    let captured = [known.to_document(), update(2).to_document()];
    let done = replay("drop", &captured, &[]).await.expect(0);
    let told: Vec<(String, i64)> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|e| (e["source"].as_str().unwrap().to_owned(), e["key"]["_id"].as_i64().unwrap()))
        .collect();
    assert_eq!(told, [("paid".to_owned(), 1), ("rest".to_owned(), 2)]);

    let letters = [letter(&update(2), "paid")];
    let done = replay("error", &letters, &[]).await.expect(1);
    assert!(done.stderr.contains("1 refused"), "{}", done.stderr);
    let done = replay("keep", &letters, &[]).await.expect(0);
    assert!(done.stderr.contains("paid: 1 read, 1 would be delivered"), "{}", done.stderr);
    // Mended so that it belongs to another route.
    let done = replay("drop", &letters, &[]).await.expect(0);
    assert!(done.stderr.contains("paid: 1 read, 0 would be delivered, 1 filtered"), "{}", done.stderr);
    let done = replay("drop", &letters, &["--route", "rest"]).await.expect(0);
    assert!(done.stdout.contains("status") && !done.stdout.contains("secret"), "{}", done.stdout);
}

/// With the servers: how far the routes of a group stand apart.
#[tokio::test(flavor = "multi_thread")]
async fn check_tells_where_the_routes_of_a_group_stand() {
    let mongo = servers::mongo().await;
    let db = unique("routing");
    let route = |name: &str, says: &str| {
        format!(
            "[sinks.{name}]\ntype = \"null\"\n[[routes]]\nname = \"{name}\"\ngroup = \"g\"\nfrom = [\"a\"]\nto = [\"{name}\"]\n{says}\n"
        )
    };
    let mut oplogue = Oplogue::new(&format!(
        "{}{}{}",
        source("mongo-oplog", &mongo.uri()),
        route("one", &format!("when = {{ namespaces = [\"{db}.*\"] }}")),
        route("two", "default = true")
    ));
    let config = oplogue.config();
    let config = config.to_str().unwrap();
    let check = async || run(&["check", config, "--connect"]).await.expect(0).stdout;
    let group = |stdout: String| stdout.split("group g\n").nth(1).unwrap().to_owned();
    assert!(group(check().await).contains("✓ no route has begun"));
    oplogue.start();
    oplogue.wait("a checkpoint", |o| o.checkpoint().is_some());
    assert!(oplogue.terminate().success());
    assert!(group(check().await).contains("✓ all routes stand within"));
    run(&["position", "reset", config, "two", "--yes"]).await.expect(0);
    let told = group(check().await);
    assert!(told.contains("! two has no checkpoint, and one has one"), "{told}");
}
