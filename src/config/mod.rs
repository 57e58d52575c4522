//! Configuration: text to [`Plan`], or every diagnostic at once.
//!
//! A function of the text, the environment and the plugins: nothing is connected, and no file is read but what an option of a plugin names
//! (a script).

mod chain;
mod diagnostics;
mod excerpt;
mod expand;
mod fields;
mod groups;
mod mask;
mod nodes;
pub mod plan;
mod report;
mod routes;
mod settings;

use std::{collections::BTreeSet, path::Path};

use oplogue_api::{Context, Field, Registry};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use diagnostics::{Diagnostic, Diagnostics, Level, Place};
pub(crate) use fields::{sample, type_name};
pub use plan::{
    CheckpointPlan, ChoicePlan, DenylistPlan, HttpPlan, LogPlan, Node, OnBadEvent, OnPositionLost, Plan, RoutePlan,
};

use nodes::Section;
use report::Report;
use routes::Parts;

/// What a text comes to.
pub struct Loaded {
    /// The plan, unless there are errors.
    pub plan: Option<Plan>,
    /// All errors and warnings.
    pub diagnostics: Diagnostics,
}

/// The tables of the top level.
const TABLES: [&str; 9] = ["sources", "transforms", "sinks", "routes", "http", "state", "log", "engine", "denylist"];

/// The keys of oplogue's own tables, as `[engine]`, with their table: for documentation and its tests.
pub fn own_fields() -> Vec<(&'static str, &'static Field)> {
    let tables: [(&str, &'static [Field]); 6] = [
        ("[[routes]]", &routes::ROUTE),
        ("[http]", &settings::HTTP),
        ("[state]", &settings::STATE),
        ("[log]", &settings::LOG),
        ("[engine]", &settings::ENGINE),
        ("[denylist]", &settings::DENYLIST),
    ];
    tables.into_iter().flat_map(|(table, fields)| fields.iter().map(move |field| (table, field))).collect()
}

/// Resolves a configuration. `file` is its name in messages, `env` looks up the variables of `${VAR}`.
///
/// # Errors
/// All problems of the file at once, if one of them is an error. Warnings alone are dropped: [`examine`] has them.
pub fn load(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<Plan, Diagnostics> {
    let loaded = examine(text, file, env, registry);
    loaded.plan.ok_or(loaded.diagnostics)
}

/// Like [`load`], with the warnings of a sound configuration.
pub fn examine(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>, registry: &Registry) -> Loaded {
    let mut report = Report::new(text, env);
    report.config_dir = Path::new(file).parent().map(Path::to_owned).unwrap_or_default();
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let keys = mask::Keys::new(registry, own_fields().into_iter().map(|(_, field)| field));
        let ends: BTreeSet<usize> = errors.iter().filter_map(|e| e.span()).map(|s| s.start).collect();
        let mut unclosed = report::Unclosed::new();
        root.get_ref().values().for_each(|value| report::reaching(value, &ends, &mut unclosed));
        report.syntax(&errors, &unclosed, &keys);
    }
    let plan = read(&mut report, root.get_ref(), registry);
    let plan = if report.errors() == 0 { plan } else { None };
    Loaded { plan, diagnostics: report.finish(file) }
}

fn read(report: &mut Report<'_>, root: &DeTable<'_>, registry: &Registry) -> Option<Plan> {
    for (key, value) in root {
        unknown_table(report, key, value);
    }
    let stores: Vec<&str> = registry.stores.keys().copied().collect();
    let settings = settings::read(report, root, &stores);
    let dir = &settings.state_dir;
    let sources = Section {
        name: "sources",
        what: "source",
        plugins: &registry.sources,
        attempt: |node, context: &Context| node.build(context).map(drop),
    };
    let transforms = Section {
        name: "transforms",
        what: "transform",
        plugins: &registry.transforms,
        attempt: |node, context: &Context| node.build(context).map(drop),
    };
    let sinks = Section {
        name: "sinks",
        what: "sink",
        plugins: &registry.sinks,
        attempt: |node, context: &Context| node.build(context).map(drop),
    };
    let mut parts = Parts {
        registry,
        sources: nodes::read(report, root, registry, &sources, dir),
        transforms: nodes::read(report, root, registry, &transforms, dir),
        sinks: nodes::read(report, root, registry, &sinks, dir),
        stores: nodes::read_stores(report, root, registry, dir),
    };
    let before = report.errors();
    let denylist = settings.denylist.as_ref().and_then(|checked| routes::denylist(report, checked, &mut parts, dir));
    let routes = routes::read(report, root, &mut parts, &settings);
    // What a mistyped name was meant to use is not unused.
    if report.errors() == before && !report.is_broken() && root.contains_key("routes") {
        parts.sources.warn_unused(report);
        parts.transforms.warn_unused(report);
        parts.sinks.warn_unused(report);
        parts.stores.warn_unused(report);
        chain::review(report, root, &routes);
    }
    Some(Plan {
        http: settings.http,
        denylist,
        log: settings.log,
        shutdown_grace: settings.shutdown_grace,
        routes,
        sources: parts.sources.entries.into_iter().filter_map(|(name, entry)| Some((name, entry.node?))).collect(),
    })
}

fn unknown_table(report: &mut Report<'_>, key: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
    let name = key.get_ref().as_ref();
    if TABLES.contains(&name) {
        return;
    }
    report.hide(value);
    let message = match value.get_ref() {
        DeValue::Table(_) | DeValue::Array(_) => format!("unknown table `{name}`"),
        _ => format!("unknown key `{name}`: no key stands outside of a table"),
    };
    let help = fields::did_you_mean(name, TABLES).unwrap_or_else(|| fields::listing("known tables", TABLES));
    report.error(&key.span(), message, Some(help));
}
