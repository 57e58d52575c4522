//! Which deployment a server belongs to.

use std::future::IntoFuture;

use bson::{Bson, Document, doc};
use mongodb::Client;
use oplogue_api::{ErrorKind, Result};

use crate::{
    client::answered,
    errors::{Phase, classify, code},
};

/// The identity of the deployment: the hexadecimal form of a replica set's `replicaSetId`, or of a sharded
/// cluster's `clusterId`; `None` where the user may read neither. Unlike host names and set names it is made at random
/// when the set is initiated, so it tells a factory's server from its restored or re-initiated namesake.
///
/// # Errors
/// Of kind `Transient` or `Operator` when the server cannot be asked; a missing privilege is none.
pub(crate) async fn identity(client: &Client) -> Result<Option<String>> {
    let admin = client.database("admin");
    if let Some(config) = allowed(admin.run_command(doc! {"replSetGetConfig": 1}).into_future()).await?
        && let Some(id) = config.get_document("config").ok().and_then(replica_set_id)
    {
        return Ok(Some(id));
    }
    let stored = client.database("local").collection::<Document>("system.replset");
    if let Some(config) = allowed(stored.find_one(doc! {}).into_future()).await?.flatten()
        && let Some(id) = replica_set_id(&config)
    {
        return Ok(Some(id));
    }
    let version = client.database("config").collection::<Document>("version");
    let version = allowed(version.find_one(doc! {}).into_future()).await?.flatten();
    Ok(version.and_then(|v| v.get("clusterId").and_then(hex)))
}

fn replica_set_id(config: &Document) -> Option<String> {
    config.get_document("settings").ok()?.get("replicaSetId").and_then(hex)
}

fn hex(id: &Bson) -> Option<String> {
    id.as_object_id().map(|id| id.to_hex())
}

/// A refusal by the server (privilege, not a replica set, unknown command) is "not this way"; a server that cannot be
/// reached, or that refuses the login, stays an error.
async fn allowed<T>(answer: impl Future<Output = mongodb::error::Result<T>>) -> Result<Option<T>> {
    match answered(answer).await? {
        Ok(reply) => Ok(Some(reply)),
        Err(e) => {
            let refused = code(&e).is_some();
            let e = classify(e, Phase::Check);
            if refused && e.kind() != ErrorKind::Transient { Ok(None) } else { Err(e) }
        }
    }
}
