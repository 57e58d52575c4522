//! Clauses K (sinks).

mod basic;
mod order;
mod trouble;

use std::{collections::BTreeMap, sync::Arc};

use bson::{Bson, doc};
use oplogue_api::{ErrorKind, Event, Op, Ordering, Position, Result, Sink, Written, async_trait};

use super::{
    Report,
    guard::{LIMIT, must, ok, within, works},
};
use crate::{generate, sample};

pub use basic::{
    k1_ok_means_durable, k3_accounts_add_up, k6_an_empty_write_is_fine, k7_every_operation_is_taken,
    k10_close_keeps_everything, k13_ping_and_check_change_nothing, k14_any_document_is_taken_or_refused,
};
pub use order::{
    k2_order_is_kept, k5_writing_again_is_harmless, k9_lanes_do_not_disturb_each_other,
    k11_a_dropped_write_does_no_harm,
};
pub use trouble::{
    k4_behind_a_failed_event_its_key_waits, k8_an_unreachable_destination_is_transient,
    k12_the_position_is_kept_with_the_data,
};

/// A trace that an event left at the destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Whose order counts: the document (namespace and key) in a form of the harness's choice.
    pub key: String,
    /// What it says, in a form of the harness's choice. Different for the different changes of one document.
    pub what: String,
}

/// What a sink's test gives the kit.
#[async_trait]
pub trait SinkHarness: Sync {
    /// A new sink over the same destination, not open.
    async fn sink(&self) -> Arc<dyn Sink>;

    /// Everything that has reached the destination since the harness was made, in its order. What is durable when this is
    /// called is there: where the way to see it is slower than the sink (a subscription), this waits for a marker.
    async fn delivered(&self) -> Vec<Seen>;

    /// The trace that this event should leave; `None` when the sink has no use for it and counts it as ignored.
    fn seen(&self, event: &Event) -> Option<Seen>;

    /// The namespace of the events.
    fn ns(&self) -> String {
        "kit.items".into()
    }

    /// A document id that the sink takes, different for each n.
    fn id(&self, n: u64) -> Bson {
        Bson::String(format!("k{n}"))
    }

    /// An event of the document of this id that the sink refuses with an error of kind `Data`.
    fn undeliverable(&self, _id: &Bson) -> Option<Event> {
        None
    }

    /// Makes the destination unreachable for all sinks. `false`: cannot do that.
    async fn disrupt(&self) -> bool {
        false
    }

    /// Makes it reachable again.
    async fn mend(&self) {}

    /// The route that the sinks were made for, under which they keep positions.
    fn route(&self) -> String {
        "kit".into()
    }

    /// Whether the sink commits `upto` together with the events.
    fn commits(&self) -> bool {
        false
    }
}

/// Runs every clause for sinks.
///
/// # Panics
/// With the number of the first clause that does not hold.
pub async fn sink<H: SinkHarness + ?Sized>(h: &H) -> Report {
    let mut report = Report::default();
    report.add("K1", k1_ok_means_durable(h).await);
    report.add("K2", k2_order_is_kept(h).await);
    report.add("K3", k3_accounts_add_up(h).await);
    report.add("K4", k4_behind_a_failed_event_its_key_waits(h).await);
    report.add("K5", k5_writing_again_is_harmless(h).await);
    report.add("K6", k6_an_empty_write_is_fine(h).await);
    report.add("K7", k7_every_operation_is_taken(h).await);
    report.add("K9", k9_lanes_do_not_disturb_each_other(h).await);
    report.add("K10", k10_close_keeps_everything(h).await);
    report.add("K11", k11_a_dropped_write_does_no_harm(h).await);
    report.add("K12", k12_the_position_is_kept_with_the_data(h).await);
    report.add("K13", k13_ping_and_check_change_nothing(h).await);
    report.add("K14", k14_any_document_is_taken_or_refused(h).await);
    report.add("K8", k8_an_unreachable_destination_is_transient(h).await);
    report
}

/// The number of ids of this process, so that no two clauses meet in a document.
static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

