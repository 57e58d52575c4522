//! Raw entries in, events out.

use std::sync::Arc;

use bson::{RawArray, RawDocument, Timestamp};

use super::{
    OpTime,
    chain::Chain,
    command::{Meaning, meaning},
    damaged,
    envelope::{Envelope, Kind, command},
    operation::{Context, Place, write_event},
    views::view_event,
};
use crate::{BadEvent, Doc, Error, Event, EventId, MARKERS, Namespace, NamespaceCache, Op, Replicated, Result, Txn};

/// The server nests `applyOps` ten deep at most.
const MOST_NESTED: usize = 16;

/// Turns oplog entries into events. Holds a cache of namespaces, and nothing else from one entry to the next.
#[derive(Default)]
pub struct Decoder {
    namespaces: NamespaceCache,
    include_system: bool,
    replicated: Replicated,
    /// The namespace of the operation before, and whether it is wanted: most operations have the same one.
    last: Option<(Namespace, bool)>,
}

/// What became of an entry.
#[derive(Debug)]
pub struct Decoded {
    /// Which entry it was; `None` when it is too damaged to tell.
    pub at: Option<OpTime>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an entry.
#[derive(Debug)]
pub enum Outcome {
    /// Events, or bad events, were appended.
    Events,
    /// A no-op, which only moves the position.
    Heartbeat,
    /// It concerns nothing that is delivered: an internal namespace, a migration, an index build that goes on, …
    Skipped,
    /// An earlier entry of a transaction, or an aborted one: nothing is delivered, now or because of this entry.
    Partial,
    /// The last entry of a transaction that has earlier ones. They are needed now, before any later entry.
    NeedsChain(Chain),
}

/// Where the events go.
struct Out<'a> {
    events: &'a mut Vec<Event>,
    bad: &'a mut Vec<BadEvent>,
}

/// Counts the operations of one oplog entry.
struct Counted<'a> {
    /// All operations so far, those of earlier entries of the transaction too.
    index: &'a mut u32,
    /// The inserts, updates and deletes of this entry alone.
    writes: u32,
    /// The time of this entry.
    entry: Timestamp,
    /// The first operation was a marker, and what follows it is not wanted.
    echo: bool,
}

impl<'a> Counted<'a> {
    fn new(index: &'a mut u32, entry: Timestamp) -> Counted<'a> {
        Counted { index, writes: 0, entry, echo: false }
    }

    /// The place of the operation that comes now.
    fn place(&self, context: &Context) -> Place {
        let entry = EventId { time: self.entry, index: self.writes };
        let is_same = entry == EventId { time: context.time, index: *self.index };
        Place { index: *self.index, entry: (!is_same).then_some(entry) }
    }
}

impl Decoder {
    /// A decoder that leaves out internal namespaces ([`Namespace::is_system`]), or keeps them.
    pub fn new(include_system: bool) -> Decoder {
        Decoder { include_system, ..Decoder::default() }
    }

    /// The same, with what is wanted of the transactions of replicators, and of other writes of their markers.
    #[must_use]
    pub fn replicated(mut self, replicated: Replicated) -> Decoder {
        self.replicated = replicated;
        self
    }

    /// Decodes an entry and appends its events. One that cannot be decoded is appended to `bad`; so is a single
    /// operation of a transaction, and the others are sound.
    pub fn entry(&mut self, entry: &Doc, events: &mut Vec<Event>, bad: &mut Vec<BadEvent>) -> Decoded {
        let mut envelope = Envelope { t: -1, ..Envelope::default() };
        let mut out = Out { events, bad };
        let outcome = match envelope.read(entry) {
            Ok(()) => self.decode(entry, &envelope, &mut out),
            Err(e) => Err(e),
        };
        let at = envelope.ts.map(|ts| OpTime { ts, t: envelope.t });
        let outcome = outcome.unwrap_or_else(|error| {
            let time = envelope.ts.unwrap_or(Timestamp { time: 0, increment: 0 });
            let ns = (!envelope.ns.is_empty()).then(|| self.namespaces.get(envelope.ns));
            out.bad.push(BadEvent::undecodable(out.events.len(), time, ns, entry.clone(), error));
            Outcome::Events
        });
        Decoded { at, outcome }
    }

