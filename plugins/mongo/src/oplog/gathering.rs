//! Looking up the earlier entries of a transaction.

use oplogue_api::{
    Doc, Error, Result,
    oplog::{Chain, OpTime},
};

use super::{
    echoes::Form,
    log::{EntryPart, Log, op_time},
};
use crate::errors::Phase;

/// A transaction whose earlier entries are being looked up. Only their optimes are remembered, so no more than one of
/// the entries is in memory beside the reply.
pub(crate) struct Gathering {
    pub chain: Chain,
    /// The last entry.
    pub at: OpTime,
    /// Going back: the entry to look at next.
    back: Option<OpTime>,
    /// The entries found, last to first, without those that are delivered.
    found: Vec<OpTime>,
    /// How the first entry is read. It alone may be cut: behind it, no entry is an echo's that is asked for.
    first: Form,
}

/// What to deliver next.
pub(crate) enum Part {
    /// An earlier entry.
    Entry(Doc),
    /// The last entry: all the others are delivered.
    Last,
    /// The transaction cannot be put together.
    Broken(Error),
}

impl Gathering {
    pub fn new(chain: Chain, at: OpTime, first: Form) -> Gathering {
        let back = Some(chain.previous());
        Gathering { chain, at, back, found: Vec::new(), first }
    }

    /// Cancel-safe, and gives the same part again until [`Gathering::delivered`].
    pub async fn next_part(&mut self, log: &Log) -> Result<Part> {
        while let Some(wanted) = self.back {
            let Some(entry) = look_up(log, wanted, EntryPart::Link).await? else { return lost(log, wanted).await };
            match self.chain.link(&entry) {
                Ok(link) => {
                    self.found.push(wanted);
                    self.back = link.previous;
                }
                Err(e) => return Ok(Part::Broken(e)),
            }
        }
        let Some(&wanted) = self.found.last() else { return Ok(Part::Last) };
        match look_up(log, wanted, EntryPart::Contents(self.first)).await? {
            Some(entry) => Ok(Part::Entry(entry)),
            None => lost(log, wanted).await,
        }
    }

    /// The entry that `next_part` gave has been decoded. If it was the first one and shows an echo (I7), the others stay on the
    /// server.
    pub fn delivered(&mut self) {
        self.found.pop();
        self.first = Form::Whole;
        if self.chain.is_echo() {
            self.found.clear();
        }
    }
}

async fn look_up(log: &Log, wanted: OpTime, part: EntryPart) -> Result<Option<Doc>> {
    match log.entry(wanted.ts, part, Phase::Read).await? {
        Some(entry) if op_time(&entry)? == wanted => Ok(Some(entry)),
        _ => Ok(None),
    }
}

async fn lost(log: &Log, wanted: OpTime) -> Result<Part> {
    match log.oldest(Phase::Read).await? {
        // The position itself is still there; only this transaction began before what the oplog holds.
        Some(oldest) if oldest.at.ts > wanted.ts => {
            Ok(Part::Broken(Error::data("the first entries of a transaction are no longer in the oplog")))
        }
        _ => Err(Error::transient("an earlier entry of a transaction was not found")
            .hint("another member than before answered, or one that is rolling back")),
    }
}
