//! The workload of the replicator: mixed operations over several collections, cut into batches and grouped into commands as the
//! replicator groups them. The same every time.

use std::collections::HashMap;

use bson::{RawArrayBuf, RawDocumentBuf, raw::cstr, rawdoc};
use mongodb::{
    Client,
    options::{ReadConcern, TransactionOptions, WriteConcern},
};

use crate::Failure;

/// Operations in a batch.
const BATCH: usize = 1000;
pub const COLLECTIONS: [&str; 4] = ["orders", "parts", "readings", "users"];

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// One write command of a batch.
pub struct Command {
    coll: usize,
    kind: Kind,
    statements: RawArrayBuf,
}

/// Batches of commands.
pub struct Workload {
    pub operations: u64,
    batches: Vec<Vec<Command>>,
}

impl Workload {
    /// Of each ten operations four insert, four update (one of them a nested field, one an array), one replaces, one deletes. `first`
    /// is the least `_id`.
    pub fn new(operations: u64, first: i64) -> Workload {
        let mut random = Random(first as u64 + 1);
        let mut live: [Vec<i64>; COLLECTIONS.len()] = Default::default();
        let mut next = first;
        let mut batches = Vec::new();
        let mut batch = Batch::default();
        for n in 0..operations {
            let coll = random.below(COLLECTIONS.len());
            let what = random.below(10);
            let ids = &mut live[coll];
            if what < 4 || ids.is_empty() {
                ids.push(next);
                batch.push(coll, Kind::Insert, next, document(next, n));
                next += 1;
            } else {
                let place = random.below(ids.len());
                let id = ids[place];
                let q = rawdoc! {"_id": id};
                if what == 9 {
                    ids.swap_remove(place);
                    batch.push(coll, Kind::Delete, id, rawdoc! {"q": q, "limit": 1});
                } else {
                    let u = match what {
                        4 => rawdoc! {"$set": {"address.city": format!("city-{n}")}},
                        5 => rawdoc! {"$push": {"lines": {"article": "c-300", "count": n as i64}}},
                        8 => document(id, n),
                        _ => rawdoc! {"$set": {"status": format!("state-{n}")}, "$inc": {"total": 1.0}},
                    };
                    batch.push(coll, Kind::Update, id, rawdoc! {"q": q, "u": u});
                }
            }
            if (n + 1).is_multiple_of(BATCH as u64) || n + 1 == operations {
                batches.push(std::mem::take(&mut batch).all);
            }
        }
        Workload { operations, batches }
    }

    /// Writes all of it, each command when the one before is acknowledged with `w: 1`, as the replicator's transactions are: each
    /// command for itself, or a transaction a batch.
    pub async fn load(&self, client: &Client, db: &str, in_transactions: bool) -> Result<(), Failure> {
        let db = client.database(db);
        if !in_transactions {
            for command in self.batches.iter().flatten() {
                check(db.run_raw_command(command.body(true)).await?)?;
            }
            return Ok(());
        }
        let mut session = client.start_session().await?;
        for batch in &self.batches {
            let options = TransactionOptions::builder()
                .read_concern(ReadConcern::snapshot())
                .write_concern(WriteConcern::nodes(1))
                .build();
            session.start_transaction().with_options(options).await?;
            for command in batch {
                check(db.run_raw_command(command.body(false)).session(&mut session).await?)?;
            }
            session.commit_transaction().await?;
        }
        Ok(())
    }
}

fn check(reply: bson::Document) -> Result<(), Failure> {
    if reply.contains_key("writeErrors") { Err("a write of the workload was refused".into()) } else { Ok(()) }
}

impl Command {
    fn body(&self, alone: bool) -> RawDocumentBuf {
        let (name, list) = match self.kind {
            Kind::Insert => (cstr!("insert"), cstr!("documents")),
            Kind::Update => (cstr!("update"), cstr!("updates")),
            Kind::Delete => (cstr!("delete"), cstr!("deletes")),
        };
        let mut body = RawDocumentBuf::new();
        body.append(name, COLLECTIONS[self.coll]);
        body.append(list, self.statements.clone());
        body.append(cstr!("ordered"), true);
        if alone {
            body.append(cstr!("writeConcern"), rawdoc! {"w": 1});
        }
        body
    }
}

/// Statements of different documents may change places.
#[derive(Default)]
struct Batch {
    all: Vec<Command>,
    latest: HashMap<(usize, Kind), usize>,
    last: HashMap<(usize, i64), usize>,
}

impl Batch {
    fn push(&mut self, coll: usize, kind: Kind, id: i64, statement: RawDocumentBuf) {
        let least = self.last.get(&(coll, id)).copied().unwrap_or(0);
        let index = match self.latest.get(&(coll, kind)).copied().filter(|index| *index >= least) {
            Some(index) => index,
            None => {
                self.all.push(Command { coll, kind, statements: RawArrayBuf::new() });
                self.latest.insert((coll, kind), self.all.len() - 1);
                self.all.len() - 1
            }
        };
        self.all[index].statements.push(statement);
        self.last.insert((coll, id), index);
    }
}

/// About 300 bytes.
pub fn document(id: i64, n: u64) -> RawDocumentBuf {
    rawdoc! {
        "_id": id,
        "number": n as i64,
        "customer": format!("customer-{:06}", n % 50_000),
        "status": "open",
        "total": (n % 10_000) as f64 / 100.0,
        "address": {"street": "Long Road 12", "city": format!("city-{}", n % 100), "zip": "12345"},
        "lines": [{"article": "a-100", "count": 1_i32}, {"article": "b-200", "count": 2_i32}],
        "created": bson::DateTime::from_millis(1_764_000_000_000 + n as i64),
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}
