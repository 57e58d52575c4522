//! What the filters let through is the same whether the server evaluates a part of them or nothing: random filters over random writes,
//! from both sources, on every version.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use mongodb::{
    Client, ClientSession,
    bson::{Bson, Document, Timestamp, doc},
};
use oplogue::api::{
    BadEvent, Change, Context, Doc, Event, Interest, Options, Position, Selection, Source, StartAt, Transform,
};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};

use crate::support::Chance;

const LIMIT: Duration = Duration::from_secs(120);
const FILTERS: u64 = 14;
const WRITES: usize = 250;

fn source(kind: &str, uri: &str, more: &str) -> Box<dyn Source> {
    let registry = oplogue::builtin::registry();
    let options = Options::new(format!("uri = {uri:?}\nawait = \"50ms\"\n{more}").parse().expect("TOML"));
    (registry.sources[kind].build)(&Context::default(), &options).expect("a source")
}

fn filter(text: &str) -> Box<dyn Transform> {
    let registry = oplogue::builtin::registry();
    let options = Options::new(text.parse().unwrap_or_else(|e| panic!("{text}: {e}")));
    (registry.transforms["filter"].build)(&Context::default(), &options).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// What a chain lets through, as text, with its time.
#[derive(Default)]
struct Read {
    events: Vec<(Timestamp, String)>,
    bad: Vec<(Timestamp, String)>,
    /// How many events the source gave.
    given: usize,
    ends: Vec<Position>,
}

fn text(event: &Event) -> String {
    let doc = |doc: &Option<Doc>| doc.as_ref().map(|doc| Document::try_from(&**doc).expect("BSON").to_string());
    let change = event.change.as_ref().map(|change| match change {
        Change::ChangeStream(doc) | Change::OplogV1(doc) | Change::OplogV2(doc) => doc.bytes().clone(),
    });
    let (key, after, before) = (doc(&event.key), doc(&event.after), doc(&event.before));
    let txn = event.txn.as_ref().map(|txn| txn.number);
    format!("{} {} {} {key:?} {after:?} {before:?} {change:?} {txn:?}", event.id(), event.op.name(), event.ns)
}

fn bad_text(bad: &BadEvent) -> String {
    format!("{:?} {}", bad.ns, bad.error)
}

/// Reads up to `until` through the chain.
async fn read(source: &mut Box<dyn Source>, from: &Position, chain: &[&str], until: Timestamp) -> Read {
    let mut filters: Vec<_> = chain.iter().map(|text| filter(text)).collect();
    let mut interest = Interest::default();
    for filter in &filters {
        let selection: Selection = filter.selection().expect("a filter selects");
        let refuses = selection.refuses;
        interest.selections.push(selection);
        if refuses {
            break;
        }
    }
    source.open(StartAt::Position(from), &interest).await.expect("the source opens");
    let mut read = Read::default();
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < LIMIT, "the position stands still: {chain:?}");
        let mut batch = source.next().await.expect("a batch").expect("no end");
        read.given += batch.events.iter().filter(|event| event.time <= until).count();
        filters.iter_mut().for_each(|filter| filter.apply(&mut batch).expect("applied"));
        read.events.extend(batch.events.iter().map(|event| (event.time, text(event))));
        read.bad.extend(batch.bad.iter().map(|bad| (bad.time, bad_text(bad))));
        let done = batch.end.time >= until;
        read.ends.push(batch.end);
        if done {
            break;
        }
    }
    source.close().await;
    read.events.retain(|(time, _)| *time <= until);
    read.bad.retain(|(time, _)| *time <= until);
    read
}

/// A value for a field, of few that differ much.
fn value(chance: &mut Chance) -> Bson {
    let n = chance.below(8) as i32;
    match chance.below(9) {
        0 => Bson::Null,
        1 => Bson::Int64(n.into()),
        2 => Bson::Double(f64::from(n) + 0.5),
        3 => Bson::Double(f64::NAN),
        4 => Bson::String(["a", "b", "ab", ""][n as usize % 4].to_owned()),
        5 => doc! {"e": n}.into(),
        6 => vec![Bson::Int32(n), Bson::String("a".into()), Bson::Null].into(),
        7 => Bson::Boolean(n % 2 == 0),
        _ => Bson::Int32(n),
    }
}

fn document(chance: &mut Chance) -> Document {
    let mut document = Document::new();
    for name in ["n", "s", "d", "tags"] {
        if chance.below(4) > 0 {
            document.insert(name, value(chance));
        }
    }
    if chance.below(2) == 0 {
        document.insert("lines", vec![doc! {"q": value(chance)}, doc! {"q": value(chance)}]);
    }
    document
}

