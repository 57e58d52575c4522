//! Reaching further back in the log of the peer, where something comes from a node that was cut off for long: it has not seen what
//! the window has forgotten.

use std::{collections::HashMap, future::IntoFuture};

use bson::{Bson, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{Error, MARKERS, Result};

use super::{
    forward::known,
    marker::Marker,
    names,
    seen::Seen,
    state::FIRST_SIDE_LANE,
    window::{Window, gone},
};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify},
};

impl Window {
    /// Whether all that was forgotten is among what `seen` has seen.
    pub fn reaches(&self, seen: &Seen) -> bool {
        seen.covers(self.base())
    }

    /// Makes the window anew from a place of the log before which there is nothing that `seen` has not seen.
    ///
    /// # Errors
    /// `Operator` where the log of the peer does not reach back so far.
    pub async fn reach(&mut self, client: &Client, seen: &Seen) -> Result<()> {
        let place = self.place_before(client, seen).await?;
        let empty = Window::new(self.link().clone(), place.0, place.1, 0);
        *self = std::mem::replace(self, empty).at_place(place, seen);
        self.pull(client).await
    }

    async fn place_before(&self, client: &Client, seen: &Seen) -> Result<(Timestamp, i64)> {
        let link = self.link();
        let is_missing = |(node, time): &(String, Timestamp)| seen.of(node).is_none_or(|upto| upto < *time);
        let missing: Vec<&str> =
            self.base().all().iter().filter(|at| is_missing(at)).map(|(node, _)| node.as_str()).collect();
        let is_news =
            |marker: &Marker| known(marker).all().iter().any(|at| missing.contains(&at.0.as_str()) && is_missing(at));
        // The links that have brought something which was not seen.
        let mut links: HashMap<String, ()> = HashMap::new();
        let markers = client.database(names::DATABASE).collection::<Document>(names::MARKERS);
        let others = doc! {"peer": &link.peer, "node": {"$ne": &link.node}, "lane": {"$lt": FIRST_SIDE_LANE}};
        let mut found = bounded(markers.find(others).into_future(), Phase::Apply).await?;
        while let Some(other) = bounded(found.try_next(), Phase::Apply).await? {
            if let Some(marker) = Marker::decode(&other).filter(|marker| is_news(marker)) {
                links.insert(marker.link.node, ());
            }
        }
        let mut is_own = missing.contains(&link.peer.as_str());
        let own = seen.of(&link.peer).unwrap_or(Timestamp { time: 0, increment: 0 });
        let log = client.database("local").collection::<Document>("oplog.rs");
        let first = log.find_one(doc! {}).sort(doc! {"$natural": 1}).projection(doc! {"ts": 1});
        let first = bounded(first.into_future(), Phase::Apply).await?;
        let first = first.and_then(|entry| entry.get_timestamp("ts").ok()).ok_or_else(gone)?;
        let one = doc! {"$arrayElemAt": ["$o.applyOps", 0]};
        let is_transaction = doc! {"$and": [{"$eq": ["$op", "c"]}, {"$isArray": "$o.applyOps"}]};
        let one = doc! {"$cond": [is_transaction, one, Bson::Null]};
        let marker = doc! {"$switch": {"branches": [
            {"case": {"$eq": ["$ns", MARKERS]}, "then": "$o"},
            {"case": {"$eq": [{"$let": {"vars": {"first": one.clone()}, "in": "$$first.ns"}}, MARKERS]},
             "then": {"$let": {"vars": {"first": one}, "in": "$$first.o"}}},
        ], "default": Bson::Null}};
        let find = log.find(doc! {"ts": {"$lte": self.start(), "$gte": self.floor()}}).sort(doc! {"$natural": -1});
        let find = find.projection(doc! {"ts": 1, "marker": marker}).batch_size(1000);
        let mut entries = answered(find.into_future()).await?.map_err(|e| classify(e, Phase::Apply))?;
        while let Some(entry) = bounded(entries.try_next(), Phase::Apply).await? {
            let at = entry.get_timestamp("ts").map_err(|_| Error::transient("an entry of the oplog without a time"))?;
            is_own &= at > own;
            let Some(marker) = entry.get_document("marker").ok().and_then(Marker::decode) else { continue };
            if marker.link.peer != link.peer || marker.lane >= FIRST_SIDE_LANE {
                continue;
            }
            if marker.link.node != link.node && !is_news(&marker) {
                links.remove(&marker.link.node);
            }
            // Each marker of our own names a place, and the clock there.
            if !is_own && links.is_empty() && marker.link.node == link.node && marker.log.since >= first {
                return Ok((marker.log.since, marker.log.since_clock));
            }
        }
        // Since the link was made, all is needed.
        if first <= self.floor() { Ok((self.floor(), 0)) } else { Err(gone()) }
    }
}
