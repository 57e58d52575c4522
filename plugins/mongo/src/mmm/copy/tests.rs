//! Copies between two real deployments.

mod merge;
mod whole;

use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId, rawdoc};
use futures_util::TryStreamExt;
use mongodb::{Client, options::ClientOptions};
use oplogue_api::{EventId, Namespace, Position};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};
use tokio::sync::OnceCell;

use super::{Copy, Initial, Meter, Pace, fixed_winner, state::metadata};
use crate::mmm::{
    marker::{Link, LogState, Marker},
    names,
};

/// A second deployment of the default version: the target of what `servers::mongo()` has.
async fn other() -> &'static Mongo {
    static OTHER: OnceCell<&'static Mongo> = OnceCell::const_new();
    OTHER
        .get_or_init(|| async {
            let options = MongoOptions { oplog_mb: 512, ..MongoOptions::default() };
            &*Box::leak(Box::new(Mongo::start(options).await))
        })
        .await
}

/// Two deployments, and a database of the test's own on both.
struct Pair {
    from: Client,
    to: Client,
    db: String,
    link: Link,
}

impl Pair {
    async fn new() -> Pair {
        Pair::of(servers::mongo().await, other().await).await
    }

    async fn of(from: &Mongo, to: &Mongo) -> Pair {
        // Many workers write at a time, in debug builds: that the pool is small must not matter, but waiting for it does.
        let client = async |mongo: &Mongo| {
            let options = ClientOptions::parse(mongo.uri()).await.expect("a URI");
            Client::with_options(options).expect("a client")
        };
        let db = unique("copy");
        let link = Link { node: format!("{db}-b"), peer: format!("{db}-a") };
        Pair { from: client(from).await, to: client(to).await, db, link }
    }

    async fn copy(&self, mode: Initial) -> Copy {
        self.copy_of(mode, 1).await
    }

    async fn copy_of(&self, mode: Initial, generation: u64) -> Copy {
        let reply = self.from.database("admin").run_command(doc! {"ping": 1}).await.expect("a ping");
        let time = reply.get_timestamp("operationTime").expect("a replica set says the time");
        let zero = Timestamp { time: 0, increment: 0 };
        let db = self.db.clone();
        let wins = fixed_winner(&self.link);
        Copy {
            from: self.from.clone(),
            to: self.to.clone(),
            marker: Marker {
                link: self.link.clone(),
                lane: 0,
                route: "r".into(),
                generation,
                seq: 0,
                origin: self.link.node.clone(),
                position: Position { token: rawdoc! {"ts": time}.into(), time },
                done: EventId { time, index: u32::MAX },
                clock: i64::from(time.time) * 1000,
                session: None,
                seen: vec![],
                saw: vec![],
                writes: vec![],
                fields: Default::default(),
                again: vec![],
                waits: vec![],
                unsettled: Default::default(),
                log: LogState { clock: 0, since: zero, since_clock: 0 },
                forward: None,
            },
            mode,
            wanted: Arc::new(move |ns: &Namespace| ns.db() == db),
            remote_wins: Arc::new(move |_| wins),
            workers: 3,
            pace: Pace { batch: 100, piece_bytes: 16 << 10 },
            meter: Arc::new(Meter::default()),
        }
    }

    async fn insert(&self, at: &Client, coll: &str, docs: Vec<RawDocumentBuf>) {
        at.database(&self.db).collection::<RawDocumentBuf>(coll).insert_many(docs).await.expect("an insert");
    }

    async fn all(&self, at: &Client, coll: &str) -> Vec<RawDocumentBuf> {
        let coll = at.database(&self.db).collection::<RawDocumentBuf>(coll);
        let found = coll.find(doc! {}).hint(mongodb::options::Hint::Keys(doc! {"_id": 1})).await.expect("a find");
        found.try_collect().await.expect("documents")
    }

    async fn indexes(&self, at: &Client, coll: &str) -> Vec<Document> {
        let cursor = at.database(&self.db).run_cursor_command(doc! {"listIndexes": coll}).await.expect("indexes");
        let mut all: Vec<Document> = cursor.try_collect().await.expect("indexes");
        all.sort_by_key(|index| index.get_str("name").expect("a name").to_owned());
        all
    }

    /// Both sides have the same, to the byte.
    async fn assert_equal(&self, coll: &str) -> usize {
        let (there, here) = (self.all(&self.from, coll).await, self.all(&self.to, coll).await);
        let missing: Vec<_> = there.iter().filter(|doc| !here.contains(doc)).map(|doc| doc.get("_id")).collect();
        assert!(missing.is_empty(), "{coll}: of {} are missing {missing:?}", there.len());
        assert_eq!(there.len(), here.len(), "{coll}");
        for (a, b) in there.iter().zip(&here) {
            assert!(a == b, "{coll}: {a:?} is not {b:?}");
        }
        assert_eq!(self.indexes(&self.from, coll).await, self.indexes(&self.to, coll).await, "{coll}");
        there.len()
    }

