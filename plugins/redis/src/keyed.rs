//! A key for each event, and resume keys, as oplogtoredis has them: for a fleet of both.
//!
//! Names and values (oplogtoredis 3.9, `lib/redispub`): `<prefix>processed::<entry>::<index>` is `1` for some time after the event
//! was published; `<prefix>lastProcessedEntry.<n>` is the entry that writer `n` has come to. An entry is its `ts` as a decimal
//! number, seconds times 2^32 plus increment; the index counts the inserts, updates and deletes of that entry.
//!
//! The resume keys hold a time and nothing else: no deployment, no generation. So the checkpoint store here cannot keep tokens, and
//! does not tell writers apart; the clauses C2, C3, C8 and C9 of the contract do not hold for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bson::Timestamp;
use oplogue_api::{
    Checkpoint, CheckpointStore, Error, ErrorKind, Event, Finding, Position, Result, Saved, async_trait,
};
use redis::{Cmd, Value};

use crate::{
    check,
    link::{Link, Script},
    marks::{Marks, Part, Published, count, failure, script_probe, words},
    pack::Pack,
    render::Ids,
    reply,
    store::{bytes, script_error, strange_reply},
};

/// A claim this close to its end is not counted on: clocks and replies take their time.
const MARGIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub struct Keyed(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    prefix: String,
    /// How long a claim lasts.
    ttl: Duration,
    /// How many resume keys there are.
    ordinals: u32,
    script: Script,
    known: Mutex<Known>,
}

/// What this instance knows of what Redis holds.
#[derive(Default)]
struct Known {
    /// A claim that is there until then, unless Redis forgets.
    claim: Option<(Vec<u8>, Instant)>,
    /// Redis has forgotten events since the checkpoint was last loaded.
    behind: bool,
}

/// The entry of this time as oplogtoredis writes it.
pub fn entry_number(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

fn entry_time(number: u64) -> Timestamp {
    Timestamp { time: (number >> 32) as u32, increment: number as u32 }
}

/// What one call of the script told.
struct Told {
    published: Published,
    /// The entry that is stored.
    stored: Option<u64>,
}

impl Keyed {
    /// Behind `link`, with what the names of its keys begin with. No I/O.
    pub fn new(link: Arc<Link>, prefix: &str, ttl: Duration, ordinals: u32) -> Keyed {
        let script = Script::new(include_str!("publish_keys.lua"));
        Keyed(Arc::new(Inner { link, prefix: prefix.to_owned(), ttl, ordinals, script, known: Mutex::default() }))
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resume_key(&self, n: u32) -> String {
        format!("{}lastProcessedEntry.{n}", self.prefix)
    }

    fn resume_keys(&self) -> Vec<String> {
        (0..self.ordinals).map(|n| self.resume_key(n)).collect()
    }

    /// The claim that must be there.
    fn claim(&self) -> Result<Vec<u8>> {
        match &*self.known() {
            Known { behind: true, .. } => Err(reply::from_code("OPLOGUEBEHIND").at(self.link.place())),
            Known { claim: Some((claim, until)), .. } if Instant::now() < *until => Ok(claim.clone()),
            _ => Ok(Vec::new()),
        }
    }

    async fn run(&self, Part { pack, upto, has_gap, .. }: Part<'_>, claim: &[u8]) -> Result<Told> {
        let place = self.link.place();
        let upto = upto.map(|p| entry_number(p.time).to_string()).unwrap_or_default();
        let (ttl, ordinals) = (self.ttl.as_secs().to_string(), self.ordinals.to_string());
        let args = [
            pack,
            ttl.as_bytes(),
            self.prefix.as_bytes(),
            upto.as_bytes(),
            ordinals.as_bytes(),
            if has_gap { b"1" } else { b"0" },
            claim,
        ];
        let asked = Instant::now();
        let reply = self.link.run(&self.script, self.resume_key(0).as_bytes(), &args).await?;
        let Value::Array(parts) = &reply else { return Err(strange_reply(place)) };
        match &parts[..] {
            [Value::Int(-1), _, error] => {
                let error = script_error(error, place);
                if error.kind() == ErrorKind::PositionLost {
                    self.known().behind = true;
                }
                Err(error)
            }
            [done, known, last, left, stored, rest @ ..] => {
                let (Some(done), Some(known), Some(last), Some(left), Some(stored)) =
                    (count(done), count(known), bytes(last), count(left), bytes(stored))
                else {
                    return Err(strange_reply(place));
                };
                if !last.is_empty() {
                    self.known().claim =
                        Some((last.to_vec(), asked + Duration::from_secs(left).saturating_sub(MARGIN)));
                }
                let stored = match stored {
                    b"" => None,
                    text => Some(self.entry(text)?),
                };
                Ok(Told { published: Published { done: done as usize, known, failure: failure(rest, place) }, stored })
            }
            _ => Err(strange_reply(place)),
        }
    }

    fn entry(&self, text: &[u8]) -> Result<u64> {
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::operator(format!("{}: a resume key does not hold the number of an entry", self.link.place()))
                .hint(format!("look at `GET {}`; `oplogue position reset` removes the keys", self.resume_key(0)))
        })
    }
}

