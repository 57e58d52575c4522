//! Forwarding: whose the writes of a replicated transaction are, so that they go on to others, and nowhere twice.
//!
//! The log of a node holds the writes of its own applications, and what the links that lead to it have brought from others. A link that
//! forwards takes both. Of what was brought the marker in front tells who made it, when, and what he had seen of all nodes by then
//! ([`Forward`]); so wherever a write comes it has the same rank, and what is concurrent with it is the same.
//!
//! How far the writes of each node are known at another is one time for each, since they travel in order: what the peer has by another
//! way is left out by it, and what it has made itself too.
//!
//! Every write that stays at a node has to be seen in its log: where it changes nothing there (a document was deleted at both sides)
//! the marker names the document ([`Forward::same`]). What a node decides by itself (over unique values) counts as its own write.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bson::{Bson, Document, Timestamp, doc};
use oplogue_api::{Doc, Event, Op, Result, Txn};

use super::{
    chunk::units,
    marker::Marker,
    options::Settings,
    seen::Seen,
    state::{FIRST_SIDE_LANE, is_marker},
    word::Word,
};

/// No time is later.
const ALWAYS: Timestamp = Timestamp { time: u32::MAX, increment: u32::MAX };
/// The index of the first document that only the marker names, behind all operations of the transaction.
const NAMED: u32 = 1 << 30;
/// The bit of a clock in `writes` that says that it is a delete.
const DELETE: i64 = 1 << 62;

/// Times of nodes, as a marker has them.
type Times = Vec<(String, Timestamp)>;

/// Consecutive writes of one node that have seen the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub node: String,
    /// What the node had seen of the others.
    pub saw: Times,
    /// How many of `writes` of the marker.
    pub of: u32,
}

/// What a marker says beside, where its link forwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Forward {
    /// Whose the writes are, in the order of `writes`.
    pub groups: Vec<Group>,
    /// Documents that a write has left as they were, though it was greater than what was there.
    pub same: Vec<Word>,
    /// The transaction ends within one of the node.
    pub is_part: bool,
    /// Something is written that no write which came says: the peer's router has decided it.
    pub decides: bool,
    /// For each node, the last of its writes that is not looked for at the peer any more.
    pub base: Times,
    /// What lies before in the log of the peer was there before the link, and does not matter.
    pub floor: Timestamp,
}

impl Forward {
    pub fn new(floor: Timestamp) -> Forward {
        Forward { groups: Vec::new(), same: Vec::new(), is_part: false, decides: false, base: Vec::new(), floor }
    }

    /// Without what concerns one transaction. What is applied of it in part stays so.
    pub fn alone(self) -> Forward {
        Forward { base: self.base, is_part: self.is_part, ..Forward::new(self.floor) }
    }

    /// Of a group, only what has changed since the one before of the same node.
    pub fn encode(&self) -> Document {
        let mut known: HashMap<&str, &Times> = HashMap::new();
        let mut origins = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let before = known.insert(&group.node, &group.saw);
            let is_news = |at: &&(String, Timestamp)| before.is_none_or(|before| !before.contains(at));
            let saw = times(group.saw.iter().filter(is_news));
            origins.push(Bson::Document(doc! {"node": &group.node, "saw": saw, "of": group.of.cast_signed()}));
        }
        let mut document = doc! {"origins": origins, "base": times(self.base.iter()), "floor": self.floor};
        if !self.same.is_empty() {
            document.insert("same", self.same.iter().map(Word::encode).collect::<Vec<_>>());
        }
        for (name, is) in [("part", self.is_part), ("decides", self.decides)] {
            if is {
                document.insert(name, true);
            }
        }
        document
    }

    /// `None`: it is not of the known shape.
    pub fn decode(stored: &Document) -> Option<Forward> {
        let mut known: HashMap<String, Seen> = HashMap::new();
        let mut groups = Vec::new();
        for group in stored.get_array("origins").ok()? {
            let group = group.as_document()?;
            let node = group.get_str("node").ok()?.to_owned();
            let seen = known.entry(node.clone()).or_default();
            for (node, time) in read_times(group.get_document("saw").ok()?)? {
                seen.note(&node, time);
            }
            let saw = seen.all().to_vec();
            groups.push(Group { node, saw, of: u32::try_from(group.get_i32("of").ok()?).ok()? });
        }
        let same = match stored.get("same") {
            Some(words) => words.as_array()?.iter().map(Word::decode).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let is = |name: &str| stored.get_bool(name).unwrap_or(false);
        Some(Forward {
            groups,
            same,
            is_part: is("part"),
            decides: is("decides"),
            base: read_times(stored.get_document("base").ok()?)?,
            floor: stored.get_timestamp("floor").ok()?,
        })
    }
}

