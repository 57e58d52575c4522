//! One transaction: a marker, and what it says is applied.

use std::collections::{HashMap, HashSet};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use oplogue_api::{Change, Doc, Error, Event, Namespace, Op, Position, Result, hash_key, oplog};

use super::{
    marker::Marker,
    names,
    origin::{Documents, as_bson, raw},
    records, shape,
    state::{Peer, State},
    statements::{Applied, Commands, Kind, Serial, statement},
    subjects::Subjects,
    txn::{Failure, Transaction},
};

/// What earlier attempts at the same events have shown.
#[derive(Default)]
pub(super) struct Tactics {
    /// Documents that are read and written whole, by namespace and hash of the key.
    read: HashSet<(Namespace, u64)>,
    /// Events that the peer refuses, with the code.
    refused: HashMap<usize, i32>,
    /// Documents as the origin has them.
    whole: HashMap<(Namespace, u64), Whole>,
}

/// A document as the origin has it.
#[derive(Clone)]
struct Whole {
    document: Option<Doc>,
    /// What is not later than this is in it. `None`: not known.
    at: Option<bson::Timestamp>,
    /// The conflict for which it was asked for, if it is one.
    conflict: Option<&'static str>,
}

/// A document that only the origin knows.
struct Wanted {
    ns: Namespace,
    key: Doc,
    time: bson::Timestamp,
    conflict: Option<&'static str>,
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
        let Some(last) = events.last() else { return Ok(Outcome::default()) };
        let marker = state.next_marker(last, position)?;
        let mut transaction = Transaction::begin(self.client().await?).await?;
        match self.attempt_in(&mut transaction, state, events, &marker, tactics).await {
            Ok(outcome) => {
                // From here on it may be there, whatever we hear.
                state.is_certain = false;
                transaction.commit().await?;
                let included = tactics.whole.drain().filter_map(|(place, whole)| Some((place, whole.at?)));
                state.committed(marker, included);
                Ok(outcome)
            }
            Err(retry) => {
                transaction.abort().await;
                Err(retry)
            }
        }
    }

    async fn attempt_in(
        &self,
        transaction: &mut Transaction,
        state: &mut State,
        events: &[Event],
        marker: &Marker,
        tactics: &mut Tactics,
    ) -> Result<Outcome, Retry> {
        self.mark(transaction, state, marker).await?;
        let mut writes = Writes { outcome: Outcome::default(), records: Vec::new(), tombstones: Vec::new() };
        let mut commands = Commands::default();
        // What must be read, before anything is decided about it.
        let mut subjects = Subjects::default();
        let mut plans = Vec::with_capacity(events.len());
        for (n, event) in events.iter().enumerate() {
            let Some(key) = event.key.as_deref().filter(|_| self.settings.wants(&event.ns) && !event.op.is_barrier())
            else {
                plans.push(Plan::Nothing);
                continue;
            };
            if let Some(code) = tactics.refused.get(&n) {
                writes.records.push(records::refused(&self.settings.link, event, *code)?);
                writes.outcome.refused += 1;
                plans.push(Plan::Nothing);
                continue;
            }
            let place = (event.ns.clone(), hash_key(key));
            if state.included.get(&place).is_some_and(|at| event.time <= *at) {
                plans.push(Plan::Nothing);
                continue;
            }
            let plan = if tactics.read.contains(&place) { Plan::Read } else { self.plan(event, key, state)? };
            if matches!(plan, Plan::Read) && tactics.read.insert(place) {
                // Earlier events of the same document must be applied here as well.
                return Err(Retry::Otherwise);
            }
            if matches!(plan, Plan::Read) {
                subjects.enter(&event.ns, key);
            }
            plans.push(plan);
        }
        self.read(transaction, &mut subjects).await?;

        let mut wanted: Vec<Wanted> = Vec::new();
        for (n, (event, plan)) in events.iter().zip(plans).enumerate() {
            let Some(key) = event.key.as_deref() else { continue };
            match plan {
                Plan::Nothing => continue,
                Plan::Statement(kind, statement) => {
                    commands.push(n, &event.ns, key, state.serial.contains(&event.ns), kind, statement);
                }
                Plan::Read => {
                    let place = subjects.enter(&event.ns, key);
                    let subject = subjects.get(place);
                    subject.event = n;
                    let whole = tactics.whole.get(&(event.ns.clone(), hash_key(key)));
                    match apply_to(event, subject.now.as_deref(), whole, state.is_covered(event.time))? {
                        Now::Is(document) => subject.now = document,
                        Now::Same => {}
                        Now::Differs(kind, document) => {
                            let record = records::resolved(
                                &self.settings.link,
                                event,
                                kind,
                                subject.now.as_deref(),
                                document.as_deref(),
                            )?;
                            writes.records.push(record);
                            writes.outcome.conflicts += 1;
                            subject.now = document;
                        }
                        Now::Wanted(conflict) => {
                            wanted.push(Wanted {
                                ns: event.ns.clone(),
                                key: Doc::from(key),
                                time: event.time,
                                conflict,
                            });
                        }
                    }
                }
            }
            if event.op == Op::Delete && !self.settings.tombstones.0.is_zero() {
                writes.tombstones.push(records::tombstone(&self.settings.link.node, event, key)?);
            }
            writes.outcome.applied += 1;
        }
        if !wanted.is_empty() {
            self.fetch(wanted, tactics).await?;
            return Err(Retry::Otherwise);
        }
        let stamp = self.settings.stamp.as_ref();
        let finish = |n: usize, document: &RawDocument| match stamp {
            Some(stamp) => stamp.on(document, &events[n]),
            None => Ok(document.to_owned()),
        };
        subjects.write(&mut commands, |ns| state.serial.contains(ns), finish)?;
        self.write(transaction, state, events, commands, tactics).await?;
        self.write_beside(transaction, &writes).await?;
        Ok(writes.outcome)
    }

    /// The first write of the transaction: it fixes the snapshot, and fences whoever has claimed the link before.
    async fn mark(&self, transaction: &mut Transaction, state: &mut State, marker: &Marker) -> Result<(), Retry> {
        let before = state.marker()?;
        let filter = doc! {
            "_id": before.link.marker_id(before.lane),
            "generation": before.generation as i64,
            "seq": before.seq as i64,
        };
        let update = doc! {"update": names::MARKERS, "updates": [{"q": filter, "u": marker.encode()}]};
        let reply = transaction.run(names::DATABASE, raw(&update)?).await?;
        if reply.n() != 1 {
            // Another instance, or a commit of our own whose reply was lost.
            state.is_certain = false;
            return Err(Failure::Again(Error::transient("the marker of the link has changed")).into());
        }
        Ok(())
    }

    fn plan(&self, event: &Event, key: &RawDocument, state: &State) -> Result<Plan> {
        if state.is_covered(event.time) {
            return Ok(Plan::Read);
        }
        Ok(match statement(event, key, state.abilities, self.settings.stamp.as_ref())? {
            Applied::Statement(kind, statement) => Plan::Statement(kind, statement),
            Applied::Read => Plan::Read,
        })
    }

    async fn read(&self, transaction: &mut Transaction, subjects: &mut Subjects) -> Result<(), Retry> {
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

    async fn fetch(&self, wanted: Vec<Wanted>, tactics: &mut Tactics) -> Result<(), Retry> {
        let mut by_namespace: HashMap<Namespace, Vec<Wanted>> = HashMap::new();
        for one in wanted {
            by_namespace.entry(one.ns.clone()).or_default().push(one);
        }
        for (ns, all) in by_namespace {
            let keys: Vec<&RawDocument> = all.iter().map(|one| &*one.key).collect();
            let Some(time) = all.iter().map(|one| one.time).max() else { continue };
            let Documents { found, at } = self.origin.documents(&ns, &keys, time).await?;
            for (one, document) in all.iter().zip(found) {
                let whole = Whole { document, at, conflict: one.conflict };
                tactics.whole.entry((ns.clone(), hash_key(&one.key))).or_insert(whole);
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        transaction: &mut Transaction,
        state: &mut State,
        events: &[Event],
        commands: Commands,
        tactics: &mut Tactics,
    ) -> Result<(), Retry> {
        for command in commands.into_all() {
            let reply = transaction.run(command.ns.db(), command.body()).await?;
            if let Some((statement, code)) = reply.refused() {
                let event = command.events.get(statement).copied().unwrap_or(0);
                return Err(on_refusal(&events[event], event, code, &mut state.serial, tactics));
            }
            if command.must_find().is_some_and(|n| n != reply.n()) {
                // One of them is missing, or has another shape than at the origin: look at all.
                for event in &command.events {
                    let event = &events[*event];
                    if let Some(key) = &event.key {
                        tactics.read.insert((event.ns.clone(), hash_key(key)));
                    }
                }
                return Err(Retry::Otherwise);
            }
        }
        Ok(())
    }

    /// Conflicts and tombstones, in the same transaction.
    async fn write_beside(&self, transaction: &mut Transaction, writes: &Writes) -> Result<(), Retry> {
        if !writes.records.is_empty() {
            let insert = doc! {"insert": names::CONFLICTS, "documents": writes.records.clone()};
            let reply = transaction.run(names::DATABASE, raw(&insert)?).await?;
            if let Some((_, code)) = reply.refused() {
                return Err(
                    Error::transient(format!("a conflict record could not be written (MongoDB error {code})")).into()
                );
            }
        }
        for some in writes.tombstones.chunks(10_000) {
            let updates: Vec<Bson> = some
                .iter()
                .map(|t| Bson::Document(doc! {"q": {"_id": t.get("_id").cloned()}, "u": t.clone(), "upsert": true}))
                .collect();
            let update = doc! {"update": names::TOMBSTONES, "updates": updates, "ordered": true};
            let reply = transaction.run(names::DATABASE, raw(&update)?).await?;
            if let Some((_, code)) = reply.refused() {
                return Err(Failure::Again(Error::transient(format!(
                    "a tombstone could not be written (MongoDB error {code})"
                )))
                .into());
            }
        }
        Ok(())
    }
}

struct Writes {
    outcome: Outcome,
    records: Vec<Document>,
    tombstones: Vec<Document>,
}

/// What is to be done with an event.
enum Plan {
    Nothing,
    Statement(Kind, RawDocumentBuf),
    /// At hand, with the document that the peer has.
    Read,
}

/// What a document is after an event.
enum Now {
    Same,
    Is(Option<RawDocumentBuf>),
    /// It was not as it must have been at the origin: the name of the conflict, and what it is now.
    Differs(&'static str, Option<RawDocumentBuf>),
    /// Only the origin knows; for the sake of this conflict.
    Wanted(Option<&'static str>),
}

/// `is_covered`: an initial copy may hold the event, and later ones, already.
fn apply_to(event: &Event, now: Option<&RawDocument>, whole: Option<&Whole>, is_covered: bool) -> Result<Now> {
    let owned = |document: &RawDocument| Some(document.to_owned());
    if let Some(whole) = whole
        && whole.at.is_none_or(|at| event.time <= at)
    {
        // The event is in the document that the origin gave.
        let document = whole.document.as_deref();
        return Ok(match whole.conflict {
            _ if now.map(RawDocument::as_bytes) == document.map(RawDocument::as_bytes) => Now::Same,
            Some(conflict) => Now::Differs(conflict, document.and_then(owned)),
            None => Now::Is(document.and_then(owned)),
        });
    }
    Ok(match (event.op, &event.after, &event.change, now) {
        _ if is_covered => Now::Wanted(None),
        (Op::Insert, Some(after), _, None) | (Op::Replace, Some(after), _, Some(_)) => Now::Is(owned(after)),
        (Op::Insert, Some(after), _, Some(now)) if now.as_bytes() == after.as_bytes() => Now::Same,
        (Op::Insert, Some(after), _, Some(_)) => Now::Differs("exists", owned(after)),
        (Op::Replace, Some(after), _, None) => Now::Differs("missing", owned(after)),
        (Op::Delete, ..) => Now::Is(None),
        (Op::Update, _, Some(Change::OplogV2(diff)), Some(now)) => match shape::fits(diff, now)? {
            true => Now::Is(Some(oplog::apply(diff, now)?)),
            false => Now::Wanted(Some("shape")),
        },
        (Op::Update, _, _, None) => Now::Wanted(Some("missing")),
        (Op::Update, ..) => Now::Wanted(None),
        _ => return Err(Error::data("an event that lacks what its operation needs")),
    })
}

/// What a refused statement means for the next attempt.
fn on_refusal(event: &Event, n: usize, code: i32, serial: &mut Serial, tactics: &mut Tactics) -> Retry {
    let place = event.key.as_ref().map(|key| (event.ns.clone(), hash_key(key)));
    match (code, place) {
        (112 | 251, _) => Failure::Again(Error::transient("another writer was in the way")).into(),
        (13, _) => {
            Error::operator(format!("the user may not write to {}", event.ns)).hint("grant it `readWrite` there").into()
        }
        (263 | 50791, _) => Error::operator(format!("{} cannot be written in transactions", event.ns))
            .hint("it is a capped, time-series or internal collection: leave it out with `namespaces`")
            .into(),
        (14031, _) => Error::transient("the disk of the peer is full").into(),
        // The order of documents among each other may be the reason.
        (11000, _) if serial.insert(event.ns.clone()) => Retry::Otherwise,
        (_, Some(place)) if tactics.read.insert(place.clone()) => Retry::Otherwise,
        (code, _) => {
            tactics.refused.insert(n, code);
            Retry::Otherwise
        }
    }
}
