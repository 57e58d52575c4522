//! Transforms that edit events: raw BSON to raw BSON, key, documents and change alike.

mod change;
mod diff;
mod digest;
mod document;
mod event;
mod names;
mod project;
mod redact;
mod rename;
mod scope;
mod tree;
#[cfg(test)]
mod tests;

use oplogue_api::Registry;

pub(crate) fn register(r: &mut Registry) {
    project::register(r);
    redact::register(r);
    rename::register(r);
}
