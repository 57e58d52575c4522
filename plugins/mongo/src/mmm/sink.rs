//! The sink itself: what the engine calls.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bson::doc;
use mongodb::Client;
use oplogue_api::{
    CheckpointStore, Context, Error, ErrorKind, Event, Finding, Interest, Namespace, Op, Options, Ordering, Position,
    Progress, Replicated, Result, Sink, Written, async_trait,
};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::{
    checks,
    chunk::creations_first,
    copy::{self, Copy, Initial},
    ddl,
    deliver::MOST,
    forward::named,
    links,
    marker::{Link, Marker},
    names,
    options::{Conflicts, Settings},
    origin::Origin,
    seen::Seen,
    state::{Peer, State, is_marker, taken_back},
    store::Store,
    word::{asked, heard, is_word},
};
use crate::{
    client::{self, answered, hello},
    errors::{Phase, classify, code},
    identity::identity,
};

/// Seconds by which a clock may be ahead before it is said, and how often.
const FAST: i64 = 30;
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// How many pieces of an initial copy are under way at a time.
const COPIERS: usize = 4;

/// The sink.
pub(super) struct Mmm {
    pub(super) peer: Arc<Peer>,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) route: String,
    pub(super) counts: Counts,
}

/// What there was since somebody asked.
#[derive(Default)]
pub(super) struct Counts {
    /// Records of conflicts that were resolved.
    pub conflicts: AtomicU64,
    /// Changes that the peer refused: they are in a record.
    pub refused: AtomicU64,
    /// Transactions of the source that could not be one at the peer.
    pub split: AtomicU64,
}

impl Mmm {
    pub fn new(context: &Context, options: &Options) -> Result<Mmm> {
        let settings = Settings::new(options)?;
        let origin = Origin::new(context.origin.as_ref())?;
        let state = State::new(MOST, &settings);
        Ok(Mmm {
            peer: Arc::new(Peer::new(settings, origin)),
            state: Arc::new(Mutex::new(state)),
            route: context.route.clone().unwrap_or_default(),
            counts: Counts::default(),
        })
    }

    /// Reads what is stored, after a commit whose outcome is unknown.
    pub(super) async fn reload(&self, state: &mut State) -> Result<()> {
        let known = state.marker()?.clone();
        let stored = load(&self.peer).await?;
        match stored {
            Some(marker) if state.is_taken_back(&marker) => Err(taken_back()),
            Some(marker) if marker.generation == known.generation => {
                state.resume(marker);
                Ok(())
            }
            // A checkpoint of our own whose reply was not waited for.
            Some(marker) if marker.generation == known.generation + 1 && self.peer.is_ours(&marker).await? => {
                state.resume(marker);
                Ok(())
            }
            Some(_) => Err(fenced(&self.peer)),
            None => Err(Error::operator(format!("the marker `{}` is gone from the peer", self.peer.settings.link.marker_id(0)))
                .hint("it says how far the peer is: restore it, or `oplogue position reset` and start with initial = \"merge\"")),
        }
    }

    async fn prepare(&self, client: &Client) -> Result<()> {
        let db = client.database(names::DATABASE);
        // Before the first transaction: a transaction that makes a collection is slower, and 4.2 refuses it.
        for name in [names::MARKERS, names::CONFLICTS, names::TOMBSTONES, names::LEDGER, names::COPIES, names::LINKS] {
            match answered(IntoFuture::into_future(db.run_command(doc! {"create": name}))).await? {
                Ok(_) => {}
                Err(e) if code(&e) == Some(48) => {}
                Err(e) => return Err(classify(e, Phase::Apply)),
            }
        }
        let seconds = self.peer.settings.tombstones.0.as_secs().max(1) as i64;
        let indexes = [
            doc! {"createIndexes": names::CONFLICTS, "indexes": [{"key": {"ns": 1, "key": 1}, "name": "ns_key"}, {"key": {"at": 1}, "name": "at"}]},
            doc! {"createIndexes": names::TOMBSTONES, "indexes": [{"key": {"at": 1}, "name": "at", "expireAfterSeconds": seconds}]},
        ];
        for index in indexes {
            match answered(IntoFuture::into_future(db.run_command(index))).await? {
                Ok(_) => {}
                // It is there with another lifetime.
                Err(e) if matches!(code(&e), Some(85 | 86)) => {
                    let change =
                        doc! {"collMod": names::TOMBSTONES, "index": {"name": "at", "expireAfterSeconds": seconds}};
                    client::run(&db, change, Phase::Apply).await?;
                }
                Err(e) => return Err(classify(e, Phase::Apply)),
            }
        }
        Ok(())
    }

