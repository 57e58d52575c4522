//! Real servers for tests: MongoDB replica sets and Redis, started on free ports in temporary folders.
//!
//! The programs are fetched by `tests/servers/fetch.sh` when they are not there yet. A server is a child of the test
//! process, and it and its folder are gone when that process ends, however it ends.
//!
//! Everything here panics when it cannot do what it is asked: a test that needs a server fails without it. None of it
//! works under tokio's paused clock.

mod cluster;
mod fetch;
mod mongo;
mod process;
mod redis;
mod sentinel;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
};

use tokio::sync::OnceCell;

pub use self::{
    cluster::RedisCluster,
    mongo::{Credentials, Mongo, MongoOptions},
    redis::{Redis, RedisOptions},
    sentinel::{Sentinels, SentinelsOptions},
};

/// The version that tests use when they do not care.
pub const DEFAULT_VERSION: &str = "6.0.5";
/// The versions of MongoDB that `fetch.sh` knows, oldest first.
pub const VERSIONS: &[&str] = &["4.4.2", "5.0.4", "6.0.5", "6.0.27"];

/// A replica set of one of the default version, shared by all tests of this process: keep to a database of your own
/// ([`unique`](crate::unique)), and change nothing that concerns the server as a whole.
pub async fn mongo() -> &'static Mongo {
    mongo_version(DEFAULT_VERSION).await
}

/// Like [`mongo`], of one of [`VERSIONS`].
pub async fn mongo_version(version: &str) -> &'static Mongo {
    type Shared = HashMap<&'static str, Arc<OnceCell<&'static Mongo>>>;
    static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(Default::default);
    let Some(version) = VERSIONS.iter().find(|v| **v == version) else {
        panic!("no MongoDB {version} here; there are {VERSIONS:?}");
    };
    let cell = SHARED.lock().expect("no panic under this lock").entry(version).or_default().clone();
    cell.get_or_init(|| async {
        // Never dropped: the keeper of its folder ends it together with the process.
        &*Box::leak(Box::new(Mongo::start(MongoOptions { version, ..Default::default() }).await))
    })
    .await
}

/// The program `redis-cli`.
pub async fn redis_cli() -> std::path::PathBuf {
    fetch::program("redis".into(), "redis-cli").await
}

/// A Redis shared by all tests of this process: keep to keys and channels of your own.
pub async fn redis() -> &'static Redis {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    SHARED.get_or_init(|| Redis::start(RedisOptions::default())).await
}
