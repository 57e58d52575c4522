use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bson::{Timestamp, doc};
use oplogue_api::{
    BadEvent, Batch, Doc, Error, ErrorKind, Event, EventId, Finding, Interest, Namespace, Position, Result, Source,
    StartAt, Txn, async_trait,
};
use tokio::sync::Notify;

/// Cluster time of the place before the first entry of every log; the n-th entry is n seconds later.
const EPOCH: u32 = 1_700_000_000;

enum Entry {
    Events(Vec<Event>),
    Bad { ns: Option<Namespace>, raw: Doc },
    Noop,
}

#[derive(Default)]
struct State {
    entries: Vec<Arc<Entry>>,
    /// Entries before this one are gone: positions before it are lost.
    oldest: usize,
    finished: bool,
    next_errors: VecDeque<(usize, ErrorKind)>,
    open_errors: VecDeque<ErrorKind>,
    opens: usize,
    closes: usize,
    committed: Vec<Position>,
    interests: Vec<Interest>,
    transactions: i64,
}

struct Shared {
    deployment: String,
    state: Mutex<State>,
    changed: Notify,
}

/// The log that [`MemorySource`]s read: a handle for the test to feed, shared by its clones.
#[derive(Clone)]
pub struct MemoryLog(Arc<Shared>);

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog::new("memory")
    }
}

