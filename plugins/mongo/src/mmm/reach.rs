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
        let is_own = missing.contains(&link.peer.as_str());
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
            let Some(marker) = entry.get_document("marker").ok().and_then(Marker::decode) else { continue };
            if marker.link.peer != link.peer || marker.lane >= FIRST_SIDE_LANE {
                continue;
            }
            if marker.link.node != link.node && !is_news(&marker) {
                links.remove(&marker.link.node);
            }
            // Each marker of our own names a place, and the clock there.
            let is_seen = !is_own || at.min(marker.log.since) <= own;
            if is_seen && links.is_empty() && marker.link.node == link.node && marker.log.since >= first {
                return Ok((marker.log.since, marker.log.since_clock));
            }
        }
        // Since the link was made, all is needed.
        if first <= self.floor() { Ok((self.floor(), 0)) } else { Err(gone()) }
    }
}

#[cfg(test)]
mod tests {
    use bson::Uuid;
    use mongodb::options::ClientOptions;
    use oplogue_api::{Doc, ErrorKind, EventId, Namespace, Position};
    use oplogue_testkit::{servers, unique};

    use super::*;
    use crate::mmm::{
        forward::Forward,
        marker::{Link, LogState},
        state::newest,
    };

    const ZERO: Timestamp = Timestamp { time: 0, increment: 0 };

    /// A leaf was cut off, and what it writes has seen nothing of what the window has forgotten long ago.
    #[tokio::test]
    async fn the_window_reaches_back_to_what_was_forgotten() {
        let options = ClientOptions::parse(servers::mongo().await.uri()).await.expect("a URI");
        let client = Client::with_options(options).expect("a client");
        let (db, node, peer) = (unique("reach"), unique("a"), unique("b"));
        let coll = client.database(&db).collection::<Document>("c");
        let markers = client.database(names::DATABASE).collection::<Document>(names::MARKERS);
        let link = Link { node: node.clone(), peer: peer.clone() };
        let floor = newest(&client).await.unwrap();
        let marker = |since: Timestamp, since_clock: i64, seq: u64| Marker {
            link: link.clone(),
            lane: 0,
            route: String::new(),
            generation: 1,
            session: Some(Uuid::from_bytes([1; 16])),
            seq,
            origin: node.clone(),
            position: Position { token: Doc::empty(), time: ZERO },
            done: EventId { time: ZERO, index: 0 },
            clock: 0,
            seen: vec![],
            saw: vec![],
            writes: vec![],
            fields: Default::default(),
            again: vec![],
            waits: vec![],
            unsettled: Default::default(),
            log: LogState { clock: 0, since, since_clock },
            forward: Some(Forward::new(floor)),
        };
        let store = async |marker: Marker| {
            markers.replace_one(doc! {"_id": link.marker_id(0)}, marker.encode()).upsert(true).await.expect("a marker");
        };
        let write = async |id: i32| {
            coll.insert_one(doc! {"_id": id}).await.expect("a write");
            newest(&client).await.unwrap()
        };
        let seen_by_all = write(1).await;
        store(marker(seen_by_all, 77, 1)).await;
        let forgotten = write(2).await;
        store(marker(forgotten, 88, 2)).await;
        let since = write(3).await;
        let forward = Forward { base: vec![(peer.clone(), forgotten)], ..Forward::new(floor) };
        let stored = Marker { forward: Some(forward), ..marker(since, 99, 3) };
        let wanted = db.clone();
        let window = Window::new(link.clone(), since, 99, 1 << 20).of(move |ns| (ns.db() == wanted).then_some(false));
        let mut window = window.forwarding(&stored);
        window.pull(&client).await.unwrap();
        let key = |id: i32| Doc::from(bson::RawDocumentBuf::try_from(&doc! {"_id": id}).unwrap());
        let hash = |id| Window::hash(&Namespace::of(&db, "c"), &key(id));
        let met = |window: &Window, id, seen: &Seen| window.concurrent(hash(id), seen).count();

        let late = Seen::new(&[(peer.clone(), forgotten)]);
        assert!(window.reaches(&late));
        let early = Seen::new(&[(peer.clone(), seen_by_all)]);
        assert!(!window.reaches(&early));
        assert_eq!(met(&window, 2, &early), 0, "it is forgotten");
        window.reach(&client, &early).await.unwrap();
        assert!(window.reaches(&early));
        assert_eq!([1, 2, 3].map(|id| met(&window, id, &early)), [0, 1, 1]);
        // It begins at the place that the older marker names.
        assert_eq!(window.start(), seen_by_all);
        // Who has heard of nothing: back to where the link was made, and no further.
        window.reach(&client, &Seen::default()).await.unwrap();
        assert_eq!((window.start(), met(&window, 1, &Seen::default())), (floor, 1));
    }

    /// An entry that is no longer there, though older ones are, went in an election: the window can be made anew. Where the oldest is
    /// a later one, nothing helps.
    #[tokio::test]
    async fn an_entry_that_an_election_took_back_is_not_one_that_fell_out_of_the_log() {
        let options = ClientOptions::parse(servers::mongo().await.uri()).await.expect("a URI");
        let client = Client::with_options(options).expect("a client");
        let link = Link { node: unique("a"), peer: unique("b") };
        let newest = newest(&client).await.unwrap();
        let later = Timestamp { time: newest.time + 3600, increment: 1 };
        let between = Timestamp { time: newest.time, increment: u32::MAX };
        for (at, kind) in [
            (later, ErrorKind::Transient),
            (between, ErrorKind::Transient),
            (Timestamp { time: 1, increment: 1 }, ErrorKind::Operator),
        ] {
            let e = Window::new(link.clone(), at, 0, 1 << 20).pull(&client).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{at:?}: {e}");
        }
    }
}
