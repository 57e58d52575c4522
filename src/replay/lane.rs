//! One route, without its source: chain and sink.

use std::{sync::Arc, time::Duration};

use oplogue_api::{Batch, Checkpoint, Context, Error, ErrorKind, Event, Ordering, Position, Result, Sink, Transform};

use super::input::{Captured, Stage};
use crate::{
    config::{RoutePlan, plan::WHEN},
    engine::{backoff::Backoff, bad::Rejected, choice},
};

/// The first waits are short, the last ones are long: some minutes in all.
const TRIES: u32 = 12;

/// What became of the events of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub read: u64,
    pub delivered: u64,
    /// The sink has no use for them, or has them.
    pub ignored: u64,
    pub filtered: u64,
    pub refused: u64,
}

/// Where the events go.
pub enum To {
    /// To the sink of the route.
    Sink(Arc<dyn Sink>),
    /// To one that shows what would be delivered.
    Shown(Arc<dyn Sink>),
}

/// See the module.
pub struct Lane {
    route: String,
    chain: Vec<(String, Box<dyn Transform>)>,
    to: To,
    /// Where those go that are refused again.
    left: Option<Arc<dyn Sink>>,
    pub report: Report,
    /// Why the first was refused.
    pub why: Option<String>,
}

impl Lane {
    /// Builds chain and sink. `shown`: in place of the sink.
    ///
    /// # Errors
    /// As the plugins do; `Operator` for a sink that keeps transactions and position together.
    pub async fn open(plan: &RoutePlan, shown: Option<Arc<dyn Sink>>, left: Option<Arc<dyn Sink>>) -> Result<Lane> {
        let name = format!("{} (replay)", plan.name);
        let context = |table: &str| Context { route: Some(name.clone()), replay: true, ..plan.context(table) };
        let to = match shown {
            Some(sink) => To::Shown(sink),
            None => {
                let sink = plan.sink.build(&context(&plan.sink.name))?;
                if sink.whole_transactions() {
                    return Err(Error::operator(format!(
                        "the sink of the route `{}` cannot be replayed to: it commits its position with the data",
                        plan.name
                    ))
                    .hint("use its own tool: `oplogue conflicts redrive`; or --dry-run, to see what would go to it"));
                }
                sink.open().await?;
                claim(&*sink, &name).await?;
                To::Sink(sink)
            }
        };
        let chain = choice::chain(plan, &context(&plan.sink.name))?;
        Ok(Lane { route: plan.name.clone(), chain, to, left, report: Report::default(), why: None })
    }

    pub fn route(&self) -> &str {
        &self.route
    }

