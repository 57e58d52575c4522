//! Collections, their options and their indexes.

use std::{collections::BTreeMap, future::IntoFuture};

use bson::{Bson, Document, doc};
use mongodb::Client;
use oplogue_api::{Namespace, Result};

use super::ends::Ends;
use crate::{
    client::{answered, bounded, run},
    errors::{Phase, classify, unlisted},
};

/// A collection as one end has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    options: Document,
}

pub(super) type Collections = BTreeMap<Namespace, Described>;

/// All collections of an end that `wants` lets through.
pub(super) async fn collections(client: &Client, wants: &(dyn Fn(&Namespace) -> bool + Sync)) -> Result<Collections> {
    let list = doc! {"listDatabases": 1, "nameOnly": true};
    let reply = run(&client.database("admin"), list, Phase::Lookup).await?;
    let mut all = Collections::new();
    for database in reply.get_array("databases").map(Vec::as_slice).unwrap_or_default() {
        let Some(db) = database.as_document().and_then(|d| d.get_str("name").ok()) else { continue };
        // Never replicated, and a user with few privileges may not look into all of them.
        if matches!(db, "admin" | "local" | "config") || !wants(&Namespace::of(db, "")) {
            continue;
        }
        let database = client.database(db);
        let cursor = database.run_cursor_command(doc! {"listCollections": 1});
        let cursor = answered(cursor.into_future()).await?.map_err(|e| unlisted(db, e, Phase::Lookup))?;
        for found in gather(cursor).await? {
            let ns = Namespace::of(db, found.get_str("name").unwrap_or_default());
            if wants(&ns) {
                let kind = found.get_str("type").unwrap_or("collection").to_owned();
                let options = found.get_document("options").cloned().unwrap_or_default();
                all.insert(ns, Described { kind, options });
            }
        }
    }
    Ok(all)
}

async fn gather(mut cursor: mongodb::Cursor<Document>) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    while answered(cursor.advance()).await?.map_err(|e| classify(e, Phase::Lookup))? {
        all.push(cursor.deserialize_current().map_err(|e| classify(e, Phase::Lookup))?);
    }
    Ok(all)
}

/// Something that is not the same at both ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deviation {
    /// `collection`, `options` or `index NAME`.
    pub what: String,
    /// The end that alone has it; `None`: both have, and differ.
    pub only: Option<usize>,
}

/// Compares a collection apart from its documents.
pub(super) async fn compare(
    ends: &Ends,
    ns: &Namespace,
    [here, there]: [Option<&Described>; 2],
) -> Result<Vec<Deviation>> {
    let (here, there) = match (here, there) {
        (Some(here), Some(there)) => (here, there),
        (here, _) => {
            let only = Some(usize::from(here.is_none()));
            return Ok(vec![Deviation { what: "collection".into(), only }]);
        }
    };
    let mut all = Vec::new();
    if here != there {
        all.push(Deviation { what: "options".into(), only: None });
    }
    if here.kind != "view" && there.kind != "view" {
        let [ours, theirs] = [indexes(&ends.clients[0], ns).await?, indexes(&ends.clients[1], ns).await?];
        all.extend(index_deviations(&ours, &theirs));
    }
    Ok(all)
}

/// By name, as bytes: two `Document`s are equal whatever the order of their fields, two indexes are not.
type Indexes = BTreeMap<String, Vec<u8>>;

fn index_deviations(ours: &Indexes, theirs: &Indexes) -> Vec<Deviation> {
    let mut all = Vec::new();
    for (name, index) in ours {
        match theirs.get(name) {
            None => all.push(Deviation { what: format!("index {name}"), only: Some(0) }),
            Some(other) if other != index => all.push(Deviation { what: format!("index {name}"), only: None }),
            Some(_) => {}
        }
    }
    let only_there = theirs.keys().filter(|name| !ours.contains_key(*name));
    all.extend(only_there.map(|name| Deviation { what: format!("index {name}"), only: Some(1) }));
    all
}

async fn indexes(client: &Client, ns: &Namespace) -> Result<Indexes> {
    let database = client.database(ns.db());
    let cursor = database.run_cursor_command(doc! {"listIndexes": ns.coll()});
    let listed = gather(bounded(cursor.into_future(), Phase::Lookup).await?).await?;
    Ok(listed.into_iter().map(normal).collect())
}

/// An index without what servers of different versions say differently of the same one.
fn normal(mut index: Document) -> (String, Vec<u8>) {
    for field in ["ns", "v", "background"] {
        index.remove(field);
    }
    // The order of the options says nothing, that of the keys does.
    let sorted: BTreeMap<String, Bson> = index.into_iter().collect();
    let name = sorted.get("name").and_then(Bson::as_str).unwrap_or_default().to_owned();
    let sorted: Document = sorted.into_iter().collect();
    (name, bson::serialize_to_vec(&sorted).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_compared_without_what_versions_say_differently() {
        let of = |all: &[Document]| all.iter().cloned().map(normal).collect::<Indexes>();
        let ours = of(&[
            doc! {"v": 2, "key": {"a": 1, "b": 1}, "name": "ab", "ns": "x.y", "unique": true},
            doc! {"v": 2, "key": {"c": 1}, "name": "c"},
            doc! {"v": 2, "key": {"d": 1, "e": 1}, "name": "d"},
        ]);
        let theirs = of(&[
            doc! {"v": 1, "unique": true, "key": {"a": 1, "b": 1}, "name": "ab"},
            doc! {"v": 2, "key": {"e": 1, "d": 1}, "name": "d"},
            doc! {"v": 2, "key": {"f": 1}, "name": "f"},
        ]);
        let deviation = |what: &str, only| Deviation { what: what.into(), only };
        assert_eq!(
            index_deviations(&ours, &theirs),
            [deviation("index c", Some(0)), deviation("index d", None), deviation("index f", Some(1))]
        );
    }
}
