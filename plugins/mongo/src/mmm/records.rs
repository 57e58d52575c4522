//! What is written beside the data: conflicts and tombstones.

use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, Timestamp, doc, oid::ObjectId, raw::cstr};
use oplogue_api::{Event, Namespace, Op, Result};

use super::{
    marker::Link,
    options::Settings,
    origin::{as_bson, document},
    paths::FieldPath,
    sight::Sight,
    statements::id,
    verdict::Conflict,
};

/// A document larger than this is not repeated in a record: both of them must fit, and the data of the transaction.
const LARGEST: usize = 4 << 20;

/// The link that brings a change, and who has made it.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    link: &'a Link,
    node: &'a str,
    /// When, in the log of that node; `None`: as the event says.
    time: Option<Timestamp>,
}

impl<'a> By<'a> {
    /// Of the `n`-th event that `sight` is about.
    pub fn new(link: &'a Link, sight: &'a Sight, n: usize, settings: &'a Settings) -> By<'a> {
        By { link, node: sight.by(n, settings), time: sight.made(n).map(|made| made.time) }
    }

    /// The node of the link itself.
    pub fn node(link: &'a Link) -> By<'a> {
        By { link, node: &link.node, time: None }
    }
}

/// The peer's document was not as it must have been: it was replaced.
pub(super) fn differs(
    by: By<'_>,
    event: &Event,
    kind: &str,
    clock: i64,
    (local, remote): (Option<&RawDocument>, Option<&RawDocument>),
) -> Result<Document> {
    let mut record = record(by.link, event, kind)?;
    record.insert("winner", by.node);
    record.insert("status", "resolved");
    record.insert("local", with_document(doc! {"node": &by.link.peer}, local)?);
    record.insert("remote", with_document(writer(by, event, clock), remote)?);
    Ok(record)
}

/// The collection was dropped or renamed at the peer before the change came.
pub(super) fn homeless(by: By<'_>, event: &Event, clock: i64) -> Result<Document> {
    let mut record = record(by.link, event, "dropped")?;
    record.insert("winner", &by.link.peer);
    record.insert("status", "resolved");
    record.insert("local", doc! {"node": &by.link.peer, "op": "drop"});
    record.insert("remote", with_document(writer(by, event, clock), event.after.as_deref())?);
    Ok(record)
}

/// Concurrent writes. `beaten` is the time of the last write of the peer that has lost: it is not compared again.
pub(super) fn resolved(
    by: By<'_>,
    event: &Event,
    clock: i64,
    conflict: &Conflict,
    won: bool,
    (local, remote): (Option<&RawDocument>, Option<&RawDocument>),
) -> Result<Document> {
    let mut record = record(by.link, event, conflict.kind)?;
    record.insert("winner", if won { by.node } else { &*conflict.node });
    record.insert("status", "resolved");
    let write = &conflict.write;
    let theirs = doc! {"node": &conflict.node, "time": write.origin_time, "clock": write.clock, "op": write.op.name()};
    record.insert("local", with_document(theirs, local)?);
    record.insert("remote", with_document(writer(by, event, clock), remote)?);
    if won {
        record.insert("beaten", conflict.upto);
    }
    Ok(record)
}

/// Concurrent writes that were merged: `remote` and `local` of `fields` name those that came and were taken, and those that came
/// and were not.
pub(super) fn merged(
    by: By<'_>,
    event: &Event,
    clock: i64,
    conflict: &Conflict,
    fields: &[Vec<FieldPath>; 2],
    versions: (Option<&RawDocument>, Option<&RawDocument>),
) -> Result<Document> {
    let mut record = resolved(by, event, clock, conflict, false, versions)?;
    let [taken, kept] = fields.each_ref().map(|paths| paths.iter().map(FieldPath::text).collect::<Vec<_>>());
    record.insert("winner", "merged");
    record.insert("fields", doc! {"remote": taken, "local": kept});
    Ok(record)
}

/// Two documents with one unique value. The key of the record is that of the change, `local.key` that of the other document.
pub(super) fn unique(
    by: By<'_>,
    event: &Event,
    clock: i64,
    (conflict, won): (Option<&Conflict>, bool),
    (holder, remote): (&RawDocument, Option<&RawDocument>),
) -> Result<Document> {
    let mut record = record(by.link, event, "unique")?;
    let node = conflict.map_or(&*by.link.peer, |conflict| &*conflict.node);
    record.insert("winner", if won { by.node } else { node });
    record.insert("status", "resolved");
    let mut theirs = doc! {"node": node, "key": as_bson(id(holder)?)?};
    if let Some(write) = conflict.map(|conflict| &conflict.write) {
        theirs.extend(doc! {"time": write.origin_time, "clock": write.clock, "op": write.op.name()});
    }
    record.insert("local", with_document(theirs, Some(holder))?);
    record.insert("remote", with_document(writer(by, event, clock), remote)?);
    Ok(record)
}

/// A document that had met another over a unique value was not the same at both ends.
pub(super) fn settled(
    link: &Link,
    ns: &Namespace,
    key: &RawDocument,
    refused: Option<i32>,
    (local, remote): (Option<&RawDocument>, Option<&RawDocument>),
) -> Result<Document> {
    let mut record = named(link, ns.as_str(), Some(as_bson(id(key)?)?), "unique");
    match refused {
        None => {
            record.insert("winner", &link.node);
            record.insert("status", "resolved");
        }
        Some(code) => {
            record.insert("winner", Bson::Null);
            record.insert("status", "parked");
            record.insert("error", doc! {"code": code});
        }
    }
    record.insert("local", with_document(doc! {"node": &link.peer}, local)?);
    record.insert("remote", with_document(doc! {"node": &link.node}, remote)?);
    Ok(record)
}

/// What the peer refused.
pub(super) fn refused(by: By<'_>, event: &Event, code: i32) -> Result<Document> {
    let mut record = record(by.link, event, if code == 11000 { "unique" } else { "refused" })?;
    record.insert("winner", Bson::Null);
    record.insert("status", "parked");
    record.insert("error", doc! {"code": code});
    record.insert("local", doc! {"node": &by.link.peer});
    record.insert("remote", with_document(writer(by, event, 0), event.after.as_deref())?);
    Ok(record)
}

fn record(link: &Link, event: &Event, kind: &str) -> Result<Document> {
    let key = event.key.as_deref().map(|key| as_bson(id(key)?)).transpose()?;
    Ok(named(link, event.ns.as_str(), key, kind))
}

fn named(link: &Link, ns: &str, key: Option<Bson>, kind: &str) -> Document {
    doc! {
        "_id": ObjectId::new(),
        "at": DateTime::now(),
        "link": link.marker_id(0),
        "ns": ns,
        "key": key,
        "kind": kind,
    }
}

fn writer(by: By<'_>, event: &Event, clock: i64) -> Document {
    let clock = if clock == 0 { event.wall.unwrap_or_default() } else { clock };
    doc! {"node": by.node, "time": by.time.unwrap_or(event.time), "clock": clock, "op": event.op.name()}
}

fn with_document(mut side: Document, version: Option<&RawDocument>) -> Result<Document> {
    match version {
        Some(version) if version.as_bytes().len() > LARGEST => {
            side.insert("doc_omitted", version.as_bytes().len() as i64);
        }
        Some(version) => {
            side.insert("doc", document(version)?);
        }
        None => {
            side.insert("doc", Bson::Null);
        }
    }
    Ok(side)
}

/// That a document was deleted, for writes of it that come late.
pub(super) fn tombstone(node: &str, event: &Event, key: &RawDocument) -> Result<RawDocumentBuf> {
    debug_assert_eq!(event.op, Op::Delete);
    let mut of = RawDocumentBuf::new();
    of.append(cstr!("ns"), event.ns.as_str());
    of.append(cstr!("id"), id(key)?);
    let mut stone = RawDocumentBuf::new();
    stone.append(cstr!("_id"), of);
    stone.append(cstr!("node"), node);
    stone.append(cstr!("clock"), event.wall.unwrap_or_else(|| i64::from(event.time.time) * 1000));
    stone.append(cstr!("at"), DateTime::now());
    Ok(stone)
}
