use std::sync::Arc;

use oplogue_api::{Checkpoint, CheckpointStore, Finding, Position, Result, Saved, async_trait};

use super::{Fault, Schedule, schedule::lost_reply};

/// A checkpoint store whose `load` and `save` go wrong as scheduled: each of them draws.
pub struct FaultyStore {
    inner: Arc<dyn CheckpointStore>,
    schedule: Schedule,
}

impl FaultyStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn CheckpointStore>, schedule: Schedule) -> FaultyStore {
        FaultyStore { inner, schedule }
    }
}

#[async_trait]
impl CheckpointStore for FaultyStore {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        let fault = self.schedule.before("load").await?;
        let loaded = self.inner.load(route).await?;
        match fault {
            Some(Fault::FailAfterWrite(kind)) => Err(lost_reply(kind, "load")),
            _ => Ok(loaded),
        }
    }

    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let fault = self.schedule.before("save").await?;
        let saved = self.inner.save(route, checkpoint).await?;
        match fault {
            Some(Fault::FailAfterWrite(kind)) => Err(lost_reply(kind, "save")),
            _ => Ok(saved),
        }
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        self.inner.reset(route, position).await
    }

    async fn check(&self) -> Vec<Finding> {
        self.inner.check().await
    }
}
