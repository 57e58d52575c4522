//! Clauses T (transforms).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::LazyLock,
};

use bson::Timestamp;
use oplogue_api::{
    BadEvent, Batch, Doc, Error, ErrorKind, Event, EventId, Namespace, Op, Position, Transform, same_key,
};
use tokio::runtime::Runtime;

use super::{
    Report, Tested,
    guard::{LIMIT, must, within},
};
use crate::{
    generate::{Work, Workload, event_of},
    sample::{MemoryLog, barrier},
};

/// What a transform's test gives the kit.
pub trait TransformHarness {
    /// A new transform. Let it do something to some of the events of `kit.a` and `kit.b` (documents with an `n`, and fields
    /// of every type), so that the clauses have something to look at.
    fn transform(&self) -> Box<dyn Transform>;
}

impl<F: Fn() -> Box<dyn Transform>> TransformHarness for F {
    fn transform(&self) -> Box<dyn Transform> {
        self()
    }
}

/// Runs every clause for transforms.
///
/// # Panics
/// With the number of the first clause that does not hold.
pub fn transform<H: TransformHarness + ?Sized>(h: &H) -> Report {
    let mut report = Report::default();
    report.add("T1", t1_positions_are_left_alone(h));
    report.add("T2", t2_order_per_key_is_kept(h));
    report.add("T3", t3_gap_events_pass(h));
    report.add("T4", t4_an_empty_batch_stays_empty(h));
    report.add("T5", t5_it_is_a_function_of_each_event(h));
    report.add("T6", t6_bad_events_are_kept_in_place(h));
    report.add("T7", t7_ids_come_from_the_batch(h));
    report.add("T8", t8_what_passes_is_selected(h));
    report
}

/// A batch of every kind of event, with gaps and bad entries between. Equal for equal seeds, but for the ids of documents.
fn log(seed: u64, steps: usize) -> MemoryLog {
    let log = MemoryLog::default();
    let (mut a, mut b) = (Workload::new(seed), Workload::new(seed + 1000));
    for round in 0..steps / 10 {
        for (ns, workload) in [("kit.a", &mut a), ("kit.b", &mut b)] {
            for work in workload.take(5) {
                match work {
                    Work::One(step) => drop(log.push(event_of(ns, &step)).to_string()),
                    Work::Txn(steps) => {
                        log.push_txn(steps.iter().map(|step| event_of(ns, step)).collect());
                    }
                }
            }
        }
        log.push(barrier(Op::ALL[4 + round % (Op::ALL.len() - 4)], "kit.a"));
        log.push_bad(Some("kit.b"));
        log.push(barrier(Op::Gap, ""));
    }
    log
}

/// The log as one batch.
fn batch_of(log: &MemoryLog) -> Batch {
    let (events, end) = (log.events(), log.end());
    let bytes = events.iter().map(Event::size).sum();
    let bad_entry = |time: Timestamp| BadEvent {
        before: events.iter().filter(|e| e.time < time).count(),
        time,
        ns: Some(Namespace::new("kit.b")),
        raw: Doc::empty(),
        event: None,
        by: None,
        error: Error::data("made by the kit"),
    };
    // The log has no event at the times of its bad entries.
    let times: std::collections::HashSet<_> = events.iter().map(|e| e.time.time).collect();
    let bad = (log.start().time.time + 1..end.time.time)
        .filter(|t| !times.contains(t))
        .map(|time| bad_entry(Timestamp { time, increment: 1 }))
        .collect();
    Batch { bad, head: end.time, end, bytes, events }
}

/// Where `prepare` runs: what it starts must go on between two calls.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    built.unwrap_or_else(|e| panic!("the kit cannot start a thread: {e}"))
});

fn apply(clause: &str, transform: &mut dyn Transform, batch: &mut Batch) {
    // In a thread of its own: the clauses are called from async tests as well.
    let prepare = || RUNTIME.block_on(within(clause, "prepare", LIMIT, transform.prepare(batch)));
    match std::thread::scope(|scope| scope.spawn(prepare).join()) {
        Ok(Ok(())) => {}
        Ok(Err(e)) => panic!("{clause}: prepare failed ({}): {e}", e.kind().name()),
        Err(_) => panic!("{clause}: prepare panicked, or did not return"),
    }
    match catch_unwind(AssertUnwindSafe(|| transform.apply(batch))) {
        Ok(Ok(())) => {}
        Ok(Err(e)) => panic!("{clause}: apply failed ({}): {e}", e.kind().name()),
        Err(_) => panic!("{clause}: apply panicked"),
    }
}

