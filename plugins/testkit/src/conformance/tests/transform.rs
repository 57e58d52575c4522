use bson::{Timestamp, doc};
use oplogue_api::{BadEvent, Batch, Error, Op, Result, Selection, Transform};

use super::violates;
use crate::{
    conformance::{self, transform::*},
    sample::{barrier, insert},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    MovesEnd,
    MovesHead,
    EmptyEnd,
    Reverses,
    Sorts,
    PassesBarriers,
    DropsGaps,
    RepeatsGaps,
    FailsOnEmpty,
    HoldsBack,
    Counts,
    EverySecond,
    ForgetsBad,
    MisplacesBad,
    BadIsBug,
    MakesIds,
    MakesBarriers,
    Panics,
    Fails,
    SelectsLess,
    Edits,
    RefusesUntold,
}
use Wrong::*;

/// Drops `kit.b`, moves every event with `n` 3 to `bad`, and is wrong in one way.
struct Sample {
    wrong: Wrong,
    held: Vec<oplogue_api::Event>,
    seen: u32,
}

fn sample(wrong: Wrong) -> impl Fn() -> Box<dyn Transform> {
    move || Box::new(Sample { wrong, held: Vec::new(), seen: 0 })
}

impl Transform for Sample {
    fn selection(&self) -> Option<Selection> {
        Some(Selection {
            operations: (self.wrong == SelectsLess).then(|| vec![Op::Insert]),
            refuses: self.wrong != RefusesUntold,
            ..Selection::default()
        })
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let wrong = self.wrong;
        match wrong {
            FailsOnEmpty if batch.events.is_empty() => return Err(Error::data("empty")),
            Panics => panic!("at the kit"),
            Fails if batch.events.len() > 1 => return Err(Error::bug("no")),
            _ => {}
        }
        let mut old = std::mem::take(&mut batch.bad).into_iter().peekable();
        let mut kept = Vec::new();
        for (i, event) in std::mem::take(&mut batch.events).into_iter().enumerate() {
            while let Some(bad) = old.next_if(|b| b.before <= i) {
                let before = if wrong == MisplacesBad { bad.before } else { kept.len() };
                if wrong != ForgetsBad {
                    batch.bad.push(BadEvent { before, ..bad });
                }
            }
            if event.after.as_ref().is_some_and(|after| after.get_i64("n").ok() == Some(3)) {
                let error = if wrong == BadIsBug { Error::bug("n is 3") } else { Error::data("n is 3") };
                batch.bad.push(BadEvent::refused(kept.len(), event, error));
                continue;
            }
            let drops = event.ns.as_str() == "kit.b" || (wrong == DropsGaps && event.op == Op::Gap);
            self.seen += 1;
            let second = wrong == EverySecond && !event.op.is_barrier() && self.seen.is_multiple_of(2);
            if !drops && !second {
                kept.push(event);
            }
        }
        batch.bad.extend(old.map(|bad| BadEvent { before: kept.len(), ..bad }));
        match wrong {
            MovesEnd => batch.end.time.time += 1,
            MovesHead => batch.head.time += 1,
            EmptyEnd if kept.is_empty() => batch.end.time = Timestamp { time: 0, increment: 0 },
            Reverses => kept.reverse(),
            Sorts => kept.sort_by_key(|e| e.op.name()),
            PassesBarriers => kept.sort_by_key(|e| !e.op.is_barrier()),
            RepeatsGaps => {
                let gap = kept.iter().rfind(|e| e.op == Op::Gap).cloned();
                kept.extend(gap);
            }
            HoldsBack => {
                let held = kept.pop();
                kept.splice(0..0, std::mem::take(&mut self.held));
                self.held.extend(held);
            }
            Counts => {
                for event in &mut kept {
                    self.held.push(event.clone());
                    event.after = Some(insert("a.b", doc! {"_id": self.held.len() as i64}).raw);
                }
            }
            Edits => kept.iter_mut().for_each(|e| e.after = None),
            MakesIds => kept.iter_mut().for_each(|e| e.index += 100),
            MakesBarriers => {
                for event in kept.iter_mut().filter(|e| e.op == Op::Delete) {
                    let (time, index) = (event.time, event.index);
                    *event = barrier(Op::Other, "kit.a");
                    (event.time, event.index) = (time, index);
                }
            }
            _ => {}
        }
        batch.events = kept;
        Ok(())
    }
}

struct Nothing2;
impl Transform for Nothing2 {
    fn apply(&mut self, _: &mut Batch) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_good_transform_keeps_every_clause() {
    let report = conformance::transform(&sample(Nothing));
    assert_eq!((report.held.len(), report.skipped.len()), (8, 0));
    let _ = conformance::transform(&|| Box::new(Nothing2) as Box<dyn Transform>);
}

macro_rules! mutants {
    ($($name:ident: $clause:literal $test:path => [$($wrong:expr),+ $(,)?];)+) => {$(
        #[tokio::test]
        async fn $name() {
            $(violates($clause, &format!("{:?}", $wrong), async { $test(&sample($wrong)) }).await;)+
        }
    )+};
}

mutants! {
    t1_fails: "T1" t1_positions_are_left_alone => [MovesEnd, MovesHead, EmptyEnd, Panics, Fails];
    t2_fails: "T2" t2_order_per_key_is_kept => [Reverses, Sorts, PassesBarriers];
    t3_fails: "T3" t3_gap_events_pass => [DropsGaps, RepeatsGaps];
    t4_fails: "T4" t4_an_empty_batch_stays_empty => [FailsOnEmpty, HoldsBack];
    t5_fails: "T5" t5_it_is_a_function_of_each_event => [Counts, EverySecond, HoldsBack];
    t6_fails: "T6" t6_bad_events_are_kept_in_place => [ForgetsBad, MisplacesBad, BadIsBug];
    t7_fails: "T7" t7_ids_come_from_the_batch => [MakesIds, MakesBarriers];
    t8_fails: "T8" t8_what_passes_is_selected => [SelectsLess, Edits, RefusesUntold];
}