fn times<'a>(all: impl Iterator<Item = &'a (String, Timestamp)>) -> Document {
    all.map(|(node, time)| (node.clone(), Bson::Timestamp(*time))).collect()
}

fn read_times(stored: &Document) -> Option<Times> {
    stored.iter().map(|(node, at)| Some((node.clone(), at.as_timestamp()?))).collect()
}

/// What a marker tells of the writes of one document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct One {
    /// Of the first write at its origin.
    pub first: Timestamp,
    /// Of the last.
    pub time: Timestamp,
    /// Of the last, in milliseconds.
    pub clock: i64,
    pub is_delete: bool,
    /// The place in [`Forward::groups`].
    pub group: Option<usize>,
}

/// What the marker tells of the writes of its transaction, by hash of the document: `writes`, 24 bytes each.
pub(super) fn told(marker: &Marker) -> HashMap<u64, One> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let groups = marker.forward.iter().flat_map(|forward| forward.groups.iter().enumerate());
    let mut groups = groups.flat_map(|(place, group)| std::iter::repeat_n(place, group.of as usize));
    let mut all: HashMap<u64, One> = HashMap::new();
    for one in marker.writes.chunks_exact(24) {
        let time = number(&one[8..16]);
        let time = Timestamp { time: (time >> 32) as u32, increment: time as u32 };
        let clock = number(&one[16..]) as i64;
        let one =
            all.entry(number(&one[..8])).or_insert(One { first: time, time, clock: 0, is_delete: false, group: None });
        (one.first, one.time) = (one.first.min(time), time);
        (one.clock, one.is_delete, one.group) = (clock & !DELETE, clock & DELETE != 0, groups.next());
    }
    all
}

/// The other way round, of one write.
pub(super) fn tell(into: &mut Vec<u8>, hash: u64, time: Timestamp, clock: i64, is_delete: bool) {
    let clock = if is_delete { clock | DELETE } else { clock };
    into.extend_from_slice(&hash.to_le_bytes());
    into.extend_from_slice(&((u64::from(time.time) << 32) | u64::from(time.increment)).to_le_bytes());
    into.extend_from_slice(&clock.to_le_bytes());
}

/// How far the writes of all nodes are known at the peer of the marker's link, by that marker.
pub(super) fn known(marker: &Marker) -> Seen {
    let mut known = Seen::default();
    let done = marker.done.time;
    match &marker.forward {
        None => known.note(&marker.link.node, done),
        Some(forward) => {
            for (node, time) in &marker.seen {
                known.note(node, *time);
            }
            // Of a transaction that is applied in parts, nothing counts before all of it is there.
            let upto = if forward.is_part { just_before(done) } else { done };
            known.note(&marker.link.node, upto);
        }
    }
    known
}

fn just_before(time: Timestamp) -> Timestamp {
    match time.increment.checked_sub(1) {
        Some(increment) => Timestamp { increment, ..time },
        None => Timestamp { time: time.time.saturating_sub(1), increment: u32::MAX },
    }
}

/// What a node had seen when it wrote: of its own writes all before.
pub(super) fn with_own(seen: &Seen, node: &str) -> Seen {
    let mut seen = seen.clone();
    seen.note(node, ALWAYS);
    seen
}

/// What a node had seen of the others.
pub(super) fn without_own(seen: &Seen, node: &str) -> Times {
    seen.all().iter().filter(|(name, _)| name != node).cloned().collect()
}

/// The transaction of a link to the node, which is being read.
#[derive(Debug)]
pub(super) struct Told {
    txn: Option<Arc<Txn>>,
    time: Timestamp,
    pub from: From,
    /// What is known at the node once all of it is read.
    pub after: Seen,
}

