//! One transaction: a marker, and what it says is applied.

use std::collections::{HashMap, HashSet};

use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use oplogue_api::{Doc, Error, Event, EventId, Namespace, Op, Position, Result, hash_key};

mod plan;

pub(super) use self::plan::{Plan, Planned};
use super::{
    arbiter,
    document::{self, Now, Whole, Why},
    marker::Marker,
    names, nested,
    origin::{Documents, as_bson, raw},
    records::{self, By},
    sight::Sight,
    state::{Peer, State, is_marker},
    statements::Commands,
    subjects::Subjects,
    txn::{Failure, Transaction},
    unique::Ask,
    unsettled::Unsettled,
    verdict::Verdict,
    window::Window,
    word::{Audience, NOTHING, Word, Words},
};

/// What the words and fields of a marker may take, in bytes: it has to fit into an entry of the log, with what is written beside it.
const MOST_WORDS: usize = 4 << 20;

/// A document, by namespace and hash of its key.
pub(super) type Place = (Namespace, u64);

/// What earlier attempts at the same events have shown.
#[derive(Default)]
pub(super) struct Tactics {
    /// Documents that are read and written whole.
    pub read: HashSet<Place>,
    /// Events that the peer refuses, with the code.
    pub refused: HashMap<usize, i32>,
    /// Documents as the origin has them, for the events of these times.
    whole: HashMap<(Place, Timestamp), Whole>,
    /// What the events follow from is not all here, and is not waited for any longer.
    pub is_behind: bool,
    /// The events end within a transaction of the source.
    pub is_part: bool,
    /// Events of which the peer has a part by another way.
    partly: HashSet<EventId>,
    /// Documents that a greater write leaves as they are and that cannot be touched: the marker names them.
    pub same: Words,
    /// What is to be merged met a concurrent write that was too new, once already.
    has_looked_again: bool,
    /// What the peer merges here, and says again.
    again: Words,
    /// What is left out here, and waits for the word of the arbiter.
    waits: Words,
    /// By event, the unique values for which the peer has refused it.
    pub asks: HashMap<EventId, Vec<Ask>>,
    /// The documents that met over them.
    pub met: Unsettled,
}

impl Tactics {
    /// A concurrent write may lie behind the snapshot: the next one has it for certain. At once; but behind a writer that never
    /// rests, with waits.
    pub fn look_again(&mut self) -> Retry {
        match std::mem::replace(&mut self.has_looked_again, true) {
            false => Retry::Otherwise,
            true => Failure::Again(Error::transient("another writer was in the way")).into(),
        }
    }
}

/// A document that only the origin knows.
struct Wanted {
    ns: Namespace,
    key: Doc,
    time: Timestamp,
    /// As it was at that time, and not as it is now.
    exactly: bool,
    why: Why,
}

/// Why an attempt must be made again, other than a failure.
pub(super) enum Retry {
    /// With other tactics, at once.
    Otherwise,
    Failure(Failure),
}

impl<E: Into<Failure>> From<E> for Retry {
    fn from(e: E) -> Retry {
        Retry::Failure(e.into())
    }
}

/// What became of the events of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub applied: u64,
    pub conflicts: u64,
    pub refused: u64,
}

impl Peer {
    /// Applies events in one transaction, with `position` as the checkpoint.
    pub(super) async fn attempt(
        &self,
        state: &mut State,
        events: &[Event],
        position: &Position,
        tactics: &mut Tactics,
    ) -> Result<Outcome, Retry> {
        let mut sight = Sight::new(&state.stream, events, state.is_mesh, &self.settings)?;
        let whole = tactics.whole.values().filter_map(|whole| whole.at).max();
        let words = [&tactics.again, &tactics.waits].map(Words::all);
        if self.settings.forwards {
            if !tactics.is_part {
                sight.stream.end();
            }
            self.look_back(state, events, &sight).await?;
        }
        let mut marker = sight.marker(state, position, whole, words)?;
        if let Some(forward) = &mut marker.forward {
            forward.same = tactics.same.all();
            forward.is_part = tactics.is_part;
            forward.decides = !tactics.met.is_empty();
        }
        if events.len() > 1 && marker.words_bytes() > MOST_WORDS {
            let e = Error::transient("what both sides have written is too much for one transaction");
            return Err(Failure::TooLarge(e).into());
        }
        marker.session = self.session.id(self.client().await?).await?;
        marker.unsettled.merge(&tactics.met);
        if let Some(window) = &mut state.window {
            // Much is not read with documents locked.
            if state.has_spoken || window.is_behind() {
                window.pull(self.client().await?).await?;
                state.has_spoken = false;
            }
            sight.known = window.at();
            (marker.log.since, marker.log.since_clock) = window.forget(&state.stream.seen);
            window.tell_base(&mut marker);
        }
        let mut transaction = Transaction::begin(self.client().await?, &self.session).await?;
        match self.attempt_in(&mut transaction, state, events, &sight, &marker, tactics).await {
            Ok(writes) => {
                // From here on it may be there, whatever we hear.
                state.is_certain = false;
                transaction.commit().await?;
                if sight.stream.settles {
                    sight.stream.unsettled.merge(&tactics.met);
                }
                state.committed(marker, sight.stream, writes.taken.into_iter());
                for (hash, upto) in writes.beaten {
                    state.beaten.insert(hash, upto);
                }
                Ok(writes.outcome)
            }
            Err(retry) => {
                transaction.abort().await;
                Err(retry)
            }
        }
    }

