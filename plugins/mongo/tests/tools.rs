//! `oplogue conflicts` and `oplogue verify` on real deployments.

#[path = "tools/conflicts.rs"]
mod conflicts;
#[path = "tools/pair.rs"]
mod pair;
#[path = "tools/verify.rs"]
mod verify;