/// Whose a transaction is.
#[derive(Debug)]
pub(super) enum From {
    /// Of another replication, or a copy or repair: nothing of it goes on.
    Elsewhere,
    /// A link that does not tell whose its writes are; its name.
    Untold(String),
    Told {
        groups: Vec<(Arc<str>, Seen)>,
        writes: HashMap<u64, One>,
    },
}

impl Told {
    /// `marker`: `None` if it has an unknown shape.
    pub fn new(event: &Event, marker: Option<&Marker>, node: &str) -> Told {
        let ours = marker.filter(|marker| marker.link.peer == node && marker.lane < FIRST_SIDE_LANE);
        let from = match ours {
            None => From::Elsewhere,
            Some(marker) => match &marker.forward {
                None => From::Untold(marker.link.marker_id(0)),
                Some(forward) => {
                    let each = forward.groups.iter();
                    let each =
                        each.map(|group| (group.node.as_str().into(), with_own(&Seen::new(&group.saw), &group.node)));
                    From::Told { groups: each.collect(), writes: told(marker) }
                }
            },
        };
        Told { txn: event.txn.clone(), time: event.time, from, after: ours.map(known).unwrap_or_default() }
    }

    pub fn is_of(&self, event: &Event) -> bool {
        let is_same = |(a, b): (&Arc<Txn>, &Arc<Txn>)| Arc::ptr_eq(a, b) || a == b;
        self.time == event.time && self.txn.as_ref().zip(event.txn.as_ref()).is_some_and(is_same)
    }
}

/// Who has made an event, and when.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub node: Arc<str>,
    /// Its time at that node, and that of the first of several writes which are one here.
    pub time: Timestamp,
    pub first: Timestamp,
    pub hash: u64,
    pub is_delete: bool,
}

