//! The kit for a plugin whose other end is out of sight: `oplogue plugin test`. All clauses for transforms, and those for sinks
//! and sources that show in what the plugin answers. A violated clause is reported, not a panic, and the others are tested too.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use bson::{Timestamp, rawdoc};
use futures_util::FutureExt;
use oplogue_api::{
    Batch, ErrorKind, Event, EventId, Interest, Position, Severity, Sink, Source, StartAt, Transform, async_trait,
};

use super::{
    Seen, SinkHarness, Tested,
    guard::{LIMIT, must, ok, refused, within, works},
    sink::{self, changes, opened, try_write},
    transform as t,
};
use crate::generate::Rng;

/// What became of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was tested and holds.
    Holds,
    /// It was not tested, and why.
    Untested(String),
    /// It does not hold: what is wrong.
    Violated(String),
}

/// A clause, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Its number in `docs/plugin-contract.md`.
    pub number: &'static str,
    /// What it asks for, in short.
    pub words: &'static str,
    /// What became of it.
    pub found: Found,
}

fn found(number: &str, tested: Result<Tested, Box<dyn Any + Send>>) -> Found {
    match tested {
        Ok(Tested::Holds) => Found::Holds,
        Ok(Tested::Skipped(why)) => Found::Untested(why.to_owned()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the test panicked");
            Found::Violated(said.strip_prefix(&format!("{number}: ")).unwrap_or(said).to_owned())
        }
    }
}

async fn tried(number: &'static str, words: &'static str, test: impl Future<Output = Tested>) -> Clause {
    Clause { number, words, found: found(number, AssertUnwindSafe(test).catch_unwind().await) }
}

fn unseen(number: &'static str, words: &'static str, why: &str) -> Clause {
    Clause { number, words, found: Found::Untested(why.to_owned()) }
}

/// Tests every clause for transforms.
pub fn transform(make: impl Fn() -> Box<dyn Transform>) -> Vec<Clause> {
    let test = |number, words, test: &dyn Fn() -> Tested| Clause {
        number,
        words,
        found: found(number, catch_unwind(AssertUnwindSafe(test))),
    };
    vec![
        test("T1", "positions are left alone", &|| t::t1_positions_are_left_alone(&make)),
        test("T2", "order per key is kept", &|| t::t2_order_per_key_is_kept(&make)),
        test("T3", "gap events pass", &|| t::t3_gap_events_pass(&make)),
        test("T4", "an empty batch stays empty", &|| t::t4_an_empty_batch_stays_empty(&make)),
        test("T5", "it is a function of each event", &|| t::t5_it_is_a_function_of_each_event(&make)),
        test("T6", "bad events are kept in place", &|| t::t6_bad_events_are_kept_in_place(&make)),
        test("T7", "ids come from the batch", &|| t::t7_ids_come_from_the_batch(&make)),
    ]
}

/// A harness that sees nothing: what the clauses ask of the destination is met by that, and what they ask of the sink is tested.
struct Unseen<M>(M);

#[async_trait]
impl<M: Fn() -> Arc<dyn Sink> + Send + Sync> SinkHarness for Unseen<M> {
    async fn sink(&self) -> Arc<dyn Sink> {
        self.0()
    }
    async fn delivered(&self) -> Vec<Seen> {
        Vec::new()
    }
    fn seen(&self, _event: &Event) -> Option<Seen> {
        None
    }
}

/// Tests the clauses for sinks that can be tested without a look at the destination. The events are in `kit.items`.
pub async fn sink(make: impl Fn() -> Arc<dyn Sink> + Send + Sync) -> Vec<Clause> {
    const THERE: &str = "only a look at the destination could tell";
    let h = &Unseen(make);
    vec![
        tried("K13", "ping and check work", sink::k13_ping_and_check_change_nothing(h)).await,
        tried("K3", "accounts add up", accounts(h)).await,
        tried("K6", "an empty write is fine", sink::k6_an_empty_write_is_fine(h)).await,
        tried("K7", "every operation is taken", sink::k7_every_operation_is_taken(h)).await,
        tried("K5", "writing again is no error", sink::k5_writing_again_is_harmless(h)).await,
        tried("K9", "lanes write at the same time", sink::k9_lanes_do_not_disturb_each_other(h)).await,
        tried("K10", "it closes, twice, and another one goes on", sink::k10_close_keeps_everything(h)).await,
        tried("K11", "a dropped write does no harm", sink::k11_a_dropped_write_does_no_harm(h)).await,
        tried("K14", "any document is taken or refused", sink::k14_any_document_is_taken_or_refused(h)).await,
        unseen("K1", "Ok means durable", THERE),
        unseen("K2", "order is kept", THERE),
        unseen("K4", "behind a failed event its key waits", "no event is known that it refuses"),
        unseen("K8", "an unreachable destination is transient", "the destination cannot be cut off from here"),
    ]
}

