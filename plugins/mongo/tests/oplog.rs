//! The `mongo-oplog` source on real servers.

#[path = "oplog/lookup.rs"]
mod lookup;
#[path = "oplog/places.rs"]
mod places;
mod streams;
#[path = "oplog/topology.rs"]
mod topology;
#[path = "oplog/transactions.rs"]
mod transactions;
#[path = "oplog/writes.rs"]
mod writes;

use bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Event, Namespace, Op, Position, Source, StartAt, async_trait};
use oplogue_testkit::{
    conformance::{self, SourceHarness},
    generate::{Step, Work},
    proxy::Proxy,
    servers::{self, Mongo},
    unique,
};
use streams::{Reader, build, document, ids};

const KIND: &str = "mongo-oplog";
const QUICK: &str = "await = \"100ms\"\n";

/// A source at the end of what is there now.
async fn now(mongo: &Mongo, toml: &str) -> Reader {
    Reader::open(KIND, &mongo.uri(), &format!("{QUICK}{toml}"), StartAt::Now).await
}

async fn insert(coll: &Collection<Document>, ids: impl IntoIterator<Item = i32>) {
    for id in ids {
        coll.insert_one(doc! {"_id": id}).await.expect("insert");
    }
}

/// The events in a database. Other tests write to the shared servers too.
fn of_db<'r>(reader: &'r Reader, db: &str) -> Vec<&'r Event> {
    reader.events.iter().filter(|e| e.ns.db() == db).collect()
}

/// Reads until there are `n` events of documents in `db`, and gives them.
async fn documents(reader: &mut Reader, db: &str, n: usize) -> Vec<Event> {
    let count = |r: &Reader| of_db(r, db).iter().filter(|e| !e.op.is_barrier()).count();
    reader.until(&format!("{n} events in {db}"), |r| count(r) >= n).await;
    of_db(reader, db).into_iter().filter(|e| !e.op.is_barrier()).cloned().collect()
}

/// Writes a marker and reads up to it: everything before has come then.
async fn settle(reader: &mut Reader, client: &Client, db: &str) {
    client.database(db).collection::<Document>("settled").insert_one(doc! {}).await.expect("insert");
    let marker = Namespace::of(db, "settled");
    reader.until("the marker", |r| r.events.iter().any(|e| e.ns == marker && e.op == Op::Insert)).await;
}

struct Harness {
    mongo: &'static Mongo,
    client: Client,
    proxy: Proxy,
    ns: Namespace,
    toml: &'static str,
}

impl Harness {
    async fn new(version: &str, toml: &'static str) -> Harness {
        let mongo = servers::mongo_version(version).await;
        let client = mongo.client().await;
        let db = unique("conform");
        client.database(&db).create_collection("c").await.expect("the collection is made");
        let proxy = Proxy::start(mongo.addr(0)).await;
        Harness { mongo, client, proxy, ns: Namespace::of(&db, "c"), toml }
    }

    async fn carry_out(&self, step: &Step, mut session: Option<&mut mongodb::ClientSession>) {
        let coll = self.client.database(self.ns.db()).collection::<Document>(self.ns.coll());
        macro_rules! run {
            ($action:expr) => {
                match session.as_deref_mut() {
                    Some(session) => drop($action.session(session).await.expect("a step of the work")),
                    None => drop($action.await.expect("a step of the work")),
                }
            };
        }
        match step {
            Step::Insert(doc) => run!(coll.insert_one(doc)),
            Step::Update(id, set) => run!(coll.update_one(doc! {"_id": id}, doc! {"$set": set})),
            Step::Replace(doc) => {
                run!(coll.replace_one(doc! {"_id": doc.get("_id").cloned().unwrap_or(Bson::Null)}, doc))
            }
            Step::Delete(id) => run!(coll.delete_one(doc! {"_id": id})),
        }
    }
}

#[async_trait]
impl SourceHarness for Harness {
    async fn source(&self) -> Box<dyn Source> {
        let toml = format!("{QUICK}batch_size = 4\n{}", self.toml);
        build(KIND, &self.mongo.direct_uri(&self.proxy.addr()), &toml).expect("the source is built")
    }

