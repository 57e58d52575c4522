//! Collections with the options and indexes of the source, and views.
//!
//! Unique indexes are there before the documents: the target takes writes all the time, and a duplicate that came in between
//! could not be told from one that was there. Indexes of other kinds are built at the end, which is cheaper; those of a lifetime too, or
//! the target would delete by itself while it is copied to.

use std::{future::IntoFuture, time::Duration};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{Error, Namespace, Result};
use tracing::warn;

use super::plan::{Described, Kind};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify, code},
    mmm::names,
};

/// How long one index may take to be built.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// Options that only some versions know, and that say nothing about the documents.
const OPTIONAL: &[&str] =
    &["changeStreamPreAndPostImages", "recordPreImages", "indexOptionDefaults", "storageEngine", "autoIndexId"];

/// The metadata collections that a transaction writes to.
pub(super) async fn metadata(to: &Client) -> Result<()> {
    for name in [names::MARKERS, names::COPIES, names::CONFLICTS, names::TOMBSTONES] {
        create(to, &Namespace::of(names::DATABASE, name), doc! {}).await?;
    }
    Ok(())
}

/// Whether the collection was made; `false`: there is one.
async fn create(to: &Client, ns: &Namespace, options: Document) -> Result<bool> {
    let mut command = doc! {"create": ns.coll()};
    command.extend(options);
    command.insert("writeConcern", doc! {"w": "majority"});
    match answered(to.database(ns.db()).run_command(command).into_future()).await? {
        Ok(_) => Ok(true),
        Err(e) if code(&e) == Some(48) => Ok(false),
        Err(e) if matches!(code(&e), Some(40415 | 72 | 2 | 9 | 197 | 5979900)) => {
            Err(Error::operator(format!("the target cannot make `{ns}` with the options that it has at the source (MongoDB error {})", code(&e).unwrap_or(0)))
                .hint("it may be of an older version: make the collection there by hand, or leave it out of the namespaces of this link"))
        }
        Err(e) => Err(classify(e, Phase::Copy)),
    }
}

/// Makes the collection or view where it is missing. Whether both have the same validator.
pub(super) async fn prepare(to: &Client, there: &Described) -> Result<bool> {
    let made = match create(to, &there.ns, there.options.clone()).await {
        Err(e) if there.options.keys().any(|name| OPTIONAL.contains(&name.as_str())) && e.field().is_none() => {
            if e.kind() != oplogue_api::ErrorKind::Operator {
                return Err(e);
            }
            let plain = there.options.clone().into_iter();
            let plain = plain.filter(|(name, _)| !OPTIONAL.contains(&name.as_str())).collect();
            warn!(namespace = %there.ns, "made without the options that the target does not know: {}", OPTIONAL.join(", "));
            create(to, &there.ns, plain).await?
        }
        made => made?,
    };
    if made {
        return Ok(true);
    }
    let asked = doc! {"listCollections": 1, "filter": {"name": there.ns.coll()}};
    let listed =
        async { to.database(there.ns.db()).run_cursor_command(asked).await?.try_collect::<Vec<Document>>().await };
    let here = bounded(listed, Phase::Copy).await?;
    let here = here.first().and_then(|d| d.get_document("options").ok().cloned()).unwrap_or_default();
    let rule = |options: &Document| options.get("validator").cloned();
    if here != there.options {
        warn!(namespace = %there.ns, "the {} has other options at the target than at the source, which are left as they are", there.kind.name());
    }
    Ok(rule(&here) == rule(&there.options))
}

/// Makes the indexes that are missing: the unique ones, or the others.
pub(super) async fn indexes(from: &Client, to: &Client, there: &Described, unique: bool) -> Result<()> {
    if there.kind == Kind::View {
        return Ok(());
    }
    for index in listed(from, &there.ns).await? {
        if index.get_bool("unique").unwrap_or(false) != unique {
            continue;
        }
        let name = index.get_str("name").unwrap_or_default().to_owned();
        let command = doc! {"createIndexes": there.ns.coll(), "indexes": [index], "writeConcern": {"w": "majority"}};
        let db = to.database(there.ns.db());
        let built = tokio::time::timeout(PATIENCE, db.run_command(command).into_future()).await;
        match built.map_err(|_| Error::transient("an index could not be built in 12 hours"))? {
            Ok(_) => {}
            // Another one of that name or those keys; duplicates; too many; not known to this version.
            Err(e) if matches!(code(&e), Some(85 | 86 | 67 | 68 | 197 | 11000)) => {
                let code = code(&e).unwrap_or(0);
                warn!(namespace = %there.ns, index = name, code, "the index cannot be made at the target: make it there by hand");
            }
            Err(e) => return Err(classify(e, Phase::Copy)),
        }
    }
    Ok(())
}

/// The indexes of a collection besides that of `_id`.
async fn listed(from: &Client, ns: &Namespace) -> Result<Vec<Document>> {
    let asked = doc! {"listIndexes": ns.coll()};
    let listed = async { from.database(ns.db()).run_cursor_command(asked).await?.try_collect::<Vec<Document>>().await };
    let mut all = match answered(listed).await? {
        Ok(all) => all,
        // The collection is gone by now.
        Err(e) if code(&e) == Some(26) => Vec::new(),
        Err(e) => return Err(classify(e, Phase::Copy)),
    };
    all.retain(|index| {
        !index.get_str("name").is_ok_and(|name| name == "_id_") && !index.get_bool("clustered").unwrap_or(false)
    });
    for index in &mut all {
        index.remove("ns");
    }
    Ok(all)
}
