//! The `mongo-change-stream` source: a collection, a database or a whole deployment, from a replica set or through mongos.
//!
//! The stream is opened by a raw `aggregate`, since the driver's own change stream knows not all options and hides the
//! replies; so resuming is this module's: from the position that the engine hands over, and nowhere else.

mod assemble;
mod check;
mod command;
mod decode;
mod fragments;
mod options;
mod position;
mod show;
mod token;

use std::{future::IntoFuture, time::Duration};

use bson::{Document, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::{Client, Database, raw_batch_cursor::RawBatchCursor};
use oplogue_api::{
    Batch, Doc, Error, ErrorKind, Finding, Interest, NamespacePattern, Position, Registry, Replicated, Result, Share,
    Source, StartAt, Supply, async_trait,
};

use crate::{
    client::{self, answered, bounded, connect, hello},
    errors::{Phase, classify, code, is_unexpected},
    identity::identity,
    pushdown,
    start::Start,
};
use assemble::{Assembled, Assembler, Mark, head};
use command::{Features, From, aggregate};
use options::{BeforeChange, FullDocument, Settings, UpdateDescription};
use position::Stream;
use show::Show;

/// How much longer than asked a reply may take before the server is asked whether it is still there. A `getMore` may search
/// the oplog for long before it finds an event of its scope.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many errors of unknown meaning in a row, without a reply between them, before a person has to look.
const FUTILE: u32 = 20;
/// How often the oldest entry may be overwritten between looking it up and reading it.
const RACES: u32 = 40;
const RACE: Duration = Duration::from_millis(250);

pub(crate) fn register(r: &mut Registry) {
    r.source(
        "mongo-change-stream",
        "Reads a change stream of a MongoDB collection, database or deployment",
        options::FIELDS,
        |_context, options| Ok(Box::new(ChangeStream::new(Settings::new(options)?))),
    );
}

struct ChangeStream {
    settings: Settings,
    client: Option<Client>,
    features: Features,
    stream: Stream,
    show: Show,
    /// What events must match to be sent.
    wanted: Option<Document>,
    open: Option<Open>,
    /// Errors of unknown meaning since the last reply.
    futile: u32,
}

/// An open stream.
struct Open {
    cursor: RawBatchCursor,
    assembler: Assembler,
    /// The first reply, when it came while opening.
    first: Option<Doc>,
    /// The next reply is the first one behind a position.
    resuming: bool,
    /// The newest cluster time seen.
    head: Timestamp,
}

/// Where to begin, as far as it is known before the server's features are.
enum Begin {
    Now,
    Time(Timestamp),
    Position(Position),
}

impl ChangeStream {
    fn new(settings: Settings) -> ChangeStream {
        let stream = Stream { deployment: None, scope: settings.scope(), pipeline: String::new() };
        let features = Features::wanted(&settings);
        let show = Show::default();
        ChangeStream { settings, client: None, features, stream, show, wanted: None, open: None, futile: 0 }
    }

    async fn client(&mut self) -> Result<Client> {
        if self.client.is_none() {
            self.client = Some(connect(&self.settings.uri, "oplogue").await?);
        }
        self.client.clone().ok_or_else(|| Error::bug("no client after connecting"))
    }

    fn database(&self, client: &Client) -> Database {
        client.database(self.settings.database.as_deref().unwrap_or("admin"))
    }

    /// Opens a cursor, giving up what the server does not know.
    async fn begin(&mut self, begin: &Begin) -> Result<Open> {
        let client = self.client().await?;
        let db = self.database(&client);
        loop {
            self.stream.pipeline = self.features.pipeline() + &self.fingerprint();
            let place = match begin {
                Begin::Position(position) => Some(self.stream.place(position)?),
                _ => None,
            };
            let from = match (begin, &place) {
                (_, Some(place)) if place.by_time => From::Time(Mark::new(&place.token)?.time),
                (_, Some(place)) => From::Token(&place.token),
                (Begin::Time(time), None) => From::Time(*time),
                (_, None) => From::Now,
            };
            let mut run = db
                .run_raw_cursor_command(aggregate(&self.settings, self.features, from, self.wanted.as_ref()))
                .batch_size(self.settings.batch_size)
                .max_time(self.settings.wait.0);
            if let Some(criteria) = client.selection_criteria() {
                run = run.selection_criteria(criteria.clone());
            }
            let mut cursor = match answered(run.batch()).await? {
                Ok(cursor) => cursor,
                Err(e) => match self.features.without(code(&e)) {
                    Some(fewer) => {
                        tracing::debug!(code = code(&e), ?fewer, "the server does not know all options");
                        self.features = fewer;
                        continue;
                    }
                    None if self.wanted.is_some() && is_unexpected(&e) => {
                        tracing::warn!(
                            code = code(&e),
                            "the server cannot evaluate the filters of the route: all events are read"
                        );
                        self.wanted = None;
                        continue;
                    }
                    None => {
                        let phase = if place.is_some() { Phase::Resume } else { Phase::Open };
                        return Err(classify(e, phase));
                    }
                },
            };
            if self.settings.update_description == UpdateDescription::Raw && !self.features.raw_updates {
                return Err(Error::option("update_description", "the server has no raw update descriptions")
                    .hint("use update_description = \"auto\", the mongo-oplog source, or MongoDB 6.0 or later"));
            }
            // The reply of the aggregate itself: no events, and the place where the stream stands.
            let reply = match bounded(async { cursor.next().await.transpose() }, Phase::Open).await? {
                Some(batch) => client::reply(batch)?,
                None => return Err(Error::transient("MongoDB closed the cursor as soon as it was open")),
            };
            let (from, skip) = match place {
                Some(place) if place.by_time => {
                    tracing::info!(
                        scope = self.stream.scope,
                        "the checkpoint was made while the server showed other events: resuming by its time"
                    );
                    (Mark::new(&place.token)?, token::read(&place.token))
                }
                Some(place) => (Mark::new(&place.token)?, None),
                None => {
                    let token = reply.get_document("cursor").and_then(|c| c.get_document("postBatchResumeToken"));
                    let token = token.map_err(|_| {
                        Error::operator("the server gives no postBatchResumeToken")
                            .hint("MongoDB 4.4 or later is needed")
                    })?;
                    (Mark::new(token)?, None)
                }
            };
            return Ok(Open {
                cursor,
                assembler: Assembler::new(from, self.show, skip),
                first: None,
                resuming: !matches!(begin, Begin::Now),
                head: head(&reply),
            });
        }
    }

    /// What tells one `$match` from another: a token of an event is good only where the event matches.
    fn fingerprint(&self) -> String {
        let Some(wanted) = &self.wanted else { return String::new() };
        // FNV-1a: the same in every build.
        let hash = wanted
            .to_string()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!(" match={hash:016x}")
    }

    /// The time of the oldest entry in the oplog.
    async fn oldest(&mut self) -> Result<Timestamp> {
        let client = self.client().await?;
        let oplog = client.database("local").collection::<bson::Document>("oplog.rs");
        let find = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).projection(doc! {"ts": 1});
        let entry = bounded(find.into_future(), Phase::Check).await.map_err(|e| {
            if e.kind() == ErrorKind::Operator {
                e.at("start = \"oldest\" looks into local.oplog.rs")
                    .hint("grant the user `read` on `local`, or use start = { at = TIME }")
            } else {
                e
            }
        })?;
        match entry.and_then(|e| e.get_timestamp("ts").ok()) {
            Some(time) => Ok(time),
            None => Err(Error::operator("start = \"oldest\" needs local.oplog.rs, which mongos does not show")
                .hint("use start = { at = TIME }")),
        }
    }

    /// Opens at `begin` and waits for the first reply, so that a place that is gone is known now.
    async fn begin_and_look(&mut self, begin: &Begin) -> Result<Open> {
        let mut open = self.begin(begin).await?;
        if open.resuming {
            // A long search goes on in the background: the reply is waited for in `next`.
            if let Ok(reply) = tokio::time::timeout(PATIENCE, open.cursor.next()).await {
                open.first = Some(taken(reply, Phase::Resume)?);
            }
        }
        Ok(open)
    }

    fn batch(&self, assembled: Assembled) -> Batch {
        Batch {
            events: assembled.events,
            bad: assembled.bad,
            end: self.stream.position(&assembled.end.token, assembled.end.time),
            // A stream that is opened now stands one tick behind the newest entry.
            head: assembled.head.max(assembled.end.time),
            bytes: assembled.bytes,
        }
    }

    /// The server takes its time: is it still there? If so, the batch says how far behind it the stream is.
    async fn heartbeat(&mut self) -> Result<Batch> {
        let client = self.client().await?;
        let admin = client.database("admin");
        let ping = client::run(&admin, doc! {"ping": 1}, Phase::Read);
        let reply = tokio::time::timeout(PATIENCE, ping)
            .await
            .map_err(|_| Error::transient("the MongoDB server does not answer any more"))??;
        let open = self.open.as_mut().ok_or_else(not_open)?;
        if let Ok(now) = reply.get_timestamp("operationTime") {
            open.head = open.head.max(now);
        }
        let (end, head) = (open.assembler.end().clone(), open.head);
        Ok(self.batch(Assembled { events: Vec::new(), bad: Vec::new(), end, head, bytes: 0 }))
    }
}

