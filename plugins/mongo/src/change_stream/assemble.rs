//! From replies to batches: what is whole, and how far one may resume.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, Timestamp};
use oplogue_api::{BadEvent, Doc, Error, Event, Result, Txn};

use super::{
    decode::Interned,
    fragments::Fragments,
    show::{Show, is_marker},
    token::{self, Token},
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

    /// The place behind a change event. It shares the event's memory until [`Mark::detach`].
    fn behind(event: &Doc) -> Result<Mark> {
        let token = event.get_document("_id").map_err(|_| unreadable())?;
        let time = token::read(token).ok_or_else(|| Error::bug("a resume token has an unknown shape"))?.time;
        Ok(Mark { token: event.slice(token), time })
    }

    fn detach(&mut self) {
        self.token = self.token.detach();
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
    show: Show,
    /// Events up to and with this one were delivered before; only after resuming by time.
    skip: Option<Token>,
    /// The place behind the last whole item.
    last: Mark,
    /// The transaction that may not be over.
    open_txn: Option<OpenTxn>,
    /// The stream ended with an `invalidate`.
    pub invalidated: bool,
}

struct OpenTxn {
    /// The place before it.
    before: Mark,
    txn: Arc<Txn>,
    /// The same, as its events have it.
    told: Arc<Txn>,
    time: Timestamp,
    /// It began with a marker: a replicator's.
    marked: bool,
}

impl Assembler {
    pub fn new(from: Mark, show: Show, skip: Option<Token>) -> Assembler {
        Assembler {
            interned: Interned::default(),
            fragments: Fragments::default(),
            show,
            skip,
            last: from,
            open_txn: None,
            invalidated: false,
        }
    }

    /// The place behind everything that was read, inside a transaction too.
    pub fn last(&self) -> &Mark {
        &self.last
    }

    /// The place from which resuming repeats nothing and loses nothing.
    pub fn end(&self) -> &Mark {
        match &self.open_txn {
            Some(open) => &open.before,
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
            // Resumed by time, the server itself stands before what was delivered.
            let post = post.filter(|post| self.skip.is_none() || token::read(post) > self.skip);
            let moved = post.is_some_and(|post| token::data(post) != token::data(&self.last.token));
            if moved || empty {
                self.open_txn = None;
            }
            if moved && let Some(post) = post {
                self.last = Mark::new(post)?;
            }
        }
        // A reply is not to stay in memory for a token.
        self.last.detach();
        if let Some(open) = &mut self.open_txn {
            open.before.detach();
        }
        out.end = self.end().clone();
        Ok(out)
    }

    fn item(&mut self, raw: &Doc, out: &mut Assembled) -> Result<()> {
        let mark = Mark::behind(raw)?;
        let known = self.skip.is_some() && token::read(&mark.token) <= self.skip;
        if !known {
            self.skip = None;
        }
        match self.interned.decode(raw) {
            Ok(None) => {
                self.open_txn = None;
                self.invalidated = true;
            }
            _ if known => {}
            Ok(Some(mut event)) => {
                let marked = self.transaction(&event);
                if marked && let Some(open) = &self.open_txn {
                    event.txn = Some(open.told.clone());
                }
                if self.show.wants(&event, marked) {
                    out.events.push(event);
                }
            }
            Err(error) => out.bad.push(BadEvent::undecodable(out.events.len(), mark.time, None, raw.clone(), error)),
        }
        if !known {
            self.last = mark;
        }
        Ok(())
    }

    /// Notes where the transaction began that `event` belongs to; whether that is a replicator's. To be called before `last`
    /// moves on.
    fn transaction(&mut self, event: &Event) -> bool {
        let Some(txn) = &event.txn else {
            self.open_txn = None;
            return false;
        };
        match &self.open_txn {
            Some(open) if Arc::ptr_eq(txn, &open.txn) && event.time == open.time => open.marked,
            _ => {
                let (before, marked) = (self.last.clone(), is_marker(event));
                let told = if marked { Arc::new(Txn { replicated: true, ..Txn::clone(txn) }) } else { txn.clone() };
                self.open_txn = Some(OpenTxn { before, txn: txn.clone(), told, time: event.time, marked });
                marked
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};
    use oplogue_api::ErrorKind;

    const SECOND: u32 = 1_795_230_382;

    fn hex(increment: u32, index: u8) -> String {
        let index = if index == 0 { "29".to_owned() } else { format!("2B{:02X}", index * 2) };
        format!("82{SECOND:08X}{increment:08X}2B022C0100{index}6E04")
    }

    fn high_water(increment: u32) -> String {
        format!("82{SECOND:08X}{increment:08X}2B0229296E04")
    }

    fn insert(increment: u32, index: u8, txn: Option<i64>) -> RawDocumentBuf {
        let mut doc = rawdoc! {
            "_id": {"_data": hex(increment, index)}, "operationType": "insert", "ns": {"db": "d", "coll": "c"},
            "clusterTime": Timestamp { time: SECOND, increment }, "documentKey": {"_id": 1}, "fullDocument": {"_id": 1},
        };
        if let Some(number) = txn {
            doc.append(bson::cstr!("lsid"), rawdoc! {"id": 1});
            doc.append(bson::cstr!("txnNumber"), number);
        }
        doc
    }

    fn reply(events: Vec<RawDocumentBuf>, post: &str) -> Doc {
        let mut batch = bson::RawArrayBuf::new();
        events.into_iter().for_each(|e| batch.push(e));
        let cursor = rawdoc! {"nextBatch": batch, "postBatchResumeToken": {"_data": post}};
        let head = Timestamp { time: SECOND, increment: 99 };
        Doc::from(rawdoc! {"cursor": cursor, "operationTime": head})
    }

    fn assembler(skip: Option<&str>) -> Assembler {
        let start = rawdoc! {"_data": skip.map_or_else(|| high_water(1), str::to_owned)};
        Assembler::new(Mark::new(&start).unwrap(), Show::default(), token::read(&start).filter(|_| skip.is_some()))
    }

    fn end(a: &Assembled) -> &str {
        token::data(&a.end.token).unwrap()
    }

    #[test]
    fn a_batch_ends_where_the_reply_does() {
        let mut a = assembler(None);
        let out = a.reply(&reply(vec![insert(2, 0, None), insert(3, 0, None)], &high_water(9))).unwrap();
        assert_eq!((out.events.len(), end(&out), out.head.increment), (2, &*high_water(9), 99));
        let out = a.reply(&reply(vec![], &high_water(12))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (0, &*high_water(12)));
        let out = a.reply(&reply(vec![insert(20, 0, None)], &hex(20, 0))).unwrap();
        assert_eq!(end(&out), hex(20, 0));
    }

    #[test]
    fn an_end_is_never_inside_a_transaction() {
        let mut a = assembler(None);
        let out = a.reply(&reply(vec![insert(2, 0, None), insert(5, 0, Some(1))], &hex(5, 0))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (2, &*hex(2, 0)));
        let out = a.reply(&reply(vec![insert(5, 1, Some(1)), insert(5, 2, Some(1))], &hex(5, 2))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (2, &*hex(2, 0)), "the place before the transaction is repeated");
        // Another one follows: the first is over, the second may not be.
        let out = a.reply(&reply(vec![insert(5, 3, Some(1)), insert(6, 0, Some(2))], &hex(6, 0))).unwrap();
        assert_eq!(end(&out), hex(5, 3));
        // The end of the oplog.
        let out = a.reply(&reply(vec![], &hex(6, 0))).unwrap();
        assert_eq!(end(&out), hex(6, 0));
    }

    #[test]
    fn the_end_of_a_transaction_is_known_by_what_follows() {
        for (events, post, want) in [
            (vec![insert(5, 0, Some(1)), insert(6, 0, None)], hex(6, 0), hex(6, 0)),
            (vec![insert(5, 0, Some(1))], high_water(7), high_water(7)),
            // The same session and number cannot come again, but another time is another transaction.
            (vec![insert(5, 0, Some(1)), insert(6, 0, Some(1))], hex(6, 0), hex(5, 0)),
        ] {
            assert_eq!(end(&assembler(None).reply(&reply(events, &post)).unwrap()), want);
        }
    }

    #[test]
    fn an_end_is_never_inside_a_split_event() {
        let part = |n: i32, increment: u32| {
            let mut doc = insert(increment, 0, None);
            if n > 1 {
                doc = rawdoc! {"_id": {"_data": hex(increment, 0)}, "updateDescription": {}};
            }
            doc.append(bson::cstr!("splitEvent"), rawdoc! {"fragment": n, "of": 3});
            doc
        };
        let mut a = assembler(None);
        let out = a.reply(&reply(vec![insert(2, 0, None), part(1, 5)], &hex(5, 0))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (1, &*hex(2, 0)));
        let out = a.reply(&reply(vec![part(2, 5)], &hex(5, 0))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (0, &*hex(2, 0)));
        let out = a.reply(&reply(vec![], &hex(5, 0))).unwrap();
        assert_eq!(end(&out), hex(2, 0), "an empty reply does not end a split event");
        let out = a.reply(&reply(vec![part(3, 5)], &hex(5, 0))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (1, &*hex(5, 0)));
    }

    #[test]
    fn resumed_by_time_what_was_delivered_is_left_out() {
        let delivered = hex(5, 1);
        let mut a = assembler(Some(&delivered));
        let out = a.reply(&reply(vec![], &high_water(5))).unwrap();
        assert_eq!(end(&out), delivered, "the end does not go back");
        let out = a.reply(&reply(vec![insert(5, 0, None), insert(5, 1, None)], &hex(5, 1))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (0, &*delivered));
        let out = a.reply(&reply(vec![insert(5, 2, None), insert(6, 0, None)], &hex(6, 0))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (2, &*hex(6, 0)));
        let out = a.reply(&reply(vec![], &high_water(9))).unwrap();
        assert_eq!(end(&out), high_water(9));
    }

    #[test]
    fn an_invalidate_is_a_place_but_no_event() {
        let mut a = assembler(None);
        let over = rawdoc! {"_id": {"_data": hex(7, 0)}, "operationType": "invalidate"};
        let out = a.reply(&reply(vec![insert(2, 0, None), over], &high_water(3))).unwrap();
        assert_eq!((out.events.len(), end(&out)), (1, &*hex(7, 0)));
        assert!(a.invalidated);
    }

    #[test]
    fn what_cannot_be_decoded_keeps_its_place_and_its_bytes() {
        let bad =
            rawdoc! {"_id": {"_data": hex(3, 0)}, "operationType": "insert", "ns": {"db": "d"}, "documentKey": {}};
        let mut a = assembler(None);
        let out = a.reply(&reply(vec![insert(2, 0, None), bad.clone(), insert(4, 0, None)], &hex(4, 0))).unwrap();
        assert_eq!((out.events.len(), out.bad.len(), end(&out)), (2, 1, &*hex(4, 0)));
        let kept = &out.bad[0];
        assert_eq!((kept.before, kept.time.increment, kept.error.kind()), (1, 3, ErrorKind::Data));
        assert_eq!(kept.raw.as_bytes(), bad.as_bytes());
    }

    #[test]
    fn unknown_operations_are_barriers_never_dropped() {
        let new = rawdoc! {"_id": {"_data": hex(3, 0)}, "operationType": "teleport", "ns": {"db": "d", "coll": "c"}};
        let nowhere = rawdoc! {"_id": {"_data": hex(4, 0)}, "operationType": "endOfWorld"};
        let out = assembler(None).reply(&reply(vec![new, nowhere], &hex(4, 0))).unwrap();
        let ops: Vec<_> = out.events.iter().map(|e| (e.op, e.ns.as_str())).collect();
        assert_eq!(ops, [(oplogue_api::Op::Other, "d.c"), (oplogue_api::Op::Other, "")]);
    }
}
