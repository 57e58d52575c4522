//! Replication between deployments that take writes: the real binary, real servers, random work, and every kind of trouble.

mod acceptance;
mod bad_input;
mod conflicts;
mod merge;
mod mesh;
mod random;
mod silence;
mod trouble;
mod work;
