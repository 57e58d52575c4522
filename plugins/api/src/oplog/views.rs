//! Views: the server logs them as writes in `<db>.system.views`, one document a view (or time series) with its full name as
//! `_id`. Such a write says what a command says of a collection.

use super::{
    damaged,
    envelope::{Envelope, Kind},
    operation::{Context, Place},
};
use crate::{Doc, Event, Namespace, Op, Result};

/// The barrier that a write in an internal namespace is, if that is `system.views`: a view was created, changed
/// ([`Op::Other`]) or dropped. `raw` is the write.
pub(super) fn view_event(
    raw: &Doc,
    envelope: &Envelope<'_>,
    kind: Kind,
    place: Place,
    context: &Context,
) -> Result<Option<Event>> {
    let Some(db) = envelope.ns.strip_suffix(".system.views") else { return Ok(None) };
    let (op, named) = match kind {
        Kind::Insert => (Op::Create, Some(envelope.body()?)),
        Kind::Delete => (Op::Drop, Some(envelope.body()?)),
        _ => (Op::Other, envelope.o2),
    };
    let name = match named {
        Some(named) => named.get("_id").map_err(damaged)?.and_then(|id| id.as_str()),
        None => None,
    };
    // Others write there too, against all advice: what names no collection of this database is no view.
    let name = name.filter(|name| name.strip_prefix(db).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')));
    let ns = name.map(Namespace::new).filter(|ns| !ns.is_system());
    Ok(ns.map(|ns| context.event(op, ns, place, raw.clone())))
}
