//! The `filter` transform: which events go on, by namespace, operation and what their documents hold.

mod changed;
mod operations;
mod patterns;
#[cfg(test)]
mod predicate_tests;
mod predicates;
#[cfg(test)]
mod tests;
mod whole_database;

use std::collections::HashMap;

use oplogue_api::{
    BadEvent, Batch, Error, Event, Field, FieldType, Footprint, Namespace, Op, Registry, Result, Selection, Transform,
};
use serde::Deserialize;

use crate::query::Tree;
use operations::Operations;
pub(crate) use patterns::Patterns;
use predicates::{Missing, Predicates, Verdict};

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
    Field::new(
        "origin",
        FieldType::OneOf(&["local", "replicated"]),
        "Whose writes go on: those of the applications of this deployment, or those that a replicator (mongo-mmm) brought; both when absent",
    ),
    Field::new(
        "after",
        FieldType::Any,
        "A query in MongoDB's own language that the document after the change must match, as a table or as a text with \
         extended JSON",
    )
    .example("{ status = \"paid\" }"),
    Field::new("before", FieldType::Any, "The same for the document before the change")
        .example("{ status = { \"$ne\" = \"paid\" } }"),
    Field::new("key", FieldType::Any, "The same for the key of the document: its _id, and the shard key where it is known")
        .example("{ _id = { \"$regex\" = \"^eu-\" } }"),
    Field::new(
        "changed",
        FieldType::Strings,
        "Which updates go on, by the paths that they changed: dotted, `*` stands for anything within a step, what is below or \
         above counts too; `!` before one takes what it covers out again",
    ),
    Field::new(
        "missing",
        FieldType::OneOf(&["keep", "drop", "error"]),
        "What becomes of an event without the document that `after`, `before` or `key` asks about: it passes, is left out, or is \
         a bad event",
    )
    .default("\"keep\""),
];

pub(crate) fn register(r: &mut Registry) {
    r.transform("filter", "Lets through some events, by namespace, operation and documents", FIELDS, |_, options| {
        Ok(Box::new(Filter::from_options(&options.parse()?)?))
    });
}

/// Who wrote a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Local,
    Replicated,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterOptions {
    namespaces: Option<Vec<String>>,
    operations: Option<Vec<String>>,
    origin: Option<Origin>,
    after: Option<Tree>,
    before: Option<Tree>,
    key: Option<Tree>,
    changed: Option<Vec<String>>,
    missing: Option<Missing>,
}

/// The decisions on more namespaces than this are not remembered at once (I6).
const MOST_REMEMBERED: usize = 10_000;

struct Filter {
    namespaces: Option<Patterns>,
    operations: Operations,
    origin: Option<Origin>,
    predicates: Predicates,
    decided: HashMap<Namespace, bool>,
    last: Option<(Namespace, bool)>,
}

impl Filter {
    fn from_options(options: &FilterOptions) -> Result<Filter> {
        let FilterOptions { namespaces, operations, origin, after, before, key, changed, missing } = options;
        let queries = [after.as_ref(), before.as_ref(), key.as_ref()];
        let predicates = Predicates::new(queries, changed.as_deref(), *missing)?;
        if namespaces.is_none() && operations.is_none() && origin.is_none() && predicates.is_empty() {
            return Err(Error::operator(
                "a filter needs `namespaces`, `operations`, `origin`, `after`, `before`, `key` or `changed`",
            )
            .hint("write which namespaces pass, such as namespaces = [\"app.*\"]"));
        }
        Ok(Filter {
            namespaces: namespaces.as_deref().map(Patterns::new).transpose()?,
            operations: operations.as_deref().map(Operations::new).transpose()?.unwrap_or(Operations::ALL),
            origin: *origin,
            predicates,
            decided: HashMap::new(),
            last: None,
        })
    }

