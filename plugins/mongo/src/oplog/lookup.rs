//! `full_document = "update-lookup"`: the documents of updates as they are now.

use std::{collections::HashMap, time::Duration};

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, raw::cstr, rawdoc};
use futures_util::StreamExt;
use mongodb::{Client, options::RunCursorCommandOptions};
use oplogue_api::{Batch, Doc, Error, Event, Namespace, Op, Result};
use tokio::{task::JoinSet, time::Instant};

use super::{
    log::ReadConcern,
    looking::{Decoded, Plan},
    options::NAMESPACES,
    position::Place,
    reply::Reply,
};
use crate::{
    client::reply,
    errors::{Phase, classify, code},
    globs::Globs,
};

/// The most documents to ask for at a time.
const MOST_KEYS: usize = 1000;
/// A batch is cut when the documents looked up for it reach this (I6); a last look-up may add as much again.
const MOST_BYTES: usize = 16 << 20;
/// How long the server may work on one look-up, and how much longer its answer may be on the way.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// A batch is delivered as far as it is looked up when that takes longer.
const LONG: Duration = Duration::from_secs(5);
/// More namespaces than this are not remembered at once (I6).
const MOST_NAMESPACES: usize = 10_000;

/// Looks up documents for updates.
pub(super) struct Lookup {
    finder: Finder,
    namespaces: Option<Globs>,
    /// What the patterns say.
    known: HashMap<Namespace, bool>,
    /// How many documents to ask for: fewer where they are large.
    most_keys: usize,
    /// What the member that answered last had carried out: another one must not show an older state than was seen.
    seen: Timestamp,
}

/// A batch that waits for its documents.
pub(super) struct Looking {
    decoded: Decoded,
    /// The end of what was delivered.
    place: Place,
    head: Timestamp,
    /// The size of the reply that the events lie in.
    reply_bytes: usize,
    /// The events before this one have all they get.
    resolved: usize,
    /// The size of what was looked up for them.
    bytes: usize,
    /// The question that is being asked. It goes on when the caller gives up waiting: one who always does so before the
    /// answer has come would wait for ever otherwise.
    under_way: Option<JoinSet<Result<Answered>>>,
}

struct Answered {
    plan: Plan,
    /// The size of the documents; `None` when they are more than may be asked for at once.
    bytes: Option<usize>,
    /// What the member had carried out.
    seen: Timestamp,
}

/// A part of a batch.
pub(super) struct Part {
    pub batch: Batch,
    /// Nothing is left behind it.
    pub is_last: bool,
}

impl Lookup {
    pub fn new(client: &Client, concern: ReadConcern, namespaces: Option<Globs>) -> Lookup {
        let finder = Finder { client: client.clone(), concern, option: NAMESPACES };
        let seen = Timestamp { time: 0, increment: 0 };
        Lookup { finder, namespaces, known: HashMap::new(), most_keys: MOST_KEYS, seen }
    }

    /// Whether any of the events needs a document.
    pub fn concerns(&mut self, events: &[Event]) -> bool {
        events.iter().any(|event| self.is_wanted(event))
    }

    fn is_wanted(&mut self, event: &Event) -> bool {
        // What is behind internal namespaces (the buckets of time series, for one) is no document of an application.
        if event.op != Op::Update || event.after.is_some() || event.ns.is_system() {
            return false;
        }
        let Some(globs) = &self.namespaces else { return true };
        if let Some(known) = self.known.get(&event.ns) {
            return *known;
        }
        if self.known.len() >= MOST_NAMESPACES {
            self.known.clear();
        }
        let wanted = globs.matches(event.ns.as_str());
        self.known.insert(event.ns.clone(), wanted);
        wanted
    }

