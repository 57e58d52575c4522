//! Tests of a configuration: what a route makes of given events.

mod case;
mod diff;

use std::sync::{Arc, Mutex, PoisonError};

use oplogue_api::{Error, Event, Finding, Ordering, Position, Result, Sink, Written, async_trait};

use case::Expect;
pub use case::{Case, Cases};

use crate::{
    config::{Plan, RoutePlan},
    replay::{Captured, Lane},
};

/// Reads a file of cases.
///
/// # Errors
/// `Operator`, with line and column.
pub fn parse(text: &str) -> Result<Cases> {
    let cases: Cases = toml::from_str(text).map_err(|e| Error::operator(e.to_string().trim_end().to_owned()))?;
    if cases.case.is_empty() {
        return Err(Error::operator("there are no cases").hint("write them as [[case]] tables: see docs/testing.md"));
    }
    Ok(cases)
}

/// Runs a case. The differences; none: it holds.
///
/// # Errors
/// `Operator` where the case itself is wrong; whatever a transform fails with.
pub async fn run(case: &Case, plan: &Plan) -> Result<Vec<String>> {
    let mut input = Vec::new();
    for (n, table) in case.input.iter().enumerate() {
        let event = case::event(table, n).map_err(|e| e.at(format_args!("input {}", n + 1)))?;
        input.push(Captured::new(event));
    }
    let routes: Vec<&RoutePlan> =
        plan.routes.iter().filter(|route| case.source.as_ref().is_none_or(|name| route.source.name == *name)).collect();
    if routes.is_empty() {
        return Err(Error::operator("no route reads the source of the case").hint("correct `source`, or leave it out"));
    }
    for expect in &case.expect {
        expect.route(&routes)?;
    }
    let mut differences = Vec::new();
    for route in &routes {
        let collected = Arc::new(Collected::default());
        let mut lane = Lane::open(route, Some(Arc::clone(&collected) as Arc<dyn Sink>), None).await?;
        lane.pass(&input).await?;
        let came = std::mem::take(&mut *collected.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut place = route.sink.name.clone();
        if routes.iter().filter(|other| other.sink.name == place).count() > 1 {
            place = route.name.clone();
        }
        match case.expect.iter().find(|expect| expect.is_of(route)) {
            Some(expect) => compare(&mut differences, &place, expect, &came, &lane)?,
            // What is not mentioned is not looked at; a case without any expectation expects nothing anywhere.
            None if case.expect.is_empty() && !came.is_empty() => {
                differences.push(format!("{place}: expected no event, {} came", came.len()));
            }
            None => {}
        }
    }
    Ok(differences)
}

impl Expect {
    fn is_of(&self, route: &RoutePlan) -> bool {
        self.sink == route.sink.name && self.route.as_ref().is_none_or(|name| *name == route.name)
    }

    /// That there is exactly one route for it.
    fn route(&self, routes: &[&RoutePlan]) -> Result<()> {
        let found: Vec<_> = routes.iter().filter(|route| self.is_of(route)).map(|route| route.name.as_str()).collect();
        match found.len() {
            1 => Ok(()),
            0 => Err(Error::operator(format!("no route leads to the sink `{}`", self.sink))
                .hint("correct `sink` (and `route`) of the expectation")),
            _ => Err(Error::operator(format!("several routes lead to the sink `{}`: {}", self.sink, found.join(", ")))
                .hint("add route = \"…\" to the expectation")),
        }
    }
}

fn compare(all: &mut Vec<String>, place: &str, expect: &Expect, came: &[Event], lane: &Lane) -> Result<()> {
    for n in 0..expect.events.len().max(came.len()) {
        let at = format!("{place}, event {}", n + 1);
        let expected =
            expect.events.get(n).map(case::expected).transpose().map_err(|e| e.at(format_args!("expected of {at}")))?;
        let shown = came.get(n).map(case::shown).transpose()?;
        match (expected, shown) {
            (Some(expected), Some(shown)) => {
                all.extend(diff::event(&expected, &shown).into_iter().map(|one| format!("{at}: {one}")));
            }
            (Some(expected), None) => all.push(format!("{at}: expected {expected}, nothing came")),
            (None, Some(shown)) => all.push(format!("{at}: expected nothing, came {shown}")),
            (None, None) => {}
        }
    }
    if lane.report.refused != expect.refused {
        let why = lane.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        all.push(format!("{place}: expected {} refused events, {} were{why}", expect.refused, lane.report.refused));
    }
    Ok(())
}

/// A sink that keeps what it gets.
#[derive(Default)]
struct Collected(Mutex<Vec<Event>>);

#[async_trait]
impl Sink for Collected {
    fn ordering(&self) -> Ordering {
        Ordering::Total
    }
    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(events);
        Ok(Written::default())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}
