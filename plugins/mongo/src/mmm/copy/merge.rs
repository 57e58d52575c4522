//! What a document that is copied means for the one that is at the target.

use std::collections::HashMap;

use bson::{
    DateTime, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, oid::ObjectId, raw::cstr, rawdoc,
};
use mongodb::{ClientSession, Collection, error::Result};
use oplogue_api::{Doc, Namespace};

use crate::mmm::marker::Link;

/// Documents larger than this are left out of conflict records.
const LARGEST_IN_RECORD: usize = 4 << 20;

/// What is to be written.
pub(super) enum Write {
    Insert(Doc),
    /// In the place of a document with this `_id` (of the same value; its type may be another one).
    Replace(RawDocumentBuf, Doc),
}

/// Why there is a conflict record.
#[derive(Clone, Copy)]
pub(super) enum Conflict<'a> {
    /// Both sides have the document, and differ.
    Differs { local: &'a RawDocument, remote_wins: bool },
    /// The target remembers that the document was deleted, by this node.
    Deleted { node: &'a str },
    /// The target refuses the document.
    Refused { code: i32 },
}

/// The target's documents with the ids of `docs`, in the snapshot of the transaction, place by place.
pub(super) async fn counterparts(
    coll: &Collection<RawDocumentBuf>,
    session: &mut ClientSession,
    docs: &[Doc],
) -> Result<Vec<Option<RawDocumentBuf>>> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let keys: Vec<RawDocumentBuf> = docs.iter().map(|doc| id_alone(doc)).collect();
    for (n, key) in keys.iter().enumerate() {
        places.insert(key.as_bytes(), n);
    }
    let mut found = vec![None; docs.len()];
    let mut strangers = false;
    let mut cursor = coll.find(to_document(&by_ids(docs))?).session(&mut *session).await?;
    while cursor.advance(session).await? {
        let doc = cursor.current();
        match places.get(id_alone(doc).as_bytes()) {
            Some(n) => found[*n] = Some(doc.to_owned()),
            None => strangers = true,
        }
    }
    if strangers {
        // Ids that are equal for the server and differ in their bytes (1 and 1.0, or under a collation): it has to say which.
        for (n, doc) in docs.iter().enumerate().filter(|(n, _)| found[*n].is_none()).collect::<Vec<_>>() {
            let id = doc.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
            let one = to_document(&rawdoc! {"_id": {"$eq": id}})?;
            found[n] = coll.find_one(one).session(&mut *session).await?;
        }
    }
    Ok(found)
}

/// The nodes that deleted those of `docs` of which the target has a tombstone, place by place.
pub(super) async fn tombstones(
    coll: &Collection<RawDocumentBuf>,
    session: &mut ClientSession,
    ns: &Namespace,
    docs: &[Doc],
) -> Result<Vec<Option<String>>> {
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut ids = RawArrayBuf::new();
    for (n, doc) in docs.iter().enumerate() {
        let id = rawdoc! {"ns": ns.as_str(), "id": doc.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null)};
        ids.push(RawBsonRef::Document(&id));
        places.insert(id.into_bytes(), n);
    }
    let mut found = vec![None; docs.len()];
    let mut cursor = coll.find(to_document(&rawdoc! {"_id": {"$in": ids}})?).session(&mut *session).await?;
    while cursor.advance(session).await? {
        let stone = cursor.current();
        let place = stone.get_document("_id").ok().and_then(|id| places.get(id.as_bytes()));
        if let Some(n) = place {
            found[*n] = Some(stone.get_str("node").unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// A filter for all that have one of the ids.
fn by_ids(docs: &[Doc]) -> RawDocumentBuf {
    let mut plain = RawArrayBuf::new();
    let mut any = RawArrayBuf::new();
    for doc in docs {
        match doc.get("_id") {
            Ok(Some(id)) if is_operator(id) => any.push(rawdoc! {"_id": {"$eq": id}}),
            Ok(Some(id)) => plain.push(id),
            _ => {}
        }
    }
    if any.is_empty() {
        return rawdoc! {"_id": {"$in": plain}};
    }
    any.push(rawdoc! {"_id": {"$in": plain}});
    rawdoc! {"$or": any}
}

/// Whether `$in` would take the id for something else than a value.
fn is_operator(id: RawBsonRef<'_>) -> bool {
    match id {
        RawBsonRef::RegularExpression(_) => true,
        RawBsonRef::Document(doc) => {
            doc.iter_elements().next().and_then(|e| e.ok()).is_some_and(|first| first.key().as_str().starts_with('$'))
        }
        _ => false,
    }
}

fn id_alone(doc: &RawDocument) -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    key.append(cstr!("_id"), doc.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null));
    key
}

fn to_document(raw: &RawDocument) -> Result<bson::Document> {
    Ok(bson::Document::try_from(raw)?)
}

/// `{_id}` of a document, as a filter that means this value whatever it is.
pub(super) fn exactly(doc: &RawDocument) -> RawDocumentBuf {
    rawdoc! {"_id": {"$eq": doc.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null)}}
}

/// Whether both have the same `_id`, to the byte.
pub(super) fn same_id(a: &RawDocument, b: &RawDocument) -> bool {
    id_alone(a) == id_alone(b)
}

/// The record of a conflict, see `docs/replication.md`. `time` is when the remote document was read.
pub(super) fn record(
    link: &Link,
    ns: &Namespace,
    remote: &RawDocument,
    time: Timestamp,
    why: Conflict<'_>,
) -> RawDocumentBuf {
    let mut record = rawdoc! {
        "_id": ObjectId::new(),
        "at": DateTime::now(),
        "link": link.marker_id(0),
        "ns": ns.as_str(),
        "key": remote.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null),
    };
    let mut local = rawdoc! {"node": link.peer.as_str()};
    let mut theirs = rawdoc! {"node": link.node.as_str(), "time": time, "op": "insert"};
    with_doc(&mut theirs, remote);
    let (kind, policy, winner, status) = match why {
        Conflict::Differs { local: doc, remote_wins } => {
            local.append(cstr!("op"), "insert");
            with_doc(&mut local, doc);
            ("copy", "priority", Some(if remote_wins { &link.node } else { &link.peer }), "resolved")
        }
        Conflict::Deleted { node } => {
            local.append(cstr!("op"), "delete");
            local.append(cstr!("deleted_by"), node);
            ("copy", "tombstone", Some(&link.peer), "resolved")
        }
        Conflict::Refused { code } => {
            (if code == super::write::DUPLICATE_KEY { "unique" } else { "refused" }, "park", None, "parked")
        }
    };
    record.append(cstr!("kind"), kind);
    record.append(cstr!("policy"), policy);
    match winner {
        Some(winner) => record.append(cstr!("winner"), winner.as_str()),
        None => record.append(cstr!("winner"), RawBsonRef::Null),
    }
    record.append(cstr!("local"), local);
    record.append(cstr!("remote"), theirs);
    if let Conflict::Refused { code } = why {
        record.append(cstr!("error"), rawdoc! {"code": code});
    }
    record.append(cstr!("status"), status);
    record
}

fn with_doc(side: &mut RawDocumentBuf, doc: &RawDocument) {
    if doc.as_bytes().len() > LARGEST_IN_RECORD {
        side.append(cstr!("doc_omitted"), doc.as_bytes().len() as i64);
    } else {
        side.append(cstr!("doc"), RawBsonRef::Document(doc));
    }
}