    /// The next part of the batch, with the documents that are there.
    ///
    /// Cancel-safe: `looking` changes between two waits only, and an answer is awaited there.
    pub async fn part(&mut self, looking: &mut Looking, deployment: Option<&str>) -> Result<Part> {
        let since = Instant::now();
        loop {
            if looking.under_way.is_none() {
                let events = &looking.decoded.events;
                let mut plan = Plan::new(events, looking.resolved, self.most_keys, |event| self.is_wanted(event));
                plan.time = plan.time.max(self.seen);
                let mut task = JoinSet::new();
                task.spawn(self.finder.clone().answer(plan));
                looking.under_way = Some(task);
            }
            let answer = match &mut looking.under_way {
                Some(task) => task.join_next().await,
                None => None,
            };
            looking.under_way = None;
            let Some(Ok(answer)) = answer else { return Err(Error::bug("a look-up of full documents broke off")) };
            let Answered { plan, bytes, seen } = answer?;
            self.seen = self.seen.max(seen);
            let Some(bytes) = bytes else {
                self.most_keys = (plan.keys / 2).max(1);
                continue;
            };
            if plan.keys == self.most_keys && bytes < MOST_BYTES / 4 {
                self.most_keys = (2 * self.most_keys).min(MOST_KEYS);
            }
            looking.resolved = plan.until;
            looking.bytes += bytes;
            plan.attach(&mut looking.decoded.events);
            let is_last = looking.resolved == looking.decoded.events.len();
            if is_last || looking.bytes >= MOST_BYTES || since.elapsed() > LONG {
                return Ok(Part { batch: looking.take(deployment), is_last });
            }
        }
    }
}

impl Looking {
    /// `place` is where the events begin.
    pub fn new(decoded: Decoded, place: Place, head: Timestamp, reply_bytes: usize) -> Looking {
        Looking { decoded, place, head, reply_bytes, resolved: 0, bytes: 0, under_way: None }
    }

    fn take(&mut self, deployment: Option<&str>) -> Batch {
        let (events, bad, place) = self.decoded.take(self.resolved);
        self.place = place.unwrap_or(self.place);
        let bytes = self.reply_bytes + self.bytes;
        (self.resolved, self.bytes) = (0, 0);
        let end = self.place.to_position(deployment);
        Batch { events, bad, head: self.head.max(end.time), end, bytes }
    }
}

/// Asks for documents by their ids.
#[derive(Clone)]
pub(crate) struct Finder {
    pub client: Client,
    pub concern: ReadConcern,
    /// The option that names where documents are looked up.
    pub option: &'static str,
}

impl Finder {
    async fn answer(self, mut plan: Plan) -> Result<Answered> {
        let (time, keys, groups) = (plan.time, plan.keys, plan.groups.len());
        let (mut bytes, mut seen) = (0, time);
        for (n, group) in plan.groups.iter_mut().enumerate() {
            let found = self.find(&group.ns, group.wanted.iter().map(|w| &*w.id), time).await?;
            bytes += found.bytes;
            seen = seen.max(found.seen);
            let is_last = n + 1 == groups;
            if keys > 1 && (found.more || (bytes > MOST_BYTES && !is_last)) {
                return Ok(Answered { plan, bytes: None, seen });
            }
            for at in group.found(found.documents()?) {
                let id = group.wanted[at].id.clone();
                let found = self.find(&group.ns, [&*id].into_iter(), time).await?;
                bytes += found.bytes;
                seen = seen.max(found.seen);
                if keys > 1 && bytes > 2 * MOST_BYTES {
                    return Ok(Answered { plan, bytes: None, seen });
                }
                group.found_one(at, found.documents()?);
            }
        }
        Ok(Answered { plan, bytes: Some(bytes), seen })
    }

