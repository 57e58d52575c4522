//! How a route is doing: what the HTTP interface shows and the gauges are computed from.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use oplogue_api::{
    Error, Position,
    bson::{self, Timestamp},
};
use serde::Serialize;
use tokio::time::Instant;

use crate::telemetry::metrics::Place;

mod health;
mod initial;

pub use health::{Calling, Health};
pub use initial::InitialView;

/// A reply that is older than this says nothing about now. Idle sources answer every second or so.
const FRESH: Duration = Duration::from_secs(15);

/// What a route is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteState {
    /// It has not reached its source and its sink yet.
    Starting,
    /// Both are open, and events flow.
    Running,
    /// Something failed and is tried again; the reason says what.
    Retrying,
    /// It failed for good: somebody has to do something. The reason says what.
    Stopped,
    /// It has ended in peace: a finite source was read to its end, a pipe was closed, or the process is asked to stop.
    Finished,
}

impl RouteState {
    /// The name in the HTTP interface.
    pub fn name(self) -> &'static str {
        match self {
            RouteState::Starting => "starting",
            RouteState::Running => "running",
            RouteState::Retrying => "retrying",
            RouteState::Stopped => "stopped",
            RouteState::Finished => "finished",
        }
    }

    /// Whether the route does, or has done, what it should: what `/readyz` and `oplogue_route_up` say.
    pub fn is_up(self) -> bool {
        matches!(self, RouteState::Running | RouteState::Finished)
    }
}

/// Why a route is not running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The kind of the error, as [`ErrorKind::name`](oplogue_api::ErrorKind::name) gives it.
    pub kind: &'static str,
    /// What happened.
    pub message: String,
    /// What the operator should do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for Reason {
    fn from(e: &Error) -> Reason {
        Reason { kind: e.kind().name(), message: e.to_string(), hint: e.get_hint().map(str::to_owned) }
    }
}

/// The state of one route, shared by the tasks that run it and those that show it. Written once a batch, not once an event.
pub struct RouteStatus {
    name: String,
    source: String,
    sink: String,
    in_flight: Mutex<Option<InFlight>>,
    progress: Mutex<Option<initial::Watched>>,
    inner: Mutex<Inner>,
}

type InFlight = Box<dyn Fn() -> u64 + Send>;

struct Inner {
    state: RouteState,
    since: Instant,
    reason: Option<Reason>,
    /// What is being tried again, where. The lanes and the reader fail and recover without knowing of each other.
    troubles: Vec<(Place, Reason)>,
    /// Where the error came from that ended a run.
    blamed: Option<Place>,
    /// The calls that have not returned yet, numbered.
    calls: Vec<(u64, Place, Instant)>,
    calls_so_far: u64,
    /// A run has had both ends open.
    has_begun: bool,
    last_read: Option<Read>,
    delivered: Option<Timestamp>,
    /// The last reply after which everything that the server had was delivered.
    caught_up: Option<Instant>,
    checkpoint: Option<Timestamp>,
    saved: Option<Instant>,
    /// Since when there is something delivered that no checkpoint covers.
    unsaved_since: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Read {
    end: Timestamp,
    head: Timestamp,
    at: Instant,
}

impl RouteStatus {
    /// A route that is about to start.
    pub fn new(name: &str, source: &str, sink: &str) -> Arc<RouteStatus> {
        let inner = Inner {
            state: RouteState::Starting,
            since: Instant::now(),
            reason: None,
            troubles: Vec::new(),
            blamed: None,
            calls: Vec::new(),
            calls_so_far: 0,
            has_begun: false,
            last_read: None,
            delivered: None,
            caught_up: None,
            checkpoint: None,
            saved: None,
            unsaved_since: None,
        };
        Arc::new(RouteStatus {
            name: name.to_owned(),
            source: source.to_owned(),
            sink: sink.to_owned(),
            in_flight: Mutex::new(None),
            progress: Mutex::new(None),
            inner: Mutex::new(inner),
        })
    }

