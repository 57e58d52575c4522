//! Wrappers that make trouble around any plugin, on a schedule that a seed repeats.
//!
//! ```
//! # use std::sync::Arc;
//! # use oplogue_testkit::{faults::{Fault, FaultySink, Schedule}, sample::MemorySink};
//! # use oplogue_api::ErrorKind;
//! let schedule = Schedule::new(7)
//!     .then(2, Fault::Reject(ErrorKind::Transient)) // the first two calls
//!     .sometimes(0.1, Fault::FailAfterWrite(ErrorKind::Transient)); // a tenth of the later ones
//! let sink = FaultySink::new(Arc::new(MemorySink::new()), schedule);
//! # let _ = sink;
//! ```

mod schedule;
mod sink;
mod source;
mod store;
mod transform;

pub use schedule::{Fault, Gate, Schedule};
pub use sink::FaultySink;
pub use source::FaultySource;
pub use store::FaultyStore;
pub use transform::FaultyTransform;

#[cfg(test)]
mod tests;
