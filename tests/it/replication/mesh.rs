//! Deployments that are replicated into each other by the real binary, and how to tell that they are equal.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, RawDocumentBuf, Timestamp, doc},
};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{Mongo, MongoOptions},
    unique, wait_for,
};
use tokio::sync::OnceCell;

use crate::process::Oplogue;

/// The oplog: large enough that nothing of a test falls out of it.
const OPLOG_MB: u32 = 990;

/// One of four replica sets that the tests of this module share: keep to a database and to node names of your own.
pub async fn shared(n: usize) -> &'static Mongo {
    static SETS: [OnceCell<&'static Mongo>; 4] = [const { OnceCell::const_new() }; 4];
    SETS[n].get_or_init(|| set("6.0.5", 1)).await
}

/// A replica set that lives as long as the process.
pub async fn set(version: &'static str, members: usize) -> &'static Mongo {
    // No-ops in the oplog come once a second: they tell a test how time goes by at the server.
    // A router that is cut off in a transaction holds its documents for as long as the server lets it: usually a minute.
    let args = ["periodicNoopIntervalSecs=1", "transactionLifetimeLimitSeconds=10"];
    let args = args.map(|set| format!("--setParameter={set}")).into();
    let options = MongoOptions { version, members, oplog_mb: OPLOG_MB, args, ..Default::default() };
    Box::leak(Box::new(Mongo::start(options).await))
}

/// A deployment as a node.
pub struct End {
    pub name: String,
    pub client: Client,
    /// What the router is given.
    pub uri: String,
    /// The type of the source.
    pub kind: &'static str,
    /// The newest entry of the log when the test began.
    since: Timestamp,
}

impl End {
    pub async fn new(name: &str, mongo: &Mongo, kind: &'static str) -> End {
        let client = mongo.client().await;
        let since = newest(&client).await;
        End { name: unique(name), client, uri: mongo.uri(), kind, since }
    }

    /// Behind a proxy, for the router only.
    pub async fn behind(name: &str, mongo: &Mongo, kind: &'static str, proxy: &Proxy) -> End {
        End { uri: mongo.direct_uri(&proxy.addr()), ..End::new(name, mongo, kind).await }
    }
}

/// Two to four of the shared sets.
pub async fn ends(n: usize, kind: &'static str) -> Vec<End> {
    let mut ends = Vec::new();
    for (n, name) in ["factory", "cloud", "depot", "works"].into_iter().enumerate().take(n) {
        ends.push(End::new(name, shared(n).await, kind).await);
    }
    ends
}

/// What the log of an end says of the collections of the test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    pub inserts: usize,
    pub updates: usize,
    pub deletes: usize,
}

/// An operation, and the entry of the log that it is in.
pub struct Logged {
    pub entry: Arc<Document>,
    pub op: Document,
    /// Whether it is in a transaction of a replicator.
    pub is_applied: bool,
}

pub struct Mesh {
    pub db: String,
    pub ends: Vec<End>,
    /// From where writes come to where: over one link, or where they forward over any number.
    ways: Vec<(usize, usize)>,
    /// Runs all links.
    pub router: Oplogue,
    config: String,
    sentinels: usize,
    /// No end is older than 5.0.
    pub is_of_today: bool,
}