    async fn attempt_in(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        events: &[Event],
        sight: &Sight,
        marker: &Marker,
        tactics: &mut Tactics,
    ) -> Result<Writes, Retry> {
        self.mark(transaction, state, marker).await?;
        // Where fields are merged, what comes of the log may also have to be said.
        if state.window.is_some() && !self.settings.merges() && tactics.asks.is_empty() {
            let (mut subjects, mut writes) = Default::default();
            let plans = self.plans(state, events, sight, tactics, &mut subjects, &mut writes)?;
            if subjects.is_empty() {
                let planned = (plans, subjects, writes);
                return self.write_meanwhile(transaction, state, events, (sight, marker), planned, tactics).await;
            }
        }
        if let Some(window) = &mut state.window {
            window.pull(self.client().await?).await?;
            if !state.is_mesh && !window.applied().all().is_empty() {
                // Then the marker has to tell more.
                state.is_mesh = true;
                return Err(Retry::Otherwise);
            }
        }
        if self.settings.forwards {
            let is_left = |(n, event): (usize, &Event)| {
                let is_wanted = event.key.is_some() && self.settings.wants(&event.ns) && !is_marker(event);
                !is_wanted || sight.is_left_out(n, &self.settings, state.had())
            };
            let is_run_missing = state.window.as_ref().is_some_and(|window| window.is_run_missing);
            if is_run_missing || events.iter().enumerate().all(is_left) {
                // All of it has come by another way meanwhile.
                return Err(Retry::Otherwise);
            }
        }
        let mut writes = Writes::default();
        let mut subjects = Subjects::default();
        let plans = self.plans(state, events, sight, tactics, &mut subjects, &mut writes)?;
        self.carry_out(transaction, state, events, (sight, marker), (plans, subjects, writes), tactics).await
    }

