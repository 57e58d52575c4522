//! Redis plugins: the sink `redis-oplog`, which publishes changes for Meteor's redis-oplog, and the checkpoint store `redis`.
//!
//! What is published is described in `docs/redis-oplog.md`; what the deduplication promises, and when, in
//! `docs/decisions/redis-dedupe.md`.

mod changed;
mod check;
mod coalesce;
mod collections;
mod ejson;
mod fields;
mod id;
mod json;
mod keyed;
mod link;
mod marks;
mod notices;
mod number;
mod options;
mod pack;
mod pattern;
mod raw;
mod regexp;
mod render;
mod reply;
mod sink;
mod store;
mod template;
mod watermark;
mod work;

use std::sync::Arc;

use oplogue_api::{CheckpointStore, Registry, Sink};

use crate::{
    options::{SinkOptions, StoreOptions},
    sink::RedisOplog,
    store::{Keeping, RedisStore},
};

/// Enters the plugins of this crate.
pub fn register(r: &mut Registry) {
    r.sink(
        "redis-oplog",
        "Publishes changes to Redis for Meteor's redis-oplog, each once and in order",
        options::SINK,
        |context, options| {
            let (link, options) = options::connection(options)?;
            let sink = RedisOplog::new(context, Arc::new(link), SinkOptions::new(&options)?)?;
            Ok(Arc::new(sink) as Arc<dyn Sink>)
        },
    );
    r.store("redis", "Keeps checkpoints in Redis, one hash a route", options::STORE, |_, options| {
        let (link, options) = options::connection(options)?;
        let options = options.parse::<StoreOptions>()?;
        Ok(Arc::new(RedisStore::new(Arc::new(link), &options.metadata_prefix, Keeping::Alone))
            as Arc<dyn CheckpointStore>)
    });
}