    /// Whether the peer applies diffs as they are. Writes nothing: there is no such document.
    async fn takes_diffs(&self, client: &Client) -> Result<bool> {
        let diff = doc! {"$v": 2, "diff": {"u": {"x": 1}}};
        let probe = doc! {
            "update": names::COPIES,
            "updates": [{"q": {"_id": "probe"}, "u": [{"$_internalApplyOplogUpdate": {"oplogUpdate": diff}}]}],
        };
        let db = client.database(names::DATABASE);
        match answered(IntoFuture::into_future(db.run_command(probe))).await? {
            Ok(reply) => Ok(!reply.contains_key("writeErrors")),
            Err(e)
                if code(&e).is_some_and(|code| code != 13)
                    && classify(e.clone(), Phase::Open).kind() != ErrorKind::Transient =>
            {
                Ok(false)
            }
            Err(e) => Err(classify(e, Phase::Apply)),
        }
    }
}

/// Whether the event is a marker of the link back.
fn is_back(event: &Event, link: &Link) -> bool {
    let marker = event.after.as_deref().filter(|_| is_marker(event));
    let says =
        |name, wanted: &str| marker.is_some_and(|marker| marker.get_str(name).is_ok_and(|found| found == wanted));
    says("node", &link.peer) && says("peer", &link.node)
}

pub(super) fn fenced(peer: &Peer) -> Error {
    Error::operator(format!("another process has taken over the link `{}`", peer.settings.link.marker_id(0)))
        .hint("run one router per link: stop the other one, or give its nodes other names")
}

/// The marker of the link, if there is one.
pub(super) async fn load(peer: &Peer) -> Result<Option<Marker>> {
    let id = peer.settings.link.marker_id(0);
    let markers = peer.markers().await?;
    let found = client::bounded(IntoFuture::into_future(markers.find_one(doc! {"_id": &id})), Phase::Store).await?;
    match found {
        None => Ok(None),
        Some(stored) => match Marker::decode(&stored) {
            Some(marker) => Ok(Some(marker)),
            None => Err(Error::operator(format!(
                "the marker `{id}` in {}.{} has an unknown shape",
                names::DATABASE,
                names::MARKERS
            ))
            .hint(
                "somebody has edited it: restore it, or `oplogue position reset` and start with initial = \"merge\"",
            )),
        },
    }
}

#[async_trait]
impl Sink for Mmm {
    fn ordering(&self) -> Ordering {
        Ordering::Total
    }

    fn interest(&self) -> Interest {
        let replicated = if self.peer.settings.forwards { Replicated::MarkersAndWrites } else { Replicated::Markers };
        Interest { replicated, ..Interest::default() }
    }

    fn whole_transactions(&self) -> bool {
        true
    }

    async fn open(&self) -> Result<()> {
        let client = self.peer.client().await?;
        let hello = hello(client, Phase::Check).await?;
        if hello.is_standalone() {
            return Err(Error::operator("the peer is a standalone mongod: it has no transactions")
                .hint("start mongod with --replSet NAME and run rs.initiate() once; a set of one member is enough"));
        }
        let (ours, theirs) = (identity(client).await?, self.peer.origin.identity().await?);
        if ours.is_some() && ours == theirs {
            return Err(checks::same_deployment());
        }
        self.prepare(client).await?;
        links::announce(&self.peer, theirs.as_deref()).await?;
        let abilities = super::statements::Abilities { diffs: self.takes_diffs(client).await? };
        let mut state = self.state.lock().await;
        state.abilities = abilities;
        state.is_certain = false;
        // An election may have taken back what was read last.
        state.window = None;
        // What is read begins anew, in front of what was applied in part.
        state.stream.told = None;
        state.transactional.clear();
        Ok(())
    }

