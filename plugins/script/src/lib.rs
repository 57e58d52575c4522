//! The transform `script`: JavaScript, run by an embedded QuickJS within limits of time and memory. See `docs/script.md`, and
//! `docs/decisions/script-engine.md` for why.
//!
//! `transform` asks `worker`, a thread, which gives events to `sandbox`, the engine; `read` and `write` turn documents into
//! objects and back, and `edit` makes an event of what the script has left.
#![deny(missing_docs)]

mod edit;
mod message;
mod options;
mod read;
mod sandbox;
mod transform;
mod worker;
mod write;

#[cfg(test)]
mod tests;

use oplogue_api::Registry;

use options::{FIELDS, Script};

/// Enters the plugin of this crate.
///
/// # Panics
/// When its name is taken.
pub fn register(r: &mut Registry) {
    r.transform("script", "Passes events through a script in JavaScript, within limits", FIELDS, |context, options| {
        Ok(Box::new(transform::Scripted::new(Script::new(context, options)?)?))
    });
}
