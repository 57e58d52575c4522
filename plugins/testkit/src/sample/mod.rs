//! Plugins that live in memory: a source that a test feeds, a sink that records, a checkpoint store. They keep every clause
//! of `docs/plugin-contract.md`, so the engine is tested against them and the conformance kit against itself.

mod event;
mod sink;
mod source;
mod store;

pub use event::{barrier, delete, insert, key_of, replace, update};
pub use sink::{Delivery, MemorySink, Outcome};
pub use source::{MemoryLog, MemorySource};
pub use store::MemoryStore;

#[cfg(test)]
mod tests;
