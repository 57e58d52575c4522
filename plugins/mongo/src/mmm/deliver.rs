//! From a batch of events to transactions: in what pieces, in what order, and what is waited for.

use std::{
    collections::HashMap,
    future::IntoFuture,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use oplogue_api::{Error, Event, Namespace, Position, Result};
use tracing::{info, warn};

use super::{
    apply::{Outcome, Retry, Tactics},
    arbiter,
    chunk::{chunks, units},
    marker::{Link, Marker},
    names,
    options::{Conflicts, Settings},
    origin::raw,
    sight::{Sight, pass},
    sink::Mmm,
    state::{State, is_marker},
    txn::Failure,
    window::Window,
    word::asked,
};
use crate::{client, errors::Phase};

/// How many events a transaction takes when nobody is in the way.
pub(super) const MOST: usize = 1000;
/// More namespaces than this are not remembered at once (I6).
const MOST_NAMESPACES: usize = 10_000;
/// How often a transaction is tried before the engine hears of it. With the waits between, some seconds.
pub(super) const TRIES: u32 = 12;
/// For so long at most: where the peer cannot be reached each try takes its time.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long what a change follows from is waited for. Then its document is taken whole.
const CAUSES: Duration = Duration::from_secs(1);

impl Mmm {
    /// Applies events that belong together, in as many transactions as it takes.
    pub(super) async fn apply(&self, state: &mut State, events: &[Event], upto: &Position) -> Result<Outcome> {
        let mut total = Outcome::default();
        let mut rest: Vec<Range<usize>> = chunks(events, state.most);
        rest.reverse();
        let (mut tries, mut since) = (0, Instant::now());
        let mut tactics = Tactics::default();
        while let Some(range) = rest.pop() {
            if !state.is_certain {
                self.reload(state).await?;
            }
            let part = &events[range.clone()];
            tactics.is_part = is_cut(events, range.end);
            let is_idle = if self.peer.settings.forwards {
                !self.is_wanted(state, part).await?
            } else {
                part.iter().all(|event| state.is_done(event) || !self.concerns(event))
                    && !self.is_asked(state, part).await?
            };
            if is_idle {
                for marker in part.iter().filter(|event| is_marker(event)) {
                    pass(&mut state.stream, marker, &self.peer.settings.link.node);
                }
                if !tactics.is_part {
                    state.stream.end();
                }
                continue;
            }
            let skip = part.iter().take_while(|event| state.is_done(event)).count();
            if self.peer.settings.forwards {
                for marker in part[..skip].iter().filter(|event| is_marker(event)) {
                    pass(&mut state.stream, marker, &self.peer.settings.link.node);
                }
                if let Some(ready) =
                    apart(&Sight::new(&state.stream, &part[skip..], false, &self.peer.settings)?, &part[skip..])
                {
                    rest.push(range.start + skip + ready..range.end);
                    rest.push(range.start..range.start + skip + ready);
                    continue;
                }
            } else if !tactics.is_behind {
                match causes_here(state, &part[skip..], &self.peer.settings)? {
                    None => {}
                    Some(0) => tactics.is_behind = !self.wait_for_causes(state, &part[skip..]).await?,
                    Some(ready) => {
                        // What is ready may be what the others wait for.
                        rest.push(range.start + skip + ready..range.end);
                        rest.push(range.start..range.start + skip + ready);
                        continue;
                    }
                }
            }
            self.look_at_collections(state, part).await?;
            self.look_at_third(state, part).await?;
            let is_last = rest.is_empty();
            let before = state.marker()?.position.clone();
            let position = if is_last { upto } else { &before };
            match self.peer.attempt(state, &part[skip..], position, &mut tactics).await {
                Ok(outcome) => {
                    total.applied += outcome.applied;
                    total.conflicts += outcome.conflicts;
                    total.refused += outcome.refused;
                    self.counts.conflicts.fetch_add(outcome.conflicts, Relaxed);
                    self.counts.refused.fetch_add(outcome.refused, Relaxed);
                    (tries, since) = (0, Instant::now());
                    tactics = Tactics::default();
                    state.most = (state.most * 2).min(MOST);
                }
                Err(Retry::Otherwise) => rest.push(range),
                Err(Retry::Failure(Failure::Error(e))) => {
                    state.is_certain = false;
                    return Err(e);
                }
                Err(Retry::Failure(Failure::Again(e))) => {
                    tries += 1;
                    if tries >= TRIES || since.elapsed() > PATIENCE {
                        return Err(e);
                    }
                    // Small transactions get through where large ones do not, and hold up a local writer for less time.
                    state.most = (state.most / 2).max(1);
                    tactics = Tactics::default();
                    halve(&mut rest, range, events);
                    tokio::time::sleep(Duration::from_millis(2 << tries.min(8))).await;
                }
                Err(Retry::Failure(Failure::TooLarge(e))) => {
                    state.most = (state.most / 2).max(1);
                    tactics = Tactics::default();
                    if units(part).len() == 1 {
                        if part.len() == 1 {
                            return Err(e);
                        }
                        warn!(
                            route = self.route,
                            events = part.len(),
                            "a transaction of the source is too large for one at the peer: it is applied in two"
                        );
                        self.counts.split.fetch_add(1, Relaxed);
                        let middle = range.start + part.len() / 2;
                        rest.push(middle..range.end);
                        rest.push(range.start..middle);
                    } else {
                        halve(&mut rest, range, events);
                    }
                }
            }
        }
        Ok(total)
    }

    /// Finds out which of the collections can be written in transactions.
    async fn look_at_collections(&self, state: &mut State, events: &[Event]) -> Result<()> {
        for event in events.iter().filter(|event| self.concerns(event)) {
            let ns = &event.ns;
            if state.transactional.contains_key(ns) {
                continue;
            }
            let kind = self.peer.ddl().await?.kinds().of(ns).await?;
            let is_one_way = self.peer.settings.policy(ns).conflicts == Conflicts::Origin;
            if !kind.takes_transactions() && !is_one_way {
                return Err(Error::operator(format!("{ns} is a capped or time-series collection or a view at the peer, which transactions cannot write: its changes would come back for ever"))
                    .hint("leave it out with `namespaces`; or replicate it one way: conflicts = \"origin\" for it in `collections`, and leave it out in the sink of the other direction"));
            }
            if !kind.takes_transactions() {
                info!(route = self.route, %ns, "it is replicated one way, outside of transactions");
            }
            if state.transactional.len() >= MOST_NAMESPACES {
                state.transactional.clear();
            }
            state.transactional.insert(ns.clone(), kind.takes_transactions());
        }
        Ok(())
    }

    /// Leaves to the node that merges what goes through it, once there is a link that brings it from there.
    async fn look_at_third(&self, state: &mut State, events: &[Event]) -> Result<()> {
        let Some(third) = self.peer.settings.third().filter(|_| !state.is_third_here) else { return Ok(()) };
        let is_left = |event: &&Event| self.concerns(event) && self.peer.settings.is_between_others(&event.ns);
        let Some(event) = events.iter().find(is_left) else { return Ok(()) };
        let peer = &self.peer.settings.link.peer;
        let link = Link { node: third.to_owned(), peer: peer.clone() };
        let markers = self.peer.markers().await?;
        let found = markers.find_one(doc! {"_id": link.marker_id(0)}).into_future();
        if client::bounded(found, Phase::Apply).await?.is_none() {
            return Err(Error::transient(format!("{} is merged by `{third}`, the first of `priority`, and no link leads from there to `{peer}`", event.ns))
                .hint("links with all others in both directions belong to the node that merges; or name another one first in `priority`, in all sinks"));
        }
        info!(route = self.route, "merged fields come to `{peer}` from `{third}`, and not from here");
        state.is_third_here = true;
        Ok(())
    }

    /// Waits until another link has brought what the first of the events follows from; not for ever, since that link may be cut.
    async fn wait_for_causes(&self, state: &mut State, events: &[Event]) -> Result<bool> {
        let limit = Instant::now() + CAUSES;
        while Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if let Some(window) = &mut state.window {
                window.pull(self.peer.client().await?).await?;
            }
            if causes_here(state, events, &self.peer.settings)? != Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins to look at what is written at the peer, once its changes are known to come back to the origin.
    pub(super) async fn watch(&self, state: &mut State) -> Result<()> {
        let settings = &self.peer.settings;
        let link = &settings.link;
        let comes_back = state.comes_back || state.stream.seen.of(&link.peer).is_some();
        // Where it forwards, the log also tells what the peer has by another way.
        let is_needed = settings.forwards || comes_back && !settings.is_one_way();
        if state.window.is_some() || !is_needed {
            return Ok(());
        }
        let log = state.marker()?.log;
        let ours = settings.clone();
        let wanted = move |ns: &Namespace| {
            let conflicts = ours.policy(ns).conflicts;
            let is_looked_at = ours.wants(ns) && !(ours.forwards && conflicts == Conflicts::Origin);
            is_looked_at.then_some(conflicts == Conflicts::Merge)
        };
        let window = Window::new(link.clone(), log.since, log.since_clock, settings.window).of(wanted);
        let mut window = window.forwarding(state.marker()?);
        let others = doc! {"peer": &link.peer, "node": {"$ne": &link.node}, "lane": 0};
        let markers = self.peer.markers().await?;
        let mut found = client::bounded(markers.find(others).into_future(), Phase::Apply).await?;
        while let Some(other) = client::bounded(found.try_next(), Phase::Apply).await? {
            if let Some(marker) = Marker::decode(&other) {
                window.note_applied(&marker);
                window.note_had(&marker);
                state.is_mesh = true;
            }
        }
        let conflicts = self.peer.client().await?.database(names::DATABASE).collection::<Document>(names::CONFLICTS);
        let beaten = conflicts.find(doc! {"link": link.marker_id(0), "beaten": {"$gt": log.since}});
        let beaten = beaten.projection(doc! {"ns": 1, "key": 1, "beaten": 1});
        let mut found = client::bounded(beaten.into_future(), Phase::Apply).await?;
        while let Some(record) = client::bounded(found.try_next(), Phase::Apply).await? {
            let (Ok(ns), Some(key), Ok(upto)) =
                (record.get_str("ns"), record.get("key"), record.get_timestamp("beaten"))
            else {
                continue;
            };
            let hash = Window::hash(&Namespace::new(ns), &raw(&doc! {"_id": key.clone()})?);
            let known = state.beaten.entry(hash).or_insert(upto);
            *known = upto.max(*known);
        }
        window.ours = self.peer.ddl_times(log.since).await?;
        window.pull(self.peer.client().await?).await?;
        state.window = Some(window);
        Ok(())
    }

    /// Whether any of the events has to be written at the peer, where the link forwards.
    async fn is_wanted(&self, state: &mut State, events: &[Event]) -> Result<bool> {
        let settings = &self.peer.settings;
        let sight = Sight::new(&state.stream, events, false, settings)?;
        if let Some(link) = &sight.untold {
            self.look_at_teller(state, link).await?;
        }
        let is_left = |n: usize, event: &Event| {
            state.is_done(event) || !self.concerns(event) || sight.is_left_out(n, settings, state.had())
        };
        Ok(!events.iter().enumerate().all(|(n, event)| is_left(n, event)))
    }

    /// Something was brought to the node by a link that does not tell whose it is. It does not go on: was that long ago?
    async fn look_at_teller(&self, state: &mut State, link: &str) -> Result<()> {
        if state.telling.contains(link) {
            return Ok(());
        }
        let markers = self.peer.origin.client().await?.database(names::DATABASE).collection::<Document>(names::MARKERS);
        let found = client::bounded(markers.find_one(doc! {"_id": link}).into_future(), Phase::Lookup).await?;
        if found.is_some_and(|marker| !marker.contains_key("forward")) {
            let (node, peer) = (&self.peer.settings.link.node, &self.peer.settings.link.peer);
            return Err(Error::transient(format!(
                "what the link `{link}` brings to {node} cannot go on to {peer}: it does not say whose it is"
            ))
            .hint("set forward = \"all\" in the sinks of all links of a hub, ring or chain, that one too"));
        }
        warn!(
            route = self.route,
            link,
            "it began to forward only now: what it brought before is not handed on. Run `oplogue verify --repair` for this link"
        );
        state.telling.insert(link.to_owned());
        Ok(())
    }

    /// Whether the origin waits for a word of the peer that is not on its way.
    async fn is_asked(&self, state: &mut State, events: &[Event]) -> Result<bool> {
        let settings = &self.peer.settings;
        if state.window.is_none() || events.iter().all(|event| asked(settings, event).is_empty()) {
            return Ok(false);
        }
        if let Some(window) = &mut state.window {
            window.pull(self.peer.client().await?).await?;
        }
        let sight = Sight::new(&state.stream, events, false, settings)?;
        for (n, event) in events.iter().enumerate() {
            let questions = arbiter::questions(settings, state, event, sight.of(n).1)?;
            if !state.is_done(event) && questions.iter().any(|(_, is_open)| *is_open) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the event changes anything at the peer.
    fn concerns(&self, event: &Event) -> bool {
        !is_marker(event) && event.key.is_some() && self.peer.settings.wants(&event.ns)
    }
}

/// Whether a range of events ends within a transaction.
fn is_cut(events: &[Event], end: usize) -> bool {
    let around = end.checked_sub(1).and_then(|start| events.get(start..=end));
    around.is_some_and(|around| units(around).len() == 1)
}

/// Where the events have to be cut so that no document is written by two nodes in one transaction: its marker tells of one.
fn apart(sight: &Sight, events: &[Event]) -> Option<usize> {
    let mut writers: HashMap<u64, Arc<str>> = HashMap::new();
    let unit = units(events).into_iter().find(|unit| {
        let made: Vec<_> = unit.clone().filter_map(|n| sight.made(n)).collect();
        let is_other = made.iter().any(|made| writers.get(&made.hash).is_some_and(|node| *node != made.node));
        writers.extend(made.iter().map(|made| (made.hash, Arc::clone(&made.node))));
        is_other
    });
    unit.map(|unit| unit.start).filter(|start| *start > 0)
}

/// How many of the events, in whole units, follow from nothing that is still to come over another link; `None`: all.
fn causes_here(state: &State, events: &[Event], settings: &Settings) -> Result<Option<usize>> {
    if state.window.as_ref().is_none_or(|window| window.applied().all().is_empty()) {
        return Ok(None);
    }
    let sight = Sight::new(&state.stream, events, false, settings)?;
    // What was merged comes from the arbiter whole, and yet waits: a third node's link brings the collections that it is for.
    let follows = |event: &Event| !is_marker(event) && !settings.is_between_others(&event.ns);
    let missing = (0..events.len()).find(|n| follows(&events[*n]) && !state.is_followed_from(sight.of(*n).1));
    let unit = missing.and_then(|missing| units(events).into_iter().find(|unit| unit.contains(&missing)));
    Ok(unit.map(|unit| unit.start))
}

/// The two halves of a range of events that is not applied, at the border of a unit if there is more than one.
fn halve(rest: &mut Vec<Range<usize>>, range: Range<usize>, events: &[Event]) {
    let units = units(&events[range.clone()]);
    if units.len() < 2 {
        return rest.push(range);
    }
    let middle = range.start + units[units.len() / 2].start;
    rest.push(middle..range.end);
    rest.push(range.start..middle);
}
