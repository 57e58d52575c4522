//! Sources, transforms and sinks that are child processes in any language: `docs/external.md`.
//!
//! A child reads requests from its stdin and writes one answer to each to its stdout: BSON documents, which begin with their
//! own length, or lines of extended JSON. `process` starts it, and again when it fails; `link` asks it one thing at a time.
#![deny(missing_docs)]

mod answer;
mod encoding;
mod link;
mod log;
mod options;
mod process;
mod request;
mod sink;
mod source;
mod transform;

use std::sync::Arc;

use oplogue_api::Registry;

use options::{FIELDS, Spec};

/// The version of the protocol.
pub const PROTOCOL: i32 = 1;

/// Enters the plugins of this crate.
///
/// # Panics
/// When one of their names is taken.
pub fn register(r: &mut Registry) {
    r.source("external", "Events from a child process in any language", FIELDS, |context, options| {
        Ok(Box::new(source::External::new(Spec::new("source", context, options)?)))
    });
    r.transform("external", "Passes events through a child process in any language", FIELDS, |context, options| {
        Ok(Box::new(transform::External::new(Spec::new("transform", context, options)?)))
    });
    r.sink("external", "Gives events to a child process in any language", FIELDS, |context, options| {
        Ok(Arc::new(sink::External::new(Spec::new("sink", context, options)?)))
    });
}
