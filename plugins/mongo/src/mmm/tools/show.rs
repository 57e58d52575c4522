//! `oplogue conflicts show`.

use std::fmt::Write as _;

use bson::{Bson, Document};
use oplogue_api::{Outcome, Result, ToolContext};

use super::{conflicts::find, links::LinkRoute, text};

pub(super) async fn show(context: &mut ToolContext<'_>, links: &[LinkRoute]) -> Result<Outcome> {
    let (link, record) = find(links, context.arguments.get("id").unwrap_or_default()).await?;
    let answer = match context.terminal && !context.arguments.has("json") {
        true => render(&link.route, &record),
        false => format!("{}\n", text::json(&Bson::Document(record))),
    };
    context.print(&answer)?;
    Ok(Outcome::Well)
}

/// For people: what happened, both versions, and where they differ.
fn render(route: &str, record: &Document) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "route     {route}");
    for (name, value) in record.iter().filter(|(name, _)| !matches!(name.as_str(), "local" | "remote")) {
        let value = match value {
            Bson::String(text) => text.clone(),
            Bson::ObjectId(id) => id.to_hex(),
            Bson::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_default(),
            Bson::Null => "none".to_owned(),
            other => text::json(other),
        };
        let _ = writeln!(out, "{:9} {value}", name.trim_start_matches('_'));
    }
    let side = |name: &str| record.get_document(name).cloned().unwrap_or_default();
    let (local, remote) = (side("local"), side("remote"));
    for (name, side) in [("local", &local), ("remote", &remote)] {
        let _ = writeln!(out, "\n{name}");
        for (field, value) in side.iter().filter(|(field, _)| field.as_str() != "doc") {
            let _ = writeln!(out, "  {field:7} {}", text::json(value));
        }
        let version = match side.get("doc") {
            Some(Bson::Null) => "none: the document does not exist there".to_owned(),
            Some(document) => text::json(document),
            None => "not in the record".to_owned(),
        };
        let _ = writeln!(out, "  doc     {version}");
    }
    if let (Ok(local), Ok(remote)) = (local.get_document("doc"), remote.get_document("doc")) {
        out.push_str("\ndifferences\n");
        out.push_str(&differences(local, remote));
    }
    out
}

/// The top-level fields that are not the same in both.
fn differences(local: &Document, remote: &Document) -> String {
    let mut out = String::new();
    let names = local.keys().chain(remote.keys().filter(|name| !local.contains_key(name.as_str())));
    for name in names {
        let (here, there) = (local.get(name), remote.get(name));
        let said = |value: Option<&Bson>| value.map_or_else(|| "absent".to_owned(), text::json);
        // Equal documents may have their fields in another order.
        if here != there || said(here) != said(there) {
            let _ = writeln!(out, "  {name}\n    local   {}\n    remote  {}", said(here), said(there));
        }
    }
    if out.is_empty() {
        out.push_str(if local.keys().eq(remote.keys()) { "  none\n" } else { "  the order of the fields\n" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn differing_fields_are_shown_and_others_are_not() {
        let out = differences(
            &doc! {"_id": 1, "same": 1, "a": 1, "b": {"x": 1}},
            &doc! {"_id": 1, "same": 1, "a": 1.0, "c": true},
        );
        assert_eq!(
            out,
            "  a\n    local   1\n    remote  1.0\n  b\n    local   {\"x\":1}\n    remote  absent\n  c\n    local   absent\n    remote  true\n"
        );
        assert_eq!(differences(&doc! {"a": 1, "b": 2}, &doc! {"b": 2, "a": 1}), "  the order of the fields\n");
        let nested = differences(&doc! {"a": {"x": 1, "y": 2}}, &doc! {"a": {"y": 2, "x": 1}});
        assert!(nested.starts_with("  a\n"), "{nested}");
        assert_eq!(differences(&doc! {"a": 1}, &doc! {"a": 1}), "  none\n");
    }
}
