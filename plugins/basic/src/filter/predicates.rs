use oplogue_api::{Doc, Error, Event, Footprint, Op, Result, Selection};
use serde::Deserialize;

use super::changed::Changed;
use crate::query::{Query, Tree};

/// What becomes of an event that has not the document that a predicate asks about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Missing {
    #[default]
    Keep,
    Drop,
    Error,
}

/// What is asked of the documents of an event.
#[derive(Debug, Default)]
pub(super) struct Predicates {
    after: Option<Query>,
    before: Option<Query>,
    key: Option<Query>,
    changed: Option<Changed>,
    missing: Missing,
}

/// What becomes of an event.
pub(super) enum Verdict {
    Keep,
    Drop,
    Bad(Error),
}

/// How one predicate answers.
enum Answer {
    Is(bool),
    /// The event cannot have the document: none is there after a delete or before an insert.
    Never,
    /// It could have it, but the source does not give it.
    Unknown(&'static str),
}

impl Predicates {
    pub fn new(
        [after, before, key]: [Option<&Tree>; 3],
        changed: Option<&[String]>,
        missing: Option<Missing>,
    ) -> Result<Predicates> {
        let query = |option, tree: Option<&Tree>| tree.map(|tree| Query::from_tree(option, tree)).transpose();
        let all = Predicates {
            after: query("after", after)?,
            before: query("before", before)?,
            key: query("key", key)?,
            changed: changed.map(Changed::new).transpose()?,
            missing: missing.unwrap_or_default(),
        };
        if all.missing != Missing::Keep && all.is_empty() {
            return Err(Error::option(
                "missing",
                "`missing` says nothing without `after`, `before`, `key` or `changed`",
            )
            .hint("leave it out, or add a predicate such as after = { status = \"paid\" }"));
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.after.is_none() && self.before.is_none() && self.key.is_none() && self.changed.is_none()
    }

    /// Whether any event of this operation passes: not where there is no such document, and events without it are left out.
    pub fn may_pass(&self, op: Op) -> bool {
        let never = self.after.is_some() && op == Op::Delete || self.before.is_some() && op == Op::Insert;
        !(never && self.missing == Missing::Drop)
    }

    /// Says what the predicates ask about; `only_updates`: no other events come to them.
    pub fn describe(&self, only_updates: bool, footprint: &mut Footprint) {
        for (option, query) in [("after", &self.after), ("before", &self.before)] {
            let paths = query.iter().flat_map(Query::paths);
            footprint.reads.extend(paths.map(|path| (option.to_owned(), path)));
        }
        let changed = self.changed.iter().flat_map(Changed::paths);
        footprint.reads.extend(changed.map(|path| ("changed".to_owned(), path)));
        footprint.asks_before = self.before.as_ref().map(|_| "before".to_owned());
        let asks = self.after.is_some() && (only_updates || self.missing == Missing::Error);
        footprint.asks_after_of_updates = asks.then(|| "after".to_owned());
    }

    /// Adds what the predicates let through.
    pub fn select(&self, selection: &mut Selection) {
        let document = |query: &Option<Query>| query.as_ref().map(|query| Doc::from(query.document()));
        (selection.key, selection.after) = (document(&self.key), document(&self.after));
        let here = [("before", self.before.is_some()), ("changed", self.changed.is_some())];
        selection.here.extend(here.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name));
        selection.refuses = !self.is_empty() && self.missing == Missing::Error;
    }

    /// Decides on an event of a document. It passes when every predicate says so.
    pub fn verdict(&self, event: &Event) -> Verdict {
        let mut bad = None;
        let Predicates { after, before, key, changed, .. } = self;
        let key = key.iter().map(|query| ask(query, event.key.as_ref(), false, "the key of the document"));
        let after = after
            .iter()
            .map(|query| ask(query, event.after.as_ref(), event.op == Op::Delete, "the document after the change"));
        let before = before
            .iter()
            .map(|query| ask(query, event.before.as_ref(), event.op == Op::Insert, "the document before the change"));
        let changed = changed.iter().map(|changed| changed_by(changed, event));
        for answer in key.chain(after).chain(before).chain(changed) {
            match answer {
                Ok(Answer::Is(true)) => {}
                Ok(Answer::Is(false)) => return Verdict::Drop,
                Ok(Answer::Never | Answer::Unknown(_)) if self.missing == Missing::Drop => return Verdict::Drop,
                Ok(Answer::Unknown(what)) if self.missing == Missing::Error => bad = bad.or(Some(lacks(what))),
                Ok(Answer::Never | Answer::Unknown(_)) => {}
                Err(e) => bad = bad.or(Some(e)),
            }
        }
        // Only now: what another predicate leaves out is no trouble.
        bad.map_or(Verdict::Keep, Verdict::Bad)
    }
}

fn ask(query: &Query, document: Option<&Doc>, never: bool, what: &'static str) -> Result<Answer> {
    match document {
        Some(document) => query.matches(document).map(Answer::Is),
        None if never => Ok(Answer::Never),
        None => Ok(Answer::Unknown(what)),
    }
}

fn changed_by(changed: &Changed, event: &Event) -> Result<Answer> {
    match (event.op, &event.change) {
        (Op::Update, Some(change)) => Ok(Answer::Is(changed.matches(&change.decode()?))),
        (Op::Update, None) => Ok(Answer::Unknown("what the update changed")),
        // The whole document came, went or was put in the place of another.
        _ => Ok(Answer::Is(true)),
    }
}

fn lacks(what: &str) -> Error {
    Error::data(format!("the source does not give {what}, which the filter asks about"))
        .hint("let the source give it (docs/sources.md), or set `missing` of the filter to \"keep\" or \"drop\"")
}