fn run<H: TransformHarness + ?Sized>(clause: &str, h: &H, log: &MemoryLog) -> Batch {
    let mut batch = batch_of(log);
    apply(clause, &mut *h.transform(), &mut batch);
    batch
}

/// T1: `end`, `head` and `bytes` are left alone, also when every event is dropped.
pub fn t1_positions_are_left_alone<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    for seed in 0..5 {
        let before = batch_of(&log(seed, 60));
        let mut after = batch_of(&log(seed, 60));
        apply("T1", &mut *h.transform(), &mut after);
        must!("T1", after.end == before.end, "`end` was changed");
        must!("T1", after.head == before.head, "`head` was changed");
        let elsewhere = Position { time: Timestamp { time: 7, increment: 7 }, ..before.end };
        let bytes = 123;
        let mut empty = Batch { events: vec![], bad: vec![], end: elsewhere.clone(), head: elsewhere.time, bytes };
        apply("T1", &mut *h.transform(), &mut empty);
        must!("T1", empty.end == elsewhere && empty.head == elsewhere.time, "the `end` of a heartbeat was changed");
        must!("T1", empty.bytes == bytes, "`bytes` was changed");
    }
    Tested::Holds
}

/// T2: the events of one key keep their order, and no event passes a barrier.
pub fn t2_order_per_key_is_kept<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    for seed in 0..5 {
        let after = run("T2", h, &log(seed, 120));
        for (i, event) in after.events.iter().enumerate() {
            for later in &after.events[i + 1..] {
                let related = match (&event.key, &later.key) {
                    (Some(a), Some(b)) => event.ns == later.ns && same_key(a, b),
                    _ => true,
                };
                must!("T2", !related || event.id() <= later.id(), "{} comes behind {}", later.id(), event.id());
            }
        }
    }
    Tested::Holds
}

/// T3: every gap event passes, once and unchanged: whoever reads the stream has to see it (I4).
pub fn t3_gap_events_pass<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    let log = log(3, 60);
    let gaps = |events: &[Event]| -> Vec<(EventId, Doc)> {
        events.iter().filter(|e| e.op == Op::Gap).map(|e| (e.id(), e.raw.clone())).collect()
    };
    let (before, after) = (gaps(&log.events()), gaps(&run("T3", h, &log).events));
    must!("T3", before == after, "{} of {} gap events passed unchanged", after.len(), before.len());
    Tested::Holds
}

/// T4: an empty batch (a heartbeat) stays empty, and is no error.
pub fn t4_an_empty_batch_stays_empty<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    let mut transform = h.transform();
    for _ in 0..3 {
        let mut batch = batch_of(&MemoryLog::default());
        apply("T4", &mut *transform, &mut batch);
        must!("T4", batch.events.is_empty() && batch.bad.is_empty(), "events came out of an empty batch");
        // Something between: what one batch held must not come out of the next.
        apply("T4", &mut *transform, &mut batch_of(&log(4, 20)));
    }
    Tested::Holds
}

fn told(batches: &[Batch]) -> (Vec<String>, Vec<EventId>) {
    let bytes = |doc: &Option<Doc>| doc.as_ref().map(|d| d.bytes().to_vec());
    let event = |e: &Event| {
        let docs = [bytes(&e.key), bytes(&e.after), bytes(&e.before), Some(e.raw.bytes().to_vec())];
        format!("{} {} {} {docs:?} {:?}", e.id(), e.op.name(), e.ns, e.change.as_ref().map(told_change))
    };
    let events = batches.iter().flat_map(|b| &b.events).map(event).collect();
    let bad = batches.iter().flat_map(|b| &b.bad).map(|b| EventId { time: b.time, index: 0 }).collect();
    (events, bad)
}

fn told_change(change: &oplogue_api::Change) -> (u8, Vec<u8>) {
    use oplogue_api::Change::{ChangeStream, OplogV1, OplogV2};
    match change {
        ChangeStream(doc) => (0, doc.bytes().to_vec()),
        OplogV1(doc) => (1, doc.bytes().to_vec()),
        OplogV2(doc) => (2, doc.bytes().to_vec()),
    }
}

