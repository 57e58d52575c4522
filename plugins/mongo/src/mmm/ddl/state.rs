//! What is there now.

use std::future::IntoFuture;

use bson::{Binary, Bson, Document, Timestamp, doc};
use mongodb::Client;
use oplogue_api::{Namespace, Result};

use crate::{
    client::{answered, run},
    errors::{Phase, classify, code},
};

const NAMESPACE_NOT_FOUND: i32 = 26;
/// `listIndexes` of a view.
const NOT_ON_A_VIEW: i32 = 166;
/// More than a reply holds is never asked for: a collection has 64 indexes at most, and this is about one database.
const ALL: i32 = 100_000;

/// A collection or view that is there.
#[derive(Clone, Debug)]
pub(crate) struct Existing {
    pub name: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    pub options: Document,
    pub uuid: Option<Binary>,
}

impl Existing {
    pub fn is_plain(&self) -> bool {
        self.kind == "collection"
    }

    fn read(listed: &Document) -> Existing {
        let text = |name: &str| listed.get_str(name).unwrap_or_default().to_owned();
        Existing {
            name: text("name"),
            kind: text("type"),
            options: listed.get_document("options").cloned().unwrap_or_default(),
            uuid: match listed.get_document("info").ok().and_then(|info| info.get("uuid")) {
                Some(Bson::Binary(uuid)) => Some(uuid.clone()),
                _ => None,
            },
        }
    }
}

/// What has the name.
pub(crate) async fn collection(client: &Client, ns: &Namespace) -> Result<Option<Existing>> {
    Ok(list(client, ns.db(), doc! {"name": ns.coll()}).await?.into_iter().next())
}

/// Everything in a database.
pub(crate) async fn collections(client: &Client, db: &str) -> Result<Vec<Existing>> {
    list(client, db, doc! {}).await
}

async fn list(client: &Client, db: &str, filter: Document) -> Result<Vec<Existing>> {
    let command = doc! {"listCollections": 1, "filter": filter, "cursor": {"batchSize": ALL}};
    let reply = run(&client.database(db), command, Phase::Ddl).await?;
    Ok(first_batch(&reply).map(Existing::read).collect())
}

/// The specifications of the indexes; none where there is no collection.
pub(crate) async fn indexes(client: &Client, ns: &Namespace) -> Result<Vec<Document>> {
    let command = doc! {"listIndexes": ns.coll(), "cursor": {"batchSize": ALL}};
    match answered(client.database(ns.db()).run_command(command).into_future()).await? {
        Ok(reply) => Ok(first_batch(&reply).cloned().collect()),
        Err(e) if matches!(code(&e), Some(NAMESPACE_NOT_FOUND | NOT_ON_A_VIEW)) => Ok(Vec::new()),
        Err(e) => Err(classify(e, Phase::Ddl)),
    }
}

/// The cluster time that the deployment has come to.
pub(crate) async fn now(client: &Client) -> Result<Timestamp> {
    Ok(operation_time(&run(&client.database("admin"), doc! {"ping": 1}, Phase::Ddl).await?))
}

pub(crate) fn operation_time(reply: &Document) -> Timestamp {
    reply.get_timestamp("operationTime").unwrap_or(Timestamp { time: 0, increment: 0 })
}

fn first_batch(reply: &Document) -> impl Iterator<Item = &Document> {
    let batch = reply.get_document("cursor").and_then(|c| c.get_array("firstBatch"));
    batch.into_iter().flatten().filter_map(Bson::as_document)
}
