//! Runs captured events and dead letters through routes again.

mod input;
mod lane;

pub use input::{Captured, Input, Read1};
pub use lane::Lane;
