//! Leaving on the server what the filters of a route would drop.
//!
//! What is handed on is never stricter than the filters, which run all the same: a part that a server may understand otherwise, in any
//! version, is evaluated by the filter alone. See `docs/decisions/push-down.md`.

mod names;
mod oplog;
mod query;
mod stream;

pub(crate) use self::{
    oplog::{filter as oplog_filter, share as oplog_share},
    stream::{matching as stream_match, share as stream_share},
};

use bson::Document;
use oplogue_api::{Op, Selection};

/// Operations of documents, as the server tells them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Insert, Kind::Update, Kind::Delete];

    /// The events that it may be.
    fn ops(self) -> &'static [Op] {
        match self {
            Kind::Insert => &[Op::Insert],
            Kind::Update => &[Op::Update, Op::Replace],
            Kind::Delete => &[Op::Delete],
        }
    }
}

/// Whether some operation of a document is left out: barriers come whatever a selection says.
fn leaves_out_writes(selection: &Selection) -> bool {
    Kind::ALL.iter().flat_map(|kind| kind.ops()).any(|op| !selection.has(*op))
}

/// All of these; `None` where there is nothing to ask.
fn all(mut terms: Vec<Document>) -> Option<Document> {
    match terms.len() {
        0 | 1 => terms.pop(),
        _ => Some(bson::doc! {"$and": terms}),
    }
}

/// A document that nothing matches.
fn nothing() -> Document {
    bson::doc! {"op": {"$in": []}}
}
