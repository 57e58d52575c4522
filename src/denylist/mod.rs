//! The databases whose events are dropped, changed while the process runs.

mod keeper;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use oplogue_api::{Batch, Event, Namespace, Op};
use tokio::sync::{Notify, watch};

pub use keeper::Keeper;

/// More names than these are refused, off the list ones included: anybody who reaches the HTTP interface may add some (I6).
const MOST_NAMES: usize = 10_000;
/// Longer names are refused. MongoDB allows 64 bytes.
const LONGEST_NAME: usize = 255;
/// How long a change waits until it is known to be kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// The list, shared by all routes and the HTTP interface. What it says holds at once, whether it is kept or not.
pub struct Denylist {
    state: Mutex<State>,
    /// Counts changes of the names, so that a reader sees without a lock that nothing has changed.
    version: AtomicU64,
    wanted: Notify,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    /// `false`: was on the list once.
    names: BTreeMap<String, bool>,
    /// What is not kept yet, in order.
    pending: Vec<Change>,
    /// Of the newest change, counted from 1.
    last: u64,
}

#[derive(Clone)]
struct Change {
    number: u64,
    name: String,
    denied: bool,
}

/// How far the changes are kept.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// All up to this one are.
    kept: u64,
    /// All up to this one were tried.
    tried: u64,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was so before.
    Nothing,
    /// It is so now, and will be after a restart.
    Kept,
    /// It is so now, and kept as soon as that is possible; until then a restart forgets it.
    NotKept,
    /// The name is too long, or the list.
    Refused,
}

impl Denylist {
    /// A list of these names.
    pub fn new(names: &[String]) -> Arc<Denylist> {
        let state = State { names: names.iter().map(|name| (name.clone(), true)).collect(), ..State::default() };
        Arc::new(Denylist {
            state: Mutex::new(state),
            version: AtomicU64::new(1),
            wanted: Notify::new(),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().names.iter().filter(|(_, denied)| **denied).map(|(name, _)| name.clone()).collect()
    }

    /// Every name that is on the list or was, and whether it is.
    pub fn all(&self) -> BTreeMap<String, bool> {
        self.state().names.clone()
    }

    /// Whether a database is on the list.
    pub fn contains(&self, name: &str) -> bool {
        self.state().names.get(name).copied().unwrap_or(false)
    }

    /// Puts a database on the list, or takes it off, and waits a little until that is kept.
    pub async fn set(&self, name: &str, denied: bool) -> Changed {
        let Some(number) = self.change(name, denied) else { return Changed::Refused };
        if number == 0 {
            return Changed::Nothing;
        }
        self.wanted.notify_one();
        let mut progress = self.progress.subscribe();
        let done = progress.wait_for(|p| p.tried >= number);
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(p)) if p.kept >= number => Changed::Kept,
            _ => Changed::NotKept,
        }
    }

    /// The number of the change; 0 when there is none, `None` when it is refused.
    fn change(&self, name: &str, denied: bool) -> Option<u64> {
        let mut state = self.state();
        if state.names.get(name).copied().unwrap_or(false) == denied {
            return Some(0);
        }
        if denied {
            if name.len() > LONGEST_NAME || (state.names.len() >= MOST_NAMES && !state.names.contains_key(name)) {
                return None;
            }
            tracing::info!(database = name, "events of the database are dropped from now on");
        } else {
            tracing::info!(database = name, "events of the database are delivered from now on");
        }
        state.names.insert(name.to_owned(), denied);
        state.last += 1;
        let number = state.last;
        // A database that is put on and taken off while the store is away is one change.
        state.pending.retain(|change| change.name != name);
        state.pending.push(Change { number, name: name.to_owned(), denied });
        self.version.fetch_add(1, Relaxed);
        Some(number)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a route's reader knows of the list.
pub struct Denied {
    list: Arc<Denylist>,
    version: u64,
    names: Vec<String>,
}

impl Denied {
    /// The list as it is now.
    pub fn new(list: Arc<Denylist>) -> Denied {
        Denied { list, version: 0, names: Vec::new() }
    }

    /// Drops what belongs to a database of the list; `each` hears of every event that is dropped, entries that cannot be decoded
    /// excepted. Returns how many were, those included.
    pub fn apply(&mut self, batch: &mut Batch, mut each: impl FnMut(&Event)) -> usize {
        let version = self.list.version.load(Relaxed);
        if version != self.version {
            self.names = self.list.names();
            self.version = version;
        }
        if self.names.is_empty() {
            return 0;
        }
        let names = &self.names;
        let holds = |ns: &Namespace| names.binary_search_by(|name| name.as_str().cmp(ns.db())).is_ok();
        let denied = |event: &Event| {
            // What tells of trouble belongs to no database; a rename concerns both.
            !matches!(event.op, Op::Gap | Op::DeadLetter) && holds(&event.ns) && event.to.as_ref().is_none_or(&holds)
        };
        let before = batch.events.len() + batch.bad.len();
        let mut dropped = Vec::new();
        let mut index = 0;
        batch.events.retain(|event| {
            let drop = denied(event);
            if drop {
                each(event);
                dropped.push(index);
            }
            index += 1;
            !drop
        });
        for bad in &mut batch.bad {
            bad.before -= dropped.partition_point(|at| *at < bad.before);
        }
        batch.bad.retain(|bad| !bad.ns.as_ref().is_some_and(&holds));
        before - batch.events.len() - batch.bad.len()
    }
}

#[cfg(test)]
mod tests;
