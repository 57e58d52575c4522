//! What a filter lets through, in a form that a source can hand on to its server.

use std::fmt;

use bson::RawDocument;

use crate::{Doc, Op};

/// The events that a filter lets through. It drops every event that is not selected; of those that are selected it may drop some all
/// the same (`here` says by what). So a source may leave what is not selected on the server, and need not.
///
/// An event is selected when all parts let it pass. Barriers are asked for `operations` and `namespaces` only.
#[derive(Clone, Default)]
pub struct Selection {
    /// The name of the transform. The engine fills it in.
    pub by: String,
    /// A namespace passes when a pattern that is not negated matches it (or there is none such) and no negated one does.
    pub namespaces: Vec<NamespacePattern>,
    /// The operations that pass; `None`: all.
    pub operations: Option<Vec<Op>>,
    /// A query in MongoDB's language, without collation, that the key of the document must match where the event has one.
    pub key: Option<Doc>,
    /// The same for the document after the change.
    pub after: Option<Doc>,
    /// The options of the filter that are none of these parts, and that only it evaluates.
    pub here: Vec<&'static str>,
    /// Whether it may move a selected event to `bad`. What stands behind it in the chain never sees such an event, so nothing of that may
    /// be left on the server.
    pub refuses: bool,
}

// I8: a query may hold what documents hold.
impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("by", &self.by)
            .field("namespaces", &self.namespaces)
            .field("operations", &self.operations)
            .field("parts", &self.parts())
            .finish_non_exhaustive()
    }
}

impl Selection {
    /// The options that are set, by their names in the configuration.
    pub fn parts(&self) -> Vec<&'static str> {
        let set = [
            ("namespaces", !self.namespaces.is_empty()),
            ("operations", self.operations.is_some()),
            ("key", self.key.is_some()),
            ("after", self.after.is_some()),
        ];
        set.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).chain(self.here.iter().copied()).collect()
    }

    /// Whether an operation passes.
    pub fn has(&self, op: Op) -> bool {
        self.operations.as_ref().is_none_or(|all| all.contains(&op))
    }

    /// The query on the key.
    pub fn key(&self) -> Option<&RawDocument> {
        self.key.as_deref()
    }

    /// The query on the document after the change.
    pub fn after(&self) -> Option<&RawDocument> {
        self.after.as_deref()
    }
}

/// A pattern of `database.collection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePattern {
    /// A glob (`*` is any run of characters, dots included, `?` any one), or a regular expression of the crate `regex` that must match
    /// the whole name.
    pub text: String,
    /// It is a regular expression.
    pub is_regex: bool,
    /// What it matches is taken out.
    pub negated: bool,
}

/// Who evaluates the parts of a [`Selection`]. Texts for a person, such as `namespaces` or `after of inserts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// What the server evaluates, so that the rest never comes.
    pub server: Vec<String>,
    /// What the filter alone evaluates.
    pub here: Vec<String>,
}

impl Share {
    /// All is evaluated by the filter.
    pub fn here(selection: &Selection) -> Share {
        Share { server: Vec::new(), here: selection.parts().into_iter().map(str::to_owned).collect() }
    }
}
