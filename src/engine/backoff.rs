//! How long to wait before the next try.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Exponential back-off with full jitter: the n-th wait is a random time between zero and `base * 2^n`, at most `cap`.
/// Never gives up: giving up would lose events.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// For destinations and sources: quick at first, never more than ten seconds, so that recovery is seen soon.
    pub fn new() -> Backoff {
        Backoff::with(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// With a base and a cap of one's own.
    pub fn with(base: Duration, cap: Duration) -> Backoff {
        // RandomState is std's source of randomness; jitter needs no better one.
        let seed = RandomState::new().build_hasher().finish() | 1;
        Backoff { base, cap, tries: 0, seed }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let most = self.base.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        most.mul_f64((self.seed >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// How often it was waited since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_scatter() {
        let mut b = Backoff::with(Duration::from_millis(10), Duration::from_millis(100));
        let waits: Vec<_> = (0..200).map(|_| b.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(10));
        assert!(waits.iter().all(|w| *w <= Duration::from_millis(100)));
        assert!(waits[10..].iter().any(|w| *w > Duration::from_millis(50)), "the cap is used");
        assert!(waits[10..].iter().any(|w| *w < Duration::from_millis(50)), "jitter is full");
        b.reset();
        assert!(b.next_wait() <= Duration::from_millis(10));
    }
}
