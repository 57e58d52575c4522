//! What has been written at the peer, from the peer's own log: the writes among which conflicts with what comes are looked for.
//!
//! The log is read inside of each transaction, behind its first write, which fixes the snapshot. So every write of others is
//! either before the snapshot, and known here, or behind it, and then the server refuses our write of the same document.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bson::{Document, RawDocument, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::{
    Client,
    options::{ReadPreference, RunCursorCommandOptions, SelectionCriteria},
};
use oplogue_api::{
    Error, Event, Namespace, Op, Replicated, Result, hash_key,
    oplog::{Decoder, Outcome},
};

use super::{
    ddl::{Removed, removed},
    forward::{One, known, tell, told as told_of},
    marker::{Link, Marker},
    paths::FieldPath,
    seen::{Seen, hybrid},
    state::{FIRST_SIDE_LANE, is_marker},
    unsettled::Unsettled,
    word::Word,
};
use crate::{
    client::{answered, reply},
    errors::{Phase, classify},
    oplog::{Form, Gathering, Log, Part, ReadConcern, Reply, op_time},
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

    /// Reads the log to its end.
    ///
    /// # Errors
    /// `Operator` when the log does not reach back to where it was read last, and when the window is full.
    pub async fn pull(&mut self, client: &Client) -> Result<()> {
        let log = Log::new(client, ReadConcern::Local);
        let mut options = RunCursorCommandOptions::default();
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.batch_size = Some(5000);
        let local = client.database("local");
        let cursor = local.run_cursor_command(self.command()).with_options(options).batch();
        let mut cursor =
            answered(std::future::IntoFuture::into_future(cursor)).await?.map_err(|e| classify(e, Phase::Apply))?;
        let mut first = true;
        let mut decoder = Decoder::new(false).replicated(Replicated::MarkersAndWrites);
        let (mut events, mut bad) = (Vec::new(), Vec::new());
        loop {
            let next = answered(async { Ok(cursor.next().await) }).await?.map_err(|e| classify(e, Phase::Apply))?;
            let Some(batch) = next else { break };
            let batch = Reply::read(reply(batch.map_err(|e| classify(e, Phase::Apply))?)?)?;
            for entry in batch.entries(0) {
                let entry = entry?;
                let at = op_time(&entry)?;
                if std::mem::take(&mut first) {
                    if at.ts != self.at {
                        return Err(gone());
                    }
                    continue;
                }
                let decoded = decoder.entry(&entry, &mut events, &mut bad);
                if let Outcome::NeedsChain(chain) = decoded.outcome {
                    let mut gathering = Gathering::new(chain, at, Form::Whole);
                    loop {
                        match gathering.next_part(&log).await? {
                            Part::Entry(entry) => {
                                decoder.chain_entry(&mut gathering.chain, &entry, &mut events, &mut bad);
                                gathering.delivered();
                            }
                            Part::Last => {
                                decoder.chain_end(gathering.chain, &mut events, &mut bad);
                                break;
                            }
                            Part::Broken(e) => return Err(e),
                        }
                    }
                }
                // What cannot be decoded has a source's attention on the way back.
                bad.clear();
                self.enter(&events, at.ts)?;
                events.clear();
                self.at = at.ts;
            }
        }
        if first {
            return Err(gone());
        }
        self.pulled = Some(Instant::now());
        // A place to begin at again, now and then.
        if self.clocks.back().is_none_or(|(time, _)| self.at.time >= time.time + PLACES) {
            self.clocks.push_back((self.at, self.clock));
        }
        Ok(())
    }

    /// Of our own transactions, only the marker, unless they decide something. Most entries are plain: of those only `op` is looked at.
    fn command(&self) -> Document {
        let first = doc! {"$arrayElemAt": ["$o.applyOps", 0]};
        let ours = doc! {"$and": [
            {"$eq": ["$op", "c"]},
            {"$eq": ["$ns", "admin.$cmd"]},
            {"$let": {"vars": {"first": &first}, "in": {"$and": [
                {"$eq": ["$$first.ns", oplogue_api::MARKERS]},
                {"$eq": ["$$first.o.node", &self.link.node]},
                {"$eq": ["$$first.o.peer", &self.link.peer]},
                {"$not": ["$$first.o.forward.decides"]},
            ]}}},
        ]};
        let marker = doc! {"applyOps": [first]};
        doc! {
            "find": "oplog.rs",
            "filter": {"ts": {"$gte": self.at}},
            "projection": {
                "ts": 1, "t": 1, "op": 1, "ns": 1, "o2": 1, "wall": 1, "lsid": 1, "txnNumber": 1, "prevOpTime": 1,
                "fromMigrate": 1, "multiOpType": 1,
                "o": {"$cond": [ours, marker, "$o"]},
            },
            "readConcern": {"level": "local"},
        }
    }

    fn enter(&mut self, events: &[Event], time: Timestamp) -> Result<()> {
        let mut marker: Option<(Marker, Exact)> = None;
        let (mut written, mut told) = (HashSet::new(), HashSet::new());
        for event in events {
            if is_marker(event) {
                let found = event.after.as_deref().and_then(|after| Document::try_from(after).ok());
                let Some(found) = found.and_then(|d| Marker::decode(&d)) else { continue };
                // Others are of a replication beside ours. As in `Stream::pass`.
                if found.link.peer == self.link.peer {
                    self.clock = self.clock.max(found.clock);
                    if found.link.node != self.link.node && found.lane < FIRST_SIDE_LANE {
                        self.note_applied(&found);
                        self.met.merge(&found.unsettled);
                    }
                    if self.forwards && found.lane < FIRST_SIDE_LANE {
                        self.note_had(&found);
                    }
                    for word in found.again.iter().filter(|_| event.txn.is_some()) {
                        if !word.concerns(&self.link.node, &found.link.node) {
                            continue;
                        }
                        told.insert(word.hash()?);
                        self.enter_word(word, time)?;
                    }
                }
                let exact = told_of(&found);
                marker = event.txn.is_some().then_some((found, exact));
                continue;
            }
            if event.op.is_barrier() {
                // What cannot be read has a source's attention on the way back.
                let known = self.removed.len();
                self.removed.extend(removed(event).unwrap_or_default().into_iter().map(|what| (time, what)));
                self.is_run_missing |= self.removed.len() > known;
            }
            let Some(key) = event.key.as_deref().filter(|_| !event.op.is_barrier()) else { continue };
            let hash = Window::hash(&event.ns, key);
            if (self.wanted)(&event.ns).is_none() {
                written.insert(hash);
                continue;
            }
            let op = event.op;
            let write = match &marker {
                // What a router has decided by itself is the peer's own write.
                Some((marker, exact)) if is_decided(marker, exact, hash) => {
                    let clock = hybrid(event.wall, event.time, self.clock);
                    Write {
                        time,
                        node: 0,
                        origin_time: time,
                        clock,
                        op,
                        saw_us: None,
                        paths: None,
                        again: None,
                        is_told: false,
                    }
                }
                Some((marker, _)) if marker.link == self.link => continue,
                Some((marker, exact)) => {
                    written.insert(hash);
                    let write = self.replicated(marker, time, op, exact.get(&hash));
                    let paths = match fields_told(marker, &write, hash) {
                        Some(paths) => Some(paths),
                        None => self.fields_of(event)?,
                    };
                    Write { paths, is_told: told.contains(&hash), ..write }
                }
                None => {
                    let clock = hybrid(event.wall, event.time, self.clock);
                    let paths = self.fields_of(event)?;
                    Write {
                        time,
                        node: 0,
                        origin_time: time,
                        clock,
                        op,
                        saw_us: None,
                        paths,
                        again: None,
                        is_told: false,
                    }
                }
            };
            self.enter_write(hash, write);
        }
        // What changed nothing here (a delete of what was gone already) was considered all the same.
        if let Some((marker, exact)) =
            marker.filter(|(marker, _)| marker.link != self.link && marker.link.peer == self.link.peer)
        {
            for (hash, one) in exact.into_iter().filter(|(hash, _)| !written.contains(hash)) {
                let op = if one.is_delete { Op::Delete } else { Op::Update };
                let write = self.replicated(&marker, time, op, Some(&one));
                let paths = fields_told(&marker, &write, hash);
                self.enter_write(hash, Write { paths, is_told: told.contains(&hash), ..write });
            }
        }
        if self.order.len() + self.held / WRITE_BYTES > self.most {
            return Err(Error::operator(
                "more has been written at the peer than the window holds, since its changes last came back",
            )
            .hint(
                "raise `window` of the sink; if nothing replicates the peer's writes back, set conflicts = \"origin\"",
            ));
        }
        Ok(())
    }

    /// A write that the link of `marker` has brought.
    fn replicated(&mut self, marker: &Marker, time: Timestamp, op: Op, one: Option<&One>) -> Write {
        let groups = marker.forward.as_ref().map_or(&[][..], |forward| &forward.groups);
        let group = one.and_then(|one| groups.get(one.group?));
        let (origin, saw) = group.map_or((&marker.origin, &marker.saw), |group| (&group.node, &group.saw));
        let node = self.place(origin);
        let saw_us = Seen::new(saw).of(&self.link.node);
        let (origin_time, clock) = one.map_or((marker.done.time, marker.clock), |one| (one.time, one.clock));
        Write { time, node, origin_time, clock, op, saw_us, paths: None, again: None, is_told: false }
    }

    /// The fields that an update changes, where they are asked for.
    fn fields_of(&self, event: &Event) -> Result<Option<Arc<[FieldPath]>>> {
        match &event.change {
            Some(change) if event.op == Op::Update && (self.wanted)(&event.ns) == Some(true) => {
                Ok(Some(FieldPath::all(change)?.into()))
            }
            _ => Ok(None),
        }
    }

    /// A word of the peer: like a write of its own, which is concurrent with what has not heard it.
    fn enter_word(&mut self, word: &Word, time: Timestamp) -> Result<()> {
        let (op, again) = (Op::Replace, Some(word.base));
        let write =
            Write { time, node: 0, origin_time: time, clock: 0, op, saw_us: None, paths: None, again, is_told: false };
        self.enter_write(word.hash()?, write);
        Ok(())
    }

    fn enter_write(&mut self, hash: u64, write: Write) {
        let time = write.time;
        let writes = self.writes.entry(hash).or_default();
        let is_same = |known: &&mut Write| known.time == time && known.again.is_some() == write.again.is_some();
        match writes.iter_mut().rev().take(2).find(is_same) {
            // Several writes of one entry count as its last, but all of their fields count.
            Some(known) => {
                self.held -= known.bytes();
                let paths = match (&known.paths, &write.paths) {
                    (Some(a), Some(b)) => Some(a.iter().chain(b.iter()).cloned().collect()),
                    _ => None,
                };
                *known = Write { paths, ..write };
                self.held += known.bytes();
            }
            None => {
                self.held += write.bytes();
                writes.push(write);
                self.order.push_back((time, hash));
            }
        }
    }

    fn place(&mut self, node: &str) -> u16 {
        let found = self.nodes.iter().position(|name| name == node);
        let place = found.unwrap_or_else(|| {
            self.nodes.push(node.to_owned());
            self.nodes.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

/// Whether a write of a transaction is none that has come over its link, where that tells all that have.
fn is_decided(marker: &Marker, told: &Exact, hash: u64) -> bool {
    marker.forward.is_some() && !told.contains_key(&hash) && marker.lane < FIRST_SIDE_LANE
}

/// The fields of a write that a link has brought, as its marker tells them.
fn fields_told(marker: &Marker, write: &Write, hash: u64) -> Option<Arc<[FieldPath]>> {
    marker.fields.of(hash).filter(|_| write.op != Op::Delete).map(Arc::from)
}

/// A write in `writes` of a marker.
pub(super) fn encode_write(into: &mut Vec<u8>, hash: u64, event: &Event, clock: i64) {
    tell(into, hash, event.time, clock, event.op == Op::Delete);
}

pub(super) fn gone() -> Error {
    Error::operator("the oplog of the peer no longer reaches back to where conflicts have to be looked for")
        .hint("changes of both sides may contradict each other unseen: run `oplogue verify --repair FILE`, then `oplogue position set FILE ROUTE --now`; a larger oplog (replSetResizeOplog) keeps it from happening again")
}

#[cfg(test)]
mod tests;
