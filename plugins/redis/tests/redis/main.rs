//! The sink and the stores against real servers.

mod checks;
mod dedupe;
mod faults;
mod messages;
mod refusals;
mod stores;
mod support;