fn not_open() -> Error {
    Error::bug("the change stream is read before it is opened, or after an error")
}

/// What the cursor gave.
fn taken(reply: Option<mongodb::error::Result<mongodb::raw_batch_cursor::RawBatch>>, phase: Phase) -> Result<Doc> {
    match reply {
        Some(Ok(batch)) => client::reply(batch),
        Some(Err(e)) => Err(classify(e, phase)),
        None => Err(Error::transient("MongoDB closed the change stream")),
    }
}

#[async_trait]
impl Source for ChangeStream {
    fn looks_up(&self) -> bool {
        self.settings.full_document == options::FullDocument::UpdateLookup
    }

    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        self.open = None;
        if (interest.replicated != Replicated::AsWrites || interest.origins) && self.settings.database.is_some() {
            let who = if interest.origins { "a filter with `origin`" } else { "the sink of this route" };
            return Err(Error::option(
                "database",
                format!("{who} has to see the markers of replicators, and they are in a database of their own"),
            )
            .hint("read the whole deployment: leave `database` and `collection` out, and filter with a transform"));
        }
        self.show = Show { system: self.settings.include_system, replicated: interest.replicated };
        // Which of the events a replicator wrote is told by its markers.
        let markers = interest.replicated != Replicated::AsWrites || interest.origins || self.settings.include_system;
        self.wanted = pushdown::stream_match(interest, markers).filter(|_| self.settings.push_down);
        let client = self.client().await?;
        if hello(&client, Phase::Check).await?.is_standalone() {
            return Err(client::standalone());
        }
        self.stream.deployment = identity(&client).await?;
        self.features = Features::wanted(&self.settings);
        let mut races = 0;
        let by_time = matches!(from, StartAt::Position(position) if position.is_time_only());
        let open = loop {
            let oldest = matches!((from, self.settings.start), (StartAt::Configured, Start::Oldest));
            let begin = match (from, self.settings.start) {
                // The server takes the time itself along, and the place is behind it.
                (StartAt::Position(Position { time, .. }), _) if by_time => {
                    Begin::Time(Timestamp { increment: time.increment.saturating_add(1), ..*time })
                }
                (StartAt::Position(position), _) => Begin::Position(position.clone()),
                (StartAt::Now, _) | (StartAt::Configured, Start::Now) => Begin::Now,
                (StartAt::Configured, Start::Oldest) => Begin::Time(self.oldest().await?),
                (StartAt::Configured, Start::At(time)) => Begin::Time(time),
            };
            match self.begin_and_look(&begin).await {
                Ok(open) => break open,
                Err(e) if oldest && e.kind() == ErrorKind::PositionLost && races < RACES => {
                    // The server cuts the log in pieces, one after the other.
                    races += 1;
                    tokio::time::sleep(RACE).await;
                }
                Err(e) if !by_time && matches!(begin, Begin::Time(_)) && e.kind() == ErrorKind::PositionLost => {
                    return Err(Error::operator("the time in `start` is older than the oplog reaches")
                        .hint("use start = \"oldest\", or a later time"));
                }
                Err(e) => return Err(e),
            }
        };
        let position = match from {
            StartAt::Position(position) if !by_time => position.clone(),
            _ => self.stream.position(&open.assembler.end().token, open.assembler.end().time),
        };
        self.open = Some(open);
        Ok(position)
    }

    /// Cancel-safe: a request that is under way belongs to the cursor, not to this call, and between its reply and the
    /// batch nothing is awaited.
    async fn next(&mut self) -> Result<Option<Batch>> {
        let patience = self.settings.wait.0 + PATIENCE;
        let open = self.open.as_mut().ok_or_else(not_open)?;
        if open.first.is_none() && open.assembler.invalidated {
            // What is watched was dropped or renamed: go on behind that, for when it is created again.
            tracing::info!(
                scope = self.stream.scope,
                "what is watched was dropped or renamed; waiting for it to come again"
            );
            let last = open.assembler.last().clone();
            let position = self.stream.position(&last.token, last.time);
            let again = self.begin(&Begin::Position(position)).await?;
            self.open = Some(again);
        }
        let open = self.open.as_mut().ok_or_else(not_open)?;
        let phase = if open.resuming { Phase::Resume } else { Phase::Read };
        let reply = match open.first.take() {
            Some(reply) => Ok(reply),
            None => match tokio::time::timeout(patience, open.cursor.next()).await {
                Ok(Some(Err(e))) if is_unexpected(&e) => {
                    self.futile += 1;
                    let e = classify(e, phase);
                    Err(if self.futile < FUTILE {
                        e
                    } else {
                        Error::operator(format!("{} ({FUTILE} times in a row)", e.message()))
                            .hint("look into the server's log; the route can be restarted once the cause is mended")
                    })
                }
                Ok(reply) => taken(reply, phase),
                Err(_) => {
                    let alive = self.heartbeat().await;
                    if alive.is_err() {
                        self.open = None;
                    }
                    return alive.map(Some);
                }
            },
        };
        let assembled = reply.and_then(|reply| open.assembler.reply(&reply));
        match assembled {
            Ok(assembled) => {
                open.resuming = false;
                open.head = open.head.max(assembled.head);
                self.futile = 0;
                Ok(Some(self.batch(assembled)))
            }
            Err(e) => {
                self.open = None;
                Err(e)
            }
        }
    }

    fn supply(&self) -> Supply {
        let (db, coll) = (self.settings.database.as_deref(), self.settings.collection.as_deref());
        let scope = db.map(|db| NamespacePattern {
            text: format!("{db}.{}", coll.unwrap_or("*")),
            is_regex: false,
            negated: false,
        });
        Supply {
            // A name with a wildcard in it would be another pattern.
            namespaces: scope.filter(|_| !coll.is_some_and(|coll| coll.contains(['*', '?']))).into_iter().collect(),
            never_before: matches!(self.settings.full_document_before_change, BeforeChange::Off),
            never_after_of_updates: matches!(self.settings.full_document, FullDocument::Default),
        }
    }

    fn shares(&self, interest: &Interest) -> Vec<Share> {
        let share = if self.settings.push_down { pushdown::stream_share } else { Share::here };
        interest.selections.iter().map(share).collect()
    }

    async fn check(&mut self) -> Vec<Finding> {
        check::check(self).await
    }

    async fn close(&mut self) {
        self.open = None;
        client::hang_up(self.client.take()).await;
    }
}
