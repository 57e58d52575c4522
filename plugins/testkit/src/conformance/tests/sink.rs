use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use bson::{Bson, doc};
use oplogue_api::{
    Checkpoint, CheckpointStore, Error, ErrorKind, Event, Failed, Finding, Op, Ordering, Position, Result, Severity,
    Sink, Written, async_trait,
};

use super::violates;
use crate::{
    conformance::{self, Seen, SinkHarness, sink::*},
    sample::{MemorySink, MemoryStore, insert},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    BuffersUntilClose,
    BuffersForEver,
    DropsLast,
    Reverses,
    ReversesBatches,
    FailedDescends,
    FailedOutOfRange,
    FailedAsOperator,
    FailedIsCounted,
    IgnoresNobody,
    CallsNewKnown,
    DeliversBehindFailed,
    FailsAllBehind,
    WholeWriteFails,
    RefusesAgain,
    OldComesLast,
    LiesAboutKnown,
    FailsOnEmpty,
    EmptyLeavesTrace,
    RefusesBarriers,
    LosesBehindBarriers,
    LanesMix,
    CloseOnce,
    LateWrite,
    StuckAfterDrop,
    AcceptsUnreachable,
    UnreachableIsOperator,
    PingAlways,
    NeverComesBack,
    LosesWhenBack,
    CommitsAlways,
    CommitsNever,
    PingLeavesTrace,
    CheckFindsErrors,
    FailsOnLarge,
    DropsLarge,
}
use Wrong::*;

#[derive(Clone)]
struct Place {
    sink: MemorySink,
    store: MemoryStore,
    away: Arc<AtomicBool>,
    was_away: Arc<AtomicBool>,
}

struct Broken {
    place: Place,
    wrong: Wrong,
    commits: bool,
    buffer: Arc<Mutex<Vec<Event>>>,
    lock: Arc<tokio::sync::Mutex<()>>,
    busy: AtomicBool,
    closed: AtomicU32,
    last: AtomicU32,
}

fn is_bad(event: &Event) -> bool {
    event.after.as_ref().is_some_and(|after| after.get_bool("bad").unwrap_or(false))
}

impl Broken {
    async fn take(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let inner = &self.place.sink;
        let mut written = inner.write(events, upto).await?;
        let barriers = events.iter().filter(|e| e.op.is_barrier() && e.op != Op::Drop).count() as u64;
        written.ignored = if self.wrong == IgnoresNobody { 0 } else { barriers };
        if let (true, Some(upto)) = (self.commits, upto) {
            let all = written.failed.is_empty();
            if (all && self.wrong != CommitsNever) || self.wrong == CommitsAlways {
                let generation = self.place.store.get("kit").map_or(0, |c| c.generation) + 1;
                self.place.store.save("kit", &Checkpoint { position: upto.clone(), generation }).await?;
            }
        }
        Ok(written)
    }
}

#[async_trait]
impl Sink for Broken {
    fn ordering(&self) -> Ordering {
        Sink::ordering(&self.place.sink)
    }