    async fn begin(&self, _from: &Position) -> Result<()> {
        let settings = &self.peer.settings;
        let back = Link { node: settings.link.peer.clone(), peer: settings.link.node.clone() };
        let mut marker = {
            let mut state = self.state.lock().await;
            // Not before the position is known: a marker that is made later is in the stream behind it.
            state.comes_back = self.peer.origin.has_marker(&back.marker_id(0)).await?;
            if !state.stream.unsettled.is_empty() {
                // What a process before this one has left.
                self.watch(&mut state).await?;
                let upto = state.marker()?.position.time;
                self.settle(&mut state, upto).await?;
            }
            state.marker()?.clone()
        };
        let (from, to) = (self.peer.origin.client().await?.clone(), self.peer.client().await?.clone());
        if settings.initial == Initial::None && copy::finished(&to, &settings.link).await?.is_none() {
            return Ok(());
        }
        if let Some(copied) = copy::finished(&to, &settings.link).await? {
            self.state.lock().await.covered = Some(copied.until);
            return Ok(());
        }
        marker.writes.clear();
        marker.fields = Default::default();
        marker.again.clear();
        marker.waits.clear();
        marker.forward = None;
        let (wants, wins) = (settings.clone(), settings.clone());
        let copy = Copy {
            from,
            to,
            marker,
            mode: settings.initial,
            wanted: Arc::new(move |ns| wants.wants(ns)),
            remote_wins: Arc::new(move |_| wins.is_preferred()),
            workers: COPIERS,
            pace: copy::Pace::default(),
            meter: Arc::clone(&self.peer.meter),
        };
        let copied = copy.run().await?;
        self.state.lock().await.covered = Some(copied.until);
        Ok(())
    }

    fn counted(&self) -> Vec<(&'static str, u64)> {
        let Counts { conflicts, refused, split } = &self.counts;
        let all = [("conflict", conflicts), ("refused", refused), ("split_transaction", split)];
        all.map(|(what, count)| (what, count.swap(0, Relaxed))).into()
    }

    fn progress(&self) -> Option<Progress> {
        self.peer.meter.progress()
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let mut state = self.state.lock().await;
        let mut written = Written::default();
        let Some(upto) = upto else { return Ok(written) };
        if !state.is_certain {
            self.reload(&mut state).await?;
        }
        // The link back may begin with this very batch.
        state.comes_back = state.comes_back || events.iter().any(|event| is_back(event, &self.peer.settings.link));
        self.watch(&mut state).await?;
        let events = heard(&self.peer.settings, events)?;
        self.look_at_words(&events);
        let events = &*named(&self.peer.settings, events)?;
        let events = &*creations_first(events);
        let mut start = 0;
        while start < events.len() {
            let barrier = events[start..].iter().position(|event| event.op.is_barrier());
            let end = barrier.map_or(events.len(), |at| start + at);
            if start < end {
                let is_last = end == events.len();
                let before = state.marker()?.position.clone();
                let part = &events[start..end];
                written.duplicates +=
                    part.iter().filter(|event| !is_word(event) && state.is_done(event)).count() as u64;
                let outcome = self.apply(&mut state, part, if is_last { upto } else { &before }).await?;
                if outcome.conflicts + outcome.refused > 0 {
                    info!(
                        route = self.route,
                        conflicts = outcome.conflicts,
                        refused = outcome.refused,
                        "conflicts were resolved; `oplogue conflicts list` shows them"
                    );
                }
            }
            if let Some(event) = events.get(end) {
                self.barrier(&mut state, event).await?;
                state.transactional.clear();
                let since = state.marker()?.log.since;
                if let Some(window) = &mut state.window {
                    window.ours = self.peer.ddl_times(since).await?;
                }
                written.ignored += 1;
            }
            start = end + 1;
        }
        let last = events.iter().map(|event| event.time).max();
        self.settle(&mut state, last.unwrap_or(upto.time)).await?;
        self.look_at_clock(&mut state);
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        let client = self.peer.client().await?;
        client::run(&client.database("admin"), doc! {"ping": 1}, Phase::Apply).await.map(|_| ())
    }

    async fn close(&self) -> Result<()> {
        self.peer.close().await;
        Ok(())
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        Some(Arc::new(Store::new(Arc::clone(&self.peer), Arc::clone(&self.state))))
    }

