//! Runs captured events and dead letters through routes again.

mod input;
mod lane;

pub use input::{Captured, Entry, Input};
pub use lane::Lane;