    fn decode(&mut self, entry: &Doc, envelope: &Envelope<'_>, out: &mut Out<'_>) -> Result<Outcome> {
        let time = envelope.ts.ok_or_else(|| Error::data("the entry has no `ts`"))?;
        let kind = envelope.kind.ok_or_else(|| Error::data("the entry has no `op`"))?;
        // An image of a document may hide behind `n`: it is no change, whatever its namespace.
        if kind == Kind::Noop {
            return Ok(Outcome::Heartbeat);
        }
        if envelope.from_migrate {
            return Ok(Outcome::Skipped);
        }
        let mut context = Context { time, wall: envelope.wall, txn: None };
        if kind != Kind::Command {
            let Some(ns) = self.wanted(envelope.ns, &context) else {
                let view = view_event(entry, envelope, kind, Place::alone(), &context)?;
                let outcome = if view.is_some() { Outcome::Events } else { Outcome::Skipped };
                out.events.extend(view);
                return Ok(outcome);
            };
            out.events.push(write_event(entry, envelope, kind, ns, Place::alone(), &context)?);
            return Ok(Outcome::Events);
        }

        let o = envelope.body()?;
        let (name, argument) = command(o)?;
        if !matches!(name, "applyOps" | "commitTransaction" | "abortTransaction") {
            let event = self.command_event(entry, envelope, Place::alone(), &context)?;
            let delivered = event.is_some();
            out.events.extend(event);
            return Ok(if delivered { Outcome::Events } else { Outcome::Skipped });
        }

        if envelope.is_transaction()
            && let (Some(lsid), Some(number)) = (envelope.lsid, envelope.txn_number)
        {
            context.txn = Some(Arc::new(Txn { lsid: entry.slice(lsid), number, replicated: false }));
        }
        if name == "abortTransaction" {
            return Ok(Outcome::Partial);
        }
        if name == "applyOps" && envelope.is_chained() && (is_true(o, "partialTxn")? || is_true(o, "prepare")?) {
            return Ok(Outcome::Partial);
        }
        if let Some(previous) = envelope.previous()? {
            if previous.ts >= time {
                return Err(Error::data("the entries of a transaction are not in order"));
            }
            return Ok(Outcome::NeedsChain(Chain { context, last: entry.clone(), previous, index: 0, echo: false }));
        }
        if name == "commitTransaction" {
            return Err(Error::data("the commit of a transaction without its prepared entry"));
        }
        let operations = argument.as_array().ok_or_else(|| Error::data("`applyOps` is no array"))?;
        let before = (out.events.len(), out.bad.len());
        let mut index = 0;
        context.note_marker(operations);
        let mut counted = Counted::new(&mut index, time);
        self.operations(entry, operations, &mut counted, &context, 0, out)?;
        let delivered = before != (out.events.len(), out.bad.len());
        Ok(if delivered { Outcome::Events } else { Outcome::Skipped })
    }

    /// Appends the events of an earlier entry of a transaction. To be called first to last, when [`Chain::link`] has
    /// found all of them to belong together.
    pub fn chain_entry(&mut self, chain: &mut Chain, entry: &Doc, events: &mut Vec<Event>, bad: &mut Vec<BadEvent>) {
        if chain.echo {
            return;
        }
        let mut out = Out { events, bad };
        let decoded = match chain.operations(entry) {
            Ok((time, operations)) => {
                if chain.index == 0 {
                    chain.context.note_marker(operations);
                }
                let mut counted = Counted::new(&mut chain.index, time);
                let decoded = self.operations(entry, operations, &mut counted, &chain.context, 0, &mut out);
                chain.echo = counted.echo;
                decoded
            }
            Err(e) => Err(e),
        };
        if let Err(error) = decoded {
            let time = chain.context.time;
            out.bad.push(BadEvent::undecodable(out.events.len(), time, None, entry.clone(), error));
        }
    }

