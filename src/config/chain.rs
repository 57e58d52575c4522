//! Warnings of chains that cannot do what they say: a transform that asks for what an earlier one took away, or for what the source never
//! gives. Goes by what plugins say of themselves ([`Footprint`], [`Supply`]), and warns of nothing that is not certain.

use std::collections::BTreeSet;

use oplogue_api::{Footprint, NamespacePattern, Supply};
use toml::de::{DeTable, DeValue};

use super::{
    RoutePlan,
    nodes::place_in,
    report::{Report, Span},
};

/// Looks at the chain of every route. What two routes have in common is told once.
pub(super) fn review(report: &mut Report<'_>, root: &DeTable<'_>, routes: &[RoutePlan]) {
    let mut told = BTreeSet::new();
    for route in routes {
        // Both were built before; what cannot be built now is told elsewhere.
        let Ok(source) = route.source.build(&route.context(&route.source.name)) else { continue };
        let Ok(chain) = route.chain() else { continue };
        let mut walk = Walk { source: route.source.name.clone(), supply: source.supply(), before: Vec::new() };
        for (name, transform) in &chain {
            let print = transform.footprint();
            for Warning { place, message, help } in walk.warnings(&print) {
                let message = format!("transform `{name}`: {message}");
                if let Some(span) = place_of(root, name, &place)
                    && told.insert((span.start, message.clone()))
                {
                    report.plugin_warning(&span, &message, &help);
                }
            }
            walk.before.push((name.clone(), print));
        }
    }
}

/// Where an option of a transform stands, or else its table.
fn place_of(root: &DeTable<'_>, name: &str, place: &str) -> Option<Span> {
    let table = root.get("transforms").and_then(|all| match all.get_ref() {
        DeValue::Table(all) => all.get_key_value(name),
        _ => None,
    });
    let (key, value) = table?;
    match value.get_ref() {
        DeValue::Table(options) => place_in(options, place).or_else(|| Some(key.span())),
        _ => Some(key.span()),
    }
}

struct Warning {
    place: String,
    message: String,
    help: String,
}

/// What is known of the events where a transform gets them.
struct Walk {
    source: String,
    supply: Supply,
    /// The transforms before, by name.
    before: Vec<(String, Footprint)>,
}

impl Walk {
    fn warnings(&self, print: &Footprint) -> Vec<Warning> {
        let mut all = Vec::new();
        for (place, path) in &print.reads {
            if let Some((message, help)) = self.gone(path, print) {
                all.push(Warning { place: place.clone(), message, help });
            }
        }
        let source = &self.source;
        if let Some(option) = print.asks_before.as_ref().filter(|_| self.supply.never_before) {
            all.push(Warning {
                place: option.clone(),
                message: format!(
                    "`{option}` asks about the document before the change, which the source `{source}` never gives"
                ),
                help: "every event counts as `missing`; docs/sources.md says which source gives it, and how".to_owned(),
            });
        }
        if let Some(option) = print.asks_after_of_updates.as_ref().filter(|_| self.supply.never_after_of_updates) {
            all.push(Warning {
                place: option.clone(),
                message: format!(
                    "`{option}` asks for the full document of updates, which the source `{source}` does not give"
                ),
                help: "every update counts as `missing`: set `full_document` of the source".to_owned(),
            });
        }
        if let Some(who) = self.nothing_reaches(print) {
            all.push(Warning {
                place: "namespaces".to_owned(),
                message: format!("no event comes to it: {who} lets none of these namespaces pass"),
                help: "patterns are compared with the names of collections as they are at this place of the chain"
                    .to_owned(),
            });
        }
        all
    }

