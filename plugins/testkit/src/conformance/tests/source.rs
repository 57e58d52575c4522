use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use bson::doc;
use oplogue_api::{
    Batch, Error, ErrorKind, Finding, Interest, Namespace, Op, Position, Result, Severity, Source, StartAt, async_trait,
};

use super::violates;
use crate::{
    conformance::{self, SourceHarness, source::*},
    faults::{Fault, FaultySource, Schedule},
    generate::{Step, Work, event_of},
    sample::{MemoryLog, MemorySource, barrier, insert},
};

/// What is wrong with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    SwapsEvents,
    DropsEvents,
    RepeatsEvents,
    OpensOneBefore,
    OpensOneBehind,
    LosesDroppedBatches,
    IgnoresSecondOpen,
    NeverBeats,
    EndGoesBackWhenIdle,
    NowIsLater,
    NowIsEarlier,
    AcceptsForeign,
    ForeignIsTransient,
    JumpsWhenLost,
    NoHint,
    NoKey,
    NoAfter,
    NoChange,
    OtherAfter,
    KeyOnBarrier,
    TimesInTransaction,
    NewIds,
    BreaksAsOperator,
    LosesWhenBroken,
    GoesOnBehindItsEnd,
    CommittedForgetsTooMuch,
    CheckFindsErrors,
    CheckForgets,
    NextOpens,
    EndInTransaction,
    EndGoesBack,
    EndLagsBehind,
    HeadIsOld,
    NoBytes,
    SameIds,
    BadIsMisplaced,
    BadIsDropped,
}

struct Broken {
    inner: FaultySource,
    log: MemoryLog,
    wrong: Wrong,
    opened: u32,
    batches: u32,
    late: bool,
    ended: bool,
    previous: Option<Position>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

fn earlier(log: &MemoryLog, position: &Position, by: usize) -> Position {
    log.position(log.entry_of(position).unwrap().saturating_sub(by))
}

impl Broken {
    fn spoil(&mut self, batch: &mut Batch) {
        self.batches += 1;
        let log = &self.log;
        for event in &mut batch.events {
            match self.wrong {
                Wrong::NoKey if event.op == Op::Delete => event.key = None,
                Wrong::NoAfter if event.op == Op::Replace => event.after = None,
                Wrong::NoChange => event.change = None,
                Wrong::OtherAfter if event.op == Op::Insert => event.after = event.key.clone(),
                Wrong::KeyOnBarrier if event.op == Op::Create => event.key = Some(crate::sample::key_of(1)),
                Wrong::TimesInTransaction if event.txn.is_some() => event.time.increment += event.index,
                Wrong::SameIds => event.index = 0,
                Wrong::NewIds => event.time.increment = SERIAL.fetch_add(1, Relaxed),
                _ => {}
            }
        }
        match self.wrong {
            Wrong::SwapsEvents if batch.events.len() > 1 => batch.events.swap(0, 1),
            Wrong::DropsEvents if self.batches % 5 == 4 => drop(batch.events.pop()),
            Wrong::RepeatsEvents if self.batches % 5 == 4 => batch.events.extend(batch.events.last().cloned()),
            Wrong::EndGoesBackWhenIdle if batch.events.is_empty() => batch.end = earlier(log, &batch.end, 1),
            Wrong::EndGoesBack if self.batches == 5 => batch.end = log.start(),
            Wrong::EndLagsBehind => batch.end = self.previous.replace(batch.end.clone()).unwrap_or(log.start()),
            Wrong::HeadIsOld if self.batches == 3 => batch.head = log.start().time,
            Wrong::NoBytes => batch.bytes = 0,
            Wrong::EndInTransaction => {
                if let Some(last) = batch.events.last() {
                    let entries = last.time.time - log.start().time.time;
                    batch.end = log.position(entries as usize);
                }
            }
            Wrong::BadIsMisplaced => batch.bad.iter_mut().for_each(|b| b.before = 0),
            Wrong::BadIsDropped => batch.bad.clear(),
            _ => {}
        }
    }
}

#[async_trait]
impl Source for Broken {
    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        self.opened += 1;
        self.late = false;
        let log = self.log.clone();
        let moved = match (self.wrong, from) {
            (Wrong::OpensOneBefore, StartAt::Position(p)) => Some(earlier(&log, p, 1)),
            (Wrong::OpensOneBehind, StartAt::Position(p)) => Some(log.position(log.entry_of(p).unwrap() + 1)),
            (Wrong::IgnoresSecondOpen, StartAt::Position(p)) if self.opened > 1 => return Ok(p.clone()),
            (Wrong::NowIsEarlier, StartAt::Now) => Some(earlier(&log, &log.end(), 2)),
            (Wrong::NowIsLater, StartAt::Now) => {
                self.late = true;
                return Ok(log.end());
            }
            _ => None,
        };
        let from = moved.as_ref().map_or(from, StartAt::Position);
        match self.inner.open(from, interest).await {
            Err(e) if self.wrong == Wrong::AcceptsForeign && e.kind() == ErrorKind::Operator => {
                self.inner.open(StartAt::Now, interest).await
            }
            Err(e) if self.wrong == Wrong::ForeignIsTransient && e.kind() == ErrorKind::Operator => {
                Err(Error::transient("hm"))
            }
            Err(e) if self.wrong == Wrong::JumpsWhenLost && e.kind() == ErrorKind::PositionLost => {
                self.inner.open(StartAt::Now, interest).await
            }
            Err(e) if self.wrong == Wrong::NoHint => Err(Error::new(e.kind(), e.message())),
            opened => opened,
        }
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        if self.late {
            self.late = false;
            self.inner.open(StartAt::Now, &Interest::default()).await?;
        }
        if self.wrong == Wrong::NextOpens && self.opened == 0 {
            self.inner.open(StartAt::Configured, &Interest::default()).await?;
        }
        loop {
            let mut batch = match self.inner.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) if self.wrong == Wrong::GoesOnBehindItsEnd && self.ended => {
                    let end = self.log.end();
                    return Ok(Some(Batch { head: end.time, end, events: vec![], bad: vec![], bytes: 0 }));
                }
                Ok(None) => {
                    self.ended = true;
                    return Ok(None);
                }
                Err(e) if self.wrong == Wrong::BreaksAsOperator => return Err(Error::operator(e.to_string())),
                Err(e) if self.wrong == Wrong::LosesWhenBroken && e.kind() == ErrorKind::Transient => {
                    self.inner.open(StartAt::Now, &Interest::default()).await?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            if self.wrong == Wrong::LosesDroppedBatches {
                tokio::task::yield_now().await;
            }
            if self.wrong == Wrong::NeverBeats && batch.events.is_empty() {
                continue;
            }
            self.spoil(&mut batch);
            return Ok(Some(batch));
        }
    }

