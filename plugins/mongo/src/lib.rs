//! MongoDB plugins: the `mongo-oplog` and `mongo-change-stream` sources, the transform `enrich`, the sink `mongo-mmm` and the `mongo`
//! checkpoint store.
//!
//! They share the way to connect (`client`), the meaning of server errors (`errors`) and the identity of a
//! deployment (`identity`), which every position carries so that the position of another deployment is refused.

mod change_stream;
mod check;
mod client;
mod enrich;
mod errors;
mod globs;
mod identity;
mod mmm;
mod oplog;
mod pushdown;
mod start;
mod store;

use oplogue_api::Registry;

/// Enters the plugins of this crate.
pub fn register(r: &mut Registry) {
    change_stream::register(r);
    enrich::register(r);
    mmm::register(r);
    oplog::register(r);
    store::register(r);
}