/// K3, as far as it shows in the answers.
async fn accounts(h: &(impl SinkHarness + ?Sized)) -> Tested {
    let sink = opened("K3", h).await;
    let events = changes(h, 4);
    let written = ok("K3", "write", try_write("K3", &*sink, &events).await);
    must!("K3", written.duplicates == 0, "{} new events were called duplicates", written.duplicates);
    works("K3", "close", sink.close()).await;
    Tested::Holds
}

/// What a source gave until it was idle or at its end, or had given enough.
struct Reading {
    events: Vec<EventId>,
    /// The places handed out, each with the number of events before it.
    ends: Vec<(usize, Position)>,
    finished: bool,
    idle: bool,
}

/// No more is read than this.
const ENOUGH: usize = 300;

async fn read(clause: &str, source: &mut dyn Source, from: StartAt<'_>, most: usize) -> Reading {
    let start = works(clause, "open", source.open(from, &Interest::default())).await;
    let mut reading = Reading { events: Vec::new(), ends: vec![(0, start)], finished: false, idle: false };
    while reading.events.len() < most {
        match works(clause, "next", source.next()).await {
            None => reading.finished = true,
            Some(batch) => {
                note(clause, &mut reading, &batch);
                reading.idle = batch.events.is_empty();
            }
        }
        if reading.finished || reading.idle {
            break;
        }
    }
    reading
}

fn note(clause: &str, reading: &mut Reading, batch: &Batch) {
    if let Some(bad) = batch.bad.first() {
        panic!("{clause}: it gave a bad event: {}", bad.error);
    }
    reading.events.extend(batch.events.iter().map(Event::id));
    reading.ends.push((reading.events.len(), batch.end.clone()));
}

fn same(clause: &str, what: &str, got: &[EventId], wanted: &[EventId]) {
    let n = got.len().min(wanted.len());
    let first = (0..n).find(|i| got[*i] != wanted[*i]);
    if let Some(i) = first {
        panic!("{clause}: {what}: event {i} was {}, not {}", got[i], wanted[i]);
    }
    must!(clause, got.len() >= wanted.len(), "{what}: {} events came, not {}", got.len(), wanted.len());
}

/// Tests the clauses for sources that can be tested on what the source reads anyway: it must have some events to give.
pub async fn source(make: impl Fn() -> Box<dyn Source>) -> Vec<Clause> {
    const THERE: &str = "only who writes what it reads could tell";
    let make = &make;
    let mut out = vec![
        tried("S15", "next without open is an error", without_open(make)).await,
        tried("S14", "check works", check(make)).await,
    ];
    let mut first = None;
    let begun = tried("S9", "events are complete", async {
        let mut source = make();
        let reading = read("S9", &mut *source, StartAt::Configured, ENOUGH).await;
        source.close().await;
        first = Some(reading);
        Tested::Holds
    });
    let mut begun = begun.await;
    let reading = match first {
        Some(reading) if !reading.events.is_empty() => reading,
        _ => {
            if begun.found == Found::Holds {
                begun.found = Found::Untested("it gave no event: let it begin where there are some".into());
            }
            out.push(begun);
            return out;
        }
    };
    out.push(begun);
    out.push(tried("P2", "ends go forward", ends(&reading)).await);
    out.push(tried("P3", "ids increase", ids(&reading)).await);
    out.push(tried("S2", "it resumes behind a position", resumes(make, &reading)).await);
    out.push(tried("S3", "next is cancel-safe", cancelled(make, &reading)).await);
    out.push(tried("S4", "it opens again", again(make, &reading)).await);
    out.push(tried("S5", "an idle source beats", idle(make, &reading)).await);
    out.push(tried("S8", "a token that cannot be read is an error", damaged(make)).await);
    out.push(tried("S12", "a finite source ends", finite(make, &reading)).await);
    out.push(tried("S13", "committed does not disturb", committed(make, &reading)).await);
    out.push(unseen("S1", "everything comes in order", THERE));
    out.push(unseen("S6", "now is fixed when open returns", THERE));
    out.push(unseen("S7", "a foreign position is refused", "no position of another deployment is known"));
    out.push(unseen("S11", "a broken connection loses nothing", "its connections cannot be cut from here"));
    out
}