#[async_trait]
impl Marks for Keyed {
    fn ids(&self) -> Ids {
        Ids::Entry
    }

    async fn publish(&self, part: Part<'_>) -> Result<Published> {
        let claim = if part.is_empty() { Vec::new() } else { self.0.claim()? };
        Ok(self.0.run(part, &claim).await?.published)
    }

    fn is_marked(&self, _: &Event) -> bool {
        false
    }

    fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.clone())
    }

    fn probes(&self) -> Vec<(Cmd, &'static str)> {
        let (mut read, mut write) = (redis::cmd("MGET"), redis::cmd("SET"));
        read.arg(self.0.resume_keys());
        // A key that is not there is not made.
        write.arg(format!("{}processed::proof", self.0.prefix)).arg("1").arg("XX");
        vec![(read, "its keys can be read"), (write, "its keys can be written"), script_probe(&self.0.resume_key(0))]
    }

    fn commands(&self) -> Vec<Vec<String>> {
        let (key, claim) = (self.0.resume_key(0), format!("{}processed::proof", self.0.prefix));
        [
            &["EVALSHA", "0", "1", &key][..],
            &["GET", &key],
            &["SET", &claim, "1", "NX", "EX", "1"],
            &["EXISTS", &claim],
            &["TTL", &claim],
            &["DEL", &claim],
        ]
        .map(words)
        .to_vec()
    }
}

#[async_trait]
impl CheckpointStore for Keyed {
    /// The least of the resume keys: a writer of oplogtoredis that has had nothing to write has none.
    async fn load(&self, _: &str) -> Result<Option<Checkpoint>> {
        let mut keys = self.0.resume_keys();
        // Before oplogtoredis had several writers.
        keys.push(format!("{}lastProcessedEntry", self.0.prefix));
        let reply = self.0.link.ask(redis::cmd("MGET").arg(&keys)).await?;
        let Value::Array(values) = &reply else { return Err(strange_reply(self.0.link.place())) };
        let (numbered, old) = values.split_at(values.len().min(keys.len() - 1));
        *self.0.known() = Known::default();
        let least = |values: &[Value]| {
            let entries = values.iter().filter_map(bytes).map(|text| self.0.entry(text));
            entries.collect::<Result<Vec<_>>>().map(|entries| entries.into_iter().min())
        };
        let entry = match least(numbered)? {
            Some(entry) => Some(entry),
            None => least(old)?,
        };
        Ok(entry.map(|entry| Checkpoint { position: Position::at(entry_time(entry)), generation: 1 }))
    }

    async fn save(&self, _: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let claim = self.0.claim()?;
        let mut pack = Pack::new();
        let part = Part::of(pack.finish(), Some(&checkpoint.position));
        let stored = self.0.run(part, &claim).await?.stored.map(entry_time);
        Ok(match stored {
            Some(time) if time > checkpoint.position.time => {
                Saved::Superseded(Checkpoint { position: Position::at(time), generation: checkpoint.generation })
            }
            _ => Saved::Stored,
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn reset(&self, _: &str, position: Option<&Position>) -> Result<()> {
        *self.0.known() = Known::default();
        match position {
            Some(_) => {
                let mut pack = Pack::new();
                let part = Part { has_gap: true, ..Part::of(pack.finish(), position) };
                self.0.run(part, b"").await.map(drop)
            }
            None => {
                let mut keys = self.0.resume_keys();
                keys.push(format!("{}lastProcessedEntry", self.0.prefix));
                self.0.link.ask(redis::cmd("DEL").arg(&keys)).await.map(drop)
            }
        }
    }

    async fn check(&self) -> Vec<Finding> {
        check::store(&self.0.link, &self.0.prefix).await
    }
}
