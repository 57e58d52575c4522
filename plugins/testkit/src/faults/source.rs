use oplogue_api::{Batch, Finding, Interest, Position, Result, Share, Source, StartAt, Supply, async_trait};

use super::{Fault, Schedule, schedule::lost_reply};

/// A source whose `open` and `next` go wrong as scheduled: each of them draws. Everything else is the inner source's.
pub struct FaultySource {
    inner: Box<dyn Source>,
    schedule: Schedule,
    /// A call failed, and the source has not been opened since.
    broken: bool,
}

impl FaultySource {
    /// Wraps a source.
    pub fn new(inner: Box<dyn Source>, schedule: Schedule) -> FaultySource {
        FaultySource { inner, schedule, broken: false }
    }
}

#[async_trait]
impl Source for FaultySource {
    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        let fault = self.schedule.before("open").await?;
        let position = self.inner.open(from, interest).await?;
        if let Some(Fault::FailAfterWrite(kind)) = fault {
            self.broken = true;
            return Err(lost_reply(kind, "open"));
        }
        self.broken = false;
        Ok(position)
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        if self.broken {
            return Err(oplogue_api::Error::bug("`next` of a source that failed and was not opened again"));
        }
        let fault = match self.schedule.before("next").await {
            Ok(fault) => fault,
            Err(e) => {
                // As with a real source: behind an error there is nothing until it is opened again.
                self.broken = true;
                return Err(e);
            }
        };
        let batch = self.inner.next().await?;
        if let Some(Fault::FailAfterWrite(kind)) = fault {
            self.broken = true;
            return Err(lost_reply(kind, "next"));
        }
        Ok(batch)
    }

    fn supply(&self) -> Supply {
        self.inner.supply()
    }

    fn shares(&self, interest: &Interest) -> Vec<Share> {
        self.inner.shares(interest)
    }

    async fn committed(&mut self, upto: &Position) -> Result<()> {
        self.inner.committed(upto).await
    }

    async fn check(&mut self) -> Vec<Finding> {
        self.inner.check().await
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}
