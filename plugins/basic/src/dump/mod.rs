//! The `bson-dump` source: replays a dump of an oplog, as `mongodump` writes it.

mod entries;
mod partial;
mod position;
mod replay;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use oplogue_api::{
    Batch, Error, Field, FieldType, Finding, Interest, Position, Registry, Result, Source, StartAt, Supply, async_trait,
};
use serde::Deserialize;
use tokio::task::JoinHandle;

use replay::{From, Replay};

const FIELDS: &[Field] = &[
    Field::new("path", FieldType::String, "The file: `oplog.bson` or `oplog.rs.bson` of mongodump, plain or gzip")
        .required(),
    Field::new("include_system", FieldType::Bool, "Also deliver internal namespaces such as admin.system.users")
        .default("false"),
    Field::new("batch_size", FieldType::Integer, "How many entries a batch holds at most").default("1000"),
];

pub(crate) fn register(r: &mut Registry) {
    r.source("bson-dump", "Replays a dump of an oplog: bson of mongodump, plain or gzip", FIELDS, |_, options| {
        let options: DumpOptions = options.parse()?;
        if options.path.as_os_str().is_empty() {
            return Err(Error::option("path", "the path of the dump is empty")
                .hint("set `path` to a file such as dump/local/oplog.rs.bson"));
        }
        if !(1..=100_000).contains(&options.batch_size) {
            return Err(
                Error::option("batch_size", "`batch_size` must be between 1 and 100000").hint("leave it out for 1000")
            );
        }
        let settings = Settings {
            path: options.path,
            include_system: options.include_system,
            batch_size: options.batch_size as usize,
        };
        Ok(Box::new(BsonDump { settings, state: State::Closed }))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpOptions {
    path: PathBuf,
    #[serde(default)]
    include_system: bool,
    #[serde(default = "batch_size")]
    batch_size: i64,
}

fn batch_size() -> i64 {
    1000
}

#[derive(Clone)]
struct Settings {
    path: PathBuf,
    include_system: bool,
    batch_size: usize,
}

struct BsonDump {
    settings: Settings,
    state: State,
}

type Step = (Box<Replay>, Result<Option<Batch>>);

enum State {
    Closed,
    Idle(Box<Replay>),
    /// A read on a thread that may wait for the disk. It stays here when `next` is dropped, so that its batch is not lost.
    Reading(JoinHandle<Step>),
}

impl BsonDump {
    async fn at_the_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(failed)
    }
}

fn failed(e: tokio::task::JoinError) -> Error {
    Error::bug("the thread that reads the dump failed").caused_by(e)
}

#[async_trait]
impl Source for BsonDump {
    fn supply(&self) -> Supply {
        Supply { never_before: true, never_after_of_updates: true, ..Supply::default() }
    }

    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        self.state = State::Closed;
        let from = match from {
            StartAt::Position(position) => From::Position(position.clone()),
            StartAt::Configured => From::Begin,
            StartAt::Now => From::End,
        };
        let (settings, replicated) = (self.settings.clone(), interest.replicated);
        let replay = Self::at_the_disk(move || Replay::open(&settings, &from, replicated)).await??;
        let position = replay.position();
        self.state = State::Idle(Box::new(replay));
        Ok(position)
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        if let State::Idle(_) = self.state
            && let State::Idle(mut replay) = std::mem::replace(&mut self.state, State::Closed)
        {
            self.state = State::Reading(tokio::task::spawn_blocking(move || {
                let batch = replay.next();
                (replay, batch)
            }));
        }
        let State::Reading(reading) = &mut self.state else {
            return Err(Error::bug("the dump was read without being open"));
        };
        let read = reading.await;
        // S15: what failed half-way is not gone on with, but opened again at a position.
        self.state = State::Closed;
        let (replay, batch) = read.map_err(failed)?;
        let batch = batch?;
        self.state = State::Idle(replay);
        Ok(batch)
    }

    async fn check(&mut self) -> Vec<Finding> {
        let settings = self.settings.clone();
        match Self::at_the_disk(move || replay::look(&settings.path)).await {
            Ok(finding) => vec![finding],
            Err(e) => vec![e.into()],
        }
    }

    async fn close(&mut self) {
        self.state = State::Closed;
    }
}
