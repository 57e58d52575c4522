//! Every metric of the router, with its name and unit. `docs/metrics.md` describes them; a test compares the two.

use std::{sync::Arc, time::Duration};

use oplogue_api::{Batch, ErrorKind, Event, Result, Written};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder, core::Collector, proto::MetricFamily,
};

use super::{otr::RouteOtr, process::Process};
use crate::engine::status::RouteStatus;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came from the source.
    Read,
    /// A transform dropped it.
    Filtered,
    /// The sink has it.
    Delivered,
    /// The sink had it before.
    Duplicate,
    /// The sink has no use for it.
    Ignored,
    /// It was bad, and was passed over as `on_bad_event = "skip"` says.
    Skipped,
    /// It was bad, and went to the dead-letter sink.
    DeadLetter,
    /// It could not be decoded, transformed or delivered.
    Bad,
}

impl Outcome {
    const ALL: [Outcome; 8] = [
        Outcome::Read,
        Outcome::Filtered,
        Outcome::Delivered,
        Outcome::Duplicate,
        Outcome::Ignored,
        Outcome::Skipped,
        Outcome::DeadLetter,
        Outcome::Bad,
    ];

    /// The value of the label `outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Read => "read",
            Outcome::Filtered => "filtered",
            Outcome::Delivered => "delivered",
            Outcome::Duplicate => "duplicate",
            Outcome::Ignored => "ignored",
            Outcome::Skipped => "skipped",
            Outcome::DeadLetter => "dead_letter",
            Outcome::Bad => "bad",
        }
    }
}

/// Where something was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Opening the source, or reading from it.
    Source,
    /// Getting what a transform needs.
    Transform,
    /// Opening the sink, or writing to it.
    Sink,
    /// Loading or saving a checkpoint.
    Checkpoint,
    /// Writing to the dead-letter sink.
    DeadLetter,
}

impl Place {
    /// The value of the label `place`.
    pub fn name(self) -> &'static str {
        match self {
            Place::Source => "source",
            Place::Transform => "transform",
            Place::Sink => "sink",
            Place::Checkpoint => "checkpoint",
            Place::DeadLetter => "dead_letter",
        }
    }
}

