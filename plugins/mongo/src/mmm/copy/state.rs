//! How far a copy has come: `__mmm.copies` at the target.
//!
//! ```text
//! { _id: "factory->cloud", link, generation, mode: "merge", start: { token: BinData, time: Timestamp }, done: false,
//!   begun: Date, until: Timestamp, documents: 0, bytes: 0, conflicts: 0 }
//! { _id: { link, ns: "app.x" }, link, ns, generation, pieces: 4, created: true, done: false }
//! { _id: { link, ns: "app.x", piece: 2 }, link, ns, generation, step: 17, min: BinData, max: BinData, last: BinData,
//!   until: Timestamp, documents: 17000, bytes: 4250000, conflicts: 0, done: false }
//! ```
//!
//! `min`, `max` and `last` are documents `{_id: …}` kept as bytes: the server may refuse names in them, or change them.
//! Of each piece, `last` moves in the transaction that writes the documents up to it, and `step` counts those: whoever writes
//! says which step it knows, so that of two that copy one piece only one commits.

use std::future::IntoFuture;

use bson::{Binary, Bson, DateTime, Document, Timestamp, doc, spec::BinarySubtype};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    options::{CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{Doc, Error, Namespace, Position, Result};

use super::{Copied, Initial};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify, code},
    mmm::{marker::Link, names},
};

pub(super) const EARLIEST: Timestamp = Timestamp { time: 0, increment: 0 };

/// A collection of the metadata database: from the primary, to and from a majority.
pub(super) fn metadata(to: &Client, name: &str) -> Collection<Document> {
    let options = CollectionOptions::builder()
        .write_concern(WriteConcern::majority())
        .read_concern(ReadConcern::majority())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    to.database(names::DATABASE).collection_with_options(name, options)
}

pub(super) fn superseded(link: &Link) -> Error {
    Error::operator(format!("another router has taken over the link {}->{} while it copied", link.node, link.peer))
        .hint("stop one of the two: a link is served by one router")
}

pub(super) struct State {
    pub copies: Collection<Document>,
    pub link: Link,
    pub generation: i64,
}

/// The document of the whole copy.
pub(super) struct Head {
    pub generation: i64,
    pub start: Timestamp,
    /// Set once it is done.
    pub copied: Option<Copied>,
}

/// A part of a collection: the documents from `min` on, up to but without `max`.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub ns: Namespace,
    pub number: i32,
    pub min: Option<Doc>,
    pub max: Option<Doc>,
    /// The `_id` of the last document that is done.
    pub last: Option<Doc>,
    pub step: i64,
    pub until: Timestamp,
    pub documents: i64,
    pub bytes: i64,
    pub conflicts: i64,
    pub done: bool,
}

impl State {
    pub fn new(to: &Client, link: &Link, generation: u64) -> State {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        State { copies: metadata(to, names::COPIES), link: link.clone(), generation }
    }

    pub fn name(&self) -> String {
        self.link.marker_id(0)
    }

    pub async fn head(&self) -> Result<Option<Head>> {
        let found = bounded(self.copies.find_one(doc! {"_id": self.name()}).into_future(), Phase::Copy).await?;
        let Some(found) = found else { return Ok(None) };
        let read = || {
            let copied = found.get_bool("done").ok()?.then(|| Copied {
                until: found.get_timestamp("until").unwrap_or(EARLIEST),
                documents: unsigned(&found, "documents"),
                bytes: unsigned(&found, "bytes"),
                conflicts: unsigned(&found, "conflicts"),
            });
            let start = found.get_document("start").ok()?.get_timestamp("time").ok()?;
            Some(Head { generation: found.get_i64("generation").ok()?, start, copied })
        };
        read().map(Some).ok_or_else(|| {
            Error::operator(format!("the document {{_id: {:?}}} in __mmm.copies has an unknown shape", self.name()))
                .hint("restore it, or remove all documents of this link from __mmm.copies and start anew with initial = \"merge\"")
        })
    }

    pub async fn begin(&self, mode: Initial, start: &Position) -> Result<()> {
        let token = Binary { subtype: BinarySubtype::Generic, bytes: start.token.bytes().to_vec() };
        let head = doc! {
            "_id": self.name(), "link": self.name(), "generation": self.generation, "mode": mode.name(),
            "start": {"token": token, "time": start.time}, "done": false, "begun": DateTime::now(), "until": start.time,
            "documents": 0i64, "bytes": 0i64, "conflicts": 0i64,
        };
        match answered(self.copies.insert_one(head).into_future()).await? {
            Ok(_) => Ok(()),
            Err(e) if code(&e) == Some(11000) => Err(superseded(&self.link)),
            Err(e) => Err(classify(e, Phase::Copy)),
        }
    }

    /// Takes over what an earlier run has left: from here on it cannot commit any more.
    pub async fn claim(&self, head: &Head) -> Result<()> {
        if head.generation > self.generation {
            return Err(superseded(&self.link));
        }
        let theirs = doc! {"link": self.name(), "generation": {"$lt": self.generation}};
        let mine = doc! {"$set": {"generation": self.generation}};
        bounded(self.copies.update_many(theirs, mine).into_future(), Phase::Copy).await?;
        Ok(())
    }

    pub async fn finish(&self, copied: &Copied) -> Result<()> {
        let set = doc! {"done": true, "ended": DateTime::now(), "until": copied.until,
        "documents": copied.documents as i64, "bytes": copied.bytes as i64, "conflicts": copied.conflicts as i64};
        let mine = doc! {"_id": self.name(), "generation": self.generation};
        self.one(self.copies.update_one(mine, doc! {"$set": set}).into_future()).await
    }

