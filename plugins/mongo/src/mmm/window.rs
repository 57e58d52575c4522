//! What has been written at the peer, from the peer's own log: the writes among which conflicts with what comes are looked for.
//!
//! The log is read inside of each transaction, behind its first write, which fixes the snapshot. So every write of others is
//! either before the snapshot, and known here, or behind it, and then the server refuses our write of the same document.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bson::{RawDocument, Timestamp};
use oplogue_api::{Event, Namespace, Op, hash_key};

pub(super) use self::pull::gone;
use super::{
    ddl::Removed,
    forward::{One, known, tell},
    marker::{Link, Marker},
    paths::FieldPath,
    seen::Seen,
    unsettled::Unsettled,
};

/// What a write takes in memory, with its places in the maps.
const WRITE_BYTES: usize = 96;

/// Seconds of the peer's clock between places in its log from which the window can be made anew.
const PLACES: u32 = 10;

/// After so long without a look much may have come.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the link forwards, writes are kept for so many seconds of the peer's clock at least, and for what has come from a node within
/// the last seconds: what comes next from there has hardly seen less.
const KEPT: u32 = 60;
const HEARD: u32 = 300;

/// By hash, what the marker of a transaction tells.
type Exact = HashMap<u64, One>;

/// A write at the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Its time in the log of the peer.
    pub time: Timestamp,
    /// Whose it is: a place in the list of nodes.
    node: u16,
    /// Its time in the log of that node, or a later one.
    pub origin_time: Timestamp,
    /// Milliseconds.
    pub clock: i64,
    pub op: Op,
    /// How far the log of our node was applied at that one when it made the write.
    pub saw_us: Option<Timestamp>,
    /// The fields that it changed; `None`: all, or nobody has asked for them.
    pub paths: Option<Arc<[FieldPath]>>,
    /// It is no write but the word of the peer on a merge, which was about all from this time of its log on.
    pub again: Option<Timestamp>,
    /// The peer has told our node of it in a word: there it is known from the log of the peer, and not from that of its node.
    is_told: bool,
}

impl Write {
    #[cfg(test)]
    pub fn for_tests(time: Timestamp) -> Write {
        Write {
            time,
            node: 0,
            origin_time: time,
            clock: 0,
            op: Op::Update,
            saw_us: None,
            paths: None,
            again: None,
            is_told: false,
        }
    }

    /// What its fields take in memory.
    fn bytes(&self) -> usize {
        self.paths.iter().flat_map(|paths| paths.iter()).map(FieldPath::bytes).sum()
    }
}

/// Says of a namespace whether it is replicated, and its changed fields have to be known (`Some(true)`).
type Wanted = Arc<dyn Fn(&Namespace) -> Option<bool> + Send + Sync>;

/// See the module.
pub(super) struct Window {
    link: Link,
    /// The last entry of the log that was read.
    at: Timestamp,
    /// When it was read to its end.
    pulled: Option<Instant>,
    /// The greatest clock of the markers up to there.
    clock: i64,
    /// Places from which the window can be made anew, and what `clock` was there.
    clocks: VecDeque<(Timestamp, i64)>,
    nodes: Vec<String>,
    writes: HashMap<u64, Vec<Write>>,
    /// The writes in order, to forget them.
    order: VecDeque<(Timestamp, u64)>,
    /// How many writes there may be, each with fields of a few bytes.
    most: usize,
    /// What the fields take in bytes.
    held: usize,
    wanted: Wanted,
    /// What DDL of others has taken away.
    removed: Vec<(Timestamp, Removed)>,
    /// When the DDL of our own link was run: what it led to is no news. Where it forwards, that of all links.
    pub ours: Vec<Run>,
    /// DDL has come since they were read.
    pub is_run_missing: bool,
    /// For each node that writes here too, how far its log is applied.
    applied: Seen,
    /// What other links have told of documents that met over a unique value.
    pub met: Unsettled,
    /// Whether the link forwards.
    forwards: bool,
    /// How far the writes of each node are known at the peer, as far as was read.
    had: Seen,
    /// For each node, the last of its writes that was forgotten.
    base: Seen,
    /// Nothing before it matters.
    floor: Timestamp,
    /// What the nodes had seen whose writes have come last, and when they came.
    origins: HashMap<String, (Seen, u32)>,
}

/// DDL that a link has run at the peer.
pub(super) struct Run {
    pub start: Timestamp,
    pub end: Timestamp,
    /// By another link: who had made it, and when.
    pub by: Option<(String, Timestamp)>,
}

