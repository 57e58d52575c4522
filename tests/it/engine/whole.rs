//! What a replicator asks of the engine: whole transactions, a beginning, positions that are not worth a write, an interest.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mongodb::bson::{Timestamp, doc};
use oplogue::config::{Node, OnBadEvent};
use oplogue_api::{ErrorKind, Event, EventId, Interest, Ordering, Replicated, Sink, Source};
use oplogue_testkit::{
    faults::{Fault, FaultySink, FaultySource, Schedule},
    sample::{self, MemorySink, Outcome},
};

use super::{Bench, sink_node, source_node};
use crate::support::Chance;

const TRANSIENT: ErrorKind = ErrorKind::Transient;

/// A route to a sink that takes transactions whole, and at most eight events at a time otherwise.
fn bench() -> Bench {
    let mut b = Bench::new(Ordering::Total);
    b.sink = MemorySink::new().whole_transactions().max_batch(8);
    b.routes[0].sink = sink_node(&b.sink);
    b
}

fn transaction(b: &Bench, size: i32) -> EventId {
    b.log.push_txn((0..size).map(|k| sample::update("d.c", k, doc! {"n": k})).collect())
}

/// How many events each transaction has.
fn sizes(b: &Bench) -> HashMap<Timestamp, usize> {
    let mut sizes = HashMap::new();
    b.log.events().iter().filter(|e| e.txn.is_some()).for_each(|e| *sizes.entry(e.time).or_default() += 1);
    sizes
}

/// No write holds a part of a transaction, or a part twice; `less` events may be missing of one.
fn assert_whole(b: &Bench, less: usize) {
    let sizes = sizes(b);
    for write in b.sink.writes() {
        assert!(write.is_sorted() && write.windows(2).all(|w| w[0] != w[1]), "{write:?}");
        for (time, size) in &sizes {
            let there = write.iter().filter(|id| id.time == *time).count();
            assert!(there == 0 || there + less >= *size, "{there} of {size} events in one write");
        }
    }
}

/// Wraps the source in faults.
fn faulty_source(b: &mut Bench, schedule: &Schedule) {
    let (source, schedule) = (source_node(&b.log), schedule.clone());
    b.routes[0].source.build = Arc::new(move |context, _| {
        Ok(Box::new(FaultySource::new(source.build(context)?, schedule.clone())) as Box<dyn Source>)
    });
}