    async fn one(
        &self,
        update: impl Future<Output = mongodb::error::Result<mongodb::results::UpdateResult>>,
    ) -> Result<()> {
        let done = bounded(update, Phase::Copy).await?;
        if done.matched_count == 1 { Ok(()) } else { Err(superseded(&self.link)) }
    }

    /// What is known of a collection: `Some(done)` once its pieces are planned.
    pub async fn planned(&self, ns: &Namespace) -> Result<Option<bool>> {
        let found =
            bounded(self.copies.find_one(doc! {"_id": self.collection_id(ns)}).into_future(), Phase::Copy).await?;
        Ok(found.map(|found| found.get_bool("done").unwrap_or(false)))
    }

    /// Fixes the pieces of a collection. Until the document of the collection is there, the pieces count for nothing.
    pub async fn plan(&self, ns: &Namespace, pieces: &[Piece]) -> Result<()> {
        let stale = doc! {"link": self.name(), "ns": ns.as_str()};
        bounded(self.copies.delete_many(stale).into_future(), Phase::Copy).await?;
        if !pieces.is_empty() {
            let pieces: Vec<Document> = pieces.iter().map(|piece| self.encode(piece)).collect();
            bounded(self.copies.insert_many(pieces).into_future(), Phase::Copy).await?;
        }
        let whole = doc! {"_id": self.collection_id(ns), "link": self.name(), "ns": ns.as_str(), "generation": self.generation,
        "pieces": pieces.len() as i32, "done": false};
        bounded(self.copies.insert_one(whole).into_future(), Phase::Copy).await?;
        Ok(())
    }

    pub async fn collection_done(&self, ns: &Namespace) -> Result<()> {
        let mine = doc! {"_id": self.collection_id(ns), "generation": self.generation};
        self.one(self.copies.update_one(mine, doc! {"$set": {"done": true}}).into_future()).await
    }

    pub async fn pieces(&self, ns: Option<&Namespace>) -> Result<Vec<Piece>> {
        let mut wanted = doc! {"link": self.name(), "step": {"$exists": true}};
        if let Some(ns) = ns {
            wanted.insert("ns", ns.as_str());
        }
        let found = async { self.copies.find(wanted).sort(doc! {"_id": 1}).await?.try_collect::<Vec<_>>().await };
        let found = bounded(found, Phase::Copy).await?;
        found.iter().map(|found| Piece::decode(found).ok_or_else(damaged)).collect()
    }

    /// The piece as it is stored now; `None` when another router has claimed it.
    pub async fn piece(&self, piece: &Piece) -> Result<Option<Piece>> {
        let mine = doc! {"_id": self.piece_id(piece), "generation": self.generation};
        let found = bounded(self.copies.find_one(mine).into_future(), Phase::Copy).await?;
        found.map(|found| Piece::decode(&found).ok_or_else(damaged)).transpose()
    }

    fn collection_id(&self, ns: &Namespace) -> Document {
        doc! {"link": self.name(), "ns": ns.as_str()}
    }

    fn piece_id(&self, piece: &Piece) -> Document {
        doc! {"link": self.name(), "ns": piece.ns.as_str(), "piece": piece.number}
    }

    /// The statement of an `update` command that moves a piece from `before` to `after`. It matches nothing when somebody else
    /// has moved it.
    pub fn advance(&self, before: &Piece, after: &Piece) -> Document {
        let known = doc! {"_id": self.piece_id(before), "generation": self.generation, "step": before.step};
        doc! {"q": known, "u": self.encode(after)}
    }

    fn encode(&self, piece: &Piece) -> Document {
        let binary = |key: &Option<Doc>| match key {
            Some(key) => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: key.bytes().to_vec() }),
            None => Bson::Null,
        };
        doc! {
            "_id": self.piece_id(piece), "link": self.name(), "ns": piece.ns.as_str(), "generation": self.generation,
            "step": piece.step, "min": binary(&piece.min), "max": binary(&piece.max), "last": binary(&piece.last),
            "until": piece.until, "documents": piece.documents, "bytes": piece.bytes, "conflicts": piece.conflicts,
            "done": piece.done,
        }
    }
}

fn damaged() -> Error {
    Error::operator("a document in __mmm.copies has an unknown shape").hint(
        "restore it, or remove all documents of this link from __mmm.copies and start anew with initial = \"merge\"",
    )
}

fn unsigned(found: &Document, name: &str) -> u64 {
    found.get_i64(name).ok().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

impl Piece {
    pub fn new(ns: &Namespace, number: i32, min: Option<Doc>, max: Option<Doc>) -> Piece {
        let ns = ns.clone();
        let (documents, bytes, conflicts) = (0, 0, 0);
        Piece { ns, number, min, max, last: None, step: 0, until: EARLIEST, documents, bytes, conflicts, done: false }
    }

    fn decode(found: &Document) -> Option<Piece> {
        let key = |name: &str| match found.get(name)? {
            Bson::Null => Some(None),
            Bson::Binary(binary) => Some(Some(Doc::new(binary.bytes.clone().into()).ok()?)),
            _ => None,
        };
        Some(Piece {
            ns: Namespace::new(found.get_str("ns").ok()?),
            number: found.get_document("_id").ok()?.get_i32("piece").ok()?,
            min: key("min")?,
            max: key("max")?,
            last: key("last")?,
            step: found.get_i64("step").ok()?,
            until: found.get_timestamp("until").ok()?,
            documents: found.get_i64("documents").ok()?,
            bytes: found.get_i64("bytes").ok()?,
            conflicts: found.get_i64("conflicts").ok()?,
            done: found.get_bool("done").ok()?,
        })
    }
}
