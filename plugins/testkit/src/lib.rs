//! Tests for plugins: real servers, a cuttable proxy, the conformance kit, fault wrappers.
#![deny(missing_docs)]
pub mod conformance;
pub mod faults;
pub mod generate;
pub mod proxy;
pub mod sample;
#[cfg(feature = "servers")]
pub mod servers;
mod wait;

pub use wait::{unique, wait_for};
