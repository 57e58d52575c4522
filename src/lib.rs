//! oplogue: a plugin-based change-data-capture router for MongoDB.
#![deny(missing_docs)]

pub mod config;
pub mod engine;
pub mod telemetry;
