use std::{sync::Arc, time::Duration};

use bson::doc;
use oplogue_api::{
    Checkpoint, CheckpointStore, ErrorKind, Event, Interest, Position, Saved, Sink, Source, StartAt, Transform,
};

use super::*;
use crate::sample::{MemoryLog, MemorySink, MemoryStore, insert};

const TRANSIENT: ErrorKind = ErrorKind::Transient;

fn log() -> MemoryLog {
    let log = MemoryLog::default();
    for i in 0..6 {
        log.push(insert("a.b", doc! {"_id": i}));
    }
    log
}

fn faulty(schedule: &Schedule) -> (FaultySink, MemorySink, Vec<Event>) {
    let inner = MemorySink::new();
    (FaultySink::new(Arc::new(inner.clone()), schedule.clone()), inner, log().events())
}

#[tokio::test]
async fn a_rejected_write_has_no_effect_and_a_lost_reply_has() {
    let schedule = Schedule::new(1).then(1, Fault::Reject(TRANSIENT)).then(1, Fault::FailAfterWrite(TRANSIENT));
    let (sink, inner, events) = faulty(&schedule);
    assert_eq!(sink.write(&events, None).await.unwrap_err().kind(), TRANSIENT);
    assert_eq!(inner.len(), 0);
    assert_eq!(sink.write(&events, None).await.unwrap_err().kind(), TRANSIENT);
    assert_eq!(inner.len(), 6);
    assert!(sink.write(&events, None).await.is_ok());
    assert_eq!((schedule.calls(), schedule.struck(), inner.len()), (3, 2, 12));
}

#[tokio::test]
async fn a_part_of_a_write_is_delivered_without_the_position() {
    let schedule = Schedule::new(1).then_well(1).then(1, Fault::PartialAt(2));
    let (sink, inner, events) = faulty(&schedule);
    let end = log().end();
    assert!(sink.write(&events, Some(&end)).await.unwrap().failed.is_empty());
    let written = sink.write(&events, Some(&end)).await.unwrap();
    assert_eq!(written.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!((inner.len(), inner.upto().len()), (8, 1));
}

#[tokio::test]
async fn a_held_write_waits_for_the_gate() {
    let schedule = Schedule::new(1).then(2, Fault::Hold);
    let (sink, inner, events) = faulty(&schedule);
    let gate = schedule.gate();
    let (a, b, ()) = tokio::join!(sink.write(&events, None), sink.write(&events[..1], None), async {
        gate.reached(2).await;
        assert!(inner.is_empty());
        gate.release();
        inner.wait_len(1).await;
        gate.release();
    });
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(inner.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_slow_write_takes_its_time() {
    let schedule = Schedule::new(1).then(1, Fault::Slow(Duration::from_secs(3600)));
    let (sink, _, events) = faulty(&schedule);
    let before = tokio::time::Instant::now();
    sink.write(&events, None).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(3600));
}

#[tokio::test]
async fn panics_come_out_of_every_plugin() {
    let schedule = Schedule::new(1).then(1, Fault::Panic);
    let (sink, _, events) = faulty(&schedule);
    let died = tokio::spawn(async move { sink.write(&events, None).await.map(|_| ()) }).await;
    assert!(died.unwrap_err().is_panic());

    let mut source = FaultySource::new(Box::new(log().source()), Schedule::new(1).then_well(1).then(1, Fault::Panic));
    let died = tokio::spawn(async move {
        source.open(StartAt::Configured, &Interest::default()).await.unwrap();
        source.next().await.map(|_| ())
    });
    assert!(died.await.unwrap_err().is_panic());
}

struct Same;
impl Transform for Same {
    fn apply(&mut self, _: &mut oplogue_api::Batch) -> oplogue_api::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_faulty_source_loses_what_it_read_until_it_is_opened_again() {
    let log = log();
    let schedule = Schedule::new(1).then_well(2).then(1, Fault::FailAfterWrite(TRANSIENT));
    let mut source = FaultySource::new(Box::new(log.source().batch(2)), schedule);
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let first = source.next().await.unwrap().unwrap();
    assert_eq!(source.next().await.unwrap_err().kind(), TRANSIENT);
    assert_eq!(source.next().await.unwrap_err().kind(), ErrorKind::Bug);
    source.open(StartAt::Position(&first.end), &Interest::default()).await.unwrap();
    let mut again = source.next().await.unwrap().unwrap();
    assert_eq!(again.events[0].id(), log.ids()[2]);

    let mut transform = FaultyTransform::new(Box::new(Same), Schedule::new(1).then(1, Fault::Reject(ErrorKind::Bug)));
    assert_eq!(transform.apply(&mut again).unwrap_err().kind(), ErrorKind::Bug);
    assert!(transform.apply(&mut again).is_ok());
}

#[tokio::test]
async fn a_faulty_store_saves_and_says_it_did_not() {
    let (inner, end): (_, Position) = (MemoryStore::new(), log().end());
    let schedule = Schedule::new(1).then(1, Fault::FailAfterWrite(TRANSIENT)).then(1, Fault::Reject(TRANSIENT));
    let store = FaultyStore::new(Arc::new(inner.clone()), schedule);
    let checkpoint = Checkpoint { position: end, generation: 1 };
    assert!(store.save("r", &checkpoint).await.is_err());
    assert_eq!(inner.get("r"), Some(checkpoint.clone()));
    assert!(store.load("r").await.is_err());
    assert_eq!(store.save("r", &checkpoint).await.unwrap(), Saved::Stored);
}

#[test]
fn a_seed_repeats_its_faults_and_an_ended_schedule_has_none() {
    let draw = |seed| {
        let schedule = Schedule::new(seed)
            .sometimes(0.2, Fault::Reject(TRANSIENT))
            .sometimes(0.2, Fault::FailAfterWrite(TRANSIENT));
        let drawn: Vec<_> = (0..200).map(|_| schedule.draw()).collect();
        schedule.end();
        assert!((0..200).all(|_| schedule.draw().is_none()));
        drawn
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    let struck = draw(3).iter().flatten().count();
    assert!((40..110).contains(&struck), "{struck}");
}
