//! Documents that were looked up, kept up to a number of bytes.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bson::Timestamp;
use oplogue_api::{Doc, Namespace};

/// A collection, and `{_id: …}` as it is encoded.
pub(super) type Key = (Namespace, Vec<u8>);

/// About what an entry takes beside its bytes.
const OVERHEAD: usize = 200;

/// The oldest gives way to the newest.
pub(super) struct Cache {
    most: usize,
    /// How long an entry is taken although it may be older than the change.
    ttl: Duration,
    all: HashMap<Key, Entry>,
    /// In the order in which they came, each with its number.
    order: VecDeque<(u64, Key)>,
    bytes: usize,
    next: u64,
}

struct Entry {
    number: u64,
    /// `None`: there is no such document.
    document: Option<Doc>,
    /// It holds all changes up to here.
    upto: Timestamp,
    since: Instant,
}

impl Cache {
    pub fn new(most: usize, ttl: Duration) -> Cache {
        Cache { most, ttl, all: HashMap::new(), order: VecDeque::new(), bytes: 0, next: 0 }
    }

    /// Whether entries are taken by their age.
    pub fn has_ttl(&self) -> bool {
        self.ttl > Duration::ZERO
    }

    /// What is known of a document that a change at `time` has left; `None`: nothing that may be taken.
    pub fn get(&self, key: &Key, time: Timestamp, now: Instant) -> Option<Option<Doc>> {
        let entry = self.all.get(key)?;
        let is_fresh = entry.upto >= time || now.duration_since(entry.since) < self.ttl;
        is_fresh.then(|| entry.document.clone())
    }

    /// The document must share no memory with a reply.
    pub fn put(&mut self, key: Key, document: Option<Doc>, upto: Timestamp, now: Instant) {
        let bytes = size(&key, document.as_ref());
        if bytes > self.most {
            // What is kept is older.
            self.remove(&key);
            return;
        }
        self.next += 1;
        let entry = Entry { number: self.next, document, upto, since: now };
        self.order.push_back((self.next, key.clone()));
        self.bytes += bytes;
        if let Some(old) = self.all.insert(key.clone(), entry) {
            self.bytes -= size(&key, old.document.as_ref());
        }
        while self.bytes > self.most || self.order.len() > 2 * self.all.len() + 16 {
            let Some((number, key)) = self.order.pop_front() else { break };
            match self.all.get(&key) {
                Some(entry) if entry.number == number && self.bytes > self.most => self.remove(&key),
                // Put in again since: its place is farther behind.
                Some(entry) if entry.number == number => self.order.push_back((number, key)),
                _ => {}
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.all.remove(key) {
            self.bytes -= size(key, old.document.as_ref());
        }
    }
}

fn size(key: &Key, document: Option<&Doc>) -> usize {
    // The key is there twice.
    OVERHEAD + 2 * key.1.len() + document.map_or(0, |document| document.as_bytes().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn key(n: usize) -> Key {
        (Namespace::new("a.b"), n.to_le_bytes().to_vec())
    }

    fn at(n: u32) -> Timestamp {
        Timestamp { time: n, increment: 1 }
    }

    fn document(n: usize) -> Option<Doc> {
        Some(rawdoc! {"text": "x".repeat(n)}.into())
    }

    #[test]
    fn the_bytes_are_bounded_whatever_comes() {
        let (mut cache, now) = (Cache::new(10_000, Duration::ZERO), Instant::now());
        for n in 0..20_000 {
            cache.put(key(n % 300), document(n * 7 % 2000), at(n as u32), now);
            let counted: usize = cache.all.iter().map(|(key, e)| size(key, e.document.as_ref())).sum();
            assert_eq!(cache.bytes, counted);
            assert!(cache.bytes <= 10_000 && cache.order.len() <= 2 * cache.all.len() + 17);
            assert!(n < 10 || cache.all.len() >= 3, "it keeps what fits");
        }
        cache.put(key(1), document(1), at(1), now);
        cache.put(key(1), document(20_000), at(2), now);
        assert!(cache.get(&key(1), at(1), now).is_none(), "too large to be kept, and newer than what was");
    }

    #[test]
    fn the_oldest_gives_way() {
        let (mut cache, now) = (Cache::new(5_000, Duration::ZERO), Instant::now());
        for n in 0..100 {
            cache.put(key(n), document(700), at(9), now);
        }
        assert!(cache.get(&key(99), at(9), now).is_some() && cache.get(&key(98), at(9), now).is_some());
        assert!(cache.get(&key(0), at(9), now).is_none());
    }

    #[test]
    fn an_entry_is_taken_for_changes_that_it_holds_or_while_it_is_young() {
        let now = Instant::now();
        let mut exact = Cache::new(5_000, Duration::ZERO);
        exact.put(key(1), None, at(5), now);
        assert_eq!(exact.get(&key(1), at(5), now), Some(None));
        assert_eq!(exact.get(&key(1), at(6), now), None);
        let mut young = Cache::new(5_000, Duration::from_secs(10));
        young.put(key(1), document(3), at(0), now);
        assert!(young.get(&key(1), at(6), now + Duration::from_secs(9)).is_some());
        assert!(young.get(&key(1), at(6), now + Duration::from_secs(10)).is_none());
        assert!(Cache::new(0, Duration::MAX).get(&key(1), at(1), now).is_none());
    }
}