    /// The route's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Both ends are open; reading begins at `from`, and everything before it is delivered.
    pub fn started(&self, from: &Position) {
        let mut inner = self.inner();
        inner.end(RouteState::Running, None);
        inner.blamed = None;
        inner.has_begun = true;
        // From here on a later mark is earned by this run: a restart goes back to what was saved.
        inner.delivered = Some(from.time);
        inner.last_read = None;
        inner.unsaved_since = None;
    }

    /// Something failed at `place`, and is tried again there.
    pub fn retrying(&self, place: Place, error: &Error) {
        let mut inner = self.inner();
        inner.troubles.retain(|(at, _)| *at != place);
        inner.troubles.push((place, error.into()));
        inner.enter(RouteState::Retrying, Some(error.into()));
    }

    /// What failed at `place` works again. The route is running again once nothing else is in trouble.
    pub fn recovered(&self, place: Place) {
        let mut inner = self.inner();
        let before = inner.troubles.len();
        inner.troubles.retain(|(at, _)| *at != place);
        if inner.troubles.len() == before {
            return;
        }
        match inner.troubles.last() {
            Some((_, reason)) => inner.reason = Some(reason.clone()),
            None => inner.enter(RouteState::Running, None),
        }
    }

    /// The whole route failed, and is run again from its checkpoint.
    pub fn restarting(&self, error: &Error) {
        self.inner().end(RouteState::Retrying, Some(error.into()));
    }

    /// The route failed for good.
    pub fn stopped(&self, error: &Error) {
        self.inner().end(RouteState::Stopped, Some(error.into()));
    }

    /// The route has ended in peace.
    pub fn finished(&self) {
        self.inner().end(RouteState::Finished, None);
    }

    /// What the route is doing.
    pub fn state(&self) -> RouteState {
        self.inner().state
    }

    /// A batch was read that ends at `end`, when the server's newest cluster time was `head`.
    pub fn read(&self, end: &Position, head: Timestamp) {
        let mut inner = self.inner();
        inner.last_read = Some(Read { end: end.time, head, at: Instant::now() });
        inner.catch_up();
    }

    /// Everything up to `time` is delivered.
    pub fn delivered(&self, time: Timestamp) {
        let mut inner = self.inner();
        if inner.delivered != Some(time) {
            inner.delivered = Some(time);
            if inner.checkpoint != Some(time) {
                inner.unsaved_since.get_or_insert_with(Instant::now);
            }
        }
        inner.catch_up();
    }

    /// A checkpoint at `time` is durable.
    pub fn checkpointed(&self, time: Timestamp) {
        let mut inner = self.inner();
        let now = Instant::now();
        inner.checkpoint = Some(time);
        inner.saved = Some(now);
        inner.unsaved_since = (inner.delivered.is_some_and(|d| d > time)).then_some(now);
    }

    /// The store holds an earlier checkpoint than `time`, on purpose: what lies between needs none.
    pub fn held(&self, time: Timestamp) {
        let mut inner = self.inner();
        inner.unsaved_since = (inner.delivered.is_some_and(|d| d > time)).then(Instant::now);
    }

    /// How to learn how many bytes are between source and sink: asked whenever somebody looks.
    pub fn measure_in_flight(&self, bytes: impl Fn() -> u64 + Send + 'static) {
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(bytes));
    }

