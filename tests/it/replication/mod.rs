//! Replication between deployments that take writes: the real binary, real servers, random work, and every kind of trouble.

mod acceptance;
mod bad_input;
mod clocks;
mod conflicts;
mod forward;
mod forward_trouble;
mod lost;
mod merge;
mod mesh;
mod peer;
mod random;
mod silence;
mod trouble;
mod unique;
mod work;
