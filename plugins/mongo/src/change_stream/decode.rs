//! A change event in the normalised shape.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, Timestamp};
use oplogue_api::{Change, Doc, Error, Event, Namespace, NamespaceCache, Op, Result, Txn};

use super::token;

/// Interns what many events share.
#[derive(Default)]
pub(super) struct Interned {
    namespaces: NamespaceCache,
    txn: Option<Arc<Txn>>,
    name: String,
}

#[derive(Default)]
struct Fields<'a> {
    token: Option<&'a RawDocument>,
    operation: Option<&'a str>,
    ns: Option<&'a RawDocument>,
    to: Option<&'a RawDocument>,
    key: Option<&'a RawDocument>,
    after: Option<&'a RawDocument>,
    before: Option<&'a RawDocument>,
    description: Option<&'a RawDocument>,
    raw_description: Option<&'a RawDocument>,
    time: Option<Timestamp>,
    wall: Option<i64>,
    lsid: Option<&'a RawDocument>,
    txn_number: Option<i64>,
}

fn fields(doc: &RawDocument) -> Result<Fields<'_>> {
    let mut f = Fields::default();
    for element in doc.iter_elements() {
        let element = element.map_err(|_| broken("is no valid BSON"))?;
        let value = element.value().map_err(|_| broken("is no valid BSON"))?;
        // An image that is not there is null, not absent.
        let document = value.as_document();
        match element.key().as_str() {
            "_id" => f.token = document,
            "operationType" => f.operation = value.as_str(),
            "ns" => f.ns = document,
            "to" => f.to = document,
            "documentKey" => f.key = document,
            "fullDocument" => f.after = document,
            "fullDocumentBeforeChange" => f.before = document,
            "updateDescription" => f.description = document,
            "rawUpdateDescription" => f.raw_description = document,
            "clusterTime" => f.time = value.as_timestamp(),
            "wallTime" => f.wall = value.as_datetime().map(|d| d.timestamp_millis()),
            "lsid" => f.lsid = document,
            "txnNumber" => {
                f.txn_number = match value {
                    RawBsonRef::Int64(n) => Some(n),
                    RawBsonRef::Int32(n) => Some(n.into()),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    Ok(f)
}

fn broken(what: &str) -> Error {
    Error::data(format!("a change event {what}"))
}

impl Interned {
    /// Reads a change event; `None` for an `invalidate`: the stream ends here, since what it watches was dropped or renamed.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](oplogue_api::ErrorKind::Data), without any of the event's content.
    pub fn decode(&mut self, raw: &Doc) -> Result<Option<Event>> {
        let f = fields(raw)?;
        let op = match f.operation.ok_or_else(|| broken("has no operationType"))? {
            "insert" => Op::Insert,
            "update" => Op::Update,
            "replace" => Op::Replace,
            "delete" => Op::Delete,
            "create" => Op::Create,
            "drop" => Op::Drop,
            "dropDatabase" => Op::DropDatabase,
            "rename" => Op::Rename,
            "createIndexes" | "dropIndexes" => Op::Index,
            "invalidate" => return Ok(None),
            // modify, shardCollection, … and whatever newer servers invent.
            _ => Op::Other,
        };
        let token = f.token.and_then(token::read).ok_or_else(|| broken("has a resume token of an unknown shape"))?;
        let ns = match f.ns {
            Some(ns) => self.namespace(ns)?,
            None if op.is_barrier() => self.namespaces.get(""),
            None => return Err(broken("has no ns")),
        };
        let slice = |d: &RawDocument| raw.slice(d);
        let key = f.key.filter(|_| !op.is_barrier()).map(slice);
        if key.is_none() && !op.is_barrier() {
            return Err(broken("has no documentKey"));
        }
        if f.after.is_none() && matches!(op, Op::Insert | Op::Replace) {
            return Err(broken("has no fullDocument"));
        }
        let change = match op {
            Op::Update => Some(change(raw, &f)?),
            _ => None,
        };
        let to = match (op, f.to) {
            (Op::Rename, Some(to)) => Some(self.namespace(to)?),
            (Op::Rename, None) => return Err(broken("of a rename has no `to`")),
            _ => None,
        };
        Ok(Some(Event {
            op,
            ns,
            key,
            after: f.after.map(slice),
            before: f.before.map(slice),
            change,
            to,
            time: f.time.unwrap_or(token.time),
            index: token.index,
            entry: None,
            wall: f.wall,
            txn: self.txn(&f),
            raw: raw.clone(),
        }))
    }

    fn namespace(&mut self, ns: &RawDocument) -> Result<Namespace> {
        let db = ns.get_str("db").map_err(|_| broken("has an ns without db"))?;
        self.name.clear();
        self.name.push_str(db);
        if let Ok(coll) = ns.get_str("coll") {
            self.name.push('.');
            self.name.push_str(coll);
        }
        Ok(self.namespaces.get(&self.name))
    }

    /// One value for all events of a transaction, detached, since they may come in several replies.
    fn txn(&mut self, f: &Fields<'_>) -> Option<Arc<Txn>> {
        let (lsid, number) = (f.lsid?, f.txn_number?);
        match &self.txn {
            Some(txn) if txn.number == number && txn.lsid.as_bytes() == lsid.as_bytes() => {}
            _ => self.txn = Some(Arc::new(Txn { lsid: Doc::from(lsid), number, replicated: false })),
        }
        self.txn.clone()
    }
}

/// The exact diff where the server gives it, the flattened description otherwise.
fn change(raw: &Doc, f: &Fields<'_>) -> Result<Change> {
    match (f.raw_description, f.description) {
        (Some(exact), _) => match exact.get_document("diff") {
            Ok(diff) => Ok(Change::OplogV2(raw.slice(diff))),
            Err(_) => Ok(Change::OplogV1(raw.slice(exact))),
        },
        (None, Some(flat)) => Ok(Change::ChangeStream(raw.slice(flat))),
        (None, None) => Err(broken("of an update has no update description")),
    }
}
