//! Keeps the transactions of the source whole, for sinks that ask for it (K15).

use bson::Timestamp;
use oplogue_api::Event;

/// The beginning of a transaction whose end has not been read yet.
///
/// P1: a batch that ends inside a transaction gives an `end` before it, so what is later than `end` is of a transaction
/// that is not over. It waits here, neither handed over nor tracked, and is simply forgotten when the source is opened
/// again or the route stops: reading goes on before it.
///
/// I6: a transaction is held whole, whatever its size, and takes its share of the window when it is complete. What is
/// held does not take any before: the rest of it would wait for room that only its end makes.
#[derive(Default)]
pub struct Whole {
    held: Vec<Event>,
    bytes: usize,
}

impl Whole {
    /// Takes what a batch holds; gives what is complete up to `end`, and the bytes that it keeps in memory.
    pub fn pass(&mut self, mut events: Vec<Event>, bytes: usize, end: Timestamp) -> (Vec<Event>, usize) {
        let complete = self.held.last().is_none_or(|last| last.time <= end);
        let covered = if complete { events.partition_point(|event| event.time <= end) } else { 0 };
        let open = events.split_off(covered);
        let mut ready = Vec::new();
        let mut size = bytes;
        if complete {
            (ready, size) = (std::mem::take(&mut self.held), size + std::mem::take(&mut self.bytes));
            // The usual case copies nothing.
            if ready.is_empty() { ready = events } else { ready.append(&mut events) }
        }
        if !open.is_empty() {
            self.held.extend(open);
            self.bytes += bytes;
        }
        (ready, size)
    }

    /// The source gives the transaction again from its beginning.
    pub fn forget(&mut self) {
        *self = Whole::default();
    }

    /// Whether a transaction is not over.
    pub fn is_open(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use oplogue_api::{Namespace, Op};

    fn at(n: u32) -> Timestamp {
        Timestamp { time: n, increment: 0 }
    }

    fn events(times: &[u32]) -> Vec<Event> {
        times.iter().map(|n| Event::new(Op::Insert, Namespace::new("a.b"), at(*n), rawdoc! {}.into())).collect()
    }

    fn pass(whole: &mut Whole, times: &[u32], end: u32) -> (Vec<u32>, usize) {
        let (ready, bytes) = whole.pass(events(times), 10, at(end));
        (ready.iter().map(|e| e.time.time).collect(), bytes)
    }

    #[test]
    fn a_transaction_waits_for_its_end() {
        let mut whole = Whole::default();
        assert_eq!(pass(&mut whole, &[1, 2, 2], 2), (vec![1, 2, 2], 10));
        assert!(!whole.is_open());
        assert_eq!(pass(&mut whole, &[3, 5, 5], 3), (vec![3], 10));
        assert_eq!(pass(&mut whole, &[5], 3), (vec![], 10));
        assert_eq!(pass(&mut whole, &[], 4), (vec![], 10));
        assert_eq!(pass(&mut whole, &[5, 6, 8], 6), (vec![5, 5, 5, 5, 6], 30), "the next one begins in the same batch");
        assert!(whole.is_open());
        assert_eq!(pass(&mut whole, &[], 8), (vec![8], 20), "its end may come without events");
        assert!(!whole.is_open());
    }

    #[test]
    fn what_comes_again_is_not_there_twice() {
        let mut whole = Whole::default();
        pass(&mut whole, &[5, 5], 3);
        whole.forget();
        assert_eq!(pass(&mut whole, &[5, 5, 5], 5), (vec![5, 5, 5], 10));
    }
}