impl Mesh {
    /// Two ends, changes go both ways.
    pub async fn pair() -> Mesh {
        Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], "")
    }

    pub async fn one_way() -> Mesh {
        Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1)], "")
    }

    pub async fn of_three() -> Mesh {
        let links = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
        Mesh::new(ends(3, "mongo-oplog").await, &links, "")
    }

    /// `sink`: what else each table of a sink says.
    pub fn new(ends: Vec<End>, links: &[(usize, usize)], sink: &str) -> Mesh {
        let db = unique("mmm");
        let mut config = String::new();
        for end in &ends {
            config += &format!("[sources.{}]\ntype = \"{}\"\nuri = \"{}\"\n", end.name, end.kind, end.uri);
        }
        for (from, to) in links {
            let (from, to) = (&ends[*from], &ends[*to]);
            config += &format!(
                r#"
                [sinks.{0}-{1}]
                type = "mongo-mmm"
                uri = "{2}"
                node = "{0}"
                peer = "{1}"
                namespaces = ["{db}.*"]
                {sink}
                [[routes]]
                name = "{0}-{1}"
                from = ["{0}"]
                to = ["{0}-{1}"]
                "#,
                from.name, to.name, to.uri
            );
        }
        let router = Oplogue::new(&config);
        let mut ways = links.to_vec();
        while sink.contains("forward = \"all\"") {
            let longer = ways.iter().flat_map(|way| links.iter().map(move |link| (way, link)));
            let longer = longer.filter(|(way, link)| way.1 == link.0 && way.0 != link.1);
            let longer = longer.map(|(way, link)| (way.0, link.1)).find(|way| !ways.contains(way));
            let Some(longer) = longer else { break };
            ways.push(longer);
        }
        Mesh { db, ends, ways, router, config, sentinels: 0, is_of_today: true }
    }

    /// Another process with the same configuration.
    pub fn another(&self) -> Oplogue {
        Oplogue::new(&self.config)
    }

    /// One with another configuration, made of this one.
    pub fn another_with(&self, change: impl Fn(&str) -> String) -> Oplogue {
        Oplogue::new(&change(&self.config))
    }

    pub fn coll(&self, end: usize, name: &str) -> Collection<Document> {
        self.ends[end].client.database(&self.db).collection(name)
    }

    /// Waits until everything that was written so far is applied wherever it goes: a link keeps the order.
    pub async fn settle(&mut self) {
        self.sentinels += 1;
        let id = |end: &End| format!("{} {}", end.name, self.sentinels);
        for (n, end) in self.ends.iter().enumerate() {
            if self.ways.iter().all(|(from, _)| *from != n) {
                continue;
            }
            self.coll(n, "sentinel").insert_one(doc! {"_id": id(end)}).await.expect("a sentinel");
        }
        for (from, to) in &self.ways {
            let wanted = doc! {"_id": id(&self.ends[*from])};
            let there = self.coll(*to, "sentinel");
            wait_for(format!("the sentinel of {from} at {to}"), || async {
                there.find_one(wanted.clone()).await.is_ok_and(|found| found.is_some())
            })
            .await;
        }
    }

    /// All ends hold the same collections, indexes and documents, to the byte. Call [`Mesh::settle`] before.
    pub async fn assert_equal(&self, why: &str) {
        let first = content(&self.ends[0].client, &self.db).await;
        for end in &self.ends[1..] {
            let other = content(&end.client, &self.db).await;
            let all: std::collections::BTreeSet<_> = first.keys().chain(other.keys()).collect();
            let different: Vec<_> = all.into_iter().filter(|key| first.get(*key) != other.get(*key)).collect();
            for key in different.iter().take(5) {
                eprintln!("{key}:\n  {}\n  {}", shown(first.get(*key)), shown(other.get(*key)));
            }
            if let Some(key) = different.first() {
                self.show_writes(key).await;
                self.show_conflicts().await;
            }
            assert!(different.is_empty(), "{} differences at {}, {why}", different.len(), end.name);
        }
    }

    /// What the logs say of a document, by its name in what the ends hold: in transactions of links, whose marker it is.
    async fn show_writes(&self, key: &str) {
        for (n, end) in self.ends.iter().enumerate() {
            for Logged { entry, op, is_applied } in self.log(n).await {
                let of = |field: &str| op.get_document(field).ok().and_then(|o| o.get("_id")).cloned();
                let (_, coll) = text(&op, "ns").split_once('.').unwrap_or_default();
                let Some(id) = of("o2").or_else(|| of("o")) else { continue };
                let id = RawDocumentBuf::try_from(&doc! {"_id": id}).expect("a document");
                if format!("{coll} {:?}", id.get("_id")) != key {
                    continue;
                }
                let marker = entry.get_document("o").and_then(|o| o.get_array("applyOps")).ok();
                let marker =
                    marker.and_then(|all| all.first()?.as_document()?.get_document("o").ok()).filter(|_| is_applied);
                let link = marker.map(|marker| text(marker, "_id")).unwrap_or_default();
                let origins = marker.and_then(|marker| marker.get_document("forward").ok());
                let origins: String = origins.map(|of| of.to_string()).unwrap_or_default().chars().take(1000).collect();
                let change: String = op.get("o").map(Bson::to_string).unwrap_or_default().chars().take(300).collect();
                let time = entry.get_timestamp("ts").unwrap_or(Timestamp { time: 0, increment: 0 });
                eprintln!("log of {} at {time:?}: {link} {} {change}   {origins}", end.name, text(&op, "op"));
            }
        }
    }

    pub async fn show_conflicts(&self) {
        for (n, end) in self.ends.iter().enumerate() {
            for mut record in self.conflicts(n).await {
                for side in ["local", "remote"] {
                    if let Ok(side) = record.get_document_mut(side) {
                        side.remove("doc");
                        side.remove("change");
                    }
                }
                eprintln!("at {}: {record}", end.name);
            }
        }
    }

    /// Waits until all ends are equal with nothing under way: where one end decides for both, its decision comes behind what led to it.
    pub async fn settle_until_equal(&mut self, why: &str) {
        for _ in 0..20 {
            self.settle().await;
            let mut all = Vec::new();
            for end in &self.ends {
                all.push(content(&end.client, &self.db).await);
            }
            if all.iter().all(|one| *one == all[0]) {
                return;
            }
        }
        self.assert_equal(why).await;
    }

    pub async fn settle_equal(&mut self, why: &str) {
        self.settle().await;
        self.assert_equal(why).await;
    }

    /// The writes in the log of an end since the test began, without sentinels: those of its own clients, and those that were
    /// applied.
    pub async fn ops(&self, end: usize) -> [Ops; 2] {
        let mut both = [Ops::default(); 2];
        let sentinel = format!("{}.sentinel", self.db);
        for Logged { op, is_applied, .. } in self.log(end).await {
            let ops = &mut both[usize::from(is_applied)];
            if text(&op, "ns") != sentinel {
                match text(&op, "op") {
                    "i" => ops.inserts += 1,
                    "u" => ops.updates += 1,
                    "d" => ops.deletes += 1,
                    _ => {}
                }
            }
        }
        both
    }

    /// No echo, and nothing is applied twice: at no end is more applied than was written by the clients of the others. Less may
    /// be, where several changes of a document became one.
    pub async fn assert_once(&self, why: &str) {
        let mut all = Vec::new();
        for end in 0..self.ends.len() {
            all.push(self.ops(end).await);
        }
        for (to, [_, applied]) in all.iter().enumerate() {
            let mut written = Ops::default();
            for (from, _) in self.ways.iter().filter(|way| way.1 == to) {
                let [own, _] = all[*from];
                written.inserts += own.inserts;
                written.updates += own.updates;
                written.deletes += own.deletes;
            }
            let is_less = applied.inserts <= written.inserts && applied.deletes <= written.deletes;
            let is_fair = applied.inserts + written.deletes == written.inserts + applied.deletes;
            let most = written.updates + written.deletes.min(written.inserts);
            assert!(is_less && is_fair && applied.updates <= most, "end {to}: {applied:?} of {written:?}, {why}");
        }
    }

    /// The operations on the database of the test in the log of an end.
    pub async fn log(&self, end: usize) -> Vec<Logged> {
        let end = &self.ends[end];
        let log = end.client.database("local").collection::<Document>("oplog.rs");
        let prefix = format!("{}.", self.db);
        let ns = doc! {"$regex": format!("^{prefix}")};
        let filter = doc! {
            "ts": {"$gt": end.since},
            "$or": [{"ns": ns.clone()}, {"o.applyOps.ns": ns}, {"o.applyOps.0.ns": "__mmm.markers"}],
        };
        let entries: Vec<Document> = log.find(filter).await.expect("the oplog").try_collect().await.expect("the oplog");
        let mut all = Vec::new();
        // A transaction of more than one entry has its marker in the first.
        let mut marked: HashSet<String> = HashSet::new();
        for entry in entries.into_iter().map(Arc::new) {
            let Ok(inner) = entry.get_document("o").and_then(|o| o.get_array("applyOps")) else {
                all.push(Logged { op: (*entry).clone(), entry, is_applied: false });
                continue;
            };
            let whole = format!("{:?} {:?}", entry.get("lsid"), entry.get("txnNumber"));
            let first = inner.first().and_then(Bson::as_document);
            if first.is_some_and(|op| text(op, "ns") == "__mmm.markers") {
                marked.insert(whole.clone());
            }
            for op in inner.iter().filter_map(Bson::as_document).filter(|op| text(op, "ns").starts_with(&prefix)) {
                let is_applied = marked.contains(&whole);
                all.push(Logged { entry: Arc::clone(&entry), op: op.clone(), is_applied });
            }
        }
        all
    }

    /// The records of conflicts at an end.
    pub async fn conflicts(&self, end: usize) -> Vec<Document> {
        let conflicts = self.ends[end].client.database("__mmm").collection::<Document>("conflicts");
        let mine = doc! {"ns": {"$regex": format!("^{}\\.", self.db)}};
        conflicts.find(mine).await.expect("conflicts").try_collect().await.expect("conflicts")
    }

    /// The id of the marker of a link, which is at its target.
    pub fn marker(&self, from: usize, to: usize) -> (Collection<Document>, String) {
        let markers = self.ends[to].client.database("__mmm").collection("markers");
        (markers, format!("{}->{}", self.ends[from].name, self.ends[to].name))
    }
}

