use oplogue_api::{Doc, ErrorKind, Event, Interest, Position, Severity, StartAt};

use super::{Idle, Reading, SourceHarness, expect_steps, open, read::same, read_on, record};
use crate::{
    conformance::{
        Tested,
        guard::{LIMIT, must, refused, within},
    },
    generate::Workload,
};

/// S2: opened at a position that it handed out, a source goes on exactly behind it: at the very next event, or, where
/// the position is the one before a transaction that was not read to its end, at the first event of that transaction.
pub async fn s2_open_resumes_behind_the_position<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, all) = record("S2", h, 60).await;
    let step = all.ends.len().div_ceil(30);
    for (seen, end) in all.ends.iter().step_by(step) {
        resumes("S2", h, &all, *seen, end).await;
    }
    // The last one, where nothing follows yet.
    let work = Workload::new(2).take(10);
    h.produce(&work).await;
    let mut source = h.source().await;
    let start = open("S2", &mut *source, StartAt::Position(all.end())).await;
    let mut rest = Reading::from(start);
    read_on("S2", h, &mut *source, &mut rest, 10).await;
    source.close().await;
    let older = all.events.iter().map(Event::id).max();
    must!("S2", rest.events.iter().all(|e| Some(e.id()) > older), "events before the position came again");
    must!("S2", rest.count(&h.ns()) == 10, "{} of 10 events came behind the last position", rest.count(&h.ns()));
    expect_steps("S2", h, &rest.events, &work);
    Tested::Holds
}

/// Opens a new source at `end`, a place behind `seen` events of `all`, and compares.
pub(super) async fn resumes<H: SourceHarness + ?Sized>(
    clause: &str,
    h: &H,
    all: &Reading,
    seen: usize,
    end: &Position,
) {
    let mut source = h.source().await;
    let start = open(clause, &mut *source, StartAt::Position(end)).await;
    let from = first_behind(&all.events, seen, end);
    let left = all.events[from..].iter().filter(|e| super::is_of(e, &h.ns())).count();
    let mut rest = Reading::from(start);
    if left > 0 || h.is_finite() {
        read_on(clause, h, &mut *source, &mut rest, left).await;
    }
    source.close().await;
    let wanted = &all.events[from..];
    for (i, (a, b)) in wanted.iter().zip(&rest.events).enumerate() {
        must!(
            clause,
            same(a, b),
            "resumed behind event {seen} of {}, event {i} is {} {} instead of {} {}",
            all.events.len(),
            b.id(),
            b.op.name(),
            a.id(),
            a.op.name()
        );
    }
    must!(clause, rest.count(&h.ns()) >= left, "events are missing behind the position after event {seen}");
}

/// The event that has to come first when reading goes on behind `seen` events: `seen` itself, or the first one of the
/// transaction that it is in the middle of. A source that cannot know yet that a transaction is over, because nothing
/// has followed it, may still be in front of it.
fn first_behind(events: &[Event], seen: usize, end: &Position) -> usize {
    let in_one = |a: &Event, b: &Event| a.txn.is_some() && a.txn == b.txn && a.time == b.time;
    let Some(last) = seen.checked_sub(1).map(|i| &events[i]) else { return seen };
    let inside = events.get(seen).is_some_and(|next| in_one(last, next));
    if !inside && (last.txn.is_none() || end.time >= last.time) {
        return seen;
    }
    let mut from = seen - 1;
    while from > 0 && in_one(&events[from - 1], &events[from]) {
        from -= 1;
    }
    from
}

/// S4: `open` may be called again on the same value, behind a `close` or without one, and begins where it is told.
pub async fn s4_a_source_opens_again<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, all) = record("S4", h, 40).await;
    let mut source = h.source().await;
    for (round, place) in [0, all.ends.len() / 2, 0, all.ends.len() / 3].into_iter().enumerate() {
        let (seen, end) = &all.ends[place];
        let start = open("S4", &mut *source, StartAt::Position(end)).await;
        let from = first_behind(&all.events, *seen, end);
        let left = all.events[from..].iter().filter(|e| super::is_of(e, &h.ns())).count();
        // Leaves off in the middle every other time.
        let wanted = if round % 2 == 0 { left.min(5) } else { left };
        let (mut rest, mut idle) = (Reading::from(start), Idle::new(h));
        while rest.count(&h.ns()) < wanted {
            let next = super::next("S4", &mut *source).await;
            let Some(batch) = crate::conformance::guard::ok("S4", "next", next) else { break };
            idle.note("S4", &batch);
            rest.add(batch);
        }
        must!("S4", rest.count(&h.ns()) >= wanted, "events are missing after `open` was called again");
        let same = all.events[from..].iter().zip(&rest.events).all(|(a, b)| same(a, b));
        must!("S4", same, "opened again, the source does not begin where it is told");
        if round == 1 {
            source.close().await;
            source.close().await;
        }
    }
    source.close().await;
    Tested::Holds
}

