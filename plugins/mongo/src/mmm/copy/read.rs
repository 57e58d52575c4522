//! Reading a piece of a collection in the order of `_id`, one reply at a time.
//!
//! `min` and `max` are bounds of the index, so they follow the server's own order over all types (and the collation of
//! the collection); a filter `{_id: {$gt: x}}` would see the values of x's type only. `min` includes its bound, so behind
//! a document that is done `$expr` leaves that one out: it compares like the index does. A `min` without a `max` ends before
//! `MaxKey`, so a document with that id is asked for by itself.

use bson::{RawBsonRef, RawDocumentBuf, Timestamp, raw::cstr, rawdoc};
use futures_util::StreamExt;
use mongodb::{Client, options::RunCursorCommandOptions};
use oplogue_api::{Doc, Error, Result};

use super::state::{EARLIEST, Piece};
use crate::{
    client::{answered, reply},
    errors::{Phase, classify, code},
};

/// Documents read at once.
pub(super) struct Chunk {
    pub docs: Vec<Doc>,
    /// What the server had carried out: nothing in it is later.
    pub time: Timestamp,
}

/// The next documents of the piece behind `last`; none: it is read to its end.
pub(super) async fn read(
    from: &Client,
    piece: &Piece,
    last: Option<&Doc>,
    limit: usize,
    start: Timestamp,
) -> Result<Chunk> {
    if last.is_some_and(is_greatest) {
        return Ok(Chunk { docs: Vec::new(), time: EARLIEST });
    }
    let unreadable = || Error::transient("MongoDB sent a reply that cannot be read");
    let chunk = ask(from, piece, command(piece, last, limit, start).ok_or_else(unreadable)?).await?;
    if !chunk.docs.is_empty() || piece.max.is_some() || last.or(piece.min.as_ref()).is_none() {
        return Ok(chunk);
    }
    let greatest = rawdoc! {
        "find": piece.ns.coll(),
        "filter": {"_id": RawBsonRef::MaxKey},
        "singleBatch": true,
        "readConcern": {"level": "majority", "afterClusterTime": start},
    };
    ask(from, piece, greatest).await
}

/// Whether it is the `_id` behind which there is none.
pub(super) fn is_greatest(key: &Doc) -> bool {
    matches!(key.get("_id"), Ok(Some(RawBsonRef::MaxKey)))
}

async fn ask(from: &Client, piece: &Piece, command: RawDocumentBuf) -> Result<Chunk> {
    let unreadable = || Error::transient("MongoDB sent a reply that cannot be read");
    let mut options = RunCursorCommandOptions::default();
    options.selection_criteria = from.selection_criteria().cloned();
    let asked = async {
        let db = from.database(piece.ns.db());
        let mut cursor = db.run_raw_cursor_command(command).with_options(options).batch().await?;
        cursor.next().await.transpose()
    };
    let answer = match answered(asked).await? {
        Ok(Some(batch)) => reply(batch)?,
        Ok(None) => return Err(Error::transient("MongoDB closed the cursor while copying")),
        // The collection was dropped, or a view has its name by now: the stream says so.
        Err(e) if matches!(code(&e), Some(26 | 166)) => return Ok(Chunk { docs: Vec::new(), time: EARLIEST }),
        Err(e) => return Err(classify(e, Phase::Copy)),
    };
    let cursor = answer.get_document("cursor").map_err(|_| unreadable())?;
    let batch = cursor.get_array("firstBatch").map_err(|_| unreadable())?;
    let docs = batch.into_iter().map(|doc| doc.ok().and_then(|d| d.as_document()).map(|d| answer.slice(d)));
    let docs = docs.collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
    Ok(Chunk { docs, time: answer.get_timestamp("operationTime").unwrap_or(EARLIEST) })
}

fn command(piece: &Piece, last: Option<&Doc>, limit: usize, start: Timestamp) -> Option<RawDocumentBuf> {
    let mut command = rawdoc! {"find": piece.ns.coll()};
    if let Some(last) = last {
        let id = last.get("_id").ok()??;
        command.append(cstr!("filter"), rawdoc! {"$expr": {"$gt": ["$_id", {"$literal": id}]}});
    }
    if let Some(min) = last.or(piece.min.as_ref()) {
        command.append(cstr!("min"), RawDocumentBuf::from_bytes(min.bytes().to_vec()).ok()?);
    }
    if let Some(max) = &piece.max {
        command.append(cstr!("max"), RawDocumentBuf::from_bytes(max.bytes().to_vec()).ok()?);
    }
    command.append(cstr!("hint"), rawdoc! {"_id": 1});
    command.append(cstr!("limit"), limit as i64);
    command.append(cstr!("batchSize"), limit as i64);
    // As many as fit into one reply, and no cursor left behind.
    command.append(cstr!("singleBatch"), true);
    command.append(cstr!("readConcern"), rawdoc! {"level": "majority", "afterClusterTime": start});
    Some(command)
}

/// `{_id: …}` of a document.
pub(super) fn key_of(doc: &Doc) -> Option<Doc> {
    let mut key = RawDocumentBuf::new();
    key.append(cstr!("_id"), doc.get("_id").ok()??);
    Some(Doc::from(key))
}
