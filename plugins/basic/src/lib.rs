//! Bundled plugins that need no server: the `stdout`, `file` and `null` sinks, the `filter` transform, the `file` checkpoint
//! store and the `bson-dump` source.
#![deny(missing_docs)]

mod checkpoints;
mod dump;
mod extjson;
mod file;
mod filter;
mod fingerprint;
mod null;
pub mod query;
mod stdout;

pub use checkpoints::FileStore;
pub use stdout::{Format, Stdout};

use oplogue_api::Registry;

/// Enters the plugins of this crate.
///
/// # Panics
/// When one of their names is taken.
pub fn register(r: &mut Registry) {
    checkpoints::register(r);
    dump::register(r);
    file::register(r);
    filter::register(r);
    null::register(r);
    stdout::register(r);
}
