//! The initial sync: what a node has before its stream begins, copied to its peer or united with what that one has.
//!
//! The stream's start is fixed and durable before. Everything read here is at or after it, and the stream is replayed from it over
//! the copy: a change that was made meanwhile is in both. So that the replay does not go wrong on documents that have it
//! already, [`Copied::until`] says up to where that may be.
//!
//! ```text
//! collections -> pieces (ranges of _id) -> workers: read (majority, after start) | transaction { marker, documents, conflicts, progress }
//! ```
//!
//! Each worker writes behind a marker in a lane of its own, from [`FIRST_LANE`] on, so that the return direction takes the copy for
//! the echo that it is. Such a marker is no progress of the link: its position is the start.

mod merge;
mod meter;
mod plain;
mod plan;
mod read;
mod shape;
mod state;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bson::{Timestamp, doc};
use futures_util::future::try_join_all;
use mongodb::Client;
use oplogue_api::{Error, Namespace, Result};
use serde::Deserialize;
use tracing::info;

pub(crate) use self::meter::Meter;
use self::{
    plan::{Described, Kind},
    state::{EARLIEST, Piece, State},
    write::{Lane, Writer},
};
use super::marker::{Link, Marker};

/// The lanes of copies begin here. Their markers never count as progress of the link.
pub(crate) const FIRST_LANE: u32 = 1000;

/// What is done before the stream is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Initial {
    /// Nothing: both sides are equal already, or only what happens from now on counts.
    #[default]
    None,
    /// The target is empty, and gets everything.
    Copy,
    /// Both sides hold documents: the target gets what it lacks, and differing documents are conflicts.
    Merge,
}

impl Initial {
    pub fn name(self) -> &'static str {
        match self {
            Initial::None => "none",
            Initial::Copy => "copy",
            Initial::Merge => "merge",
        }
    }
}

/// Whether a namespace takes part.
pub(crate) type Wanted = Arc<dyn Fn(&Namespace) -> bool + Send + Sync>;

/// An initial sync over one link.
pub(crate) struct Copy {
    pub from: Client,
    pub to: Client,
    /// What the markers of the copy say; `position` is the start of the stream, `generation` the claim of the link.
    /// `lane` and `seq` are set here.
    pub marker: Marker,
    pub mode: Initial,
    pub wanted: Wanted,
    /// Of documents that differ, whether that of the source wins. Both directions of a pair MUST say the opposite of each
    /// other; [`fixed_winner`] does.
    pub remote_wins: Wanted,
    /// How many pieces are copied at a time. Each holds up to four replies of 16 MB.
    pub workers: usize,
    pub pace: Pace,
    pub meter: Arc<Meter>,
}

/// Sizes, which tests make small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The most documents of one transaction.
    pub batch: usize,
    /// About how large a piece is.
    pub piece_bytes: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { batch: 1000, piece_bytes: 64 << 20 }
    }
}

/// What a copy has done, all its runs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Cluster time of the source after the last read: events up to there may be in the copy already.
    pub until: Timestamp,
    pub documents: u64,
    pub bytes: u64,
    /// Documents that differed, were deleted at the target or were refused by it; each has a record in `__mmm.conflicts`.
    pub conflicts: u64,
}

/// The tie-break without priorities: the greater name wins, on both sides.
pub(crate) fn fixed_winner(link: &Link) -> bool {
    link.node > link.peer
}

/// Whether a copy over this link has been finished, and what it did. `None`: never begun, or not finished.
pub(crate) async fn finished(to: &Client, link: &Link) -> Result<Option<Copied>> {
    Ok(State::new(to, link, 0).head().await?.and_then(|head| head.copied))
}

/// Forgets the copy, so that the next one begins anew: for whoever resets the position of the link.
pub(crate) async fn forget(to: &Client, link: &Link) -> Result<()> {
    let state = State::new(to, link, 0);
    let all = state.copies.delete_many(doc! {"link": state.name()});
    crate::client::bounded(std::future::IntoFuture::into_future(all), crate::errors::Phase::Copy).await?;
    Ok(())
}

