//! The deployment whose changes are replicated, asked directly: for whole documents, and whether anything happened.

use std::{collections::HashMap, future::IntoFuture, time::Duration};

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::{
    Client,
    options::{ReadPreference, RunCursorCommandOptions, SelectionCriteria},
};
use oplogue_api::{Doc, Error, Namespace, Origin as Source, Result, hash_key, same_key};
use tokio::sync::OnceCell;

use super::names;
use crate::{
    client::{answered, bounded, connect, reply},
    errors::{Phase, classify, code},
    identity::identity,
};

/// How many documents are asked for at a time.
const MOST_KEYS: usize = 500;
/// How long a member may take to have a time.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Origin {
    /// `None`: the sink is built to be looked at, and serves no route.
    uri: Option<String>,
    client: OnceCell<Client>,
}

/// Documents as they were at a time.
pub(super) struct Documents {
    /// For each key, its document; `None`: there is none.
    pub found: Vec<Option<Doc>>,
    /// The time at which they were so, where the server says it (from 5.0).
    pub at: Option<Timestamp>,
}

impl Origin {
    /// # Errors
    /// `Operator` where the source is no MongoDB source, or reads a part of the deployment only: then it does not see the markers.
    pub fn new(source: Option<&Source>) -> Result<Origin> {
        let Some(source) = source else { return Ok(Origin { uri: None, client: OnceCell::new() }) };
        let table = source.options.table();
        if !matches!(source.kind, "mongo-oplog" | "mongo-change-stream") {
            return Err(Error::operator(format!("a source of type `{}` cannot be replicated", source.kind))
                .hint("the sink mongo-mmm needs a source of type mongo-oplog or mongo-change-stream"));
        }
        if table.contains_key("database") || table.contains_key("collection") {
            return Err(Error::operator(
                "the source reads one database only, and so does not see what was replicated into it",
            )
            .hint("leave out `database` and `collection` of the source, and set `namespaces` of the sink instead"));
        }
        match table.get("uri").and_then(|uri| uri.as_str()) {
            Some(uri) => Ok(Origin { uri: Some(uri.to_owned()), client: OnceCell::new() }),
            None => Err(Error::operator("the source has no `uri`")),
        }
    }

    pub async fn client(&self) -> Result<&Client> {
        let uri = self
            .uri
            .as_deref()
            .ok_or_else(|| Error::operator("the sink serves no route, so that its source is not known"))?;
        self.client.get_or_try_init(|| connect(uri, "oplogue")).await
    }

    pub async fn identity(&self) -> Result<Option<String>> {
        identity(self.client().await?).await
    }

    /// The documents of these keys on a majority of the members: as they were at `time` (`exactly`, as long as the server keeps
    /// that: from 5.0 on, for five minutes), or as they are now, and not earlier than `time`.
    pub async fn documents(
        &self,
        ns: &Namespace,
        keys: &[&RawDocument],
        time: Timestamp,
        exactly: bool,
    ) -> Result<Documents> {
        let mut all = Documents { found: Vec::with_capacity(keys.len()), at: None };
        for keys in keys.chunks(MOST_KEYS) {
            let part = self.some_documents(ns, keys, time, exactly).await?;
            all.found.extend(part.found);
            // The earliest of several times holds for all.
            all.at = match (all.at, part.at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (_, at) => at,
            };
        }
        Ok(all)
    }

