use oplogue_api::{Batch, Finding, Footprint, Result, Selection, Transform, async_trait};

use super::{
    Fault, Schedule,
    schedule::{lost_reply, reject},
};

/// A transform whose `apply` goes wrong as scheduled. It cannot wait: `Hold` and `Slow` are no faults here.
pub struct FaultyTransform {
    inner: Box<dyn Transform>,
    schedule: Schedule,
}

impl FaultyTransform {
    /// Wraps a transform.
    pub fn new(inner: Box<dyn Transform>, schedule: Schedule) -> FaultyTransform {
        FaultyTransform { inner, schedule }
    }
}

#[async_trait]
impl Transform for FaultyTransform {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        self.inner.prepare(batch).await
    }
    async fn check(&mut self) -> Vec<Finding> {
        self.inner.check().await
    }

    fn selection(&self) -> Option<Selection> {
        self.inner.selection()
    }

    fn footprint(&self) -> Footprint {
        self.inner.footprint()
    }

    fn asks_origin(&self) -> bool {
        self.inner.asks_origin()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        match self.schedule.draw() {
            Some(Fault::Reject(kind)) => Err(reject(kind, "apply")),
            Some(Fault::Panic) => panic!("injected panic in apply"),
            Some(Fault::FailAfterWrite(kind)) => {
                self.inner.apply(batch)?;
                Err(lost_reply(kind, "apply"))
            }
            _ => self.inner.apply(batch),
        }
    }
}
