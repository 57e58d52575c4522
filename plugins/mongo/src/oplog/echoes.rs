//! Leaving the echoes of a replicator on the server, when that is worth it.
//!
//! The server can cut a replicator's transactions down to their first operation, the marker, by a computed projection. It then
//! looks into every entry, and reading plain ones costs it four to five times the CPU (500,000 entries: 0.3 s without, 1.4 to
//! 1.6 s with it, on 4.4.2, 5.0.4 and 6.0.5 alike). So it is asked for while echoes are what mostly travels.

use bson::{Document, RawDocumentBuf, doc};
use oplogue_api::{Event, MARKERS};

/// How much of the entries the server sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of each.
    #[default]
    Whole,
    /// Of a replicator's transaction the first operation, of the others all.
    Cut,
}

/// A decision is made after so many entries, or bytes.
const ENTRIES: u64 = 1000;
const BYTES: u64 = 256 << 10;

/// What comes, and in which form it should.
#[derive(Default)]
pub(super) struct Echoes {
    pub form: Form,
    /// The sink wants markers alone, and the server can cut.
    pub can_cut: bool,
    /// Since the last decision.
    entries: u64,
    bytes: u64,
    echoes: u64,
    dropped: u64,
    /// What an echo holds beside its marker, on average, when it was last seen whole.
    mean: u64,
}

impl Echoes {
    pub fn new(can_cut: bool) -> Echoes {
        Echoes { can_cut, ..Echoes::default() }
    }

    /// How an entry by itself is read: that costs nothing.
    pub fn one(&self) -> Form {
        if self.can_cut { Form::Cut } else { Form::Whole }
    }

    /// An entry came, and these events of it.
    pub fn saw(&mut self, size: usize, events: &[Event]) {
        if !self.can_cut {
            return;
        }
        self.entries += 1;
        self.bytes += size as u64;
        if let [event] = events
            && event.txn.is_some()
            && event.ns.as_str() == MARKERS
        {
            self.echoes += 1;
            self.dropped += size.saturating_sub(event.raw.as_bytes().len()) as u64;
        }
    }

    /// The other form, when it is time to change to it: when half of the bytes are echoes, and back when it would be a quarter.
    pub fn turn(&mut self) -> Option<Form> {
        if self.entries < ENTRIES && self.bytes < BYTES {
            return None;
        }
        let form = match self.form {
            Form::Whole => {
                self.mean = self.dropped.checked_div(self.echoes).unwrap_or(self.mean);
                if self.dropped * 2 > self.bytes { Form::Cut } else { Form::Whole }
            }
            Form::Cut => {
                let spared = self.mean * self.echoes;
                if spared * 4 > spared + self.bytes { Form::Cut } else { Form::Whole }
            }
        };
        (self.entries, self.bytes, self.echoes, self.dropped) = (0, 0, 0, 0);
        (form != self.form).then_some(form)
    }
}

/// The projection of [`Form::Cut`]. What decides is what the decoder goes by: a transaction, and an insert or update of a marker in
/// front.
///
/// A projection with an expression gives only the fields that it names, so all that an entry may have are named. Inside of `o`
/// nothing is: it comes as it is, whatever the names in it.
pub(super) fn cut() -> RawDocumentBuf {
    let first = doc! {"$arrayElemAt": ["$o.applyOps", 0]};
    let there = |field: &str| doc! {"$ne": [{"$type": field}, "missing"]};
    let is_echo = doc! {"$and": [
        // First, so that the others are not looked at for plain entries.
        {"$eq": ["$op", "c"]},
        there("$prevOpTime"),
        there("$lsid"),
        there("$txnNumber"),
        {"$not": ["$multiOpType"]},
        {"$isArray": "$o.applyOps"},
        {"$let": {"vars": {"first": &first}, "in": {"$and": [
            {"$eq": ["$$first.ns", MARKERS]},
            {"$in": ["$$first.op", ["i", "u"]]},
        ]}}},
    ]};
    // Fields that are missing stay so.
    let marker = doc! {
        "applyOps": [&first], "partialTxn": "$o.partialTxn", "prepare": "$o.prepare", "count": "$o.count",
        "commitTimestamp": "$o.commitTimestamp",
    };
    let mut projection = Document::new();
    for field in FIELDS {
        projection.insert(*field, 1);
    }
    projection.insert("o", doc! {"$cond": [is_echo, marker, "$o"]});
    RawDocumentBuf::try_from(&projection).unwrap_or_default()
}

/// The fields of an entry, but `o`, as far as they are known up to 8.0.
const FIELDS: &[&str] = &[
    "ts",
    "t",
    "h",
    "v",
    "op",
    "ns",
    "ui",
    "tid",
    "rid",
    "o2",
    "b",
    "wall",
    "lsid",
    "txnNumber",
    "stmtId",
    "prevOpTime",
    "preImageOpTime",
    "postImageOpTime",
    "needsRetryImage",
    "fromMigrate",
    "multiOpType",
    "destinedRecipient",
    "versionContext",
    "checkExistenceForDiffInsert",
    "_id",
];

#[cfg(test)]
#[path = "echoes_tests.rs"]
mod tests;
