//! Clauses S (sources) and P (positions and batches).

mod open;
mod read;
mod shape;

use std::time::Duration;

use bson::RawDocumentBuf;
use oplogue_api::{
    BadEvent, Batch, Event, Interest, Namespace, Position, Result, Source, StartAt, async_trait, same_key,
};

use super::{
    Report,
    guard::{must, within, works},
};
use crate::generate::{Step, Work, Workload};
use tokio::time::Instant;

pub use open::{
    s2_open_resumes_behind_the_position, s4_a_source_opens_again, s6_now_is_fixed_when_open_returns,
    s7_a_foreign_position_is_refused, s8_a_lost_position_is_an_error, s14_check_changes_nothing,
    s15_next_without_open_is_an_error,
};
pub use read::{
    s1_everything_comes_in_order, s3_next_is_cancel_safe, s5_an_idle_source_beats, s10_a_second_reading_is_the_same,
    s11_a_broken_connection_loses_nothing, s12_a_finite_source_ends, s13_committed_does_not_disturb,
};
pub use shape::{
    p1_the_end_is_never_inside_a_transaction, p2_ends_go_forward, p3_ids_strictly_increase,
    p4_a_bad_entry_stands_where_it_was, s9_events_are_complete,
};

/// What a source's test gives the kit.
#[async_trait]
pub trait SourceHarness: Sync {
    /// A new source, not open, that reads what [`produce`](SourceHarness::produce) writes. With batches as small as it
    /// can (one to ten events), so that many ends are seen. Without a position it starts at the oldest place it has if it
    /// is finite, and now otherwise.
    async fn source(&self) -> Box<dyn Source>;

    /// Carries out the work, in order, in [`ns`](SourceHarness::ns), and returns when it is acknowledged. The kit
    /// produces for a finite source before it opens one.
    async fn produce(&self, work: &[Work]);

    /// The namespace that the work goes to. Nothing else writes there.
    fn ns(&self) -> Namespace;

    /// Whether the source comes to an end (a dump).
    fn is_finite(&self) -> bool {
        false
    }

    /// How long an idle `next` may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// A position of another deployment than the source's.
    async fn foreign_position(&self) -> Option<Position> {
        None
    }

    /// A position of the source's deployment that is not there any more.
    async fn lost_position(&self) -> Option<Position> {
        None
    }

    /// Cuts the connections of all sources; they can connect again. `false`: cannot do that.
    async fn disrupt(&self) -> bool {
        false
    }

    /// Produces an entry in [`ns`](SourceHarness::ns) that cannot be decoded. `false`: cannot do that.
    async fn spoil(&self) -> bool {
        false
    }
}

/// Runs every clause for sources, and for positions and batches.
///
/// # Panics
/// With the number of the first clause that does not hold.
pub async fn source<H: SourceHarness + ?Sized>(h: &H) -> Report {
    let mut report = Report::default();
    report.add("S1", s1_everything_comes_in_order(h).await);
    report.add("P3", p3_ids_strictly_increase(h).await);
    report.add("S9", s9_events_are_complete(h).await);
    report.add("P2", p2_ends_go_forward(h).await);
    report.add("S2", s2_open_resumes_behind_the_position(h).await);
    report.add("P1", p1_the_end_is_never_inside_a_transaction(h).await);
    report.add("S3", s3_next_is_cancel_safe(h).await);
    report.add("S4", s4_a_source_opens_again(h).await);
    report.add("S5", s5_an_idle_source_beats(h).await);
    report.add("S6", s6_now_is_fixed_when_open_returns(h).await);
    report.add("S7", s7_a_foreign_position_is_refused(h).await);
    report.add("S8", s8_a_lost_position_is_an_error(h).await);
    report.add("S10", s10_a_second_reading_is_the_same(h).await);
    report.add("S11", s11_a_broken_connection_loses_nothing(h).await);
    report.add("S12", s12_a_finite_source_ends(h).await);
    report.add("S13", s13_committed_does_not_disturb(h).await);
    report.add("S14", s14_check_changes_nothing(h).await);
    report.add("S15", s15_next_without_open_is_an_error(h).await);
    report.add("P4", p4_a_bad_entry_stands_where_it_was(h).await);
    report
}

/// A stretch of what a source gives.
#[derive(Default)]
struct Reading {
    events: Vec<Event>,
    bad: Vec<BadEvent>,
    /// Every place handed out, with the number of events before it; the first is what `open` returned.
    ends: Vec<(usize, Position)>,
}

impl Reading {
    fn from(start: Position) -> Reading {
        Reading { ends: vec![(0, start)], ..Reading::default() }
    }

    fn add(&mut self, batch: Batch) {
        self.events.extend(batch.events);
        self.bad.extend(batch.bad);
        self.ends.push((self.events.len(), batch.end));
    }

    fn end(&self) -> &Position {
        // `from` puts the first one there.
        &self.ends[self.ends.len() - 1].1
    }