    async fn committed(&mut self, upto: &Position) -> Result<()> {
        if self.wrong == Wrong::CommittedForgetsTooMuch {
            self.log.truncate();
        }
        self.inner.committed(upto).await
    }

    async fn check(&mut self) -> Vec<Finding> {
        if self.wrong == Wrong::CheckForgets {
            self.log.truncate();
        }
        let mut findings = self.inner.check().await;
        if self.wrong == Wrong::CheckFindsErrors {
            findings.push(Finding { severity: Severity::Error, what: "no".into(), hint: None });
        }
        findings
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}

struct Memory {
    log: MemoryLog,
    schedule: Schedule,
    finite: bool,
    wrong: Wrong,
}

impl Memory {
    fn new(wrong: Wrong) -> Memory {
        Memory { log: MemoryLog::default(), schedule: Schedule::new(1), finite: false, wrong }
    }

    fn finite(wrong: Wrong) -> Memory {
        let memory = Memory { finite: true, ..Memory::new(wrong) };
        memory.log.finish();
        memory
    }

    fn memory_source(&self) -> MemorySource {
        let source = self.log.source().batch(3).heartbeat(Duration::from_millis(10));
        if self.finite { source } else { source.from_now() }
    }
}

#[async_trait]
impl SourceHarness for Memory {
    async fn source(&self) -> Box<dyn Source> {
        let inner = FaultySource::new(Box::new(self.memory_source()), self.schedule.clone());
        let (log, wrong) = (self.log.clone(), self.wrong);
        Box::new(Broken { inner, log, wrong, opened: 0, batches: 0, late: false, ended: false, previous: None })
    }

    async fn produce(&self, work: &[Work]) {
        self.log.push(barrier(Op::Create, "kit.items"));
        for work in work {
            self.log.push(insert("kit.other", doc! {"_id": 1}));
            match work {
                Work::One(step) => drop(self.log.push(event_of("kit.items", step)).to_string()),
                Work::Txn(steps) => {
                    let event = |step: &Step| event_of("kit.items", step);
                    self.log.push_txn(steps.iter().map(event).collect());
                }
            }
        }
    }

    fn ns(&self) -> Namespace {
        Namespace::new("kit.items")
    }

    fn is_finite(&self) -> bool {
        self.finite
    }

    async fn foreign_position(&self) -> Option<Position> {
        Some(MemoryLog::new("elsewhere").end())
    }