    fn verdict(&mut self, event: &Event) -> Verdict {
        // What tells of trouble is for everybody downstream.
        if matches!(event.op, Op::Gap | Op::DeadLetter) {
            return Verdict::Keep;
        }
        let passes = self.operations.contains(event.op)
            && (self.passes_namespace(&event.ns) || event.to.as_ref().is_some_and(|to| self.passes_namespace(to)));
        match passes {
            false => Verdict::Drop,
            true if !self.passes_origin(event) => Verdict::Drop,
            // Barriers have no documents to ask about.
            true if self.predicates.is_empty() || event.op.is_barrier() => Verdict::Keep,
            true => self.predicates.verdict(event),
        }
    }

    /// DDL is nobody's: a replicator runs it as anybody else does, outside of its transactions.
    fn passes_origin(&self, event: &Event) -> bool {
        match self.origin {
            None => true,
            Some(_) if event.op.is_barrier() => true,
            Some(origin) => event.is_replicated() == (origin == Origin::Replicated),
        }
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
    fn selection(&self) -> Option<Selection> {
        let passes = |op: &Op| self.operations.contains(*op) && self.predicates.may_pass(*op);
        let none_left_out = self.operations.is_all() && Op::ALL.iter().all(|op| self.predicates.may_pass(*op));
        let mut selection = Selection {
            namespaces: self.namespaces.as_ref().map(|patterns| patterns.written().to_vec()).unwrap_or_default(),
            operations: (!none_left_out).then(|| Op::ALL.iter().copied().filter(passes).collect()),
            ..Selection::default()
        };
        selection.here.extend(self.origin.map(|_| "origin"));
        self.predicates.select(&mut selection);
        Some(selection)
    }

    fn footprint(&self) -> Footprint {
        let namespaces = self.namespaces.as_ref().map(|patterns| patterns.written().to_vec()).unwrap_or_default();
        let mut footprint = Footprint { namespaces, is_filter: true, ..Footprint::default() };
        let has = |op| self.operations.contains(op);
        let only_updates = has(Op::Update) && !has(Op::Insert) && !has(Op::Replace);
        // Where updates are left out, nothing is asked of them.
        if has(Op::Update) {
            self.predicates.describe(only_updates, &mut footprint);
        } else {
            self.predicates.describe(false, &mut footprint);
            footprint.asks_after_of_updates = None;
        }
        footprint
    }

    fn asks_origin(&self) -> bool {
        self.origin.is_some()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        // How many of the first n events are kept, for the places of the bad ones between them.
        let mut kept = Vec::new();
        let had_bad = !batch.bad.is_empty();
        // Those that turn out to be bad here, each with its place among all.
        let mut bad = Vec::new();
        let (mut count, mut place) = (0, 0);
        batch.events.retain(|event| {
            if had_bad {
                kept.push(count);
            }
            let passes = match self.verdict(event) {
                Verdict::Keep => true,
                Verdict::Drop => false,
                Verdict::Bad(error) => {
                    bad.push((place, BadEvent::refused(count, event.clone(), error)));
                    false
                }
            };
            count += usize::from(passes);
            place += 1;
            passes
        });
        if !had_bad {
            batch.bad.extend(bad.into_iter().map(|(_, bad)| bad));
            return Ok(());
        }
        // Undecodable, but known to be of no concern: it shall not stop the route. An unknown one is everybody's concern.
        batch.bad.retain(|bad| bad.ns.as_ref().is_none_or(|ns| self.passes_namespace(ns)));
        let old = batch.bad.drain(..).map(|mut old| {
            let place = old.before;
            old.before = kept.get(place).copied().unwrap_or(count);
            (place, 0, old)
        });
        let mut all: Vec<_> = old.chain(bad.into_iter().map(|(place, bad)| (place, 1, bad))).collect();
        all.sort_by_key(|(place, side, _)| (*place, *side));
        batch.bad.extend(all.into_iter().map(|(_, _, bad)| bad));
        Ok(())
    }
}
