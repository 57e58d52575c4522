//! New names for namespaces.

use bson::{Bson, Document, doc};
use oplogue_api::{Error, Event, Namespace, Op, Result};
use regex::Regex;
use serde::Deserialize;

/// A pattern of the old name and what the new one is made of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renaming {
    pub(super) from: String,
    pub(super) to: String,
}

enum Part {
    Text(String),
    /// What a group of the expression has found.
    Group(usize),
}

struct Rule {
    regex: Regex,
    to: Vec<Part>,
}

pub(super) struct Names {
    rules: Vec<Rule>,
    /// Databases that are renamed as a whole.
    databases: Vec<(String, String)>,
}

const OPTION: &str = "collections";

fn wrong(what: String, hint: &str) -> Error {
    Error::option(OPTION, what).hint(hint)
}

impl Names {
    pub(super) fn new(renamings: &[Renaming]) -> Result<Names> {
        if renamings.is_empty() {
            return Err(wrong(
                "the list of collections is empty".to_owned(),
                "leave it out, or write one, such as { from = \"app.*\", to = \"staging.*\" }",
            ));
        }
        let rules = renamings.iter().map(Rule::new).collect::<Result<_>>()?;
        Ok(Names { rules, databases: databases(renamings) })
    }

    /// The new name; `None` where it stays.
    ///
    /// # Errors
    /// `Data`: the new name is none, or that of a namespace of the server.
    pub(super) fn renamed(&self, ns: &Namespace) -> Result<Option<Namespace>> {
        if ns.coll().is_empty() {
            let to = self.databases.iter().find(|(from, _)| from == ns.db());
            return Ok(to.map(|(_, to)| Namespace::new(to)));
        }
        let found = self.rules.iter().find_map(|rule| rule.regex.captures(ns.as_str()).map(|found| (rule, found)));
        let Some((rule, found)) = found else { return Ok(None) };
        let mut name = String::new();
        for part in &rule.to {
            name.push_str(match part {
                Part::Text(text) => text,
                Part::Group(n) => found.get(*n).map_or("", |group| group.as_str()),
            });
        }
        let new = Namespace::new(&name);
        let is_wrong = new.db().is_empty() || new.coll().is_empty() || name.contains(['\0', '$']);
        if is_wrong || new.is_system() && !ns.is_system() {
            let hint =
                "correct `to` in `collections`: it must give `database.collection`, and none of the server's own";
            return Err(Error::data(format!("{ns} would be renamed to `{name}`")).hint(hint));
        }
        Ok((new != *ns).then_some(new))
    }
}

/// The databases of rules such as `a.*` to `b.*`, where no other rule leads into `b`: what is said of all of `b` would concern
/// others otherwise.
fn databases(renamings: &[Renaming]) -> Vec<(String, String)> {
    let database = |pattern: &str| match pattern.strip_suffix(".*") {
        Some(db) if !db.is_empty() && !db.contains(['.', '*', '?', '/', '$']) => Some(db.to_owned()),
        _ => None,
    };
    let may_lead_to = |to: &str, db: &str| {
        let end = to.find(['*', '?', '$']).unwrap_or(to.len());
        match to.find('.') {
            Some(dot) if dot < end => &to[..dot] == db,
            _ => true,
        }
    };
    let mut found = Vec::new();
    for (i, renaming) in renamings.iter().enumerate() {
        let (Some(from), Some(to)) = (database(&renaming.from), database(&renaming.to)) else { continue };
        let is_alone = renamings.iter().enumerate().all(|(j, other)| i == j || !may_lead_to(&other.to, &to));
        if is_alone && !found.iter().any(|(other, _)| *other == from) {
            found.push((from, to));
        }
    }
    found
}

impl Rule {
    fn new(Renaming { from, to }: &Renaming) -> Result<Rule> {
        for text in [from, to] {
            if text.is_empty() || text.trim() != text {
                return Err(wrong(
                    format!("`{text}` is no name"),
                    "write `database.collection`, without blanks around it",
                ));
            }
        }
        let expression = from.strip_prefix('/');
        if expression.is_none() && !from.contains('.') {
            let hint = format!("write \"{from}.*\" for all collections of a database");
            return Err(wrong(format!("`{from}` names no collection, so that nothing would match it"), &hint));
        }
        if !to.contains('.') {
            let hint = format!("write \"{to}.*\" or \"{to}.NAME\"");
            return Err(wrong(format!("`{to}` names no collection"), &hint));
        }
        let (source, to) = match expression {
            Some(rest) => match rest.strip_suffix('/') {
                Some(regex) if !regex.is_empty() => (format!(r"\A(?:{regex})\z"), groups(to)?),
                _ => {
                    let hint = "write it between slashes, such as \"/app_(\\w+)\\.(.*)/\"";
                    return Err(wrong(format!("`{from}` is no regular expression"), hint));
                }
            },
            None => (glob(from), wildcards(from, to)?),
        };
        let regex = Regex::new(&source).map_err(|e| {
            wrong(format!("`{from}` is no regular expression: {e}"), "see https://docs.rs/regex/#syntax")
        })?;
        let groups = regex.captures_len() - 1;
        let too_high = to.iter().find_map(|part| match part {
            Part::Group(n) if *n > groups => Some(n),
            _ => None,
        });
        if let Some(n) = too_high {
            let what = format!("`${n}` is what group {n} of `{from}` found, which has only {groups}");
            return Err(wrong(what, "put round brackets around what `to` needs"));
        }
        Ok(Rule { regex, to })
    }
}

