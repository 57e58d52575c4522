//! The servers of the demo: those of the environment, or our own.

use std::{env, net::TcpListener, path::Path};

use bson::Document;
use oplogue_testkit::servers::{Mongo, MongoOptions, Redis, RedisOptions};
use tempfile::TempDir;

use crate::{
    oplogue::Outcome,
    processes::{has_positions, reset_positions},
    show::{DEMO, say},
    writer::{AUDIT, COLLECTION},
};

pub struct Servers {
    pub mongo_url: String,
    pub redis_url: String,
    /// Where oplogue is to serve HTTP.
    pub http: String,
    state: TempDir,
    mongo: Option<Mongo>,
    redis: Option<Redis>,
    /// Checkpoints of these routes were there before.
    keep_positions: bool,
}

impl Servers {
    pub async fn start() -> Outcome<Servers> {
        let (mut mongo, mut redis) = (None, None);
        let mongo_url = match env::var("MONGO_URL") {
            Ok(url) => {
                say(DEMO, "MongoDB: the one of $MONGO_URL");
                url
            }
            Err(_) => {
                say(DEMO, "MongoDB: starting one, fetched on first use ...");
                let own = mongo.insert(Mongo::start(MongoOptions::default()).await);
                say(DEMO, &format!("         in {}", own.folder().display()));
                own.uri()
            }
        };
        let redis_url = match env::var("REDIS_URL") {
            Ok(url) => {
                say(DEMO, "Redis:   the one of $REDIS_URL");
                url
            }
            Err(_) => {
                say(DEMO, "Redis:   starting one, fetched on first use ...");
                let own = redis.insert(Redis::start(RedisOptions::default()).await);
                say(DEMO, &format!("         in {}", own.folder().display()));
                own.url()
            }
        };
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let state = tempfile::tempdir()?;
        let mut servers = Servers { mongo_url, redis_url, http, state, mongo, redis, keep_positions: false };
        if servers.redis.is_none() && has_positions(&servers).await? {
            servers.keep_positions = true;
            say(DEMO, "         which has a checkpoint of the example's routes: they go on from there, and it is kept");
        }
        Ok(servers)
    }

    /// Where oplogue keeps its state.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// The URL, unless it came from outside: it may hold a password.
    pub fn mongo_shown(&self) -> &str {
        if self.mongo.is_some() { &self.mongo_url } else { "is that of $MONGO_URL" }
    }

    /// Likewise.
    pub fn redis_shown(&self) -> &str {
        if self.redis.is_some() { &self.redis_url } else { "is that of $REDIS_URL" }
    }

    /// Ends our own servers; takes back what was left on others, if it came to that.
    pub async fn leave(self, were_used: bool) {
        if were_used
            && self.mongo.is_none()
            && let Ok(client) = mongodb::Client::with_uri_str(&self.mongo_url).await
        {
            for name in [COLLECTION, AUDIT] {
                if let Err(e) = client.database("app").collection::<Document>(name).drop().await {
                    say(DEMO, &format!("the collection app.{name} could not be dropped: {}", e.kind));
                }
            }
        }
        if were_used
            && self.redis.is_none()
            && !self.keep_positions
            && let Err(e) = reset_positions(&self).await
        {
            say(DEMO, &format!("the checkpoints could not be removed from Redis: {e}"));
        }
    }
}