    /// Appends the events of a transaction's last entry.
    pub fn chain_end(&mut self, mut chain: Chain, events: &mut Vec<Event>, bad: &mut Vec<BadEvent>) {
        if chain.echo {
            return;
        }
        let last = chain.last.clone();
        if let Err(error) = self.last_operations(&mut chain, &last, &mut Out { events, bad }) {
            chain.bad(error, events.len(), bad);
        }
    }

    fn last_operations(&mut self, chain: &mut Chain, last: &Doc, out: &mut Out<'_>) -> Result<()> {
        let mut envelope = Envelope::default();
        envelope.read(last)?;
        match command(envelope.body()?)? {
            ("commitTransaction", _) => Ok(()),
            (_, operations) => {
                let operations = operations.as_array().ok_or_else(|| Error::data("`applyOps` is no array"))?;
                let mut counted = Counted::new(&mut chain.index, chain.context.time);
                self.operations(last, operations, &mut counted, &chain.context, 0, out)
            }
        }
    }

    /// The operations of an `applyOps` that is in `entry`. Each is counted, whether it is delivered or not, as the server
    /// counts them for change streams.
    fn operations(
        &mut self,
        entry: &Doc,
        operations: &RawArray,
        counted: &mut Counted<'_>,
        context: &Context,
        depth: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        for element in operations.iter_elements() {
            let operation = element.and_then(|e| e.value()).map_err(damaged)?;
            let operation = operation.as_document().ok_or_else(|| Error::data("an operation is no document"))?;
            let raw = entry.slice(operation);
            let mut envelope = Envelope::default();
            let nested = match envelope.read(&raw) {
                Ok(()) => nested_operations(&envelope),
                Err(e) => Err(e),
            };
            let event = match nested {
                Ok(Some(nested)) if depth < MOST_NESTED => {
                    self.operations(&raw, nested, counted, context, depth + 1, out)?;
                    continue;
                }
                Ok(Some(_)) => Err(Error::data(format!("`applyOps` nests deeper than {MOST_NESTED} levels"))),
                Ok(None) if depth == 0 && self.is_marker(&envelope, *counted.index, context) => {
                    // I7: what a replicator wrote is never sent back to where it came from.
                    counted.echo = self.replicated == Replicated::Markers;
                    let ns = self.namespaces.get(MARKERS);
                    let kind = envelope.kind.unwrap_or(Kind::Update);
                    write_event(&raw, &envelope, kind, ns, counted.place(context), context).map(Some)
                }
                Ok(None) => self.operation(&raw, &envelope, counted.place(context), context),
                Err(e) => Err(e),
            };
            match event {
                Ok(event) => out.events.extend(event),
                Err(error) => {
                    let ns = (!envelope.ns.is_empty()).then(|| self.namespaces.get(envelope.ns));
                    out.bad.push(BadEvent {
                        before: out.events.len(),
                        time: context.time,
                        ns,
                        raw: raw.clone(),
                        event: None,
                        by: None,
                        error,
                    });
                }
            }
            if counted.echo {
                break;
            }
            *counted.index += 1;
            counted.writes += u32::from(matches!(envelope.kind, Some(Kind::Insert | Kind::Update | Kind::Delete)));
        }
        Ok(())
    }

    fn operation(
        &mut self,
        raw: &Doc,
        envelope: &Envelope<'_>,
        place: Place,
        context: &Context,
    ) -> Result<Option<Event>> {
        match envelope.kind.ok_or_else(|| Error::data("the operation has no `op`"))? {
            Kind::Noop => Ok(None),
            _ if envelope.from_migrate => Ok(None),
            Kind::Command => self.command_event(raw, envelope, place, context),
            kind => match self.wanted(envelope.ns, context) {
                Some(ns) => write_event(raw, envelope, kind, ns, place, context).map(Some),
                None => view_event(raw, envelope, kind, place, context),
            },
        }
    }

