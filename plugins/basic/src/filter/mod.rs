//! The `filter` transform: which namespaces and operations go on.

mod operations;
mod patterns;
#[cfg(test)]
mod tests;
mod whole_database;

use std::collections::HashMap;

use oplogue_api::{Batch, Error, Event, Field, FieldType, Namespace, Op, Registry, Result, Transform};
use serde::Deserialize;

use operations::Operations;
pub(crate) use patterns::Patterns;

const FIELDS: &[Field] = &[
    Field::new(
        "namespaces",
        FieldType::Strings,
        "What goes on: globs of `database.collection` such as \"app.*\" (`*` stands for anything, dots too), regular \
         expressions such as \"/app\\.(a|b)/\"; `!` before one takes what it matches out again",
    ),
    Field::new(
        "operations",
        FieldType::Strings,
        "Which operations go on: insert, update, replace, delete; ddl for create, drop, dropDatabase, rename, index and \
         other together, or one of these",
    ),
];

pub(crate) fn register(r: &mut Registry) {
    r.transform("filter", "Lets through the events of some namespaces and operations", FIELDS, |_, options| {
        let options: FilterOptions = options.parse()?;
        Ok(Box::new(Filter::new(options.namespaces.as_deref(), options.operations.as_deref())?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterOptions {
    namespaces: Option<Vec<String>>,
    operations: Option<Vec<String>>,
}

/// The decisions on more namespaces than this are not remembered at once (I6).
const MOST_REMEMBERED: usize = 10_000;

struct Filter {
    namespaces: Option<Patterns>,
    operations: Operations,
    decided: HashMap<Namespace, bool>,
    last: Option<(Namespace, bool)>,
}

impl Filter {
    fn new(namespaces: Option<&[String]>, operations: Option<&[String]>) -> Result<Filter> {
        if namespaces.is_none() && operations.is_none() {
            return Err(Error::operator("a filter needs `namespaces`, `operations` or both")
                .hint("write which namespaces pass, such as namespaces = [\"app.*\"]"));
        }
        Ok(Filter {
            namespaces: namespaces.map(Patterns::new).transpose()?,
            operations: operations.map(Operations::new).transpose()?.unwrap_or(Operations::ALL),
            decided: HashMap::new(),
            last: None,
        })
    }

    fn passes(&mut self, event: &Event) -> bool {
        // What tells of trouble is for everybody downstream.
        if matches!(event.op, Op::Gap | Op::DeadLetter) {
            return true;
        }
        self.operations.contains(event.op)
            && (self.passes_namespace(&event.ns) || event.to.as_ref().is_some_and(|to| self.passes_namespace(to)))
    }

    fn passes_namespace(&mut self, ns: &Namespace) -> bool {
        let Some(patterns) = &self.namespaces else { return true };
        if let Some((last, passes)) = &self.last
            && last == ns
        {
            return *passes;
        }
        let passes = match self.decided.get(ns) {
            Some(passes) => *passes,
            None => {
                let passes = match (ns.db(), ns.coll()) {
                    // It concerns all namespaces.
                    ("", _) => true,
                    (db, "") => patterns.match_some_collection_of(db),
                    _ => patterns.matches(ns.as_str()),
                };
                if self.decided.len() >= MOST_REMEMBERED {
                    self.decided.clear();
                }
                self.decided.insert(ns.clone(), passes);
                passes
            }
        };
        self.last = Some((ns.clone(), passes));
        passes
    }
}

impl Transform for Filter {
    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        if batch.bad.is_empty() {
            batch.events.retain(|event| self.passes(event));
            return Ok(());
        }
        // How many of the first n events are kept, for the places of the bad ones between them.
        let mut kept = Vec::with_capacity(batch.events.len() + 1);
        let mut count = 0;
        kept.push(count);
        batch.events.retain(|event| {
            let passes = self.passes(event);
            count += usize::from(passes);
            kept.push(count);
            passes
        });
        for bad in &mut batch.bad {
            bad.before = kept.get(bad.before).copied().unwrap_or(count);
        }
        // Undecodable, but known to be of no concern: it shall not stop the route. An unknown one is everybody's concern.
        batch.bad.retain(|bad| bad.ns.as_ref().is_none_or(|ns| self.passes_namespace(ns)));
        Ok(())
    }
}
