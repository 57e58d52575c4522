//! `[sources.*]`, `[transforms.*]`, `[sinks.*]` and `[state.<type>]`: plugins with their options.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use oplogue_api::{Context, Error, Options, Plugin, Registry, Result};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Node,
    fields::{check, check_unread, did_you_mean, listing, read_text},
    report::{Report, Span},
    settings::{as_table, table},
};

/// The plugins of one section of the file.
pub(super) struct Nodes<B: ?Sized> {
    /// `sink`.
    pub what: &'static str,
    pub entries: BTreeMap<String, Entry<B>>,
}

pub(super) struct Entry<B: ?Sized> {
    /// `None` when something is wrong with it, which is told.
    pub node: Option<Node<B>>,
    /// The head of its table.
    pub head: Span,
    pub is_used: bool,
}

/// How the plugins of a section are made, and where they are told of.
pub(super) struct Section<'r, B: ?Sized> {
    /// `sinks`.
    pub name: &'static str,
    /// `sink`.
    pub what: &'static str,
    pub plugins: &'r BTreeMap<&'static str, Plugin<B>>,
    /// Makes one and drops it again.
    pub attempt: fn(&Node<B>, &Context) -> Result<()>,
}

/// Names become parts of the names of routes, checkpoints and metrics.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

pub(super) const NAME_RULE: &str = "a name consists of letters, digits, `-`, `_` and `.`, at most 100 of them";

/// Reads a whole section.
pub(super) fn read<B: ?Sized>(
    report: &mut Report<'_>,
    root: &DeTable<'_>,
    registry: &Registry,
    section: &Section<'_, B>,
    state_dir: &Path,
) -> Nodes<B> {
    let mut nodes = Nodes { what: section.what, entries: BTreeMap::new() };
    let Some((found, _)) = table(report, root, section.name) else { return nodes };
    for (key, value) in found {
        let name = key.get_ref().as_ref();
        let what = format!("{} `{name}`", section.what);
        let help = match section.name {
            "sources" | "sinks" | "transforms" if name == "type" => {
                format!("the table needs a name: `[{}.NAME]`", section.name)
            }
            _ => format!("write `[{}.{name}]`", section.name),
        };
        let Some((options, head)) = as_table(report, value, &key.span(), &format!("{what} must be a table"), &help)
        else {
            continue;
        };
        if !is_name(name) {
            report.error(
                &key.span(),
                format!("`{name}` cannot be the name of a {}", section.what),
                Some(NAME_RULE.into()),
            );
        }
        let node = read_node(report, registry, section, name, options, &head, state_dir);
        nodes.entries.insert(name.to_owned(), Entry { node, head, is_used: false });
    }
    nodes
}

fn read_node<B: ?Sized>(
    report: &mut Report<'_>,
    registry: &Registry,
    section: &Section<'_, B>,
    name: &str,
    options: &DeTable<'_>,
    head: &Span,
    state_dir: &Path,
) -> Option<Node<B>> {
    let what = format!("{} `{name}`", section.what);
    let Some(kind) = options.get("type") else {
        report.hide_all_but_type(options);
        check_unread(report, options);
        if !report.is_broken() {
            let help = listing(&format!("known {}", section.name), section.plugins.keys().copied());
            report.error(head, format!("{what} needs the key `type`"), Some(help));
        }
        return None;
    };
    let Some(text) = read_text(report, kind, false) else {
        report.hide_all_but_type(options);
        check_unread(report, options);
        if !matches!(kind.get_ref(), DeValue::String(_)) {
            report.error(&kind.span(), "`type` must be a text in quotes", None);
        }
        return None;
    };
    let Some(plugin) = section.plugins.get(text.value.as_str()) else {
        report.hide_all_but_type(options);
        check_unread(report, options);
        let known = section.plugins.keys().copied();
        let (message, help) = match kind_of(registry, &text.value) {
            Some(other) => (
                format!("`{}` is a {other}, not a {}", text.written, section.what),
                format!("put it under `[{other}s.{name}]`, or see `oplogue plugins`"),
            ),
            None => (
                format!("unknown {} type `{}`", section.what, text.written),
                did_you_mean(&text.value, known.clone())
                    .unwrap_or_else(|| listing(&format!("known {}", section.name), known)),
            ),
        };
        report.error(&kind.span(), message, Some(help));
        return None;
    };
    let what = format!("{what} ({})", plugin.name);
    finish(report, plugin, section.attempt, name, &what, options, &["type"], head, state_dir)
}

