//! The source `mongo-oplog`: tails `local.oplog.rs` of one replica set.

mod ahead;
mod echoes;
mod findings;
mod gathering;
mod log;
pub(crate) mod looking;
pub(crate) mod lookup;
mod options;
mod position;
pub(crate) mod readable;
mod reply;
mod tail;
mod wanted;

use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bson::Timestamp;
use mongodb::Client;
use oplogue_api::{
    Batch, Error, ErrorKind, Finding, Interest, Position, Registry, Result, Share, Source, StartAt, Supply,
    oplog::OpTime,
};

// The replicator reads the log of its peer.
pub(crate) use self::{
    echoes::Form,
    gathering::{Gathering, Part},
    log::{Log, ReadConcern, op_time},
    reply::Reply,
};
use self::{
    lookup::Lookup,
    options::{FIELDS, FullDocument, Settings, Wanted},
    position::Place,
    tail::{Pace, Tail},
    wanted::Wanted as Entries,
};
use crate::{
    client::{connect, hang_up, hello, standalone},
    errors::Phase,
    identity::identity,
    pushdown,
    start::Start,
};

/// Enters the source.
pub(crate) fn register(r: &mut Registry) {
    r.source("mongo-oplog", "Reads the oplog of a MongoDB replica set", FIELDS, |context, options| {
        let settings = Settings::new(options)?;
        Ok(Box::new(Oplog { name: context.name.clone(), settings, client: None, tail: None }))
    });
}

struct Oplog {
    name: String,
    settings: Settings,
    client: Option<Client>,
    tail: Option<Tail>,
}

impl Oplog {
    async fn client(&mut self) -> Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(&self.settings.uri, &format!("oplogue {}", self.name)).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    fn lookup(&self, client: &Client) -> Result<Option<Lookup>> {
        let namespaces = match self.settings.wanted()? {
            Wanted::Nowhere => return Ok(None),
            Wanted::Everywhere => None,
            Wanted::In(globs) => Some(globs),
        };
        Ok(Some(Lookup::new(client, self.settings.read_concern, namespaces)))
    }
}

/// Where the option `start` says.
async fn configured(start: Start, log: &Log) -> Result<Place> {
    let at = match start {
        Start::Now => return now(log).await,
        Start::Oldest => {
            return Ok(match log.oldest(Phase::Open).await? {
                Some(oldest) => Place { at: oldest.at, first: true },
                None => Place::EMPTY,
            });
        }
        Start::At(at) => at,
    };
    // A little tolerance: the server's clock is not ours.
    let limit = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_add(60);
    if u64::from(at.time) > limit {
        return Err(Error::option("start", "`start` lies in the future").hint("write \"now\", or a time that is past"));
    }
    let (Some(found), Some(oldest)) = (log.at_or_after(at, Phase::Open).await?, log.oldest(Phase::Open).await?) else {
        // Nothing that late yet: everything to come is.
        return now(log).await;
    };
    // I4: begin later than asked for only when nothing was there before. No position is lost, the wish is wrong.
    if found.at == oldest.at && found.at.ts > at && !oldest.is_genesis {
        return Err(Error::operator(format!(
            "the oplog no longer reaches back to the time in `start`; it begins at {}",
            rfc3339(oldest.at.ts)
        ))
        .hint("write a later time, or \"oldest\""));
    }
    Ok(Place { at: found.at, first: true })
}

/// Behind the entry of this time, which must be there (I4): another one's absence is found when it is looked for.
async fn by_time(ts: Timestamp, log: &Log) -> Result<Place> {
    let found = log.at_or_after(ts, Phase::Resume).await?.filter(|found| found.at.ts == ts);
    Ok(Place::behind(found.map_or(OpTime { ts, t: -1 }, |found| found.at)))
}

async fn now(log: &Log) -> Result<Place> {
    Ok(log.newest(Phase::Open).await?.map_or(Place::EMPTY, Place::behind))
}

fn rfc3339(ts: Timestamp) -> String {
    bson::DateTime::from_millis(i64::from(ts.time) * 1000).try_to_rfc3339_string().unwrap_or_default()
}

#[async_trait]
impl Source for Oplog {
    fn looks_up(&self) -> bool {
        self.settings.full_document == options::FullDocument::UpdateLookup
    }

    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        self.tail = None;
        let client = self.client().await?;
        let hello = hello(&client, Phase::Check).await?;
        if hello.mongos {
            return Err(mongos());
        }
        if hello.is_standalone() {
            return Err(standalone());
        }
        let deployment = identity(&client).await?;
        let log = Log::new(&client, self.settings.read_concern);
        let pace = Pace {
            batch: self.settings.batch_size,
            wait: self.settings.wait.0,
            include_system: self.settings.include_system,
            replicated: interest.replicated,
        };
        let entries = match Entries::new(interest, self.settings.include_system).filter(|_| self.settings.push_down) {
            Some(entries) => log.can_restrict(entries).await?,
            None => None,
        };
        let mut attempts = 0;
        let tail = loop {
            let place = match from {
                StartAt::Position(position) if position.is_time_only() => by_time(position.time, &log).await?,
                StartAt::Position(position) => Place::from_position(position, deployment.as_deref())?,
                StartAt::Now => now(&log).await?,
                StartAt::Configured => configured(self.settings.start, &log).await?,
            };
            attempts += 1;
            let lookup = self.lookup(&client)?;
            match Tail::open(log.clone(), place, deployment.clone(), pace, entries.clone(), lookup).await {
                // The oldest entry was truncated since it was asked for: the next one is the oldest now. Nobody had a position.
                Err(e) if e.kind() == ErrorKind::PositionLost && !matches!(from, StartAt::Position(_)) => {
                    if attempts == 5 {
                        return Err(Error::transient(
                            "the oplog is truncated faster than its oldest entry can be read",
                        ));
                    }
                }
                tail => break tail?,
            }
        };
        let position = tail.position();
        self.tail = Some(tail);
        Ok(position)
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(tail) = &mut self.tail else { return Err(Error::bug("the source is read without being open")) };
        match tail.next().await {
            Ok(batch) => Ok(Some(batch)),
            Err(e) => {
                self.tail = None;
                Err(e)
            }
        }
    }

    fn supply(&self) -> Supply {
        let never_after_of_updates = matches!(self.settings.full_document, FullDocument::Default);
        Supply { never_before: true, never_after_of_updates, ..Supply::default() }
    }

    fn shares(&self, interest: &Interest) -> Vec<Share> {
        let share = if self.settings.push_down { pushdown::oplog_share } else { Share::here };
        interest.selections.iter().map(share).collect()
    }

    async fn check(&mut self) -> Vec<Finding> {
        match self.client().await {
            Ok(client) => findings::look(&client, &self.settings).await,
            Err(e) => vec![e.into()],
        }
    }

    async fn close(&mut self) {
        self.tail = None;
        hang_up(self.client.take()).await;
    }
}

fn mongos() -> Error {
    Error::operator("the server is a mongos: the oplog of a sharded cluster cannot be read through it")
        .hint("use the source type mongo-change-stream, which reads a sharded cluster as one ordered stream")
}
