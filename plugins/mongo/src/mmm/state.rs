//! What the sink knows while it runs, and the peer itself.

use std::{
    collections::{HashMap, HashSet},
    future::IntoFuture,
    sync::Arc,
    time::Instant,
};

use bson::{Document, Timestamp, doc};
use mongodb::{
    Client, Collection,
    options::{Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{Error, Event, MARKERS, Namespace, Result};
use tokio::sync::OnceCell;

use super::{
    copy::Meter,
    ddl::Applier,
    marker::Marker,
    names,
    options::Settings,
    origin::Origin,
    seen::{Seen, Stream},
    statements::{Abilities, Serial},
    txn::Session,
    window::Window,
};
use crate::{
    client::{answered, connect},
    errors::{Phase, classify},
};

/// Markers of lanes from here on belong to copies and repairs: they say nothing about how far a log is applied.
pub(crate) const FIRST_SIDE_LANE: u32 = 1000;

/// Both deployments.
pub(super) struct Peer {
    pub settings: Settings,
    pub origin: Origin,
    client: OnceCell<Client>,
    ddl: OnceCell<Applier>,
    /// How far an initial copy is.
    pub meter: Arc<Meter>,
    /// Of the transactions at the peer.
    pub session: Session,
}

impl Peer {
    pub fn new(settings: Settings, origin: Origin) -> Peer {
        Peer {
            settings,
            origin,
            client: OnceCell::new(),
            ddl: OnceCell::new(),
            meter: Arc::default(),
            session: Session::quick(),
        }
    }

    pub async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| connect(&self.settings.uri, "oplogue")).await
    }

    /// What applies DDL.
    pub async fn ddl(&self) -> Result<&Applier> {
        let make = async || {
            let (origin, peer) = (self.origin.client().await?, self.client().await?);
            Ok(Applier::new(self.settings.link.clone(), self.settings.ddl, self.settings.forwards, origin, peer))
        };
        self.ddl.get_or_try_init(make).await
    }

    /// The collection of markers: read at the primary as it is there, like the transactions are written; alone it is written with a
    /// majority.
    pub async fn markers(&self) -> Result<Collection<Document>> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::local())
            .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        Ok(self.client().await?.database(names::DATABASE).collection_with_options(names::MARKERS, options))
    }

    /// Whether this process has written the marker.
    pub async fn is_ours(&self, marker: &Marker) -> Result<bool> {
        Ok(marker.session.is_some() && marker.session == self.session.id(self.client().await?).await?)
    }

    /// Replaces the marker by itself, if it is what we believe.
    pub async fn replace_marker(&self, before: &Marker, marker: &Marker) -> Result<bool> {
        let markers = self.markers().await?;
        match answered(markers.replace_one(before.filter(), marker.encode()).into_future()).await? {
            Ok(result) => Ok(result.matched_count == 1),
            Err(e) => Err(classify(e, Phase::Store)),
        }
    }

    pub async fn close(&self) {
        if let Some(client) = self.client.get() {
            crate::client::hang_up(Some(client.clone())).await;
        }
        self.origin.close().await;
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct State {
    /// As it is stored; `None` before the link is claimed.
    marker: Option<Marker>,
    /// Whether `marker` is what is stored. Not after a commit whose outcome is unknown.
    pub is_certain: bool,
    /// What the source has told up to the last event that is applied.
    pub stream: Stream,
    /// Whether the peer's changes come back to the origin: the link back has a marker there.
    pub comes_back: bool,
    /// What others have written at the peer; `None` until the peer's changes are known to come back to the origin.
    pub window: Option<Window>,
    /// By hash: up to that time the writes of the peer have lost against an earlier change of the origin.
    pub beaten: HashMap<u64, Timestamp>,
    /// Whether other links lead to the peer too.
    pub is_mesh: bool,
    /// Whether words were said since the log of the peer was read: what they were about is still needed, which only the log says.
    pub has_spoken: bool,
    /// Whether the node that merges, where it is a third one, is known to have a link to the peer.
    pub is_third_here: bool,
    pub serial: Serial,
    /// For so many transactions more, tombstones are expected to be there already.
    pub known_stones: u32,
    pub abilities: Abilities,
    /// What kind of collection each namespace is at the peer, as far as it was asked: whether it takes transactions.
    pub transactional: HashMap<Namespace, bool>,
    /// Links to the node of which it is known that they tell by now whose the writes are that they bring.
    pub telling: HashSet<String>,
    /// Documents that were taken whole: events up to that time are in them.
    pub included: HashMap<(Namespace, u64), Timestamp>,
    /// An initial copy may hold the events up to here already.
    pub covered: Option<Timestamp>,
    /// How many events a transaction takes.
    pub most: usize,
    /// When it was last said that a clock is wrong.
    pub told_of_clock: Option<Instant>,
}

impl State {
    /// `most`: how many events a transaction takes.
    pub fn new(most: usize, settings: &Settings) -> State {
        let (settles, forwards) = (settings.is_preferred(), settings.forwards);
        let stream = Stream { settles, forwards, ..Stream::default() };
        State { most, stream, ..State::default() }
    }

    /// What is stored, as far as is known.
    pub fn stored(&self) -> Option<&Marker> {
        self.marker.as_ref()
    }

    pub fn marker(&self) -> Result<&Marker> {
        self.marker.as_ref().ok_or_else(|| Error::bug("the link is written to before it is claimed"))
    }

    /// Begins to read behind what is stored: nothing counts that was read or written behind it before.
    pub fn restart(&mut self, marker: Marker) {
        let Stream { settles, forwards, .. } = self.stream;
        self.stream = Stream { settles, forwards, ..Stream::default() };
        self.included.clear();
        self.beaten.clear();
        self.window = None;
        self.resume(marker);
    }

    /// Whether an election has taken back what was not on a majority yet, the marker with the data: `stored` is what is there now.
    pub fn is_taken_back(&self, stored: &Marker) -> bool {
        self.marker.as_ref().is_some_and(|known| lacks(stored, known))
    }

    /// Goes on from what is stored.
    pub fn resume(&mut self, marker: Marker) {
        for (node, time) in &marker.seen {
            self.stream.seen.note(node, *time);
        }
        self.stream.clock = self.stream.clock.max(marker.log.clock);
        if self.stream.settles {
            self.stream.unsettled.merge(&marker.unsettled);
        }
        self.has_spoken |= !marker.again.is_empty();
        self.marker = Some(marker);
        self.is_certain = true;
    }

    /// A transaction with this marker is committed, and the source had told `stream` by then.
    pub fn committed(
        &mut self,
        marker: Marker,
        stream: Stream,
        included: impl Iterator<Item = ((Namespace, u64), Timestamp)>,
    ) {
        self.included.retain(|_, at| *at > marker.done.time);
        self.included.extend(included);
        self.stream = stream;
        if self.beaten.len() > 10_000 {
            self.beaten.retain(|_, upto| *upto > marker.log.since);
        }
        self.is_mesh |= self.window.as_ref().is_some_and(|window| !window.applied().all().is_empty());
        self.has_spoken |= !marker.again.is_empty();
        self.marker = Some(marker);
        self.is_certain = true;
    }

    /// How far the writes of each node are known at the peer, where the link forwards.
    pub fn had(&self) -> &Seen {
        const NOTHING: &Seen = &Seen::NOTHING;
        self.window.as_ref().map_or(NOTHING, Window::had)
    }

    /// Whether it is applied already.
    pub fn is_done(&self, event: &Event) -> bool {
        self.marker.as_ref().is_some_and(|marker| event.id() <= marker.done)
    }

    /// Whether all that the change follows from is here: what the origin had applied of other nodes, whose own links lead here too.
    pub fn is_followed_from(&self, seen: &Seen) -> bool {
        let Some(window) = &self.window else { return true };
        let here = window.applied();
        seen.all().iter().all(|(node, time)| here.of(node).is_none_or(|applied| applied >= *time))
    }

    pub fn is_covered(&self, time: Timestamp) -> bool {
        self.covered.is_some_and(|until| time <= until)
    }
}

/// Whether the marker that is there does not know of what was written with another one before.
pub(super) fn lacks(stored: &Marker, known: &Marker) -> bool {
    stored.generation == known.generation && stored.done < known.done
}

pub(super) fn taken_back() -> Error {
    Error::position_lost("the peer has lost the last transactions in an election, and their marker with them")
}

/// Whether the event is a marker.
pub(super) fn is_marker(event: &Event) -> bool {
    event.ns.as_str() == MARKERS
}

/// The newest entry of a log that no election takes back.
pub(super) async fn newest(client: &Client) -> Result<Timestamp> {
    let log = client.database("local").collection::<Document>("oplog.rs");
    let find = log.find_one(doc! {}).sort(doc! {"$natural": -1}).projection(doc! {"ts": 1});
    let find = find.read_concern(ReadConcern::majority());
    let found = crate::client::bounded(std::future::IntoFuture::into_future(find), crate::errors::Phase::Apply).await?;
    found
        .and_then(|entry| entry.get_timestamp("ts").ok())
        .ok_or_else(|| Error::operator("the peer has no oplog").hint("it must be a replica set: rs.initiate()"))
}
