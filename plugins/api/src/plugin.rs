use std::sync::Arc;

use async_trait::async_trait;

use crate::{Batch, Error, Event, Footprint, Namespace, Position, Result, Selection, Share, Supply};

/// Where a source begins to read.
#[derive(Clone, Copy, Debug)]
pub enum StartAt<'a> {
    /// Behind this position: a checkpoint, or the end of the last batch read.
    Position(&'a Position),
    /// There is no checkpoint: where the source's own option `start` says.
    Configured,
    /// At the end of what is there now, whatever `start` says.
    Now,
}

/// What the routes want of a source, so that it can leave the rest on the server. A source may give more than it is asked
/// for: the chain filters again.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// What to do with the writes of a replicator, of which each transaction begins with its marker.
    pub replicated: Replicated,
    /// What the filters at the head of the chain let through: only what all of them select is delivered in the end. Barriers and
    /// gap events are left to the filters, whatever stands here.
    pub selections: Vec<Selection>,
    /// Whether something in the chain asks which events a replicator wrote ([`Event::is_replicated`]). A source that cannot see the markers
    /// fails in `open`.
    pub origins: bool,
}

/// What a route wants of the transactions that a replicator wrote. They are recognised by their first write, a marker in
/// `__mmm.markers`; see `docs/decisions/replication.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicated {
    /// Their changes like those of anybody else. Markers are internal ([`Namespace::is_system`](crate::Namespace::is_system)).
    #[default]
    AsWrites,
    /// The marker alone, as an insert, update or replacement in `__mmm.markers` with its full document in `after`; the other
    /// writes of the transaction are an echo and are dropped (I7), on the server where it can be. Markers that were written outside
    /// of a transaction are given too.
    Markers,
    /// The marker, and behind it the other writes of the transaction, with one [`Txn`](crate::Txn).
    MarkersAndWrites,
}

/// Reads changes. One value serves one route; it is opened again after every error.
#[async_trait]
pub trait Source: Send {
    /// Connects and fixes the place to read from. Called again after an error of `next`. Returns the position at which
    /// reading begins: resuming there later gives what the next calls of `next` would have given.
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) when the position is not there any more (or belongs to
    /// another deployment: then [`Operator`](crate::ErrorKind::Operator)); never a silent jump (I4).
    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position>;

    /// The next batch, in source order; `None` when a finite source has come to its end. Returns within a few seconds on
    /// an idle source, with an empty batch whose `end` has moved as far as the source has (a heartbeat).
    ///
    /// MUST be cancel-safe: a call that is dropped loses nothing that the next call does not give (S3). Without `open`, or
    /// after an error and before the next `open`, it is an error, never a hang or a start of its own accord (S15).
    async fn next(&mut self) -> Result<Option<Batch>>;

    /// What it gives, as far as its options say. No I/O: for the warnings of `oplogue check`.
    fn supply(&self) -> Supply {
        Supply::default()
    }

    /// What of the selections of `interest` the server would evaluate for this source, one answer each. No I/O: for `oplogue check`.
    fn shares(&self, interest: &Interest) -> Vec<Share> {
        interest.selections.iter().map(Share::here).collect()
    }

    /// Whether the documents after updates are looked up: then a second reading, or that of another route, may give others (S10).
    fn looks_up(&self) -> bool {
        false
    }

    /// The route's checkpoint is durable up to here: the source may let go of what lies before.
    async fn committed(&mut self, _upto: &Position) -> Result<()> {
        Ok(())
    }

    /// Looks, without changing anything, whether this source could run: server, topology, version, privileges.
    async fn check(&mut self) -> Vec<Finding>;

    /// Lets go of connections and cursors.
    async fn close(&mut self) {}
}

