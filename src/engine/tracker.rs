//! Which batches are delivered, and how far a checkpoint may therefore move.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use oplogue_api::Position;
use tokio::sync::Notify;

use super::window::Reservation;

/// Follows the batches of one run of a route. The mark is the end of the last batch before which nothing is
/// outstanding: lanes finish in any order, the mark moves contiguously (I1).
#[derive(Clone, Default)]
pub struct Tracker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The batches that are not delivered yet, and delivered ones behind them, in source order.
    open: VecDeque<Entry>,
    /// The sequence number of the first of them.
    first: u64,
    mark: Option<Position>,
    lost: bool,
}

struct Entry {
    outstanding: usize,
    /// Where the mark moves when the batch is delivered; `None` for a batch that ends inside another one.
    end: Option<Position>,
    /// Returns the bytes of the batch to the window when the entry goes.
    _reservation: Option<Reservation>,
}

/// One part of a batch, on its way to the sink.
///
/// I3: a ticket that is dropped without [`Ticket::delivered`] (cancelled, panicked, forgotten) says *lost*: the mark
/// never passes its batch.
#[must_use]
pub struct Ticket {
    shared: Arc<Shared>,
    number: u64,
    delivered: bool,
}

/// A part of a batch was dropped undelivered.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self) {
        while self.open.front().is_some_and(|entry| entry.outstanding == 0) {
            let entry = self.open.pop_front().expect("there is a front");
            self.first += 1;
            if entry.end.is_some() {
                self.mark = entry.end;
            }
        }
    }
}

impl Tracker {
    /// Enters a batch of `parts` parts and returns a ticket for each. With no parts it counts as delivered as soon as
    /// everything before it is.
    pub fn track(&self, end: Option<Position>, parts: usize, reservation: Option<Reservation>) -> Vec<Ticket> {
        let mut state = self.0.state();
        let number = state.first + state.open.len() as u64;
        state.open.push_back(Entry { outstanding: parts, end, _reservation: reservation });
        if parts == 0 {
            state.advance();
            drop(state);
            self.0.changed.notify_waiters();
        }
        (0..parts).map(|_| Ticket { shared: Arc::clone(&self.0), number, delivered: false }).collect()
    }

    /// The position before which everything is delivered; `None` until the first batch is.
    pub fn mark(&self) -> Option<Position> {
        self.0.state().mark.clone()
    }

    /// Waits until nothing is outstanding.
    ///
    /// # Errors
    /// [`Lost`] as soon as a part was dropped: then it will never be.
    pub async fn drained(&self) -> Result<(), Lost> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Listen before looking, or a change in between is missed.
            changed.as_mut().enable();
            {
                let state = self.0.state();
                if state.lost {
                    return Err(Lost);
                }
                if state.open.is_empty() {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// Waits until a part is dropped undelivered.
    pub async fn lost(&self) -> Lost {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.0.state().lost {
                return Lost;
            }
            changed.await;
        }
    }

    /// Whether everything that was tracked has been delivered.
    pub fn is_drained(&self) -> bool {
        let state = self.0.state();
        !state.lost && state.open.is_empty()
    }
}

impl Ticket {
    /// The part is durable at the sink (or at the dead-letter sink).
    pub fn delivered(mut self) {
        self.delivered = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.delivered {
            let place = (self.number - state.first) as usize;
            if let Some(entry) = state.open.get_mut(place) {
                entry.outstanding -= 1;
                if place == 0 && entry.outstanding == 0 {
                    state.advance();
                }
            }
        } else {
            state.lost = true;
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};
    use proptest::prelude::*;

    fn at(n: u32) -> Position {
        Position { token: rawdoc! {"n": n as i32}.into(), time: Timestamp { time: n, increment: 0 } }
    }

    fn mark(tracker: &Tracker) -> Option<u32> {
        tracker.mark().map(|p| p.time.time)
    }

    #[test]
    fn the_mark_moves_contiguously() {
        let t = Tracker::default();
        let mut one = t.track(Some(at(1)), 2, None);
        let two = t.track(Some(at(2)), 1, None);
        t.track(Some(at(3)), 0, None);
        for ticket in two {
            ticket.delivered();
        }
        assert_eq!(mark(&t), None);
        one.pop().unwrap().delivered();
        assert_eq!(mark(&t), None);
        one.pop().unwrap().delivered();
        assert_eq!(mark(&t), Some(3));
        assert!(t.is_drained());
    }

    #[test]
    fn a_dropped_ticket_is_lost_not_delivered() {
        let t = Tracker::default();
        drop(t.track(Some(at(1)), 1, None));
        t.track(Some(at(2)), 0, None);
        assert_eq!(mark(&t), None);
        assert!(!t.is_drained());
    }

    #[test]
    fn a_panic_while_holding_a_ticket_is_a_loss() {
        let t = Tracker::default();
        let tickets = t.track(Some(at(1)), 1, None);
        let died = std::thread::spawn(move || {
            let _held = tickets;
            panic!("on purpose");
        });
        assert!(died.join().is_err());
        assert_eq!(mark(&t), None);
        assert!(!t.is_drained());
    }

    #[tokio::test]
    async fn drained_waits_and_reports_a_loss() {
        let t = Tracker::default();
        let ticket = t.track(Some(at(1)), 1, None).pop().unwrap();
        let waiting = tokio::spawn({
            let t = t.clone();
            async move { t.drained().await }
        });
        tokio::task::yield_now().await;
        ticket.delivered();
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(t.track(Some(at(2)), 1, None));
        assert_eq!(t.drained().await, Err(Lost));
    }

    proptest! {
        /// Against a model: the mark is the end of the last batch such that it and all before it are delivered.
        #[test]
        fn tracker_equals_its_model(sizes in prop::collection::vec(0usize..4, 1..20), order in any::<u64>()) {
            let t = Tracker::default();
            let mut tickets: Vec<(usize, Ticket)> = Vec::new();
            for (i, parts) in sizes.iter().enumerate() {
                tickets.extend(t.track(Some(at(i as u32 + 1)), *parts, None).into_iter().map(|ticket| (i, ticket)));
            }
            let mut outstanding = sizes.clone();
            let mut seed = order | 1;
            loop {
                let expected = outstanding.iter().take_while(|n| **n == 0).count() as u32;
                prop_assert_eq!(mark(&t), (expected > 0).then_some(expected));
                if tickets.is_empty() {
                    break;
                }
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (batch, ticket) = tickets.swap_remove((seed >> 33) as usize % tickets.len());
                ticket.delivered();
                outstanding[batch] -= 1;
            }
            prop_assert!(t.is_drained());
        }
    }
}