/// What is left to be done, shared by the workers.
struct Work {
    queue: Mutex<VecDeque<Piece>>,
    /// The pieces of each collection that are not done.
    open: Mutex<HashMap<Namespace, usize>>,
    collections: HashMap<Namespace, Task>,
}

struct Task {
    described: Described,
    same_rules: bool,
}

impl Copy {
    /// Runs the copy to its end, or goes on where an earlier run was interrupted. Once it is done, it returns what it did and
    /// touches nothing. May be dropped at any time.
    ///
    /// # Errors
    /// `Operator` when the target is not as the mode needs it, and when another router has taken over.
    pub async fn run(&self) -> Result<Copied> {
        let state = State::new(&self.to, &self.marker.link, self.marker.generation);
        if self.mode == Initial::None {
            return Ok(Copied { until: self.marker.position.time, documents: 0, bytes: 0, conflicts: 0 });
        }
        let start = self.marker.position.time;
        let name = state.name();
        match state.head().await? {
            Some(head) if let Some(copied) = head.copied => return Ok(copied),
            Some(head) if head.start < start => {
                return Err(Error::operator(format!("the position of {name} was moved while its initial copy was not finished"))
                    .hint("changes between the two positions would be missing: remove the documents of this link from __mmm.copies and set initial = \"merge\""));
            }
            Some(head) => {
                info!(link = name, mode = self.mode.name(), "going on with an initial sync that was interrupted");
                state.claim(&head).await?;
            }
            None => {
                let there = plan::collections(&self.from, &self.wanted).await?;
                plan::refuse(self, &there).await?;
                shape::metadata(&self.to).await?;
                state.begin(self.mode, &self.marker.position).await?;
                info!(link = name, mode = self.mode.name(), collections = there.len(), "initial sync begins");
            }
        }
        self.meter.begin();
        let copied = tokio::select! {
            never = self.meter.show(&name) => match never {},
            copied = self.everything(&state) => copied?,
        };
        state.finish(&copied).await?;
        self.meter.end();
        info!(
            link = name,
            documents = copied.documents,
            mb = copied.bytes >> 20,
            conflicts = copied.conflicts,
            "initial sync done; the stream follows"
        );
        Ok(copied)
    }

    async fn everything(&self, state: &State) -> Result<Copied> {
        let mut seen = HashSet::new();
        let mut plain = (0, 0);
        // Collections that are made meanwhile belong to it as well: their `create` may be behind the start, or not be applied.
        loop {
            let mut there = plan::collections(&self.from, &self.wanted).await?;
            there.retain(|described| seen.insert(described.ns.clone()));
            if there.is_empty() {
                break;
            }
            let views: Vec<_> = there.extract_if(.., |described| described.kind == Kind::View).collect();
            for described in there.extract_if(.., |described| described.kind.is_plain()) {
                let done = self.plain(state, &described).await?;
                plain = (plain.0 + done.0, plain.1 + done.1);
            }
            self.ordinary(state, there).await?;
            for view in views {
                shape::prepare(&self.to, &view).await?;
            }
        }
        let mut copied = Copied { until: self.marker.position.time, documents: plain.0, bytes: plain.1, conflicts: 0 };
        for piece in state.pieces(None).await? {
            copied.until = copied.until.max(piece.until);
            copied.documents += piece.documents.max(0) as u64;
            copied.bytes += piece.bytes.max(0) as u64;
            copied.conflicts += piece.conflicts.max(0) as u64;
        }
        Ok(copied)
    }

    async fn plain(&self, state: &State, described: &Described) -> Result<(u64, u64)> {
        if self.mode == Initial::Merge {
            return Err(Error::operator(format!(
                "`{}` is a {}, which cannot be merged",
                described.ns,
                described.kind.name()
            ))
            .hint("leave it out of the namespaces of this link"));
        }
        match state.planned(&described.ns).await? {
            Some(true) => return Ok((0, 0)),
            Some(false) => {}
            None => state.plan(&described.ns, &[]).await?,
        }
        let (documents, bytes) = plan::size(&self.from, &described.ns).await;
        self.meter.expect(documents, bytes);
        self.meter.at(&described.ns);
        let done = plain::copy(self, described).await?;
        state.collection_done(&described.ns).await?;
        Ok(done)
    }

