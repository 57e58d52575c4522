//! The metrics of oplogtoredis, for dashboards and alarms that know them. `docs/oplogtoredis.md` describes each, and where its
//! meaning differs; a test compares the two.

mod entries;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oplogue_api::{Batch, Event, Op, Result, Written};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    core::Collector, proto::MetricFamily,
};

use super::metrics::{Place, counters, gauges, histograms};
use crate::{denylist::Denylist, engine::status::RouteStatus};
use entries::Entries;

/// What oplogtoredis numbers its readers and writers with; there is one of each here.
const ORDINAL: &str = "0";
/// How many messages oplogtoredis buffers for each destination.
const BUFFER: f64 = 10_000.0;

/// The metrics of the process.
pub struct Otr {
    registry: Registry,
    entries: Mutex<Entries>,
    filtered: IntCounterVec,
    last_received: GaugeVec,
    resume_gap: HistogramVec,
    not_started: IntCounterVec,
    processed: IntCounterVec,
    temporary_failures: IntCounter,
    batch_size: HistogramVec,
    command: HistogramVec,
    before_retries: GaugeVec,
    last_staleness: GaugeVec,
    staleness: HistogramVec,
    /// `max_in_flight` of each route.
    windows: Mutex<Vec<u64>>,
}

/// The same for one route, labels resolved.
pub struct RouteOtr {
    otr: Arc<Otr>,
    /// Entries are counted once, however many destinations there are.
    is_first: bool,
    sent: IntCounter,
    failed: IntCounter,
    batch_sent: Histogram,
    batch_failed: Histogram,
    command: Histogram,
    before_retries: Gauge,
    published: (Gauge, Histogram),
    duplicate: (Gauge, Histogram),
}

impl Otr {
    /// All at zero.
    pub fn new() -> Arc<Otr> {
        let registry = Registry::new();
        let r = &registry;
        let ordinal: &[&str] = &["ordinal"];
        let both: &[&str] = &["ordinal", "status"];
        let otr = Otr {
            entries: Mutex::new(Entries::new(r)),
            filtered: counters(
                r,
                "otr_oplog_entries_filtered",
                "Writes that were dropped because their database is on the denylist.",
                &["database"],
            ),
            last_received: registered(
                r,
                "otr_oplog_last_received_staleness",
                "Age of the entry read last, in nanoseconds.",
                ordinal,
            ),
            resume_gap: histograms(
                r,
                HistogramOpts::new("otr_oplog_resume_gap_seconds", "Age of the position found at a start.")
                    .buckets(vec![1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0]),
                &["status"],
            ),
            not_started: counters(
                r,
                "otr_oplog_tail_failed_to_start",
                "Failed attempts to begin reading, by what failed.",
                &["reason"],
            ),
            processed: counters(
                r,
                "otr_redispub_processed_messages",
                "Events by whether they were sent, counted for each destination.",
                &["status"],
            ),
            temporary_failures: IntCounter::new(
                "otr_redispub_temporary_send_failures",
                "Events in batches that failed and are sent again.",
            )
            .expect("a fixed name"),
            batch_size: histograms(
                r,
                HistogramOpts::new("otr_redispub_redis_batch_size", "Events in one batch for Redis.")
                    .buckets(vec![1.0, 2.0, 5.0, 10.0, 18.0, 25.0, 50.0, 100.0]),
                both,
            ),
            command: histograms(
                r,
                HistogramOpts::new("otr_redispub_redis_command_duration_seconds", "Time that a batch took.")
                    .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
                ordinal,
            ),
            before_retries: registered(
                r,
                "otr_redispub_pre_retry_staleness",
                "Age in seconds of the first event of the batch that was tried last.",
                ordinal,
            ),
            last_staleness: registered(
                r,
                "otr_redispub_last_entry_staleness_seconds",
                "Age of the event sent last.",
                both,
            ),
            staleness: histograms(
                r,
                HistogramOpts::new("otr_redispub_entry_staleness_seconds", "Age of each event when it had been sent.")
                    .buckets(vec![0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0]),
                both,
            ),
            windows: Mutex::default(),
            registry,
        };
        otr.registry.register(Box::new(otr.temporary_failures.clone())).expect("each name is used once");
        let unprocessable = IntCounter::new(
            "otr_oplog_unprocessable_changed_fields",
            "Always 0: there is no change whose fields cannot be told.",
        );
        otr.registry.register(Box::new(unprocessable.expect("a fixed name"))).expect("each name is used once");
        for reason in ["session", "start_time", "query"] {
            otr.not_started.with_label_values(&[reason]);
        }
        for status in ["success", "failed"] {
            otr.resume_gap.with_label_values(&[status]);
        }
        Arc::new(otr)
    }

    /// The metrics of the route with this number, counted from 0.
    pub fn route(self: &Arc<Otr>, index: usize, max_in_flight: u64) -> RouteOtr {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let count = windows.len().max(index + 1);
        windows.resize(count, max_in_flight);
        windows[index] = max_in_flight;
        let staleness = |status| {
            let labels = &[ORDINAL, status];
            (self.last_staleness.with_label_values(labels), self.staleness.with_label_values(labels))
        };
        RouteOtr {
            otr: Arc::clone(self),
            is_first: index == 0,
            sent: self.processed.with_label_values(&["sent"]),
            failed: self.processed.with_label_values(&["failed"]),
            batch_sent: self.batch_size.with_label_values(&[ORDINAL, "sent"]),
            batch_failed: self.batch_size.with_label_values(&[ORDINAL, "failed"]),
            command: self.command.with_label_values(&[ORDINAL]),
            before_retries: self.before_retries.with_label_values(&[ORDINAL]),
            published: staleness("published"),
            duplicate: staleness("duplicate"),
        }
    }

