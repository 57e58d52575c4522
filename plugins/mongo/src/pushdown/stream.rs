//! Selections as a `$match` of a change stream.

use bson::{Document, doc};
use oplogue_api::{Interest, MARKERS, Op, Selection, Share};

use super::{all, leaves_out_writes, names, query};

/// What a change event must match to be read; `None`: all are wanted. What is no write of a
/// document is certain to be read, and with `markers` the writes of the markers of replicators.
pub(crate) fn matching(interest: &Interest, markers: bool) -> Option<Document> {
    let wanted = all(interest.selections.iter().filter_map(writes).collect())?;
    let mut any = vec![doc! {"operationType": {"$nin": ["insert", "update", "replace", "delete"]}}, wanted];
    if markers && let Some((db, coll)) = MARKERS.split_once('.') {
        any.push(doc! {"ns.db": db, "ns.coll": coll});
    }
    Some(doc! {"$or": any})
}

/// Which writes of documents a selection has. It may match what is no write.
fn writes(selection: &Selection) -> Option<Document> {
    let mut terms = names::ask(&selection.namespaces, |glob| names::apart(glob, "ns.db", "ns.coll")).terms();
    terms.retain(|term| !term.is_empty());
    let mut by_op = Vec::new();
    let mut is_told_apart = false;
    for (op, name) in [(Op::Insert, "insert"), (Op::Update, "update"), (Op::Replace, "replace"), (Op::Delete, "delete")]
    {
        if !selection.has(op) {
            is_told_apart = true;
            continue;
        }
        let mut asked = vec![doc! {"operationType": name}];
        if let Some(key) = selection.key() {
            asked.extend(query::of(key, "documentKey", &is_id).terms);
        }
        if let Some(after) = selection.after().filter(|_| matches!(op, Op::Insert | Op::Replace)) {
            asked.extend(query::of(after, "fullDocument", &|_| true).terms);
        }
        is_told_apart |= asked.len() > 1;
        by_op.extend(all(asked));
    }
    if is_told_apart {
        terms.push(match by_op.is_empty() {
            true => doc! {"operationType": {"$in": []}},
            false => doc! {"$or": by_op},
        });
    }
    all(terms)
}

fn is_id(path: &str) -> bool {
    path == "_id" || path.starts_with("_id.")
}

/// What of a selection is in [`matching`].
pub(crate) fn share(selection: &Selection) -> Share {
    let mut share = Share::default();
    let asked = names::ask(&selection.namespaces, |glob| names::apart(glob, "ns.db", "ns.coll"));
    share_names(&asked, selection, &mut share);
    if selection.operations.is_some() {
        let side = if leaves_out_writes(selection) { &mut share.server } else { &mut share.here };
        side.push("operations".to_owned());
    }
    if let Some(key) = selection.key() {
        share_query("key", &query::of(key, "documentKey", &is_id), "", &mut share);
    }
    if let Some(after) = selection.after() {
        let of = "of inserts and replacements";
        share_query("after", &query::of(after, "fullDocument", &|_| true), of, &mut share);
        share.here.push("after of updates".to_owned());
    }
    share.here.extend(selection.here.iter().map(|part| (*part).to_owned()));
    share
}

/// Says who evaluates the patterns of namespaces.
pub(super) fn share_names(asked: &names::Asked, selection: &Selection, share: &mut Share) {
    if selection.namespaces.is_empty() {
        return;
    }
    match (asked.asks(), asked.is_whole) {
        (true, true) => share.server.push("namespaces".to_owned()),
        (true, false) => {
            share.server.push("namespaces (in part)".to_owned());
            share.here.push("namespaces".to_owned());
        }
        (false, _) => share.here.push("namespaces".to_owned()),
    }
}

/// Says who evaluates a query.
pub(super) fn share_query(option: &str, asked: &query::Asked, of: &str, share: &mut Share) {
    let what = format!("{option} {of}").trim_end().to_owned();
    match (asked.terms.is_empty(), asked.is_whole) {
        (true, _) => share.here.push(what),
        (false, true) => share.server.push(what),
        (false, false) => {
            share.server.push(format!("{what} (in part)"));
            share.here.push(what);
        }
    }
}