/// Edits, drops or adds events.
#[async_trait]
pub trait Transform: Send {
    /// Gets what [`Transform::apply`] needs from elsewhere for these events: documents that are looked up, the answer of another
    /// process. Called before each `apply`, with the same batch. May be dropped; what it has got by then is forgotten.
    ///
    /// # Errors
    /// `Transient`: called again with the same batch, for as long as it takes. Every other kind as one of `apply`.
    async fn prepare(&mut self, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    /// What it lets through, if it is a filter: one that hands events on as they came or not at all. `None`: it edits events, or
    /// whether it does is not known, and what stands behind it in the chain sees other events than the source gives.
    fn selection(&self) -> Option<Selection> {
        None
    }

    /// What it reads and changes, as far as its options say: for the warnings of `oplogue check`.
    fn footprint(&self) -> Footprint {
        Footprint::default()
    }

    /// Whether it asks which events a replicator wrote.
    fn asks_origin(&self) -> bool {
        false
    }

    /// Transforms the batch in place. Order per key MUST be kept, and `end` left alone. A function of its input, and of what
    /// `prepare` has got for it: no I/O, no clock.
    ///
    /// An event that cannot be transformed is moved to `batch.bad`; an error says that the whole transform is broken.
    /// Whoever drops or adds events corrects the `before` of those in `bad` (T6). Gap events always pass (T3).
    fn apply(&mut self, batch: &mut Batch) -> Result<()>;

    /// Looks, without changing anything, whether [`Transform::prepare`] will get what it needs. Nothing for a transform that needs nothing.
    async fn check(&mut self) -> Vec<Finding> {
        Vec::new()
    }
}

/// What a sink asks of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// Events may come in any order, from any number of lanes.
    Any,
    /// The events of one document key come in source order; different keys run in parallel lanes.
    PerKey,
    /// All events come in source order, in one lane.
    Total,
}

/// What became of a write.
#[derive(Debug, Default)]
pub struct Written {
    /// The events that are not durable, by index, ascending. All others are.
    pub failed: Vec<Failed>,
    /// How many of the others had been delivered before (by an earlier run, or by a twin) and were left out.
    pub duplicates: u64,
    /// How many of the others this sink has no use for, such as barriers.
    pub ignored: u64,
}

/// An event that a sink did not accept.
#[derive(Debug)]
pub struct Failed {
    /// Its place in the slice given to `write`.
    pub index: usize,
    /// Why. Kind `Transient`: will be written again. Kind `Data`: `on_bad_event` decides.
    pub error: Error,
}

/// How far the work of [`Sink::begin`] has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Documents copied or compared so far, by earlier runs too.
    pub documents: u64,
    /// About how many there are in all.
    pub documents_estimated: u64,
    /// Their size.
    pub bytes: u64,
    /// About the size of all.
    pub bytes_estimated: u64,
    /// How many of them needed a decision.
    pub conflicts: u64,
    /// The collection that is being copied.
    pub namespace: Option<Namespace>,
    /// How long it has been going on, or took.
    pub seconds: f64,
    /// Nothing is left.
    pub done: bool,
}

/// Delivers events.
#[async_trait]
pub trait Sink: Send + Sync {
    /// The order this sink needs.
    fn ordering(&self) -> Ordering {
        Ordering::PerKey
    }

    /// What the sink wants of its source.
    fn interest(&self) -> Interest {
        Interest::default()
    }

    /// Whether a transaction of the source must come whole in one `write`, whatever its size. Only with [`Ordering::Total`].
    /// `upto` is then always given, and is never before the last event.
    fn whole_transactions(&self) -> bool {
        false
    }

    /// The most events, and bytes, that one `write` should get. `None`: the engine's own limit.
    fn max_batch(&self) -> Option<usize> {
        None
    }

    /// Connects, and verifies what can be verified. Called before the source is opened, and again after an error.
    async fn open(&self) -> Result<()> {
        Ok(())
    }

