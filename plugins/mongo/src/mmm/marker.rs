//! The marker: the first write of each transaction of a replicator, and its checkpoint.
//!
//! ```text
//! { _id: "factory->cloud", node: "factory", peer: "cloud", lane: 0, route: "…", generation: 3, seq: 4711,
//!   origin: "factory", position: { token: BinData, time: Timestamp }, done: { time: Timestamp, index: 0 }, clock: 1764049191000,
//!   again: [{ns: "app.x", id: 1, base: Timestamp}], waits: […], session: UUID, saw: { cloud: Timestamp, … }, seen: { cloud: Timestamp, … }, writes: BinData, log: { clock: 0, since: Timestamp, since_clock: 0 }, applied: Date }
//! ```
//!
//! It is always replaced whole, so that the entry in the log of `peer` (and the event of a change stream) shows all of it;
//! `seq` makes each one differ, or the server would leave it out of the transaction.

use bson::{Binary, Bson, DateTime, Document, Timestamp, Uuid, doc, spec::BinarySubtype};
use oplogue_api::{Doc, EventId, Position};

use super::{forward::Forward, touched::Touched, unsettled::Unsettled, word::Word};

/// A directed link between two nodes: the changes of `node` are written to `peer`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub node: String,
    pub peer: String,
}

impl Link {
    /// The `_id` of the marker of a lane.
    pub fn marker_id(&self, lane: u32) -> String {
        match lane {
            0 => format!("{}->{}", self.node, self.peer),
            lane => format!("{}->{}/{lane}", self.node, self.peer),
        }
    }
}

/// What a marker says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Marker {
    pub link: Link,
    pub lane: u32,
    /// The route that writes it, for people.
    pub route: String,
    /// Whoever has claimed the link last: a transaction of an earlier one does not find its marker, and fails.
    pub generation: u64,
    /// The session of its transactions.
    pub session: Option<Uuid>,
    /// Counts the transactions.
    pub seq: u64,
    /// The node whose own writes the transaction carries: `node`, unless that one forwards.
    pub origin: String,
    /// How far the log of `node` is applied at `peer`, with this transaction.
    pub position: Position,
    /// The last change that is applied: before `position`, or behind it where a batch took several transactions. What others go by:
    /// a position also moves with what does not concern them.
    pub done: EventId,
    /// The greatest clock (milliseconds) of the writes of the transaction, and of all before.
    pub clock: i64,
    /// For each other node, how far its log was applied at `node` when `node` had come to `position`.
    pub seen: Vec<(String, Timestamp)>,
    /// The same for the first event of the transaction: what all of its writes have seen, at least.
    pub saw: Vec<(String, Timestamp)>,
    /// For each document that the transaction writes: hash, time at the origin and clock of the last write, 8 bytes each, little
    /// endian. Only where more than one link leads to the peer: the others look there what is concurrent with theirs.
    pub writes: Vec<u8>,
    /// Which fields they change. Only where besides that the peer merges.
    pub fields: Touched,
    /// What the peer has merged in this transaction, and says again to the others.
    pub again: Vec<Word>,
    /// What the peer has left out in this transaction, and waits for the word of the arbiter on.
    pub waits: Vec<Word>,
    /// The documents that met over a unique value in this transaction; in the marker of the link that settles them, all that are not settled yet.
    pub unsettled: Unsettled,
    /// What the writer needs to go on.
    pub log: LogState,
    /// Only where the link forwards.
    pub forward: Option<Forward>,
}

/// How far the writer knows both logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// The greatest clock of the markers in the log of `node` up to `position`.
    pub clock: i64,
    /// From where on the log of `peer` has to be known to notice conflicts with what comes.
    pub since: Timestamp,
    /// The greatest clock of the markers in the log of `peer` up to `since`.
    pub since_clock: i64,
}

impl Marker {
    /// What finds it as long as nobody else has written it.
    pub fn filter(&self) -> Document {
        doc! {
            "_id": self.link.marker_id(self.lane),
            "generation": self.generation as i64,
            "seq": self.seq as i64,
        }
    }

    /// The next one by itself, without data: nothing that it says of a transaction.
    pub fn alone(self) -> Marker {
        Marker {
            seq: self.seq + 1,
            writes: Vec::new(),
            fields: Touched::default(),
            again: Vec::new(),
            waits: Vec::new(),
            forward: self.forward.map(Forward::alone),
            ..self
        }
    }

