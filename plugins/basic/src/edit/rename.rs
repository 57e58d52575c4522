//! The `rename` transform: other names for collections and fields.

use oplogue_api::{Batch, Error, Event, Field, FieldType, Footprint, Namespace, Op, Registry, Result, Transform};
use serde::Deserialize;

use super::{
    event,
    names::{Names, Renaming, rename_command},
    scope::{Memory, NAMESPACES, Scope},
    tree::{Action, Otherwise, Rules, is_index},
};

const FIELDS: &[Field] = &[
    Field::new(
        "collections",
        FieldType::Any,
        "Other names for collections: a list of { from = PATTERN, to = NAME }; the first that matches holds",
    )
    .usual()
    .example("[{ from = \"app.*\", to = \"staging.*\" }]"),
    Field::new(
        "fields",
        FieldType::Any,
        "Other names for fields: a list of { from = PATH, to = NAME }; the field stays where it is",
    )
    .example("[{ from = \"address.street\", to = \"road\" }]"),
    Field::new(
        "existing",
        FieldType::OneOf(&["reject", "replace"]),
        "What becomes of an event that has a field of the new name already: it is a bad event, or the renamed field takes the \
         place of the other",
    )
    .default("\"reject\""),
    NAMESPACES,
];

pub(super) fn register(r: &mut Registry) {
    r.transform("rename", "Gives collections and fields other names", FIELDS, |_, options| {
        Ok(Box::new(Rename::new(options.parse()?)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    collections: Option<Vec<Renaming>>,
    fields: Option<Vec<Renaming>>,
    #[serde(default)]
    existing: Existing,
    namespaces: Option<Vec<String>>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Existing {
    #[default]
    Reject,
    Replace,
}

struct Rename {
    names: Option<Names>,
    /// The new name; none where it stays.
    decided: Memory<Option<Namespace>>,
    rules: Option<Rules>,
    scope: Scope,
    footprint: Footprint,
    scratch: Vec<u8>,
}

fn wrong(what: String, hint: &str) -> Error {
    Error::option("fields", what).hint(hint)
}

impl Rename {
    fn new(options: Options) -> Result<Rename> {
        if options.collections.is_none() && options.fields.is_none() {
            return Err(Error::operator("a rename needs `collections`, `fields` or both")
                .hint("write what is renamed, such as collections = [{ from = \"app.*\", to = \"staging.*\" }]"));
        }
        let footprint = footprint(&options);
        Ok(Rename {
            footprint,
            names: options.collections.as_deref().map(Names::new).transpose()?,
            decided: Memory::new(),
            rules: options.fields.map(|fields| rules(&fields, options.existing == Existing::Replace)).transpose()?,
            scope: Scope::new(options.namespaces.as_deref())?,
            scratch: Vec::new(),
        })
    }
}

fn footprint(options: &Options) -> Footprint {
    let mut footprint = Footprint { renames_collections: options.collections.is_some(), ..Footprint::default() };
    for (n, Renaming { from, to }) in options.fields.iter().flatten().enumerate() {
        let new = to.rsplit('.').next().unwrap_or(to);
        let renamed = from.rsplit_once('.').map_or_else(|| new.to_owned(), |(parent, _)| format!("{parent}.{new}"));
        footprint.reads.push((format!("fields[{n}]"), from.clone()));
        footprint.renames.push((from.clone(), renamed));
    }
    footprint
}

fn rules(fields: &[Renaming], replaces: bool) -> Result<Rules> {
    if fields.is_empty() {
        return Err(wrong("the list of fields is empty".to_owned(), "leave it out, or name some fields"));
    }
    let mut rules = Rules::new(Otherwise::Keep);
    rules.replaces = replaces;
    let mut seen = Vec::new();
    for Renaming { from, to } in fields {
        let (parent, name) = from.rsplit_once('.').unwrap_or(("", from));
        let new = match to.rsplit_once('.') {
            None => to,
            Some((other, new)) if other == parent => new,
            Some(_) => {
                let hint =
                    format!("write its new name alone, such as to = \"{}\"", to.rsplit('.').next().unwrap_or(to));
                return Err(wrong(format!("`{from}` cannot move to `{to}`: a renamed field stays where it is"), &hint));
            }
        };
        if new.is_empty() || new.contains(['$', '\0', '*']) || new == name {
            return Err(wrong(
                format!("`{to}` is no new name for `{from}`"),
                "write another name, without `$` and `*`",
            ));
        }
        if is_index(new.as_bytes()) || is_index(name.as_bytes()) {
            let what = format!("`{from}` to `{to}`: an element of an array has no name");
            return Err(wrong(what, "rename a field in the elements, such as \"items.price\""));
        }
        if (parent.is_empty() && (name == "_id" || new == "_id")) || from.starts_with("_id.") {
            let what = format!("`{from}` to `{to}`: `_id` is the document key, which tells documents apart");
            return Err(wrong(what, "leave it out"));
        }
        if seen.contains(&(parent, new)) {
            let what = format!("two fields would be called `{to}`");
            return Err(wrong(what, "give each a name of its own"));
        }
        seen.push((parent, new));
        rules.add("fields", from, Action::Rename(new.as_bytes().into()))?;
    }
    Ok(rules)
}

impl Rename {
    fn rename(&mut self, event: &mut Event) -> Result<()> {
        // What tells of trouble is handed on as it is.
        if matches!(event.op, Op::Gap | Op::DeadLetter) || !self.scope.has(&event.ns) {
            return Ok(());
        }
        let (ns, to) = self.new_names(event)?;
        if let Some(rules) = &self.rules {
            event::edit(rules, event, &mut self.scratch)?;
        }
        if ns.is_none() && to.is_none() {
            return Ok(());
        }
        let (old, old_to) = (event.ns.clone(), event.to.clone());
        event.ns = ns.unwrap_or_else(|| old.clone());
        event.to = to.or_else(|| old_to.clone());
        if event.op.is_barrier()
            && let Some(names) = &self.names
            && let Err(e) = rename_command(event, &old, names)
        {
            (event.ns, event.to) = (old, old_to);
            return Err(e);
        }
        Ok(())
    }

    /// The new names of the namespace and of the one that a collection is renamed to, where they are others.
    fn new_names(&mut self, event: &Event) -> Result<(Option<Namespace>, Option<Namespace>)> {
        let Some(names) = &self.names else { return Ok((None, None)) };
        let mut failed = None;
        let mut new = |ns: &Namespace| {
            self.decided.get(ns, || {
                names.renamed(ns).unwrap_or_else(|e| {
                    failed = Some(e);
                    None
                })
            })
        };
        let (ns, to) = (new(&event.ns), event.to.as_ref().and_then(&mut new));
        if let Some(e) = failed {
            // What failed is not worth remembering, least of all as a name that stays.
            self.decided = Memory::new();
            return Err(e);
        }
        Ok((ns, to))
    }
}

impl Transform for Rename {
    fn footprint(&self) -> Footprint {
        Footprint { namespaces: self.scope.patterns(), ..self.footprint.clone() }
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        event::each(batch, false, |event| self.rename(event).map(|()| true));
        Ok(())
    }
}
