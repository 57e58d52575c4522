use std::{fmt, sync::Arc};

use bson::{Timestamp, rawdoc};

use crate::{Change, Doc, Error, Namespace};

/// What an event says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// A document was inserted; `after` holds it.
    Insert,
    /// Fields of a document were changed; `change` says which.
    Update,
    /// A document was replaced; `after` holds the new one.
    Replace,
    /// A document was deleted.
    Delete,
    /// Barrier: a collection or view was created.
    Create,
    /// Barrier: a collection was dropped.
    Drop,
    /// Barrier: a database was dropped.
    DropDatabase,
    /// Barrier: a collection was renamed, to [`Event::to`].
    Rename,
    /// Barrier: indexes were created or dropped.
    Index,
    /// Barrier: another command (collMod, …); `raw` says which.
    Other,
    /// Barrier: the route lost its position and went on from a later one; events between are missing. `raw` is
    /// `{from: Timestamp, to: Timestamp, reason: string}`.
    Gap,
    /// An event that could not be decoded or delivered, as a dead-letter sink gets it. `raw` is
    /// `{route: string, error: string, hint?: string, ns?: string, time: Timestamp, id?: string, by?: string, event: document | binary}`: the event
    /// ([`Event::to_document`]), or what the server sent where it could not be decoded. `by` is the transform that refused it; else the sink did.
    DeadLetter,
}

impl Op {
    /// Whether the event concerns more than one document: all earlier events are delivered before it, and all later
    /// ones after it.
    pub fn is_barrier(self) -> bool {
        !matches!(self, Op::Insert | Op::Update | Op::Replace | Op::Delete)
    }
    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Replace => "replace",
            Op::Delete => "delete",
            Op::Create => "create",
            Op::Drop => "drop",
            Op::DropDatabase => "dropDatabase",
            Op::Rename => "rename",
            Op::Index => "index",
            Op::Other => "other",
            Op::Gap => "gap",
            Op::DeadLetter => "deadLetter",
        }
    }
    /// All of them, in the order of their declaration.
    pub const ALL: &[Op] = &[
        Op::Insert,
        Op::Update,
        Op::Replace,
        Op::Delete,
        Op::Create,
        Op::Drop,
        Op::DropDatabase,
        Op::Rename,
        Op::Index,
        Op::Other,
        Op::Gap,
        Op::DeadLetter,
    ];
}

/// The transaction an event belongs to; one value shared by all its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The logical session: `{id: UUID, uid: binary}`.
    pub lsid: Doc,
    /// The number of the transaction within the session.
    pub number: i64,
    /// A replicator wrote it: it began with a marker in `__mmm.markers`.
    pub replicated: bool,
}

/// One change, in the same shape whatever source it came from.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub op: Op,
    /// Where.
    pub ns: Namespace,
    /// The document key: `_id`, and the shard key where there is one and the source knows it. Absent on barriers.
    pub key: Option<Doc>,
    /// The full document: always for inserts and replacements, for updates when the source is asked to have it.
    pub after: Option<Doc>,
    /// The document before the change, when the source has it.
    pub before: Option<Doc>,
    /// What an update changed.
    pub change: Option<Change>,
    /// The new name, for a rename.
    pub to: Option<Namespace>,
    /// Cluster time; that of the last entry (the commit) for every event of a transaction.
    pub time: Timestamp,
    /// The place within the oplog entry or transaction, counted over all its operations, skipped ones included.
    pub index: u32,
    /// The entry that holds the operation and its place among the inserts, updates and deletes of that entry, where that is
    /// not [`Event::id`]: in transactions of several entries. Only known to sources that read the oplog.
    pub entry: Option<EventId>,
    /// Wall clock of the primary, in milliseconds since 1970, where the server gives it.
    pub wall: Option<i64>,
    /// The transaction, when the event is a part of one (a retryable write alone is none).
    pub txn: Option<Arc<Txn>>,
    /// What the server sent for this event: the oplog entry, the operation inside it, or the change event.
    pub raw: Doc,
}

impl Event {
    /// An event with what every event has, at index 0; all else is absent:
    /// `Event { key, after, ..Event::new(op, ns, time, raw) }`.
    pub fn new(op: Op, ns: Namespace, time: Timestamp, raw: Doc) -> Event {
        Event {
            op,
            ns,
            key: None,
            after: None,
            before: None,
            change: None,
            to: None,
            time,
            index: 0,
            entry: None,
            wall: None,
            txn: None,
            raw,
        }
    }
    /// The canonical position: equal for the same change, whichever source reported it.
    pub fn id(&self) -> EventId {
        EventId { time: self.time, index: self.index }
    }
    /// Whether a replicator wrote it, and no application of this deployment. Never true where the source cannot see markers; see
    /// [`Interest::origins`](crate::Interest).
    pub fn is_replicated(&self) -> bool {
        self.txn.as_ref().is_some_and(|txn| txn.replicated)
    }
    /// Where readers that take each oplog entry by itself find the operation: see [`Event::entry`].
    pub fn entry_id(&self) -> EventId {
        self.entry.unwrap_or(self.id())
    }
    /// A copy that shares no memory with the reply it came in: a few kept events of a large reply would otherwise keep
    /// all of it.
    #[must_use]
    pub fn detach(&self) -> Event {
        Event {
            key: self.key.as_ref().map(Doc::detach),
            after: self.after.as_ref().map(Doc::detach),
            before: self.before.as_ref().map(Doc::detach),
            change: self.change.as_ref().map(Change::detach),
            raw: self.raw.detach(),
            ..self.clone()
        }
    }
    /// How many bytes of the document contents the event carries, roughly: what byte limits count. Parts that lie outside of `raw`
    /// count as well: a document that was looked up for the event, and all that a transform has edited.
    pub fn size(&self) -> usize {
        let raw = self.raw.as_bytes();
        let change = self.change.as_ref().map(|change| match change {
            Change::ChangeStream(doc) | Change::OplogV1(doc) | Change::OplogV2(doc) => doc,
        });
        let parts = [&self.after, &self.before, &self.key].into_iter().flatten().chain(change);
        let outside = parts.map(|part| part.as_bytes()).filter(|part| !raw.as_ptr_range().contains(&part.as_ptr()));
        raw.len() + outside.map(<[u8]>::len).sum::<usize>()
    }
}

