use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bson::{Bson, Document, Timestamp, doc};
use oplogue_api::{Event, Op};

use super::{Rng, document, ids};
use crate::sample;

/// One change to one document. Each changes something, so each gives exactly one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Inserts this document; it holds its `_id`.
    Insert(Document),
    /// Sets these fields (top level) of the document of this id.
    Update(Bson, Document),
    /// Replaces the document of the same `_id`.
    Replace(Document),
    /// Deletes the document of this id.
    Delete(Bson),
}

impl Step {
    /// The id of the document.
    pub fn id(&self) -> Bson {
        match self {
            Step::Insert(doc) | Step::Replace(doc) => doc.get("_id").cloned().unwrap_or(Bson::Null),
            Step::Update(id, _) | Step::Delete(id) => id.clone(),
        }
    }

    /// What the event of this step says happened.
    pub fn op(&self) -> Op {
        match self {
            Step::Insert(_) => Op::Insert,
            Step::Update(..) => Op::Update,
            Step::Replace(_) => Op::Replace,
            Step::Delete(_) => Op::Delete,
        }
    }
}

/// Steps that belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A change by itself.
    One(Step),
    /// One transaction. Where there are no transactions: the steps one by one.
    Txn(Vec<Step>),
}

impl Work {
    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        match self {
            Work::One(step) => std::slice::from_ref(step),
            Work::Txn(steps) => steps,
        }
    }
}

/// The number that makes ids unlike all others of this process.
static UNIQUE: AtomicU64 = AtomicU64::new(1);

/// Generates work for a collection: every delete and update finds its document, every insert none.
#[derive(Clone, Debug)]
pub struct Workload {
    rng: Rng,
    spare: Vec<Bson>,
    alive: Vec<Bson>,
    steps: i64,
}

impl Workload {
    /// A workload; the same seed gives the same operations, on ids that no other workload of this process has.
    pub fn new(seed: u64) -> Workload {
        Workload { rng: Rng::new(seed), spare: Vec::new(), alive: Vec::new(), steps: 0 }
    }

    /// The next step.
    pub fn step(&mut self) -> Step {
        self.steps += 1;
        let n = self.steps;
        let choice = self.rng.below(10);
        if self.alive.len() < 3 || choice < 4 {
            if self.spare.is_empty() {
                self.spare = ids(UNIQUE.fetch_add(1, Relaxed));
            }
            let id = self.spare.swap_remove(self.rng.below(self.spare.len()));
            self.alive.push(id.clone());
            return Step::Insert(self.document(id, n));
        }
        let at = self.rng.below(self.alive.len());
        match choice {
            // `n` is new each time, so that no update is without effect: those leave no trace on a server.
            4..=6 => Step::Update(self.alive[at].clone(), doc! {"n": n, "b": format!("value {n}")}),
            7 => {
                let id = self.alive[at].clone();
                Step::Replace(self.document(id, n))
            }
            _ => Step::Delete(self.alive.swap_remove(at)),
        }
    }

    /// Work of `steps` steps in all, about a third of them in transactions of two to six.
    pub fn take(&mut self, steps: usize) -> Vec<Work> {
        let mut left = steps;
        let mut out = Vec::new();
        while left > 0 {
            let together = 2 + self.rng.below(5);
            if together <= left && self.rng.chance(0.12) {
                out.push(Work::Txn((0..together).map(|_| self.step()).collect()));
                left -= together;
            } else {
                out.push(Work::One(self.step()));
                left -= 1;
            }
        }
        out
    }

    fn document(&mut self, id: Bson, n: i64) -> Document {
        let mut out = doc! {"_id": id, "n": n};
        for (name, value) in document(&mut self.rng, 2) {
            out.insert(name, value);
        }
        out
    }
}

/// The event that a step gives, without a time.
pub fn event_of(ns: &str, step: &Step) -> Event {
    match step {
        Step::Insert(doc) => sample::insert(ns, doc.clone()),
        Step::Update(id, set) => sample::update(ns, id.clone(), set.clone()),
        Step::Replace(doc) => sample::replace(ns, doc.clone()),
        Step::Delete(id) => sample::delete(ns, id.clone()),
    }
}

/// Gives the events times that are later than all given before in this process, so that no sink takes them for
/// duplicates of others.
pub fn stamp(events: &mut [Event]) {
    static NEXT: AtomicU64 = AtomicU64::new(1_750_000_000 << 20);
    for event in events {
        let n = NEXT.fetch_add(1, Relaxed);
        event.time = Timestamp { time: (n >> 20) as u32, increment: (n & 0xf_ffff) as u32 + 1 };
        event.index = 0;
        event.wall = Some(i64::from(event.time.time) * 1000);
    }
}
