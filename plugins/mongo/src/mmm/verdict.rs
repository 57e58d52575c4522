//! What a change meets at the peer: nothing, or concurrent writes of the same document.

use std::cmp::Ordering;

use bson::Timestamp;
use oplogue_api::{Error, Event, Op, Result};

use super::{
    arbiter::{self, Fields},
    options::{Conflicts, Policy, Settings},
    rank::{Ranked, compare},
    sight::Sight,
    state::State,
    window::{Window, Write},
};

/// What is to be done with a change.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Nothing is concurrent with it.
    Apply,
    /// A write that is here has seen it: it is in the document already.
    Stale,
    /// It stays, and what is here goes.
    Remote(Conflict),
    /// What is here stays.
    Local(Conflict),
    /// It is an update that is merged with what is here.
    Fields(Fields),
    /// What is here is on its way to the arbiter, whose word comes.
    Wait,
    /// The collection is gone here.
    Removed,
    /// A concurrent write to merge with is so new that it may lie behind the snapshot of the transaction: look again in another one.
    TooNew,
}

/// A conflict and the greatest of the writes that the change met.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    pub kind: &'static str,
    pub node: String,
    pub write: Write,
    /// The last of them.
    pub upto: Timestamp,
    /// Some of them may lie behind the snapshot of the transaction. The server says so when their document is written, and only then.
    pub is_new: bool,
}

/// What earlier changes of the same document in the same transaction have led to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Earlier {
    /// Up to there the writes here have lost already.
    pub beaten: Option<Timestamp>,
    /// From there on they are what a word is about that is not in the log yet.
    pub said: Option<Timestamp>,
}

/// What the `n`-th event that `sight` is about meets.
pub(super) fn verdict(
    settings: &Settings,
    state: &State,
    event: &Event,
    hash: u64,
    (sight, n): (&Sight, usize),
    earlier: Earlier,
) -> Result<Verdict> {
    let (clock, seen) = sight.of(n);
    let policy = settings.policy(&event.ns);
    let Some(window) = state.window.as_ref().filter(|_| policy.conflicts != Conflicts::Origin) else {
        return Ok(Verdict::Apply);
    };
    if window.is_removed(&event.ns, seen) {
        return Ok(Verdict::Removed);
    }
    let beaten = state.beaten.get(&hash).copied().max(earlier.beaten);
    if policy.conflicts == Conflicts::Merge {
        return arbiter::verdict(settings, window, event, hash, (sight, n), Earlier { beaten, ..earlier });
    }
    let live: Vec<&Write> =
        window.concurrent(hash, seen).filter(|write| beaten.is_none_or(|upto| write.time > upto)).collect();
    if live.is_empty() {
        return Ok(Verdict::Apply);
    }
    if live.iter().any(|write| write.saw_us.is_some_and(|upto| event.time <= upto)) {
        return Ok(Verdict::Stale);
    }
    judge(settings, window, event, (clock, sight.by(n, settings), sight.known), &live, "a document was changed")
}

/// Which of an event and the writes of another document, which has a unique value that the event gives too, stays. `None`: the event
/// knew of all of them.
pub(super) fn over_value(
    settings: &Settings,
    state: &State,
    event: &Event,
    holder: u64,
    (sight, n): (&Sight, usize),
) -> Result<Option<Verdict>> {
    let (clock, seen) = sight.of(n);
    let policy = settings.policy(&event.ns);
    let Some(window) = state.window.as_ref().filter(|_| policy.conflicts != Conflicts::Origin) else { return Ok(None) };
    let beaten = state.beaten.get(&holder).copied();
    let all = window.concurrent(holder, seen).filter(|write| write.op != Op::Delete);
    let live: Vec<&Write> = all.filter(|write| beaten.is_none_or(|upto| write.time > upto)).collect();
    if live.is_empty() {
        return Ok(None);
    }
    let ours = (clock, sight.by(n, settings), sight.known);
    judge(settings, window, event, ours, &live, "a unique value was given away").map(Some)
}

fn judge(
    settings: &Settings,
    window: &Window,
    event: &Event,
    (clock, node, known): (i64, &str, Timestamp),
    live: &[&Write],
    what: &str,
) -> Result<Verdict> {
    let policy = settings.policy(&event.ns);
    if policy.conflicts == Conflicts::Stop {
        return Err(Error::operator(format!("{what} at both sides in {}, and conflicts = \"stop\"", event.ns))
            .hint("make both sides equal (`oplogue verify` shows where they differ), then choose a policy, or go on behind it with `oplogue position set FILE ROUTE --now`"));
    }
    if event.wall.is_none() {
        return Err(no_clock(event, what));
    }
    let ours = Ranked { node, clock, is_delete: event.op == Op::Delete };
    let Some(greatest) = greatest(settings, policy, window, live) else { return Ok(Verdict::Apply) };
    let theirs = ranked(window, greatest);
    let conflict = Conflict {
        kind: kind(greatest.op, event.op),
        node: theirs.node.to_owned(),
        write: greatest.clone(),
        upto: live.iter().map(|write| write.time).max().unwrap_or(greatest.time),
        is_new: live.iter().any(|write| write.time > known),
    };
    Ok(match compare(policy, &settings.priority, ours, theirs) {
        Ordering::Less => Verdict::Local(conflict),
        _ => Verdict::Remote(conflict),
    })
}

pub(super) fn no_clock(event: &Event, what: &str) -> Error {
    Error::operator(format!("{what} at both sides in {}, and the source gives no wall clock to compare", event.ns))
        .hint("use a source of type mongo-oplog, or MongoDB 6.0 or later")
}

pub(super) fn ranked<'a>(window: &'a Window, write: &Write) -> Ranked<'a> {
    Ranked { node: window.node(write), clock: write.clock, is_delete: write.op == Op::Delete }
}

pub(super) fn greatest<'a>(
    settings: &Settings,
    policy: Policy,
    window: &Window,
    live: &[&'a Write],
) -> Option<&'a Write> {
    live.iter().copied().max_by(|a, b| compare(policy, &settings.priority, ranked(window, a), ranked(window, b)))
}

pub(super) fn kind(local: Op, remote: Op) -> &'static str {
    match (local, remote) {
        (Op::Delete, Op::Delete) => "delete-delete",
        (Op::Delete, _) => "delete-update",
        (_, Op::Delete) => "update-delete",
        (Op::Insert, Op::Insert) => "insert-insert",
        _ => "update-update",
    }
}
