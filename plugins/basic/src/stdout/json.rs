use bson::{RawBsonRef, RawDocument, spec::BinarySubtype};
use oplogue_api::{Error, Event, Op, Result, Txn};

use super::update;
use crate::extjson::{datetime, document, plain, text, uuid, value};

/// Appends one event as one line. After an error the buffer ends somewhere inside the line: cut it back.
///
/// # Errors
/// `Data` when a part of the event cannot be read.
pub(super) fn line(out: &mut Vec<u8>, event: &Event, source: Option<&str>) -> Result<()> {
    out.extend_from_slice(b"{\"op\":");
    text(out, event.op.name())?;
    out.extend_from_slice(b",\"ns\":");
    text(out, event.ns.as_str())?;
    for (name, doc) in [("key", &event.key), ("after", &event.after), ("before", &event.before)] {
        if let Some(doc) = doc {
            member(out, name);
            document(out, doc).map_err(|e| e.at(name))?;
        }
    }
    if let Some(change) = &event.change {
        member(out, "update");
        update::json(out, &change.decode()?)?;
    }
    if let Some(to) = &event.to {
        member(out, "to");
        text(out, to.as_str())?;
    }
    if let Some(detail) = detail(event) {
        member(out, "detail");
        document(out, detail?).map_err(|e| e.at("detail"))?;
    }
    member(out, "time");
    value(out, RawBsonRef::Timestamp(event.time))?;
    if let Some(wall) = event.wall {
        member(out, "wall");
        datetime(out, wall)?;
    }
    if let Some(txn) = &event.txn {
        member(out, "txn");
        transaction(out, txn)?;
    }
    // Digits and dots: nothing to escape.
    let id = event.id();
    member(out, "id");
    out.push(b'"');
    plain(out, &id.time.time)?;
    out.push(b'.');
    plain(out, &id.time.increment)?;
    out.push(b'.');
    plain(out, &id.index)?;
    out.push(b'"');
    if let Some(source) = source {
        member(out, "source");
        text(out, source)?;
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// `{"lsid": UUID, "number": n}`, and `"replicated": true` of what a replicator wrote: the session by its UUID alone, since the rest of it is a hash of the user.
fn transaction(out: &mut Vec<u8>, txn: &Txn) -> Result<()> {
    out.extend_from_slice(b"{\"lsid\":");
    match txn.lsid.get("id") {
        Ok(Some(RawBsonRef::Binary(b))) if b.subtype == BinarySubtype::Uuid => match b.bytes.try_into() {
            Ok(bytes) => {
                out.push(b'"');
                uuid(out, bytes);
                out.push(b'"');
            }
            Err(_) => document(out, &txn.lsid)?,
        },
        _ => document(out, &txn.lsid)?,
    }
    out.extend_from_slice(b",\"number\":");
    plain(out, &txn.number)?;
    if txn.replicated {
        out.extend_from_slice(b",\"replicated\":true");
    }
    out.push(b'}');
    Ok(())
}

/// What a barrier says beyond its name: the command in the oplog (`o`), the description in a change event
/// (`operationDescription`), all of `raw` for what oplogue itself says. A rename has `to` instead.
pub(super) fn detail(event: &Event) -> Option<Result<&RawDocument>> {
    let wrong = |_| Error::data("detail: what the server sent is damaged");
    let part = |name| match event.raw.get(name) {
        Ok(Some(RawBsonRef::Document(part))) => Some(Ok(part)),
        Ok(_) => None,
        Err(e) => Some(Err(wrong(e))),
    };
    match event.op {
        Op::Gap | Op::DeadLetter => Some(Ok(&*event.raw)),
        Op::Rename => None,
        op if op.is_barrier() => match event.raw.get("operationType") {
            Ok(Some(RawBsonRef::String(_))) => part("operationDescription"),
            Ok(_) => part("o"),
            Err(e) => Some(Err(wrong(e))),
        },
        _ => None,
    }
}