    async fn lost_position(&self) -> Option<Position> {
        // One that a log of this name had once.
        let old = self.log.start();
        self.log.truncate();
        Some(old)
    }

    async fn disrupt(&self) -> bool {
        self.schedule.strike(Fault::FailAfterWrite(ErrorKind::Transient));
        true
    }

    async fn spoil(&self) -> bool {
        self.log.push_bad(Some("kit.items"));
        true
    }
}

#[tokio::test]
async fn a_source_in_memory_keeps_every_clause() {
    let report = conformance::source(&Memory::new(Wrong::Nothing)).await;
    assert_eq!(report.skipped_clauses(), ["S12"]);
    assert_eq!(report.held.len(), 18);
}

#[tokio::test]
async fn a_finite_source_in_memory_keeps_every_clause() {
    struct Dump(Memory);
    #[async_trait]
    impl SourceHarness for Dump {
        async fn source(&self) -> Box<dyn Source> {
            self.0.source().await
        }
        async fn produce(&self, work: &[Work]) {
            self.0.produce(work).await;
        }
        fn ns(&self) -> Namespace {
            self.0.ns()
        }
        fn is_finite(&self) -> bool {
            true
        }
        async fn spoil(&self) -> bool {
            self.0.spoil().await
        }
    }
    let report = conformance::source(&Dump(Memory::finite(Wrong::Nothing))).await;
    assert_eq!(report.skipped_clauses(), ["S5", "S6", "S7", "S8", "S11"]);
}

use Wrong::*;

mutants! {
    s1_fails: "S1" s1_everything_comes_in_order =>
        [Memory::new(SwapsEvents), Memory::new(DropsEvents), Memory::new(RepeatsEvents), Memory::finite(DropsEvents)];
    s2_fails: "S2" s2_open_resumes_behind_the_position =>
        [Memory::new(OpensOneBefore), Memory::new(OpensOneBehind), Memory::finite(OpensOneBehind)];
    s3_fails: "S3" s3_next_is_cancel_safe => [Memory::new(LosesDroppedBatches), Memory::finite(LosesDroppedBatches)];
    s4_fails: "S4" s4_a_source_opens_again => [Memory::new(IgnoresSecondOpen)];
    s5_fails: "S5" s5_an_idle_source_beats => [Memory::new(NeverBeats), Memory::new(EndGoesBackWhenIdle)];
    s6_fails: "S6" s6_now_is_fixed_when_open_returns => [Memory::new(NowIsLater), Memory::new(NowIsEarlier)];
    s7_fails: "S7" s7_a_foreign_position_is_refused => [Memory::new(AcceptsForeign), Memory::new(ForeignIsTransient)];
    s8_fails: "S8" s8_a_lost_position_is_an_error => [Memory::new(JumpsWhenLost), Memory::new(AcceptsForeign)];
    e2_fails: "E2" s7_a_foreign_position_is_refused => [Memory::new(NoHint)];
    s9_fails: "S9" s9_events_are_complete => [
        Memory::new(NoKey), Memory::new(NoAfter), Memory::new(NoChange), Memory::new(OtherAfter),
        Memory::new(KeyOnBarrier), Memory::new(TimesInTransaction),
    ];
    s10_fails: "S10" s10_a_second_reading_is_the_same => [Memory::new(NewIds)];
    s11_fails: "S11" s11_a_broken_connection_loses_nothing =>
        [Memory::new(BreaksAsOperator), Memory::new(LosesWhenBroken)];
    s12_fails: "S12" s12_a_finite_source_ends => [Memory::finite(GoesOnBehindItsEnd), Memory::finite(OpensOneBefore)];
    s13_fails: "S13" s13_committed_does_not_disturb => [Memory::new(CommittedForgetsTooMuch)];
    s14_fails: "S14" s14_check_changes_nothing => [Memory::new(CheckFindsErrors), Memory::new(CheckForgets)];
    s15_fails: "S15" s15_next_without_open_is_an_error => [Memory::new(NextOpens)];
    p1_fails: "P1" p1_the_end_is_never_inside_a_transaction => [Memory::new(EndInTransaction)];
    p2_fails: "P2" p2_ends_go_forward => [
        Memory::new(EndGoesBack), Memory::new(EndLagsBehind), Memory::new(HeadIsOld), Memory::new(NoBytes),
    ];
    p3_fails: "P3" p3_ids_strictly_increase =>
        [Memory::new(SameIds), Memory::new(SwapsEvents), Memory::new(RepeatsEvents)];
    p4_fails: "P4" p4_a_bad_entry_stands_where_it_was =>
        [Memory::new(BadIsMisplaced), Memory::new(BadIsDropped), Memory::finite(BadIsDropped)];
}
