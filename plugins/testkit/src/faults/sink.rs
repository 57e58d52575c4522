use std::sync::Arc;

use oplogue_api::{
    CheckpointStore, Error, Event, Failed, Finding, Interest, Ordering, Position, Result, Sink, Written, async_trait,
};

use super::{Fault, Schedule, schedule::lost_reply};

/// A sink whose `write` goes wrong as scheduled. Everything else is the inner sink's.
pub struct FaultySink {
    inner: Arc<dyn Sink>,
    schedule: Schedule,
}

impl FaultySink {
    /// Wraps a sink.
    pub fn new(inner: Arc<dyn Sink>, schedule: Schedule) -> FaultySink {
        FaultySink { inner, schedule }
    }
}

#[async_trait]
impl Sink for FaultySink {
    fn ordering(&self) -> Ordering {
        self.inner.ordering()
    }

    fn max_batch(&self) -> Option<usize> {
        self.inner.max_batch()
    }

    fn interest(&self) -> Interest {
        self.inner.interest()
    }

    fn whole_transactions(&self) -> bool {
        self.inner.whole_transactions()
    }

    async fn open(&self) -> Result<()> {
        self.inner.open().await
    }

    async fn begin(&self, from: &Position) -> Result<()> {
        self.inner.begin(from).await
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        match self.schedule.before("write").await? {
            Some(Fault::FailAfterWrite(kind)) => {
                self.inner.write(events, upto).await?;
                Err(lost_reply(kind, "write"))
            }
            // The rest, all of it, is reported: whatever key failed, so did every later event of it. `upto` is not
            // reached, so the inner sink must not hear of it.
            Some(Fault::PartialAt(k)) if k < events.len() => {
                let mut written = self.inner.write(&events[..k], None).await?;
                let rest = (k..events.len())
                    .map(|index| Failed { index, error: Error::transient("injected failure of a part of a write") });
                written.failed.extend(rest);
                Ok(written)
            }
            _ => self.inner.write(events, upto).await,
        }
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        self.inner.checkpoints()
    }

    async fn check(&self) -> Vec<Finding> {
        self.inner.check().await
    }
}