    async fn ordinary(&self, state: &State, there: Vec<Described>) -> Result<()> {
        let mut work = Work { queue: Mutex::default(), open: Mutex::default(), collections: HashMap::new() };
        for described in there {
            let ns = described.ns.clone();
            let planned = state.planned(&ns).await?;
            if planned == Some(true) {
                for piece in state.pieces(Some(&ns)).await? {
                    self.meter.expect(piece.documents as u64, piece.bytes as u64);
                    self.meter.done(piece.documents as u64, piece.bytes as u64, piece.conflicts as u64);
                }
                continue;
            }
            let same_rules = shape::prepare(&self.to, &described).await?;
            shape::indexes(&self.from, &self.to, &described, true).await?;
            if planned.is_none() {
                let is_clustered = described.options.contains_key("clusteredIndex");
                state.plan(&ns, &plan::pieces(self, &ns, is_clustered).await?).await?;
            }
            let (documents, bytes) = plan::size(&self.from, &ns).await;
            self.meter.expect(documents, bytes);
            let mut open = 0;
            for piece in state.pieces(Some(&ns)).await? {
                self.meter.done(piece.documents as u64, piece.bytes as u64, piece.conflicts as u64);
                if !piece.done {
                    open += 1;
                    locked(&work.queue).push_back(piece);
                }
            }
            if open == 0 {
                self.close(state, &described).await?;
                continue;
            }
            locked(&work.open).insert(ns.clone(), open);
            work.collections.insert(ns, Task { described, same_rules });
        }
        let workers = self.workers.max(1).min(locked(&work.queue).len());
        try_join_all((0..workers).map(|n| self.worker(state, &work, FIRST_LANE + n as u32))).await?;
        Ok(())
    }

    async fn worker(&self, state: &State, work: &Work, number: u32) -> Result<()> {
        let mut lane = Lane::open(self, &self.to, number).await?;
        loop {
            let Some(mut piece) = locked(&work.queue).pop_front() else { return Ok(()) };
            let Some(task) = work.collections.get(&piece.ns) else { continue };
            self.meter.at(&piece.ns);
            let writer = Writer { copy: self, state, same_rules: task.same_rules };
            self.piece(&writer, &mut lane, &mut piece).await?;
            let is_last = {
                let mut open = locked(&work.open);
                let left = open.entry(piece.ns.clone()).or_default();
                *left = left.saturating_sub(1);
                *left == 0
            };
            if is_last {
                self.close(state, &task.described).await?;
            }
        }
    }

    /// The documents of a collection are all there.
    async fn close(&self, state: &State, described: &Described) -> Result<()> {
        shape::indexes(&self.from, &self.to, described, false).await?;
        state.collection_done(&described.ns).await
    }

    async fn piece(&self, writer: &Writer<'_>, lane: &mut Lane, piece: &mut Piece) -> Result<()> {
        let start = self.marker.position.time;
        let mut until = EARLIEST;
        let mut next = None;
        while !piece.done {
            let chunk = match next.take() {
                Some(chunk) => chunk,
                None => read::read(&self.from, piece, piece.last.as_ref(), self.pace.batch, start).await?,
            };
            until = until.max(chunk.time);
            let Some(last) = chunk.docs.last() else {
                writer.finish(piece, until).await?;
                return Ok(());
            };
            let last = read::key_of(last).ok_or_else(|| Error::transient("MongoDB sent a document without _id"))?;
            let before = (piece.documents, piece.bytes, piece.conflicts);
            // The next reply is fetched while this one is written.
            let ahead = Piece { ..piece.clone() };
            let (written, read) = futures_util::join!(
                writer.write(lane, piece, &chunk.docs, chunk.time),
                read::read(&self.from, &ahead, Some(&last), self.pace.batch, start)
            );
            let in_step = written?;
            let gained = |now: i64, was: i64| u64::try_from(now - was).unwrap_or(0);
            self.meter.done(
                gained(piece.documents, before.0),
                gained(piece.bytes, before.1),
                gained(piece.conflicts, before.2),
            );
            next = if in_step { Some(read?) } else { None };
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