    /// The source is open at `from`, which is durable as the checkpoint of the route, and nothing has been written in this run.
    /// What must be at the destination before (an initial copy) goes here. May take hours; dropped when the route is stopped.
    ///
    /// # Errors
    /// `Transient` is tried again; every other kind ends the run as one of [`Sink::open`] does.
    async fn begin(&self, _from: &Position) -> Result<()> {
        Ok(())
    }

    /// How far [`Sink::begin`] has come; `None` when it had nothing to do in this run. Asked whenever somebody looks.
    fn progress(&self) -> Option<Progress> {
        None
    }

    /// What has happened at this sink since it was last asked, that its users may want to count: names of the sink's own, those
    /// at zero too, for the metric `oplogue_sink_total{route,what}`. Asked at the start and after each `write`, whatever its result.
    fn counted(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Makes the events durable, or says which are not.
    ///
    /// If an event failed, every later event of the same key in the call MUST be reported as failed too. An `Err` says that
    /// nothing is known about any of them: all are written again.
    /// Events may come again that were given before, and a call may be dropped: what it still does then comes before what
    /// later calls do (K5, K11). Barriers of kinds that the sink does not know are counted as ignored, never refused (K7).
    ///
    /// `upto` is given to a sink of [`Ordering::Total`] only: the position that the route has reached once these
    /// events are durable. A sink that can, commits it together with them; it is where its checkpoint store resumes then.
    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written>;

    /// Whether the destination can be reached and written to.
    async fn ping(&self) -> Result<()>;

    /// Flushes and disconnects.
    async fn close(&self) -> Result<()>;

    /// The store that keeps this sink's checkpoints beside its data, if it can.
    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        None
    }

    /// Looks, without changing anything, whether this sink could run.
    async fn check(&self) -> Vec<Finding>;
}

/// A position that is saved, with the number of times that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where to resume.
    pub position: Position,
    /// One more than that of the checkpoint it replaces; 1 for the first. How two writers notice each other.
    pub generation: u64,
}

/// The result of saving a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is durable.
    Stored,
    /// The store left what is stored as it was: the position differs only by what is not worth a write (nothing but idle time
    /// lies between, or writes of replicators, which would answer each other for ever). No generation was used.
    Held,
    /// Another writer has been here: this is what is stored now, and it was left alone.
    Superseded(Checkpoint),
}

/// Keeps the checkpoints of routes.
#[async_trait]
pub trait CheckpointStore: Send + Sync {
    /// The checkpoint of a route, if there is one.
    ///
    /// # Errors
    /// A stored checkpoint that cannot be read is an error of kind `Operator`, never "none".
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>>;

    /// Saves durably, if the stored generation is one less than the given one (0 if nothing is stored). Saving once more
    /// what is stored already is `Stored` too, so that a lost reply does no harm.
    ///
    /// Where nothing is stored although the generation is above 1 (the place lost it, or somebody removed it), a store saves
    /// it or fails with `Operator`; it never makes up a `Superseded` (C5).
    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved>;

    /// Whether several instances of one route may use this store at the same time, and it keeps the furthest position.
    /// Then `Superseded` is no conflict: the writer goes on from the generation that it is told.
    fn is_shared(&self) -> bool {
        false
    }

    /// Sets the checkpoint to `position` whatever is stored, or removes it: `oplogue position set | reset`, with
    /// the route stopped.
    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()>;

    /// Whether the store can be reached and written to, without writing to it.
    async fn check(&self) -> Vec<Finding>;
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Runs, but not as one would want.
    Warning,
    /// Will not run.
    Error,
}

/// What `oplogue check --connect` found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in a sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(what: impl Into<String>) -> Finding {
        Finding { severity: Severity::Ok, what: what.into(), hint: None }
    }
    /// Something that runs, but not as one would want.
    pub fn warning(what: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warning, what: what.into(), hint: Some(hint.into()) }
    }
}

impl From<Error> for Finding {
    fn from(e: Error) -> Finding {
        Finding { severity: Severity::Error, what: e.to_string(), hint: e.get_hint().map(str::to_owned) }
    }
}