    /// How many events, of documents, lie in `ns`.
    fn count(&self, ns: &Namespace) -> usize {
        self.events.iter().filter(|e| is_of(e, ns)).count()
    }
}

fn is_of(event: &Event, ns: &Namespace) -> bool {
    !event.op.is_barrier() && event.ns == *ns
}

/// The steps of the work, flat.
fn steps(work: &[Work]) -> Vec<&Step> {
    work.iter().flat_map(Work::steps).collect()
}

/// Whether `event` is what `step` gives.
fn is_step(event: &Event, step: &Step) -> bool {
    let Some(key) = &event.key else { return false };
    let Ok(Some(id)) = key.get("_id") else { return false };
    let mut alone = RawDocumentBuf::new();
    alone.append(bson::cstr!("_id"), id);
    event.op == step.op() && same_key(&alone, &crate::sample::key_of(step.id()))
}

/// Asserts that the events of `ns` are exactly the steps; for a finite source, which begins with older ones, the last.
fn expect_steps<H: SourceHarness + ?Sized>(clause: &str, h: &H, events: &[Event], work: &[Work]) {
    let (ns, steps) = (h.ns(), steps(work));
    let mine: Vec<&Event> = events.iter().filter(|e| is_of(e, &ns)).collect();
    let older = if h.is_finite() { mine.len().saturating_sub(steps.len()) } else { 0 };
    for (i, step) in steps.iter().enumerate() {
        let Some(event) = mine.get(older + i) else {
            panic!("{clause}: event {i} of {} is missing ({})", steps.len(), step.op().name());
        };
        must!(
            clause,
            is_step(event, step),
            "event {i} of {} should be of {} {:?}, but {} of another document or operation came (id {})",
            steps.len(),
            step.op().name(),
            step.id().element_type(),
            event.op.name(),
            event.id()
        );
    }
    must!(clause, mine.len() == older + steps.len(), "{} events came for {} changes", mine.len(), steps.len());
}

async fn open(clause: &str, source: &mut dyn Source, from: StartAt<'_>) -> Position {
    works(clause, "open", source.open(from, &Interest::default())).await
}

async fn next(clause: &str, source: &mut dyn Source) -> Result<Option<Batch>> {
    within(clause, "next", super::guard::LIMIT, source.next()).await
}

/// A source that is open where its harness's work begins, and that work, done.
async fn begin<H: SourceHarness + ?Sized>(clause: &str, h: &H, work: &[Work]) -> (Box<dyn Source>, Reading) {
    let mut source = h.source().await;
    let start = if h.is_finite() {
        h.produce(work).await;
        open(clause, &mut *source, StartAt::Configured).await
    } else {
        let start = open(clause, &mut *source, StartAt::Now).await;
        h.produce(work).await;
        start
    };
    (source, Reading::from(start))
}

/// Reads on until the reading holds `events` events of documents in the harness's namespace, or to a finite end.
async fn read_on<H: SourceHarness + ?Sized>(
    clause: &str,
    h: &H,
    source: &mut dyn Source,
    reading: &mut Reading,
    events: usize,
) {
    let mut idle = Idle::new(h);
    while h.is_finite() || reading.count(&h.ns()) < events {
        match super::guard::ok(clause, "next", next(clause, source).await) {
            Some(batch) => {
                idle.note(clause, &batch);
                reading.add(batch);
            }
            None => {
                must!(clause, h.is_finite(), "the source ended, although it is not finite");
                return;
            }
        }
    }
}

/// Notices that nothing comes any more: by time, because heartbeats may be quick or slow.
struct Idle {
    since: Instant,
    limit: Duration,
}

impl Idle {
    fn new<H: SourceHarness + ?Sized>(h: &H) -> Idle {
        Idle { since: Instant::now(), limit: 2 * h.patience() }
    }

    /// A batch came; empty ones for too long are a violation.
    fn note(&mut self, clause: &str, batch: &Batch) {
        if !batch.events.is_empty() {
            self.since = Instant::now();
        }
        must!(clause, self.since.elapsed() < self.limit, "events are missing: none came within {:?}", self.limit);
    }
}

/// Produces `n` changes and reads them with a new source. Returns both.
async fn record<H: SourceHarness + ?Sized>(clause: &str, h: &H, n: usize) -> (Vec<Work>, Reading) {
    let work = Workload::new(n as u64).take(n);
    let (mut source, mut reading) = begin(clause, h, &work).await;
    read_on(clause, h, &mut *source, &mut reading, n).await;
    // A source may have to see what follows a transaction before it knows that it is over, and `end` may cover it.
    let mut waits = 0;
    while !h.is_finite() && reading.events.last().is_some_and(|e| e.txn.is_some() && reading.end().time < e.time) {
        waits += 1;
        must!(clause, waits < 1000, "`end` never covers the last transaction");
        match super::guard::ok(clause, "next", next(clause, &mut *source).await) {
            Some(batch) => reading.add(batch),
            None => must!(clause, false, "the source ended, although it is not finite"),
        }
    }
    source.close().await;
    (work, reading)
}
