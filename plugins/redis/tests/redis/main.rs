//! The sink and the stores against real servers.

mod checks;
mod cluster;
mod dedupe;
mod faults;
mod messages;
mod refusals;
mod sentinel;
mod stores;
mod support;
mod tls;
