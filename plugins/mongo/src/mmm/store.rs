//! The checkpoint of a link, which is its marker.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bson::{Document, Timestamp, doc};
use oplogue_api::{Checkpoint, CheckpointStore, Error, EventId, Finding, Position, Result, Saved, async_trait};
use tokio::sync::Mutex;

use super::{
    copy,
    forward::Forward,
    links,
    marker::{LogState, Marker},
    sink::{fenced, load},
    state::{Peer, State, lacks, newest, taken_back},
    txn::end_session,
    unsettled::Unsettled,
};
use crate::{
    client::answered,
    errors::{Phase, classify, code},
};

/// A position alone, without data, is written at most so often.
const PACE: Duration = Duration::from_secs(10);
const DUPLICATE_KEY: i32 = 11000;
/// How often a link is claimed while its owner goes on writing the marker: the claim is one write, faster than a transaction.
const CLAIMS: u32 = 200;

/// See the module.
pub(super) struct Store {
    peer: Arc<Peer>,
    state: Arc<Mutex<State>>,
    idle: Mutex<Idle>,
    /// Whether this process has taken the link over since it was loaded.
    claimed: AtomicBool,
}

/// What is known about the time since the last write.
struct Idle {
    /// When a position was last written by itself, or looked at.
    looked: Option<Instant>,
    /// Up to here nothing worth a write was in the log of the origin.
    upto: Timestamp,
}

impl Store {
    pub fn new(peer: Arc<Peer>, state: Arc<Mutex<State>>) -> Store {
        let idle = Idle { looked: None, upto: Timestamp { time: 0, increment: 0 } };
        Store { peer, state, idle: Mutex::new(idle), claimed: AtomicBool::new(false) }
    }

    async fn first(&self, route: &str, position: &Position) -> Result<Marker> {
        let since = newest(self.peer.client().await?).await?;
        Ok(Marker {
            link: self.peer.settings.link.clone(),
            lane: 0,
            route: route.to_owned(),
            generation: 1,
            session: self.peer.session.id(self.peer.client().await?).await?,
            seq: 1,
            origin: self.peer.settings.link.node.clone(),
            position: position.clone(),
            done: EventId { time: Timestamp { time: 0, increment: 0 }, index: 0 },
            clock: 0,
            seen: Vec::new(),
            saw: Vec::new(),
            writes: Vec::new(),
            fields: Default::default(),
            again: Vec::new(),
            waits: Vec::new(),
            unsettled: Unsettled::default(),
            log: LogState { clock: 0, since, since_clock: 0 },
            forward: self.peer.settings.forwards.then(|| Forward::new(since)),
        })
    }

    /// The marker is not what was to be replaced.
    fn overtaken(&self, state: &mut State, now: Option<Marker>, known: &Marker, wanted: &Checkpoint) -> Result<Saved> {
        match now {
            Some(now) if state.is_taken_back(&now) => Err(taken_back()),
            Some(now) if checkpoint(&now) == *wanted => {
                self.claimed.store(true, Relaxed);
                state.resume(now);
                Ok(Saved::Stored)
            }
            Some(now) if now.generation == known.generation => {
                Err(Error::transient("the marker changes while it is saved"))
            }
            Some(now) => Ok(Saved::Superseded(checkpoint(&now))),
            None => Err(fenced(&self.peer)),
        }
    }

    /// Whether a position is worth a write of its own. The checkpoint of one link is a write that the link back reads: it must not
    /// be answered, or two idle links feed each other for ever.
    async fn is_worth_it(&self, before: &Marker, position: &Position) -> Result<bool> {
        let mut idle = self.idle.lock().await;
        if idle.looked.is_some_and(|looked| looked.elapsed() < PACE) {
            return Ok(false);
        }
        idle.looked = Some(Instant::now());
        // Nobody else would notice on an idle link that an election has taken back its last transactions.
        if load(&self.peer).await?.is_some_and(|stored| lacks(&stored, before)) {
            return Err(taken_back());
        }
        let from = idle.upto.max(before.position.time);
        let news = self.peer.origin.has_news(from, position.time).await?;
        if news == Some(false) {
            idle.upto = position.time;
        }
        Ok(news.unwrap_or(true))
    }
}

fn checkpoint(marker: &Marker) -> Checkpoint {
    Checkpoint { position: marker.position.clone(), generation: marker.generation }
}

#[async_trait]
impl CheckpointStore for Store {
    async fn load(&self, _route: &str) -> Result<Option<Checkpoint>> {
        let mut state = self.state.lock().await;
        let Some(marker) = load(&self.peer).await? else { return Ok(None) };
        let stored = checkpoint(&marker);
        state.restart(marker);
        self.claimed.store(false, Relaxed);
        Ok(Some(stored))
    }