    /// The writes behind the marker. While the log of the peer is read, `state.window` is not there.
    pub(super) async fn carry_out(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        events: &[Event],
        (sight, marker): (&Sight, &Marker),
        (plans, mut subjects, mut writes): Planned,
        tactics: &mut Tactics,
    ) -> Result<Writes, Retry> {
        self.read(transaction, &mut subjects).await?;
        let is_statement = |n: usize| matches!(plans[n], Plan::Statement(..)) && self.settings.stamp.is_none();
        let (mut nested, shapes) = nested::statements(events, is_statement)?;

        let mut commands = Commands::default();
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut pending = HashSet::new();
        let mut is_said = true;
        for (n, (event, plan)) in events.iter().zip(plans).enumerate() {
            let Some(key) = event.key.as_deref() else { continue };
            let won = match plan {
                Plan::Nothing => continue,
                Plan::Plain => {
                    self.write_plain(event, key).await?;
                    true
                }
                Plan::Statement(kind, statement) => {
                    let statement = nested.remove(&n).unwrap_or(statement);
                    commands.push(n, &event.ns, key, state.serial.contains(&event.ns), kind, statement);
                    true
                }
                Plan::Read(verdict) => {
                    let place = (event.ns.clone(), hash_key(key));
                    let at = subjects.enter(&event.ns, key);
                    let subject = subjects.get(at);
                    subject.event = n;
                    let is_covered = state.is_covered(event.time);
                    let whole = tactics.whole.get(&(place.clone(), event.time));
                    if matches!(verdict, Verdict::Fields(_)) && whole.is_none() {
                        // Whatever the document is: so all of a batch are asked for at once.
                        let (ns, key, why) = (event.ns.clone(), Doc::from(key), Why::Concurrent);
                        wanted.push(Wanted { ns, key, time: event.time, exactly: !is_covered, why });
                        pending.insert(at);
                    }
                    // What it is before this event is not known yet; or the event is in what was taken whole.
                    if pending.contains(&at) || writes.taken.get(&place).is_some_and(|upto| event.time <= *upto) {
                        continue;
                    }
                    let hash = Window::hash(&event.ns, key);
                    if let Verdict::Remote(conflict) = &verdict {
                        writes.beaten.push((hash, conflict.upto));
                        subject.must_change |= conflict.is_new;
                    }
                    subject.is_won |= matches!(verdict, Verdict::Apply | Verdict::Remote(_));
                    let now = subject.now.take();
                    let link = &self.settings.link;
                    let (clock, _) = sight.of(n);
                    let is_unknown =
                        self.is_behind(event, tactics) || is_covered || tactics.partly.contains(&event.id());
                    let is_merged = arbiter::merges(&self.settings, &event.ns);
                    let next = document::apply(event, now.as_deref(), whole, (is_unknown, is_merged), verdict)?;
                    let whole_at = whole.and_then(|whole| whole.at);
                    if let (Now::Is(_) | Now::Differs(..) | Now::Won(..), Some(upto)) = (&next, whole_at) {
                        writes.taken.insert(place, upto);
                    }
                    let by = By::new(link, sight, n, &self.settings);
                    let (next, won) = match next {
                        Now::Same => (now, true),
                        Now::Is(document) => (document, true),
                        Now::Differs(kind, document) => {
                            let versions = (now.as_deref(), document.as_deref());
                            writes.records.push(records::differs(by, event, kind, clock, versions)?);
                            (document, true)
                        }
                        Now::Partly(kind, document) => {
                            // The node has another document: it is told of this one.
                            is_said &= !tactics.again.note(Word::on(event, key, NOTHING, Audience::All)?)?;
                            if let Some(kind) = kind {
                                let versions = (now.as_deref(), whole.and_then(|whole| whole.document.as_deref()));
                                writes.records.push(records::differs(by, event, kind, clock, versions)?);
                            }
                            (Some(document), true)
                        }
                        Now::Won(conflict, document) => {
                            if !document::same(now.as_deref(), document.as_deref()) {
                                let versions = (now.as_deref(), document.as_deref());
                                writes.records.push(records::resolved(by, event, clock, &conflict, true, versions)?);
                            }
                            (document, true)
                        }
                        Now::Lost(conflict, document) => {
                            let versions = (now.as_deref(), document.as_deref());
                            writes.records.push(records::resolved(by, event, clock, &conflict, false, versions)?);
                            (now, false)
                        }
                        Now::Merged(conflict, document, fields) => {
                            let versions = (now.as_deref(), whole.and_then(|whole| whole.document.as_deref()));
                            writes.records.push(records::merged(by, event, clock, &conflict, &fields, versions)?);
                            (document, true)
                        }
                        Now::Homeless => {
                            writes.records.push(records::homeless(by, event, clock)?);
                            (now, false)
                        }
                        Now::Wanted(why) => {
                            pending.insert(at);
                            let exactly = !is_covered;
                            let (ns, key) = (event.ns.clone(), Doc::from(key));
                            wanted.push(Wanted { ns, key, time: event.time, exactly, why });
                            (now, false)
                        }
                    };
                    subject.now = next;
                    won
                }
            };
            if won && event.op == Op::Delete && !self.settings.tombstones.0.is_zero() {
                writes.tombstones.push(records::tombstone(&self.settings.link.node, event, key)?);
            }
            writes.outcome.applied += 1;
        }
        if !wanted.is_empty() {
            self.fetch(wanted, tactics).await?;
            return Err(Retry::Otherwise);
        }
        if !is_said {
            return Err(Retry::Otherwise);
        }
        if !tactics.asks.is_empty() {
            self.contests(transaction, state, events, (sight, marker), tactics, &mut subjects, &mut writes).await?;
        }
        if subjects.all().any(|subject| subject.must_change && !subject.is_changed()) {
            return Err(Failure::Again(Error::transient("another writer was in the way")).into());
        }
        writes.outcome.conflicts = writes.records.len() as u64 - writes.outcome.refused;
        let stamp = self.settings.stamp.as_ref();
        let finish = |n: usize, document: &RawDocument| match stamp {
            Some(stamp) => stamp.on(document, &events[n]),
            None => Ok(document.to_owned()),
        };
        subjects.write(&mut commands, |ns| state.serial.contains(ns), finish)?;
        let write = async {
            self.write(transaction, state, events, commands, tactics).await?;
            self.touch(transaction, state, events, &mut subjects, tactics).await?;
            self.write_beside(transaction, state, &writes).await
        };
        let (others, written) = tokio::join!(shapes.others(self.client().await?), write);
        match (others?, written) {
            (others, Ok(())) if others.is_empty() => Ok(writes),
            (_, Err(Retry::Failure(failure))) => Err(failure.into()),
            (others, _) => {
                tactics.read.extend(others);
                Err(Retry::Otherwise)
            }
        }
    }

