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
mod link;
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

use std::sync::Arc;

use oplogue_api::{CheckpointStore, Registry, Sink};

use crate::{
    link::Link,
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
        |context, options| Ok(Arc::new(RedisOplog::new(context, SinkOptions::new(options)?)?) as Arc<dyn Sink>),
    );
    r.store("redis", "Keeps checkpoints in Redis, one hash a route", options::STORE, |_, options| {
        let options = options.parse::<StoreOptions>()?;
        let link = Arc::new(Link::new(&options.url, options.ca_file.as_deref())?);
        Ok(Arc::new(RedisStore::new(link, &options.metadata_prefix, Keeping::Alone)) as Arc<dyn CheckpointStore>)
    });
}
