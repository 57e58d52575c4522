//! The router against real servers, one binary for all of it.

mod backlog;
mod bad_input;
mod beside;
mod cli;
mod collections;
mod config;
mod crash;
mod disk;
mod dropin;
mod endpoints;
mod engine;
mod failover;
mod forget;
mod graph;
mod hostile;
mod leaks;
mod outage;
mod process;
mod replication;
mod replication_docs;
mod signals;
mod subscriber;
mod support;
mod troubles;
mod twins;
mod writer;