    async fn open(&self) -> Result<()> {
        match self.wrong {
            NeverComesBack if self.place.was_away.load(SeqCst) => Err(Error::transient("still away")),
            _ => Ok(()),
        }
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        if self.place.away.load(SeqCst) {
            match self.wrong {
                AcceptsUnreachable => return Ok(Written::default()),
                UnreachableIsOperator => return Err(Error::operator("away").hint("wait")),
                _ => {}
            }
            return Err(Error::transient("away"));
        }
        let large = events.iter().any(|e| e.size() > 1 << 20);
        let mut kept = events.to_vec();
        match self.wrong {
            BuffersUntilClose => {
                self.buffer.lock().unwrap().extend(kept);
                return Ok(Written::default());
            }
            FailsAllBehind if events.iter().any(is_bad) => {
                let first = events.iter().position(is_bad).unwrap();
                let mut written = self.take(&events[..first], None).await?;
                let kind = |index| if index == first { ErrorKind::Data } else { ErrorKind::Transient };
                let failed = (first..events.len()).map(|index| Failed { index, error: Error::new(kind(index), "no") });
                written.failed.extend(failed);
                return Ok(written);
            }
            BuffersForEver => return Ok(Written::default()),
            DropsLast => drop(kept.pop()),
            Reverses => kept.reverse(),
            ReversesBatches if kept.len() > 4 => kept.rotate_left(3),
            LosesBehindBarriers if self.last.load(SeqCst) > 0 => return Ok(Written::default()),
            DropsLarge => kept.retain(|e| e.size() < 1 << 20),
            FailsOnLarge if large => return Err(Error::data("too large")),
            FailsOnEmpty if kept.is_empty() => return Err(Error::data("nothing")),
            EmptyLeavesTrace if kept.is_empty() => kept.push(insert("kit.items", doc! {"_id": "trace"})),
            RefusesBarriers if kept.iter().any(|e| e.op == Op::Gap) => return Err(Error::data("a gap")),
            RefusesAgain | LiesAboutKnown | OldComesLast => {
                let known = self.place.sink.ids();
                let again = kept.iter().filter(|e| known.contains(&e.id())).count();
                if again > 0 && self.wrong == RefusesAgain {
                    return Err(Error::data("known"));
                }
                if again > 1 && self.wrong == OldComesLast {
                    kept.sort_by_key(|e| std::cmp::Reverse(known.contains(&e.id())));
                    kept.rotate_left(1);
                }
                let mut written = self.take(&kept, upto).await?;
                if self.wrong == LiesAboutKnown {
                    written.duplicates = again as u64;
                }
                return Ok(written);
            }
            LanesMix => {
                let part = kept.split_off(kept.len() / 2);
                self.buffer.lock().unwrap().extend(part);
                let first = self.take(&kept, None).await?;
                tokio::task::yield_now().await;
                let rest = std::mem::take(&mut *self.buffer.lock().unwrap());
                let rest: Vec<Event> = rest.into_iter().rev().collect();
                self.take(&rest, upto).await?;
                return Ok(first);
            }
            LateWrite => {
                // Goes on in the background, whether somebody waits for it or not.
                let (sink, late) = (self.place.sink.clone(), kept.clone());
                let slow = self.last.fetch_add(1, SeqCst).is_multiple_of(3);
                let task = tokio::spawn(async move {
                    if slow {
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                    sink.write(&late, None).await
                });
                return task.await.unwrap();
            }
            StuckAfterDrop => {
                if self.busy.swap(true, SeqCst) {
                    std::future::pending::<()>().await;
                }
                tokio::task::yield_now().await;
                let written = self.take(&kept, upto).await;
                self.busy.store(false, SeqCst);
                return written;
            }
            LosesWhenBack if self.place.was_away.swap(false, SeqCst) => return Ok(Written::default()),
            _ => {}
        }
        self.last.store(u32::from(kept.iter().any(|e| e.op.is_barrier())), SeqCst);
        let _one_at_a_time = self.lock.lock().await;
        tokio::task::yield_now().await;
        let mut written = self.take(&kept, upto).await?;
        let failed = |index, kind| Failed { index, error: Error::new(kind, "no") };
        match (self.wrong, written.failed.first().map(|f| f.index)) {
            (FailedDescends, Some(_)) => written.failed.push(failed(0, ErrorKind::Data)),
            (FailedOutOfRange, Some(_)) => written.failed.push(failed(events.len(), ErrorKind::Data)),
            (FailedAsOperator, Some(first)) => written.failed[0] = failed(first, ErrorKind::Operator),
            (FailedIsCounted, Some(_)) => written.duplicates = events.len() as u64,
            (CallsNewKnown, None) => written.duplicates = 1,
            (DeliversBehindFailed, Some(first)) => {
                written.failed.truncate(1);
                let bad = &events[first];
                let behind: Vec<Event> = events[first + 1..].iter().filter(|e| e.key == bad.key).cloned().collect();
                self.place.sink.forgive();
                self.place.sink.write(&behind, None).await?;
            }
            (WholeWriteFails, Some(_)) => return Err(Error::data("one of them")),
            _ => {}
        }
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        if self.wrong == PingLeavesTrace {
            self.place.sink.write(&[insert("kit.items", doc! {"_id": "ping"})], None).await?;
        }
        match self.place.away.load(SeqCst) && self.wrong != PingAlways {
            true => Err(Error::transient("away")),
            false => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        let buffered = std::mem::take(&mut *self.buffer.lock().unwrap());
        self.place.sink.write(&buffered, None).await?;
        match self.wrong {
            CloseOnce if self.closed.fetch_add(1, SeqCst) > 0 => Err(Error::bug("closed already")),
            _ => Ok(()),
        }
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        self.commits.then(|| Arc::new(self.place.store.clone()) as Arc<dyn CheckpointStore>)
    }

    async fn check(&self) -> Vec<Finding> {
        match self.wrong {
            CheckFindsErrors => vec![Finding { severity: Severity::Error, what: "no".into(), hint: None }],
            _ => vec![Finding::ok("fine")],
        }
    }
}

struct Memory {
    place: Place,
    wrong: Wrong,
    commits: bool,
}

impl Memory {
    fn of(ordering: Ordering, wrong: Wrong) -> Memory {
        let sink = MemorySink::new().ordering(ordering);
        sink.judge(|event| is_bad(event).then_some(ErrorKind::Data));
        let (away, was_away) = (Arc::default(), Arc::default());
        let place = Place { sink, store: MemoryStore::new(), away, was_away };
        Memory { place, wrong, commits: ordering == Ordering::Total }
    }
    fn per_key(wrong: Wrong) -> Memory {
        Memory::of(Ordering::PerKey, wrong)
    }
    fn total(wrong: Wrong) -> Memory {
        Memory::of(Ordering::Total, wrong)
    }
}

fn trace(event: &Event) -> Option<Seen> {
    if event.op.is_barrier() && event.op != Op::Drop {
        return None;
    }
    let key = format!("{} {:?}", event.ns, event.key.as_ref().map(|k| k.bytes().to_vec()));
    let what = format!("{} {:?}", event.op.name(), event.raw.bytes().to_vec());
    Some(Seen { key, what })
}

#[async_trait]
impl SinkHarness for Memory {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Broken {
            place: self.place.clone(),
            wrong: self.wrong,
            commits: self.commits,
            buffer: Arc::default(),
            lock: Arc::default(),
            busy: AtomicBool::new(false),
            closed: AtomicU32::new(0),
            last: AtomicU32::new(0),
        })
    }
    async fn delivered(&self) -> Vec<Seen> {
        self.place.sink.deliveries().iter().filter_map(|d| trace(&d.event)).collect()
    }
    fn seen(&self, event: &Event) -> Option<Seen> {
        trace(event)
    }
    fn undeliverable(&self, id: &Bson) -> Option<Event> {
        Some(insert("kit.items", doc! {"_id": id, "bad": true}))
    }
    async fn disrupt(&self) -> bool {
        self.place.away.store(true, SeqCst);
        self.place.was_away.store(true, SeqCst);
        true
    }
    async fn mend(&self) {
        self.place.away.store(false, SeqCst);
    }
    fn commits(&self) -> bool {
        self.commits
    }
}

