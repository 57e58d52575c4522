//! Transactions of more than one entry: the earlier entries are remembered by their place in the file, not by what they
//! hold, and read again when the last one comes.

use std::{collections::BTreeMap, path::Path};

use bson::{RawDocument, RawDocumentBuf};
use oplogue_api::{
    Doc, Error, Result,
    oplog::{Chain, OpTime},
};

use super::entries::Entries;

/// So many earlier entries are remembered at once (a few hundred bytes each), the newest ones (I6). They are let go of when
/// their transaction ends; what remains is those of aborted transactions.
const MOST_REMEMBERED: usize = 50_000;

#[derive(Default)]
pub(super) struct PartialEntries(BTreeMap<OpTime, Remembered>);

struct Remembered {
    offset: u64,
    /// What [`Chain::link`] wants to see of the entry.
    link: RawDocumentBuf,
}

/// A transaction whose last entry has been read, and which is being delivered entry by entry.
pub(super) struct Gathering {
    pub(super) chain: Chain,
    /// The offsets of the earlier entries that are still to be delivered, last first.
    left: Vec<u64>,
    entries: Entries,
    /// Behind its last entry.
    pub(super) end: u64,
    pub(super) size: usize,
}

impl PartialEntries {
    pub(super) fn remember(&mut self, at: OpTime, offset: u64, entry: &RawDocument) {
        let mut link = RawDocumentBuf::new();
        for element in entry.iter_elements().flatten() {
            if matches!(element.key().as_str(), "ts" | "t" | "prevOpTime" | "lsid" | "txnNumber")
                && let Ok(value) = element.value()
            {
                link.append(element.key(), value);
            }
        }
        self.0.insert(at, Remembered { offset, link });
        if self.0.len() > MOST_REMEMBERED {
            self.0.pop_first();
        }
    }

    /// Finds the earlier entries of a transaction.
    ///
    /// # Errors
    /// `Data` when one is not there, or belongs to another transaction; otherwise what is wrong with the file.
    pub(super) fn gather(&mut self, chain: &Chain) -> Result<Vec<u64>> {
        let mut next = Some(chain.previous());
        let mut found = Vec::new();
        while let Some(at) = next {
            let Some(entry) = self.0.get(&at) else {
                return Err(Error::data(
                    "earlier entries of this transaction are not in the dump, which begins behind them",
                ));
            };
            let link = chain.link(&entry.link)?;
            found.push((at, entry.offset));
            next = link.previous;
        }
        for (at, _) in &found {
            self.0.remove(at);
        }
        Ok(found.into_iter().map(|(_, offset)| offset).collect())
    }
}

impl Gathering {
    pub(super) fn new(path: &Path, chain: Chain, left: Vec<u64>, end: u64, size: usize) -> Result<Gathering> {
        Ok(Gathering { chain, left, entries: Entries::open(path)?, end, size })
    }

    /// The next of the earlier entries; `None` when all have been.
    pub(super) fn next(&mut self) -> Result<Option<Doc>> {
        if self.chain.is_echo() {
            return Ok(None);
        }
        let Some(offset) = self.left.last() else { return Ok(None) };
        self.entries.skip_to(*offset)?;
        let entry = self.entries.one()?;
        self.left.pop();
        let gone = || {
            Error::operator(format!("the dump {} has become shorter", self.entries.path().display()))
                .hint("put the whole dump back in its place, and start the route again")
        };
        entry.ok_or_else(gone).map(Some)
    }
}
