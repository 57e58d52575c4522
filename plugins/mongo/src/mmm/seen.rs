//! How far the other logs were applied at the origin when it made a change: what the change has seen.

use bson::Timestamp;

use super::{marker::Marker, state::FIRST_SIDE_LANE};

/// For each node, the cluster time up to which its log was applied. A node that is not listed has never been heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<(String, Timestamp)>);

impl Seen {
    pub fn new(of: &[(String, Timestamp)]) -> Seen {
        Seen(of.to_vec())
    }

    pub fn of(&self, node: &str) -> Option<Timestamp> {
        self.0.iter().find(|(name, _)| name == node).map(|(_, time)| *time)
    }

    pub fn note(&mut self, node: &str, time: Timestamp) {
        match self.0.iter_mut().find(|(name, _)| name == node) {
            Some((_, known)) => *known = (*known).max(time),
            None => self.0.push((node.to_owned(), time)),
        }
    }

    pub fn all(&self) -> &[(String, Timestamp)] {
        &self.0
    }
}

/// What the log of the origin has told up to some place.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub seen: Seen,
    /// The greatest clock of its markers.
    pub clock: i64,
}

impl Stream {
    /// Takes note of a marker in the log.
    pub fn pass(&mut self, marker: &Marker) {
        if marker.lane < FIRST_SIDE_LANE {
            self.seen.note(&marker.origin, marker.position.time);
        }
        self.clock = self.clock.max(marker.clock);
    }

    /// The clock of a write at this place: that of the wall, but later than what was applied before, of which the writer may know.
    pub fn clock_of(&self, wall: i64) -> i64 {
        hybrid(wall, self.clock)
    }
}

pub(super) fn hybrid(wall: i64, applied: i64) -> i64 {
    if applied == 0 { wall } else { wall.max(applied + 1) }
}