impl MemoryLog {
    /// An empty log of a deployment of that name. Positions of another deployment are refused.
    pub fn new(deployment: &str) -> MemoryLog {
        let (state, changed) = (Mutex::default(), Notify::new());
        MemoryLog(Arc::new(Shared { deployment: deployment.to_owned(), state, changed }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let out = f(&mut self.state());
        self.0.changed.notify_waiters();
        out
    }

    /// A source that reads this log from its oldest entry, or from the position it is opened at.
    pub fn source(&self) -> MemorySource {
        MemorySource {
            log: self.clone(),
            at: None,
            sent: 0,
            batch: 100,
            heartbeat: Duration::from_secs(1),
            from_now: false,
        }
    }

    /// Appends an event as an entry of its own; its time, index and wall clock become those of the entry.
    pub fn push(&self, event: Event) -> EventId {
        self.change(|s| s.push(vec![event], None))
    }

    /// Appends events as one transaction: one entry. Returns the id of the first.
    pub fn push_txn(&self, events: Vec<Event>) -> EventId {
        self.change(|s| {
            s.transactions += 1;
            let txn =
                Txn { lsid: super::key_of(self.0.deployment.as_str()), number: s.transactions, replicated: false };
            s.push(events, Some(Arc::new(txn)))
        })
    }

    /// Appends an entry that cannot be decoded. Returns its time.
    pub fn push_bad(&self, ns: Option<&str>) -> Timestamp {
        self.change(|s| {
            let entry = Entry::Bad { ns: ns.map(Namespace::new), raw: super::key_of("not decodable") };
            s.entries.push(Arc::new(entry));
            time_of(s.entries.len())
        })
    }

    /// Appends an entry without events: time goes on.
    pub fn tick(&self) {
        self.change(|s| s.entries.push(Arc::new(Entry::Noop)));
    }

    /// The first `next` that arrives here, at the end of what is there now, fails once.
    pub fn push_error(&self, kind: ErrorKind) {
        self.change(|s| s.next_errors.push_back((s.entries.len(), kind)));
    }

    /// The next `open` fails. May be called several times, for as many failures.
    pub fn fail_open(&self, kind: ErrorKind) {
        self.change(|s| s.open_errors.push_back(kind));
    }

    /// Nothing comes any more: sources return `None` behind the last entry.
    pub fn finish(&self) {
        self.change(|s| s.finished = true);
    }

    /// Forgets all entries that are there now: positions before the newest are lost.
    pub fn truncate(&self) {
        self.change(|s| s.oldest = s.entries.len());
    }

    /// The position behind everything that is there now.
    pub fn end(&self) -> Position {
        self.position(self.state().entries.len())
    }

    /// The position before the first entry.
    pub fn start(&self) -> Position {
        self.position(0)
    }

    /// How often a source of this log was opened, failures included.
    pub fn opens(&self) -> usize {
        self.state().opens
    }

    /// How often a source of this log was closed.
    pub fn closes(&self) -> usize {
        self.state().closes
    }

    /// What each `open` was asked for, in order.
    pub fn interests(&self) -> Vec<Interest> {
        self.state().interests.clone()
    }

    /// The positions given to `committed`, in order.
    pub fn committed(&self) -> Vec<Position> {
        self.state().committed.clone()
    }

    /// The ids of all events of the log, in order.
    pub fn ids(&self) -> Vec<EventId> {
        self.events().iter().map(Event::id).collect()
    }

    /// All events of the log, in order.
    pub fn events(&self) -> Vec<Event> {
        let state = self.state();
        let events = state.entries.iter().filter_map(|e| match &**e {
            Entry::Events(events) => Some(events.clone()),
            _ => None,
        });
        events.flatten().collect()
    }

    pub(crate) fn position(&self, entry: usize) -> Position {
        let token = doc! {"deployment": &self.0.deployment, "entry": entry as i64};
        let token = bson::RawDocumentBuf::try_from(&token).expect("a string and a number can be encoded");
        Position { token: token.into(), time: time_of(entry) }
    }

    pub(crate) fn entry_of(&self, position: &Position) -> Result<usize> {
        if position.token.get_str("deployment").ok() != Some(self.0.deployment.as_str()) {
            return Err(Error::operator("the position belongs to another deployment").hint("reset the position"));
        }
        let entry = position.token.get_i64("entry").map_err(|e| Error::position_lost(format!("damaged token: {e}")))?;
        usize::try_from(entry).map_err(|e| Error::position_lost(format!("damaged token: {e}")))
    }
}

fn time_of(entry: usize) -> Timestamp {
    Timestamp { time: EPOCH + entry as u32, increment: 1 }
}

impl State {
    fn push(&mut self, mut events: Vec<Event>, txn: Option<Arc<Txn>>) -> EventId {
        let time = time_of(self.entries.len() + 1);
        for (index, event) in events.iter_mut().enumerate() {
            event.time = time;
            event.index = index as u32;
            event.wall = Some(i64::from(time.time) * 1000);
            event.txn = txn.clone();
        }
        self.entries.push(Arc::new(Entry::Events(events)));
        EventId { time, index: 0 }
    }

    fn scripted_error(&mut self, at: usize) -> Option<ErrorKind> {
        let found = self.next_errors.iter().position(|(place, _)| *place == at)?;
        self.next_errors.remove(found).map(|(_, kind)| kind)
    }
}

/// A source that reads a [`MemoryLog`]. Resumes at every position that it has handed out.
pub struct MemorySource {
    log: MemoryLog,
    /// How many entries are read; `None`: not open.
    at: Option<usize>,
    /// How many events of the entry behind them were given already (a transaction larger than a batch).
    sent: usize,
    batch: usize,
    heartbeat: Duration,
    from_now: bool,
}

impl MemorySource {
    /// The most events in a batch; 100 unless set. Larger transactions span several batches.
    #[must_use]
    pub fn batch(mut self, events: usize) -> MemorySource {
        self.batch = events.max(1);
        self
    }

    /// How long `next` waits before it gives a heartbeat; a second unless set.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> MemorySource {
        self.heartbeat = every;
        self
    }

    /// Begins at the end of the log when there is no checkpoint, instead of at its oldest entry.
    #[must_use]
    pub fn from_now(mut self) -> MemorySource {
        self.from_now = true;
        self
    }

    /// What can be read now without waiting: `None` when there is nothing new.
    fn read(&mut self) -> Result<Option<Batch>> {
        let Some(mut at) = self.at else {
            return Err(Error::bug("`next` of a source that is not open"));
        };
        let log = self.log.clone();
        let mut state = log.state();
        if at < state.oldest {
            return Err(Error::position_lost("the log has been cut behind this position").hint("reset the position"));
        }
        if self.sent == 0
            && let Some(kind) = state.scripted_error(at)
        {
            self.at = None;
            return Err(Error::new(kind, "the test asked for this error"));
        }
        let begin = at;
        let (mut events, mut bad, mut sent) = (Vec::new(), Vec::new(), self.sent);
        while events.len() < self.batch && at < state.entries.len() {
            match &*state.entries[at].clone() {
                Entry::Events(all) => {
                    let room = self.batch - events.len();
                    events.extend(all.iter().skip(sent).take(room).cloned());
                    sent += room;
                    if sent < all.len() {
                        break;
                    }
                }
                Entry::Bad { ns, raw } => bad.push(BadEvent {
                    before: events.len(),
                    time: time_of(at + 1),
                    ns: ns.clone(),
                    raw: raw.clone(),
                    event: None,
                    by: None,
                    error: Error::data("an entry that the test made undecodable"),
                }),
                Entry::Noop => {}
            }
            (at, sent) = (at + 1, 0);
            if state.next_errors.iter().any(|(place, _)| *place == at) {
                break; // What lies before the error is given first.
            }
        }
        if at == begin && sent == self.sent {
            return Ok(None);
        }
        (self.at, self.sent) = (Some(at), sent);
        let bytes =
            events.iter().map(Event::size).sum::<usize>() + bad.iter().map(|b| b.raw.bytes().len()).sum::<usize>();
        let head = time_of(state.entries.len());
        Ok(Some(Batch { events, bad, end: log.position(at), head, bytes }))
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        let mut state = self.log.state();
        state.interests.push(interest.clone());
        (self.at, self.sent) = (None, 0);
        state.opens += 1;
        if let Some(kind) = state.open_errors.pop_front() {
            return Err(Error::new(kind, "the test asked for this error"));
        }
        let at = match from {
            StartAt::Position(position) => self.log.entry_of(position)?,
            StartAt::Configured if !self.from_now => state.oldest,
            StartAt::Configured | StartAt::Now => state.entries.len(),
        };
        if at < state.oldest || at > state.entries.len() {
            return Err(Error::position_lost("the position is not in the log").hint("reset the position"));
        }
        self.at = Some(at);
        Ok(self.log.position(at))
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        let log = self.log.clone();
        let heartbeat = tokio::time::sleep(self.heartbeat);
        tokio::pin!(heartbeat);
        loop {
            // Made before the look at the log, so that no change between the two is missed.
            let changed = log.0.changed.notified();
            // Cancel-safe: no await between taking a batch and returning it.
            if let Some(batch) = self.read()? {
                return Ok(Some(batch));
            }
            if log.state().finished {
                return Ok(None);
            }
            tokio::select! {
                () = changed => {}
                () = &mut heartbeat => {
                    let at = self.at.unwrap_or_default();
                    let (end, head) = (log.position(at), time_of(log.state().entries.len()));
                    return Ok(Some(Batch { events: Vec::new(), bad: Vec::new(), end, head, bytes: 0 }));
                }
            }
        }
    }

    async fn committed(&mut self, upto: &Position) -> Result<()> {
        self.log.state().committed.push(upto.clone());
        Ok(())
    }

    async fn check(&mut self) -> Vec<Finding> {
        vec![Finding::ok("a log in memory")]
    }

    async fn close(&mut self) {
        (self.at, self.sent) = (None, 0);
        self.log.state().closes += 1;
    }
}