    /// How many bytes are between source and sink.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |bytes| bytes())
    }

    /// How far delivery is behind the server, by the server's own clock; `None` until something was read.
    ///
    /// Zero while everything that the server has is delivered. Otherwise the age of the newest thing delivered, or the
    /// time since the route had last caught up if that is less (a server on which nothing happens has an old newest
    /// entry). It grows while the source or the sink cannot be reached. Cluster times have a resolution of one second.
    pub fn lag(&self) -> Option<Duration> {
        self.inner().lag()
    }

    /// How long something delivered has been waiting for a checkpoint that covers it; zero when all is saved.
    pub fn checkpoint_age(&self) -> Duration {
        self.inner().unsaved_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Cluster time of the last durable checkpoint of this run.
    pub fn checkpoint(&self) -> Option<Timestamp> {
        self.inner().checkpoint
    }

    /// Everything, as the HTTP interface shows it.
    pub fn snapshot(&self) -> RouteView {
        let inner = self.inner();
        RouteView {
            name: self.name.clone(),
            source: self.source.clone(),
            sink: self.sink.clone(),
            state: inner.state,
            state_seconds: inner.since.elapsed().as_secs_f64(),
            reason: inner.reason.clone(),
            lag_seconds: inner.lag().map(|lag| lag.as_secs_f64()),
            server_time: inner.last_read.map(|r| ClusterTime(r.head)),
            reply_age_seconds: inner.last_read.map(|r| r.at.elapsed().as_secs_f64()),
            read: inner.last_read.map(|r| ClusterTime(r.end)),
            delivered: inner.delivered.map(ClusterTime),
            checkpoint: inner.checkpoint.map(ClusterTime),
            checkpoint_saved_seconds_ago: inner.saved.map(|at| at.elapsed().as_secs_f64()),
            in_flight_bytes: self.in_flight_bytes(),
            initial: self.progress().map(InitialView::from),
        }
    }

    // Nothing under the lock can panic half-way, so a poisoned lock holds nothing broken.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn enter(&mut self, state: RouteState, reason: Option<Reason>) {
        if self.state != state {
            self.state = state;
            self.since = Instant::now();
        }
        self.reason = reason;
    }

    /// Enters a state that whatever is in trouble has no say in.
    fn end(&mut self, state: RouteState, reason: Option<Reason>) {
        self.troubles.clear();
        self.enter(state, reason);
    }

    fn is_caught_up(&self) -> bool {
        let (Some(read), Some(delivered)) = (self.last_read, self.delivered) else { return false };
        read.end >= read.head && delivered >= read.end
    }

    fn catch_up(&mut self) {
        if self.is_caught_up() {
            self.caught_up = self.last_read.map(|read| read.at);
        }
    }

    fn lag(&self) -> Option<Duration> {
        let read = self.last_read?;
        let delivered = self.delivered?;
        if self.is_caught_up() && read.at.elapsed() <= FRESH {
            return Some(Duration::ZERO);
        }
        // The server's clock now, as far as can be told: what it last said, and the time that has passed here since. No
        // wall clock of this machine comes into it.
        let behind = Duration::from_secs(u64::from(read.head.time.saturating_sub(delivered.time))) + read.at.elapsed();
        Some(match self.caught_up {
            Some(at) => behind.min(at.elapsed()),
            None => behind,
        })
    }
}

/// One route, as `/api/v1/routes` shows it. Absent: not known yet.
#[derive(Clone, Debug, Serialize)]
pub struct RouteView {
    /// The route's name.
    pub name: String,
    /// The name of its source.
    pub source: String,
    /// The name of its sink.
    pub sink: String,
    /// What it is doing.
    pub state: RouteState,
    /// For how long it has been in that state.
    pub state_seconds: f64,
    /// Why it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// See [`RouteStatus::lag`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// The newest cluster time that the server told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_time: Option<ClusterTime>,
    /// How long ago the source last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_age_seconds: Option<f64>,
    /// How far it has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<ClusterTime>,
    /// How far everything is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<ClusterTime>,
    /// The last durable checkpoint of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<ClusterTime>,
    /// How long ago that was saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_saved_seconds_ago: Option<f64>,
    /// Bytes between source and sink.
    pub in_flight_bytes: u64,
    /// The sink's work before the stream; absent when there was none in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<InitialView>,
}

/// A cluster time, written `seconds.increment`, as event ids begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterTime(pub Timestamp);

impl ClusterTime {
    /// The same for people, in UTC and whole seconds: `2026-11-21T10:00:00Z`.
    pub fn utc(self) -> String {
        let time = bson::DateTime::from_millis(i64::from(self.0.time) * 1000);
        time.try_to_rfc3339_string().unwrap_or_else(|_| self.to_string())
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.time, self.0.increment)
    }
}

impl Serialize for ClusterTime {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
