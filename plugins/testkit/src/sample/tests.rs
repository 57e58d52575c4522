use std::time::Duration;

use bson::doc;
use oplogue_api::{Checkpoint, CheckpointStore, ErrorKind, Event, EventId, Interest, Saved, Sink, Source, StartAt};

use super::*;

async fn read(source: &mut MemorySource) -> Vec<EventId> {
    let mut ids = Vec::new();
    while let Some(batch) = source.next().await.unwrap() {
        ids.extend(batch.events.iter().map(Event::id));
    }
    ids
}

fn log() -> MemoryLog {
    let log = MemoryLog::default();
    for i in 0..5 {
        log.push(insert("a.b", doc! {"_id": i}));
    }
    log.push_txn((5..12).map(|i| insert("a.b", doc! {"_id": i})).collect());
    log.push(delete("a.b", 3));
    log
}

#[tokio::test]
async fn a_source_gives_the_whole_log_in_order() {
    let log = log();
    log.finish();
    for batch in [1, 2, 3, 100] {
        let mut source = log.source().batch(batch);
        source.open(StartAt::Configured, &Interest::default()).await.unwrap();
        assert_eq!(read(&mut source).await, log.ids(), "batches of {batch}");
    }
    assert_eq!(log.opens(), 4);
}

#[tokio::test]
async fn inside_a_transaction_the_end_stays_before_it() {
    let log = log();
    let mut source = log.source().batch(3);
    let start = source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    assert_eq!(start, log.start());
    let mut ends = Vec::new();
    for _ in 0..5 {
        ends.push(source.next().await.unwrap().unwrap().end.time);
    }
    // 3 events; 2 and one of the transaction; 3; 3 more, its last; the deletion.
    let entries: Vec<u32> = ends.iter().map(|t| t.time - log.start().time.time).collect();
    assert_eq!(entries, [3, 5, 5, 6, 7]);
}

#[tokio::test]
async fn an_error_comes_once_and_behind_what_was_there() {
    let log = log();
    log.push_error(ErrorKind::Transient);
    log.push(insert("a.b", doc! {"_id": 100}));
    log.finish();
    let mut source = log.source();
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let first = source.next().await.unwrap().unwrap();
    assert_eq!(first.events.len(), 13);
    assert_eq!(source.next().await.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(source.next().await.unwrap_err().kind(), ErrorKind::Bug, "not opened again");
    source.open(StartAt::Position(&first.end), &Interest::default()).await.unwrap();
    assert_eq!(read(&mut source).await, log.ids()[13..]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_source_wakes_up_and_an_idle_one_beats() {
    let log = log();
    let mut source = log.source().from_now().heartbeat(Duration::from_secs(3600));
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let feeder = log.clone();
    let (batch, id) = tokio::join!(source.next(), async move {
        tokio::task::yield_now().await;
        feeder.push(delete("a.b", 1))
    });
    assert_eq!(batch.unwrap().unwrap().events[0].id(), id);
    let beat = source.next().await.unwrap().unwrap();
    assert!(beat.events.is_empty());
    assert_eq!(beat.end, log.end());
}

#[tokio::test]
async fn positions_that_are_gone_or_foreign_are_refused() {
    let log = log();
    let old = log.start();
    log.truncate();
    let mut source = log.source();
    let kind = |r: oplogue_api::Result<_>| r.map(|_| ()).unwrap_err().kind();
    let interest = Interest::default();
    assert_eq!(kind(source.open(StartAt::Position(&old), &interest).await), ErrorKind::PositionLost);
    let foreign = MemoryLog::new("elsewhere").end();
    assert_eq!(kind(source.open(StartAt::Position(&foreign), &interest).await), ErrorKind::Operator);
}

#[tokio::test]
async fn bad_entries_stand_where_they_were() {
    let log = MemoryLog::default();
    log.push(insert("a.b", doc! {"_id": 1}));
    let time = log.push_bad(Some("a.c"));
    log.push(insert("a.b", doc! {"_id": 2}));
    let mut source = log.source();
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let batch = source.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.bad.len()), (2, 1));
    assert_eq!((batch.bad[0].before, batch.bad[0].time), (1, time));
}

#[tokio::test]
async fn a_sink_follows_its_script_and_the_rule_of_keys() {
    let log = log();
    log.push(update("a.b", 1, doc! {"x": 1}));
    let events = log.events();
    let sink = MemorySink::new();
    sink.script([Outcome::Fail(ErrorKind::Transient), Outcome::FailAfter(ErrorKind::Transient), Outcome::Partial(2)]);
    assert!(sink.write(&events, None).await.is_err());
    assert_eq!(sink.len(), 0);
    assert!(sink.write(&events[..1], None).await.is_err());
    assert_eq!(sink.len(), 1);
    let written = sink.write(&events[..4], Some(&log.end())).await.unwrap();
    assert_eq!(written.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [2, 3]);
    assert!(sink.upto().is_empty());
    let first = events[1].id();
    sink.judge(move |event| (event.id() == first).then_some(ErrorKind::Data));
    let failed = sink.write(&events, None).await.unwrap().failed;
    let shown: Vec<_> = failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(shown, [(1, ErrorKind::Data), (13, ErrorKind::Transient)]);
    sink.forgive();
    assert!(sink.write(&events, Some(&log.end())).await.unwrap().failed.is_empty());
    assert_eq!(sink.upto(), [log.end()]);
}

#[tokio::test]
async fn a_held_sink_writes_when_it_is_released() {
    let log = log();
    let sink = MemorySink::new();
    sink.hold();
    let (events, writer) = (log.events(), sink.clone());
    let task = tokio::spawn(async move { writer.write(&events, None).await });
    while sink.writing() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(sink.is_empty());
    sink.release();
    sink.wait_len(13).await;
    assert!(task.await.unwrap().unwrap().failed.is_empty());
    assert_eq!((sink.writing(), sink.most_concurrent()), (0, 1));
}

#[tokio::test]
async fn a_store_compares_generations() {
    let log = log();
    let at = |generation| Checkpoint { position: log.end(), generation };
    let store = MemoryStore::new();
    assert_eq!(store.save("r", &at(1)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("r", &at(1)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("r", &at(3)).await.unwrap(), Saved::Superseded(at(1)));
    store.reset("r", None).await.unwrap();
    assert_eq!(store.load("r").await.unwrap(), None);
    assert_eq!(store.save("r", &at(2)).await.unwrap_err().kind(), ErrorKind::Operator);
    let shared = MemoryStore::shared();
    shared.save("r", &at(1)).await.unwrap();
    let behind = Checkpoint { position: log.start(), generation: 2 };
    assert_eq!(shared.save("r", &behind).await.unwrap(), Saved::Superseded(at(1)));
}