impl Window {
    /// `since`: an entry of the log of the peer, before all that matters; `clock`: the greatest clock of the markers up to there.
    pub fn new(link: Link, since: Timestamp, clock: i64, bytes: usize) -> Window {
        let nodes = vec![link.peer.clone()];
        Window {
            link,
            at: since,
            pulled: None,
            clock,
            clocks: VecDeque::from([(since, clock)]),
            nodes,
            writes: HashMap::new(),
            order: VecDeque::new(),
            most: bytes / WRITE_BYTES,
            held: 0,
            wanted: Arc::new(|_| Some(false)),
            removed: Vec::new(),
            ours: Vec::new(),
            is_run_missing: false,
            applied: Seen::default(),
            met: Unsettled::default(),
            forwards: false,
            had: Seen::default(),
            base: Seen::default(),
            floor: Timestamp { time: 0, increment: 0 },
            origins: HashMap::new(),
        }
    }

    /// With what the marker of a link tells that forwards.
    pub fn forwarding(self, marker: &Marker) -> Window {
        let Some(forward) = &marker.forward else { return self };
        Window { forwards: true, had: known(marker), base: Seen::new(&forward.base), floor: forward.floor, ..self }
    }

    /// Begins anew at an earlier place of the log, before which nothing was written that `seen` has not.
    pub fn at_place(self, (since, clock): (Timestamp, i64), seen: &Seen) -> Window {
        let base: Vec<_> = self
            .base
            .all()
            .iter()
            .filter_map(|(node, time)| Some((node.clone(), *time.min(&seen.of(node)?))))
            .collect();
        Window {
            at: since,
            pulled: None,
            clock,
            clocks: VecDeque::from([(since, clock)]),
            writes: HashMap::new(),
            order: VecDeque::new(),
            held: 0,
            removed: Vec::new(),
            is_run_missing: true,
            base: Seen::new(&base),
            ..self
        }
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How far the writes of each node are known at the peer.
    pub fn had(&self) -> &Seen {
        &self.had
    }

    pub fn base(&self) -> &Seen {
        &self.base
    }

    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Says in a marker what has to be known to make it anew.
    pub fn tell_base(&self, marker: &mut Marker) {
        if let Some(forward) = &mut marker.forward {
            forward.base = self.base.all().to_vec();
        }
    }

    /// Where it begins.
    pub fn start(&self) -> Timestamp {
        self.clocks.front().map_or(self.at, |(time, _)| *time)
    }

    /// Takes note of what a node had seen that has made a write; `time`: when that came.
    pub fn note_origin(&mut self, node: &str, saw: &Seen, time: Timestamp) {
        match self.origins.get_mut(node) {
            Some(known) => *known = (saw.clone(), time.time),
            None => drop(self.origins.insert(node.to_owned(), (saw.clone(), time.time))),
        }
        self.origins.retain(|_, (_, at)| *at + HEARD >= time.time);
    }

    /// With the writes in those namespaces only, and their changed fields where that is said. What others replicate beside them would
    /// never be seen by our node, and so never be forgotten.
    pub fn of(self, wanted: impl Fn(&Namespace) -> Option<bool> + Send + Sync + 'static) -> Window {
        Window { wanted: Arc::new(wanted), ..self }
    }

    /// The key of a document in here. Two documents may share it: then one conflict too many is seen, in 2^64.
    pub fn hash(ns: &Namespace, key: &RawDocument) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        ns.as_str().hash(&mut hasher);
        hasher.write_u64(hash_key(key));
        hasher.finish()
    }

    /// Up to where the log was read.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether there may be much to read.
    pub fn is_behind(&self) -> bool {
        self.pulled.is_none_or(|at| at.elapsed() > PAUSE)
    }

    /// Whether anything of others came behind that time.
    pub fn has_entered_since(&self, time: Timestamp) -> bool {
        let removed = self.removed.iter().map(|(time, _)| *time);
        removed.chain(self.order.back().map(|(time, _)| *time)).any(|entered| entered > time)
    }

    /// How far the log of another node is applied at the peer, as far as was read.
    pub fn applied(&self) -> &Seen {
        &self.applied
    }

    /// The same, told by the marker of another link.
    pub fn note_applied(&mut self, marker: &Marker) {
        self.applied.note(&marker.link.node, marker.done.time);
    }

    /// The same of all nodes, told by the marker of any link.
    pub fn note_had(&mut self, marker: &Marker) {
        self.had.merge(&known(marker));
    }

    pub fn node(&self, write: &Write) -> &str {
        &self.nodes[usize::from(write.node)]
    }

    /// The writes of a document that are not among what `seen` has seen.
    pub fn concurrent(&self, hash: u64, seen: &Seen) -> impl Iterator<Item = &Write> {
        let writes = self.writes.get(&hash).map_or(&[][..], Vec::as_slice);
        writes.iter().filter(move |write| !self.was_seen(write, seen))
    }

