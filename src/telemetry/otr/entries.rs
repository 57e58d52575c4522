//! What is counted for each oplog entry, by database.

use std::{collections::HashMap, time::Instant};

use oplogue_api::{Batch, bson::Timestamp};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry, core::Collector, proto::MetricFamily,
};

use super::{
    super::metrics::{counters, gauges, histograms},
    is_write,
};

/// The databases beyond these are counted together (I6).
const MOST_DATABASES: usize = 1000;
const OTHERS: &str = "(others)";

pub struct Entries {
    received: IntCounterVec,
    size: IntCounterVec,
    by_size: HistogramVec,
    since: Instant,
    databases: HashMap<String, Database>,
    /// The entry of the last write seen: the writes of one may come in several batches.
    last: Option<Timestamp>,
}

struct Database {
    size: IntCounter,
    processed: Status,
    error: Status,
}

struct Status {
    received: IntCounter,
    by_size: Histogram,
    /// The largest entry of the running minute and of the one before it, once there was an entry.
    largest: Option<Largest>,
}

#[derive(Clone, Copy)]
pub(super) struct Largest {
    pub minute: u64,
    pub now: usize,
    pub before: usize,
}

impl Entries {
    pub fn new(registry: &Registry) -> Entries {
        let mut buckets = vec![0.0];
        buckets.extend((0..29).map(|n| 8.0 * 2_f64.powi(n)));
        Entries {
            received: counters(
                registry,
                "otr_oplog_entries_received",
                "Oplog entries of which something is published, by the database of their first write.",
                &["database", "status"],
            ),
            size: counters(registry, "otr_oplog_entries_received_size", "Bytes of those entries.", &["database"]),
            by_size: histograms(
                registry,
                HistogramOpts::new("otr_oplog_entries_by_size", "Sizes of those entries in bytes.").buckets(buckets),
                &["database", "status"],
            ),
            since: Instant::now(),
            databases: HashMap::new(),
            last: None,
        }
    }

    pub fn received(&mut self, batch: &Batch) {
        let minute = self.since.elapsed().as_secs() / 60;
        let mut writes = batch.events.iter().filter(|event| is_write(event)).peekable();
        let mut last = self.last;
        while let Some(db) = writes.peek().map(|event| event.ns.db()) {
            // Mostly all of a batch are of one database, and it is looked up once.
            let database = self.database(db);
            while let Some(first) = writes.next_if(|event| event.ns.db() == db) {
                let entry = first.entry_id().time;
                let mut bytes = first.raw.as_bytes().len();
                while let Some(next) = writes.next_if(|event| event.entry_id().time == entry) {
                    bytes += next.raw.as_bytes().len();
                }
                let is_new = last.replace(entry) != Some(entry);
                database.size.inc_by(bytes as u64);
                database.processed.count(is_new, bytes, minute);
            }
        }
        self.last = last;
        for bad in &batch.bad {
            let raw = bad.event.as_ref().map_or(&bad.raw, |event| &event.raw);
            let bytes = raw.as_bytes().len();
            let database = self.database(bad.ns.as_ref().map_or("(no database)", |ns| ns.db()));
            database.size.inc_by(bytes as u64);
            database.error.count(true, bytes, minute);
        }
    }

    fn database(&mut self, name: &str) -> &mut Database {
        let is_known = self.databases.contains_key(name);
        let name = if is_known || self.databases.len() < MOST_DATABASES { name } else { OTHERS };
        if !self.databases.contains_key(name) {
            let status = |status| Status {
                received: self.received.with_label_values(&[name, status]),
                by_size: self.by_size.with_label_values(&[name, status]),
                largest: None,
            };
            // A series of errors begins with the first.
            let database = Database {
                size: self.size.with_label_values(&[name]),
                processed: status("processed"),
                error: status("error"),
            };
            self.databases.insert(name.to_owned(), database);
        }
        self.databases.get_mut(name).expect("it was just put there")
    }

    /// The largest entry of the last full minute.
    pub fn largest(&mut self) -> Vec<MetricFamily> {
        let minute = self.since.elapsed().as_secs() / 60;
        let gauge = gauges(
            "otr_oplog_entries_max_size",
            "Bytes of the largest entry of the last full minute.",
            &["database", "status"],
        );
        for (name, database) in &mut self.databases {
            for (status, of) in [("processed", &mut database.processed), ("error", &mut database.error)] {
                if let Some(largest) = &mut of.largest {
                    largest.turn(minute);
                    gauge.with_label_values(&[name.as_str(), status]).set(largest.before as f64);
                }
            }
        }
        gauge.collect()
    }
}

impl Status {
    fn count(&mut self, is_new: bool, bytes: usize, minute: u64) {
        if is_new {
            self.received.inc();
        }
        self.by_size.observe(bytes as f64);
        let largest = self.largest.get_or_insert(Largest { minute, now: 0, before: 0 });
        largest.turn(minute);
        largest.now = largest.now.max(bytes);
    }
}

impl Largest {
    pub fn turn(&mut self, minute: u64) {
        if minute > self.minute {
            self.before = if minute == self.minute + 1 { self.now } else { 0 };
            self.now = 0;
            self.minute = minute;
        }
    }
}
