//! How far the other logs were applied at the origin when it made a change: what the change has seen.

use bson::Timestamp;
use oplogue_api::Event;
use std::sync::Arc;

use super::{
    forward::{self, Told},
    marker::Marker,
    state::FIRST_SIDE_LANE,
    unsettled::Unsettled,
};

/// For each node, the cluster time up to which its log was applied. A node that is not listed has never been heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<(String, Timestamp)>);

impl Seen {
    pub const NOTHING: Seen = Seen(Vec::new());

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

    /// Takes note of all that another one has seen.
    pub fn merge(&mut self, other: &Seen) {
        for (node, time) in &other.0 {
            self.note(node, *time);
        }
    }

    /// Whether this has seen all that the other one has.
    pub fn covers(&self, other: &Seen) -> bool {
        other.0.iter().all(|(node, time)| self.of(node).is_some_and(|upto| upto >= *time))
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
    /// Whether this is the link of two that settles what met over a unique value: the one from the preferred node.
    pub settles: bool,
    /// If so, what is not settled yet.
    pub unsettled: Unsettled,
    /// Whether the link forwards.
    pub forwards: bool,
    /// If so, the transaction of a link to the node of which the rest follows.
    pub told: Option<Arc<Told>>,
}

impl Stream {
    /// Takes note of a marker in the log of `node`.
    pub fn pass(&mut self, marker: &Marker, node: &str) {
        // Another one is of a replication beside ours: its clock would make of an earlier write of this node the later one.
        if marker.link.peer != node {
            return;
        }
        self.clock = self.clock.max(marker.clock);
        if marker.lane >= FIRST_SIDE_LANE {
            return;
        }
        if self.forwards {
            self.seen.merge(&forward::known(marker));
        } else {
            self.seen.note(&marker.origin, marker.done.time);
        }
        if self.settles {
            self.unsettled.merge(&marker.unsettled);
        }
    }

    /// The transaction with this marker begins. What it brings is known to the node when it ends.
    pub fn begin(&mut self, event: &Event, marker: Option<&Marker>, node: &str) {
        if self.told.as_ref().is_some_and(|told| !told.is_of(event)) {
            self.end();
        }
        if let Some(marker) = marker.filter(|marker| marker.link.peer == node) {
            let seen = self.seen.clone();
            self.pass(marker, node);
            self.seen = seen;
        }
        self.told = Some(Arc::new(Told::new(event, marker, node)));
    }

    /// It has ended.
    pub fn end(&mut self) {
        if let Some(told) = self.told.take() {
            self.seen.merge(&told.after);
        }
    }

    /// The clock of a write at this place: that of the wall, but later than what was applied before, of which the writer may know.
    pub fn clock_of(&self, event: &Event) -> i64 {
        hybrid(event.wall, event.time, self.clock)
    }
}

/// The wall clock in milliseconds, within the second that the cluster time names, so that it goes back no further than that, and
/// later than `applied`. Computed alike at both ends.
pub(super) fn hybrid(wall: Option<i64>, time: Timestamp, applied: i64) -> i64 {
    let second = i64::from(time.time) * 1000;
    let wall = wall.unwrap_or(second).clamp(second, second + 999);
    if applied == 0 { wall } else { wall.max(applied + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, doc, spec::BinarySubtype};

    #[test]
    fn a_clock_stays_within_its_second_and_behind_what_was_applied() {
        let time = Timestamp { time: 100, increment: 7 };
        for (wall, applied, expected) in [
            (Some(100_500), 0, 100_500),
            (Some(90_000), 0, 100_000),
            (Some(500_000), 0, 100_999),
            (None, 0, 100_000),
            (Some(100_500), 100_400, 100_500),
            (Some(100_500), 200_000, 200_001),
        ] {
            assert_eq!(hybrid(wall, time, applied), expected, "{wall:?} {applied}");
        }
    }

    #[test]
    fn what_was_seen_never_shrinks() {
        let time = |n| Timestamp { time: n, increment: 0 };
        let mut seen = Seen::default();
        seen.note("a", time(5));
        seen.note("a", time(3));
        assert_eq!((seen.of("a"), seen.of("b")), (Some(time(5)), None));
    }

    /// Two replications with names of their own share a deployment: the clock of one would make the writes of the other later ones.
    #[test]
    fn markers_of_a_replication_beside_ours_tell_nothing() {
        let stored = doc! {
            "_id": "x->y", "node": "x", "peer": "y", "lane": 0, "route": "", "generation": 1, "seq": 1, "origin": "x",
            "position": {"token": Binary { subtype: BinarySubtype::Generic, bytes: vec![5, 0, 0, 0, 0] }, "time": Timestamp { time: 5, increment: 0 }},
            "done": {"time": Timestamp { time: 5, increment: 0 }, "index": 0}, "clock": 5000, "seen": {}, "saw": {},
            "writes": Binary { subtype: BinarySubtype::Generic, bytes: vec![] },
            "log": {"clock": 0, "since": Timestamp { time: 0, increment: 0 }, "since_clock": 0},
        };
        let marker = Marker::decode(&stored).expect("a marker");
        let mut stream = Stream::default();
        stream.pass(&marker, "z");
        assert_eq!((stream.clock, stream.seen.of("x")), (0, None));
        stream.pass(&marker, "y");
        assert_eq!((stream.clock, stream.seen.of("x")), (5000, Some(marker.done.time)));
    }
}