    async fn check(&self) -> Vec<Finding> {
        checks::check(&self.peer).await
    }
}

impl Mmm {
    /// Whether both directions merge the same namespaces: one that waits for the other waits for ever otherwise.
    fn look_at_words(&self, events: &[Event]) {
        let merges = |ns: &Namespace| self.peer.settings.policy(ns).conflicts == Conflicts::Merge;
        let said = events.iter().filter(|event| is_word(event)).map(|event| event.ns.clone());
        let asked = events.iter().flat_map(|event| asked(&self.peer.settings, event)).map(|word| word.ns);
        if let Some(ns) = said.chain(asked).find(|ns| !merges(ns)) {
            warn!(route = self.route, %ns, "the other direction has conflicts = \"merge\", and this one has not: say the same in both, and then run `oplogue verify --repair`");
        }
    }

    /// Says that a clock is far ahead: of two writes that did not know of each other, the one with it wins. Nothing is refused for that.
    fn look_at_clock(&self, state: &mut State) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(i64::MAX, |now| now.as_millis() as i64);
        let ahead = state.stored().map_or(0, |marker| marker.clock.saturating_sub(now)) / 1000;
        if ahead > FAST && state.told_of_clock.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
            state.told_of_clock = Some(Instant::now());
            warn!(
                route = self.route,
                node = self.peer.settings.link.node,
                "the clock of the writes that come is {ahead} s ahead of this machine: until then they win over concurrent ones. Look at the clocks of all machines (NTP)"
            );
        }
    }

    /// Everything before it is committed, and nothing behind it begun.
    async fn barrier(&self, state: &mut State, event: &Event) -> Result<()> {
        if event.op == Op::Gap {
            warn!(route = self.route, "changes are missing at the peer: run `oplogue verify --repair`");
            return Ok(());
        }
        let settings = &self.peer.settings;
        let concerns = |ns: &Namespace| ns.coll().is_empty() || settings.wants(ns);
        if event.op == Op::DeadLetter || !(concerns(&event.ns) || event.to.as_ref().is_some_and(concerns)) {
            return Ok(());
        }
        // What was brought to the node before is known there.
        state.stream.end();
        match self.peer.ddl().await?.apply(event).await? {
            ddl::Outcome::Echo => Ok(()),
            ddl::Outcome::Applied | ddl::Outcome::AlreadySo | ddl::Outcome::Ignored => self.heard(state, event).await,
            ddl::Outcome::Refused(refusal) => {
                self.peer.record(refusal.record).await?;
                self.counts.refused.fetch_add(1, Relaxed);
                self.heard(state, event).await
            }
            ddl::Outcome::Resync { ns, why } => Err(Error::operator(format!("{ns} has to be copied: {why}"))
                .hint("the changes do not tell what is in it: run `oplogue verify --repair FILE --ns NAMESPACE`, then go on behind this place with `oplogue position set FILE ROUTE --now`")),
        }
    }

    /// Says in the marker that something was taken away here. No data may follow for long, and until it is said, whatever is written
    /// at the peer counts as written without knowing of it.
    async fn heard(&self, state: &mut State, event: &Event) -> Result<()> {
        // In a transaction collections are made, before its data and out of turn: that is not done yet.
        if event.txn.is_some() || ddl::removed(event)?.is_empty() {
            return Ok(());
        }
        if !state.is_certain {
            self.reload(state).await?;
        }
        let before = state.marker()?.clone();
        let mut marker = Marker { done: before.done.max(event.id()), ..before.clone().alone() };
        if self.peer.settings.forwards {
            // Who made it, if it was brought to the node.
            let (origin, time) = self.peer.ddl().await?.maker(event).await?;
            let mut seen = Seen::new(&marker.seen);
            seen.merge(&state.stream.seen);
            if origin != self.peer.settings.link.node {
                seen.note(&origin, time);
            }
            marker.seen = seen.all().to_vec();
        }
        if !self.peer.replace_marker(&before, &marker).await? {
            state.is_certain = false;
            return Err(Error::transient("the marker of the link has changed"));
        }
        state.resume(marker);
        Ok(())
    }
}