#[tokio::test(start_paused = true)]
async fn transactions_come_whole_with_a_position_that_covers_them() {
    let mut b = bench();
    // Smaller than one transaction: what is held of it must not wait for room that its end makes.
    b.routes[0].max_in_flight = 2_000;
    for size in [1, 35, 10, 0, 9, 100] {
        b.push(3);
        match size {
            0 => b.log.tick(),
            size => drop(transaction(&b, size)),
        }
    }
    let running = b.run();
    b.sink.wait_len(b.log.ids().len()).await;
    running.stop().await;
    assert_eq!(b.sink.ids(), b.log.ids());
    assert_whole(&b, 0);
    let (writes, upto) = (b.sink.writes(), b.sink.upto());
    assert_eq!(writes.len(), upto.len(), "every write has one");
    assert!(writes.iter().zip(&upto).all(|(write, upto)| upto.time >= write.last().unwrap().time));
    assert_eq!(b.store.get("r").unwrap().position, b.log.end());

    // Others get them in pieces: the test would notice.
    let pieces = Bench { sink: MemorySink::new().ordering(Ordering::Total).max_batch(8), ..b };
    let mut pieces = Bench { store: Default::default(), ..pieces };
    pieces.routes = vec![super::route("r", &pieces.log, &pieces.sink, &pieces.store)];
    let running = pieces.run();
    pieces.sink.wait_len(pieces.log.ids().len()).await;
    running.stop().await;
    assert!(pieces.sink.writes().iter().all(|w| w.len() <= 8));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_inside_a_transaction_gives_it_whole_and_once() {
    for _ in 0..20 {
        let mut chance = Chance::new();
        println!("seed {}", chance.seed());
        let mut b = bench();
        for _ in 0..30 {
            b.push(chance.below(4) as usize);
            transaction(&b, 1 + chance.below(50) as i32);
        }
        b.log.finish();
        let schedule = |chance: &mut Chance| {
            Schedule::new(chance.below(u64::MAX))
                .sometimes(0.2, Fault::Reject(TRANSIENT))
                .sometimes(0.2, Fault::FailAfterWrite(TRANSIENT))
        };
        faulty_source(&mut b, &schedule(&mut chance));
        let (sink, faults) = (sink_node(&b.sink), schedule(&mut chance));
        b.routes[0].sink.build = Arc::new(move |context, _| {
            Ok(Arc::new(FaultySink::new(sink.build(context)?, faults.clone())) as Arc<dyn Sink>)
        });
        assert!(b.run().end().await.failed.is_empty());
        b.assert_complete_and_ordered();
        assert_whole(&b, 0);
        assert_eq!(b.store.get("r").unwrap().position, b.log.end());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_inside_a_transaction_leaves_it_for_the_next_run() {
    let mut b = bench();
    b.push(3);
    let before = b.log.end();
    transaction(&b, 35);
    // The open, and two batches of ten: the second is inside.
    let schedule = Schedule::new(0).then_well(3).then(1, Fault::Hold);
    faulty_source(&mut b, &schedule);
    let running = b.run();
    schedule.gate().reached(1).await;
    b.sink.wait_len(3).await;
    assert!(running.stop().await.failed.is_empty());
    assert_eq!((b.sink.len(), b.store.get("r").unwrap().position), (3, before));
    schedule.end();
    let running = b.run();
    b.sink.wait_len(38).await;
    running.stop().await;
    assert_eq!(b.sink.ids(), b.log.ids());
    assert_whole(&b, 0);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_whole_but_for_its_bad_event() {
    let mut b = bench();
    b.routes[0].on_bad_event = OnBadEvent::Skip;
    transaction(&b, 5);
    let bad = EventId { index: 7, ..transaction(&b, 20) };
    transaction(&b, 5);
    b.sink.judge(move |e: &Event| (e.id() == bad).then_some(ErrorKind::Data));
    b.sink.script([Outcome::Fail(TRANSIENT)]);
    b.log.finish();
    assert!(b.run().end().await.failed.is_empty());
    let expected: Vec<_> = b.log.ids().into_iter().filter(|id| *id != bad).collect();
    assert_eq!(b.sink.ids(), expected);
    assert_whole(&b, 1);
    assert_eq!(b.sink.upto().last(), Some(&b.log.end()), "the position still comes with the rest");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_no_event_stops_the_route_and_tears_nothing() {
    let mut b = bench();
    b.routes[0].on_bad_event = OnBadEvent::Skip;
    transaction(&b, 5);
    b.sink.script([Outcome::Fail(ErrorKind::Data)]);
    let outcome = b.run().end().await;
    let e = &outcome.failed[0].1;
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.get_hint().is_some(), "{e}");
    assert!(b.sink.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_half_a_transaction_is_found_out() {
    let b = bench();
    transaction(&b, 5);
    b.sink.judge(|e: &Event| (e.index == 3).then_some(TRANSIENT));
    // It says of itself that it takes transactions whole, and does not.
    let torn = b.sink.clone();
    let mut b = b;
    b.routes[0].sink = Node { build: Arc::new(move |_, _| Ok(Arc::new(Tearing(torn.clone())))), ..sink_node(&b.sink) };
    let outcome = b.run().end().await;
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Bug);
}

/// Reports only the event that failed and those behind it.
struct Tearing(MemorySink);

#[oplogue_api::async_trait]
impl Sink for Tearing {
    fn ordering(&self) -> Ordering {
        Ordering::Total
    }
    fn whole_transactions(&self) -> bool {
        true
    }
    async fn write(
        &self,
        events: &[Event],
        upto: Option<&oplogue_api::Position>,
    ) -> oplogue_api::Result<oplogue_api::Written> {
        let mut written = self.0.write(events, upto).await?;
        written.failed.retain(|f| events[f.index].index >= 3);
        Ok(written)
    }
    async fn ping(&self) -> oplogue_api::Result<()> {
        Ok(())
    }
    async fn close(&self) -> oplogue_api::Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<oplogue_api::Finding> {
        Vec::new()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_begins_before_the_first_write_for_as_long_as_it_takes() {
    let b = bench();
    b.sink.fail_begin(TRANSIENT);
    b.sink.hold_begin();
    b.push(5);
    // The cursor does not live that long.
    b.log.push_error(TRANSIENT);
    let running = b.run();
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(b.sink.begins(), [b.log.start(), b.log.start()], "tried again after a passing error");
    assert_eq!(b.store.get("r").expect("durable before").position, b.log.start());
    assert!(b.sink.is_empty());
    assert!(!running.telemetry.routes[0].health().sink, "the call is seen");
    b.log.push_error(TRANSIENT);
    b.push(5);
    b.sink.release_begin();
    b.sink.wait_len(10).await;
    assert!(b.log.opens() >= 2, "opened again");
    running.stop().await;
    assert_eq!(b.sink.ids(), b.log.ids());

    // From the checkpoint it begins again, there.
    let end = b.log.end();
    b.push(1);
    let running = b.run();
    b.sink.wait_len(11).await;
    running.stop().await;
    assert_eq!(b.sink.begins().last(), Some(&end));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_beginning() {
    let b = bench();
    b.sink.hold_begin();
    b.push(5);
    let running = b.run();
    while b.sink.begins().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(running.stop().await.failed.is_empty());
    assert!(b.sink.is_empty());
    assert_eq!(b.sink.closes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_fails_for_good_stops_the_route() {
    let b = bench();
    b.sink.fail_begin(ErrorKind::Operator);
    b.push(5);
    let outcome = b.run().end().await;
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Operator);
    assert!(b.sink.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_held_is_no_failure_and_no_commit() {
    let b = bench();
    b.push(3);
    let running = b.run();
    b.sink.wait_len(3).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stored = b.store.get("r").unwrap();
    assert_eq!(stored.position, b.log.end());
    b.store.hold(true);
    for _ in 0..20 {
        b.log.tick();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(b.store.get("r"), Some(stored.clone()), "not written, and no generation is used");
    assert_eq!(b.log.committed().last(), Some(&stored.position), "the source keeps what is behind the checkpoint");
    assert_eq!(running.view()["state"], "running");
    assert!(running.telemetry.routes[0].checkpoint_age() <= Duration::from_secs(2), "nothing waits for a checkpoint");
    assert!(!running.metrics().contains("oplogue_checkpoint_saves_total{outcome=\"failed\",route=\"r\"} 1"));
    b.store.hold(false);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(b.store.get("r").unwrap().position, b.log.end(), "the next tick tries again");
    assert_eq!(b.store.get("r").unwrap().generation, stored.generation + 1);
    assert_eq!(b.log.committed().last(), Some(&b.log.end()));

    b.store.hold(true);
    b.log.tick();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = tokio::time::Instant::now();
    assert!(running.stop().await.failed.is_empty());
    assert!(before.elapsed() < Duration::from_secs(1), "nor is it waited for at the end");
}

#[tokio::test(start_paused = true)]
async fn the_sink_knows_what_its_source_is() {
    let mut b = bench();
    let (sink, build) = (b.sink.clone(), Arc::new(std::sync::Mutex::new(None)));
    let seen = Arc::clone(&build);
    b.routes[0].sink.build = Arc::new(move |context, _| {
        *seen.lock().unwrap() = context.origin.clone();
        Ok(Arc::new(sink.clone()))
    });
    b.push(1);
    b.run().stop_after(&b.sink, 1).await;
    assert_eq!(build.lock().unwrap().as_ref().map(|origin| origin.kind), Some("memory"));
}

#[tokio::test(start_paused = true)]
async fn the_source_hears_what_the_sink_wants_each_time_it_is_opened() {
    let mut b = bench();
    let interest = Interest { replicated: Replicated::Markers, ..Interest::default() };
    b.routes[0].sink = sink_node(&b.sink.clone().interest(interest));
    b.push(3);
    b.log.push_error(TRANSIENT);
    b.push(3);
    b.run().stop_after(&b.sink, 6).await;
    let asked: Vec<_> = b.log.interests().iter().map(|i| i.replicated).collect();
    assert_eq!(asked, [Replicated::Markers; 2]);
}
