//! Checkpoints in Redis: one hash a route.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oplogue_api::{
    Checkpoint, CheckpointStore, Doc, Error, ErrorKind, Finding, Position, Result, Saved, async_trait, bytes::Bytes,
};
use redis::Value;

use crate::{
    check,
    link::{Link, Script},
    render::{parse_time, time_digits},
    reply,
};

/// The version of the hash' layout.
const FORMAT: &[u8] = b"1";

/// Whose checkpoints a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Those of a `redis-oplog` sink, beside its watermark. Several instances of the route may share them: the position only
    /// moves forward.
    WithSink,
    /// Those of any route: one writer, noticed by the generation.
    Alone,
}

/// See the module.
pub struct RedisStore {
    link: Arc<Link>,
    metadata_prefix: String,
    keeping: Keeping,
    save: Script,
    reset: Script,
    known: Mutex<Known>,
}

/// What the sink beside a store and the store itself know of what Redis holds.
#[derive(Default)]
struct Known {
    /// The watermark that Redis last confirmed to this instance; empty: none.
    watermark: Vec<u8>,
    /// Redis has forgotten events since the checkpoint was last loaded.
    behind: bool,
}

impl RedisStore {
    /// A store behind `link`. No I/O.
    pub fn new(link: Arc<Link>, metadata_prefix: &str, keeping: Keeping) -> RedisStore {
        RedisStore {
            link,
            metadata_prefix: metadata_prefix.to_owned(),
            keeping,
            save: Script::new(include_str!("save.lua")),
            reset: Script::new(include_str!("reset.lua")),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watermark that Redis last confirmed to this instance; empty: none.
    ///
    /// # Errors
    /// `PositionLost` when Redis has forgotten it. Until the route has loaded the position that Redis holds, nothing is published
    /// and no position saved: either would pass over what is to be sent again (I1).
    pub fn watermark(&self) -> Result<Vec<u8>> {
        match &*self.known() {
            Known { behind: true, .. } => Err(reply::from_code("OPLOGUEBEHIND").at(self.link.place())),
            known => Ok(known.watermark.clone()),
        }
    }

    /// Notes what Redis confirmed.
    pub fn set_watermark(&self, watermark: Vec<u8>) {
        self.known().watermark = watermark;
    }

    /// Notes that Redis has forgotten what it had confirmed.
    pub fn set_behind(&self) {
        self.known().behind = true;
    }

    /// The key of a route's hash.
    pub fn key(&self, route: &str) -> String {
        let kind = match self.keeping {
            Keeping::WithSink => "route",
            Keeping::Alone => "checkpoint",
        };
        format!("{}{kind}::{route}", self.metadata_prefix)
    }

    fn shared(&self) -> &'static [u8] {
        if self.is_shared() { b"1" } else { b"0" }
    }

    fn unreadable(&self, route: &str) -> Error {
        Error::operator(format!("{}: the checkpoint of route `{route}` cannot be read", self.link.place()))
            .hint(format!("look at `HGETALL {}`; `oplogue position reset` removes it", self.key(route)))
    }

    fn checkpoint(&self, route: &str, token: &Value, time: &Value, generation: &Value) -> Result<Checkpoint> {
        let read = || {
            let token = Doc::new(Bytes::copy_from_slice(bytes(token)?)).ok()?;
            let time = parse_time(bytes(time)?)?;
            let generation = std::str::from_utf8(bytes(generation)?).ok()?.parse().ok()?;
            Some(Checkpoint { position: Position { token, time }, generation })
        };
        read().ok_or_else(|| self.unreadable(route))
    }
}

/// The text of a reply.
pub fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The error that a script reports, as the error it means.
pub fn script_error(error: &Value, place: &str) -> Error {
    let text = bytes(error).map(String::from_utf8_lossy).unwrap_or_default();
    reply::from_code(reply::code_of(&text)).at(place)
}

/// A reply that no script of this crate gives.
pub fn strange_reply(place: &str) -> Error {
    Error::transient(format!("{place}: Redis gave an unexpected reply to a script"))
        .hint("check that nothing between oplogue and Redis changes replies; retrying")
}

#[async_trait]
impl CheckpointStore for RedisStore {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.key(route)).arg(&["format", "token", "time", "generation", "watermark"]);
        let reply = self.link.ask(&cmd).await?;
        let Value::Array(fields) = &reply else { return Err(strange_reply(self.link.place())) };
        let [format, token, time, generation, watermark] = &fields[..] else {
            return Err(strange_reply(self.link.place()));
        };
        if bytes(format).is_some_and(|f| f != FORMAT) {
            return Err(reply::from_code("OPLOGUEFORMAT").at(self.link.place()));
        }
        let watermark = bytes(watermark).filter(|_| self.is_shared()).unwrap_or_default().to_vec();
        *self.known() = Known { watermark, behind: false };
        if [token, time, generation].iter().all(|v| matches!(v, Value::Nil)) {
            return Ok(None);
        }
        self.checkpoint(route, token, time, generation).map(Some)
    }

    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let Checkpoint { position, generation } = checkpoint;
        let watermark = self.watermark()?;
        let time = time_digits(position.time);
        let generation = generation.to_string();
        let args = [position.token.as_bytes(), &time, generation.as_bytes(), self.shared(), &watermark];
        let reply = self.link.run(&self.save, self.key(route).as_bytes(), &args).await?;
        match &reply {
            Value::Array(parts) => match &parts[..] {
                [Value::Int(1)] => Ok(Saved::Stored),
                [Value::Int(0), token, time, generation] => {
                    self.checkpoint(route, token, time, generation).map(Saved::Superseded)
                }
                [Value::Int(-1), error] => {
                    let error = script_error(error, self.link.place());
                    if error.kind() == ErrorKind::PositionLost {
                        self.set_behind();
                    }
                    Err(error)
                }
                _ => Err(strange_reply(self.link.place())),
            },
            _ => Err(strange_reply(self.link.place())),
        }
    }

    fn is_shared(&self) -> bool {
        self.keeping == Keeping::WithSink
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        *self.known() = Known::default();
        let time = position.map(|p| time_digits(p.time));
        let args = [
            position.map_or(&[][..], |p| p.token.as_bytes()),
            time.as_ref().map_or(&[][..], |t| &t[..]),
            self.shared(),
        ];
        let reply = self.link.run(&self.reset, self.key(route).as_bytes(), &args).await?;
        match &reply {
            Value::Array(parts) => match &parts[..] {
                [Value::Int(1)] => Ok(()),
                [Value::Int(-1), error] => Err(script_error(error, self.link.place())),
                _ => Err(strange_reply(self.link.place())),
            },
            _ => Err(strange_reply(self.link.place())),
        }
    }

    async fn check(&self) -> Vec<Finding> {
        check::store(&self.link, &self.metadata_prefix).await
    }
}