/// S6: with [`StartAt::Now`] the place is fixed when `open` returns: what was there before never comes, everything
/// after does, and so it is from the returned position later.
pub async fn s6_now_is_fixed_when_open_returns<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    if h.is_finite() {
        return Tested::Skipped("a finite source has no now");
    }
    h.produce(&Workload::new(61).take(10)).await;
    let mut source = h.source().await;
    let start = open("S6", &mut *source, StartAt::Now).await;
    let work = Workload::new(62).take(10);
    h.produce(&work).await;
    let mut reading = Reading::from(start.clone());
    read_on("S6", h, &mut *source, &mut reading, 10).await;
    source.close().await;
    expect_steps("S6", h, &reading.events, &work);
    let mut source = h.source().await;
    let again = open("S6", &mut *source, StartAt::Position(&start)).await;
    let mut reading = Reading::from(again);
    read_on("S6", h, &mut *source, &mut reading, 10).await;
    source.close().await;
    expect_steps("S6", h, &reading.events, &work);
    Tested::Holds
}

/// S7: a position of another deployment is refused with an `Operator` error.
pub async fn s7_a_foreign_position_is_refused<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let Some(position) = h.foreign_position().await else {
        return Tested::Skipped("the harness has no position of another deployment");
    };
    let mut source = h.source().await;
    let interest = Interest::default();
    let opened = within("S7", "open", LIMIT, source.open(StartAt::Position(&position), &interest)).await;
    refused("S7", "a position of another deployment", opened, &[ErrorKind::Operator]);
    source.close().await;
    Tested::Holds
}

/// S8: a position that is gone is a `PositionLost` error of `open` (I4), and a token that cannot be read is an error of
/// that kind or `Operator`.
pub async fn s8_a_lost_position_is_an_error<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, reading) = record("S8", h, 3).await;
    let mut source = h.source().await;
    let interest = Interest::default();
    let damaged = Position { token: Doc::empty(), time: reading.end().time };
    let opened = within("S8", "open", LIMIT, source.open(StartAt::Position(&damaged), &interest)).await;
    refused("S8", "a damaged position", opened, &[ErrorKind::PositionLost, ErrorKind::Operator]);
    let Some(position) = h.lost_position().await else {
        return Tested::Skipped("the harness has no lost position (a damaged one was refused)");
    };
    let opened = within("S8", "open", LIMIT, source.open(StartAt::Position(&position), &interest)).await;
    refused("S8", "a position that is gone", opened, &[ErrorKind::PositionLost]);
    source.close().await;
    Tested::Holds
}

/// S14: `check` needs no `open`, finds nothing wrong where a source runs, and changes nothing.
pub async fn s14_check_changes_nothing<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, all) = record("S14", h, 5).await;
    let mut source = h.source().await;
    for _ in 0..2 {
        let findings = within("S14", "check", LIMIT, source.check()).await;
        if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
            panic!("S14: `check` finds an error in a source that runs: {}", finding.what);
        }
    }
    source.close().await;
    resumes("S14", h, &all, 0, &all.ends[0].1).await;
    Tested::Holds
}

/// S15: `next` on a source that is not open is an error, not a panic, a hang or a silent start.
pub async fn s15_next_without_open_is_an_error<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let mut source = h.source().await;
    let next = within("S15", "next without open", LIMIT, source.next()).await;
    refused("S15", "next without open", next, &[ErrorKind::Bug, ErrorKind::Operator, ErrorKind::Transient]);
    source.close().await;
    Tested::Holds
}