    pub fn encode(&self) -> Document {
        let token = Binary { subtype: BinarySubtype::Generic, bytes: self.position.token.bytes().to_vec() };
        let times = |seen: &[(String, Timestamp)]| -> Document {
            seen.iter().map(|(node, time)| (node.clone(), Bson::Timestamp(*time))).collect()
        };
        let writes = Binary { subtype: BinarySubtype::Generic, bytes: self.writes.clone() };
        let mut document = doc! {
            "_id": self.link.marker_id(self.lane),
            "node": &self.link.node,
            "peer": &self.link.peer,
            "lane": self.lane as i32,
            "route": &self.route,
            "generation": self.generation as i64,
            "session": self.session,
            "seq": self.seq as i64,
            "origin": &self.origin,
            "position": {"token": token, "time": self.position.time},
            "done": {"time": self.done.time, "index": i64::from(self.done.index)},
            "clock": self.clock,
            "saw": times(&self.saw),
            "seen": times(&self.seen),
            "writes": writes,
            "log": {"clock": self.log.clock, "since": self.log.since, "since_clock": self.log.since_clock},
            "applied": DateTime::now(),
        };
        for (name, words) in [("again", &self.again), ("waits", &self.waits)] {
            if !words.is_empty() {
                document.insert(name, words.iter().map(Word::encode).collect::<Vec<_>>());
            }
        }
        if let Some(fields) = self.fields.encode() {
            document.insert("fields", fields);
        }
        if !self.unsettled.is_empty() {
            document.insert("unsettled", self.unsettled.encode());
        }
        if let Some(forward) = &self.forward {
            document.insert("forward", forward.encode());
        }
        document
    }

    /// What words and fields take, roughly.
    pub fn words_bytes(&self) -> usize {
        let same = self.forward.iter().flat_map(|forward| &forward.same);
        self.again.iter().chain(&self.waits).chain(same).map(Word::bytes).sum::<usize>() + self.fields.bytes()
    }

    /// `None`: it is not of the known shape; somebody has edited it.
    pub fn decode(stored: &Document) -> Option<Marker> {
        let text = |name: &str| stored.get_str(name).ok().map(str::to_owned);
        let position = stored.get_document("position").ok()?;
        let token = Doc::new(position.get_binary_generic("token").ok()?.clone().into()).ok()?;
        let done = stored.get_document("done").ok()?;
        let log = stored.get_document("log").ok()?;
        let times = |name: &str| -> Option<Vec<(String, Timestamp)>> {
            let times = stored.get_document(name).ok()?;
            times.iter().map(|(node, at)| Some((node.clone(), at.as_timestamp()?))).collect()
        };
        let words = |name: &str| match stored.get(name) {
            Some(words) => words.as_array()?.iter().map(Word::decode).collect(),
            None => Some(Vec::new()),
        };
        let marker = Marker {
            link: Link { node: text("node")?, peer: text("peer")? },
            lane: u32::try_from(integer(stored.get("lane")?)?).ok()?,
            route: text("route")?,
            generation: u64::try_from(integer(stored.get("generation")?)?).ok()?,
            session: match stored.get("session") {
                Some(Bson::Binary(id)) => id.to_uuid().ok(),
                _ => None,
            },
            seq: u64::try_from(integer(stored.get("seq")?)?).ok()?,
            origin: text("origin")?,
            position: Position { token, time: position.get_timestamp("time").ok()? },
            done: EventId {
                time: done.get_timestamp("time").ok()?,
                index: u32::try_from(integer(done.get("index")?)?).ok()?,
            },
            clock: integer(stored.get("clock")?)?,
            seen: times("seen")?,
            saw: times("saw")?,
            writes: stored.get_binary_generic("writes").ok()?.clone(),
            fields: Touched::decode(stored.get("fields"))?,
            again: words("again")?,
            waits: words("waits")?,
            unsettled: Unsettled::decode(stored.get("unsettled")),
            log: LogState {
                clock: integer(log.get("clock")?)?,
                since: log.get_timestamp("since").ok()?,
                since_clock: integer(log.get("since_clock")?)?,
            },
            forward: match stored.get("forward") {
                Some(forward) => Some(Forward::decode(forward.as_document()?)?),
                None => None,
            },
        };
        (stored.get_str("_id").ok()? == marker.link.marker_id(marker.lane)).then_some(marker)
    }
}

/// A whole number of any numeric type: somebody may have mended the document in a shell.
fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int64(n) => Some(*n),
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Some(*d as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmm::word::Audience;
    use bson::rawdoc;
    use oplogue_api::Namespace;

    #[test]
    fn a_marker_survives_the_document() {
        let time = |n| Timestamp { time: n, increment: 1 };
        let marker = Marker {
            link: Link { node: "a".into(), peer: "b".into() },
            lane: 2,
            route: "a->b".into(),
            generation: 3,
            session: Some(Uuid::from_bytes([7; 16])),
            seq: 4,
            origin: "a".into(),
            position: Position { token: rawdoc! {"ts": time(7)}.into(), time: time(7) },
            done: EventId { time: time(8), index: u32::MAX },
            clock: 9,
            seen: vec![("b".into(), time(5))],
            saw: vec![("b".into(), time(4))],
            writes: vec![1; 24],
            fields: Touched::default(),
            again: vec![Word {
                ns: Namespace::new("a.b"),
                id: Bson::Int32(1),
                base: time(6),
                audience: Audience::Others,
            }],
            waits: vec![Word { ns: Namespace::new("a.b"), id: Bson::Null, base: time(7), audience: Audience::All }],
            unsettled: Unsettled::default(),
            log: LogState { clock: 1, since: time(5), since_clock: 2 },
            forward: None,
        };
        let document = marker.encode();
        assert_eq!(document.get_str("_id").unwrap(), "a->b/2");
        assert_eq!(Marker::decode(&document), Some(marker));
        let mut edited = document;
        edited.remove("clock");
        assert_eq!(Marker::decode(&edited), None);
    }
}
