//! The sink and the stores against real servers.

mod checks;
mod collections;
mod dedupe;
mod documents;
mod faults;
mod keys;
mod messages;
mod refusals;
mod resync;
mod stores;
mod support;