/// `*` and `?` find what they stand for.
fn glob(from: &str) -> String {
    let mut regex = String::from(r"(?s)\A");
    let mut buffer = [0; 4];
    for c in from.chars() {
        match c {
            '*' => regex.push_str("(.*)"),
            '?' => regex.push_str("(.)"),
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut buffer))),
        }
    }
    regex + r"\z"
}

/// The parts of `to`, whose wildcards are those of `from`, in order.
fn wildcards(from: &str, to: &str) -> Result<Vec<Part>> {
    let is_wild = |c: char| c == '*' || c == '?';
    let mut given = from.chars().filter(|c| is_wild(*c)).enumerate();
    let mut parts = Vec::new();
    let mut text = String::new();
    for c in to.chars() {
        if !is_wild(c) {
            text.push(c);
            continue;
        }
        let Some((at, _)) = given.by_ref().find(|(_, other)| *other == c) else {
            let what = format!("`{to}` has a `{c}` that `{from}` has not");
            return Err(wrong(what, "each `*` of `to` stands for what the same one of `from` matched"));
        };
        parts.push(Part::Text(std::mem::take(&mut text)));
        parts.push(Part::Group(at + 1));
    }
    parts.push(Part::Text(text));
    Ok(parts)
}

/// The parts of `to`, in which `$1` is what the first group has found.
fn groups(to: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (i, piece) in to.split('$').enumerate() {
        match piece.chars().next() {
            _ if i == 0 => parts.push(Part::Text(piece.to_owned())),
            Some(digit @ '1'..='9') => {
                parts.push(Part::Group(digit as usize - '0' as usize));
                parts.push(Part::Text(piece[1..].to_owned()));
            }
            _ => {
                let hint = "write $1 for what the first group found, $2 for the second, up to $9";
                return Err(wrong(format!("`{to}` has a `$` without the number of a group"), hint));
            }
        }
    }
    Ok(parts)
}

/// The names in what the server sent for a barrier: the collection that the command is about, and that of a view. Such events are few.
pub(super) fn rename_command(event: &mut Event, old: &Namespace, names: &Names) -> Result<()> {
    let mut raw = Document::try_from(&*event.raw).map_err(|_| Error::data("a DDL event is no valid BSON"))?;
    let view_on = |part: &mut Document| -> Result<()> {
        if let Ok(name) = part.get_str("viewOn")
            && let Some(new) = names.renamed(&Namespace::of(old.db(), name))?
        {
            part.insert("viewOn", new.coll());
        }
        Ok(())
    };
    let pair = |ns: &Namespace| match ns.coll() {
        "" => doc! {"db": ns.db()},
        coll => doc! {"db": ns.db(), "coll": coll},
    };
    if raw.contains_key("operationType") {
        replace(&mut raw, "ns", pair(&event.ns).into());
        if let Some(to) = &event.to {
            replace(&mut raw, "to", pair(to).into());
        }
        if let Ok(described) = raw.get_document_mut("operationDescription") {
            view_on(described)?;
            if let Some(to) = &event.to {
                replace(described, "to", pair(to).into());
            }
        }
    } else {
        let ns = raw.get_str("ns").ok().and_then(|ns| ns.strip_prefix(old.db()));
        if let Some(ns) = ns.map(|rest| format!("{}{rest}", event.ns.db())) {
            raw.insert("ns", ns);
        }
        let is_command = raw.get_str("op").is_ok_and(|op| op == "c");
        if let Ok(o) = raw.get_document_mut("o") {
            view_on(o)?;
            replace_if(o, "ns", old.as_str(), event.ns.as_str());
            if event.op == Op::Rename {
                replace_if(o, "renameCollection", old.as_str(), event.ns.as_str());
                if let Some(to) = &event.to {
                    replace(o, "to", to.as_str().into());
                }
            } else if is_command && let Some(first) = o.keys().next().cloned() {
                replace_if(o, &first, old.coll(), event.ns.coll());
            }
        }
        for part in ["o", "o2"] {
            if !is_command && let Ok(part) = raw.get_document_mut(part) {
                replace_if(part, "_id", old.as_str(), event.ns.as_str());
            }
        }
    }
    event.raw = bson::RawDocumentBuf::try_from(&raw).map_err(|_| Error::data("a DDL event is no valid BSON"))?.into();
    Ok(())
}

fn replace(doc: &mut Document, name: &str, new: Bson) {
    if let Some(value) = doc.get_mut(name) {
        *value = new;
    }
}

fn replace_if(doc: &mut Document, name: &str, old: &str, new: &str) {
    if doc.get_str(name).is_ok_and(|value| value == old) {
        replace(doc, name, new.into());
    }
}