/// Checks the options against the plugin's fields, and tries to make the plugin.
#[allow(clippy::too_many_arguments)]
pub(super) fn finish<B: ?Sized>(
    report: &mut Report<'_>,
    plugin: &Plugin<B>,
    attempt: fn(&Node<B>, &Context) -> Result<()>,
    name: &str,
    what: &str,
    options: &DeTable<'_>,
    beside: &[&str],
    head: &Span,
    state_dir: &Path,
) -> Option<Node<B>> {
    let before = report.errors();
    let checked = check(report, options, plugin.fields, beside, what, head);
    if report.errors() > before || report.is_broken() {
        return None;
    }
    let node = Node {
        name: name.to_owned(),
        kind: plugin.name,
        options: Options::new(checked.into_table()),
        build: Arc::clone(&plugin.build),
    };
    let context = Context {
        name: name.to_owned(),
        state_dir: state_dir.to_owned(),
        config_dir: report.config_dir.clone(),
        ..Context::default()
    };
    if let Err(e) = attempt(&node, &context) {
        let span = place_of(options, &e).unwrap_or_else(|| head.clone());
        report.plugin_error(&span, what, &e);
        return None;
    }
    Some(node)
}

/// The option that an error is about: named by the error, or the first key in backquotes of its message.
fn place_of(options: &DeTable<'_>, error: &Error) -> Option<Span> {
    let named = error.field().and_then(|path| place_in(options, path));
    named.or_else(|| {
        let quoted = error.message().split('`').skip(1).step_by(2);
        quoted.filter_map(|key| options.get(key)).map(|value| value.span()).next()
    })
}

/// The value at a path such as `collections.orders` or `after.$or[1].price`, as far as the table leads along it. Keys may hold dots
/// themselves.
pub(super) fn place_in(table: &DeTable<'_>, path: &str) -> Option<Span> {
    let steps = table.iter().filter_map(|(key, value)| Some((value, path.strip_prefix(key.get_ref().as_ref())?)));
    let whole = steps.filter(|(_, rest)| rest.is_empty() || rest.starts_with(['.', '[']));
    let (value, rest) = whole.min_by_key(|(_, rest)| rest.len())?;
    Some(place_below(value, rest))
}

fn place_below(value: &Spanned<DeValue<'_>>, rest: &str) -> Span {
    let found = match (value.get_ref(), rest.strip_prefix('.')) {
        (DeValue::Table(table), Some(path)) => place_in(table, path),
        (DeValue::Array(array), None) => rest.strip_prefix('[').and_then(|rest| {
            let (index, rest) = rest.split_once(']')?;
            Some(place_below(array.get(index.parse::<usize>().ok()?)?, rest))
        }),
        _ => None,
    };
    found.unwrap_or_else(|| value.span())
}

/// What kind of plugin a type is, if there is such a plugin.
fn kind_of(registry: &Registry, kind: &str) -> Option<&'static str> {
    if registry.sources.contains_key(kind) {
        Some("source")
    } else if registry.transforms.contains_key(kind) {
        Some("transform")
    } else if registry.sinks.contains_key(kind) {
        Some("sink")
    } else {
        None
    }
}

/// The stores by type, for those types that have a table of options or need none.
pub(super) fn read_stores(
    report: &mut Report<'_>,
    root: &DeTable<'_>,
    registry: &Registry,
    state_dir: &Path,
) -> Nodes<oplogue_api::StoreBuild> {
    let mut nodes = Nodes { what: "store", entries: BTreeMap::new() };
    let empty = DeTable::new();
    let state = match root.get("state").map(|v| v.get_ref()) {
        Some(DeValue::Table(state)) => state,
        _ => &empty,
    };
    for plugin in registry.stores.values() {
        let what = format!("`[state.{}]`", plugin.name);
        let attempt = |node: &Node<oplogue_api::StoreBuild>, context: &Context| node.build(context).map(drop);
        match state.get_key_value(plugin.name) {
            Some((key, value)) => {
                let help = format!("write `[state.{}]`", plugin.name);
                let message = format!("{what} must be a table");
                let Some((options, head)) = as_table(report, value, &key.span(), &message, &help) else { continue };
                let node = finish(report, plugin, attempt, plugin.name, &what, options, &[], &head, state_dir);
                nodes.entries.insert(plugin.name.to_owned(), Entry { node, head, is_used: false });
            }
            // Told where a route asks for it.
            None if plugin.fields.iter().any(|f| f.required) => {}
            None => {
                let options = Options::default();
                let build = Arc::clone(&plugin.build);
                let node = Node { name: plugin.name.to_owned(), kind: plugin.name, options, build };
                let context =
                    Context { name: plugin.name.to_owned(), state_dir: state_dir.to_owned(), ..Context::default() };
                // One that needs one option or another is no different from one that needs a certain one.
                if attempt(&node, &context).is_err() {
                    continue;
                }
                nodes.entries.insert(plugin.name.to_owned(), Entry { node: Some(node), head: 0..0, is_used: true });
            }
        }
    }
    nodes
}

impl<B: ?Sized> Nodes<B> {
    /// Warns of what no route uses.
    pub fn warn_unused(&self, report: &mut Report<'_>) {
        for (name, entry) in self.entries.iter().filter(|(_, entry)| !entry.is_used) {
            let message = format!("no route uses the {} `{name}`", self.what);
            report.warning(&entry.head, message, None);
        }
    }
}
