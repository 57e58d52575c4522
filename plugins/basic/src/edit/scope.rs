//! The namespaces that a transform is for.

use std::collections::HashMap;

use oplogue_api::{Field, FieldType, Namespace, NamespacePattern, Result};

use crate::filter::Patterns;

/// The option of every transform that edits documents.
pub(super) const NAMESPACES: Field = Field::new(
    "namespaces",
    FieldType::Strings,
    "Whose events are edited, by patterns as those of a filter; all others pass as they are",
);

/// The decisions on more namespaces than this are not remembered at once (I6).
const MOST_REMEMBERED: usize = 10_000;

/// Remembers what was decided on a namespace.
pub(super) struct Memory<T> {
    all: HashMap<Namespace, T>,
    last: Option<(Namespace, T)>,
}

impl<T: Clone> Memory<T> {
    pub(super) fn new() -> Memory<T> {
        Memory { all: HashMap::new(), last: None }
    }
    pub(super) fn get(&mut self, ns: &Namespace, decide: impl FnOnce() -> T) -> T {
        if let Some((last, decided)) = &self.last
            && last == ns
        {
            return decided.clone();
        }
        if self.all.len() >= MOST_REMEMBERED {
            self.all.clear();
        }
        let decided = self.all.entry(ns.clone()).or_insert_with(decide).clone();
        self.last = Some((ns.clone(), decided.clone()));
        decided
    }
}

pub(super) struct Scope(Option<(Patterns, Memory<bool>)>);

impl Scope {
    pub(super) fn new(patterns: Option<&[String]>) -> Result<Scope> {
        Ok(Scope(patterns.map(Patterns::new).transpose()?.map(|patterns| (patterns, Memory::new()))))
    }
    /// The patterns, as they were written.
    pub(super) fn patterns(&self) -> Vec<NamespacePattern> {
        self.0.as_ref().map(|(patterns, _)| patterns.written().to_vec()).unwrap_or_default()
    }
    /// Whether events of a collection are edited.
    pub(super) fn has(&mut self, ns: &Namespace) -> bool {
        match &mut self.0 {
            None => true,
            Some((patterns, memory)) => memory.get(ns, || patterns.matches(ns.as_str())),
        }
    }
}