pub async fn newest(client: &Client) -> Timestamp {
    let log = client.database("local").collection::<Document>("oplog.rs");
    let found = log.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("the oplog").expect("an entry");
    found.get_timestamp("ts").expect("a time")
}

/// A string of a document; empty where there is none.
pub fn text<'a>(document: &'a Document, name: &str) -> &'a str {
    document.get_str(name).unwrap_or_default()
}

#[derive(PartialEq)]
pub enum Thing {
    Settings(Document),
    Stored(RawDocumentBuf),
}

fn shown(thing: Option<&Thing>) -> String {
    let text = match thing {
        None => "-".to_owned(),
        Some(Thing::Settings(settings)) => format!("{settings}"),
        Some(Thing::Stored(raw)) => format!("{:?}", Document::try_from(raw)),
    };
    text.chars().take(1500).collect()
}

/// Collections with their options, indexes and documents, under names that tell them.
async fn content(client: &Client, db: &str) -> BTreeMap<String, Thing> {
    let db = client.database(db);
    let mut all = BTreeMap::new();
    let listed = db.run_cursor_command(doc! {"listCollections": 1}).await.expect("the collections");
    let listed: Vec<Document> = listed.try_collect().await.expect("the collections");
    for collection in listed {
        let name = collection.get_str("name").expect("a name").to_owned();
        let options = collection.get_document("options").cloned().unwrap_or_default();
        all.insert(format!("{name} options"), Thing::Settings(options));
        if text(&collection, "type") == "view" || name.starts_with("system.") {
            continue;
        }
        let indexes = db.run_cursor_command(doc! {"listIndexes": &name}).await.expect("the indexes");
        let indexes: Vec<Document> = indexes.try_collect().await.expect("the indexes");
        for index in indexes {
            let of = index.get_str("name").unwrap_or_default().to_owned();
            all.insert(format!("{name} index {of}"), Thing::Settings(index));
        }
        // Those of the test itself go only as far as the links.
        if name == "sentinel" {
            continue;
        }
        let raw = db.collection::<RawDocumentBuf>(&name);
        let documents: Vec<RawDocumentBuf> =
            raw.find(doc! {}).await.expect("documents").try_collect().await.expect("documents");
        for document in documents {
            all.insert(format!("{name} {:?}", document.get("_id")), Thing::Stored(document));
        }
    }
    all
}
