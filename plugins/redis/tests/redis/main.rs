//! The sink and the stores against real servers.

mod checks;
mod dedupe;
mod faults;
mod keys;
mod messages;
mod refusals;
mod resync;
mod stores;
mod support;
