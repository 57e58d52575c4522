//! Which collections cannot be written in transactions.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use mongodb::Client;
use oplogue_api::{Namespace, Result};

use super::state::collection;

/// More namespaces than this are not remembered at once (I6).
const MOST_CACHED: usize = 10_000;

/// What has a name at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CollectionKind {
    Plain,
    /// It evicts its oldest documents itself, so deletes are not applied to it: from 5.0 on evictions at the source are logged as
    /// deletes, and cannot be told from those of an application. No transactions.
    Capped {
        size: i64,
        max: Option<i64>,
    },
    /// No transactions.
    TimeSeries,
    /// Cannot be written at all.
    View,
    Missing,
}

impl CollectionKind {
    /// Whether it can be written in a transaction, together with the marker.
    pub fn takes_transactions(self) -> bool {
        matches!(self, CollectionKind::Plain | CollectionKind::Missing)
    }
}

/// Asks once for each namespace, until it is told that something has changed.
pub(crate) struct Kinds {
    client: Client,
    known: Mutex<HashMap<Namespace, CollectionKind>>,
}

impl Kinds {
    pub fn new(client: &Client) -> Kinds {
        Kinds { client: client.clone(), known: Mutex::default() }
    }

    /// What has the name. A name that nothing has is asked for again.
    pub async fn of(&self, ns: &Namespace) -> Result<CollectionKind> {
        if let Some(kind) = self.known().get(ns) {
            return Ok(*kind);
        }
        let Some(found) = collection(&self.client, ns).await? else { return Ok(CollectionKind::Missing) };
        let number = |name: &str| match found.options.get(name) {
            Some(bson::Bson::Int32(n)) => Some(i64::from(*n)),
            Some(bson::Bson::Int64(n)) => Some(*n),
            Some(bson::Bson::Double(n)) => Some(*n as i64),
            _ => None,
        };
        let kind = match &*found.kind {
            "view" => CollectionKind::View,
            "timeseries" => CollectionKind::TimeSeries,
            _ if found.options.get_bool("capped").is_ok_and(|is| is) => {
                CollectionKind::Capped { size: number("size").unwrap_or(0), max: number("max").filter(|max| *max > 0) }
            }
            _ => CollectionKind::Plain,
        };
        let mut known = self.known();
        if known.len() >= MOST_CACHED {
            known.clear();
        }
        known.insert(ns.clone(), kind);
        Ok(kind)
    }

    /// Something in the database was created, dropped, renamed or converted: by DDL of the link, or as the peer's own log shows.
    pub fn forget_database(&self, db: &str) {
        self.known().retain(|ns, _| ns.db() != db);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Namespace, CollectionKind>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