/// The condition of a query on one field, in TOML.
fn condition(chance: &mut Chance) -> String {
    let n = chance.below(8);
    let conditions = [
        format!("{n}"),
        "\"a\"".to_owned(),
        format!("{{ \"$gt\" = {n} }}"),
        format!("{{ \"$gte\" = {n}, \"$lt\" = {}.5 }}", n + 2),
        format!("{{ \"$in\" = [{n}, \"b\", true] }}"),
        format!("{{ \"$nin\" = [{n}, \"a\"] }}"),
        format!("{{ \"$ne\" = {n} }}"),
        "{ \"$exists\" = false }".to_owned(),
        format!("{{ \"$not\" = {{ \"$lte\" = {n} }} }}"),
        "{ \"$size\" = 2 }".to_owned(),
        "{ \"$regex\" = \"^a\" }".to_owned(),
        "{ \"$type\" = \"string\" }".to_owned(),
        "{ \"$lt\" = \"b\" }".to_owned(),
        format!("{{ e = {n} }}"),
    ];
    conditions[chance.below(conditions.len() as u64) as usize].clone()
}

fn query(chance: &mut Chance, names: &[&str], depth: u32) -> String {
    let name = |chance: &mut Chance| names[chance.below(names.len() as u64) as usize].to_owned();
    if depth > 0 && chance.below(3) == 0 {
        let operator = ["$and", "$or", "$nor"][chance.below(3) as usize];
        let (a, b) = (query(chance, names, depth - 1), query(chance, names, depth - 1));
        return format!("{{ \"{operator}\" = [{a}, {b}] }}");
    }
    let (first, second) = (name(chance), name(chance));
    let one = format!("\"{first}\" = {}", condition(chance));
    if first != second && chance.below(2) == 0 {
        return format!("{{ {one}, \"{second}\" = {} }}", condition(chance));
    }
    format!("{{ {one} }}")
}

fn some<'a>(chance: &mut Chance, all: &[&'a str], most: u64) -> Vec<&'a str> {
    (0..=chance.below(most)).map(|_| all[chance.below(all.len() as u64) as usize]).collect()
}

/// A random filter, as TOML.
fn random_filter(chance: &mut Chance, db: &str) -> String {
    let mut out = String::new();
    let patterns = [
        format!("{db}a.*"),
        format!("{db}a.orders"),
        format!("{db}?.orders"),
        "*.log_?".to_owned(),
        format!("!{db}a.log*"),
        format!("/{db}[ab]\\.o.*/"),
        "!*.log_1".to_owned(),
        format!("{db}*s"),
        format!("!{db}b.*"),
        "!/.*x/".to_owned(),
    ];
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    if chance.below(4) > 0 {
        let _ = writeln!(out, "namespaces = {:?}", some(chance, &patterns, 3));
    } else {
        let _ = writeln!(out, "namespaces = [\"{db}?.*\"]");
    }
    if chance.below(5) < 2 {
        let operations = some(chance, &["insert", "update", "replace", "delete", "ddl", "create", "drop"], 4);
        let _ = writeln!(out, "operations = {operations:?}");
    }
    let mut asks = false;
    let fields = ["n", "s", "d", "d.e", "tags", "tags.0", "lines.q", "x"];
    if chance.below(2) == 0 {
        asks = true;
        let _ = writeln!(out, "after = {}", query(chance, &fields, 2));
    }
    if chance.below(4) == 0 {
        asks = true;
        let _ = writeln!(out, "key = {}", query(chance, &["_id", "_id.k"], 1));
    }
    if chance.below(8) == 0 {
        asks = true;
        let _ = writeln!(out, "before = {}", query(chance, &fields, 0));
    }
    if chance.below(8) == 0 {
        asks = true;
        let _ = writeln!(out, "changed = [\"n\", \"!s\"]");
    }
    if asks {
        let _ = writeln!(out, "missing = {:?}", ["keep", "drop", "error"][chance.below(3) as usize]);
    }
    out
}

/// One random write, in a transaction or not.
async fn write(client: &Client, session: &mut Option<&mut ClientSession>, db: &str, chance: &mut Chance) {
    let coll = ["orders", "log_1", "log_22", "others"][chance.below(4) as usize];
    let db = format!("{db}{}", ["a", "b"][chance.below(2) as usize]);
    let collection = client.database(&db).collection::<Document>(coll);
    let n = chance.below(40) as i32;
    let id: Bson = match n % 3 {
        0 => n.into(),
        1 => format!("id{n}").into(),
        _ => doc! {"k": n}.into(),
    };
    let by_id = doc! {"_id": id.clone()};
    let mut replacement = document(chance);
    match chance.below(6) {
        0 | 1 => {
            replacement.insert("_id", id);
            let update = collection.replace_one(by_id, replacement).upsert(true);
            match session {
                Some(session) => update.session(&mut **session).await,
                None => update.await,
            }
            .expect("replaced");
        }
        2 | 3 => {
            let set = doc! {"$set": {["n", "s", "d"][chance.below(3) as usize]: value(chance)}};
            let update = collection.update_one(by_id, set);
            match session {
                Some(session) => update.session(&mut **session).await,
                None => update.await,
            }
            .expect("updated");
        }
        _ => {
            let delete = collection.delete_one(by_id);
            match session {
                Some(session) => delete.session(&mut **session).await,
                None => delete.await,
            }
            .expect("deleted");
        }
    }
}

