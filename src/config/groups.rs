//! `when`, `group` and `default` of routes: which of them an event belongs to.

use std::{collections::BTreeMap, path::Path};

use oplogue_api::{Context, TransformBuild};
use toml::de::{DeTable, DeValue};

use super::{
    ChoicePlan, Node,
    fields::{Checked, Text, did_you_mean, kind_name},
    nodes::{NAME_RULE, finish, is_name},
    plan::WHEN,
    report::{Report, Span},
    routes::Parts,
};

/// The plugin whose options a `when` has.
const FILTER: &str = "filter";

/// What one `[[routes]]` table says.
pub(super) struct Member {
    group: Option<Text>,
    is_default: Option<Span>,
    when: When,
    /// The head of the table.
    head: Span,
    /// What the table reads.
    from: Vec<Text>,
}

enum When {
    Absent,
    /// Told.
    Wrong,
    Sound(Node<TransformBuild>, Span),
}

impl Member {
    pub fn read(
        report: &mut Report<'_>,
        table: &DeTable<'_>,
        checked: &Checked,
        head: &Span,
        from: &[Text],
        parts: &Parts<'_>,
        state_dir: &Path,
    ) -> Member {
        let group = checked.text("group").cloned();
        if let Some(group) = &group
            && !is_name(&group.value)
        {
            let message = format!("`{}` cannot be the name of a group", group.written);
            report.error(&group.span, message, Some(NAME_RULE.into()));
        }
        let is_default = checked.span("default").filter(|_| checked.flag("default")).cloned();
        let when = read_when(report, table, parts, state_dir);
        if let Some(span) = &is_default {
            if group.is_none() {
                let help = "add `group = \"...\"`, or leave it out: a route without `when` takes everything".to_owned();
                report.error(span, "`default` means nothing without `group`", Some(help));
            } else if !matches!(when, When::Absent) {
                let message = "the default route of a group has no `when`: it takes what no other of its routes takes";
                report.error(span, message, Some("leave one of the two out".into()));
            }
        }
        Member { group, is_default, when, head: head.clone(), from: from.to_vec() }
    }

    fn when(&self) -> Option<(&Node<TransformBuild>, &Span)> {
        match &self.when {
            When::Sound(node, span) => Some((node, span)),
            When::Absent | When::Wrong => None,
        }
    }
}

/// `when`: the options of a filter.
fn read_when(report: &mut Report<'_>, table: &DeTable<'_>, parts: &Parts<'_>, state_dir: &Path) -> When {
    let Some((key, value)) = table.get_key_value("when") else { return When::Absent };
    let DeValue::Table(options) = value.get_ref() else {
        let message = format!("`when` must be a table, not {}", kind_name(value.get_ref()));
        let help = "write the options of a filter, such as when = { namespaces = [\"app.*\"] }".to_owned();
        report.error(&value.span(), message, Some(help));
        return When::Wrong;
    };
    let Some(plugin) = parts.registry.transforms.get(FILTER) else {
        let help = "choose with a transform of this program in `via` instead".to_owned();
        report.error(&key.span(), "this program has no transform `filter`, which `when` asks", Some(help));
        return When::Wrong;
    };
    let attempt = |node: &Node<TransformBuild>, context: &Context| node.build(context).map(drop);
    match finish(report, plugin, attempt, WHEN, "`when`", options, &[], &key.span(), state_dir) {
        Some(node) => When::Sound(node, value.span()),
        None => When::Wrong,
    }
}

/// What each table takes, in their order; `None`: everything, or something is wrong, which is told.
pub(super) fn resolve(report: &mut Report<'_>, members: &[Member], parts: &Parts<'_>) -> Vec<Option<ChoicePlan>> {
    let mut groups: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in members {
        if let Some(group) = &member.group {
            groups.entry(&group.value).or_default().push(member);
        }
    }
    for (name, group) in &groups {
        check(report, name, group, &groups);
        warn(report, group, parts);
    }
    members.iter().map(|member| choice(member, &groups)).collect()
}

fn choice(member: &Member, groups: &BTreeMap<&str, Vec<&Member>>) -> Option<ChoicePlan> {
    let when = member.when().map(|(node, _)| node.clone());
    let Some(group) = &member.group else {
        return when.map(|when| ChoicePlan { group: None, before: Vec::new(), when: Some(when) });
    };
    let all = groups.get(group.value.as_str())?;
    // The default is behind all others, wherever it stands.
    let before = all.iter().take_while(|other| member.is_default.is_some() || !std::ptr::eq(**other, member));
    let before = before.filter_map(|other| other.when()).map(|(node, _)| node.clone()).collect();
    Some(ChoicePlan { group: Some(group.value.clone()), before, when })
}

fn check(report: &mut Report<'_>, name: &str, group: &[&Member], groups: &BTreeMap<&str, Vec<&Member>>) {
    let [first, others @ ..] = group else { return };
    let Some(written) = first.group.as_ref().map(|text| text.written.clone()) else { return };
    if others.is_empty()
        && !report.is_broken()
        && let Some(text) = &first.group
    {
        let meant = did_you_mean(name, groups.keys().copied().filter(|other| *other != name));
        let help = meant.unwrap_or_else(|| "a route alone needs no `group`: leave it out".to_owned());
        report.error(&text.span, format!("the group `{written}` has this route alone"), Some(help));
    }
    let mut default: Option<usize> = None;
    for member in group {
        match (&member.is_default, &member.when) {
            (Some(span), _) => match default {
                Some(line) => {
                    let message = format!("the group `{written}` has a default already, in line {line}");
                    report.error(span, message, Some("give one of them a `when`".into()));
                }
                None => default = Some(report.line_number(&member.head)),
            },
            (None, When::Absent) if !report.is_broken() => {
                let message =
                    format!("a route of the group `{written}` says neither what it takes nor that it is the default");
                let help = "add `when = { ... }`, or `default = true` for what no other takes".to_owned();
                report.error(&member.head, message, Some(help));
            }
            (None, _) => {}
        }
    }
    let Some(source) = first.from.first() else { return };
    let line = report.line_number(&source.span);
    for other in group.iter().flat_map(|member| &member.from).filter(|other| other.value != source.value) {
        let message = format!(
            "the routes of the group `{written}` read `{}` (line {line}), not `{}`",
            source.written, other.written
        );
        let help = "a group chooses among the events of one source: give routes of another one a group of their own";
        report.error(&other.span, message, Some(help.into()));
    }
}

/// What is sound, and not what one would want.
fn warn(report: &mut Report<'_>, group: &[&Member], parts: &Parts<'_>) {
    for (n, member) in group.iter().enumerate() {
        let Some((node, span)) = member.when() else { continue };
        let same = group[..n]
            .iter()
            .find(|other| other.when().is_some_and(|(other, _)| other.options.table() == node.options.table()));
        if let Some(same) = same {
            let line = report.line_number(&same.head);
            let message =
                format!("this is the same `when` as that of the route in line {line}: nothing is left for it");
            report.warning(span, message, None);
        }
        let source = member.from.first().and_then(|text| parts.sources.entries.get(&text.value)?.node.as_ref());
        let looks_up = source.and_then(|node| node.build(&Context::default()).ok()).is_some_and(|s| s.looks_up());
        if looks_up && node.options.table().contains_key("after") {
            let message = "the source looks up the documents of updates, for each route by itself: an update between two \
                           others of its document may go to two routes of the group, or to none";
            let help = "see \"Groups and documents that are looked up\" in docs/routing.md".to_owned();
            report.warning(span, message, Some(help));
        }
    }
}