#[tokio::test]
async fn sinks_in_memory_keep_every_clause() {
    let report = conformance::sink(&Memory::per_key(Nothing)).await;
    assert_eq!((report.held.len(), report.skipped_clauses()), (13, vec!["K12"]));
    let report = conformance::sink(&Memory::total(Nothing)).await;
    assert_eq!((report.held.len(), report.skipped_clauses()), (13, vec!["K9"]));
    // In a total order, it may be all behind a failed event that waits.
    let report = conformance::sink(&Memory::total(FailsAllBehind)).await;
    assert_eq!((report.held.len(), report.skipped_clauses()), (13, vec!["K9"]));
}

mutants! {
    k1_fails: "K1" k1_ok_means_durable =>
        [Memory::per_key(BuffersUntilClose), Memory::per_key(BuffersForEver), Memory::total(DropsLast)];
    k2_fails: "K2" k2_order_is_kept =>
        [Memory::per_key(Reverses), Memory::total(Reverses), Memory::total(ReversesBatches)];
    k3_fails: "K3" k3_accounts_add_up => [
        Memory::per_key(FailedDescends), Memory::per_key(FailedOutOfRange), Memory::per_key(FailedAsOperator),
        Memory::per_key(FailedIsCounted), Memory::per_key(IgnoresNobody), Memory::per_key(CallsNewKnown),
    ];
    k4_fails: "K4" k4_behind_a_failed_event_its_key_waits => [
        Memory::per_key(DeliversBehindFailed), Memory::per_key(FailsAllBehind), Memory::per_key(WholeWriteFails),
    ];
    k5_fails: "K5" k5_writing_again_is_harmless =>
        [Memory::per_key(RefusesAgain), Memory::per_key(OldComesLast), Memory::per_key(LiesAboutKnown)];
    k6_fails: "K6" k6_an_empty_write_is_fine => [Memory::per_key(FailsOnEmpty), Memory::per_key(EmptyLeavesTrace)];
    k7_fails: "K7" k7_every_operation_is_taken =>
        [Memory::per_key(RefusesBarriers), Memory::per_key(LosesBehindBarriers)];
    k8_fails: "K8" k8_an_unreachable_destination_is_transient => [
        Memory::per_key(AcceptsUnreachable), Memory::per_key(UnreachableIsOperator), Memory::per_key(PingAlways),
        Memory::per_key(NeverComesBack), Memory::per_key(LosesWhenBack),
    ];
    k9_fails: "K9" k9_lanes_do_not_disturb_each_other => [Memory::per_key(LanesMix)];
    k10_fails: "K10" k10_close_keeps_everything => [Memory::per_key(CloseOnce), Memory::total(BuffersForEver)];
    k11_fails: "K11" k11_a_dropped_write_does_no_harm => [Memory::per_key(LateWrite), Memory::per_key(StuckAfterDrop)];
    k12_fails: "K12" k12_the_position_is_kept_with_the_data =>
        [Memory::total(CommitsAlways), Memory::total(CommitsNever)];
    k13_fails: "K13" k13_ping_and_check_change_nothing =>
        [Memory::per_key(PingLeavesTrace), Memory::per_key(CheckFindsErrors)];
    k14_fails: "K14" k14_any_document_is_taken_or_refused =>
        [Memory::per_key(FailsOnLarge), Memory::per_key(DropsLarge)];
}
