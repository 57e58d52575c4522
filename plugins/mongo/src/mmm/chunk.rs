//! Events cut into what one transaction takes.

use std::{borrow::Cow, ops::Range, sync::Arc};

use oplogue_api::Event;

/// More would not fit into an oplog entry of 16 MB with what is written beside it.
const MOST_BYTES: usize = 8 << 20;

/// The ranges of events that belong together: a transaction of the source, or an event by itself.
pub(super) fn units(events: &[Event]) -> Vec<Range<usize>> {
    let mut units = Vec::new();
    let mut start = 0;
    for end in 1..=events.len() {
        if end == events.len() || !same_transaction(&events[end - 1], &events[end]) {
            units.push(start..end);
            start = end;
        }
    }
    units
}

fn same_transaction(a: &Event, b: &Event) -> bool {
    let (Some(one), Some(other)) = (&a.txn, &b.txn) else { return false };
    a.time == b.time && (Arc::ptr_eq(one, other) || one == other)
}

/// The collections that a transaction creates come before its writes: they cannot be in a transaction with them, and between them
/// they would cut it in two.
pub(super) fn creations_first(events: &[Event]) -> Cow<'_, [Event]> {
    let is_cut = |unit: &Range<usize>| unit.len() > 1 && events[unit.clone()].iter().any(|event| event.op.is_barrier());
    let cut: Vec<Range<usize>> = units(events).into_iter().filter(is_cut).collect();
    if cut.is_empty() {
        return Cow::Borrowed(events);
    }
    let mut sorted = events.to_vec();
    for unit in cut {
        sorted[unit].sort_by_key(|event| !event.op.is_barrier());
    }
    Cow::Owned(sorted)
}

/// Puts units together up to a number of events and the bytes that a transaction takes. A barrier stands alone.
pub(super) fn chunks(events: &[Event], most: usize) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut open) = (0, false);
    for unit in units(events) {
        let size: usize = events[unit.clone()].iter().map(weight).sum();
        let is_barrier = events[unit.start].op.is_barrier() && unit.len() == 1;
        match chunks.last_mut() {
            Some(last) if open && !is_barrier && last.len() + unit.len() <= most && bytes + size <= MOST_BYTES => {
                last.end = unit.end;
                bytes += size;
            }
            _ => {
                chunks.push(unit);
                bytes = size;
                open = !is_barrier;
            }
        }
    }
    chunks
}

/// About what the event takes in the transaction's entry.
fn weight(event: &Event) -> usize {
    120 + match (&event.after, &event.change) {
        (Some(after), _) => after.as_bytes().len(),
        (None, Some(_)) => event.raw.as_bytes().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};
    use oplogue_api::{Doc, Namespace, Op, Txn};

    fn event(n: u32, op: Op, txn: Option<&Arc<Txn>>) -> Event {
        let raw = Doc::from(rawdoc! {"_id": 1});
        let time = Timestamp { time: n, increment: 0 };
        Event { txn: txn.cloned(), ..Event::new(op, Namespace::new("a.b"), time, raw) }
    }

    #[test]
    fn transactions_stay_whole_and_barriers_alone() {
        let txn = Arc::new(Txn { lsid: Doc::empty(), number: 1, replicated: false });
        let events = [
            event(1, Op::Insert, None),
            event(2, Op::Insert, Some(&txn)),
            event(2, Op::Insert, Some(&txn)),
            event(2, Op::Insert, Some(&txn)),
            event(3, Op::Drop, None),
            event(4, Op::Insert, None),
            event(5, Op::Insert, None),
        ];
        assert_eq!(units(&events), [0..1, 1..4, 4..5, 5..6, 6..7]);
        assert_eq!(chunks(&events, 100), [0..4, 4..5, 5..7]);
        assert_eq!(chunks(&events, 2), [0..1, 1..4, 4..5, 5..7]);
        assert_eq!(chunks(&events, 1), [0..1, 1..4, 4..5, 5..6, 6..7]);
        assert!(chunks(&[], 1).is_empty());
    }
}
