//! How the two ends of a route are, from the calls that are under way and the last errors: without asking them.

use std::time::Duration;

use tokio::time::Instant;

use super::{RouteState, RouteStatus};
use crate::telemetry::metrics::Place;

/// A call that takes longer than this is taken for hanging. An idle source answers within its `await`, 1 s by default.
pub(super) const HANGING: Duration = Duration::from_secs(4);

/// How the two ends of a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The source answers.
    pub source: bool,
    /// The sink and the store of the checkpoint answer.
    pub sink: bool,
}

/// A call under way: see [`RouteStatus::calling`].
#[must_use]
pub struct Calling<'a> {
    status: &'a RouteStatus,
    number: u64,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.status.inner().calls.retain(|(number, ..)| *number != self.number);
    }
}

impl RouteStatus {
    /// An error at `place` is about to end this run.
    pub fn blame(&self, place: Place) {
        self.inner().blamed.get_or_insert(place);
    }

    /// A call at `place` begins; it ends when the returned value is dropped.
    pub fn calling(&self, place: Place) -> Calling<'_> {
        let mut inner = self.inner();
        inner.calls_so_far += 1;
        let number = inner.calls_so_far;
        inner.calls.push((number, place, Instant::now()));
        Calling { status: self, number }
    }

    /// Whether the place to begin at was fixed at some time, or never will be.
    pub fn has_begun(&self) -> bool {
        let inner = self.inner();
        inner.has_begun || matches!(inner.state, RouteState::Stopped | RouteState::Finished)
    }

    /// How both ends are, as far as the route can tell now, without asking them.
    pub fn health(&self) -> Health {
        let inner = self.inner();
        let at = |place: Place| {
            inner.troubles.iter().any(|(at, _)| *at == place)
                || inner.calls.iter().any(|(_, at, since)| *at == place && since.elapsed() > HANGING)
        };
        let mut health = Health {
            source: !at(Place::Source),
            sink: ![Place::Sink, Place::Checkpoint, Place::DeadLetter].into_iter().any(at),
        };
        let failed = match inner.state {
            RouteState::Stopped => true,
            RouteState::Retrying => inner.troubles.is_empty(),
            _ => false,
        };
        if failed {
            // Whose fault it was, or nobody's in particular.
            health.source &= !matches!(inner.blamed, None | Some(Place::Source));
            health.sink &= inner.blamed == Some(Place::Source);
        }
        health
    }
}
