//! Inserts, updates and deletes: an entry of its own, or an operation inside `applyOps`.

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, Timestamp, raw::cstr};

use super::{
    damaged,
    envelope::{Envelope, Kind},
    number,
};
use crate::{Change, Doc, Error, Event, EventId, Namespace, Op, Result, Txn, raw::elements};

/// What the events of an entry or transaction share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub time: Timestamp,
    pub wall: Option<i64>,
    pub txn: Option<Arc<Txn>>,
}

/// Where an operation stands within its entry or transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// See [`Event::index`].
    pub index: u32,
    /// See [`Event::entry`].
    pub entry: Option<EventId>,
}

impl Place {
    /// An entry that is one operation.
    pub fn alone() -> Place {
        Place { index: 0, entry: None }
    }
}

impl Context {
    pub fn event(&self, op: Op, ns: Namespace, place: Place, raw: Doc) -> Event {
        let Place { index, entry } = place;
        Event { index, entry, wall: self.wall, txn: self.txn.clone(), ..Event::new(op, ns, self.time, raw) }
    }
}

/// The event of an `i`, `u` or `d`. `doc` is what `envelope` was read from.
pub(super) fn write_event(
    doc: &Doc,
    envelope: &Envelope<'_>,
    kind: Kind,
    ns: Namespace,
    place: Place,
    context: &Context,
) -> Result<Event> {
    if ns.coll().is_empty() {
        return Err(Error::data("a write that names no collection"));
    }
    let o = envelope.body()?;
    let mut event = context.event(Op::Insert, ns, place, doc.clone());
    match kind {
        Kind::Insert => {
            event.key = Some(match envelope.o2 {
                // From 6.0 on.
                Some(key) if has_id(key)? => doc.slice(key),
                _ => id_of(o)?,
            });
            event.after = Some(doc.slice(o));
        }
        Kind::Delete => {
            event.op = Op::Delete;
            if !has_id(o)? {
                return Err(Error::data("a delete without `_id`"));
            }
            event.key = Some(doc.slice(o));
        }
        _ => {
            event.key = match envelope.o2 {
                Some(key) if has_id(key)? => Some(doc.slice(key)),
                _ => return Err(Error::data("an update without a document key")),
            };
            match update_form(o)? {
                Form::Replacement => {
                    event.op = Op::Replace;
                    event.after = Some(doc.slice(o));
                }
                Form::Modifiers => {
                    event.op = Op::Update;
                    event.change = Some(Change::OplogV1(doc.slice(o)));
                }
                Form::Diff(diff) => {
                    event.op = Op::Update;
                    event.change = Some(Change::OplogV2(doc.slice(diff)));
                }
            }
        }
    }
    Ok(event)
}

enum Form<'a> {
    Replacement,
    Modifiers,
    Diff(&'a RawDocument),
}

/// As the server tells them apart: only a replacement has an `_id`, and it may have any other field besides, `$v` too.
fn update_form(o: &RawDocument) -> Result<Form<'_>> {
    let (mut version, mut diff, mut operators) = (None, None, true);
    for element in o.iter_elements() {
        let element = element.map_err(damaged)?;
        match element.key().as_str() {
            "_id" => return Ok(Form::Replacement),
            "$v" => version = Some(number(element.value().map_err(damaged)?)),
            "diff" => {
                diff = element.value().map_err(damaged)?.as_document();
                operators = false;
            }
            key => operators &= key.starts_with('$'),
        }
    }
    match (version, diff) {
        (Some(Some(2)), Some(diff)) => Ok(Form::Diff(diff)),
        (None | Some(Some(1)), _) if operators => Ok(Form::Modifiers),
        _ => Err(Error::data("an update of a format that is not known")),
    }
}

fn has_id(key: &RawDocument) -> Result<bool> {
    for field in elements(key) {
        if field?.name == b"_id" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The key of a document, for servers before 6.0, which log none with inserts. On a shard the shard key is missing then.
fn id_of(document: &RawDocument) -> Result<Doc> {
    match document.get("_id").map_err(damaged)? {
        Some(id) => {
            let mut key = RawDocumentBuf::new();
            key.append(cstr!("_id"), id);
            Ok(key.into())
        }
        None => Err(Error::data("an insert without `_id`")),
    }
}