async fn workload(client: &Client, db: &str, chance: &mut Chance) {
    for db in ["a", "b"].map(|end| client.database(&format!("{db}{end}"))) {
        for coll in ["orders", "log_1", "log_22", "others"] {
            db.create_collection(coll).await.expect("created");
        }
        let view = doc! {"create": "view_s", "viewOn": "orders", "pipeline": []};
        db.run_command(view).await.expect("a view");
    }
    let mut done = 0;
    while done < WRITES {
        if chance.below(8) > 0 {
            write(client, &mut None, db, chance).await;
            done += 1;
            continue;
        }
        let mut session = client.start_session().await.expect("a session");
        session.start_transaction().await.expect("started");
        for _ in 0..=chance.below(6) {
            write(client, &mut Some(&mut session), db, chance).await;
            done += 1;
        }
        session.commit_transaction().await.expect("committed");
    }
    // Of several entries, of which not the last holds what some filters want.
    let mut session = client.start_session().await.expect("a session");
    session.start_transaction().await.expect("started");
    for (end, coll) in [("a", "orders"), ("b", "others"), ("b", "others"), ("b", "others")] {
        let large = doc! {"n": 5, "s": "a", "large": "x".repeat(4_500_000)};
        let collection = client.database(&format!("{db}{end}")).collection::<Document>(coll);
        collection.insert_one(large).session(&mut session).await.expect("inserted");
    }
    session.commit_transaction().await.expect("committed");
    for db in ["a", "b"].map(|end| client.database(&format!("{db}{end}"))) {
        db.run_command(doc! {"collMod": "orders", "validator": {}}).await.expect("modified");
        let keys = doc! {"createIndexes": "orders", "indexes": [{"key": {"n": 1}, "name": "n"}]};
        db.run_command(keys).await.expect("an index");
        db.collection::<Document>("view_s").drop().await.expect("dropped");
        db.collection::<Document>("log_22").drop().await.expect("dropped");
    }
    let rename =
        doc! {"renameCollection": format!("{db}a.log_1"), "to": format!("{db}b.renamed_s"), "dropTarget": true};
    let _ = client.database("admin").run_command(rename).await;
    client.database(&format!("{db}b")).drop().await.expect("dropped");
}

/// Writes somewhere else; the time of that.
async fn mark(client: &Client, db: &str) -> Timestamp {
    let insert = doc! {"insert": "c", "documents": [{"end": true}], "writeConcern": {"w": "majority"}};
    let reply = client.database(&format!("{db}_end")).run_command(insert).await.expect("inserted");
    reply.get_timestamp("operationTime").expect("a time")
}

async fn same(kind: &str, version: &str) {
    let mut chance = Chance::new();
    println!("{kind} {version}: OPLOGUE_TEST_SEED={}", chance.seed());
    let mongo = servers::mongo_version(version).await;
    let client = mongo.client().await;
    let db = unique("push");
    let start = source(kind, &mongo.uri(), "").open(StartAt::Now, &Interest::default()).await.expect("opened");
    workload(&client, &db, &mut chance).await;
    let until = mark(&client, &db).await;
    // Behind the end, so that every position can pass it.
    mark(&client, &db).await;

    let (mut delivered, mut given, mut whole) = (0, 0, 0);
    for round in 0..FILTERS {
        let mut chain = vec![random_filter(&mut chance, &db)];
        if round == 0 {
            // What chance seldom makes: a part that no server is asked about, inside of another.
            let uncertain = "{ \"$or\" = [{ n = 5 }, { s = { \"$regex\" = \"^a\" } }], \"$nor\" = [{ n = 1, tags = { \"$type\" = \"null\" } }] }";
            chain[0] = format!("namespaces = [\"{db}?.*\"]\nafter = {uncertain}\nmissing = \"drop\"");
        }
        if chance.below(3) == 0 {
            chain.push(random_filter(&mut chance, &db));
        }
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        let about =
            format!("{kind} {version}, round {round}, OPLOGUE_TEST_SEED={}:\n{}", chance.seed(), chain.join("\n"));
        let mut all = source(kind, &mongo.uri(), "push_down = false");
        let mut pushed = source(kind, &mongo.uri(), "");
        let expected = read(&mut all, &start, &chain, until).await;
        let found = read(&mut pushed, &start, &chain, until).await;
        assert_eq!(found.events, expected.events, "{about}");
        assert_eq!(found.bad, expected.bad, "{about}");
        assert!(found.given <= expected.given, "{about}");
        (delivered, given, whole) = (delivered + found.events.len(), given + found.given, whole + expected.given);

        // From any position that was given on, the rest comes.
        let from = found.ends[chance.below(found.ends.len() as u64) as usize].clone();
        let rest = read(&mut pushed, &from, &chain, until).await;
        assert!(expected.events.ends_with(&rest.events), "{about}");
        let before = expected.events.len() - rest.events.len();
        assert!(expected.events[..before].iter().all(|(time, _)| *time <= from.time), "{about}");
        // Other filters go on from there too.
        let other = [random_filter(&mut chance, &db)];
        let other: Vec<&str> = other.iter().map(String::as_str).collect();
        let expected = read(&mut all, &from, &other, until).await;
        let found = read(&mut pushed, &from, &other, until).await;
        assert_eq!(found.events, expected.events, "{about}\nthen {other:?}");
    }
    println!("{kind} {version}: {delivered} delivered of {given} that came, of {whole}");
    assert!(delivered > 20 && given * 4 < whole * 3, "{delivered} of {given} of {whole}");
}