/// Identifies an event within one deployment, and orders it: cluster time, then the index within the entry or
/// transaction. Written `seconds.increment.index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// Cluster time of the entry, or of the commit.
    pub time: Timestamp,
    /// Index among all operations of the entry or transaction.
    pub index: u32,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.time.time, self.time.increment, self.index)
    }
}

/// Where a reader stands. The token is opaque to all but the source that made it; it names the deployment as well, so
/// that a source refuses the position of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// What the source needs to resume exactly here.
    pub token: Doc,
    /// Cluster time of this place: it is behind all that has this time or an earlier one, and before all that has a later one.
    pub time: Timestamp,
}

impl Position {
    /// A place of which only the cluster time is known, with the token `{timeOnly: true}`. Kept by programs other than oplogue. The
    /// deployment cannot be verified then.
    pub fn at(time: Timestamp) -> Position {
        Position { token: Doc::from(rawdoc! {"timeOnly": true}), time }
    }
    /// Whether the position was made by [`Position::at`].
    pub fn is_time_only(&self) -> bool {
        self.token.get_bool("timeOnly").is_ok_and(|is| is)
    }
}

/// An entry that a source could not decode, or an event that a transform refused. The rest of the batch is sound.
#[derive(Debug)]
pub struct BadEvent {
    /// How many events of the batch come before it.
    pub before: usize,
    /// Cluster time, as far as it could be read.
    pub time: Timestamp,
    /// The namespace, as far as it could be read.
    pub ns: Option<Namespace>,
    /// What the server sent, byte by byte. Empty where `event` holds it.
    pub raw: Doc,
    /// The event, if it could be decoded. The transforms behind edit it like those of the batch: what they take out shall not be in
    /// a dead letter either.
    pub event: Option<Box<Event>>,
    /// The name of the transform that refused it. The engine fills it in.
    pub by: Option<String>,
    /// What is wrong with it, of kind [`ErrorKind::Data`](crate::ErrorKind::Data).
    pub error: Error,
}

impl BadEvent {
    /// An entry that could not be decoded.
    pub fn undecodable(before: usize, time: Timestamp, ns: Option<Namespace>, raw: Doc, error: Error) -> BadEvent {
        BadEvent { before, time, ns, raw, event: None, by: None, error }
    }
    /// An event that a transform refuses.
    pub fn refused(before: usize, event: Event, error: Error) -> BadEvent {
        let (time, ns) = (event.time, Some(event.ns.clone()));
        BadEvent { before, time, ns, raw: Doc::empty(), event: Some(Box::new(event)), by: None, error }
    }
}

/// What one read gave.
#[derive(Debug)]
pub struct Batch {
    /// The events, in source order; none for a heartbeat.
    pub events: Vec<Event>,
    /// Entries that could not be decoded, in source order.
    pub bad: Vec<BadEvent>,
    /// The end of what was *read*, so that filtered events and idle time advance checkpoints too. Always a place from
    /// which resuming repeats nothing and loses nothing, so never inside a transaction: a transaction that spans several
    /// batches repeats the position before it until its last batch.
    pub end: Position,
    /// The newest cluster time that the server reported with this reply: `head - end.time` is how far behind it is.
    pub head: Timestamp,
    /// The size of the reply in bytes, all of which stays in memory until the last event of the batch is dropped.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn the_size_counts_what_lies_outside_of_the_raw_event_too() {
        let raw = Doc::from(rawdoc! {"o": {"_id": 1, "x": "abc"}});
        let time = Timestamp { time: 1, increment: 1 };
        let event = Event::new(Op::Insert, Namespace::new("a.b"), time, raw.clone());
        let inside = raw.slice(raw.get_document("o").unwrap());
        let size = raw.as_bytes().len();
        assert_eq!(event.size(), size);
        assert_eq!(Event { after: Some(inside.clone()), ..event.clone() }.size(), size);
        let after = Event { after: Some(inside.detach()), ..event };
        assert_eq!(after.size(), size + inside.as_bytes().len());
        // As a transform leaves it.
        let part = || Some(inside.detach());
        let change = part().map(Change::OplogV2);
        let edited = Event { raw: Doc::empty(), key: part(), before: part(), change, ..after };
        assert_eq!(edited.size(), 5 + 4 * inside.as_bytes().len());
    }
}