    /// All of them, with the gauges of `routes` and the list as they are now.
    pub fn families(&self, routes: &[Arc<RouteStatus>], denylist: Option<&Denylist>) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        families.extend(self.entries.lock().unwrap_or_else(PoisonError::into_inner).largest());
        let labels = &["ordinal", "clientIndex"];
        let oldest =
            gauges("otr_redispub_oldest_message_age", "Age in seconds of the oldest event not sent yet.", labels);
        let available = gauges(
            "otr_buffer_available",
            "The free part of the byte window between MongoDB and a Redis, as a part of 10000.",
            labels,
        );
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, (route, window)) in routes.iter().zip(windows.iter()).enumerate() {
            let index = index.to_string();
            let used = route.in_flight_bytes();
            let lag = if used == 0 { Duration::ZERO } else { route.lag().unwrap_or_default() };
            oldest.with_label_values(&[ORDINAL, &index]).set(lag.as_secs_f64());
            let free = 1.0 - (used as f64 / (*window).max(1) as f64).min(1.0);
            available.with_label_values(&[ORDINAL, &index]).set((BUFFER * free).floor());
        }
        let enabled = gauges("otr_denylist_filter_enabled", "1 while a database is on the denylist.", &["db"]);
        for (name, denied) in denylist.map(Denylist::all).unwrap_or_default() {
            enabled.with_label_values(&[name.as_str()]).set(if denied { 1.0 } else { 0.0 });
        }
        families.extend([oldest, available, enabled].iter().flat_map(Collector::collect));
        families
    }
}

fn registered(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    let made = GaugeVec::new(Opts::new(name, help), labels).expect("a fixed name and fixed labels");
    registry.register(Box::new(made.clone())).expect("each name is used once");
    made
}

impl RouteOtr {
    /// See [`RouteMetrics::received`](super::metrics::RouteMetrics::received).
    pub fn received(&self, batch: &Batch) {
        if !self.is_first || (batch.events.is_empty() && batch.bad.is_empty()) {
            return;
        }
        self.otr.entries.lock().unwrap_or_else(PoisonError::into_inner).received(batch);
        if let Some(last) = batch.events.iter().rfind(|event| is_write(event)) {
            let age = age(last, now()).as_nanos() as f64;
            self.otr.last_received.with_label_values(&[ORDINAL]).set(age);
        }
    }

    /// See [`RouteMetrics::denied`](super::metrics::RouteMetrics::denied).
    pub fn denied(&self, event: &Event) {
        if self.is_first && is_write(event) {
            self.otr.filtered.with_label_values(&[event.ns.db()]).inc();
        }
    }

    /// See [`RouteMetrics::resumed`](super::metrics::RouteMetrics::resumed).
    pub fn resumed(&self, age: Duration, at_the_position: bool) {
        if self.is_first {
            let status = if at_the_position { "success" } else { "failed" };
            self.otr.resume_gap.with_label_values(&[status]).observe(age.as_secs_f64());
        }
    }

    /// See [`RouteMetrics::not_open`](super::metrics::RouteMetrics::not_open).
    pub fn not_open(&self, place: Place) {
        let reason = match place {
            Place::Source => "query",
            Place::Checkpoint => "start_time",
            Place::Transform | Place::Sink | Place::DeadLetter => return,
        };
        if self.is_first {
            self.otr.not_started.with_label_values(&[reason]).inc();
        }
    }

    /// See [`RouteMetrics::wrote`](super::metrics::RouteMetrics::wrote).
    pub fn wrote(&self, events: &[Event], result: &Result<Written>, took: Duration) {
        self.command.observe(took.as_secs_f64());
        let now = now();
        if let Some(first) = events.iter().find(|event| is_write(event)) {
            self.before_retries.set(age(first, now).as_secs_f64());
        }
        let Ok(written) = result else {
            self.batch_failed.observe(events.len() as f64);
            self.otr.temporary_failures.inc_by(events.len() as u64);
            return;
        };
        let accepted = events.len().saturating_sub(written.failed.len());
        self.otr.temporary_failures.inc_by(written.failed.len() as u64);
        if accepted == 0 {
            self.batch_failed.observe(events.len() as f64);
            return;
        }
        self.batch_sent.observe(accepted as f64);
        self.sent.inc_by((accepted as u64).saturating_sub(written.ignored));
        let mut failed = written.failed.iter().map(|failed| failed.index).peekable();
        // A sink does not say which events it had before: mostly the first ones, read again after a restart.
        let mut duplicates = written.duplicates;
        let mut last = [None, None];
        for (index, event) in events.iter().enumerate() {
            if failed.next_if_eq(&index).is_some() || !is_write(event) {
                continue;
            }
            let is_duplicate = duplicates > 0;
            duplicates = duplicates.saturating_sub(1);
            let age = age(event, now).as_secs_f64();
            let of = if is_duplicate { &self.duplicate } else { &self.published };
            of.1.observe(age);
            last[usize::from(is_duplicate)] = Some(age);
        }
        for (age, (gauge, _)) in last.into_iter().zip([&self.published, &self.duplicate]) {
            if let Some(age) = age {
                gauge.set(age);
            }
        }
    }

    /// An event was given up.
    pub fn given_up(&self) {
        self.failed.inc();
    }
}

/// What oplogtoredis makes messages of.
fn is_write(event: &Event) -> bool {
    matches!(event.op, Op::Insert | Op::Update | Op::Replace | Op::Delete)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How old an event is, by the wall clock of the primary where it is known. Never below zero.
fn age(event: &Event, now: Duration) -> Duration {
    let time = match event.wall.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => Duration::from_millis(millis),
        None => Duration::from_secs(event.time.time.into()),
    };
    now.saturating_sub(time)
}

#[cfg(test)]
mod tests;
