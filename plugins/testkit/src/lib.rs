//! Tests for plugins: real servers, a cuttable proxy, the conformance kit, fault wrappers.
#![deny(missing_docs)]
pub mod generate;
pub mod sample;
