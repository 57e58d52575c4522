//! One watermark a route: what lies before it was published. See `docs/decisions/redis-dedupe.md`.

use std::sync::Arc;

use oplogue_api::{CheckpointStore, Error, ErrorKind, Event, Result, async_trait};
use redis::{Cmd, Value};

use crate::{
    link::{Link, Script},
    marks::{Marks, Part, Published, count, failure, hash_probes, words},
    render::{Ids, event_id, time_digits},
    store::{RedisStore, bytes, script_error, strange_reply},
};

/// See the module.
pub struct Watermark {
    link: Arc<Link>,
    store: Arc<RedisStore>,
    route: Option<String>,
    /// Whether what is not later than the watermark is left out. It is kept in any case.
    dedupe: bool,
    script: Script,
}

impl Watermark {
    /// That of `route`. No I/O.
    pub fn new(link: Arc<Link>, store: Arc<RedisStore>, route: Option<String>, dedupe: bool) -> Watermark {
        Watermark { link, store, route, dedupe, script: Script::new(include_str!("publish.lua")) }
    }
}

#[async_trait]
impl Marks for Watermark {
    fn ids(&self) -> Ids {
        Ids::Position
    }

    async fn publish(&self, part: Part<'_>) -> Result<Published> {
        let Part { pack, upto, is_whole, .. } = part;
        let route = self.route.as_deref().ok_or_else(|| Error::bug("a sink without a route cannot write"))?;
        let confirmed = if part.is_empty() { Vec::new() } else { self.store.watermark()? };
        let time = upto.map(|p| time_digits(p.time));
        let args = [
            pack,
            if self.dedupe { b"1" } else { b"0" },
            upto.map_or(&[][..], |p| p.token.as_bytes()),
            time.as_ref().map_or(&[][..], |t| &t[..]),
            &confirmed,
            if is_whole { b"1" } else { b"" },
        ];
        let place = self.link.place();
        let reply = self.link.run(&self.script, self.store.key(route).as_bytes(), &args).await?;
        let Value::Array(parts) = &reply else { return Err(strange_reply(place)) };
        match &parts[..] {
            [Value::Int(-1), _, error] => {
                let error = script_error(error, place);
                if error.kind() == ErrorKind::PositionLost {
                    // The route goes back to what Redis holds.
                    self.store.set_behind();
                }
                Err(error)
            }
            [done, known, watermark, rest @ ..] => {
                let (Some(done), Some(known), Some(watermark)) = (count(done), count(known), bytes(watermark)) else {
                    return Err(strange_reply(place));
                };
                if !part.is_empty() {
                    self.store.set_watermark(watermark.to_vec());
                }
                Ok(Published { done: done as usize, known, failure: failure(rest, place) })
            }
            _ => Err(strange_reply(place)),
        }
    }

    fn is_marked(&self, event: &Event) -> bool {
        self.dedupe && self.store.watermark().is_ok_and(|watermark| event_id(event)[..] <= watermark[..])
    }

    fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::clone(&self.store) as Arc<dyn CheckpointStore>
    }

    fn probes(&self) -> Vec<(Cmd, &'static str)> {
        let key = self.store.key(self.route.as_deref().unwrap_or("oplogue-check"));
        hash_probes(&key)
    }

    fn commands(&self) -> Vec<Vec<String>> {
        let key = self.store.key(self.route.as_deref().unwrap_or("oplogue-check"));
        [&["EVALSHA", "0", "1", &key][..], &["HSET", &key, "format", "1"]].map(words).to_vec()
    }
}