/// The events, and behind each transaction the documents that only its marker names, as replacements without a document.
pub(super) fn named<'a>(settings: &Settings, events: Cow<'a, [Event]>) -> Result<Cow<'a, [Event]>> {
    let names = |event: &Event| -> Vec<Word> {
        let after = event.after.as_deref().filter(|_| event.txn.is_some() && is_marker(event));
        if after.is_none_or(
            |after| !matches!(after.get_document("forward"), Ok(of) if of.get("same").is_ok_and(|same| same.is_some())),
        ) {
            return Vec::new();
        }
        let marker = after.and_then(|after| Document::try_from(after).ok()).and_then(|after| Marker::decode(&after));
        let marker = marker.filter(|marker| marker.link.peer == settings.link.node && marker.lane < FIRST_SIDE_LANE);
        let mut same = marker.and_then(|marker| marker.forward).map(|forward| forward.same).unwrap_or_default();
        same.retain(|word| settings.wants(&word.ns));
        same
    };
    if !settings.forwards || events.iter().all(|event| names(event).is_empty()) {
        return Ok(events);
    }
    let mut all = Vec::with_capacity(events.len() + 1);
    for unit in units(&events) {
        let marker = &events[unit.start];
        all.extend_from_slice(&events[unit.clone()]);
        for (n, word) in (NAMED..).zip(names(marker)) {
            all.push(Event {
                key: Some(word.key()?),
                index: n,
                wall: marker.wall,
                txn: marker.txn.clone(),
                ..Event::new(Op::Replace, word.ns.clone(), marker.time, Doc::empty())
            });
        }
    }
    Ok(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::RawDocumentBuf;
    use oplogue_api::{EventId, MARKERS, Namespace, Position};

    use crate::mmm::{
        marker::{Link, LogState},
        seen::Stream,
        unsettled::Unsettled,
    };

    fn time(n: u32) -> Timestamp {
        Timestamp { time: n, increment: 5 }
    }

    fn at(node: &str, n: u32) -> (String, Timestamp) {
        (node.to_owned(), time(n))
    }

    fn group(node: &str, saw: &[(&str, u32)], of: u32) -> Group {
        Group { node: node.into(), saw: saw.iter().map(|(node, n)| at(node, *n)).collect(), of }
    }

    /// A marker of `a->b`, where a forwards what c has written.
    fn marker() -> Marker {
        let forward = Forward {
            groups: vec![
                group("c", &[("a", 1), ("b", 2)], 2),
                group("a", &[("c", 4)], 1),
                group("c", &[("a", 3), ("b", 2)], 1),
            ],
            base: vec![at("b", 1)],
            ..Forward::new(time(1))
        };
        let mut writes = Vec::new();
        for (hash, n, is_delete) in [(7, 10, false), (7, 11, true), (8, 20, false), (9, 12, false)] {
            tell(&mut writes, hash, time(n), i64::from(n) * 1000, is_delete);
        }
        Marker {
            link: Link { node: "a".into(), peer: "b".into() },
            lane: 0,
            route: String::new(),
            generation: 1,
            session: None,
            seq: 1,
            origin: "a".into(),
            position: Position { token: Doc::empty(), time: time(30) },
            done: EventId { time: time(30), index: 0 },
            clock: 20_000,
            seen: vec![at("c", 12)],
            saw: vec![],
            writes,
            fields: Default::default(),
            again: vec![],
            waits: vec![],
            unsettled: Unsettled::default(),
            log: LogState { clock: 0, since: time(0), since_clock: 0 },
            forward: Some(forward),
        }
    }

    #[test]
    fn whose_the_writes_are_survives_the_marker_and_says_only_what_has_changed() {
        let marker = marker();
        let stored = marker.encode();
        assert_eq!(Marker::decode(&stored), Some(marker.clone()));
        let origins = stored.get_document("forward").unwrap().get_array("origins").unwrap();
        let last = origins[2].as_document().unwrap().get_document("saw").unwrap();
        assert_eq!(last, &doc! {"a": time(3)});
        // Who does not forward pays nothing.
        let plain = Marker { forward: None, ..marker };
        assert!(!plain.encode().contains_key("forward"));
        assert_eq!(Marker::decode(&plain.encode()), Some(plain));
    }

    #[test]
    fn of_several_writes_of_a_document_the_last_counts_and_the_first_is_known() {
        let told = told(&marker());
        let deleted = One { first: time(10), time: time(11), clock: 11_000, is_delete: true, group: Some(0) };
        assert_eq!((told.len(), told[&7]), (3, deleted));
        assert_eq!((told[&8].group, told[&9].group, told[&9].clock), (Some(1), Some(2), 12_000));
    }

    #[test]
    fn a_part_of_a_transaction_is_not_yet_known() {
        let mut marker = marker();
        assert_eq!(known(&marker).all(), [at("c", 12), at("a", 30)]);
        marker.forward.as_mut().unwrap().is_part = true;
        let before = Timestamp { increment: 4, ..time(30) };
        assert_eq!(known(&marker).all(), [at("c", 12), ("a".to_owned(), before)]);
        // Without forwarding nothing is known of the others.
        assert_eq!(known(&Marker { forward: None, ..marker }).all(), [at("a", 30)]);
    }

    /// What a transaction has brought is known to the node when all of it is there, and not before.
    #[test]
    fn the_node_knows_of_a_transaction_when_it_has_ended() {
        let txn = Arc::new(Txn { lsid: Doc::empty(), number: 1, replicated: true });
        let after = RawDocumentBuf::try_from(&marker().encode()).unwrap();
        let event = |op, ns: &str, n| Event {
            txn: Some(Arc::clone(&txn)),
            ..Event::new(op, Namespace::new(ns), time(n), Doc::empty())
        };
        let first = Event { after: Some(after.into()), ..event(Op::Replace, MARKERS, 40) };
        let mut stream = Stream { forwards: true, ..Stream::default() };
        crate::mmm::sight::pass(&mut stream, &first, "b");
        assert_eq!((stream.seen.of("c"), stream.clock), (None, 20_000));
        assert!(stream.told.as_ref().unwrap().is_of(&event(Op::Insert, "x.y", 40)));
        assert!(!stream.told.as_ref().unwrap().is_of(&event(Op::Insert, "x.y", 41)));
        // Read again after a retry, it has not ended either.
        crate::mmm::sight::pass(&mut stream, &first, "b");
        assert_eq!(stream.seen.of("c"), None);
        stream.end();
        assert_eq!((stream.seen.of("c"), stream.seen.of("a")), (Some(time(12)), Some(time(30))));
    }
}
