//! The routes of a plan, as `oplogue check` shows them, and where the routes of a group stand.

use std::fmt::Write as _;

use oplogue_api::{Finding, Result};

use super::{
    check::{shares, store},
    position::span,
};
use crate::config::{ChoicePlan, Plan, RoutePlan};

/// Routes of a group that stand farther apart than this, in seconds, are worth a warning.
const APART: u32 = 60;

/// A line for each route, those of a group together, in the order in which they are asked.
///
/// # Errors
/// What the plugins say of their options.
pub fn of(plan: &Plan) -> Result<String> {
    let mut out = String::new();
    let groups = groups(plan);
    for route in &plan.routes {
        let Some(name) = group(route) else {
            write_route(&mut out, route, "  ")?;
            continue;
        };
        let Some((_, routes)) = groups.iter().find(|(group, _)| *group == name) else { continue };
        if routes.first().is_none_or(|first| first.name != route.name) {
            continue;
        }
        let none = if routes.iter().any(|route| is_default(route)) { "" } else { ", to none if none does" };
        let _ = writeln!(out, "  group {name}: each event to the first that takes it{none}");
        for route in routes {
            write_route(&mut out, route, "    ")?;
        }
    }
    Ok(out)
}

/// A route, and below it who evaluates its filters.
fn write_route(out: &mut String, route: &RoutePlan, indent: &str) -> Result<()> {
    let _ = writeln!(out, "{indent}{}", line(route));
    for share in shares(route)? {
        let _ = writeln!(out, "{indent}  {share}");
    }
    Ok(())
}

/// The groups, in the order of the file, each with its routes in the order in which they are asked.
pub fn groups(plan: &Plan) -> Vec<(&str, Vec<&RoutePlan>)> {
    let mut groups: Vec<(&str, Vec<&RoutePlan>)> = Vec::new();
    for route in &plan.routes {
        let Some(name) = group(route) else { continue };
        match groups.iter_mut().find(|(group, _)| *group == name) {
            Some((_, routes)) => routes.push(route),
            None => groups.push((name, vec![route])),
        }
    }
    for (_, routes) in &mut groups {
        routes.sort_by_key(|route| is_default(route));
    }
    groups
}

fn group(route: &RoutePlan) -> Option<&str> {
    route.choice.as_ref()?.group.as_deref()
}

fn is_default(route: &RoutePlan) -> bool {
    route.choice.as_ref().is_some_and(|choice| choice.when.is_none())
}

/// `name: factory (mongo-oplog) -> when namespaces, after -> app, no-pii -> meteor (redis-oplog)`.
fn line(route: &RoutePlan) -> String {
    let choice = match &route.choice {
        None => String::new(),
        Some(ChoicePlan { when: None, .. }) => " -> the rest".to_owned(),
        Some(ChoicePlan { when: Some(when), .. }) => {
            let options: Vec<&str> = when.options.table().keys().map(String::as_str).collect();
            format!(" -> when {}", options.join(", "))
        }
    };
    let via: String = match route.via.as_slice() {
        [] => String::new(),
        via => format!(" -> {}", via.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ")),
    };
    format!(
        "{}: {} ({}){choice}{via} -> {} ({})",
        route.name, route.source.name, route.source.kind, route.sink.name, route.sink.kind
    )
}

/// Where the routes of a group stand: while they stand apart, a change of the group may send an event to two of them, or to none.
pub async fn positions(routes: Vec<RoutePlan>) -> Vec<Finding> {
    let mut places = Vec::new();
    for route in routes {
        let loaded = match store(&route) {
            Ok((store, _)) => store.load(&route.name).await,
            Err(e) => Err(e),
        };
        match loaded {
            Ok(checkpoint) => places.push((route.name, checkpoint.map(|c| c.position.time.time))),
            Err(e) => return vec![e.into()],
        }
    }
    vec![compare(&places)]
}

/// By route, the seconds of its checkpoint.
fn compare(places: &[(String, Option<u32>)]) -> Finding {
    let known = || places.iter().filter_map(|(name, place)| Some((name, (*place)?)));
    let (Some((last, behind)), Some((first, ahead))) = (known().min_by_key(|p| p.1), known().max_by_key(|p| p.1))
    else {
        return Finding::ok("no route has begun");
    };
    if let Some((new, _)) = places.iter().find(|(_, place)| place.is_none()) {
        return Finding::warning(
            format!("{new} has no checkpoint, and {first} has one: the group has been changed"),
            "what belongs to it, between that checkpoint and the `start` of its source, goes to no route: see \"Changing a group\" \
             in docs/routing.md",
        );
    }
    let apart = span((ahead - behind).into());
    match ahead - behind > APART {
        true => Finding::warning(
            format!("{last} stands {apart} behind {first}"),
            "events between these places go to two routes, or to none, if the group is changed now: see \"Changing a group\" in \
             docs/routing.md",
        ),
        false => Finding::ok(format!("all routes stand within {apart}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_stand_apart_are_told_of() {
        let told = |places: &[Option<u32>]| {
            let names = ["a", "b", "c"].map(str::to_owned);
            compare(&names.into_iter().zip(places.iter().copied()).collect::<Vec<_>>()).what
        };
        assert_eq!(told(&[None, None]), "no route has begun");
        assert_eq!(told(&[Some(100), Some(160), Some(130)]), "all routes stand within 1m 0s");
        assert_eq!(told(&[Some(100), Some(30), Some(91)]), "b stands 1m 10s behind a");
        assert!(told(&[Some(100), None, Some(30)]).starts_with("b has no checkpoint, and a has one"));
    }
}