type Make<'a> = &'a dyn Fn() -> Box<dyn Source>;

async fn without_open(make: Make<'_>) -> Tested {
    let mut source = make();
    let next = within("S15", "next without open", LIMIT, source.next()).await;
    must!("S15", next.is_err(), "next without open gave something");
    source.close().await;
    Tested::Holds
}

async fn check(make: Make<'_>) -> Tested {
    let mut source = make();
    let findings = within("S14", "check", LIMIT, source.check()).await;
    if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
        panic!("S14: check finds an error: {}", finding.what);
    }
    source.close().await;
    Tested::Holds
}

async fn ends(reading: &Reading) -> Tested {
    let back = reading.ends.windows(2).find(|w| w[1].1.time < w[0].1.time);
    must!("P2", back.is_none(), "an `end` lies before the one before it");
    let (n, last) = &reading.ends[reading.ends.len() - 1];
    let uncovered = n.checked_sub(1).is_some_and(|i| reading.events[i].time > last.time);
    must!("P2", !(uncovered && reading.idle), "the last `end` does not cover the last event");
    Tested::Holds
}

async fn ids(reading: &Reading) -> Tested {
    let wrong = reading.events.windows(2).find(|w| w[1] <= w[0]);
    must!("P3", wrong.is_none(), "ids do not increase");
    Tested::Holds
}

async fn resumes(make: Make<'_>, reading: &Reading) -> Tested {
    let mut rng = Rng::new(2);
    let mut source = make();
    for _ in 0..10.min(reading.ends.len()) {
        let (n, end) = &reading.ends[rng.below(reading.ends.len())];
        let rest = read("S2", &mut *source, StartAt::Position(end), reading.events.len() - n).await;
        same("S2", &format!("opened behind event {n}"), &rest.events, &reading.events[*n..]);
    }
    source.close().await;
    Tested::Holds
}

