//! `mongo-mmm`: replicates into another MongoDB deployment that takes writes too. See `docs/replication.md` and
//! `docs/decisions/replication.md`.

#![allow(dead_code)] // Until the sink is registered.

mod copy;
mod marker;
mod names;
