use std::collections::HashSet;

use oplogue_api::{ErrorKind, Event, Op, StartAt};

use super::{Idle, Reading, SourceHarness, begin, open, open::resumes, read_on, record};
use crate::{
    conformance::{Tested, guard::must},
    generate::{Work, Workload},
};

/// S9: events are complete: a key on every event of a document and on no barrier, `after` on inserts and replacements,
/// `change` on updates, a time, `raw`; the events of one transaction share its `txn` and `time`.
pub async fn s9_events_are_complete<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (work, reading) = record("S9", h, 80).await;
    for event in &reading.events {
        let what = format!("{} {}", event.op.name(), event.id());
        must!("S9", event.time.time > 0, "{what} has no time");
        must!("S9", event.raw.bytes().len() > 5, "{what} has no raw");
        must!("S9", !event.ns.as_str().is_empty(), "{what} has no namespace");
        if event.op.is_barrier() {
            must!("S9", event.key.is_none(), "the barrier {what} has a key");
            continue;
        }
        let id = event.key.as_ref().and_then(|key| key.get("_id").ok().flatten());
        must!("S9", id.is_some(), "{what} has no key");
        if matches!(event.op, Op::Insert | Op::Replace) {
            must!("S9", event.after.is_some(), "{what} has no `after`");
        }
        if event.op == Op::Update {
            let update = event.change.as_ref().map(|change| change.decode().is_ok());
            must!("S9", update == Some(true), "{what} does not say what it changed");
        }
    }
    // What each insert and replacement holds is what was written; a finite source begins with older ones.
    let mine: Vec<&Event> = reading.events.iter().filter(|e| super::is_of(e, &h.ns())).collect();
    let steps = super::steps(&work);
    let older = mine.len().saturating_sub(steps.len());
    for (event, step) in mine[older..].iter().zip(steps) {
        use crate::generate::Step::{Insert, Replace};
        if let (Insert(doc) | Replace(doc), Some(after)) = (step, &event.after) {
            let n = doc.get_i64("n").ok();
            must!("S9", after.get_i64("n").ok() == n, "`after` of {} is not what was written", event.id());
        }
    }
    let groups: HashSet<_> = reading
        .events
        .iter()
        .filter_map(|e| e.txn.as_ref().map(|t| ((t.lsid.bytes().clone(), t.number), e.time)))
        .collect();
    let transactions: HashSet<_> = groups.iter().map(|(txn, _)| txn).collect();
    must!("S9", groups.len() == transactions.len(), "the events of one transaction have different times");
    Tested::Holds
}

/// P1: `end` is never inside a transaction: while one is not read to its end, it repeats the place before it.
pub async fn p1_the_end_is_never_inside_a_transaction<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let mut workload = Workload::new(1);
    let mut work = workload.take(5);
    for size in [12, 25] {
        work.push(Work::Txn((0..size).map(|_| workload.step()).collect()));
        work.extend(workload.take(3));
    }
    let (mut source, mut all) = begin("P1", h, &work).await;
    read_on("P1", h, &mut *source, &mut all, super::steps(&work).len()).await;
    source.close().await;
    for (seen, end) in &all.ends {
        let (Some(before), Some(behind)) = (seen.checked_sub(1).map(|i| &all.events[i]), all.events.get(*seen)) else {
            continue;
        };
        if before.txn.is_some() && before.txn == behind.txn && before.time == behind.time {
            must!("P1", end.time < behind.time, "`end` lies inside a transaction, behind event {}", before.id());
            resumes("P1", h, &all, *seen, end).await;
        }
    }
    Tested::Holds
}

/// P2: `end` never goes back, covers every event given (but those of a transaction not yet complete), and is not ahead
/// of `head`; `bytes` is the size of what was read.
pub async fn p2_ends_go_forward<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let work = Workload::new(22).take(60);
    let (mut source, mut reading) = begin("P2", h, &work).await;
    let mut idle = Idle::new(h);
    while h.is_finite() || reading.count(&h.ns()) < 60 {
        let next = super::next("P2", &mut *source).await;
        let Some(batch) = crate::conformance::guard::ok("P2", "next", next) else { break };
        must!("P2", batch.end.time >= reading.end().time, "`end` went back");
        must!("P2", batch.head >= batch.end.time, "`head` is behind `end`");
        if let Some(last) = batch.events.last()
            && last.txn.is_none()
        {
            must!("P2", batch.end.time >= last.time, "`end` does not cover event {}", last.id());
        }
        let largest = batch.events.iter().map(Event::size).max().unwrap_or(0);
        must!("P2", batch.bytes >= largest, "`bytes` is {}, but an event has {largest}", batch.bytes);
        idle.note("P2", &batch);
        reading.add(batch);
    }
    source.close().await;
    Tested::Holds
}

/// P3: ids strictly increase, over batches, transactions and a resumption.
pub async fn p3_ids_strictly_increase<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, reading) = record("P3", h, 80).await;
    for pair in reading.events.windows(2) {
        must!("P3", pair[0].id() < pair[1].id(), "{} comes behind {}", pair[1].id(), pair[0].id());
    }
    Tested::Holds
}

/// P4: an entry that cannot be decoded is given in `bad`, with its bytes and its place, and does no harm to others.
pub async fn p4_a_bad_entry_stands_where_it_was<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, before) = record("P4", h, 5).await;
    let mut source = h.source().await;
    let mut start = before.end().clone();
    if !h.is_finite() {
        start = open("P4", &mut *source, StartAt::Position(&start)).await;
    }
    h.produce(&Workload::new(41).take(3)).await;
    if !h.spoil().await {
        source.close().await;
        return Tested::Skipped("the harness cannot produce an entry that is not decodable");
    }
    h.produce(&Workload::new(42).take(4)).await;
    if h.is_finite() {
        start = open("P4", &mut *source, StartAt::Position(&start)).await;
    }
    let (mut reading, mut places) = (Reading::from(start), Vec::new());
    let mut idle = Idle::new(h);
    while h.is_finite() || reading.count(&h.ns()) < 7 {
        let next = super::next("P4", &mut *source).await;
        let Some(batch) = crate::conformance::guard::ok("P4", "next", next) else { break };
        let mut last = 0;
        for bad in &batch.bad {
            must!("P4", bad.before <= batch.events.len(), "`before` is {} of {}", bad.before, batch.events.len());
            must!("P4", bad.before >= last, "`bad` is not in order");
            must!("P4", bad.error.kind() == ErrorKind::Data, "its error is of kind {}", bad.error.kind().name());
            must!("P4", !bad.raw.bytes().is_empty(), "its bytes are not kept");
            last = bad.before;
            let mine = batch.events[..bad.before].iter().filter(|e| super::is_of(e, &h.ns())).count();
            places.push(reading.count(&h.ns()) + mine);
        }
        idle.note("P4", &batch);
        reading.add(batch);
    }
    source.close().await;
    must!("P4", reading.count(&h.ns()) == 7, "{} of the 7 good events came", reading.count(&h.ns()));
    must!("P4", places == [3], "bad entries were reported behind {places:?} events instead of 3");
    Tested::Holds
}
