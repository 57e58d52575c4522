//! `__mmm.ddl`: what replicators have changed in the schema of the deployment that it lies in.
//!
//! ```text
//! { _id: {origin: "factory", time: Timestamp, index: 0}, link: "factory->cloud", ns: "app.x", marks: ["drop app.x"],
//!   state: "running" | "done", start: Timestamp, end: Timestamp?, once: true?, echoes: [{mark: string, time: Timestamp}]?,
//!   uuid: UUID?, peer_uuid: UUID?, at: Date }
//! ```
//!
//! DDL carries nothing that would tell who ran it. So an entry is written before the command is run and completed after it, and what
//! appears in the log of this deployment between `start` and `end` (both are its own cluster times) with the same marks is what the
//! command led to. While an entry is `running`, nothing is known of its end: the first event for each mark is the one.

use std::future::IntoFuture;

use bson::{Binary, Bson, DateTime, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    options::{Acknowledgment, CollectionOptions, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{Doc, ErrorKind, Event, Result, oplog::Decoder};

use super::{
    described::Read,
    state::{now, operation_time},
};
use crate::{
    client::{answered, bounded, run},
    errors::{Phase, classify, code, is_unexpected},
    mmm::names::{DATABASE, LEDGER},
};

/// Entries are kept for so long (90 days) behind their end: longer than a link is cut, or it has to be copied anew anyway.
const KEPT: i32 = 90 * 24 * 3600;

/// The event at the node where it was made by an application: the same along every link that it takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Id {
    pub origin: String,
    pub time: Timestamp,
    pub index: u32,
}

impl Id {
    fn document(&self) -> Document {
        doc! {"origin": &self.origin, "time": self.time, "index": i64::from(self.index)}
    }

    fn read(id: &Document) -> Option<Id> {
        Some(Id {
            origin: id.get_str("origin").ok()?.to_owned(),
            time: id.get_timestamp("time").ok()?,
            index: u32::try_from(id.get_i64("index").ok()?).ok()?,
        })
    }
}

/// Where an earlier attempt has come to.
#[derive(Debug, PartialEq)]
pub(crate) enum Earlier {
    /// There was none.
    None,
    /// It is done.
    Done,
    /// It was begun by this link, and nothing in the log says that it was carried out.
    Begun(String),
}

/// The ledger of one deployment.
#[derive(Clone)]
pub(crate) struct Ledger {
    client: Client,
}

impl Ledger {
    pub fn new(client: &Client) -> Ledger {
        Ledger { client: client.clone() }
    }

    /// A majority has what is written: an election must not take back what the checkpoint of the link says.
    fn collection(&self) -> Collection<Document> {
        let options = CollectionOptions::builder()
            .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        self.client.database(DATABASE).collection_with_options(LEDGER, options)
    }

    /// Makes its indexes, if they are not there. Entries that are `running` never expire.
    pub async fn ensure(&self) -> Result<()> {
        let indexes = vec![
            doc! {"key": {"marks": 1}, "name": "marks"},
            doc! {"key": {"at": 1}, "name": "expiry", "expireAfterSeconds": KEPT, "partialFilterExpression": {"state": "done"}},
        ];
        run(&self.client.database(DATABASE), doc! {"createIndexes": LEDGER, "indexes": indexes}, Phase::Ddl).await?;
        Ok(())
    }

    /// Says that the command is going to be run. `start` lies before everything that it leads to; `uuid` is that of the collection at
    /// its origin. Whether this link is the one that says so: another one may bring the same.
    pub async fn begin(
        &self,
        id: &Id,
        link: &str,
        (read, uuid): (&Read, Option<&Binary>),
        marks: &[String],
        start: Timestamp,
    ) -> Result<bool> {
        let mut entry = doc! {
            "_id": id.document(), "link": link, "ns": read.ns.as_str(), "marks": marks, "state": "running", "start": start,
            "at": DateTime::now(),
        };
        if let Some(uuid) = uuid {
            entry.insert("uuid", uuid.clone());
        }
        // One of an earlier attempt stays as it is, with what was recognised meanwhile.
        let entries = self.collection();
        let written = entries.update_one(doc! {"_id": id.document()}, doc! {"$setOnInsert": entry}).upsert(true);
        if bounded(written.into_future(), Phase::Ddl).await?.upserted_id.is_some() {
            return Ok(true);
        }
        let found = entries.find_one(doc! {"_id": id.document(), "link": link});
        Ok(bounded(found.into_future(), Phase::Ddl).await?.is_some())
    }

    /// Says that it was carried out, at `end` at the latest.
    pub async fn done(&self, id: &Id, end: Timestamp, peer_uuid: Option<Binary>, once: bool) -> Result<()> {
        let mut set = doc! {"state": "done", "end": end, "at": DateTime::now()};
        if let Some(uuid) = peer_uuid {
            set.insert("peer_uuid", uuid);
        }
        if once {
            set.insert("once", true);
        }
        let entries = self.collection();
        let written = entries.update_one(doc! {"_id": id.document()}, doc! {"$set": set});
        bounded(written.into_future(), Phase::Ddl).await.map(drop)
    }

    /// Takes back what was begun: the server has refused it. Another link may be about to carry out the same.
    pub async fn refused(&self, id: &Id, link: &str) -> Result<()> {
        let entries = self.collection();
        let gone = entries.delete_one(doc! {"_id": id.document(), "link": link});
        bounded(gone.into_future(), Phase::Ddl).await.map(drop)
    }

    /// What became of an earlier attempt that was not reported, because the router or the connection was lost. What was carried out
    /// must not be repeated: by now an application may have made the collection again.
    pub async fn earlier(&self, id: &Id) -> Result<Earlier> {
        let entries = self.collection();
        let found = entries.find_one(doc! {"_id": id.document()});
        let Some(entry) = bounded(found.into_future(), Phase::Ddl).await? else { return Ok(Earlier::None) };
        if entry.get_str("state").is_ok_and(|is| is == "done") {
            return Ok(Earlier::Done);
        }
        let start = entry.get_timestamp("start").unwrap_or(Timestamp { time: 0, increment: 0 });
        let marks: Vec<&str> = entry.get_array("marks").into_iter().flatten().filter_map(Bson::as_str).collect();
        let ns = entry.get_str("ns").unwrap_or_default();
        let db = ns.split('.').next().unwrap_or_default();
        match self.search(db, &marks, start).await? {
            Some((end, made)) => {
                self.done(id, end, made, false).await?;
                Ok(Earlier::Done)
            }
            None => Ok(Earlier::Begun(entry.get_str("link").unwrap_or_default().to_owned())),
        }
    }

    /// When everything that the marks name had been logged, after `start`, and the collection that was made by it; `None` when
    /// something was not logged, or the log does not reach back.
    async fn search(&self, db: &str, marks: &[&str], start: Timestamp) -> Result<Option<(Timestamp, Option<Binary>)>> {
        let log = self.client.database("local").collection::<Document>("oplog.rs");
        let spaces = [format!("{db}.$cmd"), format!("{db}.system.views")];
        let entries = async {
            let cursor = log.find(doc! {"ts": {"$gt": start}, "ns": {"$in": &spaces[..]}}).await?;
            cursor.try_collect::<Vec<Document>>().await
        };
        let entries = match answered(entries).await? {
            Ok(entries) => entries,
            // Not readable to this user, or a router: the state alone has to decide.
            Err(e) if is_unexpected(&e) => return Ok(None),
            Err(e) if code(&e).is_some() => match classify(e, Phase::Ddl) {
                e if e.kind() == ErrorKind::Transient => return Err(e),
                _ => return Ok(None),
            },
            Err(e) => return Err(classify(e, Phase::Ddl)),
        };
        let (mut missing, mut end, mut collection) = (marks.to_vec(), start, None);
        let (mut decoder, mut events, mut bad) = (Decoder::new(false), Vec::new(), Vec::new());
        for entry in entries {
            if let Ok(raw) = bson::RawDocumentBuf::try_from(&entry) {
                decoder.entry(&Doc::from(raw), &mut events, &mut bad);
            }
        }
        for event in &events {
            let Ok(read) = Read::new(event) else { continue };
            let made = read.marks();
            if !made.is_empty() && made.iter().all(|mark| missing.contains(&mark.as_str())) {
                missing.retain(|mark| !made.iter().any(|m| m == mark));
                end = end.max(event.time);
                if read.makes_collection() {
                    collection = read.uuid;
                }
            }
        }
        Ok((missing.is_empty() && !marks.is_empty()).then_some((end, collection)))
    }

    /// Whether the event, of the log of this deployment, is what a replicator's command led to: then whose event that had been, and the
    /// collection that it was about there.
    pub async fn echo(&self, event: &Event, marks: &[String]) -> Result<Option<(Id, Option<Binary>)>> {
        let time = event.time;
        let filter = doc! {
            "marks": {"$all": marks}, "start": {"$lt": time}, "$or": [{"end": {"$exists": false}}, {"end": {"$gte": time}}],
        };
        let entries = self.collection();
        let found = async { entries.find(filter).await?.try_collect::<Vec<Document>>().await };
        for entry in bounded(found, Phase::Ddl).await? {
            let Some(id) = entry.get_document("_id").ok().and_then(Id::read) else { continue };
            let exact = entry.contains_key("end") && !entry.get_bool("once").is_ok_and(|is| is);
            if exact || self.is_first(&id, marks, time).await? {
                return Ok(Some((id, binary(&entry, "uuid"))));
            }
        }
        Ok(None)
    }

    /// Of an entry without a certain end: whether this is the first event with these marks, also when it is asked again.
    async fn is_first(&self, id: &Id, marks: &[String], time: Timestamp) -> Result<bool> {
        let mark = marks.join(", ");
        let seen = doc! {"mark": &mark, "time": time};
        let mine = doc! {
            "_id": id.document(), "$or": [{"echoes": {"$elemMatch": &seen}}, {"echoes.mark": {"$ne": &mark}}],
        };
        let entries = self.collection();
        let claimed = entries.update_one(mine, doc! {"$addToSet": {"echoes": seen}});
        Ok(bounded(claimed.into_future(), Phase::Ddl).await?.matched_count == 1)
    }

    /// The collection here that a collection elsewhere has become, or was made from.
    pub async fn counterpart(&self, by: &str, uuid: &Binary) -> Result<Option<Binary>> {
        let other = if by == "uuid" { "peer_uuid" } else { "uuid" };
        let entries = self.collection();
        let found = entries.find_one(doc! {by: uuid.clone(), other: {"$exists": true}});
        let entry = bounded(found.into_future(), Phase::Ddl).await?;
        Ok(entry.and_then(|entry| binary(&entry, other)))
    }

    /// The cluster time of this deployment.
    pub async fn now(&self) -> Result<Timestamp> {
        now(&self.client).await
    }
}

fn binary(entry: &Document, name: &str) -> Option<Binary> {
    match entry.get(name) {
        Some(Bson::Binary(found)) => Some(found.clone()),
        _ => None,
    }
}

/// See [`operation_time`].
pub(crate) fn ended(reply: &Document) -> Timestamp {
    operation_time(reply)
}
