//! Transforms that edit events: raw BSON to raw BSON, key, documents and change alike.

mod change;
mod diff;
mod digest;
mod document;
mod event;
mod project;
mod redact;
mod scope;
mod tree;
#[cfg(test)]
mod tests;

use oplogue_api::Registry;

pub(crate) fn register(r: &mut Registry) {
    project::register(r);
    redact::register(r);
}
