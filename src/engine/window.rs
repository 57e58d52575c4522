//! The byte window of a route: what may be between source and sink.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// I6: bounds the bytes that a route holds. A batch larger than the whole window passes alone, once the window is empty.
#[derive(Clone)]
pub struct Window {
    free: Arc<Semaphore>,
    capacity: u32,
}

/// A batch's share of the window; returned when dropped.
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

impl Window {
    /// A window of `bytes` (at most 4 GiB).
    pub fn new(bytes: u64) -> Window {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Window { free: Arc::new(Semaphore::new(capacity as usize)), capacity }
    }

    /// Waits until `bytes` are free, in order of asking.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.capacity);
        let permit = Arc::clone(&self.free).acquire_many_owned(share).await;
        Reservation { _permit: permit.expect("the semaphore is never closed") }
    }

    /// How many bytes are taken.
    pub fn used(&self) -> u64 {
        u64::from(self.capacity) - self.free.available_permits() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_full_window_holds_the_next_batch_back() {
        let w = Window::new(100);
        let a = w.reserve(60).await;
        assert!(w.reserve(50).now_or_never().is_none());
        assert_eq!(w.used(), 60);
        drop(a);
        assert!(w.reserve(50).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_window_passes_alone() {
        let w = Window::new(100);
        let a = w.reserve(1).await;
        assert!(w.reserve(1_000_000).now_or_never().is_none());
        drop(a);
        let big = w.reserve(1_000_000).await;
        assert!(w.reserve(1).now_or_never().is_none());
        drop(big);
        assert_eq!(w.used(), 0);
    }
}
