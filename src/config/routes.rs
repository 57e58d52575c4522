//! `[[routes]]`: each table comes to one route for every pair of a source and a sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

use oplogue_api::{Error, Field, FieldType, Options, Registry, SinkBuild, SourceBuild, StoreBuild, TransformBuild};
use toml::de::{DeTable, DeValue};

use super::{
    CheckpointPlan, DenylistPlan, Node, OnBadEvent, OnPositionLost, RoutePlan,
    fields::{Checked, Text, check, did_you_mean, kind_name, listing},
    groups::{self, Member},
    nodes::{NAME_RULE, Nodes, is_name},
    report::Report,
    settings::{Settings, between},
};

pub(super) static ROUTE: [Field; 14] = [
    Field::new("name", FieldType::String, "The route's name; `<source>-><sink>` when absent."),
    Field::new("from", FieldType::Strings, "The sources.").required(),
    Field::new("via", FieldType::Strings, "The transforms that events pass, in order.").default("[]"),
    Field::new("to", FieldType::Strings, "The sinks.").required(),
    Field::new("checkpoint", FieldType::String, "Where the checkpoint is kept: \"sink\", or the type of a store.")
        .default("\"sink\""),
    Field::new(
        "on_position_lost",
        FieldType::OneOf(&["stop", "from-now"]),
        "What happens when the source does not have the place to resume from any more.",
    )
    .default("\"stop\""),
    Field::new(
        "max_catch_up",
        FieldType::Duration,
        "A checkpoint older than this when oplogue starts is not caught up with: the route goes on from now, with a gap.",
    ),
    Field::new(
        "on_bad_event",
        FieldType::OneOf(&["stop", "dead-letter", "skip"]),
        "What happens with an event that cannot be decoded, transformed or delivered.",
    )
    .default("\"stop\""),
    Field::new("dead_letter", FieldType::String, "The sink of bad events, for on_bad_event = \"dead-letter\"."),
    Field::new("max_in_flight", FieldType::Size, "How many bytes may be between source and sink.").default("\"4MiB\""),
    Field::new("lanes", FieldType::Integer, "How many lanes write to the sink at the same time, 1 to 64.").default("4"),
    Field::new("group", FieldType::String, "The group of routes of which one takes an event: the first that wants it."),
    Field::new("default", FieldType::Bool, "Whether the route takes what no other route of its group takes.")
        .default("false"),
    WHEN,
];

/// Read by [`groups`].
const WHEN: Field = Field::new(
    "when",
    FieldType::Any,
    "Which events the route takes: the options of a filter, asked in front of `via`.",
);

/// Less could not hold the events of one small reply, and more is not counted by the byte window.
const IN_FLIGHT: RangeInclusive<u64> = 64 << 10..=4 << 30;

/// All that routes refer to.
pub(super) struct Parts<'r> {
    pub registry: &'r Registry,
    pub sources: Nodes<SourceBuild>,
    pub transforms: Nodes<TransformBuild>,
    pub sinks: Nodes<SinkBuild>,
    pub stores: Nodes<StoreBuild>,
}

/// What the routes of one table have in common. `None` where something is wrong, which is told.
struct Shared<'c> {
    checked: &'c Checked,
    via: Vec<Option<Node<TransformBuild>>>,
    checkpoint: Option<CheckpointPlan>,
    on_bad_event: Option<OnBadEvent>,
}

