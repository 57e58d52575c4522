//! Tells a difference from a change on its way: a document is read again once everything from before the last reading has been
//! applied. What differs then, and is what it was, differs.

use std::time::Duration;

use bson::{Bson, Timestamp};
use oplogue_api::{Namespace, Result};
use tokio::time::Instant;

use super::{
    ends::{Pair, applied, clock},
    scan::{Candidate, states},
};

/// Ids of one look.
const CHUNK: usize = 500;
/// How often markers are looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// How long what is waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// In all.
    pub wait: Duration,
    /// For a link that does not move.
    pub settle: Duration,
}

/// What is left of the candidates.
#[derive(Default)]
pub(super) struct Settled {
    pub differing: Vec<Candidate>,
    /// Those that changed all the time.
    pub changing: Vec<Candidate>,
    /// Links that were behind and did not move: idle, or not running.
    pub still: Vec<String>,
}

pub(super) async fn settle(pair: &Pair, candidates: Vec<Candidate>, patience: Patience) -> Result<Settled> {
    let deadline = Instant::now() + patience.wait;
    let mut settled = Settled::default();
    let mut open = candidates;
    // The first reading was spread over the whole comparison: it confirms nothing.
    let mut confirms = false;
    while !open.is_empty() {
        let mut rest = Vec::new();
        for (mut candidate, state) in look(pair, open).await? {
            let same = candidate.state == state;
            candidate.state = state;
            match state[0] == state[1] {
                true => {}
                false if same && confirms => settled.differing.push(candidate),
                false => rest.push(candidate),
            }
        }
        open = rest;
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        let clocks = [clock(&pair.ends.clients[0]).await?, clock(&pair.ends.clients[1]).await?];
        if !catch_up(pair, clocks, patience.settle, deadline, &mut settled.still).await? {
            settled.changing.append(&mut open);
        }
        confirms = true;
    }
    settled.still.sort();
    settled.still.dedup();
    Ok(settled)
}

/// Reads them again.
async fn look(pair: &Pair, mut open: Vec<Candidate>) -> Result<Vec<(Candidate, [Option<u128>; 2])>> {
    open.sort_by(|a, b| a.ns.cmp(&b.ns));
    let mut all = Vec::with_capacity(open.len());
    for chunk in open.chunk_by(|a, b| a.ns == b.ns).flat_map(|of_one| of_one.chunks(CHUNK)) {
        let ns: &Namespace = &chunk[0].ns;
        let ids: Vec<Bson> = chunk.iter().map(|c| c.id.clone()).collect();
        all.extend(states(&pair.ends, ns, &ids).await?);
    }
    Ok(open.into_iter().zip(all).collect())
}

/// Waits until each link has applied what was there at these times, or stands still. Whether that came about in time.
async fn catch_up(
    pair: &Pair,
    clocks: [Timestamp; 2],
    settle: Duration,
    deadline: Instant,
    still: &mut Vec<String>,
) -> Result<bool> {
    for (from, link) in &pair.links {
        let mut last = applied(link).await?;
        let mut moved = Instant::now();
        while last.is_none_or(|time| time < clocks[*from]) {
            if moved.elapsed() >= settle {
                still.push(link.id());
                break;
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
            let now = applied(link).await?;
            if now != last {
                (last, moved) = (now, Instant::now());
            }
        }
    }
    Ok(Instant::now() < deadline)
}
