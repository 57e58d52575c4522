//! oplogue: a plugin-based change-data-capture router for MongoDB.
//!
//! A program with plugins of its own is ten lines:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     let mut registry = oplogue::builtin::registry();
//!     // my_plugins::register(&mut registry);
//!     oplogue::main_with(registry)
//! }
//! ```
//!
//! [`builtin`], [`main_with`] and the contract ([`api`]) are the interface for such programs. The other modules are public for
//! tests and measurements, and may change with every version.
#![deny(missing_docs)]

pub mod builtin;
mod cli;
pub mod config;
pub mod denylist;
pub mod engine;
pub mod mmm;
pub mod oplogtoredis;
mod replay;
pub mod telemetry;
mod testing;

pub use cli::main_with;
pub use oplogue_api as api;