    fn command_event(
        &mut self,
        raw: &Doc,
        envelope: &Envelope<'_>,
        place: Place,
        context: &Context,
    ) -> Result<Option<Event>> {
        let o = envelope.body()?;
        let (name, argument) = command(o)?;
        let db = envelope.ns.split('.').next().unwrap_or_default();
        let (op, ns, to) = match meaning(name, argument, o)? {
            Meaning::Nothing => return Ok(None),
            Meaning::Collection(op, coll) => (op, self.namespaces.get(&format!("{db}.{coll}")), None),
            Meaning::Database(op) => (op, self.namespaces.get(db), None),
            Meaning::Rename { from, to } => (Op::Rename, self.namespaces.get(from), Some(self.namespaces.get(to))),
        };
        // `$out` and the like fill a temporary collection and rename it: that one is news about the target.
        if !self.include_system && ns.is_system() && to.as_ref().is_none_or(Namespace::is_system) {
            return Ok(None);
        }
        let mut event = context.event(op, ns, place, raw.clone());
        event.to = to;
        Ok(Some(event))
    }

    /// Whether this operation is the marker of a replicator's transaction, and wanted.
    fn is_marker(&self, envelope: &Envelope<'_>, index: u32, context: &Context) -> bool {
        index == 0 && context.txn.is_some() && self.replicated != Replicated::AsWrites && is_marker(envelope)
    }

    /// The interned namespace, unless it is an internal one that is left out.
    fn wanted(&mut self, full: &str, context: &Context) -> Option<Namespace> {
        let (ns, wanted) = match &self.last {
            Some((ns, wanted)) if ns.as_str() == full => (ns.clone(), *wanted),
            _ => {
                let ns = self.namespaces.get(full);
                let wanted = self.include_system || !ns.is_system();
                self.last = Some((ns.clone(), wanted));
                (ns, wanted)
            }
        };
        // A marker that comes later in a transaction says nothing.
        let plain_marker =
            || self.replicated != Replicated::AsWrites && context.txn.is_none() && ns.as_str() == MARKERS;
        (wanted || plain_marker()).then_some(ns)
    }
}

/// Whether an operation, in front of a transaction, says that this is a replicator's.
fn is_marker(envelope: &Envelope<'_>) -> bool {
    envelope.ns == MARKERS && matches!(envelope.kind, Some(Kind::Insert | Kind::Update))
}

impl Context {
    /// Looks whether the transaction is a replicator's, by its first operations.
    fn note_marker(&mut self, operations: &RawArray) {
        let Some(txn) = &self.txn else { return };
        let Some(Ok(first)) = operations.into_iter().next() else { return };
        let mut envelope = Envelope::default();
        if let Some(first) = first.as_document()
            && envelope.read(first).is_ok()
            && is_marker(&envelope)
        {
            self.txn = Some(Arc::new(Txn { replicated: true, ..Txn::clone(txn) }));
        }
    }
}

/// The operations of an `applyOps` inside an `applyOps`.
fn nested_operations<'a>(envelope: &Envelope<'a>) -> Result<Option<&'a RawArray>> {
    if envelope.kind != Some(Kind::Command) {
        return Ok(None);
    }
    match command(envelope.body()?)? {
        ("applyOps", operations) => {
            operations.as_array().map(Some).ok_or_else(|| Error::data("`applyOps` is no array"))
        }
        _ => Ok(None),
    }
}

fn is_true(doc: &RawDocument, name: &str) -> Result<bool> {
    Ok(doc.get(name).map_err(damaged)?.and_then(|v| v.as_bool()).unwrap_or(false))
}