    async fn some_documents(
        &self,
        ns: &Namespace,
        keys: &[&RawDocument],
        time: Timestamp,
        exactly: bool,
    ) -> Result<Documents> {
        let mut ids = Vec::with_capacity(keys.len());
        for key in keys {
            ids.push(as_bson(super::statements::id(key)?)?);
        }
        let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, key) in keys.iter().enumerate() {
            places.entry(hash_key(key)).or_default().push(place);
        }
        let mut concerns = vec![
            doc! {"level": "majority", "afterClusterTime": time},
            doc! {"level": "snapshot", "afterClusterTime": time},
        ];
        if exactly {
            concerns.push(doc! {"level": "snapshot", "atClusterTime": time});
        }
        while let Some(concern) = concerns.pop() {
            let command = doc! {
                "find": ns.coll(),
                "filter": {"_id": {"$in": &ids}},
                "readConcern": concern,
                "maxTimeMS": PATIENCE.as_millis() as i64,
            };
            let mut options = RunCursorCommandOptions::default();
            options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
            let db = self.client().await?.database(ns.db());
            let cursor = db.run_cursor_command(command).with_options(options).batch();
            let mut cursor = match answered(cursor.into_future()).await? {
                Ok(cursor) => cursor,
                // Snapshot reads outside of transactions are there from 5.0 on; 239 and 246: the snapshot has gone.
                Err(e) if !concerns.is_empty() && matches!(code(&e), Some(72 | 239 | 246 | 263 | 20 | 9 | 2)) => {
                    continue;
                }
                Err(e) => return Err(classify(e, Phase::Lookup)),
            };
            let mut found: Vec<Option<Doc>> = vec![None; keys.len()];
            let mut at = None;
            while let Some(batch) = answered(async { Ok(cursor.next().await) }).await?.ok().flatten() {
                let batch = reply(batch.map_err(|e| classify(e, Phase::Lookup))?)?;
                let cursor = batch.get_document("cursor").map_err(|_| unreadable())?;
                at = cursor.get_timestamp("atClusterTime").ok().or(at);
                let documents = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch"));
                for document in documents.map_err(|_| unreadable())? {
                    let document = document.ok().and_then(RawBsonRef::as_document).ok_or_else(unreadable)?;
                    let same = places.get(&hash_key(document)).map_or(&[][..], Vec::as_slice);
                    for place in same.iter().filter(|place| same_key(keys[**place], document)) {
                        found[*place] = Some(Doc::from(document));
                    }
                }
            }
            return Ok(Documents { found, at });
        }
        Err(Error::bug("a read without a read concern"))
    }

    /// Whether anything but idle time and plain markers lies in the log behind `from`, up to `to`; `None` where it cannot be read.
    pub async fn has_news(&self, from: Timestamp, to: Timestamp) -> Result<Option<bool>> {
        let filter = doc! {
            "ts": {"$gt": from, "$lte": to},
            "op": {"$ne": "n"},
            "ns": {"$not": {"$regex": format!("^{}\\.", names::DATABASE)}},
        };
        let log = self.client().await?.database("local").collection::<Document>("oplog.rs");
        let find = log.find_one(filter).projection(doc! {"ts": 1}).max_time(Duration::from_secs(20));
        match answered(find.into_future()).await? {
            Ok(found) => Ok(Some(found.is_some())),
            // A mongos has no oplog, and a user of a change stream need not be allowed to read it.
            Err(e) if matches!(code(&e), Some(13 | 26 | 73)) => Ok(None),
            Err(e) => Err(classify(e, Phase::Lookup)),
        }
    }

    /// Whether a marker of the link back to here exists: then the peer's changes come here as well.
    pub async fn has_marker(&self, id: &str) -> Result<bool> {
        let markers = self.client().await?.database(names::DATABASE).collection::<Document>(names::MARKERS);
        Ok(bounded(markers.find_one(doc! {"_id": id}).into_future(), Phase::Lookup).await?.is_some())
    }

    pub async fn close(&self) {
        if let Some(client) = self.client.get() {
            crate::client::hang_up(Some(client.clone())).await;
        }
    }
}

fn unreadable() -> Error {
    Error::transient("MongoDB sent a reply that cannot be read")
}

/// A raw value as the driver's filters take it.
pub(super) fn as_bson(value: RawBsonRef<'_>) -> Result<Bson> {
    Bson::try_from(value).map_err(|_| Error::data("damaged BSON"))
}

/// A document as commands take it.
pub(super) fn document(raw: &RawDocument) -> Result<Document> {
    Document::try_from(raw).map_err(|_| Error::data("damaged BSON"))
}

/// The raw form of a document that was made here.
pub(super) fn raw(document: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(document).map_err(|_| Error::bug("a document that cannot be encoded"))
}