    async fn save(&self, route: &str, wanted: &Checkpoint) -> Result<Saved> {
        let mut state = self.state.lock().await;
        let known = match state.stored().cloned() {
            Some(known) if state.is_certain => Some(known),
            _ => load(&self.peer).await?,
        };
        if known.as_ref().is_some_and(|known| state.is_taken_back(known)) {
            return Err(taken_back());
        }
        let Some(known) = known else {
            if wanted.generation != 1 {
                return Err(Error::operator(format!("the marker `{}` is gone from the peer", self.peer.settings.link.marker_id(0)))
                    .hint("it says how far the peer is: restore it, or `oplogue position reset` and start with initial = \"merge\""));
            }
            let marker = self.first(route, &wanted.position).await?;
            let markers = self.peer.markers().await?;
            return match answered(markers.insert_one(marker.encode()).into_future()).await? {
                Ok(_) => {
                    self.claimed.store(true, Relaxed);
                    state.resume(marker);
                    Ok(Saved::Stored)
                }
                Err(e) if code(&e) == Some(DUPLICATE_KEY) => match load(&self.peer).await? {
                    Some(marker) if checkpoint(&marker) == *wanted => {
                        state.resume(marker);
                        Ok(Saved::Stored)
                    }
                    Some(marker) => Ok(Saved::Superseded(checkpoint(&marker))),
                    None => Err(Error::transient("the marker changes while it is saved")),
                },
                Err(e) => Err(classify(e, Phase::Store)),
            };
        };
        if checkpoint(&known) == *wanted {
            state.resume(known);
            return Ok(Saved::Stored);
        }
        // A save of our own whose reply was not waited for, and data has followed.
        let is_behind = wanted.position.time <= known.position.time;
        if known.generation == wanted.generation && is_behind && self.peer.is_ours(&known).await? {
            state.resume(known);
            return Ok(Saved::Stored);
        }
        if known.generation + 1 != wanted.generation {
            return Ok(Saved::Superseded(checkpoint(&known)));
        }
        let is_claim = !self.claimed.load(Relaxed) && wanted.position == known.position;
        let is_news = || wanted.position.time > known.position.time;
        if !(is_claim || is_news() && self.is_worth_it(&known, &wanted.position).await?) {
            return Ok(Saved::Held);
        }
        let client = self.peer.client().await?;
        let session = self.peer.session.id(client).await?;
        if let Some(old) = known.session.filter(|old| Some(*old) != session) {
            // A process that was killed may have left a transaction open, and with it holds the marker.
            end_session(client, old).await?;
        }
        let mut known = known;
        let forwards = self.peer.settings.forwards;
        for _ in 0..CLAIMS {
            let forward = known.forward.clone();
            let mut marker = Marker {
                route: route.to_owned(),
                generation: wanted.generation,
                session,
                unsettled: state.stream.unsettled.clone(),
                forward: forwards.then(|| forward.map_or_else(|| Forward::new(known.log.since), Forward::alone)),
                ..known.clone().alone()
            };
            // Whoever had the link may have gone on since the claim began: what it has done stays done.
            if !is_claim {
                marker.position = wanted.position.clone();
                // What the markers up to there have told goes with it: they are not read again. It may be ahead of the position: what
                // lies between is applied, or not wanted.
                let mut seen = state.stream.seen.clone();
                known.seen.iter().for_each(|(node, time)| seen.note(node, *time));
                marker.seen = seen.all().to_vec();
                marker.log.clock = known.log.clock.max(state.stream.clock);
            }
            if self.peer.replace_marker(&known, &marker).await? {
                self.claimed.store(true, Relaxed);
                state.resume(marker);
                return Ok(Saved::Stored);
            }
            match load(&self.peer).await? {
                Some(now) if is_claim && now.generation == known.generation => known = now,
                now => {
                    // Else the next try would be made with what is known to be old.
                    state.is_certain = false;
                    return self.overtaken(&mut state, now, &known, wanted);
                }
            }
        }
        state.is_certain = false;
        Err(Error::transient("the marker changes while it is saved"))
    }

    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let id = self.peer.settings.link.marker_id(0);
        let markers = self.peer.markers().await?;
        copy::forget(self.peer.client().await?, &self.peer.settings.link).await?;
        let Some(position) = position else {
            links::forget(&self.peer).await?;
            // Those of all lanes, of copies too.
            let all = doc! {"node": &self.peer.settings.link.node, "peer": &self.peer.settings.link.peer};
            let either = doc! {"$or": [{"_id": &id}, all]};
            return match answered(markers.delete_many(either).into_future()).await? {
                Ok(_) => Ok(()),
                Err(e) => Err(classify(e, Phase::Store)),
            };
        };
        // A damaged marker is what one resets: it starts anew then.
        let found = answered(markers.find_one(doc! {"_id": &id}).into_future())
            .await?
            .map_err(|e| classify(e, Phase::Store))?;
        let before = found.as_ref().and_then(Marker::decode);
        let fresh = self.first(route, position).await?;
        let marker = match before {
            Some(before) => Marker {
                generation: before.generation + 1,
                seq: before.seq + 1,
                position: position.clone(),
                done: fresh.done,
                log: fresh.log,
                writes: Vec::new(),
                fields: Default::default(),
                again: Vec::new(),
                waits: Vec::new(),
                forward: fresh.forward,
                ..before
            },
            None => fresh,
        };
        let replaced: Document = marker.encode();
        match answered(markers.replace_one(doc! {"_id": &id}, replaced).upsert(true).into_future()).await? {
            Ok(_) => Ok(()),
            Err(e) => Err(classify(e, Phase::Store)),
        }
    }

    async fn check(&self) -> Vec<Finding> {
        // The sink's own check looks at the same database.
        Vec::new()
    }
}
