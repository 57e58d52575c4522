//! The routes of a plan, as `oplogue check` shows them, and where the routes of a group stand.

use std::fmt::Write as _;

use oplogue_api::{Finding, Position};

use super::{check::store, position::span};
use crate::config::{ChoicePlan, Plan, RoutePlan};

/// Routes of a group that stand farther apart than this, in seconds, are worth a warning.
const APART: u32 = 60;

/// A line for each route, those of a group together, in the order in which they are asked.
pub fn of(plan: &Plan) -> String {
    let mut out = String::new();
    let groups = groups(plan);
    for route in &plan.routes {
        let Some(name) = group(route) else {
            let _ = writeln!(out, "  {}", line(route));
            continue;
        };
        let Some((_, routes)) = groups.iter().find(|(group, _)| *group == name) else { continue };
        if routes.first().is_none_or(|first| first.name != route.name) {
            continue;
        }
        let none = if routes.iter().any(|route| is_default(route)) { "" } else { ", to none if none does" };
        let _ = writeln!(out, "  group {name}: each event to the first that takes it{none}");
        for route in routes {
            let _ = writeln!(out, "    {}", line(route));
        }
    }
    out
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
    const HINT: &str = "events between their positions go to two routes, or to none, if the group is changed now: see \"Changing a group\" \
                        in docs/routing.md";
    let mut places: Vec<(String, Position)> = Vec::new();
    let mut new = Vec::new();
    for route in routes {
        let loaded = match store(&route) {
            Ok((store, _)) => store.load(&route.name).await,
            Err(e) => Err(e),
        };
        match loaded {
            Ok(Some(checkpoint)) => places.push((route.name, checkpoint.position)),
            Ok(None) => new.push(route.name),
            Err(e) => return vec![e.into()],
        }
    }
    places.sort_by_key(|(_, position)| position.time);
    let [(last, behind), .., (first, ahead)] = places.as_slice() else {
        return vec![match (places.first(), new.first()) {
            (Some((old, _)), Some(new)) => joins(new, old),
            _ => Finding::ok("no route has begun"),
        }];
    };
    if let Some(new) = new.first() {
        return vec![joins(new, first)];
    }
    let apart = ahead.time.time.saturating_sub(behind.time.time);
    let seconds = span(apart.into());
    vec![match apart > APART {
        true => Finding::warning(format!("{last} stands {seconds} behind {first}"), HINT),
        false => Finding::ok(format!("all routes stand within {seconds}")),
    }]
}

fn joins(new: &str, old: &str) -> Finding {
    Finding::warning(
        format!("{new} has no checkpoint, and {old} has one: the group has been changed"),
        "what it takes between that checkpoint and the `start` of its source goes to no route: see \"Changing a group\" in docs/routing.md",
    )
}
