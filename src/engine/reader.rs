//! The first half of a route: reads the source, passes events through the chain, hands them to the lanes.

use std::{sync::Arc, time::Duration};

use oplogue_api::{
    Batch, Error, ErrorKind, Event, Interest, Ordering, Position, Result, Source, StartAt, Transform, hash_key,
};
use tokio::sync::{mpsc::UnboundedSender, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    bad::{BadEvents, Rejected},
    lane::Part,
    status::RouteStatus,
    tracker::{Lost, Tracker},
    whole::Whole,
    window::Window,
};
use crate::{
    denylist::Denied,
    telemetry::metrics::{Outcome, Place, RouteMetrics},
};

/// A source answers at least every few seconds, idle or not. One that is silent for this long hangs (a connection that died
/// without a word), and is opened again.
const SILENCE: Duration = Duration::from_secs(120);

/// Why a reader ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The source is finite and has come to its end.
    Finished,
    /// It was asked to stop.
    Stopped,
}

/// Reads one source for one route.
pub struct Reader {
    pub route: String,
    pub source: Box<dyn Source>,
    /// What the sink wants of it.
    pub interest: Interest,
    /// What is dropped before the chain sees it.
    pub denied: Option<Denied>,
    /// By name.
    pub chain: Vec<(String, Box<dyn Transform>)>,
    pub bad: Arc<BadEvents>,
    pub lanes: Vec<UnboundedSender<Part>>,
    pub ordering: Ordering,
    /// For a sink that takes transactions whole: the one that is not over.
    pub whole: Option<Whole>,
    pub tracker: Tracker,
    pub window: Window,
    pub status: Arc<RouteStatus>,
    pub metrics: Arc<RouteMetrics>,
    /// The last position that the checkpoint store holds.
    pub committed: watch::Receiver<Option<Position>>,
    pub stop: CancellationToken,
    /// For `Ordering::Any`: the lane whose turn it is.
    pub turn: usize,
}