#[tokio::test]
async fn the_oplog_of_4_4() {
    same("mongo-oplog", "4.4.2").await;
}

#[tokio::test]
async fn the_oplog_of_5_0() {
    same("mongo-oplog", "5.0.4").await;
}

#[tokio::test]
async fn the_oplog_of_6_0() {
    same("mongo-oplog", "6.0.27").await;
}

#[tokio::test]
async fn a_change_stream_of_4_4() {
    same("mongo-change-stream", "4.4.2").await;
}

#[tokio::test]
async fn a_change_stream_of_5_0() {
    same("mongo-change-stream", "5.0.4").await;
}

#[tokio::test]
async fn a_change_stream_of_6_0() {
    same("mongo-change-stream", "6.0.27").await;
}

/// The seconds of CPU that a process has taken.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum();
    ticks as f64 / 100.0
}

/// Of many writes, few are wanted: what comes, and what it costs. `OPLOGUE_PUSH_WRITES` makes it a measurement, which `--nocapture` shows.
#[tokio::test]
async fn what_is_not_wanted_stays_on_the_server() {
    let writes: i32 = std::env::var("OPLOGUE_PUSH_WRITES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    for version in ["4.4.2", "5.0.4", "6.0.27"] {
        let mongo = Mongo::start(MongoOptions { version, ..Default::default() }).await;
        let client = mongo.client().await;
        let kinds = ["mongo-oplog", "mongo-change-stream"];
        let start = source(kinds[0], &mongo.uri(), "").open(StartAt::Now, &Interest::default()).await.expect("opened");
        for first in (0..writes).step_by(1000) {
            for (coll, wanted) in [("wanted", true), ("others", false)] {
                let mine = (first..first + 1000).filter(|n| (n % 100 == 0) == wanted);
                let fill = "x".repeat(300);
                let documents: Vec<Document> = mine.map(|n| doc! {"_id": n, "n": n % 7, "fill": &fill}).collect();
                client.database("push").collection(coll).insert_many(documents).await.expect("inserted");
            }
        }
        let until = mark(&client, "push").await;
        mark(&client, "push").await;
        let pid = mongo.pid(0).expect("it runs");
        for kind in kinds {
            let mut costs = Vec::new();
            for more in ["push_down = false", ""] {
                let options = format!("{more}\nstart = {{ at = \"{}.{}\" }}", start.time.time, start.time.increment);
                let mut source = source(kind, &mongo.uri(), &options);
                let mut wanted = filter("namespaces = ['push.wanted']");
                let selections = vec![wanted.selection().expect("a filter")];
                let (since, before) = (Instant::now(), (cpu(pid), cpu(std::process::id())));
                let interest = Interest { selections, ..Interest::default() };
                source.open(StartAt::Configured, &interest).await.expect("opened");
                let (mut bytes, mut passed) = (0, 0);
                loop {
                    let mut batch = source.next().await.expect("a batch").expect("no end");
                    bytes += batch.bytes;
                    wanted.apply(&mut batch).expect("applied");
                    passed += batch.events.iter().filter(|event| !event.op.is_barrier()).count();
                    if batch.end.time >= until {
                        break;
                    }
                }
                assert_eq!(passed as i32, writes / 100, "{kind} {version} {more}");
                println!(
                    "{kind} {version} {more}: {bytes} bytes, {:.2} s, CPU of the server {:.2} s, of the reader {:.2} s",
                    since.elapsed().as_secs_f64(),
                    cpu(pid) - before.0,
                    cpu(std::process::id()) - before.1
                );
                costs.push(bytes);
            }
            assert!(costs[1] * 20 < costs[0], "{kind} {version}: {costs:?}");
        }
    }
}
