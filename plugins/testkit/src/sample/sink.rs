use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use oplogue_api::{
    CheckpointStore, Doc, Error, ErrorKind, Event, EventId, Failed, Finding, Interest, Namespace, Op, Ordering,
    Position, Result, Sink, Written, async_trait, same_key,
};
use tokio::sync::watch;

/// An event that became durable in a [`MemorySink`].
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event's id.
    pub id: EventId,
    /// What happened.
    pub op: Op,
    /// Where.
    pub ns: Namespace,
    /// The document key; `None` for a barrier.
    pub key: Option<Doc>,
    /// The event itself, as it reached the sink.
    pub event: Event,
    /// The number of the `write` call that delivered it, from 0.
    pub write: usize,
}

/// What the next `write` does, see [`MemorySink::script`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Delivers everything.
    Accept,
    /// Delivers nothing and fails.
    Fail(ErrorKind),
    /// Delivers everything and fails nevertheless: a lost reply.
    FailAfter(ErrorKind),
    /// Delivers the first events and reports the rest as failed (`Transient`).
    Partial(usize),
    /// Panics before it delivers anything.
    Panic,
    /// Says that the destination was closed on purpose ([`Error::ended`]), and delivers nothing.
    Ended,
}

type Verdict = dyn Fn(&Event) -> Option<ErrorKind> + Send + Sync;

#[derive(Default)]
struct State {
    deliveries: Vec<Delivery>,
    writes: Vec<Vec<EventId>>,
    upto: Vec<Position>,
    script: VecDeque<Outcome>,
    verdict: Option<Arc<Verdict>>,
    open_errors: VecDeque<ErrorKind>,
    begin_errors: VecDeque<ErrorKind>,
    begins: Vec<Position>,
    ping_error: Option<ErrorKind>,
    closes: usize,
}

struct Shared {
    state: Mutex<State>,
    held: watch::Sender<bool>,
    begin_held: watch::Sender<bool>,
    delivered: watch::Sender<usize>,
    writing: AtomicUsize,
    most_writing: AtomicUsize,
}

/// A sink that records what it is given, in the order in which it became durable. Clones are the same sink.
#[derive(Clone)]
pub struct MemorySink {
    shared: Arc<Shared>,
    ordering: Ordering,
    max_batch: Option<usize>,
    store: Option<Arc<dyn CheckpointStore>>,
    interest: Interest,
    whole: bool,
}

impl Default for MemorySink {
    fn default() -> MemorySink {
        MemorySink::new()
    }
}

impl MemorySink {
    /// A sink of [`Ordering::PerKey`] that accepts everything.
    pub fn new() -> MemorySink {
        let shared = Shared {
            state: Mutex::default(),
            held: watch::Sender::new(false),
            begin_held: watch::Sender::new(false),
            delivered: watch::Sender::new(0),
            writing: AtomicUsize::new(0),
            most_writing: AtomicUsize::new(0),
        };
        MemorySink {
            shared: Arc::new(shared),
            ordering: Ordering::PerKey,
            max_batch: None,
            store: None,
            interest: Interest::default(),
            whole: false,
        }
    }

