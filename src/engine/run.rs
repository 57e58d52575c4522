//! A run of a route in progress: checkpoints while it goes, an orderly end whatever ended it.

use std::time::Duration;

use oplogue_api::{Error, ErrorKind, Position, Result};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    checkpoint::Saver,
    reader::ReadEnd,
    route::{Route, RouteEnd},
    tracker::Tracker,
};
use crate::telemetry::metrics::Place;

/// A run in progress.
pub struct Run<'a> {
    pub route: &'a Route,
    pub tracker: Tracker,
    pub committed: watch::Sender<Option<Position>>,
    pub saver: Saver,
    /// The last checkpoint was not saved, and that has been logged.
    pub unsaved: bool,
    pub lanes: JoinSet<Result<()>>,
    pub reading: AbortOnDropHandle<Result<ReadEnd>>,
    pub stop_reading: CancellationToken,
}

impl Run<'_> {
    /// Saves checkpoints while reader and lanes run; ends when either does.
    pub async fn supervise(mut self) -> Result<RouteEnd> {
        let mut tick = tokio::time::interval(self.route.plan.checkpoint_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read: Option<Result<ReadEnd>> = None;
        let mut failure: Option<Error> = None;
        let mut lost = false;
        let tracker = self.tracker.clone();
        loop {
            tokio::select! {
                biased;
                ended = &mut self.reading, if read.is_none() => {
                    read = Some(ended.unwrap_or_else(|e| Err(panicked("the source or a transform", e))));
                    break;
                }
                Some(ended) = self.lanes.join_next() => {
                    if let Err(e) = ended.unwrap_or_else(|e| Err(panicked("the sink", e))) {
                        failure = Some(e);
                        break;
                    }
                }
                // I3: whoever dropped a part undelivered says why when it ends.
                _ = tracker.lost() => {
                    lost = true;
                    break;
                }
                _ = tick.tick() => {
                    let stop = self.route.stop.clone();
                    tokio::select! {
                        biased;
                        saved = self.save() => if let Err(e) = saved {
                            failure = Some(e);
                            break;
                        },
                        // A store that does not answer holds up neither the stop nor the end of what failed.
                        () = stop.cancelled() => {}
                        _ = tracker.lost() => {}
                    }
                }
            }
        }
        // Stop reading, let the lanes finish what they have, save how far that came.
        self.stop_reading.cancel();
        let deadline = Instant::now() + self.route.grace;
        let read = match read {
            Some(read) => read,
            None => {
                let ended = tokio::time::timeout_at(deadline, &mut self.reading).await;
                if ended.is_err() {
                    self.reading.abort();
                }
                Ok(ReadEnd::Stopped)
            }
        };
        let finished = self.drain(deadline, &read, &mut failure).await;
        if let Err(e) = self.save_last(deadline, finished).await {
            failure.get_or_insert(e);
        }
        if lost {
            failure.get_or_insert_with(|| Error::bug("a part of a batch was dropped undelivered"));
        }
        match (failure, read) {
            (Some(e), _) if e.is_ended() => {
                info!(route = self.route.plan.name, "{e}");
                Ok(RouteEnd::Finished)
            }
            // A lane's own error says more than what the reader saw of it.
            (Some(e), _) | (None, Err(e)) => Err(e),
            (None, Ok(ReadEnd::Stopped)) => {
                if !finished {
                    warn!(
                        route = self.route.plan.name,
                        "stopped before everything that was read could be delivered; it will be read again"
                    );
                }
                Ok(RouteEnd::Stopped)
            }
            (None, Ok(ReadEnd::Finished)) => Ok(RouteEnd::Finished),
        }
    }

    /// Waits for the lanes. A finite source's last events are waited for without a limit, but for the process' stop.
    async fn drain(&mut self, deadline: Instant, read: &Result<ReadEnd>, failure: &mut Option<Error>) -> bool {
        let unlimited = matches!(read, Ok(ReadEnd::Finished)) && failure.is_none();
        let limit = async {
            if unlimited {
                self.route.stop.cancelled().await;
                tokio::time::sleep(self.route.grace).await;
            } else {
                tokio::time::sleep_until(deadline).await;
            }
        };
        tokio::pin!(limit);
        loop {
            tokio::select! {
                ended = self.lanes.join_next() => match ended {
                    None => return self.tracker.is_drained(),
                    Some(ended) => {
                        if let Err(e) = ended.unwrap_or_else(|e| Err(panicked("the sink", e))) {
                            failure.get_or_insert(e);
                        }
                    }
                },
                () = &mut limit => {
                    self.lanes.shutdown().await;
                    return false;
                }
            }
        }
    }

    /// Whether there is nothing that is still to be saved.
    async fn save(&mut self) -> Result<bool> {
        let Some(mark) = self.tracker.mark() else { return Ok(true) };
        let is_news = self.saver.saved() != Some(&mark);
        // I1: the mark is what every part of every earlier batch was delivered up to.
        let calling = self.route.status.calling(Place::Checkpoint);
        let saved = self.saver.save(&mark).await;
        drop(calling);
        match saved {
            Ok(is_stored) => {
                if std::mem::take(&mut self.unsaved) {
                    info!(route = self.route.plan.name, "the checkpoint is saved again");
                }
                if is_news {
                    self.route.status.recovered(Place::Checkpoint);
                }
                if !is_stored {
                    self.route.status.held(mark.time);
                    return Ok(true);
                }
                if is_news {
                    self.route.metrics.checkpoint_saved(true);
                }
                self.route.status.checkpointed(mark.time);
                self.committed.send_if_modified(|committed| {
                    let changed = committed.as_ref() != Some(&mark);
                    *committed = Some(mark);
                    changed
                });
                Ok(true)
            }
            Err(e) => {
                self.route.metrics.checkpoint_saved(false);
                self.route.metrics.retry(Place::Checkpoint, e.kind());
                if e.kind() == ErrorKind::Transient {
                    // On an idle route this is how a destination that keeps the checkpoints is found to be gone.
                    self.route.status.retrying(Place::Checkpoint, &e);
                    if !std::mem::replace(&mut self.unsaved, true) {
                        warn!(route = self.route.plan.name, error = %e, "the checkpoint was not saved; trying again");
                    }
                    return Ok(false);
                }
                self.route.status.blame(Place::Checkpoint);
                if e.kind() == ErrorKind::PositionLost {
                    // The destination is behind what it once acknowledged: run the route again from what it holds now.
                    return Err(Error::transient(e.to_string()));
                }
                Err(e)
            }
        }
    }

    /// Within what is left of the grace, or a moment more: a store that is as deaf as the sink must not hold up the end.
    async fn save_last(&mut self, deadline: Instant, finished: bool) -> Result<()> {
        let least = Duration::from_secs(if finished { 5 } else { 1 });
        let saving = async {
            let mut backoff = Backoff::new();
            while !self.save().await? {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Ok(())
        };
        match tokio::time::timeout_at(deadline.max(Instant::now() + least), saving).await {
            Ok(result) => result,
            Err(_) => {
                warn!(
                    route = self.route.plan.name,
                    "the last checkpoint was not saved in time; some events will repeat"
                );
                Ok(())
            }
        }
    }
}

/// What a panic or a cancelled task comes to. The panic's own message has been logged by the panic hook.
fn panicked(what: &str, e: tokio::task::JoinError) -> Error {
    if e.is_cancelled() {
        Error::transient(format!("{what} was stopped"))
    } else {
        Error::bug(format!("{what} panicked"))
    }
}