    async fn conflicts(&self) -> Vec<Document> {
        let found = metadata(&self.to, names::CONFLICTS).find(doc! {"link": self.link.marker_id(0)}).await.unwrap();
        found.try_collect().await.unwrap()
    }

    /// How often each document of the database was written at the target, by its oplog; and that each time it was behind a marker.
    async fn written(&self) -> std::collections::HashMap<Vec<u8>, u32> {
        let oplog = self.to.database("local").collection::<Document>("oplog.rs");
        let wanted = doc! {"$or": [{"ns": {"$regex": format!("^{}\\.[^$]", self.db)}}, {"o.applyOps.ns": {"$regex": format!("^{}\\.", self.db)}}]};
        let entries: Vec<Document> = oplog.find(wanted).await.unwrap().try_collect().await.unwrap();
        let mut written = std::collections::HashMap::new();
        for entry in entries {
            assert_eq!(entry.get_str("op").unwrap(), "c", "a write outside of a transaction: {entry}");
            let ops = entry.get_document("o").unwrap().get_array("applyOps").unwrap();
            assert!(entry.get_document("o").unwrap().get("partialTxn").is_none(), "larger than one entry");
            assert_eq!(ops[0].as_document().unwrap().get_str("ns").unwrap(), "__mmm.markers");
            for op in
                ops.iter().filter_map(Bson::as_document).filter(|op| op.get_str("ns").unwrap().starts_with(&self.db))
            {
                let id = op.get_document("o").unwrap().get("_id").unwrap().clone();
                let key = RawDocumentBuf::try_from(&doc! {"ns": op.get_str("ns").unwrap(), "id": id}).unwrap();
                *written.entry(key.into_bytes()).or_default() += 1;
            }
        }
        written
    }
}

/// One id of each kind that the server takes, several of some.
fn ids() -> Vec<Bson> {
    let binary = |subtype: u8, n: u8| bson::Binary { subtype: subtype.into(), bytes: vec![n; 16] };
    vec![
        Bson::MinKey,
        Bson::Null,
        Bson::Int32(-5),
        Bson::Int32(1),
        Bson::Int64(i64::MIN),
        Bson::Int64(1 << 40),
        Bson::Double(1.5),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(f64::NAN),
        Bson::Decimal128("1.50000000000000000000000000000001".parse().unwrap()),
        Bson::Decimal128("1.50000000000000000000000000000002".parse().unwrap()),
        Bson::String(String::new()),
        Bson::String("a".into()),
        Bson::String("é".into()),
        Bson::Symbol("symbol".into()),
        Bson::Document(doc! {}),
        Bson::Document(doc! {"a": 1, "b": {"c": "x"}}),
        Bson::Document(doc! {"b": {"c": "x"}, "a": 1}),
        Bson::Document(doc! {"a": [1, 2]}),
        Bson::Binary(binary(0, 1)),
        Bson::Binary(binary(4, 2)),
        Bson::Binary(binary(3, 2)),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(bson::DateTime::from_millis(-1)),
        Bson::DateTime(bson::DateTime::from_millis(1_700_000_000_123)),
        Bson::Timestamp(Timestamp { time: 5, increment: 6 }),
        Bson::JavaScriptCode("f()".into()),
        Bson::MaxKey,
    ]
}

fn numbered(n: i32) -> RawDocumentBuf {
    rawdoc! {"_id": n, "text": format!("document {n} {}", "x".repeat(200)), "list": [n, {"a": n}]}
}

/// Documents of every type of id, numbers and strings and object ids in between.
fn mixed(n: usize) -> Vec<RawDocumentBuf> {
    let mut all: Vec<RawDocumentBuf> = ids()
        .into_iter()
        .map(|id| RawDocumentBuf::try_from(&doc! {"_id": id, "x": "y".repeat(300)}).unwrap())
        .collect();
    for i in 0..n {
        let i = i as i32;
        all.push(numbered(i * 3 + 10));
        all.push(rawdoc! {"_id": format!("s{i}"), "x": "y".repeat(150)});
        all.push(rawdoc! {"_id": ObjectId::new(), "n": i});
        all.push(rawdoc! {"_id": {"a": i, "b": "c"}, "n": i});
        all.push(rawdoc! {"_id": f64::from(i) + 0.25, "n": i});
    }
    all
}
