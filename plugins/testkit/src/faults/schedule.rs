use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use oplogue_api::{Error, ErrorKind};
use tokio::sync::watch;

use crate::generate::Rng;

/// What goes wrong in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and has no effect.
    Reject(ErrorKind),
    /// The call takes effect and fails nevertheless: the reply was lost. A source's `next` loses what it read, as a
    /// broken connection would: it has to be opened again.
    FailAfterWrite(ErrorKind),
    /// The call waits until the [`Gate`] is opened, then goes on.
    Hold,
    /// The call takes this long (of tokio's time, which a test may pause), then goes on.
    Slow(Duration),
    /// The call panics and has no effect.
    Panic,
    /// Of a write, the first k events are delivered; the rest are reported as failed (`Transient`). Elsewhere: no fault.
    PartialAt(usize),
}

/// Opens what [`Fault::Hold`] closed.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<(u64, u64)>>);

impl Gate {
    fn new() -> Gate {
        Gate(Arc::new(watch::Sender::new((0, 0))))
    }

    /// Lets the call that waits longest go on, or the next one that would wait.
    pub fn release(&self) {
        self.0.send_modify(|(_, released)| *released += 1);
    }

    /// Lets all calls go on, and none wait any more.
    pub fn release_all(&self) {
        self.0.send_modify(|(_, released)| *released = u64::MAX / 2);
    }

    /// Waits until this many calls have come to the gate, those that went on included.
    pub async fn reached(&self, calls: u64) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|(arrived, _)| *arrived >= calls).await;
    }

    async fn pass(&self) {
        let mut place = 0;
        self.0.send_modify(|(arrived, _)| {
            *arrived += 1;
            place = *arrived;
        });
        let _ = self.0.subscribe().wait_for(|(_, released)| *released >= place).await;
    }
}

#[derive(Debug)]
struct State {
    rng: Rng,
    queue: VecDeque<Option<Fault>>,
    sometimes: Vec<(f64, Fault)>,
    calls: u64,
    struck: u64,
}

/// Which calls go wrong, and how. Clones are one schedule: a test keeps one and gives the other away.
#[derive(Clone, Debug)]
pub struct Schedule {
    state: Arc<Mutex<State>>,
    gate: Gate,
}

impl Schedule {
    /// A schedule without faults; the seed is for [`sometimes`](Schedule::sometimes).
    pub fn new(seed: u64) -> Schedule {
        let state = State { rng: Rng::new(seed), queue: VecDeque::new(), sometimes: Vec::new(), calls: 0, struck: 0 };
        Schedule { state: Arc::new(Mutex::new(state)), gate: Gate::new() }
    }

    /// The next `times` calls (behind those that are scheduled already) go wrong so. May be called at any time.
    #[must_use]
    pub fn then(self, times: usize, fault: Fault) -> Schedule {
        self.with(|s| s.queue.extend(std::iter::repeat_n(Some(fault), times)));
        self
    }

    /// The next `calls` calls go well.
    #[must_use]
    pub fn then_well(self, calls: usize) -> Schedule {
        self.with(|s| s.queue.extend(std::iter::repeat_n(None, calls)));
        self
    }

    /// Every call that nothing else is scheduled for goes wrong so with the probability `p`.
    #[must_use]
    pub fn sometimes(self, p: f64, fault: Fault) -> Schedule {
        self.with(|s| s.sometimes.push((p, fault)));
        self
    }

    /// Adds a fault for the next call that nothing is scheduled for, while the test runs.
    pub fn strike(&self, fault: Fault) {
        self.with(|s| s.queue.push_back(Some(fault)));
    }

    /// No more faults; calls that wait go on.
    pub fn end(&self) {
        self.with(|s| {
            s.queue.clear();
            s.sometimes.clear();
        });
        self.gate.release_all();
    }

    /// The gate of [`Fault::Hold`].
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// How many calls came.
    pub fn calls(&self) -> u64 {
        self.with(|s| s.calls)
    }

    /// How many of them went wrong.
    pub fn struck(&self) -> u64 {
        self.with(|s| s.struck)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub(super) fn draw(&self) -> Option<Fault> {
        self.with(|s| {
            s.calls += 1;
            let fault = match s.queue.pop_front() {
                Some(scheduled) => scheduled,
                None => {
                    let State { rng, sometimes, .. } = s;
                    // Every probability draws a number each time, so that one does not shift the others' sequence.
                    let drawn: Vec<bool> = sometimes.iter().map(|(p, _)| rng.chance(*p)).collect();
                    drawn.iter().position(|hit| *hit).map(|i| sometimes[i].1)
                }
            };
            s.struck += u64::from(fault.is_some());
            fault
        })
    }

    /// Draws, and carries out what needs nothing of the call.
    pub(super) async fn before(&self, what: &str) -> Result<Option<Fault>, Error> {
        let fault = self.draw();
        match fault {
            Some(Fault::Reject(kind)) => return Err(reject(kind, what)),
            Some(Fault::Hold) => self.gate.pass().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Panic) => panic!("injected panic in {what}"),
            Some(Fault::FailAfterWrite(_) | Fault::PartialAt(_)) | None => {}
        }
        Ok(fault)
    }
}

pub(super) fn reject(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, format!("injected failure of {what}")).hint("the test asked for it")
}

pub(super) fn lost_reply(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, format!("injected loss of the reply of {what}")).hint("the test asked for it")
}