fn new_id<H: SinkHarness + ?Sized>(h: &H) -> Bson {
    h.id(IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// How many changes [`changes`] makes of one document.
const LIFE: usize = 6;

/// The lives of `documents` new documents, interleaved: each is inserted, changed, replaced, changed and deleted.
pub(super) fn changes<H: SinkHarness + ?Sized>(h: &H, documents: usize) -> Vec<Event> {
    let (ns, ids): (_, Vec<Bson>) = (h.ns(), (0..documents).map(|_| new_id(h)).collect());
    let mut events = Vec::new();
    for step in 0..LIFE {
        for id in &ids {
            // Each names another field, because some sinks tell the names only.
            events.push(match step {
                0 => sample::insert(&ns, doc! {"_id": id, "n": 0}),
                1 => sample::update(&ns, id.clone(), doc! {"first": 1}),
                2 => sample::update(&ns, id.clone(), doc! {"second": 2}),
                3 => sample::replace(&ns, doc! {"_id": id, "third": 3}),
                4 => sample::update(&ns, id.clone(), doc! {"fourth": 4}),
                _ => sample::delete(&ns, id.clone()),
            });
        }
    }
    generate::stamp(&mut events);
    events
}

pub(super) async fn opened<H: SinkHarness + ?Sized>(clause: &str, h: &H) -> Arc<dyn Sink> {
    let sink = h.sink().await;
    works(clause, "open", sink.open()).await;
    sink
}

/// A position behind the last event, for a sink that gets one.
fn upto(sink: &dyn Sink, events: &[Event]) -> Option<Position> {
    let last = events.last().filter(|_| sink.ordering() == Ordering::Total)?;
    Some(Position { token: sample::key_of(i64::from(last.time.increment)), time: last.time })
}

/// A write whose account has to make sense (K3), whatever else it says.
pub(super) async fn try_write(clause: &str, sink: &dyn Sink, events: &[Event]) -> Result<Written> {
    let upto = upto(sink, events);
    let written = within(clause, "write", LIMIT, sink.write(events, upto.as_ref())).await?;
    let indexes: Vec<usize> = written.failed.iter().map(|f| f.index).collect();
    must!("K3", indexes.windows(2).all(|w| w[0] < w[1]), "`failed` is not ascending: {indexes:?}");
    must!(
        "K3",
        indexes.last().is_none_or(|i| *i < events.len()),
        "`failed` names event {indexes:?} of {}",
        events.len()
    );
    let kinds = [ErrorKind::Transient, ErrorKind::Data];
    let odd = written.failed.iter().map(|f| f.error.kind()).find(|kind| !kinds.contains(kind));
    must!("K3", odd.is_none(), "an event failed as {odd:?}: that is an error of the whole write");
    let counted = written.failed.len() as u64 + written.duplicates + written.ignored;
    must!("K3", counted <= events.len() as u64, "{counted} failed, known or ignored of {}", events.len());
    Ok(written)
}

/// A write in which nothing may fail.
async fn write(clause: &str, sink: &dyn Sink, events: &[Event]) -> Written {
    let written = ok(clause, "write", try_write(clause, sink, events).await);
    if let Some(failed) = written.failed.first() {
        panic!("{clause}: event {} of {} failed: {}", failed.index, events.len(), failed.error);
    }
    written
}

/// What was delivered of the documents of `events`.
async fn delivered<H: SinkHarness + ?Sized>(clause: &str, h: &H, events: &[Event]) -> Vec<Seen> {
    let keys: std::collections::BTreeSet<String> = events.iter().filter_map(|e| h.seen(e)).map(|s| s.key).collect();
    let all = within(clause, "`delivered` of the harness", LIMIT, h.delivered()).await;
    all.into_iter().filter(|seen| keys.contains(&seen.key)).collect()
}

fn by_key(seen: impl IntoIterator<Item = Seen>) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Seen { key, what } in seen {
        out.entry(key).or_default().push(what);
    }
    out
}

/// Asserts that the destination got exactly these events, once, in order (of each key, or in all for a total order).
async fn expect_once<H: SinkHarness + ?Sized>(clause: &str, h: &H, sink: &dyn Sink, events: &[Event]) {
    let wanted: Vec<Seen> = events.iter().filter_map(|e| h.seen(e)).collect();
    let got = delivered(clause, h, events).await;
    must!(clause, got.len() >= wanted.len(), "{} of {} events are at the destination", got.len(), wanted.len());
    let sorted = |seen: &[Seen]| {
        let mut seen = seen.to_vec();
        seen.sort();
        seen
    };
    must!(clause, sorted(&got) == sorted(&wanted), "other things are at the destination than were written");
    let in_order = match sink.ordering() {
        Ordering::Total => got == wanted,
        Ordering::PerKey => by_key(got) == by_key(wanted),
        Ordering::Any => true,
    };
    must!(clause, in_order, "the events are at the destination in another order");
}

/// Asserts that the destination got all of these events at least once, each key in order but for repetitions from an
/// earlier event on, and last what came last.
async fn expect_at_least_once<H: SinkHarness + ?Sized>(clause: &str, h: &H, sink: &dyn Sink, events: &[Event]) {
    let wanted = by_key(events.iter().filter_map(|e| h.seen(e)));
    let got = by_key(delivered(clause, h, events).await);
    for (key, wanted) in &wanted {
        let got = got.get(key).map_or(&[][..], Vec::as_slice);
        let mut places = Vec::new();
        for what in got {
            let Some(place) = wanted.iter().position(|w| w == what) else {
                panic!("{clause}: something is at the destination that was not written: {what}");
            };
            places.push(place);
        }
        let missing = (0..wanted.len()).find(|place| !places.contains(place));
        must!(clause, missing.is_none(), "event {missing:?} of a document never reached the destination");
        if sink.ordering() != Ordering::Any {
            let steps = std::iter::once(&0).chain(&places).zip(&places);
            let jump = steps.into_iter().any(|(before, now)| *now > before + 1);
            must!(clause, !jump && places.first() == Some(&0), "the events of a document came in the order {places:?}");
            must!(clause, places.last() == Some(&(wanted.len() - 1)), "an old event came last: {places:?}");
        }
    }
}

/// Barriers, of every kind.
fn barriers(ns: &str) -> Vec<Event> {
    let mut events: Vec<Event> =
        Op::ALL.iter().filter(|op| op.is_barrier()).map(|op| sample::barrier(*op, ns)).collect();
    generate::stamp(&mut events);
    events
}