    /// Why no event has the field any more where the transform gets it.
    fn gone(&self, path: &str, print: &Footprint) -> Option<(String, String)> {
        let mut gone = None;
        for (name, earlier) in &self.before {
            // Certain only where it has edited all that comes here.
            if !earlier.namespaces.is_empty() && earlier.namespaces != print.namespaces {
                continue;
            }
            if earlier.sets.iter().any(|set| is_at_or_below(set, path) || is_at_or_below(path, set)) {
                gone = None;
            }
            if earlier.renames.iter().any(|(_, new)| is_at_or_below(path, new)) {
                gone = None;
            } else if let Some((old, new)) = earlier.renames.iter().find(|(old, _)| is_at_or_below(path, old)) {
                let now = format!("{new}{}", &path[old.len()..]);
                gone = Some((
                    format!("`{name}` has renamed `{old}` before"),
                    format!("write `{now}` here, or change the order of `via`"),
                ));
            }
            let is_left_out = earlier.removes.iter().any(|removed| is_at_or_below(path, removed))
                || earlier.keeps.as_ref().is_some_and(|kept| {
                    !is_at_or_below(path, "_id")
                        && !kept.iter().any(|kept| is_at_or_below(path, kept) || is_at_or_below(kept, path))
                });
            if is_left_out {
                gone = Some((
                    format!("`{name}` has taken `{path}` out before"),
                    "change the order of `via`, or leave it out here".to_owned(),
                ));
            }
        }
        gone
    }

    /// Who lets none of the transform's namespaces pass.
    fn nothing_reaches(&self, print: &Footprint) -> Option<String> {
        // Behind new names nothing is certain of the old ones.
        let start = self.before.iter().rposition(|(_, earlier)| earlier.renames_collections).map_or(0, |at| at + 1);
        let source = (start == 0).then_some((&self.supply.namespaces, format!("the source `{}`", self.source)));
        let filters = self.before[start..].iter().filter(|(_, earlier)| earlier.is_filter);
        let filters = filters.map(|(name, earlier)| (&earlier.namespaces, format!("`{name}`")));
        source.into_iter().chain(filters).find(|(passing, _)| are_apart(passing, &print.namespaces)).map(|(_, who)| who)
    }
}

/// Whether `path` is `other`, or lies below it.
fn is_at_or_below(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether certainly no name matches a pattern of both lists.
fn are_apart(one: &[NamespacePattern], other: &[NamespacePattern]) -> bool {
    let positive = |all: &[NamespacePattern]| -> Vec<NamespacePattern> {
        all.iter().filter(|pattern| !pattern.negated).cloned().collect()
    };
    let (one, other) = (positive(one), positive(other));
    let apart = |a: &NamespacePattern, b: &NamespacePattern| {
        let (a_text, b_text): (Vec<char>, Vec<char>) = (a.text.chars().collect(), b.text.chars().collect());
        !a.is_regex && !b.is_regex && !meet(&a_text, &b_text)
    };
    !one.is_empty() && !other.is_empty() && one.iter().all(|a| other.iter().all(|b| apart(a, b)))
}

/// Whether some text matches both globs.
fn meet(a: &[char], b: &[char]) -> bool {
    // row[j]: the rest of `a` and the rest of `b` from `j` on meet.
    let mut row = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let below = row.clone();
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some('*'), _) => below[j] || j < b.len() && row[j + 1],
                (_, Some('*')) => row[j + 1] || i < a.len() && below[j],
                (Some(x), Some(y)) => (x == y || *x == '?' || *y == '?') && below[j + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
    }
    row[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_meet_where_a_text_matches_both() {
        let meets = |a: &str, b: &str| {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            let both = (meet(&chars(a), &chars(b)), meet(&chars(b), &chars(a)));
            assert_eq!(both.0, both.1, "{a} {b}");
            both.0
        };
        for (a, b) in [("app.*", "*.x"), ("a?p.*", "app.x"), ("*", "a.b"), ("a*b", "ab"), ("*a*", "b*"), ("", "*")] {
            assert!(meets(a, b), "{a} {b}");
        }
        for (a, b) in [("app.*", "shop.*"), ("*.x", "*.y"), ("a?", "a"), ("a*b", "a*c"), ("", "?")] {
            assert!(!meets(a, b), "{a} {b}");
        }
    }
}
