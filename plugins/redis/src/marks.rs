//! How a sink remembers what it has published, and where it resumes: the two are one step of one script with the messages.

use std::sync::Arc;

use oplogue_api::{CheckpointStore, Error, Position, Result, async_trait};
use redis::{Cmd, Value};

use crate::{
    pack::Pack,
    render::Ids,
    store::{bytes, script_error},
};

/// What one call of a script did.
pub struct Published {
    /// How many events of the pack are published, now or before.
    pub done: usize,
    /// How many of those were published before.
    pub known: u64,
    /// Why the next one was not.
    pub failure: Option<Error>,
}

/// What is published at once.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// A finished [`Pack`](crate::pack::Pack), four fields an event.
    pub pack: &'a [u8],
    /// The position that is reached with its last event.
    pub upto: Option<&'a Position>,
    /// The position was lost within it: `upto` holds although it may be an earlier one.
    pub has_gap: bool,
    /// If an event is refused, none of the pack counts as published: messages behind it speak for events before it.
    pub is_whole: bool,
}

impl<'a> Part<'a> {
    /// Nothing special.
    pub fn of(pack: &'a [u8], upto: Option<&'a Position>) -> Part<'a> {
        Part { pack, upto, has_gap: false, is_whole: false }
    }

    /// Whether there is nothing to do: the call shows that the next one could work.
    pub fn is_empty(&self) -> bool {
        self.pack.len() <= Pack::EMPTY && self.upto.is_none()
    }
}

/// One way of remembering.
#[async_trait]
pub trait Marks: Send + Sync {
    /// What the pack calls its events.
    fn ids(&self) -> Ids;

    /// Publishes what is not marked, marks it, and moves the position.
    ///
    /// # Errors
    /// `PositionLost` when Redis has forgotten marks that it had confirmed. Nothing is published any more then, until the route
    /// has loaded the position that Redis holds (I1). Otherwise nothing is known about the part.
    async fn publish(&self, part: Part<'_>) -> Result<Published>;

    /// Whether an event is known to be marked, without asking Redis.
    fn is_marked(&self, event: &oplogue_api::Event) -> bool;

    /// Where the position is kept.
    fn store(&self) -> Arc<dyn CheckpointStore>;

    /// Commands that are needed and change nothing, each with what it shows when it works.
    fn probes(&self) -> Vec<(Cmd, &'static str)>;

    /// Commands that the script runs, to ask whether the user may.
    fn commands(&self) -> Vec<Vec<String>>;
}

/// A script that does nothing, with this key.
pub fn script_probe(key: &str) -> (Cmd, &'static str) {
    let mut eval = redis::cmd("EVAL");
    eval.arg("return 1").arg(1).arg(key);
    (eval, "scripts can run")
}

/// The error, or none, at the end of a script's reply: a false there is a nil.
pub fn failure(rest: &[Value], place: &str) -> Option<Error> {
    match rest {
        [] | [Value::Nil] => None,
        [error, ..] => Some(script_error(error, place)),
    }
}

/// A number of a script's reply.
pub fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok(),
    }
}

/// The probes of a hash.
pub fn hash_probes(key: &str) -> Vec<(Cmd, &'static str)> {
    let (mut read, mut write) = (redis::cmd("HMGET"), redis::cmd("HDEL"));
    read.arg(key).arg("format");
    // Of a field that is not there.
    write.arg(key).arg("oplogue-check");
    vec![(read, "its keys can be read"), (write, "its keys can be written"), script_probe(key)]
}

/// The words of a command.
pub fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}
