//! `oplogue plugins [TYPE]`.

use std::fmt::Write as _;

use oplogue_api::{Field, Registry};

use super::{MISUSED, file, output, tool};
use crate::config::{sample, type_name};

/// What is shown of a plugin.
struct Entry {
    /// `source`, `transform`, `sink` or `store`.
    what: &'static str,
    /// Where it stands in the file, with `NAME` for a name of one's own.
    head: String,
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
}

pub fn plugins(kind: Option<&str>, registry: &Registry) -> u8 {
    let all = entries(registry);
    let Some(kind) = kind else { return output::answer(&list(&all, registry)) };
    if let Some(found) = registry.tools.get(kind) {
        return tool::describe(found);
    }
    let found: Vec<_> = all.iter().filter(|e| e.name == kind).collect();
    if found.is_empty() {
        file::unknown("plugin", kind, all.iter().map(|e| e.name).chain(registry.tools.keys().copied()));
        return MISUSED;
    }
    output::answer(&found.into_iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn entries(registry: &Registry) -> Vec<Entry> {
    let mut all = Vec::new();
    for p in registry.sources.values() {
        let head = "[sources.NAME]".into();
        all.push(Entry { what: "source", head, name: p.name, summary: p.summary, fields: p.fields });
    }
    for p in registry.transforms.values() {
        let head = "[transforms.NAME]".into();
        all.push(Entry { what: "transform", head, name: p.name, summary: p.summary, fields: p.fields });
    }
    for p in registry.sinks.values() {
        let head = "[sinks.NAME]".into();
        all.push(Entry { what: "sink", head, name: p.name, summary: p.summary, fields: p.fields });
    }
    for p in registry.stores.values() {
        let head = format!("[state.{}]", p.name);
        all.push(Entry { what: "checkpoint store", head, name: p.name, summary: p.summary, fields: p.fields });
    }
    all
}

fn list(all: &[Entry], registry: &Registry) -> String {
    let mut out = String::new();
    let width = all.iter().map(|e| e.name.len()).max().unwrap_or(0);
    let mut what = "";
    for entry in all {
        if entry.what != what {
            what = entry.what;
            let _ = writeln!(out, "{}{what}s", if out.is_empty() { "" } else { "\n" });
        }
        let _ = writeln!(out, "  {:width$}  {}", entry.name, entry.summary);
    }
    let width = registry.tools.keys().map(|name| name.len()).max().unwrap_or(0);
    for (index, tool) in registry.tools.values().enumerate() {
        let head = if index == 0 { "\ntools\n" } else { "" };
        let _ = writeln!(out, "{head}  {:width$}  {}", tool.name, tool.summary);
    }
    out.push_str("\nThe options of one: oplogue plugins TYPE\n");
    out
}

fn describe(entry: &Entry) -> String {
    let colour = output::answers_in_colour();
    let mut out = format!("{} ({})\n  {}\n", output::paint(colour, "1", entry.name), entry.what, entry.summary);
    if entry.fields.is_empty() {
        out.push_str("\nIt has no options.\n");
    } else {
        out.push_str("\noptions\n");
    }
    for field in entry.fields {
        let need = match (field.required, field.default) {
            (true, _) => ", required".to_owned(),
            (false, Some(default)) => format!(", default {default}"),
            (false, None) => String::new(),
        };
        let secret = if field.secret { "; never shown" } else { "" };
        let name = output::paint(colour, "1", field.name);
        let _ = writeln!(out, "  {name}: {}{need}{secret}\n      {}", type_name(field.kind), field.help);
    }
    let _ = write!(out, "\nexample\n{}", indented(&snippet(entry)));
    out
}

/// A table that works once its texts and variables are filled in.
fn snippet(entry: &Entry) -> String {
    let mut out = format!("{}\n", entry.head);
    if entry.what != "checkpoint store" {
        let _ = writeln!(out, "type = \"{}\"", entry.name);
    }
    let is_set = |f: &&Field| f.required || f.usual;
    for field in entry.fields.iter().filter(is_set) {
        let _ = writeln!(out, "{} = {}", field.name, sample(field));
    }
    // A transform without any option does nothing, and may refuse to.
    let needs_one = entry.what == "transform" && !entry.fields.iter().any(|f| is_set(&f));
    for (i, field) in entry.fields.iter().filter(|f| !is_set(f)).enumerate() {
        let mark = if needs_one && i == 0 { "" } else { "# " };
        let _ = writeln!(out, "{mark}{} = {}", field.name, sample(field));
    }
    if entry.what == "checkpoint store" {
        let _ = write!(out, "\n[[routes]]\n# from = ..., to = ...\ncheckpoint = \"{}\"\n", entry.name);
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}
