//! Faults from seeds, at every place: nothing is lost, order is kept, and the checkpoint comes to the end.

use std::{sync::Arc, time::Duration};

use mongodb::bson::doc;
use oplogue::config::{CheckpointPlan, Node};
use oplogue_api::{CheckpointStore, ErrorKind, Op, Options, Ordering, Sink, Source, Transform, TransformBuild};
use oplogue_testkit::{
    faults::{Fault, FaultySink, FaultySource, FaultyStore, FaultyTransform, Schedule},
    sample::{self, MemoryStore},
};

use super::{Bench, sink_node, source_node, store_node};
use crate::support::Chance;

const TRANSIENT: ErrorKind = ErrorKind::Transient;

/// Passes everything.
struct Through;

impl Transform for Through {
    fn apply(&mut self, _: &mut oplogue_api::Batch) -> oplogue_api::Result<()> {
        Ok(())
    }
}

/// Entries of every kind.
fn fill(b: &Bench, chance: &mut Chance) {
    for i in 0..300 {
        match chance.below(40) {
            0 => b.log.push_error(TRANSIENT),
            1 => b.log.tick(),
            2 => drop(b.log.push(sample::barrier(Op::Other, "d.c"))),
            3 => drop(b.log.push_txn((0..5).map(|k| sample::update("d.c", k, doc! {"n": i})).collect())),
            _ => drop(b.log.push(sample::update("d.c", chance.below(9) as i32, doc! {"n": i}))),
        }
    }
    b.log.finish();
}

/// A tenth of the calls is refused, a tenth takes effect and fails, some are slow, and one of the early ones may panic.
fn trouble(chance: &mut Chance) -> Schedule {
    let schedule = Schedule::new(chance.below(u64::MAX))
        .sometimes(0.1, Fault::Reject(TRANSIENT))
        .sometimes(0.1, Fault::FailAfterWrite(TRANSIENT))
        .sometimes(0.1, Fault::PartialAt(chance.below(10) as usize))
        .sometimes(0.05, Fault::Slow(Duration::from_secs(3)));
    match chance.below(3) {
        0 => schedule.then_well(chance.below(8) as usize).then(1, Fault::Panic),
        _ => schedule,
    }
}

/// Puts a schedule of its own around each part of the route.
fn wrap(b: &mut Bench, chance: &mut Chance) {
    let (source, sink, store) = (source_node(&b.log), sink_node(&b.sink), store_node(&b.store));
    let route = &mut b.routes[0];
    let schedule = trouble(chance);
    route.source.build = Arc::new(move |context, _| {
        Ok(Box::new(FaultySource::new(source.build(context)?, schedule.clone())) as Box<dyn Source>)
    });
    let schedule = trouble(chance);
    route.sink.build = Arc::new(move |context, _| {
        Ok(Arc::new(FaultySink::new(sink.build(context)?, schedule.clone())) as Arc<dyn Sink>)
    });
    let (schedule, mut faulty) = (trouble(chance), store.clone());
    faulty.build = Arc::new(move |context, _| {
        Ok(Arc::new(FaultyStore::new(store.build(context)?, schedule.clone())) as Arc<dyn CheckpointStore>)
    });
    route.checkpoint = CheckpointPlan::Store(faulty);
    let schedule = Schedule::new(0).then_well(chance.below(8) as usize).then(1, Fault::Panic);
    let build: Arc<TransformBuild> =
        Arc::new(move |_, _| Ok(Box::new(FaultyTransform::new(Box::new(Through), schedule.clone()))));
    route.via.push(Node { name: "through".into(), kind: "memory", options: Options::default(), build });
}

/// A route in a storm; the seed is printed with a failing test.
fn storm() -> (Bench, Chance) {
    let mut chance = Chance::new();
    println!("seed {}", chance.seed());
    let mut b = Bench::new(if chance.below(2) == 0 { Ordering::Total } else { Ordering::PerKey });
    if chance.below(3) == 0 {
        b.store = MemoryStore::shared();
    }
    fill(&b, &mut chance);
    wrap(&mut b, &mut chance);
    b.log.fail_open(TRANSIENT);
    b.sink.fail_open(TRANSIENT);
    (b, chance)
}

#[tokio::test(start_paused = true)]
async fn faults_at_every_place_lose_nothing_and_keep_the_order() {
    for _ in 0..30 {
        let (b, _) = storm();
        let outcome = b.run().end().await;
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        b.assert_complete_and_ordered();
        assert_eq!(b.store.get("r").unwrap().position, b.log.end());
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_and_started_again_amid_faults_it_loses_nothing_and_keeps_the_order() {
    for _ in 0..30 {
        let (b, mut chance) = storm();
        for _ in 0..10 {
            let running = b.run();
            tokio::time::sleep(Duration::from_millis(chance.below(5000))).await;
            let outcome = running.stop().await;
            assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        }
        let outcome = b.run().end().await;
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        b.assert_complete_and_ordered();
        assert_eq!(b.store.get("r").unwrap().position, b.log.end());
    }
}
