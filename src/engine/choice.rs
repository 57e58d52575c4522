//! Which events of its source are a route's own: its `when`, and those of the routes before it in its group.
//!
//! Each route of a group decides for itself, at its own position, so the decision is a function of the event alone (T5): all come to the
//! same answer, whenever they read it.

use bson::Timestamp;
use oplogue_api::{
    BadEvent, Batch, Context, Doc, Error, Event, MARKERS, Op, Position, Result, Selection, Transform, TransformBuild,
};

use crate::config::{ChoicePlan, Node, RoutePlan, plan::WHEN};

/// What the events of a route pass, in order: its choice, then `via`. Built with `context`, each under its own name.
///
/// # Errors
/// As the plugins do.
pub(crate) fn chain(plan: &RoutePlan, context: &Context) -> Result<Vec<(String, Box<dyn Transform>)>> {
    let mut chain: Vec<(String, Box<dyn Transform>)> = Vec::new();
    if let Some(choice) = &plan.choice {
        chain.push((WHEN.to_owned(), Box::new(Choice::new(choice, context)?)));
    }
    for node in &plan.via {
        chain.push((node.name.clone(), node.build(&Context { name: node.name.clone(), ..context.clone() })?));
    }
    Ok(chain)
}

/// Leaves to the route what it takes.
struct Choice {
    before: Vec<When>,
    own: Option<When>,
}

/// What one `when` says of an event.
enum Verdict {
    Takes,
    Leaves,
    /// It cannot tell. The route of that `when` takes the event, as a bad one.
    Fails(Error),
}

impl Choice {
    fn new(plan: &ChoicePlan, context: &Context) -> Result<Choice> {
        let when = |node| When::new(node, context);
        Ok(Choice {
            before: plan.before.iter().map(when).collect::<Result<_>>()?,
            own: plan.when.as_ref().map(when).transpose()?,
        })
    }

    fn verdict(&mut self, event: &Event) -> Result<Verdict> {
        // Trouble is told to everybody; and a sink that asks its source for markers needs each of them.
        if matches!(event.op, Op::Gap | Op::DeadLetter) || event.ns.as_str() == MARKERS {
            return Ok(Verdict::Takes);
        }
        for when in &mut self.before {
            let is_theirs = match event.op.is_barrier() {
                // It concerns every route that may have documents of the collection.
                true => when.takes_whole(event)?,
                false => !matches!(when.verdict(event)?, Verdict::Leaves),
            };
            if is_theirs {
                return Ok(Verdict::Leaves);
            }
        }
        self.own.as_mut().map_or(Ok(Verdict::Takes), |when| when.verdict(event))
    }

    /// Whether an entry that the source could not decode is this route's trouble.
    fn takes_bad(&mut self, bad: &BadEvent) -> Result<bool> {
        for when in &mut self.before {
            if when.takes_bad(bad)? {
                return Ok(false);
            }
        }
        self.own.as_mut().map_or(Ok(true), |when| when.takes_bad(bad))
    }
}

impl Transform for Choice {
    /// What its own `when` lets through. Those before it only take away.
    fn selection(&self) -> Option<Selection> {
        let own = self.own.as_ref().map(|when| when.filter.selection());
        let mut selection = own.unwrap_or_else(|| Some(Selection::default()))?;
        selection.here.extend((!self.before.is_empty()).then_some("other routes"));
        Some(selection)
    }

    fn asks_origin(&self) -> bool {
        self.before.iter().chain(&self.own).any(|when| when.filter.asks_origin())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let mut given = std::mem::take(&mut batch.bad).into_iter().peekable();
        let events = std::mem::take(&mut batch.events);
        let mut kept = Vec::with_capacity(events.len());
        for (place, event) in events.into_iter().enumerate() {
            while let Some(bad) = given.next_if(|bad| bad.before <= place) {
                if self.takes_bad(&bad)? {
                    batch.bad.push(BadEvent { before: kept.len(), ..bad });
                }
            }
            match self.verdict(&event)? {
                Verdict::Takes => kept.push(event),
                Verdict::Leaves => {}
                Verdict::Fails(error) => batch.bad.push(BadEvent::refused(kept.len(), event, error)),
            }
        }
        for bad in given {
            if self.takes_bad(&bad)? {
                batch.bad.push(BadEvent { before: kept.len(), ..bad });
            }
        }
        batch.events = kept;
        Ok(())
    }
}

/// A transform that chooses, asked about one event at a time: how events are cut into batches changes nothing (T5).
struct When {
    filter: Box<dyn Transform>,
    batch: Batch,
    /// It goes by namespaces alone, so that what it takes of a collection is all of it.
    is_whole: bool,
}

impl When {
    fn new(node: &Node<TransformBuild>, context: &Context) -> Result<When> {
        let time = Timestamp { time: 0, increment: 0 };
        let end = Position { token: Doc::empty(), time };
        Ok(When {
            filter: node.build(&Context { name: node.name.clone(), ..context.clone() })?,
            batch: Batch { events: Vec::with_capacity(1), bad: Vec::new(), end, head: time, bytes: 0 },
            is_whole: node.options.table().keys().all(|option| option == "namespaces"),
        })
    }

    fn verdict(&mut self, event: &Event) -> Result<Verdict> {
        self.batch.events.clear();
        self.batch.bad.clear();
        self.batch.events.push(event.clone());
        self.filter.apply(&mut self.batch)?;
        Ok(match (self.batch.events.pop(), self.batch.bad.pop()) {
            (Some(_), _) => Verdict::Takes,
            (None, Some(bad)) => Verdict::Fails(bad.error),
            (None, None) => Verdict::Leaves,
        })
    }

    /// Whether a barrier concerns no document that this one does not take.
    fn takes_whole(&mut self, barrier: &Event) -> Result<bool> {
        if !self.is_whole || barrier.ns.coll().is_empty() {
            return Ok(false);
        }
        let mut one = Event { to: None, ..barrier.clone() };
        let mut takes = matches!(self.verdict(&one)?, Verdict::Takes);
        if let Some(to) = &barrier.to {
            one.ns = to.clone();
            takes &= matches!(self.verdict(&one)?, Verdict::Takes);
        }
        Ok(takes)
    }

    fn takes_bad(&mut self, bad: &BadEvent) -> Result<bool> {
        self.batch.events.clear();
        self.batch.bad.clear();
        let error = Error::data("an entry that could not be decoded");
        self.batch.bad.push(BadEvent::undecodable(0, bad.time, bad.ns.clone(), Doc::empty(), error));
        self.filter.apply(&mut self.batch)?;
        Ok(!self.batch.bad.is_empty())
    }
}

#[cfg(test)]
mod tests;
