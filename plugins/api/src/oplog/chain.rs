//! Transactions of more than one oplog entry.

use bson::{RawDocument, Timestamp};

use super::{
    OpTime,
    envelope::{Envelope, Kind, command},
    operation::Context,
};
use crate::{BadEvent, Doc, Error, Result};

/// A transaction whose last entry has been read, and whose earlier entries the decoder needs.
///
/// The reader looks the earlier entries up, last to first, beginning with [`Chain::previous`] and going on with
/// [`Chain::link`] (a projection of `ts`, `t`, `prevOpTime`, `lsid`, `txnNumber` serves), and then hands them,
/// whole and first to last, to [`Decoder::chain_entry`](super::Decoder::chain_entry); the last entry itself is not
/// among them: [`Decoder::chain_end`](super::Decoder::chain_end) delivers what it holds. No more than one of the
/// entries, 16 MB each, needs to be in memory.
#[derive(Clone, Debug)]
pub struct Chain {
    pub(super) context: Context,
    /// The last entry: `applyOps` with a count, or `commitTransaction`.
    pub(super) last: Doc,
    pub(super) previous: OpTime,
    /// How many operations have been seen.
    pub(super) index: u32,
    /// The first operation was a marker, and what follows it is not wanted.
    pub(super) echo: bool,
}

/// An entry of a chain, as [`Chain::link`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The entry itself.
    pub at: OpTime,
    /// The one before it; `None` for the first.
    pub previous: Option<OpTime>,
}

impl Chain {
    /// The entry before the last one: where the search begins.
    pub fn previous(&self) -> OpTime {
        self.previous
    }

    /// Cluster time of the last entry, which is that of all the events.
    pub fn time(&self) -> Timestamp {
        self.context.time
    }

    /// Whether the first entry, once decoded, has shown that nothing more of the transaction is delivered (I7): the other entries
    /// need not be looked up.
    pub fn is_echo(&self) -> bool {
        self.echo
    }

    /// Reads where an earlier entry stands in the chain.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::ErrorKind::Data) when the entry does not belong to this transaction.
    pub fn link(&self, entry: &RawDocument) -> Result<Link> {
        let mut envelope = Envelope::default();
        envelope.read(entry)?;
        self.verify(&envelope)?;
        let ts = envelope.ts.ok_or_else(|| Error::data("an entry of a transaction has no `ts`"))?;
        let at = OpTime { ts, t: envelope.t };
        let previous = envelope.previous()?;
        // A chain that does not go back would be followed for ever.
        if ts >= self.context.time || previous.is_some_and(|previous| previous.ts >= ts) {
            return Err(Error::data("the entries of a transaction are not in order"));
        }
        Ok(Link { at, previous })
    }

    /// Reports the whole transaction as one bad event, its last entry: for a reader that cannot find the earlier entries,
    /// or finds that they do not belong together. `before` is how many events the batch has so far.
    pub fn bad(&self, error: Error, before: usize, bad: &mut Vec<BadEvent>) {
        bad.push(BadEvent::undecodable(before, self.context.time, None, self.last.clone(), error));
    }

    fn verify(&self, entry: &Envelope<'_>) -> Result<()> {
        let same = match &self.context.txn {
            Some(txn) => {
                entry.txn_number == Some(txn.number)
                    && entry.lsid.is_some_and(|lsid| lsid.as_bytes() == txn.lsid.as_bytes())
            }
            None => entry.lsid.is_none(),
        };
        if same { Ok(()) } else { Err(Error::data("an entry in the chain of a transaction belongs to another one")) }
    }

    /// The operations of an earlier entry, and its time.
    pub(super) fn operations<'a>(&self, entry: &'a RawDocument) -> Result<(Timestamp, &'a bson::RawArray)> {
        let mut envelope = Envelope::default();
        envelope.read(entry)?;
        self.verify(&envelope)?;
        if envelope.kind == Some(Kind::Command)
            && let ("applyOps", operations) = command(envelope.body()?)?
            && let Some(operations) = operations.as_array()
            && let Some(time) = envelope.ts
        {
            return Ok((time, operations));
        }
        Err(Error::data("an entry in the chain of a transaction holds no operations"))
    }
}
