//! Small pieces that several tests share.

use std::hash::{BuildHasher, Hasher, RandomState};

use oplogue_testkit::generate::Rng;

use crate::process::Oplogue;

/// A `[sources.a]` table of either Mongo source.
pub fn source(kind: &str, uri: &str) -> String {
    format!("[sources.a]\ntype = \"{kind}\"\nuri = \"{uri}\"\n")
}

/// A router whose route `publish` tells `redis` of the writer's changes to `<db>.c`. `more` is what else the table of the
/// route says, and the tables behind it.
pub fn to_redis(kind: &str, uri: &str, redis: &str, db: &str, more: &str) -> Oplogue {
    Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.c"]
        operations = ["update", "replace"]
        [sinks.meteor]
        type = "redis-oplog"
        url = "{redis}"
        metadata_prefix = "{db}::"
        [[routes]]
        name = "publish"
        from = ["a"]
        via = ["mine"]
        to = ["meteor"]
        {more}
        "#,
        source(kind, uri)
    ))
}

/// Random numbers from a seed that a failing test prints; `OPLOGUE_TEST_SEED` sets it.
pub struct Chance {
    seed: u64,
    rng: Rng,
}

impl Chance {
    pub fn new() -> Chance {
        let given = std::env::var("OPLOGUE_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Chance { seed, rng: Rng::new(seed) }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }
}
