//! From replies to batches: what is whole, and how far one may resume.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use oplogue_api::{BadEvent, Doc, Error, Event, Result, Txn};
use std::sync::Arc;

use super::{
    decode::{Decoded, Interned},
    fragments::Fragments,
    token,
};

/// A place between two events: the server's token and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub token: Doc,
    pub time: Timestamp,
}

impl Mark {
    pub fn new(token: &RawDocument) -> Result<Mark> {
        let time = token::read(token).ok_or_else(|| Error::bug("a resume token has an unknown shape"))?.time;
        Ok(Mark { token: Doc::from(token), time })
    }
}

/// What a reply gave.
pub(super) struct Assembled {
    pub events: Vec<Event>,
    pub bad: Vec<BadEvent>,
    /// From here resuming repeats nothing and loses nothing.
    pub end: Mark,
    pub head: Timestamp,
    pub bytes: usize,
}

/// Turns the replies of one cursor after the other into events.
///
/// # Where a batch ends
/// At the reply's `postBatchResumeToken`, unless an event is half read (fragments) or a transaction may go on in the
/// next reply. A transaction is known to be over when another event follows it, when the `postBatchResumeToken` is not
/// the token of its last event, or when a reply is empty (the server has then come to the end of the oplog, where whole
/// transactions only are). Until then `end` stays in front of the transaction.
pub(super) struct Assembler {
    interned: Interned,
    fragments: Fragments,
    include_system: bool,
    /// Events up to and with this token were delivered before; only after resuming by time.
    skip: Option<Box<str>>,
    /// The place behind the last whole item.
    last: Mark,
    /// The place before the transaction that may not be over.
    before_txn: Option<(Mark, Arc<Txn>, Timestamp)>,
    /// The stream ended with an `invalidate`.
    pub invalidated: bool,
}

impl Assembler {
    pub fn new(from: Mark, include_system: bool, skip: Option<Box<str>>) -> Assembler {
        Assembler {
            interned: Interned::default(),
            fragments: Fragments::default(),
            include_system,
            skip,
            last: from,
            before_txn: None,
            invalidated: false,
        }
    }

    /// The place behind everything that was read, inside a transaction too.
    pub fn last(&self) -> &Mark {
        &self.last
    }

    /// The place from which resuming repeats nothing and loses nothing.
    pub fn end(&self) -> &Mark {
        match &self.before_txn {
            Some((before, ..)) => before,
            None => &self.last,
        }
    }

    /// Reads a reply. Nothing is kept of one that cannot be read.
    pub fn reply(&mut self, reply: &Doc) -> Result<Assembled> {
        let cursor = reply.get_document("cursor").map_err(|_| unreadable())?;
        let batch = match cursor.get("nextBatch").map_err(|_| unreadable())? {
            Some(batch) => Some(batch),
            None => cursor.get("firstBatch").map_err(|_| unreadable())?,
        };
        let batch = batch.and_then(RawBsonRef::as_array).ok_or_else(unreadable)?;
        let mut out = Assembled {
            events: Vec::new(),
            bad: Vec::new(),
            end: self.last.clone(),
            head: head(reply),
            bytes: reply.as_bytes().len(),
        };
        let mut empty = true;
        for item in batch {
            let item = item.map_err(|_| unreadable())?.as_document().ok_or_else(unreadable)?;
            empty = false;
            if let Some(whole) = self.fragments.add(reply.slice(item))? {
                self.item(&whole, &mut out)?;
            }
        }
        if !self.fragments.is_open() {
            let post = cursor.get_document("postBatchResumeToken").ok().filter(|_| !self.invalidated);
            let moved = post.is_some_and(|post| token::data(post) != token::data(&self.last.token));
            if moved || empty {
                self.before_txn = None;
            }
            if moved && let Some(post) = post {
                self.last = Mark::new(post)?;
            }
        }
        out.end = self.end().clone();
        Ok(out)
    }

    fn item(&mut self, raw: &Doc, out: &mut Assembled) -> Result<()> {
        let token: RawDocumentBuf = match raw.get_document("_id") {
            Ok(token) => token.to_owned(),
            Err(_) => return Err(unreadable()),
        };
        let mark = Mark::new(&token)?;
        let known = match (&self.skip, token::data(&token)) {
            (Some(skip), Some(data)) if data <= &**skip => true,
            _ => {
                self.skip = None;
                false
            }
        };
        match self.interned.decode(raw) {
            Ok(Decoded::Event(event)) => {
                self.transaction(&event);
                let wanted = self.include_system
                    || !event.ns.is_system()
                    // What $out and its like wrote appears under its name with this.
                    || event.to.as_ref().is_some_and(|to| !to.is_system());
                if wanted && !known {
                    out.events.push(event);
                }
            }
            Ok(Decoded::Invalidate) => {
                self.before_txn = None;
                self.invalidated = true;
            }
            Err(_) if known => {}
            Err(error) => {
                out.bad.push(BadEvent { before: out.events.len(), time: mark.time, ns: None, raw: raw.clone(), error })
            }
        }
        self.last = mark;
        Ok(())
    }

    /// Notes where the transaction began that `event` belongs to. To be called before `last` moves on.
    fn transaction(&mut self, event: &Event) {
        match (&event.txn, &self.before_txn) {
            (None, _) => self.before_txn = None,
            (Some(txn), Some((_, open, time))) if Arc::ptr_eq(txn, open) && event.time == *time => {}
            (Some(txn), _) => self.before_txn = Some((self.last.clone(), txn.clone(), event.time)),
        }
    }
}

fn unreadable() -> Error {
    Error::transient("MongoDB sent a reply that cannot be read")
}

/// The newest cluster time that a reply mentions.
pub(super) fn head(reply: &RawDocument) -> Timestamp {
    let operation = reply.get_timestamp("operationTime").ok();
    let cluster = reply.get_document("$clusterTime").ok().and_then(|t| t.get_timestamp("clusterTime").ok());
    operation.max(cluster).unwrap_or(Timestamp { time: 0, increment: 0 })
}