async fn cancelled(make: Make<'_>, reading: &Reading) -> Tested {
    let mut rng = Rng::new(3);
    let mut source = make();
    works("S3", "open", source.open(StartAt::Position(&reading.ends[0].1), &Interest::default())).await;
    let mut got = Vec::new();
    while got.len() < reading.events.len() {
        let polls = rng.below(3);
        let batch = {
            let mut next = pin!(source.next());
            let mut early = None;
            for _ in 0..polls {
                match futures_util::poll!(&mut next) {
                    Poll::Ready(batch) => early = Some(batch),
                    Poll::Pending => {}
                }
                if early.is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            match early {
                Some(batch) => Some(batch),
                None if rng.chance(0.5) => Some(within("S3", "next", LIMIT, next).await),
                None => None, // Dropped.
            }
        };
        match batch.map(|batch| ok("S3", "next", batch)) {
            Some(Some(batch)) if batch.events.is_empty() => break,
            Some(Some(batch)) => got.extend(batch.events.iter().map(Event::id)),
            Some(None) => break,
            None => {}
        }
    }
    same("S3", "with calls dropped", &got, &reading.events);
    source.close().await;
    Tested::Holds
}

async fn again(make: Make<'_>, reading: &Reading) -> Tested {
    let mut source = make();
    for round in ["first", "without close", "behind close"] {
        let from = StartAt::Position(&reading.ends[0].1);
        let same_again = read("S4", &mut *source, from, reading.events.len()).await;
        same("S4", &format!("opened {round}"), &same_again.events, &reading.events);
        if round != "first" {
            source.close().await;
        }
    }
    source.close().await;
    Tested::Holds
}

async fn idle(make: Make<'_>, reading: &Reading) -> Tested {
    if reading.finished {
        return Tested::Skipped("it is finite");
    }
    if !reading.idle {
        return Tested::Skipped("it was never idle");
    }
    let mut source = make();
    let end = &reading.ends[reading.ends.len() - 1].1;
    works("S5", "open", source.open(StartAt::Position(end), &Interest::default())).await;
    let limit = std::time::Duration::from_secs(30);
    ok("S5", "next", within("S5", "next of an idle source", limit, source.next()).await);
    source.close().await;
    Tested::Holds
}

async fn damaged(make: Make<'_>) -> Tested {
    let mut source = make();
    let position =
        Position { token: rawdoc! {"of": "the conformance kit"}.into(), time: Timestamp { time: 1, increment: 1 } };
    let opened = within("S8", "open", LIMIT, source.open(StartAt::Position(&position), &Interest::default())).await;
    refused("S8", "a token that it cannot know", opened, &[ErrorKind::PositionLost, ErrorKind::Operator]);
    source.close().await;
    Tested::Holds
}

async fn finite(make: Make<'_>, reading: &Reading) -> Tested {
    if !reading.finished {
        return Tested::Skipped("it did not come to an end");
    }
    let mut source = make();
    let end = &reading.ends[reading.ends.len() - 1].1;
    works("S12", "open", source.open(StartAt::Position(end), &Interest::default())).await;
    for _ in 0..3 {
        let next = works("S12", "next", source.next()).await;
        must!("S12", next.is_none_or(|batch| batch.events.is_empty()), "something came behind the end");
    }
    source.close().await;
    Tested::Holds
}

async fn committed(make: Make<'_>, reading: &Reading) -> Tested {
    let mut source = make();
    let some = read("S13", &mut *source, StartAt::Position(&reading.ends[0].1), 1).await;
    let (n, end) = &some.ends[some.ends.len() - 1];
    works("S13", "committed", source.committed(end)).await;
    let rest = read("S13", &mut *source, StartAt::Position(end), reading.events.len().saturating_sub(*n)).await;
    same("S13", "behind `committed`", &rest.events, reading.events.get(*n..).unwrap_or(&[]));
    source.close().await;
    Tested::Holds
}

/// Whether none of them is violated.
pub fn all_hold(clauses: &[Clause]) -> bool {
    clauses.iter().all(|clause| !matches!(clause.found, Found::Violated(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faults::{Fault, FaultySink, Schedule},
        sample::{self, MemoryLog, MemorySink},
    };

    struct Twice;
    impl Transform for Twice {
        fn apply(&mut self, batch: &mut Batch) -> oplogue_api::Result<()> {
            batch.events.reverse();
            Ok(())
        }
    }

    fn numbers(clauses: &[Clause], wanted: fn(&Found) -> bool) -> Vec<&'static str> {
        clauses.iter().filter(|c| wanted(&c.found)).map(|c| c.number).collect()
    }

    fn violated(clauses: &[Clause]) -> Vec<&'static str> {
        numbers(clauses, |f| matches!(f, Found::Violated(_)))
    }

    #[tokio::test]
    async fn good_plugins_violate_nothing() {
        let sink = MemorySink::default();
        let found = super::sink(|| Arc::new(sink.clone()) as Arc<dyn Sink>).await;
        assert_eq!(violated(&found), [""; 0], "{found:?}");
        assert_eq!(numbers(&found, |f| matches!(f, Found::Untested(_))), ["K1", "K2", "K4", "K8"]);
        let log = MemoryLog::default();
        for i in 0..30 {
            log.push(sample::insert("kit.items", bson::doc! {"_id": i}));
        }
        let make =
            || -> Box<dyn Source> { Box::new(log.source().batch(3).heartbeat(std::time::Duration::from_millis(50))) };
        let found = super::source(make).await;
        assert_eq!(violated(&found), [""; 0], "{found:?}");
        log.finish();
        let found = super::source(make).await;
        assert_eq!(violated(&found), [""; 0], "{found:?}");
        assert!(numbers(&found, |f| *f == Found::Holds).contains(&"S12"));
    }

    #[tokio::test]
    async fn broken_plugins_are_found_out_and_the_rest_is_tested_too() {
        let found = transform(|| Box::new(Twice));
        assert!(violated(&found).contains(&"T2") && found.len() == 7, "{found:?}");
        assert!(numbers(&found, |f| *f == Found::Holds).contains(&"T4"));
        assert!(!all_hold(&found));
        let sink = MemorySink::default();
        let refusing = || -> Arc<dyn Sink> {
            Arc::new(FaultySink::new(
                Arc::new(sink.clone()),
                Schedule::new(1).sometimes(1.0, Fault::Reject(ErrorKind::Operator)),
            ))
        };
        assert!(violated(&super::sink(refusing).await).contains(&"K3"));
        let found = super::source(|| Box::new(MemoryLog::default().source())).await;
        assert!(matches!(found.last().map(|c| &c.found), Some(Found::Untested(_))), "{found:?}");
    }
}