    /// The documents with these ids, as they are at `time` or later; at any time, where it is 0.
    ///
    /// It is that bound that keeps out older images, whichever member answers: a secondary shows an entry of the oplog
    /// before it has carried it out, and the read preference may lead to another member than the cursor's.
    pub async fn find<'a>(
        &self,
        ns: &Namespace,
        ids: impl ExactSizeIterator<Item = &'a RawDocument>,
        time: Timestamp,
    ) -> Result<Found> {
        let command = command(ns, ids, self.concern, time);
        let mut options = RunCursorCommandOptions::default();
        options.selection_criteria = self.client.selection_criteria().cloned();
        let asked = async {
            let mut cursor =
                self.client.database(ns.db()).run_raw_cursor_command(command).with_options(options).batch().await?;
            cursor.next().await.transpose()
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        match answer.map_err(|_| Error::transient("MongoDB stopped answering while looking up full documents"))? {
            Ok(Some(batch)) => Found::read(reply(batch)?),
            Ok(None) => Err(Error::transient("MongoDB closed the cursor while looking up full documents")),
            // By now a view has that name.
            Err(e) if code(&e) == Some(168) => Ok(Found { reply: None, more: false, bytes: 0, seen: time }),
            Err(e) if code(&e) == Some(13) => Err(unreadable(ns, self.option)),
            Err(e) => Err(classify(e, Phase::Lookup)),
        }
    }
}

fn command<'a>(
    ns: &Namespace,
    ids: impl ExactSizeIterator<Item = &'a RawDocument>,
    concern: ReadConcern,
    time: Timestamp,
) -> RawDocumentBuf {
    // One more than there can be, so that the server sees the end and keeps no cursor.
    let room = ids.len() as i64 + 1;
    let mut plain = RawArrayBuf::new();
    let mut any = RawArrayBuf::new();
    for id in ids {
        match id.get("_id") {
            Ok(Some(id)) if is_operator(id) => any.push(rawdoc! {"_id": {"$eq": id}}),
            Ok(Some(id)) => plain.push(id),
            _ => {}
        }
    }
    // No collation: that of the collection is the one that the index of `_id` has; any other would scan all of it.
    let filter = if any.is_empty() {
        rawdoc! {"_id": {"$in": plain}}
    } else {
        any.push(rawdoc! {"_id": {"$in": plain}});
        rawdoc! {"$or": any}
    };
    let mut read_concern = concern.document();
    if time.time > 0 {
        read_concern.append(cstr!("afterClusterTime"), time);
    }
    rawdoc! {
        "find": ns.coll(),
        "filter": filter,
        "batchSize": room,
        // Of no meaning here, but views refuse it: what a view makes of documents is not looked up.
        "allowPartialResults": true,
        "readConcern": read_concern,
        "maxTimeMS": SERVER_PATIENCE.as_millis() as i64,
    }
}

/// Whether `$in` would take the id for something else than a value.
fn is_operator(id: RawBsonRef<'_>) -> bool {
    match id {
        RawBsonRef::RegularExpression(_) => true,
        RawBsonRef::Document(doc) => {
            doc.iter_elements().next().and_then(Result::ok).is_some_and(|first| first.key().as_str().starts_with('$'))
        }
        _ => false,
    }
}

fn unreadable(ns: &Namespace, option: &str) -> Error {
    Error::operator(format!("the user may not read `{ns}`, where full documents are to be looked up"))
        .hint(grant(ns.db(), option))
}

/// How to mend a missing privilege. `option` names where documents are looked up.
pub(super) fn grant(db: &str, option: &str) -> String {
    format!(
        "grant it: db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{{role: \"read\", db: {db:?}}}]), or name in {option} only what it may read"
    )
}

/// What a `find` gave.
pub(crate) struct Found {
    reply: Option<Reply>,
    /// There are more documents than fit into a reply.
    pub more: bool,
    pub bytes: usize,
    seen: Timestamp,
}

impl Found {
    fn read(reply: Doc) -> Result<Found> {
        let more = reply.get_document("cursor").and_then(|cursor| cursor.get_i64("id")).is_ok_and(|id| id != 0);
        let bytes = reply.as_bytes().len();
        let seen = reply.get_timestamp("operationTime").unwrap_or(Timestamp { time: 0, increment: 0 });
        Ok(Found { reply: Some(Reply::read(reply)?), more, bytes, seen })
    }

    pub fn documents(&self) -> Result<Vec<Doc>> {
        self.reply.iter().flat_map(|reply| reply.entries(0)).collect()
    }
}

#[cfg(test)]
mod tests;