impl Reader {
    /// Reads until the end, the stop or an error that opening again cannot mend. The source is open at `position`.
    /// Dropping the lanes' senders on return tells the lanes to finish.
    pub async fn run(mut self, mut position: Position) -> Result<ReadEnd> {
        let stop = self.stop.clone();
        let end = loop {
            let calling = self.status.calling(Place::Source);
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(ReadEnd::Stopped),
                next = tokio::time::timeout(SILENCE, self.source.next()) => next,
            };
            drop(calling);
            match next {
                Ok(Ok(Some(batch))) => {
                    let end = batch.end.clone();
                    self.status.read(&end, batch.head);
                    let passed = tokio::select! {
                        biased;
                        // What is not handed over yet is read again after the checkpoint.
                        () = stop.cancelled() => break Ok(ReadEnd::Stopped),
                        passed = self.pass(batch) => passed,
                    };
                    if let Err(e) = passed {
                        break Err(e);
                    }
                    position = end;
                    if self.committed.has_changed().unwrap_or(false) {
                        let upto = self.committed.borrow_and_update().clone();
                        if let Some(upto) = upto
                            && let Err(e) = self.source.committed(&upto).await
                        {
                            warn!(route = self.route, error = %e, "the source did not take note of the checkpoint");
                        }
                    }
                }
                Ok(Ok(None)) if self.whole.as_ref().is_some_and(Whole::is_open) => {
                    self.status.blame(Place::Source);
                    break Err(Error::bug("the source came to its end inside a transaction"));
                }
                Ok(Ok(None)) => break Ok(ReadEnd::Finished),
                Ok(Err(e)) if e.kind() != ErrorKind::Transient => {
                    self.status.blame(Place::Source);
                    break Err(e);
                }
                Ok(Err(e)) => match self.open_again(&position, e).await {
                    Ok(true) => {}
                    Ok(false) => break Ok(ReadEnd::Stopped),
                    Err(e) => break Err(e),
                },
                Err(_) => {
                    let e = Error::transient(format!("the source has not answered for {SILENCE:?}"));
                    match self.open_again(&position, e).await {
                        Ok(true) => {}
                        Ok(false) => break Ok(ReadEnd::Stopped),
                        Err(e) => break Err(e),
                    }
                }
            }
        };
        self.source.close().await;
        end
    }

    /// Opens the source at the end of what was read, until that works. `false`: asked to stop meanwhile.
    async fn open_again(&mut self, position: &Position, mut error: Error) -> Result<bool> {
        warn!(route = self.route, error = %error, "the source failed; opening it again");
        let mut backoff = Backoff::new();
        loop {
            self.metrics.retry(Place::Source, error.kind());
            self.status.retrying(Place::Source, &error);
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
            let _calling = self.status.calling(Place::Source);
            let opened = tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                opened = self.source.open(StartAt::Position(position), &self.interest) => opened,
            };
            match opened {
                Ok(_) => {
                    if let Some(whole) = &mut self.whole {
                        whole.forget();
                    }
                    info!(route = self.route, tries = backoff.tries(), "the source is open again");
                    self.status.recovered(Place::Source);
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Transient => error = e,
                // I4: a position that is gone is an error of the route, never a silent jump.
                Err(e) => {
                    self.status.blame(Place::Source);
                    return Err(e);
                }
            }
        }
    }

    /// Passes one batch through the chain and on to the lanes.
    async fn pass(&mut self, mut batch: Batch) -> Result<()> {
        let read = batch.events.len() + batch.bad.len();
        self.metrics.read(read, batch.bytes);
        if let Some(denied) = &mut self.denied {
            let metrics = &self.metrics;
            let dropped = denied.apply(&mut batch, |event| metrics.denied(event));
            self.metrics.count(Outcome::Filtered, dropped as u64);
        }
        let mut events = batch.events.len();
        for n in 0..self.chain.len() {
            self.prepare(n, &batch).await?;
            let (name, transform) = &mut self.chain[n];
            transform.apply(&mut batch)?;
            for bad in batch.bad.iter_mut().filter(|bad| bad.event.is_some() && bad.by.is_none()) {
                bad.by = Some(name.clone());
            }
            self.metrics.count(Outcome::Filtered, events.saturating_sub(batch.events.len()) as u64);
            events = batch.events.len();
        }
        self.metrics.received(&batch);
        for bad in &batch.bad {
            self.bad.dispose(&self.route, Rejected::from(bad), &self.status, &self.metrics).await?;
        }
        self.hand_over(batch).await
    }

    /// Lets a transform get what it needs for the batch, until that works.
    async fn prepare(&mut self, n: usize, batch: &Batch) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            let calling = self.status.calling(Place::Transform);
            let prepared = self.chain[n].1.prepare(batch).await;
            drop(calling);
            match prepared {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::Transient => {
                    if backoff.tries() == 0 {
                        warn!(route = self.route, error = %e, "a transform cannot get what it needs; trying again");
                    }
                    self.metrics.retry(Place::Transform, e.kind());
                    self.status.retrying(Place::Transform, &e);
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(e) => {
                    self.status.blame(Place::Transform);
                    return Err(e);
                }
            }
        }
        if backoff.tries() > 0 {
            info!(route = self.route, tries = backoff.tries(), "the transform works again");
            self.status.recovered(Place::Transform);
        }
        Ok(())
    }

    /// Reserves the batch's bytes and gives its events to the lanes.
    pub async fn hand_over(&mut self, batch: Batch) -> Result<()> {
        let Batch { mut events, end, mut bytes, .. } = batch;
        // A few events kept out of a large reply would hold all of it: better a copy of those few.
        let kept: usize = events.iter().map(Event::size).sum();
        if kept < bytes / 8 {
            events = events.iter().map(Event::detach).collect();
            bytes = 2 * kept;
        }
        // I6: what a transform has added counts too.
        bytes = bytes.max(kept);
        if let Some(whole) = &mut self.whole {
            (events, bytes) = whole.pass(events, bytes, end.time);
        }
        if events.is_empty() {
            self.tracker.track(Some(end), 0, None);
            if let Some(mark) = self.tracker.mark() {
                self.status.delivered(mark.time);
            }
            return Ok(());
        }
        let reservation = self.window.reserve(bytes + events.len() * size_of::<Event>()).await;

        if self.ordering == Ordering::Total {
            let ticket = self.tracker.track(Some(end.clone()), 1, Some(reservation)).remove(0);
            return self.send(0, Part { events, ticket, end: Some(end) });
        }
        if !events.iter().any(|event| event.op.is_barrier()) {
            return self.split(events, Some(end), Some(reservation));
        }
        // Runs of ordinary events between barriers; the end and the reservation belong to the last run.
        let mut last = (Some(end), Some(reservation));
        let mut run = Vec::new();
        let mut rest = events.into_iter().peekable();
        while let Some(event) = rest.next() {
            let barrier = event.op.is_barrier();
            if barrier {
                self.split(std::mem::take(&mut run), None, None)?;
                drained(&self.tracker).await?;
            }
            run.push(event);
            let is_last = rest.peek().is_none();
            if barrier || is_last {
                let (end, reservation) = if is_last { std::mem::take(&mut last) } else { (None, None) };
                self.split(std::mem::take(&mut run), end, reservation)?;
            }
            if barrier {
                drained(&self.tracker).await?;
            }
        }
        Ok(())
    }

    /// Splits a run of events among the lanes.
    fn split(
        &mut self,
        events: Vec<Event>,
        end: Option<Position>,
        reservation: Option<super::window::Reservation>,
    ) -> Result<()> {
        if events.is_empty() && end.is_none() {
            return Ok(());
        }
        let lanes = self.lanes.len();
        let mut parts: Vec<Vec<Event>> = (0..lanes).map(|_| Vec::new()).collect();
        if lanes == 1 {
            parts[0] = events;
        } else if self.ordering == Ordering::Any {
            self.turn = (self.turn + 1) % lanes;
            parts[self.turn] = events;
        } else {
            for event in events {
                parts[lane_of(&event, lanes)].push(event);
            }
        }
        let used: Vec<usize> = (0..lanes).filter(|i| !parts[*i].is_empty()).collect();
        let tickets = self.tracker.track(end, used.len(), reservation);
        for (lane, ticket) in used.into_iter().zip(tickets) {
            self.send(lane, Part { events: std::mem::take(&mut parts[lane]), ticket, end: None })?;
        }
        Ok(())
    }

    fn send(&self, lane: usize, part: Part) -> Result<()> {
        // A lane that is gone has failed, and its error is what the route reports.
        self.lanes[lane].send(part).map_err(|_| Error::bug("a lane has ended"))
    }
}

async fn drained(tracker: &Tracker) -> Result<()> {
    tracker.drained().await.map_err(|Lost| Error::bug("a part of a batch was lost"))
}

/// I2: the same key always takes the same lane, whatever numeric type it is written in.
fn lane_of(event: &Event, lanes: usize) -> usize {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    event.ns.as_str().hash(&mut hasher);
    if let Some(key) = &event.key {
        hasher.write_u64(hash_key(key));
    }
    (hasher.finish() % lanes as u64) as usize
}
