//! A lane: one ordered stream of events into a sink.

use std::{sync::Arc, time::Instant};

use oplogue_api::{Error, ErrorKind, Event, Position, Result, Sink};
use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError};
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    bad::{BadEvents, Rejected},
    status::RouteStatus,
    tracker::{Ticket, Tracker},
};
use crate::telemetry::metrics::{Outcome, Place, RouteMetrics};

/// A part of a batch, for one lane.
pub struct Part {
    pub events: Vec<Event>,
    pub ticket: Ticket,
    /// The position that is reached with it; for the only lane of a route.
    pub end: Option<Position>,
}

/// What all lanes of a route share.
pub struct LaneShared {
    pub route: String,
    pub sink: Arc<dyn Sink>,
    pub bad: Arc<BadEvents>,
    pub max_batch: usize,
    /// The sink takes transactions whole (K15): parts are put together up to `max_batch`, and never cut.
    pub whole: bool,
    pub tracker: Tracker,
    pub status: Arc<RouteStatus>,
    pub metrics: Arc<RouteMetrics>,
}

/// Runs one lane until its queue is closed and empty.
///
/// The queue needs no bound of its own: the route's window bounds the bytes in it (I6). No linger timer: whatever is
/// queued is taken, so that an idle lane is quick and a loaded one writes large batches.
pub async fn run(lane: Arc<LaneShared>, mut queue: UnboundedReceiver<Part>) -> Result<()> {
    let mut held: Option<Part> = None;
    loop {
        let first = match held.take() {
            Some(part) => part,
            None => match queue.recv().await {
                Some(part) => part,
                None => return Ok(()),
            },
        };
        let mut events = first.events;
        let mut tickets = vec![first.ticket];
        let mut upto = first.end;
        loop {
            match queue.try_recv() {
                Ok(part) if events.len() + part.events.len() <= lane.max_batch => {
                    events.extend(part.events);
                    tickets.push(part.ticket);
                    upto = part.end;
                }
                Ok(part) => {
                    held = Some(part);
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        lane.write_all(events, upto.as_ref()).await?;
        // I3: only here, behind the sink's word, does a ticket become delivered; on every other way out it is dropped.
        for ticket in tickets {
            ticket.delivered();
        }
        if let Some(mark) = lane.tracker.mark() {
            lane.status.delivered(mark.time);
        }
    }
}

impl LaneShared {
    /// Writes events in pieces of at most `max_batch`, in order. K15: the borders of transactions are not known here, so
    /// for a sink that takes them whole there is one piece.
    async fn write_all(&self, mut events: Vec<Event>, upto: Option<&Position>) -> Result<()> {
        while events.len() > self.max_batch && !self.whole {
            let rest = events.split_off(self.max_batch);
            self.write(events, None).await?;
            events = rest;
        }
        self.write(events, upto).await
    }

    /// Writes events until each is durable or disposed of. I2: an event is written again only together with, and in
    /// front of, every later event of its key that was not accepted.
    async fn write(&self, mut events: Vec<Event>, upto: Option<&Position>) -> Result<()> {
        let mut backoff = Backoff::new();
        while !events.is_empty() {
            let started = Instant::now();
            let calling = self.status.calling(Place::Sink);
            let result = self.sink.write(&events, upto).await;
            drop(calling);
            self.metrics.wrote(&events, &result, started.elapsed());
            self.metrics.counted_by_sink(&self.sink.counted());
            let error = match result {
                Ok(written) => {
                    let accepted = check_failed(&written, events.len())?;
                    if self.whole {
                        check_whole(&events, &written)?;
                    }
                    self.metrics.count(Outcome::Duplicate, written.duplicates);
                    self.metrics.count(Outcome::Ignored, written.ignored);
                    self.metrics.count(
                        Outcome::Delivered,
                        (accepted as u64).saturating_sub(written.duplicates + written.ignored),
                    );
                    if written.failed.is_empty() {
                        break;
                    }
                    match self.sort_out(&mut events, written.failed).await? {
                        Some(error) => error,
                        None => continue,
                    }
                }
                // One at a time, they would tear a transaction.
                Err(e) if e.kind() == ErrorKind::Data && self.whole => {
                    let hint = e.get_hint().map_or_else(
                        || "this is a fault of the sink, which has to name the event that it refuses".to_owned(),
                        str::to_owned,
                    );
                    Error::operator(format!("the sink refused a write without saying which event of it: {e}"))
                        .hint(hint)
                }
                Err(e) if e.kind() == ErrorKind::Data => {
                    if let [event] = events.as_slice() {
                        self.metrics.given_up();
                        self.bad.dispose(&self.route, Rejected::event(event, &e), &self.status, &self.metrics).await?;
                        break;
                    }
                    // The sink does not say which: find it by writing one at a time.
                    for event in events {
                        Box::pin(self.write(vec![event], None)).await?;
                    }
                    break;
                }
                Err(e) => e,
            };
            match error.kind() {
                ErrorKind::Transient => {}
                // The destination is behind what it once acknowledged: run the route again from what it holds now.
                ErrorKind::PositionLost => {
                    self.status.blame(Place::Sink);
                    return Err(Error::transient(error.to_string()));
                }
                _ => {
                    self.status.blame(Place::Sink);
                    return Err(error);
                }
            }
            self.metrics.retry(Place::Sink, error.kind());
            self.status.retrying(Place::Sink, &error);
            if backoff.tries() == 0 {
                warn!(route = self.route, error = %error, "the sink failed; trying again for as long as it takes");
            }
            tokio::time::sleep(backoff.next_wait()).await;
            let _calling = self.status.calling(Place::Sink);
            match self.sink.open().await {
                Err(e) if e.kind() != ErrorKind::Transient => {
                    self.status.blame(Place::Sink);
                    return Err(e);
                }
                // Still out of reach: the next write says so.
                _ => {}
            }
        }
        if backoff.tries() > 0 {
            self.status.recovered(Place::Sink);
            info!(route = self.route, tries = backoff.tries(), "the sink works again");
        }
        Ok(())
    }

    /// Leaves in `events` what has to be written again, having disposed of the first event that never can be. Only the
    /// first: those behind it may be reported for its sake alone. Returns the error to wait for, if there is one.
    async fn sort_out(&self, events: &mut Vec<Event>, failed: Vec<oplogue_api::Failed>) -> Result<Option<Error>> {
        let mut again = Vec::with_capacity(failed.len());
        let mut disposed = false;
        let mut wait = None;
        for f in failed {
            let event = &events[f.index];
            match f.error.kind() {
                ErrorKind::Data if !disposed => {
                    disposed = true;
                    self.metrics.given_up();
                    self.bad
                        .dispose(&self.route, Rejected::event(event, &f.error), &self.status, &self.metrics)
                        .await?;
                }
                ErrorKind::Data => again.push(event.clone()),
                ErrorKind::Transient => {
                    again.push(event.clone());
                    wait.get_or_insert(f.error);
                }
                _ => {
                    self.status.blame(Place::Sink);
                    return Err(f.error);
                }
            }
        }
        *events = again;
        Ok(if disposed { None } else { wait })
    }
}

/// How many events were accepted; an error when the sink's account makes no sense.
fn check_failed(written: &oplogue_api::Written, events: usize) -> Result<usize> {
    let ascending = written.failed.windows(2).all(|w| w[0].index < w[1].index);
    if !ascending || written.failed.last().is_some_and(|f| f.index >= events) {
        return Err(Error::bug("the sink reported failed events that it was never given, or out of order"));
    }
    Ok(events - written.failed.len())
}

/// K15: what is written again is whole, but for what is disposed of. Only a sink that counts wrongly gives a reason to look.
fn check_whole(events: &[Event], written: &oplogue_api::Written) -> Result<()> {
    let failed = &written.failed;
    // The first event refused for its own sake is disposed of, see `sort_out`.
    let disposed = failed.iter().position(|f| f.error.kind() == ErrorKind::Data);
    let mut again = failed.iter().enumerate().filter(|(n, _)| Some(*n) != disposed).map(|(_, f)| f.index);
    let Some(first) = again.next() else { return Ok(()) };
    let is_failed = |index: usize| failed.binary_search_by_key(&index, |f| f.index).is_ok();
    let torn = (0..events.len())
        .any(|i| !is_failed(i) && (i > first || (events[i].time == events[first].time && events[i].txn.is_some())));
    if torn {
        return Err(Error::bug("the sink reported a part of a transaction as failed, or events in front of others"));
    }
    Ok(())
}
