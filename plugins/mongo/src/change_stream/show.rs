//! Which events are delivered: internal namespaces, and what replicators wrote.

use oplogue_api::{Event, MARKERS, Op, Replicated};

/// Which events are delivered.
#[derive(Clone, Copy, Default)]
pub(super) struct Show {
    /// Internal namespaces too.
    pub system: bool,
    /// What of the transactions of replicators.
    pub replicated: Replicated,
}

impl Show {
    /// `marked`: the event belongs to a transaction that began with a marker.
    pub fn wants(self, event: &Event, marked: bool) -> bool {
        if self.replicated != Replicated::AsWrites && event.ns.as_str() == MARKERS && !event.op.is_barrier() {
            // In front of a transaction, or by itself; elsewhere it says nothing.
            if marked && event.index == 0 || event.txn.is_none() {
                return true;
            }
        }
        // I7: what a replicator wrote is never sent back to where it came from.
        if marked && self.replicated == Replicated::Markers {
            return false;
        }
        self.system
            || !event.ns.is_system()
            // What $out and its like wrote appears under its name with this.
            || event.to.as_ref().is_some_and(|to| !to.is_system())
    }
}

/// Whether a transaction that begins with this event is a replicator's, as the decoder of oplog entries tells it.
///
/// The events of a transaction come contiguous and in the order of its statements, so the marker comes first. On a sharded
/// cluster each shard has a part of the transaction, and that with the marker may come last: then the others are taken for
/// writes of an application. Nothing here tests a sharded cluster: a replicator needs replica sets.
pub(super) fn is_marker(event: &Event) -> bool {
    event.index == 0 && event.ns.as_str() == MARKERS && matches!(event.op, Op::Insert | Op::Update | Op::Replace)
}