    /// The first write of the transaction: it fixes the snapshot, and fences whoever has claimed the link before.
    pub(super) async fn mark(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        marker: &Marker,
    ) -> Result<(), Retry> {
        let before = state.marker()?;
        let update = doc! {"update": names::MARKERS, "updates": [{"q": before.filter(), "u": marker.encode()}]};
        let reply = transaction.run(names::DATABASE, raw(&update)?).await?;
        if reply.n() != 1 {
            // Another instance, or a commit of our own whose reply was lost.
            state.is_certain = false;
            return Err(Failure::Again(Error::transient("the marker of the link has changed")).into());
        }
        Ok(())
    }

    pub(super) async fn read(&self, transaction: &mut Transaction<'_>, subjects: &mut Subjects) -> Result<(), Retry> {
        if subjects.is_empty() {
            return Ok(());
        }
        let mut filters: Vec<(Namespace, Document)> = Vec::new();
        for (ns, keys) in subjects.by_namespace() {
            for keys in keys.chunks(500) {
                let ids = keys.iter().map(|key| as_bson(super::statements::id(key)?)).collect::<Result<Vec<_>>>()?;
                filters.push((ns.clone(), doc! {"_id": {"$in": ids}}));
            }
        }
        for (ns, filter) in filters {
            for document in transaction.documents(ns.db(), ns.coll(), filter).await? {
                subjects.found(&ns, document);
            }
        }
        Ok(())
    }

    /// Reads again from further back in the log of the peer, where something comes from a node that has not seen what was forgotten.
    async fn look_back(&self, state: &mut State, events: &[Event], sight: &Sight) -> Result<()> {
        let had = state.had().clone();
        let since = state.marker()?.log.since;
        let Some(window) = &mut state.window else { return Ok(()) };
        for (n, event) in events.iter().enumerate() {
            let Some(made) = sight.made(n).filter(|_| !sight.is_left_out(n, &self.settings, &had)) else { continue };
            let (_, seen) = sight.of(n);
            if !window.reaches(seen) {
                window.reach(self.client().await?, seen).await?;
            }
            window.note_origin(&made.node, seen, event.time);
        }
        if std::mem::take(&mut window.is_run_missing) {
            window.ours = self.ddl_times(since.min(window.start())).await?;
        }
        Ok(())
    }

    async fn fetch(&self, wanted: Vec<Wanted>, tactics: &mut Tactics) -> Result<(), Retry> {
        // What is to be as it was at a time is asked for time by time; the rest all at once.
        let mut groups: HashMap<(Namespace, Option<Timestamp>), Vec<Wanted>> = HashMap::new();
        for one in wanted {
            let exactly = one.exactly.then_some(one.time);
            groups.entry((one.ns.clone(), exactly)).or_default().push(one);
        }
        for ((ns, exactly), all) in groups {
            let keys: Vec<&RawDocument> = all.iter().map(|one| &*one.key).collect();
            let Some(time) = all.iter().map(|one| one.time).max() else { continue };
            let Documents { found, at } = self.origin.documents(&ns, &keys, time, exactly.is_some()).await?;
            for (one, document) in all.iter().zip(found) {
                let whole = Whole { document, at, wanted: one.why };
                tactics.whole.insert(((ns.clone(), hash_key(&one.key)), one.time), whole);
            }
        }
        Ok(())
    }
}

/// What is written beside the data, and what is remembered once all of it is committed.
#[derive(Default)]
pub(super) struct Writes {
    pub outcome: Outcome,
    pub records: Vec<Document>,
    pub tombstones: Vec<RawDocumentBuf>,
    /// The documents that were taken whole from the origin, and what is in them.
    taken: HashMap<Place, Timestamp>,
    /// By hash, up to when writes of the peer have lost.
    beaten: Vec<(u64, Timestamp)>,
}
