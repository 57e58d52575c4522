//! Lost positions, bad events, bugs, ends, several instances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use mongodb::bson::doc;
use oplogue::config::{Node, OnBadEvent, OnPositionLost};
use oplogue_api::{
    Batch, CheckpointStore, Error, ErrorKind, Event, Finding, Op, Options, Ordering, Position, Result, Sink, Transform,
    TransformBuild, Written, async_trait,
};
use oplogue_testkit::sample::{self, MemorySink, MemoryStore, Outcome};

use super::{Bench, route, sink_node};

#[tokio::test(start_paused = true)]
async fn a_lost_position_stops_the_route_by_default() {
    let b = Bench::new(Ordering::Total);
    b.push(5);
    b.run().stop_after(&b.sink, 5).await;
    b.push(5);
    b.log.truncate();
    b.push(5);
    let outcome = b.run().end().await;
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::PositionLost);
    assert_eq!(b.sink.len(), 5, "I4: no silent jump");
}

#[tokio::test(start_paused = true)]
async fn from_now_goes_on_with_a_gap_event() {
    let mut b = Bench::new(Ordering::PerKey);
    b.routes[0].on_position_lost = OnPositionLost::FromNow;
    b.push(5);
    b.run().stop_after(&b.sink, 5).await;
    b.push(5);
    b.log.truncate();
    let running = b.run();
    b.sink.wait_len(6).await;
    let gap = b.sink.deliveries().pop().unwrap();
    assert_eq!(gap.op, Op::Gap);
    assert!(gap.event.raw.get_timestamp("from").unwrap() < gap.event.raw.get_timestamp("to").unwrap());
    let after = b.log.push(sample::update("d.c", 1, doc! {"n": 1}));
    b.sink.wait_len(7).await;
    assert_eq!(b.sink.ids().last(), Some(&after));
    assert!(running.metrics().contains("oplogue_gaps_total{route=\"r\"} 1"));
    assert!(running.stop().await.failed.is_empty());
}

