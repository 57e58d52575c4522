use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use oplogue_api::{Checkpoint, CheckpointStore, Doc, Error, Finding, Position, Result, Saved, Severity, async_trait};

use super::violates;
use crate::{
    conformance::{self, StoreHarness, store::*},
    sample::MemoryStore,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    InventsCheckpoints,
    ForgetsToken,
    NotDurable,
    TakesAnyGeneration,
    TakesSameGeneration,
    LiesAboutStored,
    RefusesAgain,
    InventsWriters,
    SaysStoredButIsNot,
    ResetKeepsGeneration,
    ResetDoesNothing,
    ResetOnlyExisting,
    CutsNames,
    LowersNames,
    CutsTokens,
    Races,
    NeverBack,
    GoesBack,
    DamagedIsNone,
    CheckWrites,
    CheckFindsErrors,
    UnreachableIsNone,
    UnreachableIsOperator,
}
use Wrong::*;

#[derive(Clone, Default)]
struct Place {
    store: MemoryStore,
    damaged: Arc<Mutex<HashMap<String, ()>>>,
    away: Arc<AtomicBool>,
}

struct Broken {
    place: Place,
    local: MemoryStore,
    wrong: Wrong,
}

impl Broken {
    fn name(&self, route: &str) -> String {
        match self.wrong {
            CutsNames => route.chars().take(200).collect(),
            LowersNames => route.to_lowercase(),
            _ => route.to_owned(),
        }
    }

    fn reach(&self) -> Result<()> {
        match (self.place.away.load(SeqCst), self.wrong) {
            (false, _) => Ok(()),
            (true, UnreachableIsOperator) => Err(Error::operator("away").hint("wait")),
            (true, _) => Err(Error::transient("away")),
        }
    }
}

#[async_trait]
impl CheckpointStore for Broken {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        if self.wrong == UnreachableIsNone && self.place.away.load(SeqCst) {
            return Ok(None);
        }
        self.reach()?;
        let name = self.name(route);
        if self.place.damaged.lock().unwrap().contains_key(&name) {
            return match self.wrong {
                DamagedIsNone => Ok(None),
                _ => Err(Error::operator("cannot be read").hint("reset it")),
            };
        }
        let store = if self.wrong == NotDurable { &self.local } else { &self.place.store };
        let mut loaded = store.load(&name).await?;
        match (self.wrong, &mut loaded) {
            (InventsCheckpoints, None) => {
                let time = bson::Timestamp { time: 1, increment: 1 };
                loaded = Some(Checkpoint { position: Position { token: Doc::empty(), time }, generation: 0 });
            }
            (ForgetsToken, Some(c)) => c.position.token = Doc::empty(),
            (CutsTokens, Some(c)) if c.position.token.bytes().len() > 1000 => c.position.token = Doc::empty(),
            _ => {}
        }
        Ok(loaded)
    }

    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        self.reach()?;
        let name = self.name(route);
        let store = if self.wrong == NotDurable { &self.local } else { &self.place.store };
        let stored = store.get(&name);
        let force = async || {
            store.reset(&name, None).await?;
            for generation in 1..=checkpoint.generation.min(100) {
                store.save(&name, &Checkpoint { generation, ..checkpoint.clone() }).await?;
            }
            Ok::<_, Error>(Saved::Stored)
        };
        match (self.wrong, &stored) {
            (TakesAnyGeneration, Some(_)) => return force().await,
            (TakesSameGeneration, Some(c)) if c.generation == checkpoint.generation => return force().await,
            (Races, s) if s.as_ref().map_or(0, |c| c.generation) < checkpoint.generation => {
                tokio::task::yield_now().await;
                return force().await;
            }
            (RefusesAgain, Some(c)) if c == checkpoint => return Ok(Saved::Superseded(c.clone())),
            (InventsWriters, None) if checkpoint.generation != 1 => return Ok(Saved::Superseded(checkpoint.clone())),
            (SaysStoredButIsNot, None) if checkpoint.generation != 1 => return Ok(Saved::Stored),
            (GoesBack, Some(c)) if c.generation + 1 == checkpoint.generation => return force().await,
            (NeverBack, Some(c)) if c.position.time > checkpoint.position.time => {
                return Ok(Saved::Superseded(c.clone()));
            }
            _ => {}
        }
        match store.save(&name, checkpoint).await? {
            Saved::Superseded(_) if self.wrong == LiesAboutStored => Ok(Saved::Superseded(checkpoint.clone())),
            saved => Ok(saved),
        }
    }

    fn is_shared(&self) -> bool {
        self.place.store.is_shared()
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let name = self.name(route);
        let store = if self.wrong == NotDurable { &self.local } else { &self.place.store };
        let stored = store.get(&name);
        self.place.damaged.lock().unwrap().remove(&name);
        match (self.wrong, position, stored) {
            (ResetDoesNothing, ..) | (ResetOnlyExisting, Some(_), None) => Ok(()),
            (ResetKeepsGeneration, Some(position), Some(c)) => {
                store.reset(&name, None).await?;
                for generation in 1..=c.generation {
                    store.save(&name, &Checkpoint { position: position.clone(), generation }).await?;
                }
                Ok(())
            }
            _ => store.reset(&name, position).await,
        }
    }

    async fn check(&self) -> Vec<Finding> {
        if self.wrong == CheckWrites {
            for (route, last) in self.place.store.saves() {
                let _ = self.place.store.reset(&route, Some(&last.position)).await;
            }
        }
        match self.wrong {
            CheckFindsErrors => vec![Finding { severity: Severity::Error, what: "no".into(), hint: None }],
            _ => vec![Finding::ok("fine")],
        }
    }
}