/// T5: a transform is a function of each event: the same events give the same, again, in another instance, and cut into
/// other batches (a restart cuts them elsewhere).
pub fn t5_it_is_a_function_of_each_event<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    let log = log(5, 120);
    let whole = told(&[run("T5", h, &log)]);
    let mut same = h.transform();
    for round in ["in another instance", "a second time in one instance"] {
        let mut batch = batch_of(&log);
        apply("T5", &mut *same, &mut batch);
        must!("T5", told(&[batch]) == whole, "the same events gave something else {round}");
    }
    for size in [1, 7] {
        let all = batch_of(&log);
        let mut cut = h.transform();
        let mut out = Vec::new();
        let (mut bad, mut given) = (all.bad.into_iter().peekable(), 0);
        for events in all.events.chunks(size) {
            let mut batch = Batch {
                events: events.to_vec(),
                bad: Vec::new(),
                end: all.end.clone(),
                head: all.head,
                bytes: all.bytes,
            };
            while let Some(next) = bad.next_if(|b| b.before < given + events.len()) {
                batch.bad.push(BadEvent { before: next.before - given, ..next });
            }
            given += events.len();
            if size > 1 {
                cut = h.transform(); // As behind a restart.
            }
            apply("T5", &mut *cut, &mut batch);
            out.push(batch);
        }
        // Those behind the last event.
        out.extend(bad.next().map(|first| Batch {
            events: Vec::new(),
            bad: std::iter::once(first).chain(bad).collect(),
            end: all.end.clone(),
            head: all.head,
            bytes: 0,
        }));
        must!("T5", told(&out) == whole, "the same events gave something else in batches of {size}");
    }
    Tested::Holds
}

/// T6: entries that are bad already stay so, in order and in place; an event that cannot be transformed joins them with an
/// error of kind `Data`, and leaves `events`.
pub fn t6_bad_events_are_kept_in_place<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    for seed in 0..5 {
        let log = log(seed, 60);
        let (before, after) = (batch_of(&log), run("T6", h, &log));
        for bad in &before.bad {
            let count = after.bad.iter().filter(|b| b.time == bad.time && b.ns == bad.ns && b.raw == bad.raw).count();
            must!("T6", count == 1, "the bad entry at {}.{} is there {count} times", bad.time.time, bad.time.increment);
        }
        let mut last = 0;
        for bad in &after.bad {
            must!(
                "T6",
                bad.error.kind() == ErrorKind::Data,
                "a bad event has an error of kind {}",
                bad.error.kind().name()
            );
            must!("T6", bad.before >= last && bad.before <= after.events.len(), "`bad` is out of order or range");
            last = bad.before;
            // Events of its own time may be of its own transaction, on either side.
            let low = after.events.iter().filter(|e| e.time < bad.time).count();
            let high = after.events.iter().filter(|e| e.time <= bad.time).count();
            must!("T6", (low..=high).contains(&bad.before), "`before` is {}, not {low} to {high}", bad.before);
        }
    }
    Tested::Holds
}

/// T7: every event that comes out has the id of one that went in, and a barrier stays one.
pub fn t7_ids_come_from_the_batch<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    let log = log(7, 120);
    let ids: std::collections::HashMap<EventId, Op> = log.events().iter().map(|e| (e.id(), e.op)).collect();
    for event in run("T7", h, &log).events {
        let Some(op) = ids.get(&event.id()) else { panic!("T7: {} was not in the batch", event.id()) };
        must!(
            "T7",
            op.is_barrier() == event.op.is_barrier(),
            "{} {} became {}",
            op.name(),
            event.id(),
            event.op.name()
        );
    }
    Tested::Holds
}

/// T8: what `selection` says of a transform holds: nothing passes that is not selected (by operation; the kit evaluates no patterns and
/// queries), what passes is as it came, and nothing becomes bad where nothing is refused.
pub fn t8_what_passes_is_selected<H: TransformHarness + ?Sized>(h: &H) -> Tested {
    let Some(selection) = h.transform().selection() else { return Tested::Holds };
    for seed in 0..5 {
        let log = log(seed, 120);
        let came: std::collections::HashSet<String> = told(&[batch_of(&log)]).0.into_iter().collect();
        let after = run("T8", h, &log);
        for event in after.events.iter().filter(|e| !matches!(e.op, Op::Gap | Op::DeadLetter)) {
            must!("T8", selection.has(event.op), "{} {} passed and is not selected", event.op.name(), event.id());
        }
        let refused = after.bad.iter().filter(|bad| bad.event.is_some()).count();
        must!("T8", refused == 0 || selection.refuses, "{refused} events were refused, and `refuses` is not said");
        must!("T8", told(&[after]).0.iter().all(|event| came.contains(event)), "an event passed that was edited");
    }
    Tested::Holds
}
