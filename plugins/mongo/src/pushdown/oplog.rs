//! Selections as a filter on the entries of an oplog.
//!
//! What a write leaves there: an insert its document in `o`; a delete its key in `o`; an update its key in `o2`, and in `o` what changed
//! or the whole new document, which nothing tells apart with certainty. A transaction is one `applyOps` with an array of such operations, or
//! several, of which the last leads to the others through `prevOpTime`.

use bson::{Bson, Document, Timestamp, doc};
use oplogue_api::{Interest, MARKERS, NamespacePattern, Selection, Share};

use super::{Kind, all, leaves_out_writes, names, nothing, query};

/// The alternatives of which an entry must meet one to be read: `{$or: …}`. `None`: all are wanted.
///
/// With `markers`, writes of the markers of replicators are wanted too. Certain to be read is all that is no write of a document: commands, no-ops, and what is not known.
pub(crate) fn filter(interest: &Interest, markers: bool) -> Option<Vec<Document>> {
    let wanted = all(interest.selections.iter().filter_map(writes).collect())?;
    let mut any = vec![wanted];
    if markers {
        any.push(doc! {"ns": MARKERS});
    }
    // A write there is the creation or the end of a view.
    if let Some(views) = all(interest.selections.iter().filter_map(views).collect()) {
        any.push(views);
    } else {
        any.push(doc! {"ns": {"$regex": r"\.system\.views\z"}});
    }
    let none = Bson::from(Timestamp { time: 0, increment: 0 });
    let mut of_transaction = any.clone();
    of_transaction.push(doc! {"op": {"$nin": ["i", "u", "d"]}});
    any.push(doc! {"op": {"$nin": ["i", "u", "d", "c"]}});
    any.push(doc! {"op": "c", "$or": [
        {"o.applyOps": {"$exists": false}},
        // The last of several entries: what is wanted may lie in the others.
        {"prevOpTime.ts": {"$gt": none}},
        {"o.applyOps": {"$elemMatch": {"$or": of_transaction}}},
    ]});
    Some(any)
}

/// Which writes of documents a selection has. It may match what is no write.
fn writes(selection: &Selection) -> Option<Document> {
    let mut terms = names::ask(&selection.namespaces, |glob| names::text("ns", glob)).terms();
    terms.retain(|term| !term.is_empty());
    let mut by_kind = Vec::new();
    let mut is_told_apart = false;
    for kind in Kind::ALL {
        let ops: Vec<_> = kind.ops().iter().filter(|op| selection.has(**op)).collect();
        if ops.is_empty() {
            is_told_apart = true;
            continue;
        }
        let (name, holder) = match kind {
            Kind::Insert => ("i", "o"),
            Kind::Update => ("u", "o2"),
            Kind::Delete => ("d", "o"),
        };
        let mut asked = vec![doc! {"op": name}];
        if let Some(key) = selection.key() {
            asked.extend(query::of(key, holder, &is_id).terms);
        }
        if let Some(after) = selection.after().filter(|_| kind == Kind::Insert) {
            asked.extend(query::of(after, holder, &|_| true).terms);
        }
        is_told_apart |= asked.len() > 1;
        by_kind.extend(all(asked));
    }
    if is_told_apart {
        terms.push(if by_kind.is_empty() {
            nothing()
        } else {
            doc! {"$or": by_kind}
        });
    }
    all(terms)
}

/// Where a view that a selection may have is described, when that is certain: with the databases that its patterns name.
fn views(selection: &Selection) -> Option<Document> {
    let positive: Vec<&NamespacePattern> = selection.namespaces.iter().filter(|pattern| !pattern.negated).collect();
    let databases: Option<Vec<String>> = positive
        .iter()
        .filter(|pattern| !pattern.is_regex)
        .map(|pattern| pattern.text.split_once('.').filter(|(db, _)| !db.contains(['*', '?'])))
        .map(|split| split.map(|(db, _)| format!("{db}.system.views")))
        .collect();
    if positive.is_empty() || positive.iter().any(|pattern| pattern.is_regex) {
        return None;
    }
    databases.map(|all| doc! {"ns": {"$in": all}})
}

/// The key of a document is its `_id`, in a replica set that is no shard; of a shard key nothing is certain.
fn is_id(path: &str) -> bool {
    path == "_id" || path.starts_with("_id.")
}

/// What of a selection is in [`filter`].
pub(crate) fn share(selection: &Selection) -> Share {
    let mut share = Share::default();
    let asked = names::ask(&selection.namespaces, |glob| names::text("ns", glob));
    super::stream::share_names(&asked, selection, &mut share);
    if selection.operations.is_some() {
        let side = if leaves_out_writes(selection) { &mut share.server } else { &mut share.here };
        side.push("operations".to_owned());
    }
    if let Some(key) = selection.key() {
        super::stream::share_query("key", &query::of(key, "o", &is_id), "", &mut share);
    }
    if let Some(after) = selection.after() {
        super::stream::share_query("after", &query::of(after, "o", &|_| true), "of inserts", &mut share);
        share.here.push("after of updates".to_owned());
    }
    share.here.extend(selection.here.iter().map(|part| (*part).to_owned()));
    share
}