pub(super) fn read(
    report: &mut Report<'_>,
    root: &DeTable<'_>,
    parts: &mut Parts<'_>,
    settings: &Settings,
) -> Vec<RoutePlan> {
    let mut routes = Vec::new();
    let Some((key, value)) = root.get_key_value("routes") else {
        if !report.is_broken() {
            report.remark("there are no routes, so nothing would run", Some("add a `[[routes]]` table".into()));
        }
        return routes;
    };
    let DeValue::Array(tables) = value.get_ref() else {
        report.hide(value);
        report.error(
            &key.span(),
            "`routes` must be a list of tables",
            Some("write `[[routes]]`, with two brackets".into()),
        );
        return routes;
    };
    // Where each name, and each pair with its chain, was seen first.
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut chains: BTreeMap<(String, String, Vec<String>), String> = BTreeMap::new();
    // What each table takes, and of which table each route is.
    let mut members = Vec::new();
    let mut tables_of = Vec::new();
    for element in tables.iter() {
        let DeValue::Table(table) = element.get_ref() else {
            let found = kind_name(element.get_ref());
            report.hide(element);
            report.error(
                &element.span(),
                format!("a route is a table, not {found}"),
                Some("write `[[routes]]`".into()),
            );
            continue;
        };
        let head = element.span();
        let checked = check(report, table, &ROUTE[..ROUTE.len() - 1], &[WHEN.name], "the route", &head);
        limits(report, &checked);
        let name = checked.text("name").cloned();
        if let Some(name) = &name
            && !is_name(&name.value)
        {
            report.error(
                &name.span,
                format!("`{}` cannot be the name of a route", name.written),
                Some(NAME_RULE.into()),
            );
        }
        let from = listed(report, &checked, "from");
        let to = listed(report, &checked, "to");
        members.push(Member::read(report, table, &checked, &head, &from, parts, &settings.state_dir));
        let sources: Vec<_> = from
            .iter()
            .map(|t| (t, find(report, t, "from", &mut parts.sources, &parts.transforms, &parts.sinks)))
            .collect();
        let via = checked.texts("via").to_vec();
        let shared = Shared {
            checked: &checked,
            via: via
                .iter()
                .map(|t| find(report, t, "via", &mut parts.transforms, &parts.sources, &parts.sinks))
                .collect(),
            checkpoint: checkpoint(report, &checked, parts),
            on_bad_event: on_bad_event(report, &checked, parts, &to),
        };
        let sinks: Vec<_> = to
            .iter()
            .map(|t| (t, find(report, t, "to", &mut parts.sinks, &parts.sources, &parts.transforms)))
            .collect();
        for (from, source) in &sources {
            for (to, sink) in &sinks {
                let is_alone = sources.len() * sinks.len() == 1;
                let full = route_name(name.as_ref().map(|n| n.value.as_str()), &from.value, &to.value, is_alone);
                // What a variable holds is not told.
                let written =
                    route_name(name.as_ref().map(|n| n.written.as_str()), &from.written, &to.written, is_alone);
                if let Some(line) = names.get(&full) {
                    let (span, help) = match &name {
                        Some(name) => (name.span.clone(), "names of routes are unique".to_owned()),
                        None => {
                            (to.span.clone(), "give one of them a `name`: checkpoints are kept under it".to_owned())
                        }
                    };
                    report.error(&span, format!("there is a route `{written}` already, in line {line}"), Some(help));
                    continue;
                }
                names.insert(full.clone(), report.line_number(&head));
                let chain = (from.value.clone(), to.value.clone(), via.iter().map(|t| t.value.clone()).collect());
                if !chooses(table)
                    && let Some(other) = chains.insert(chain, written)
                {
                    let message =
                        format!("this is the same way as that of the route `{other}`: each event arrives twice");
                    report.warning(&to.span, message, None);
                }
                if let (Some(source), Some(sink)) = (source, sink) {
                    let route = shared.route(full, source, sink, settings);
                    tables_of.extend(route.iter().map(|_| members.len() - 1));
                    routes.extend(route);
                }
            }
        }
    }
    let choices = groups::resolve(report, &members, parts);
    for (route, table) in routes.iter_mut().zip(tables_of) {
        route.choice.clone_from(&choices[table]);
    }
    routes
}

/// Whether a table says which events it takes: two of them are not the same way.
fn chooses(table: &DeTable<'_>) -> bool {
    ["when", "group"].iter().any(|key| table.contains_key(*key))
}

/// See [`RoutePlan::name`].
fn route_name(name: Option<&str>, from: &str, to: &str, is_alone: bool) -> String {
    match name {
        None => format!("{from}->{to}"),
        Some(name) if is_alone => name.to_owned(),
        Some(name) => format!("{name}/{from}->{to}"),
    }
}