    /// From where on the writes of a document are unknown to whoever has left out all of the peer's log from `first` on: what the words
    /// were about that were left out, too.
    pub fn begins(&self, hash: u64, first: Timestamp, seen: &Seen) -> Timestamp {
        let words = self.writes.get(&hash).map_or(&[][..], Vec::as_slice).iter().rev();
        words.filter(|write| self.was_seen(write, seen)).fold(first, |first, write| match write.again {
            Some(base) if write.time >= first => first.min(base),
            _ => first,
        })
    }

    /// Like `concurrent`, and those that a word which `seen` has not seen was about. `said`: the same of a word that is not in the log yet.
    pub fn unheard(&self, hash: u64, seen: &Seen, said: Option<Timestamp>) -> impl Iterator<Item = &Write> {
        let base = self.concurrent(hash, seen).filter_map(|write| write.again).chain(said).min();
        let writes = self.writes.get(&hash).map_or(&[][..], Vec::as_slice);
        writes.iter().filter(move |write| base.is_some_and(|base| write.time >= base) || !self.was_seen(write, seen))
    }

    fn was_seen(&self, write: &Write, seen: &Seen) -> bool {
        let (node, time) = match write.node != 0 && !write.is_told {
            true => (self.node(write), write.origin_time),
            false => (&*self.link.peer, write.time),
        };
        seen.of(node).is_some_and(|upto| time <= upto)
    }

    /// Whether the collection was dropped or renamed here, by others, without the writer of a change knowing of it.
    pub fn is_removed(&self, ns: &Namespace, seen: &Seen) -> bool {
        let known = seen.of(&self.link.peer);
        self.removed.iter().any(|(time, what)| {
            let concerns = match what {
                Removed::Dropped(name) | Removed::Moved(name, _) => name == ns,
                Removed::Database(db) => db == ns.db(),
            };
            let knows = |by: &(String, Timestamp)| seen.of(&by.0).is_some_and(|upto| upto >= by.1);
            let is_known = |run: &Run| run.start < *time && *time <= run.end && run.by.as_ref().is_none_or(knows);
            concerns && known.is_none_or(|upto| *time > upto) && !self.ours.iter().any(is_known)
        })
    }

    /// Forgets what no later change can be concurrent with. Returns where a new window would have to begin.
    pub fn forget(&mut self, seen: &Seen) -> (Timestamp, i64) {
        while let Some((time, hash)) = self.order.front().copied() {
            let Some(writes) = self.writes.get(&hash) else {
                self.order.pop_front();
                continue;
            };
            let is_needed = |write: &Write| write.time == time || write.again.is_some_and(|base| base <= time);
            if writes.iter().any(|write| is_needed(write) && !self.was_seen(write, seen)) || self.is_kept(time, writes)
            {
                break;
            }
            self.order.pop_front();
            if let Some(writes) = self.writes.get_mut(&hash) {
                for write in writes.extract_if(.., |write| write.time == time) {
                    self.held -= write.bytes();
                    if self.forwards {
                        self.base.note(&self.nodes[usize::from(write.node)], write.origin_time);
                    }
                }
                if writes.is_empty() {
                    self.writes.remove(&hash);
                }
            }
        }
        let known = seen.of(&self.link.peer);
        let gone = self.removed.extract_if(.., |(time, _)| known.is_some_and(|upto| *time <= upto));
        for (time, _) in gone.filter(|_| self.forwards) {
            self.base.note(&self.link.peer, time);
        }
        let first = self.order.front().map(|(time, _)| *time);
        let first = first.into_iter().chain(self.removed.first().map(|(time, _)| *time)).min();
        let Some(first) = first else {
            self.clocks = VecDeque::from([(self.at, self.clock)]);
            return (self.at, self.clock);
        };
        // The last place before the first write that is still needed.
        while self.clocks.get(1).is_some_and(|(time, _)| *time < first) {
            self.clocks.pop_front();
        }
        self.clocks.front().copied().unwrap_or((self.at, self.clock))
    }

    /// Whether the writes of that time are kept for what comes from other nodes through ours.
    fn is_kept(&self, time: Timestamp, writes: &[Write]) -> bool {
        if !self.forwards || self.order.len() > self.most / 2 {
            return false;
        }
        let is_unseen = |write: &Write| {
            let node = self.node(write);
            write.time == time && self.origins.iter().any(|(name, (saw, _))| name != node && !self.was_seen(write, saw))
        };
        time.time + KEPT > self.at.time || writes.iter().any(is_unseen)
    }
}

/// A write in `writes` of a marker.
pub(super) fn encode_write(into: &mut Vec<u8>, hash: u64, event: &Event, clock: i64) {
    tell(into, hash, event.time, clock, event.op == Op::Delete);
}

mod pull;
#[cfg(test)]
mod tests;
