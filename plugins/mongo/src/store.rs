//! The `mongo` checkpoint store: one document a route.
//!
//! ```text
//! { _id: "route", generation: 7, position: { token: BinData, time: Timestamp }, saved: Date }
//! ```
//!
//! The token is a BSON document, kept as bytes: the server may refuse names in it, or change it (`Timestamp(0, 0)`).

use std::{future::IntoFuture, sync::Arc, time::Duration};

use bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use mongodb::{
    Client, Collection,
    options::{Acknowledgment, CollectionOptions, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{
    Checkpoint, CheckpointStore, Doc, Error, Field, FieldType, Finding, Options, Position, Registry, Result, Saved,
    async_trait,
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::{
    check::{Privilege, privileges},
    client::{answered, bounded, check_uri, connect},
    errors::{Phase, classify, code},
};

const FIELDS: &[Field] = &[
    Field::new("uri", FieldType::String, "MongoDB connection string of the deployment that keeps the checkpoints")
        .required()
        .secret(),
    Field::new("database", FieldType::String, "The database of the checkpoints").default("\"oplogue\""),
    Field::new("collection", FieldType::String, "The collection of the checkpoints").default("\"checkpoints\""),
];

/// How long a majority may take to acknowledge. Shorter than the wait for any answer, so that the server says so itself.
const MAJORITY: Duration = Duration::from_secs(20);
const DUPLICATE_KEY: i32 = 11000;

pub(crate) fn register(r: &mut Registry) {
    r.store("mongo", "Keeps checkpoints in a MongoDB collection, one document a route", FIELDS, |_context, options| {
        Ok(Arc::new(MongoStore::new(Settings::new(options)?)))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    uri: String,
    #[serde(default = "database")]
    database: String,
    #[serde(default = "collection")]
    collection: String,
}

fn database() -> String {
    "oplogue".to_owned()
}

fn collection() -> String {
    "checkpoints".to_owned()
}

impl Settings {
    fn new(options: &Options) -> Result<Settings> {
        let s: Settings = options.parse()?;
        check_uri(&s.uri)?;
        if s.database.is_empty() || s.database.contains(['.', '/', '\\', ' ', '"', '$', '\0']) {
            return Err(Error::option("database", "this cannot be the name of a database"));
        }
        if s.collection.is_empty() || s.collection.contains(['$', '\0']) || s.collection.starts_with("system.") {
            return Err(Error::option("collection", "this cannot be the name of a collection"));
        }
        Ok(s)
    }
}

struct MongoStore {
    settings: Settings,
    client: OnceCell<Client>,
}

impl MongoStore {
    fn new(settings: Settings) -> MongoStore {
        MongoStore { settings, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| connect(&self.settings.uri, "oplogue")).await
    }

    /// Whatever the URI says: from the primary, and to a majority. A checkpoint that an election can take back would be
    /// one more place that a second writer believes in.
    async fn collection(&self) -> Result<Collection<Document>> {
        let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(MAJORITY).build();
        let options = CollectionOptions::builder()
            .write_concern(majority)
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let db = self.client().await?.database(&self.settings.database);
        Ok(db.collection_with_options(&self.settings.collection, options))
    }

    fn name(&self, route: &str) -> String {
        format!("the checkpoint document {{_id: {route:?}}} in {}.{}", self.settings.database, self.settings.collection)
    }

    async fn stored(&self, route: &str) -> Result<Option<Checkpoint>> {
        let coll = self.collection().await?;
        let found = coll.find_one(doc! {"_id": route});
        match bounded(found.into_future(), Phase::Store).await? {
            None => Ok(None),
            Some(stored) => match decode(&stored) {
                Some(checkpoint) => Ok(Some(checkpoint)),
                None => Err(Error::operator(format!("{} has an unknown shape", self.name(route)))
                    .hint("restore it, or reset the position of the route; it must hold generation, position.token and position.time")),
            },
        }
    }

    /// Writes if that is due; whether it was.
    async fn advance(&self, route: &str, checkpoint: &Checkpoint) -> Result<bool> {
        let coll = self.collection().await?;
        let fresh = encode(route, checkpoint)?;
        if checkpoint.generation == 1 {
            return match answered(coll.insert_one(fresh).into_future()).await? {
                Ok(_) => Ok(true),
                Err(e) if code(&e) == Some(DUPLICATE_KEY) => Ok(false),
                Err(e) => Err(classify(e, Phase::Store)),
            };
        }
        let before = integer(checkpoint.generation.saturating_sub(1))?;
        let replaced = coll.replace_one(doc! {"_id": route, "generation": before}, fresh);
        match answered(replaced.into_future()).await? {
            Ok(result) => Ok(result.matched_count == 1),
            Err(e) => Err(classify(e, Phase::Store)),
        }
    }

    /// Waits until what is stored already has reached a majority: the write that put it there may not have waited.
    async fn settle(&self, route: &str, generation: u64) -> Result<bool> {
        let generation = integer(generation)?;
        let coll = self.collection().await?;
        let same = doc! {"_id": route, "generation": generation};
        let same = coll.update_one(same, doc! {"$set": {"saved": DateTime::now()}});
        match answered(same.into_future()).await? {
            Ok(result) => Ok(result.matched_count == 1),
            Err(e) => Err(classify(e, Phase::Store)),
        }
    }
}

fn integer(generation: u64) -> Result<i64> {
    i64::try_from(generation).map_err(|_| Error::bug("the generation of a checkpoint is beyond all bounds"))
}

fn encode(route: &str, checkpoint: &Checkpoint) -> Result<Document> {
    let token = Binary { subtype: BinarySubtype::Generic, bytes: checkpoint.position.token.bytes().to_vec() };
    Ok(doc! {
        "_id": route,
        "generation": integer(checkpoint.generation)?,
        "position": {"token": token, "time": checkpoint.position.time},
        "saved": DateTime::now(),
    })
}

fn decode(stored: &Document) -> Option<Checkpoint> {
    // Somebody may have mended it in a shell, which writes other numbers.
    let generation = match stored.get("generation")? {
        Bson::Int64(n) => u64::try_from(*n).ok()?,
        Bson::Int32(n) => u64::try_from(*n).ok()?,
        Bson::Double(d) if d.fract() == 0.0 && (0.0..9e15).contains(d) => *d as u64,
        _ => return None,
    };
    let position = stored.get_document("position").ok()?;
    let token = Doc::new(position.get_binary_generic("token").ok()?.clone().into()).ok()?;
    let time = position.get_timestamp("time").ok()?;
    (generation > 0).then(|| Checkpoint { position: Position { token, time }, generation })
}

#[async_trait]
impl CheckpointStore for MongoStore {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        self.stored(route).await
    }

    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        if checkpoint.generation == 0 {
            return Err(Error::bug("a checkpoint of generation 0 is saved"));
        }
        if self.advance(route, checkpoint).await? {
            return Ok(Saved::Stored);
        }
        match self.stored(route).await? {
            Some(current) if current == *checkpoint => {
                if self.settle(route, checkpoint.generation).await? {
                    Ok(Saved::Stored)
                } else {
                    Err(Error::transient(format!("{} changes while it is saved", self.name(route))))
                }
            }
            Some(current) => Ok(Saved::Superseded(current)),
            // Writing a new one would hide that somebody has taken the old one away, on purpose perhaps.
            None if checkpoint.generation != 1 => Err(Error::operator(format!("{} is gone", self.name(route))).hint(
                "if it was removed on purpose, start the route again: it then begins where its source says; otherwise restore it first",
            )),
            None => Err(Error::transient(format!("{} changes while it is saved", self.name(route)))),
        }
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let coll = self.collection().await?;
        let Some(position) = position else {
            return match answered(coll.delete_one(doc! {"_id": route}).into_future()).await? {
                Ok(_) => Ok(()),
                Err(e) => Err(classify(e, Phase::Store)),
            };
        };
        // A damaged document is what one resets: it starts anew then.
        let found = bounded(coll.find_one(doc! {"_id": route}).into_future(), Phase::Store).await?;
        let generation = found.as_ref().and_then(decode).map_or(0, |c| c.generation).saturating_add(1);
        let fresh = encode(route, &Checkpoint { position: position.clone(), generation })?;
        match answered(coll.replace_one(doc! {"_id": route}, fresh).upsert(true).into_future()).await? {
            Ok(_) => Ok(()),
            Err(e) => Err(classify(e, Phase::Store)),
        }
    }

    async fn check(&self) -> Vec<Finding> {
        match self.look().await {
            Ok(finding) => vec![finding],
            Err(e) => vec![e.into()],
        }
    }
}

impl MongoStore {
    async fn look(&self) -> Result<Finding> {
        let client = self.client().await?;
        let (db, coll) = (&self.settings.database, &self.settings.collection);
        let missing = missing(privileges(client).await?, db, coll);
        if !missing.is_empty() {
            return Err(Error::operator(format!("the user may not {} in {db}.{coll}", missing.join(", ")))
                .hint(format!("grant the user the role `readWrite` on the database `{db}`")));
        }
        Ok(Finding::ok(format!("checkpoints can be kept in {db}.{coll}")))
    }
}

/// The actions that the user lacks on a collection.
fn missing(privileges: Option<Vec<Privilege>>, db: &str, coll: &str) -> Vec<&'static str> {
    let Some(privileges) = privileges else { return Vec::new() };
    let may = |action: &str| privileges.iter().any(|p| p.covers(Some(db), Some(coll)) && p.allows(action));
    ["find", "insert", "update", "remove"].into_iter().filter(|need| !may(need)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back() {
        let token = bson::rawdoc! {"token": {"_data": "82"}, "n": 1i64};
        let time = bson::Timestamp { time: 7, increment: 3 };
        let checkpoint = Checkpoint { position: Position { token: Doc::from(token), time }, generation: 3 };
        let stored = encode("r", &checkpoint).unwrap();
        assert_eq!(decode(&stored), Some(checkpoint.clone()));
        for generation in [Bson::Int32(3), Bson::Double(3.0)] {
            let mut stored = stored.clone();
            stored.insert("generation", generation);
            assert_eq!(decode(&stored), Some(checkpoint.clone()));
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        let empty = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![5, 0, 0, 0, 0] });
        let good = doc! {"generation": 1i64, "position": {"token": empty.clone(), "time": bson::Timestamp { time: 7, increment: 3 }}};
        assert!(decode(&good).is_some());
        for (key, value) in [
            ("generation", Bson::Null),
            ("generation", Bson::Int64(-1)),
            ("generation", Bson::Int64(0)),
            ("generation", Bson::Double(1.5)),
            ("position", Bson::Null),
            ("position", Bson::Document(doc! {"token": empty})),
            ("position", Bson::Document(doc! {"time": bson::Timestamp { time: 7, increment: 3 }})),
            ("position", Bson::Document(doc! {"token": 5, "time": bson::Timestamp { time: 7, increment: 3 }})),
        ] {
            let mut bad = good.clone();
            bad.insert(key, value);
            assert_eq!(decode(&bad), None, "{key}");
        }
    }
    #[test]
    fn what_the_user_may_not_do_is_named() {
        let of = |resource: Document, actions: &[&str]| {
            let privileges = vec![doc! {"resource": resource, "actions": actions}];
            let users = vec![doc! {"user": "u", "db": "admin"}];
            crate::check::read_privileges(
                &doc! {"authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": privileges}},
            )
        };
        let all = ["find", "insert", "update", "remove", "collStats"];
        assert!(missing(of(doc! {"db": "a", "collection": ""}, &all), "a", "b").is_empty());
        assert_eq!(missing(of(doc! {"db": "x", "collection": ""}, &all), "a", "b").len(), 4);
        let reader = of(doc! {"db": "a", "collection": ""}, &["find"]);
        assert_eq!(missing(reader, "a", "b"), ["insert", "update", "remove"]);
        assert!(missing(None, "a", "b").is_empty());
    }
}