struct Memory {
    place: Place,
    wrong: Wrong,
}

impl Memory {
    fn new(wrong: Wrong) -> Memory {
        Memory { place: Place::default(), wrong }
    }
    fn shared(wrong: Wrong) -> Memory {
        Memory { place: Place { store: MemoryStore::shared(), ..Place::default() }, wrong }
    }
}

#[async_trait]
impl StoreHarness for Memory {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(Broken { place: self.place.clone(), local: MemoryStore::new(), wrong: self.wrong })
    }
    async fn damage(&self, route: &str) -> bool {
        self.place.damaged.lock().unwrap().insert(route.to_owned(), ());
        true
    }
    async fn disrupt(&self) -> bool {
        self.place.away.store(true, SeqCst);
        true
    }
    async fn mend(&self) {
        self.place.away.store(false, SeqCst);
    }
}

#[tokio::test]
async fn stores_in_memory_keep_every_clause() {
    for memory in [Memory::new(Nothing), Memory::shared(Nothing)] {
        let report = conformance::store(&memory).await;
        assert!(report.skipped.is_empty(), "{report:?}");
        assert_eq!(report.held.len(), 14);
    }
}

mutants! {
    c1_fails: "C1" c1_a_new_route_has_no_checkpoint => [Memory::new(InventsCheckpoints)];
    c2_fails: "C2" c2_what_is_saved_is_loaded => [Memory::new(ForgetsToken), Memory::new(NotDurable)];
    c3_fails: "C3" c3_a_save_compares_generations =>
        [Memory::new(TakesAnyGeneration), Memory::new(TakesSameGeneration), Memory::new(LiesAboutStored)];
    c4_fails: "C4" c4_saving_again_is_stored => [Memory::new(RefusesAgain)];
    c5_fails: "C5" c5_a_missing_checkpoint_is_no_other_writer =>
        [Memory::new(InventsWriters), Memory::new(SaysStoredButIsNot)];
    c6_fails: "C6" c6_reset_sets_whatever_is_stored =>
        [Memory::new(ResetKeepsGeneration), Memory::new(ResetDoesNothing), Memory::new(ResetOnlyExisting)];
    c7_fails: "C7" c7_reset_removes => [Memory::new(ResetDoesNothing)];
    c8_fails: "C8" c8_routes_do_not_meet => [Memory::new(CutsNames), Memory::new(LowersNames)];
    c9_fails: "C9" c9_large_and_odd_tokens_come_back => [Memory::new(CutsTokens)];
    c10_fails: "C10" c10_of_two_writers_one_wins => [Memory::new(Races)];
    c11_fails: "C11" c11_positions_may_go_back_unless_shared => [Memory::new(NeverBack), Memory::shared(GoesBack)];
    c12_fails: "C12" c12_a_damaged_checkpoint_is_an_error => [Memory::new(DamagedIsNone)];
    c13_fails: "C13" c13_check_writes_nothing => [Memory::new(CheckWrites), Memory::new(CheckFindsErrors)];
    c14_fails: "C14" c14_an_unreachable_store_is_transient =>
        [Memory::new(UnreachableIsNone), Memory::new(UnreachableIsOperator)];
}
