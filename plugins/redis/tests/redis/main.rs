//! The sink and the stores against real servers.

mod checks;
mod cluster;
mod coalesce;
mod collections;
mod dedupe;
mod documents;
mod faults;
mod keys;
mod messages;
mod meteor;
mod refusals;
mod resync;
mod sentinel;
mod stores;
mod support;
mod tls;
