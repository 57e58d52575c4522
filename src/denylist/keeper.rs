//! Keeps the changes of the denylist in a checkpoint store, and takes over those of other processes.
//!
//! The list is the token of a checkpoint: `{databases: ["a", …]}`. Its generation tells one writer of another.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oplogue_api::{
    Checkpoint, CheckpointStore, Doc, Error, Position, Result, Saved,
    bson::{RawDocumentBuf, Timestamp},
};
use tracing::{error, info, warn};

use super::{Change, Denylist, State};

/// The name of the checkpoint: none that a route can have.
const NAME: &str = "(denylist)";
/// How often to look for the changes of other processes.
const EVERY: Duration = Duration::from_secs(2);
/// How long the store may take, at the start and for a change.
const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
pub struct Keeper {
    list: Arc<Denylist>,
    store: Arc<dyn CheckpointStore>,
    /// Of what was last read or written; 0 for nothing.
    generation: u64,
    /// What the configuration says, until the store was read once: it is on the list whatever the store says.
    seeds: Option<Vec<String>>,
    failing: bool,
}

impl Keeper {
    /// A keeper of `list`; nothing is read yet.
    pub fn new(list: Arc<Denylist>, store: Arc<dyn CheckpointStore>) -> Keeper {
        let seeds = Some(list.names());
        Keeper { list, store, generation: 0, seeds, failing: false }
    }

    /// Adds what is kept to the list. Waits only so long, so that a store that is away does not hold up the routes: then the
    /// list is what the configuration says, until the store is back.
    pub async fn load(&mut self) {
        match tokio::time::timeout(PATIENCE, self.store.load(NAME)).await {
            Ok(Ok(stored)) => {
                if let Err(e) = self.take_over(stored.as_ref()) {
                    self.failed(&e);
                }
            }
            Ok(Err(e)) => self.failed(&e),
            Err(_) => self.failed(&late()),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            let done = self.list.state().last;
            let kept = match tokio::time::timeout(PATIENCE, self.sync()).await {
                Ok(result) => result,
                Err(_) => Err(late()),
            };
            match &kept {
                Ok(()) if std::mem::take(&mut self.failing) => info!("the denylist is kept again"),
                Ok(()) => {}
                Err(e) => self.failed(e),
            }
            self.list.progress.send_modify(|p| {
                p.tried = p.tried.max(done);
                if kept.is_ok() {
                    p.kept = p.kept.max(done);
                }
            });
            tokio::select! {
                () = self.list.wanted.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Takes over what others have kept, and keeps what has changed here.
    async fn sync(&mut self) -> Result<()> {
        for _ in 0..8 {
            let stored = self.store.load(NAME).await?;
            self.take_over(stored.as_ref())?;
            let generation = stored.map_or(0, |stored| stored.generation);
            let pending: Vec<Change> = self.list.state().pending.clone();
            let Some(last) = pending.last().map(|change| change.number) else { return Ok(()) };
            let next = Checkpoint { position: position(&self.list.names())?, generation: generation + 1 };
            if self.store.save(NAME, &next).await? == Saved::Stored {
                self.generation = next.generation;
                self.list.state().pending.retain(|change| change.number > last);
                return Ok(());
            }
            // Somebody else was first: theirs, and ours on top.
        }
        Err(Error::transient("the denylist is being changed by others all the time"))
    }

    /// What is stored becomes the list, unless it is what was stored before.
    fn take_over(&mut self, stored: Option<&Checkpoint>) -> Result<()> {
        if let Some(stored) = stored
            && stored.generation != self.generation
        {
            let names = names_of(stored)?;
            let seeds = self.seeds.take().unwrap_or_default();
            self.adopt(stored.generation, names.into_iter().chain(seeds).collect());
        }
        self.seeds = None;
        Ok(())
    }

    /// The list becomes these names, with what is not kept yet on top.
    fn adopt(&mut self, generation: u64, names: Vec<String>) {
        self.generation = generation;
        let mut state = self.list.state();
        let State { names: current, pending, .. } = &mut *state;
        let mut next: std::collections::BTreeMap<String, bool> = current.keys().map(|n| (n.clone(), false)).collect();
        next.extend(names.into_iter().map(|name| (name, true)));
        next.extend(pending.iter().map(|change| (change.name.clone(), change.denied)));
        if next != *current {
            let databases = next.values().filter(|denied| **denied).count();
            info!(databases, "the denylist is now what its store says");
            *current = next;
            self.list.version.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn failed(&mut self, e: &Error) {
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        let hint = e.get_hint();
        if self.seeds.is_some() {
            error!(error = %e, hint, "the denylist cannot be read: until it can, only the databases of the configuration are on it");
        } else {
            warn!(error = %e, hint, "the denylist is not kept; trying again");
        }
    }
}

fn late() -> Error {
    Error::transient(format!("no answer within {} seconds", PATIENCE.as_secs()))
}

fn position(names: &[String]) -> Result<Position> {
    let token = RawDocumentBuf::try_from(&oplogue_api::bson::doc! {"databases": names})
        .map_err(|e| Error::bug("the denylist is no document").caused_by(e))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Ok(Position { token: Doc::from(token), time: Timestamp { time: now as u32, increment: 1 } })
}

fn names_of(stored: &Checkpoint) -> Result<Vec<String>> {
    let read = || {
        let all = stored.position.token.get_array("databases").ok()?;
        all.into_iter().map(|name| Some(name.ok()?.as_str()?.to_owned())).collect::<Option<Vec<_>>>()
    };
    read().ok_or_else(|| {
        Error::operator("what is kept as the denylist is none")
            .hint("remove it from the store, and put the databases on the list again")
    })
}
