//! Transforms that edit events: raw BSON to raw BSON, key, documents and change alike.

mod change;
mod choose;
mod diff;
mod digest;
mod document;
mod envelope;
mod event;
mod legacy;
mod names;
mod project;
mod redact;
mod rename;
mod scope;
mod set;
#[cfg(test)]
mod tests;
mod tree;
mod unwrap;

use oplogue_api::Registry;

pub(crate) fn register(r: &mut Registry) {
    choose::register(r);
    envelope::register(r);
    project::register(r);
    redact::register(r);
    rename::register(r);
    set::register(r);
    unwrap::register(r);
}