/// The entries of the log in memory are years old.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_older_than_max_catch_up_is_skipped_at_the_start_of_the_process_only() {
    let mut b = Bench::new(Ordering::PerKey);
    b.push(5);
    b.run().stop_after(&b.sink, 5).await;
    b.push(5);
    b.routes[0].max_catch_up = Some(Duration::from_secs(3600 * 24 * 365 * 100));
    b.run().stop_after(&b.sink, 10).await;

    b.push(5);
    b.routes[0].max_catch_up = Some(Duration::from_secs(3600));
    let running = b.run();
    b.sink.wait_len(11).await;
    let gap = b.sink.deliveries().pop().unwrap();
    assert_eq!(gap.op, Op::Gap);
    assert!(gap.event.raw.get_str("reason").unwrap().contains("max_catch_up"));
    assert!(running.metrics().contains("oplogue_gaps_total{route=\"r\"} 1"));
    // The route is run again, from a checkpoint that is as old: nothing is skipped.
    b.sink.script([Outcome::Fail(ErrorKind::Bug)]);
    let after: Vec<_> = (0..5).map(|n| b.log.push(sample::update("d.c", 1, doc! {"n": n}))).collect();
    let delivered = tokio::time::timeout(Duration::from_secs(600), async {
        while !b.sink.ids().ends_with(&after) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(delivered.await.is_ok(), "nothing is skipped");
    assert!(running.metrics().contains("oplogue_gaps_total{route=\"r\"} 1"));
    assert!(running.metrics().contains("oplogue_route_restarts_total{route=\"r\"} 1"));
    assert!(running.stop().await.failed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_position_lost_while_running_is_a_gap_too() {
    let mut b = Bench::new(Ordering::PerKey);
    b.routes[0].on_position_lost = OnPositionLost::FromNow;
    b.push(5);
    let running = b.run();
    b.sink.wait_len(5).await;
    // The reader is overtaken: what it would read next is gone.
    b.push(3);
    b.log.truncate();
    b.log.push_error(ErrorKind::PositionLost);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = b.log.push(sample::update("d.c", 1, doc! {"n": 1}));
    while b.sink.ids().last() != Some(&after) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(running.stop().await.failed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_sink_that_is_gone_is_seen_before_the_next_event() {
    let b = Bench::new(Ordering::Total);
    b.push(1);
    let running = b.run();
    b.sink.wait_len(1).await;
    b.sink.fail_ping(Some(ErrorKind::Transient));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(running.view()["state"], "retrying");
    b.sink.fail_ping(None);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(running.view()["state"], "running");
    running.stop().await;
}

/// A transform that needs something from elsewhere, which is away at first.
struct Needy {
    away: Arc<AtomicU32>,
    has: usize,
}

#[async_trait]
impl Transform for Needy {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        if self.away.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::transient("away"));
        }
        self.has = batch.events.len();
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        assert_eq!(std::mem::take(&mut self.has), batch.events.len(), "prepared for another batch");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_transform_that_waits_for_something_holds_its_route_and_loses_nothing() {
    let mut b = Bench::new(Ordering::PerKey);
    let away = Arc::new(AtomicU32::new(5));
    let needed = Arc::clone(&away);
    let build: Arc<TransformBuild> =
        Arc::new(move |_, _| Ok(Box::new(Needy { away: Arc::clone(&needed), has: 0 }) as Box<dyn Transform>));
    b.routes[0].via.push(Node { name: "needy".into(), kind: "memory", options: Options::default(), build });
    b.push(25);
    let running = b.run();
    b.sink.wait_len(25).await;
    let retries = "oplogue_retries_total{kind=\"transient\",place=\"transform\",route=\"r\"} 5";
    assert!(running.metrics().contains(retries), "{}", running.metrics());
    assert_eq!(running.view()["state"], "running");
    // While it waits, the route can be stopped; what it holds comes in the next run.
    away.store(u32::MAX, Relaxed);
    b.push(5);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.view()["state"], "retrying");
    assert!(running.stop().await.failed.is_empty());
    assert_eq!(b.sink.len(), 25);
    away.store(0, Relaxed);
    b.run().stop_after(&b.sink, 30).await;
    assert_eq!(b.sink.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn bad_events_stop_are_skipped_or_become_dead_letters() {
    let mut b = Bench::new(Ordering::PerKey);
    b.push(3);
    b.log.push_bad(Some("d.c"));
    b.push(3);
    let poison = b.log.push(sample::update("d.c", "poison", doc! {"n": 1}));
    b.push(3);
    b.log.finish();
    b.sink.judge(move |e| (e.id() == poison).then_some(ErrorKind::Data));

    let outcome = b.run().end().await;
    let e = &outcome.failed[0].1;
    assert_eq!(e.kind(), ErrorKind::Data);
    assert!(e.get_hint().unwrap().contains("on_bad_event"), "{e}");
    assert!(b.store.get("r").unwrap().position.time < poison.time);

    let letters = MemorySink::new();
    b.routes[0].on_bad_event = OnBadEvent::DeadLetter(sink_node(&letters));
    let running = b.run();
    letters.wait_len(2).await;
    let text = running.telemetry.clone();
    assert!(running.end().await.failed.is_empty());
    let raw = &letters.deliveries()[0].event.raw;
    assert_eq!(raw.get_str("route").unwrap(), "r");
    assert!(!raw.get_binary("event").unwrap().bytes.is_empty(), "the raw bytes are kept");
    assert!(raw.get_str("error").is_ok());
    let letter = letters.deliveries()[1].event.raw.clone();
    let kept = Event::from_document(&letter.slice(letter.get_document("event").unwrap())).unwrap();
    assert_eq!((kept.id(), kept.op), (poison, Op::Update));
    assert_eq!(letter.get_str("id").unwrap(), poison.to_string());
    let text = text.metrics.render(&text.routes);
    assert!(text.contains("oplogue_events_total{outcome=\"dead_letter\",route=\"r\"} 2"), "{text}");
    assert_eq!(b.store.get("r").unwrap().position, b.log.end());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_sink_that_has_no_use_for_letters_stops_the_route() {
    let mut b = Bench::new(Ordering::Total);
    let mut deaf = sink_node(&MemorySink::new());
    deaf.build = Arc::new(|_, _| Ok(Arc::new(Deaf) as Arc<dyn Sink>));
    b.routes[0].on_bad_event = OnBadEvent::DeadLetter(deaf);
    b.log.push_bad(None);
    b.log.finish();
    let e = &b.run().end().await.failed[0].1;
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.get_hint().unwrap().contains("dead_letter"), "{e}");
    assert_eq!(b.store.get("r").unwrap().position, b.log.start(), "I1");
}

/// A sink that ignores everything.
struct Deaf;

#[async_trait]
impl Sink for Deaf {
    async fn write(&self, events: &[Event], _: Option<&Position>) -> Result<Written> {
        Ok(Written { ignored: events.len() as u64, ..Written::default() })
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_behind_what_it_confirmed_gets_the_events_again() {
    let b = Bench::new(Ordering::Total);
    b.push(10);
    let running = b.run();
    b.sink.wait_len(10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // It fell back to an older copy of itself, position and all, as a Redis does after a failover.
    let generation = b.store.get("r").unwrap().generation;
    b.store.reset("r", Some(&b.log.start())).await.unwrap();
    assert_ne!(b.store.get("r").unwrap().generation, generation);
    b.sink.script([Outcome::Fail(ErrorKind::PositionLost)]);
    b.push(1);
    b.sink.wait_len(21).await;
    assert!(running.stop().await.failed.is_empty());
    assert_eq!(b.sink.ids()[10..], b.log.ids());
}

#[tokio::test(start_paused = true)]
async fn a_skipped_event_is_counted() {
    let mut b = Bench::new(Ordering::Total);
    b.routes[0].on_bad_event = OnBadEvent::Skip;
    b.push(3);
    b.log.push_bad(None);
    b.push(3);
    b.log.finish();
    let running = b.run();
    let telemetry = Arc::clone(&running.telemetry);
    assert!(running.end().await.failed.is_empty());
    let text = telemetry.metrics.render(&telemetry.routes);
    assert!(text.contains("oplogue_events_total{outcome=\"skipped\",route=\"r\"} 1"), "{text}");
    assert_eq!(b.sink.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_bug_restarts_the_route_five_times_and_no_more() {
    let b = Bench::new(Ordering::Total);
    b.push(10);
    b.log.finish();
    b.sink.script([Outcome::Panic; 5]);
    assert!(b.run().end().await.failed.is_empty(), "five are survived");
    assert_eq!(b.sink.ids(), b.log.ids());

    let b = Bench::new(Ordering::Total);
    b.push(10);
    b.sink.script([Outcome::Panic; 6]);
    let outcome = b.run().end().await;
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Bug);
    assert!(b.sink.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_destination_ends_the_route_without_an_error() {
    let b = Bench::new(Ordering::Total);
    b.push(10);
    b.sink.script([Outcome::Ended]);
    assert!(b.run().end().await.failed.is_empty());
    assert_eq!(b.store.get("r").unwrap().position, b.log.start(), "what it did not take is not passed");
}

#[tokio::test(start_paused = true)]
async fn a_stop_delivers_what_was_read_and_saves_how_far_it_came() {
    let b = Bench::new(Ordering::PerKey);
    b.sink.hold();
    b.push(200);
    let running = b.run();
    while b.sink.writing() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    b.sink.release();
    assert!(running.end().await.failed.is_empty());
    let delivered = b.sink.len();
    assert!(delivered > 0);
    let saved = b.store.get("r").unwrap().position;
    let covered = b.log.ids().iter().filter(|id| id.time <= saved.time).count();
    assert_eq!(covered, delivered, "every delivered event is behind the checkpoint, none before it is missing");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever_for_a_sink_that_hangs() {
    let b = Bench::new(Ordering::PerKey);
    b.sink.hold();
    b.push(20);
    let running = b.run();
    while b.sink.writing() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(running.stop().await.failed.is_empty());
    assert_eq!(b.store.get("r").unwrap().position, b.log.start());
}

#[tokio::test(start_paused = true)]
async fn two_instances_on_one_checkpoint_notice_each_other() {
    let b = Bench::new(Ordering::Total);
    b.push(5);
    let one = b.run();
    b.sink.wait_len(5).await;
    let two = b.run();
    tokio::time::sleep(Duration::from_secs(2)).await;
    b.push(5);
    let (one, two) = tokio::join!(async { tokio::time::timeout(Duration::from_secs(20), one.task).await }, async {
        tokio::time::timeout(Duration::from_secs(20), two.task).await
    });
    let failed: Vec<_> = [one, two].into_iter().flatten().flat_map(|o| o.expect("the engine").failed).collect();
    assert_eq!(failed.len(), 1, "one of the two gives way");
    assert_eq!(failed[0].1.kind(), ErrorKind::Operator);
    assert!(failed[0].1.to_string().contains("another process"), "{}", failed[0].1);
}

#[tokio::test(start_paused = true)]
async fn twins_on_a_shared_checkpoint_run_side_by_side() {
    let mut b = Bench::new(Ordering::Total);
    b.store = MemoryStore::shared();
    b.routes = vec![route("r", &b.log, &b.sink, &b.store)];
    let (one, two) = (b.run(), b.run());
    for _ in 0..20 {
        b.push(10);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(one.stop().await.failed.is_empty());
    assert!(two.stop().await.failed.is_empty());
    assert_eq!(b.store.get("r").unwrap().position, b.log.end());
    b.assert_complete_and_ordered();
}