    /// The same with another ordering.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> MemorySink {
        self.ordering = ordering;
        self
    }

    /// The same with a limit of events per `write`.
    #[must_use]
    pub fn max_batch(mut self, events: usize) -> MemorySink {
        self.max_batch = Some(events);
        self
    }

    /// The same with a checkpoint store beside its data.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn CheckpointStore>) -> MemorySink {
        self.store = Some(store);
        self
    }

    /// The same, asking this of its source.
    #[must_use]
    pub fn interest(mut self, interest: Interest) -> MemorySink {
        self.interest = interest;
        self
    }

    /// The same with [`Ordering::Total`], taking transactions whole: where an event fails, its whole transaction does, and all
    /// that is behind.
    #[must_use]
    pub fn whole_transactions(mut self) -> MemorySink {
        self.ordering = Ordering::Total;
        self.whole = true;
        self
    }

    /// What the next calls of `write` do, in order; later ones accept everything.
    pub fn script(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.state().script.extend(outcomes);
    }

    /// Asks for every event, from now on, whether it fails and how. It obeys the rule of the contract: later events of
    /// a key that failed in the same call are reported as failed (`Transient`) without being asked for.
    pub fn judge(&self, verdict: impl Fn(&Event) -> Option<ErrorKind> + Send + Sync + 'static) {
        self.state().verdict = Some(Arc::new(verdict));
    }

    /// Judges no more: everything is accepted.
    pub fn forgive(&self) {
        self.state().verdict = None;
    }

    /// The next `open` fails. May be called several times, for as many failures.
    pub fn fail_open(&self, kind: ErrorKind) {
        self.state().open_errors.push_back(kind);
    }

    /// The next `begin` fails. May be called several times, for as many failures.
    pub fn fail_begin(&self, kind: ErrorKind) {
        self.state().begin_errors.push_back(kind);
    }

    /// Lets every `begin` wait until [`release_begin`](MemorySink::release_begin).
    pub fn hold_begin(&self) {
        self.shared.begin_held.send_replace(true);
    }

    /// Ends [`hold_begin`](MemorySink::hold_begin).
    pub fn release_begin(&self) {
        self.shared.begin_held.send_replace(false);
    }

    /// The positions that `begin` was called with, failures included.
    pub fn begins(&self) -> Vec<Position> {
        self.state().begins.clone()
    }

    /// Every `ping` fails from now on, or works again.
    pub fn fail_ping(&self, kind: Option<ErrorKind>) {
        self.state().ping_error = kind;
    }

    /// Lets every `write` wait, before it delivers anything, until [`release`](MemorySink::release).
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Ends [`hold`](MemorySink::hold).
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Everything that became durable, in that order, duplicates included.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.state().deliveries.clone()
    }

    /// The ids of everything that became durable, in that order, duplicates included.
    pub fn ids(&self) -> Vec<EventId> {
        self.state().deliveries.iter().map(|d| d.id).collect()
    }

    /// How many events became durable, duplicates included.
    pub fn len(&self) -> usize {
        self.state().deliveries.len()
    }

    /// Whether nothing became durable.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until this many events are durable, duplicates included.
    pub async fn wait_len(&self, events: usize) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.shared.delivered.subscribe().wait_for(|n| *n >= events).await;
    }

    /// The ids of the events of each `write` call, failed ones included.
    pub fn writes(&self) -> Vec<Vec<EventId>> {
        self.state().writes.clone()
    }

    /// The most calls of `write` that ran at the same time.
    pub fn most_concurrent(&self) -> usize {
        self.shared.most_writing.load(SeqCst)
    }

    /// How many calls of `write` run now (held ones too).
    pub fn writing(&self) -> usize {
        self.shared.writing.load(SeqCst)
    }

    /// The positions that came with successful writes (`upto`).
    pub fn upto(&self) -> Vec<Position> {
        self.state().upto.clone()
    }

    /// How often the sink was closed.
    pub fn closes(&self) -> usize {
        self.state().closes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn deliver(&self, events: &[Event], verdict: impl Fn(usize, &Event) -> Option<ErrorKind>) -> Written {
        let mut state = self.state();
        let write = state.writes.len();
        state.writes.push(events.iter().map(Event::id).collect());
        let mut written = Written::default();
        let torn = self.whole.then(|| first_of_transaction(events, &verdict)).flatten();
        for (index, event) in events.iter().enumerate() {
            let judged = || verdict(index, event).map(|kind| Error::new(kind, "the test asked for this error"));
            let behind = written.failed.iter().any(|f| blocks(&events[f.index], event));
            let error = if torn.is_some_and(|first| index >= first) {
                judged().or_else(|| Some(Error::transient("another event of the transaction, or before it, failed")))
            } else if behind {
                Some(Error::transient("an earlier event of the same key failed"))
            } else {
                judged()
            };
            match error {
                Some(error) => written.failed.push(Failed { index, error }),
                None => state.deliveries.push(Delivery {
                    id: event.id(),
                    op: event.op,
                    ns: event.ns.clone(),
                    key: event.key.as_ref().map(Doc::detach),
                    event: event.detach(),
                    write,
                }),
            }
        }
        self.shared.delivered.send_replace(state.deliveries.len());
        written
    }
}

