//! The conformance kit: `docs/plugin-contract.md`, clause by clause. A plugin's test implements a harness and calls
//! [`source()`], [`transform()`], [`sink()`] or [`store()`]; each clause is also a function of its own, named after it.
//!
//! A violated clause panics with a message that begins with the clause's number: `K4: …`.

mod guard;
pub mod outside;
pub mod sink;
pub mod source;
pub mod store;
pub mod transform;

pub use sink::{Seen, SinkHarness, sink};
pub use source::{SourceHarness, source};
pub use store::{StoreHarness, store};
pub use transform::{TransformHarness, transform};

/// What a run of the kit did. Clauses that a harness gives no means to test are named, not passed over in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// The clauses that were tested, and hold.
    pub held: Vec<&'static str>,
    /// The clauses that were not tested, and why.
    pub skipped: Vec<(&'static str, &'static str)>,
}

impl Report {
    fn add(&mut self, clause: &'static str, tested: Tested) {
        match tested {
            Tested::Holds => self.held.push(clause),
            Tested::Skipped(why) => {
                eprintln!("conformance: {clause} was not tested: {why}");
                self.skipped.push((clause, why));
            }
        }
    }

    /// The numbers of the clauses that were not tested, for a test to compare with what it expects.
    pub fn skipped_clauses(&self) -> Vec<&'static str> {
        self.skipped.iter().map(|(clause, _)| *clause).collect()
    }
}

/// What became of a clause; a violation panics instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Tested {
    /// It was tested and holds.
    Holds,
    /// The harness gives no means to test it, or it does not concern this plugin.
    Skipped(&'static str),
}

#[cfg(test)]
mod tests;
