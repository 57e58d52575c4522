//! What is written beside the data: conflicts and tombstones.

use bson::{Bson, DateTime, Document, RawDocument, doc, oid::ObjectId};
use oplogue_api::{Event, Op, Result};

use super::{
    marker::Link,
    origin::{as_bson, document},
    statements::id,
};

/// A document larger than this is not repeated in a record: both of them must fit, and the data of the transaction.
const LARGEST: usize = 4 << 20;

/// A conflict that was resolved in favour of what came from the origin.
pub(super) fn resolved(
    link: &Link,
    event: &Event,
    kind: &str,
    local: Option<&RawDocument>,
    remote: Option<&RawDocument>,
) -> Result<Document> {
    let mut record = record(link, event, kind)?;
    record.insert("winner", &link.node);
    record.insert("status", "resolved");
    record.insert("local", with_document(doc! {"node": &link.peer}, local)?);
    record.insert("remote", with_document(writer(link, event), remote)?);
    Ok(record)
}

/// What the peer refused.
pub(super) fn refused(link: &Link, event: &Event, code: i32) -> Result<Document> {
    let mut record = record(link, event, if code == 11000 { "unique" } else { "refused" })?;
    record.insert("winner", Bson::Null);
    record.insert("status", "parked");
    record.insert("error", doc! {"code": code});
    record.insert("local", doc! {"node": &link.peer});
    record.insert("remote", with_document(writer(link, event), event.after.as_deref())?);
    Ok(record)
}

fn record(link: &Link, event: &Event, kind: &str) -> Result<Document> {
    let key = event.key.as_deref().map(|key| as_bson(id(key)?)).transpose()?;
    Ok(doc! {
        "_id": ObjectId::new(),
        "at": DateTime::now(),
        "link": link.marker_id(0),
        "ns": event.ns.as_str(),
        "key": key,
        "kind": kind,
    })
}

fn writer(link: &Link, event: &Event) -> Document {
    doc! {"node": &link.node, "time": event.time, "wall": event.wall.map(DateTime::from_millis), "op": event.op.name()}
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
pub(super) fn tombstone(node: &str, event: &Event, key: &RawDocument) -> Result<Document> {
    debug_assert_eq!(event.op, Op::Delete);
    Ok(doc! {
        "_id": {"ns": event.ns.as_str(), "id": as_bson(id(key)?)?},
        "node": node,
        "clock": event.wall.unwrap_or_else(|| i64::from(event.time.time) * 1000),
        "at": DateTime::now(),
    })
}