impl Shared<'_> {
    fn route(
        &self,
        name: String,
        source: &Node<SourceBuild>,
        sink: &Node<SinkBuild>,
        settings: &Settings,
    ) -> Option<RoutePlan> {
        let word = self.checked.string("on_position_lost");
        Some(RoutePlan {
            name,
            source: source.clone(),
            choice: None,
            via: self.via.iter().cloned().collect::<Option<_>>()?,
            sink: sink.clone(),
            checkpoint: self.checkpoint.clone()?,
            on_position_lost: match word.as_deref() {
                Some("from-now") => OnPositionLost::FromNow,
                _ => OnPositionLost::Stop,
            },
            max_catch_up: self.checked.get("max_catch_up").map(|_| self.checked.period("max_catch_up")),
            on_bad_event: self.on_bad_event.clone()?,
            max_in_flight: self.checked.size("max_in_flight"),
            lanes: self.checked.integer("lanes").clamp(1, 64) as usize,
            max_batch: settings.max_batch,
            checkpoint_interval: settings.checkpoint_interval,
            state_dir: settings.state_dir.clone(),
            config_dir: settings.config_dir.clone(),
        })
    }
}

fn limits(report: &mut Report<'_>, checked: &Checked) {
    between(report, checked, "lanes", 1, 64);
    if let Some(span) = checked.span("max_in_flight")
        && !IN_FLIGHT.contains(&checked.size("max_in_flight"))
    {
        report.error(span, "`max_in_flight` must be from 64KiB to 4GiB", None);
    }
}

/// The names of a list, which must not be empty and name nothing twice.
fn listed(report: &mut Report<'_>, checked: &Checked, key: &str) -> Vec<Text> {
    let Some(got) = checked.get(key) else { return Vec::new() };
    if got.texts.is_empty() {
        let what = if key == "from" { "source" } else { "sink" };
        report.error(&got.span, format!("`{key}` is empty"), Some(format!("name at least one {what}")));
    }
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for text in &got.texts {
        if seen.insert(text.value.clone()) {
            all.push(text.clone());
        } else {
            report.error(&text.span, format!("`{}` is listed twice", text.written), None);
        }
    }
    all
}

/// The node of a name, or a diagnostic that says what there is instead.
fn find<B: ?Sized, C: ?Sized, D: ?Sized>(
    report: &mut Report<'_>,
    name: &Text,
    key: &str,
    nodes: &mut Nodes<B>,
    other: &Nodes<C>,
    another: &Nodes<D>,
) -> Option<Node<B>> {
    if let Some(entry) = nodes.entries.get_mut(&name.value) {
        entry.is_used = true;
        return entry.node.clone();
    }
    if report.is_broken() {
        return None;
    }
    let elsewhere = [
        (other.what, other.entries.contains_key(&name.value)),
        (another.what, another.entries.contains_key(&name.value)),
    ];
    let what = nodes.what;
    let known = nodes.entries.keys().map(String::as_str);
    let help =
        did_you_mean(&name.value, known.clone()).unwrap_or_else(|| listing(&format!("{what}s of this file"), known));
    match elsewhere.iter().find(|(_, is_there)| *is_there) {
        Some((kind, _)) => {
            let message = format!("`{}` is a {kind}, and `{key}` takes a {what}", name.written);
            report.error(&name.span, message, Some(help));
        }
        None => report.error(&name.span, format!("there is no {what} `{}`", name.written), Some(help)),
    }
    None
}

fn checkpoint(report: &mut Report<'_>, checked: &Checked, parts: &mut Parts<'_>) -> Option<CheckpointPlan> {
    let text = match checked.text("checkpoint") {
        Some(text) if text.value != "sink" => text,
        _ => {
            let Some(entry) = parts.stores.entries.get_mut("file") else {
                return Some(CheckpointPlan::Sink(no_store()));
            };
            entry.is_used = true;
            return entry.node.clone().map(CheckpointPlan::Sink);
        }
    };
    named_store(report, text, parts).map(CheckpointPlan::Store)
}

