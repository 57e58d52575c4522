use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use oplogue_api::{Checkpoint, CheckpointStore, Error, Finding, Position, Result, Saved, async_trait};

/// A checkpoint store in memory; clones share what is stored.
#[derive(Clone, Default)]
pub struct MemoryStore {
    stored: Arc<Mutex<HashMap<String, Checkpoint>>>,
    saves: Arc<Mutex<Vec<(String, Checkpoint)>>>,
    holding: Arc<AtomicBool>,
    shared: bool,
}

impl MemoryStore {
    /// A store for one writer per route.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A store that several instances of a route share: it keeps the furthest position.
    pub fn shared() -> MemoryStore {
        MemoryStore { shared: true, ..MemoryStore::default() }
    }

    /// From now on no later position is worth a write ([`Saved::Held`]), or each is again.
    pub fn hold(&self, holding: bool) {
        self.holding.store(holding, SeqCst);
    }

    /// What is stored for a route.
    pub fn get(&self, route: &str) -> Option<Checkpoint> {
        self.stored().get(route).cloned()
    }

    /// Every checkpoint that was stored, with its route, in order.
    pub fn saves(&self) -> Vec<(String, Checkpoint)> {
        self.saves.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn stored(&self) -> MutexGuard<'_, HashMap<String, Checkpoint>> {
        self.stored.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[async_trait]
impl CheckpointStore for MemoryStore {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        Ok(self.get(route))
    }

    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let mut stored = self.stored();
        match stored.get(route) {
            Some(current) if current == checkpoint => return Ok(Saved::Stored),
            Some(current)
                if current.generation.checked_add(1) != Some(checkpoint.generation)
                    || (self.shared && current.position.time > checkpoint.position.time) =>
            {
                return Ok(Saved::Superseded(current.clone()));
            }
            None if checkpoint.generation != 1 => {
                return Err(Error::operator("the checkpoint is gone, although one was saved before")
                    .hint("restart the route, or set its position"));
            }
            Some(current) if self.holding.load(SeqCst) && current.position != checkpoint.position => {
                return Ok(Saved::Held);
            }
            _ => {}
        }
        self.saves.lock().unwrap_or_else(|e| e.into_inner()).push((route.to_owned(), checkpoint.clone()));
        stored.insert(route.to_owned(), checkpoint.clone());
        Ok(Saved::Stored)
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let mut stored = self.stored();
        match position {
            Some(position) => {
                let generation = stored.get(route).map_or(0, |c| c.generation) + 1;
                stored.insert(route.to_owned(), Checkpoint { position: position.clone(), generation });
            }
            None => {
                stored.remove(route);
            }
        }
        Ok(())
    }

    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok("a checkpoint store in memory")]
    }
}