/// Where the transaction begins of which an event fails first.
fn first_of_transaction(events: &[Event], verdict: impl Fn(usize, &Event) -> Option<ErrorKind>) -> Option<usize> {
    let failed = events.iter().enumerate().position(|(index, event)| verdict(index, event).is_some())?;
    let same = |event: &&Event| event.txn.is_some() && event.time == events[failed].time;
    Some(failed - events[..failed].iter().rev().take_while(same).count())
}

/// Whether the failure of `first` means that `second`, which comes later in the same call, fails too.
fn blocks(first: &Event, second: &Event) -> bool {
    match (&first.key, &second.key) {
        (Some(a), Some(b)) => first.ns == second.ns && same_key(a, b),
        // A barrier concerns every key.
        _ => true,
    }
}

/// Counts a running `write`, a dropped one included.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn new(shared: &'a Shared) -> Running<'a> {
        let now = shared.writing.fetch_add(1, SeqCst) + 1;
        shared.most_writing.fetch_max(now, SeqCst);
        Running(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn ordering(&self) -> Ordering {
        self.ordering
    }

    fn max_batch(&self) -> Option<usize> {
        self.max_batch
    }

    fn interest(&self) -> Interest {
        self.interest.clone()
    }

    fn whole_transactions(&self) -> bool {
        self.whole
    }

    async fn begin(&self, from: &Position) -> Result<()> {
        let error = {
            let mut state = self.state();
            state.begins.push(from.clone());
            state.begin_errors.pop_front()
        };
        if let Some(kind) = error {
            return Err(Error::new(kind, "the test asked for this error"));
        }
        let _ = self.shared.begin_held.subscribe().wait_for(|held| !held).await;
        Ok(())
    }

    async fn open(&self) -> Result<()> {
        let mut state = self.state();
        match state.open_errors.pop_front() {
            Some(kind) => Err(Error::new(kind, "the test asked for this error")),
            None => Ok(()),
        }
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let _running = Running::new(&self.shared);
        let _ = self.shared.held.subscribe().wait_for(|held| !held).await;
        let (outcome, verdict) = {
            let mut state = self.state();
            (state.script.pop_front().unwrap_or(Outcome::Accept), state.verdict.clone())
        };
        let judged = |event: &Event| verdict.as_ref().and_then(|verdict| verdict(event));
        let written = match outcome {
            Outcome::Panic => panic!("the test asked for this panic"),
            Outcome::Fail(kind) => return Err(Error::new(kind, "the test asked for this error")),
            Outcome::Ended => return Err(Error::ended("the test closed the destination")),
            Outcome::FailAfter(kind) => {
                self.deliver(events, |_, event| judged(event));
                return Err(Error::new(kind, "the test asked for this error after the delivery"));
            }
            Outcome::Partial(first) => self
                .deliver(events, |index, event| if index < first { judged(event) } else { Some(ErrorKind::Transient) }),
            Outcome::Accept => self.deliver(events, |_, event| judged(event)),
        };
        if let Some(upto) = upto
            && written.failed.is_empty()
        {
            self.state().upto.push(upto.clone());
        }
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        match self.state().ping_error {
            Some(kind) => Err(Error::new(kind, "the test wants no answer to a ping")),
            None => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        self.state().closes += 1;
        Ok(())
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        self.store.clone()
    }

    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok("a sink in memory")]
    }
}