    /// Replays events, in their order.
    pub async fn pass(&mut self, all: &[Captured]) -> Result<()> {
        let mut rest = all;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|one| one.stage == first.stage && one.route == first.route).count();
            let events: Vec<Event> = rest[..run].iter().map(|one| one.event.clone()).collect();
            self.report.read += run as u64;
            let events = self.transform(events, first).await?;
            self.deliver(events).await?;
            rest = &rest[run..];
        }
        Ok(())
    }

    /// Passes events with the stage of `first` through their part of the chain.
    async fn transform(&mut self, events: Vec<Event>, first: &Captured) -> Result<Vec<Event>> {
        let is_own = first.route.as_ref().is_none_or(|route| *route == self.route);
        let range = match &first.stage {
            Stage::Chain => 0..self.chain.len(),
            Stage::Sink => 0..0,
            // Edited for another route, and not for this one.
            Stage::Transform(by) if by == WHEN && !is_own => 0..self.chain.len(),
            // The route takes everything now.
            Stage::Transform(by) if by == WHEN && self.chain.first().is_none_or(|(name, _)| name != WHEN) => 0..0,
            Stage::Transform(by) => {
                let place = self.chain.iter().position(|(name, _)| name == by).ok_or_else(|| {
                    Error::operator(format!(
                        "the route `{}` has no transform `{by}`, which refused an event",
                        self.route
                    ))
                    .hint("put it back into `via`, mended, or an empty one of its name")
                })?;
                place..place + 1
            }
        };
        let Some(last) = events.last() else { return Ok(events) };
        let end = Position::at(last.time);
        let bytes = events.iter().map(Event::size).sum();
        let mut batch = Batch { head: end.time, end, bytes, events, bad: Vec::new() };
        for n in range {
            let before = batch.events.len() + batch.bad.len();
            let (name, transform) = &mut self.chain[n];
            let mut backoff = Backoff::new();
            while let Err(e) = transform.prepare(&batch).await {
                patience(e, &mut backoff).await?;
            }
            transform.apply(&mut batch)?;
            for bad in batch.bad.iter_mut().filter(|bad| bad.by.is_none()) {
                bad.by = Some(name.clone());
            }
            self.report.filtered += before.saturating_sub(batch.events.len() + batch.bad.len()) as u64;
        }
        for bad in &batch.bad {
            self.refuse(Rejected::from(bad)).await?;
        }
        Ok(batch.events)
    }

    async fn deliver(&mut self, mut events: Vec<Event>) -> Result<()> {
        let mut backoff = Backoff::new();
        while let Some(last) = events.last() {
            let (To::Sink(sink) | To::Shown(sink)) = &self.to;
            let sink = Arc::clone(sink);
            let end = Position::at(last.time);
            let upto = (sink.ordering() == Ordering::Total).then_some(&end);
            let written = match sink.write(&events, upto).await {
                Ok(written) => written,
                Err(e) => {
                    patience(e, &mut backoff).await?;
                    let _ = sink.open().await;
                    continue;
                }
            };
            let failed = written.failed.len();
            let spared = written.ignored + written.duplicates;
            self.report.ignored += spared;
            self.report.delivered += ((events.len() - failed) as u64).saturating_sub(spared);
            let mut again = Vec::new();
            let mut last_error = None;
            for one in written.failed {
                let event = &events[one.index];
                if one.error.kind() == ErrorKind::Data {
                    self.refuse(Rejected::event(event, &one.error)).await?;
                } else {
                    again.push(event.clone());
                    last_error = Some(one.error);
                }
            }
            if again.len() == events.len()
                && let Some(e) = last_error
            {
                patience(e, &mut backoff).await?;
            }
            events = again;
        }
        Ok(())
    }

    async fn refuse(&mut self, rejected: Rejected<'_>) -> Result<()> {
        self.report.refused += 1;
        self.why.get_or_insert_with(|| rejected.error.to_string());
        let Some(left) = &self.left else { return Ok(()) };
        let written = left.write(&[rejected.letter(&self.route)], None).await?;
        match written.failed.into_iter().next() {
            Some(failed) => Err(failed.error),
            None => Ok(()),
        }
    }

    /// Lets go of the sink, and of what it keeps for the replay.
    pub async fn close(&self) -> Result<()> {
        if let To::Sink(sink) = &self.to {
            if let Some(store) = sink.checkpoints() {
                store.reset(&format!("{} (replay)", self.route), None).await?;
            }
            sink.close().await?;
        }
        Ok(())
    }
}

/// A sink with a store of its own writes nothing before its route has a position there.
async fn claim(sink: &dyn Sink, route: &str) -> Result<()> {
    let Some(store) = sink.checkpoints() else { return Ok(()) };
    store.reset(route, None).await?;
    store.load(route).await?;
    let position = Position::at(oplogue_api::bson::Timestamp { time: 1, increment: 1 });
    store.save(route, &Checkpoint { position, generation: 1 }).await.map(|_| ())
}

async fn patience(e: Error, backoff: &mut Backoff) -> Result<()> {
    if e.kind() != ErrorKind::Transient || backoff.tries() >= TRIES {
        return Err(e);
    }
    let wait: Duration = backoff.next_wait();
    tracing::warn!(error = %e, "trying again");
    tokio::time::sleep(wait).await;
    Ok(())
}