/// `[denylist]`.
pub(super) fn denylist(
    report: &mut Report<'_>,
    checked: &Checked,
    parts: &mut Parts<'_>,
    state_dir: &Path,
) -> Option<DenylistPlan> {
    let store = match checked.text("store") {
        Some(text) => named_store(report, text, parts),
        None => match parts.stores.entries.get_mut("file") {
            Some(entry) => {
                entry.is_used = true;
                entry.node.clone()
            }
            None => Some(no_store()),
        },
    };
    let databases = match checked.get("databases") {
        Some(got) => got.texts.iter().map(|text| text.value.clone()).collect(),
        None => vec!["admin".to_owned()],
    };
    Some(DenylistPlan { databases, store: store?, state_dir: state_dir.to_owned() })
}

/// The store of a type, as a key of the file names it.
fn named_store(report: &mut Report<'_>, text: &Text, parts: &mut Parts<'_>) -> Option<Node<StoreBuild>> {
    if let Some(entry) = parts.stores.entries.get_mut(&text.value) {
        entry.is_used = true;
        return entry.node.clone();
    }
    if let Some(plugin) = parts.registry.stores.get(text.value.as_str()) {
        if !report.is_broken() {
            let needed =
                plugin.fields.iter().filter(|f| f.required).map(|f| format!("`{}`", f.name)).collect::<Vec<_>>();
            let table = format!("add a table `[state.{}]`", plugin.name);
            let help = match needed.as_slice() {
                [] => format!("{table}; `oplogue plugins {}` shows one", plugin.name),
                needed => format!("{table} with {}", needed.join(", ")),
            };
            report.error(&text.span, format!("the checkpoint store `{}` needs options", plugin.name), Some(help));
        }
        return None;
    }
    let known = parts.registry.stores.keys().copied().chain(["sink"]);
    let help = did_you_mean(&text.value, known.clone()).unwrap_or_else(|| listing("known stores", known));
    report.error(&text.span, format!("there is no checkpoint store `{}`", text.written), Some(help));
    None
}

/// In a program without the `file` store a sink must keep the checkpoints itself.
fn no_store() -> Node<StoreBuild> {
    Node {
        name: "file".into(),
        kind: "file",
        options: Options::default(),
        build: Arc::new(|_, _| {
            Err(Error::operator("the sink keeps no checkpoints, and this program has no `file` store")
                .hint("set `checkpoint` to a store that `oplogue plugins` lists"))
        }),
    }
}

fn on_bad_event(report: &mut Report<'_>, checked: &Checked, parts: &mut Parts<'_>, to: &[Text]) -> Option<OnBadEvent> {
    let word = checked.string("on_bad_event").unwrap_or_default();
    let sink = checked.text("dead_letter").cloned();
    if word != "dead-letter" {
        if let Some(sink) = &sink {
            let message = "`dead_letter` has no effect here";
            report.warning(&sink.span, message, Some("add `on_bad_event = \"dead-letter\"`".into()));
            find(report, sink, "dead_letter", &mut parts.sinks, &parts.sources, &parts.transforms);
        }
        return Some(if word == "skip" { OnBadEvent::Skip } else { OnBadEvent::Stop });
    }
    let Some(sink) = sink else {
        if !report.is_broken()
            && let Some(span) = checked.span("on_bad_event").cloned()
        {
            let help = "add `dead_letter = \"...\"` with the name of a sink".to_owned();
            report.error(&span, "bad events have no sink to go to", Some(help));
        }
        return None;
    };
    if to.iter().any(|t| t.value == sink.value) {
        let help = "what it refused once it refuses again: name another sink".to_owned();
        report.error(&sink.span, "the sink of bad events is the route's own sink", Some(help));
        return None;
    }
    find(report, &sink, "dead_letter", &mut parts.sinks, &parts.sources, &parts.transforms).map(OnBadEvent::DeadLetter)
}
