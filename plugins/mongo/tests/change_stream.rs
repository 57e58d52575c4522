//! The `mongo-change-stream` source on real servers.

#[path = "change_stream/events.rs"]
mod events;
#[path = "change_stream/faults.rs"]
mod faults;
#[path = "change_stream/places.rs"]
mod places;
#[path = "change_stream/server.rs"]
mod server;
mod streams;

use std::collections::BTreeSet;

use bson::{Document, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Change, ErrorKind, Event, Namespace, Op, Position, Source, StartAt, async_trait};
use oplogue_testkit::{
    conformance::{self, SourceHarness},
    generate::{Step, Work},
    proxy::Proxy,
    servers::{self, Credentials, Mongo, MongoOptions},
    unique,
};
use streams::{Reader, brief, build, document, errors, ids};

const KIND: &str = "mongo-change-stream";

fn scope(db: &str, coll: &str) -> String {
    format!("database = {db:?}\ncollection = {coll:?}\nawait = \"100ms\"\n")
}

fn database(db: &str) -> String {
    format!("database = {db:?}\nawait = \"100ms\"\n")
}

async fn coll(client: &Client, db: &str, name: &str) -> Collection<Document> {
    client.database(db).create_collection(name).await.expect("the collection is made");
    client.database(db).collection(name)
}

async fn insert(coll: &Collection<Document>, ids: impl IntoIterator<Item = i32>) {
    for id in ids {
        coll.insert_one(doc! {"_id": id}).await.expect("insert");
    }
}

/// A transaction of `n` inserts with ids from `first` on.
async fn transaction(client: &Client, coll: &Collection<Document>, first: i32, n: i32) {
    let mut session = client.start_session().await.expect("session");
    session.start_transaction().await.expect("transaction");
    for id in first..first + n {
        coll.insert_one(doc! {"_id": id}).session(&mut session).await.expect("insert");
    }
    session.commit_transaction().await.expect("commit");
}

fn int_ids(events: &[Event]) -> Vec<i32> {
    ids(events).iter().map(|id| id.as_i32().expect("an int id")).collect()
}

struct Harness {
    mongo: &'static Mongo,
    other: &'static Mongo,
    proxy: Proxy,
    client: Client,
    db: String,
}

#[async_trait]
impl SourceHarness for Harness {
    async fn source(&self) -> Box<dyn Source> {
        let toml = scope(&self.db, "c") + "batch_size = 4";
        build(KIND, &self.mongo.direct_uri(&self.proxy.addr()), &toml).expect("the source is built")
    }

    async fn produce(&self, work: &[Work]) {
        let c = self.client.database(&self.db).collection::<Document>("c");
        for work in work {
            match work {
                Work::One(step) => write(&c, step, None).await,
                Work::Txn(steps) => {
                    let mut session = self.client.start_session().await.expect("session");
                    session.start_transaction().await.expect("transaction");
                    for step in steps {
                        write(&c, step, Some(&mut session)).await;
                    }
                    session.commit_transaction().await.expect("commit");
                }
            }
        }
    }

    fn ns(&self) -> Namespace {
        Namespace::of(&self.db, "c")
    }

    async fn foreign_position(&self) -> Option<Position> {
        Some(Reader::open(KIND, &self.other.uri(), &scope(&self.db, "c"), StartAt::Now).await.end().clone())
    }

    async fn disrupt(&self) -> bool {
        self.proxy.cut_once();
        true
    }
}

async fn write(c: &Collection<Document>, step: &Step, session: Option<&mut mongodb::ClientSession>) {
    let filter = doc! {"_id": {"$eq": step.id()}};
    macro_rules! run {
        ($action:expr) => {
            match session {
                Some(session) => drop($action.session(session).await.expect("write")),
                None => drop($action.await.expect("write")),
            }
        };
    }
    match step {
        Step::Insert(doc) => run!(c.insert_one(doc)),
        Step::Update(_, set) => run!(c.update_one(filter, doc! {"$set": set})),
        Step::Replace(doc) => run!(c.replace_one(filter, doc)),
        Step::Delete(_) => run!(c.delete_one(filter)),
    }
}

#[tokio::test]
async fn the_contract_holds() {
    for version in ["6.0.5", "4.4.2"] {
        let mongo = servers::mongo_version(version).await;
        let (client, db) = (mongo.client().await, unique("cs"));
        coll(&client, &db, "c").await;
        let proxy = Proxy::start(mongo.addr(0)).await;
        let other = servers::mongo_version("6.0.27").await;
        let report = conformance::source(&Harness { mongo, other, proxy, client, db }).await;
        // A lost position needs an oplog of its own: `lost_history_is_a_lost_position`. It does not end (S12), and the
        // server sends no event that cannot be decoded (P4).
        assert_eq!(report.skipped_clauses(), ["S8", "S12", "P4"], "{version}");
    }
}
