//! The `project` transform: keeps some fields, or all but some.

use oplogue_api::{Batch, Error, Field, FieldType, Footprint, Registry, Result, Transform};
use serde::Deserialize;

use super::{
    event::{self, Outcome},
    redact::EmptyUpdates,
    scope::{NAMESPACES, Scope},
    tree::{Action, Otherwise, Rules},
};

const FIELDS: &[Field] = &[
    Field::new("include", FieldType::Strings, "The fields that stay, as dotted paths; `_id` stays as well")
        .usual()
        .example("[\"name\", \"address.city\"]"),
    Field::new("exclude", FieldType::Strings, "The fields that go, as dotted paths; all others stay"),
    Field::new(
        "empty_updates",
        FieldType::OneOf(&["drop", "keep"]),
        "What becomes of an update of which nothing is left: it is left out, or goes on without any change in it",
    )
    .default("\"drop\""),
    NAMESPACES,
];

pub(super) fn register(r: &mut Registry) {
    r.transform("project", "Keeps some fields of documents and updates, or all but some", FIELDS, |_, options| {
        Ok(Box::new(Project::new(options.parse()?)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    #[serde(default)]
    empty_updates: EmptyUpdates<true>,
    namespaces: Option<Vec<String>>,
}

struct Project {
    rules: Rules,
    scope: Scope,
    footprint: Footprint,
    drops_empty: bool,
    scratch: Vec<u8>,
}

impl Project {
    fn new(options: Options) -> Result<Project> {
        let (name, paths, otherwise) = match (&options.include, &options.exclude) {
            (Some(include), None) => ("include", include, Otherwise::Remove),
            (None, Some(exclude)) => ("exclude", exclude, Otherwise::Keep),
            (Some(_), Some(_)) => {
                return Err(Error::option("exclude", "`include` and `exclude` are both there")
                    .hint("a projection names the fields that stay or those that go; use two transforms for both"));
            }
            (None, None) => {
                return Err(Error::operator("a projection needs `include` or `exclude`")
                    .hint("write which fields stay, such as include = [\"name\", \"address.city\"]"));
            }
        };
        if paths.is_empty() {
            return Err(Error::option(name, "the list of fields is empty").hint("name some fields"));
        }
        let mut rules = Rules::new(otherwise);
        for path in paths {
            if path == "_id" || path.starts_with("_id.") {
                if otherwise == Otherwise::Remove && path == "_id" {
                    continue;
                }
                let what = format!("`{path}` is a part of the document key, which tells documents apart");
                return Err(Error::option(name, what).hint("leave it out: `_id` stays as it is"));
            }
            let action = if otherwise == Otherwise::Remove { Action::Keep } else { Action::Remove };
            rules.add(name, path, action)?;
        }
        if otherwise == Otherwise::Remove {
            rules.add(name, "_id", Action::Keep)?;
        }
        let scope = Scope::new(options.namespaces.as_deref())?;
        let places = paths.iter().enumerate().map(|(n, path)| (format!("{name}[{n}]"), path.clone()));
        let footprint = Footprint {
            reads: places.collect(),
            removes: options.exclude.clone().unwrap_or_default(),
            keeps: options.include.clone(),
            ..Footprint::default()
        };
        Ok(Project { rules, scope, footprint, drops_empty: options.empty_updates.0, scratch: Vec::new() })
    }
}

impl Transform for Project {
    fn footprint(&self) -> Footprint {
        Footprint { namespaces: self.scope.patterns(), ..self.footprint.clone() }
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let Project { rules, scope, drops_empty, scratch, .. } = self;
        event::hide_bad(batch, |ns| ns.is_none_or(|ns| scope.has(ns)));
        event::each(batch, true, |event| {
            Ok(!scope.has(&event.ns) || event::edit(rules, event, scratch)? != Outcome::Emptied || !*drops_empty)
        });
        Ok(())
    }
}