/// The counters and histograms of the process. Gauges are computed when somebody looks.
pub struct Metrics {
    registry: Registry,
    events: IntCounterVec,
    bytes_read: IntCounterVec,
    write_seconds: HistogramVec,
    batch_events: HistogramVec,
    retries: IntCounterVec,
    restarts: IntCounterVec,
    gaps: IntCounterVec,
    saves: IntCounterVec,
    sink: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let r = &registry;
        Metrics {
            events: counters(r, "oplogue_events_total", "Events, by what became of them.", &["route", "outcome"]),
            bytes_read: counters(r, "oplogue_bytes_read_total", "Bytes of the replies of the source.", &["route"]),
            write_seconds: histograms(
                r,
                HistogramOpts::new("oplogue_write_seconds", "Time that one write to the sink took, failed or not.")
                    .buckets(vec![
                        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                    ]),
                &["route"],
            ),
            batch_events: histograms(
                r,
                HistogramOpts::new("oplogue_batch_events", "Events in one batch, as read and as written.").buckets(
                    vec![0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0],
                ),
                &["route", "stage"],
            ),
            retries: counters(
                r,
                "oplogue_retries_total",
                "Failed attempts that are made again, by place and kind of error.",
                &["route", "place", "kind"],
            ),
            restarts: counters(
                r,
                "oplogue_route_restarts_total",
                "Restarts of the whole route from its checkpoint.",
                &["route"],
            ),
            gaps: counters(
                r,
                "oplogue_gaps_total",
                "Times that the route lost its position and went on from a later one: events are missing.",
                &["route"],
            ),
            saves: counters(
                r,
                "oplogue_checkpoint_saves_total",
                "Checkpoint saves, by whether they worked.",
                &["route", "outcome"],
            ),
            sink: counters(
                r,
                "oplogue_sink_total",
                "What the sink counts beside events, such as conflicts.",
                &["route", "what"],
            ),
            registry,
        }
    }

    /// Everything in Prometheus' text format, with the gauges of `routes` as they are now.
    pub fn render(&self, routes: &[Arc<RouteStatus>]) -> String {
        self.render_with(routes, Vec::new())
    }

    /// The same with other families beside.
    pub fn render_with(&self, routes: &[Arc<RouteStatus>], others: Vec<MetricFamily>) -> String {
        let mut families = self.registry.gather();
        families.extend(gauges_of(routes));
        families.extend(process_families());
        families.extend(others);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        // Fails only for families without a metric, and for a writer that fails.
        families.retain(|f| !f.get_metric().is_empty());
        if let Err(e) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(error = %e, "the metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// The metrics of one route, all labels resolved: counting costs an atomic addition.
pub struct RouteMetrics {
    route: String,
    events: [IntCounter; Outcome::ALL.len()],
    bytes_read: IntCounter,
    write_seconds: Histogram,
    batch_read: Histogram,
    batch_write: Histogram,
    retries: IntCounterVec,
    restarts: IntCounter,
    gaps: IntCounter,
    saved: IntCounter,
    not_saved: IntCounter,
    sink: IntCounterVec,
    otr: Option<RouteOtr>,
}

impl RouteMetrics {
    /// The metrics of `route`, all there from now on, so that a rate has a zero to start from.
    pub fn new(metrics: &Metrics, route: &str) -> RouteMetrics {
        RouteMetrics {
            route: route.to_owned(),
            events: Outcome::ALL.map(|outcome| metrics.events.with_label_values(&[route, outcome.name()])),
            bytes_read: metrics.bytes_read.with_label_values(&[route]),
            write_seconds: metrics.write_seconds.with_label_values(&[route]),
            batch_read: metrics.batch_events.with_label_values(&[route, "read"]),
            batch_write: metrics.batch_events.with_label_values(&[route, "write"]),
            retries: metrics.retries.clone(),
            restarts: metrics.restarts.with_label_values(&[route]),
            gaps: metrics.gaps.with_label_values(&[route]),
            saved: metrics.saves.with_label_values(&[route, "ok"]),
            not_saved: metrics.saves.with_label_values(&[route, "failed"]),
            sink: metrics.sink.clone(),
            otr: None,
        }
    }

    /// The same, with the metrics of oplogtoredis beside.
    #[must_use]
    pub fn with_otr(self, otr: Option<RouteOtr>) -> RouteMetrics {
        RouteMetrics { otr, ..self }
    }

    /// `n` events came to this outcome.
    pub fn count(&self, outcome: Outcome, n: u64) {
        self.events[outcome as usize].inc_by(n);
    }

    /// A batch of `events` (bad ones included) was read, in a reply of `bytes`.
    pub fn read(&self, events: usize, bytes: usize) {
        self.count(Outcome::Read, events as u64);
        self.bytes_read.inc_by(bytes as u64);
        self.batch_read.observe(events as f64);
    }

    /// A write of `events` took so long, with this result.
    pub fn wrote(&self, events: &[Event], result: &Result<Written>, took: Duration) {
        self.batch_write.observe(events.len() as f64);
        self.write_seconds.observe(took.as_secs_f64());
        if let Some(otr) = &self.otr {
            otr.wrote(events, result, took);
        }
    }

    /// What the sink has counted since it was last asked.
    pub fn counted_by_sink(&self, counted: &[(&'static str, u64)]) {
        for (what, n) in counted {
            self.sink.with_label_values(&[self.route.as_str(), what]).inc_by(*n);
        }
    }

    /// What is left of a batch behind the chain.
    pub fn received(&self, batch: &Batch) {
        if let Some(otr) = &self.otr {
            otr.received(batch);
        }
    }

    /// An event was dropped because its database is on the denylist.
    pub fn denied(&self, event: &Event) {
        if let Some(otr) = &self.otr {
            otr.denied(event);
        }
    }

    /// The sink will never take an event, and it was given up.
    pub fn given_up(&self) {
        if let Some(otr) = &self.otr {
            otr.given_up();
        }
    }

    /// The route resumes at a position of this age, or from now instead.
    pub fn resumed(&self, age: Duration, at_the_position: bool) {
        if let Some(otr) = &self.otr {
            otr.resumed(age, at_the_position);
        }
    }

    /// An end of the route could not be opened.
    pub fn not_open(&self, place: Place) {
        if let Some(otr) = &self.otr {
            otr.not_open(place);
        }
    }

    /// An attempt failed, and is made again.
    pub fn retry(&self, place: Place, kind: ErrorKind) {
        self.retries.with_label_values(&[&self.route, place.name(), kind.name()]).inc();
    }

    /// The whole route is run again from its checkpoint.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// The route went on from a later position than its own.
    pub fn gap(&self) {
        self.gaps.inc();
    }

    /// A checkpoint was saved, or could not be.
    pub fn checkpoint_saved(&self, ok: bool) {
        if ok { self.saved.inc() } else { self.not_saved.inc() }
    }

    /// How many events came to this outcome so far.
    pub fn counted(&self, outcome: Outcome) -> u64 {
        self.events[outcome as usize].get()
    }
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let made = IntCounterVec::new(Opts::new(name, help), labels).expect("a fixed name and fixed labels");
    registry.register(Box::new(made.clone())).expect("each name is used once");
    made
}

pub(super) fn histograms(registry: &Registry, opts: HistogramOpts, labels: &[&str]) -> HistogramVec {
    let made = HistogramVec::new(opts, labels).expect("a fixed name and fixed labels");
    registry.register(Box::new(made.clone())).expect("each name is used once");
    made
}

pub(super) fn gauges(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("a fixed name and fixed labels")
}

/// Gauges are made anew for each look, so that one whose value is not known is absent, and two looks do not meet.
fn gauges_of(routes: &[Arc<RouteStatus>]) -> Vec<MetricFamily> {
    let route = &["route"];
    let up = gauges("oplogue_route_up", "1 while the route runs or has finished in peace, otherwise 0.", route);
    let lag = gauges("oplogue_lag_seconds", "How far delivery is behind the server, by the server's own clock.", route);
    let age = gauges(
        "oplogue_checkpoint_age_seconds",
        "For how long something delivered has been waiting for a checkpoint that covers it; 0 when all is saved.",
        route,
    );
    let position = gauges(
        "oplogue_checkpoint_position_seconds",
        "Cluster time of the last checkpoint, in seconds since 1970.",
        route,
    );
    let in_flight = gauges("oplogue_in_flight_bytes", "Bytes between source and sink.", route);
    let estimated =
        gauges("oplogue_route_copy_documents", "About how many documents the initial copy has to do.", route);
    let copied = gauges("oplogue_route_copied_documents", "Documents that the initial copy has done.", route);
    let build = gauges("oplogue_build_info", "Always 1; the version is in the label.", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    for status in routes {
        let name = &[status.name()];
        up.with_label_values(name).set(if status.state().is_up() { 1.0 } else { 0.0 });
        if let Some(behind) = status.lag() {
            lag.with_label_values(name).set(behind.as_secs_f64());
        }
        age.with_label_values(name).set(status.checkpoint_age().as_secs_f64());
        if let Some(time) = status.checkpoint() {
            position.with_label_values(name).set(f64::from(time.time));
        }
        in_flight.with_label_values(name).set(status.in_flight_bytes() as f64);
        if let Some(progress) = status.progress() {
            estimated.with_label_values(name).set(progress.documents_estimated as f64);
            copied.with_label_values(name).set(progress.documents as f64);
        }
    }
    [up, lag, age, position, in_flight, estimated, copied, build].iter().flat_map(Collector::collect).collect()
}

fn process_families() -> Vec<MetricFamily> {
    let p = Process::read();
    let figures = [
        ("process_resident_memory_bytes", "Resident memory.", p.resident_bytes),
        ("process_resident_memory_peak_bytes", "The most resident memory so far.", p.resident_peak_bytes),
        ("process_virtual_memory_bytes", "Virtual memory.", p.virtual_bytes),
        ("process_threads", "Threads.", p.threads),
        ("process_open_fds", "Open file descriptors.", p.open_fds),
        ("process_max_fds", "The limit of open file descriptors.", p.max_fds),
        ("process_start_time_seconds", "Start of the process, in seconds since 1970.", p.start_time),
    ];
    let mut families = Vec::new();
    for (name, help, value) in figures {
        if let Some(value) = value {
            let gauge = Gauge::new(name, help).expect("a fixed name");
            gauge.set(value);
            families.extend(gauge.collect());
        }
    }
    if let Some(seconds) = p.cpu_seconds {
        let cpu = prometheus::Counter::new("process_cpu_seconds_total", "CPU time used, user and system.")
            .expect("a fixed name");
        cpu.inc_by(seconds);
        families.extend(cpu.collect());
    }
    families
}

#[cfg(test)]
mod tests;