    async fn produce(&self, work: &[Work]) {
        for work in work {
            match work {
                Work::One(step) => self.carry_out(step, None).await,
                Work::Txn(steps) => {
                    let mut session = self.client.start_session().await.expect("session");
                    session.start_transaction().await.expect("transaction");
                    for step in steps {
                        self.carry_out(step, Some(&mut session)).await;
                    }
                    session.commit_transaction().await.expect("commit");
                }
            }
        }
    }

    fn ns(&self) -> Namespace {
        self.ns.clone()
    }

    async fn foreign_position(&self) -> Option<Position> {
        Some(now(servers::mongo_version("6.0.27").await, "").await.end().clone())
    }

    async fn lost_position(&self) -> Option<Position> {
        Some(places::moved(now(self.mongo, "").await.end(), |ts, _| ts.time -= 1_000_000))
    }

    async fn disrupt(&self) -> bool {
        self.proxy.cut_once();
        true
    }
}

#[tokio::test]
async fn the_source_conforms() {
    let lookup = "full_document = \"update-lookup\"";
    for (version, toml) in
        [("6.0.5", ""), ("6.0.5", "read_concern = \"local\""), ("4.4.2", ""), ("6.0.5", lookup), ("4.4.2", lookup)]
    {
        let report = conformance::source(&Harness::new(version, toml).await).await;
        // An oplog has an end for no source, and no server writes an entry that cannot be decoded.
        assert_eq!(report.skipped_clauses(), ["S12", "P4"], "{version} {toml}");
    }
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_reply_loses_nothing() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    let proxy = Proxy::start(mongo.addr(0)).await;
    let toml = format!("{QUICK}batch_size = 50");
    let mut reader = Reader::open(KIND, &mongo.direct_uri(&proxy.addr()), &toml, StartAt::Now).await;
    let docs: Vec<Document> = (0..400).map(|id| doc! {"_id": id, "fill": "x".repeat(2000)}).collect();
    coll.insert_many(docs).await.unwrap();
    let mut opened = 0;
    for n in 1..=4 {
        proxy.cut_after_bytes(60_001);
        opened += reader.until_in_spite("events", |r| of_db(r, &db).len() >= 100 * n).await;
    }
    opened += reader.until_in_spite("all events", |r| of_db(r, &db).len() >= 401).await;
    let got: Vec<_> = of_db(&reader, &db).into_iter().filter(|e| e.op == Op::Insert).cloned().collect();
    assert_eq!(ids(&got), (0..400).map(Bson::Int32).collect::<Vec<_>>());
    assert!(proxy.cuts() >= 2 && opened >= 2, "{} cuts, opened {opened} times", proxy.cuts());
}

#[tokio::test]
async fn ids_of_every_type_and_the_largest_document_come_unchanged() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("oplog"));
    let coll = client.database(&db).collection::<Document>("c");
    let mut reader = now(mongo, "").await;
    let all = oplogue_testkit::generate::ids(1);
    for id in &all {
        coll.insert_one(doc! {"_id": id, "x": 1}).await.unwrap();
        coll.update_one(doc! {"_id": id}, doc! {"$set": {"x": 2}}).await.unwrap();
        coll.delete_one(doc! {"_id": id}).await.unwrap();
    }
    // 16 MiB to the byte: the frame, `_id`, and the head of the string take 31 bytes.
    let largest = doc! {"_id": 1, "x": "y".repeat((16 << 20) - 22)};
    assert_eq!(bson::RawDocumentBuf::try_from(&largest).unwrap().as_bytes().len(), 16 << 20);
    coll.insert_one(&largest).await.unwrap();
    let events = documents(&mut reader, &db, 3 * all.len() + 1).await;
    let expected: Vec<Bson> =
        all.iter().flat_map(|id| [id.clone(), id.clone(), id.clone()]).chain([Bson::Int32(1)]).collect();
    assert_eq!(ids(&events), expected);
    assert_eq!(document(events.last().unwrap().after.as_ref().unwrap()), largest);
}
