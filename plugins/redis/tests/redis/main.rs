//! The sink and the stores against real servers.

mod checks;
mod coalesce;
mod collections;
mod dedupe;
mod documents;
mod faults;
mod messages;
mod meteor;
mod refusals;
mod stores;
mod support;
