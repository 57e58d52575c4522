//! conflicts = "merge": one node merges, the arbiter, and the others take its word.
//!
//! 1. At the arbiter a change that comes is merged with the concurrent writes there, field by field, and the result goes back as a
//!    word ([`super::word`]). An update changes there the fields that it names and no other, whatever the document of its node is like.
//! 2. Elsewhere a change that meets concurrent writes is left out: those writes are on their way to the arbiter, and are
//!    concurrent there as well, so that its word comes; and it is asked for, to be sure. It is taken when it has seen all that was
//!    written there.
//! 3. Whoever has not heard a word, or has left it out, has not seen anything that the word was about either, whatever the markers
//!    say. So at the arbiter the writes from the beginning of an unheard word on are concurrent, and behind a question
//!    those from the first that was left out on.
//! 4. In a mesh all of it goes through the arbiter. It says a word for each change that comes, to those that did not write it,
//!    and the links between two others carry nothing of these namespaces. So each of them is in a pair with the
//!    arbiter, and what the arbiter has of third nodes is, for them, what it has written itself.
//!
//! So after the last write the last word is taken everywhere, and no two nodes ever have to decide alike.

use std::cmp::Ordering;

use bson::{RawDocument, Timestamp};
use oplogue_api::{Error, Event, Namespace, Op, Result};

use super::{
    options::{Conflicts, Settings},
    paths::FieldPath,
    rank::{Ranked, compare},
    seen::Seen,
    sight::Sight,
    state::State,
    verdict::{self, Conflict, Earlier, Verdict, ranked},
    window::{Window, Write},
    word::{Audience, NOTHING, Word, asked},
};

/// An update that is merged field by field.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub conflict: Conflict,
    /// The fields that writes of the peer keep.
    pub kept: Vec<FieldPath>,
}

/// Whether the peer of the link is the arbiter of what comes over it.
///
/// # Errors
/// `Operator` where several links lead to the peer and nobody says which node is the arbiter of all.
fn is_arbiter(settings: &Settings, window: &Window) -> Result<bool> {
    if settings.priority.is_empty() && !window.applied().all().is_empty() {
        return Err(Error::operator(
            "several links lead to the peer: conflicts = \"merge\" needs `priority` then",
        )
        .hint(
            "name in all sinks the same node first, one that has links with all others in both directions: it merges",
        ));
    }
    Ok(!settings.is_preferred())
}

/// Whether the peer merges the documents of a namespace.
pub(super) fn merges(settings: &Settings, ns: &Namespace) -> bool {
    settings.policy(ns).conflicts == Conflicts::Merge && !settings.is_preferred() && !settings.is_between_others(ns)
}

/// The word on a change that met nothing, to those that did not write it: in a mesh they hear of it from the arbiter only.
pub(super) fn forward(settings: &Settings, state: &State, event: &Event, key: &RawDocument) -> Result<Option<Word>> {
    let is_named = |node: &String| *node != settings.link.node && *node != settings.link.peer;
    let is_mesh = state.is_mesh || settings.priority.iter().any(is_named);
    match is_mesh && merges(settings, &event.ns) {
        true => Word::on(event, key, NOTHING, Audience::Others).map(Some),
        false => Ok(None),
    }
}

/// Whether, and from which time of the peer's log on, what a change meets makes it a matter of the arbiter, which the peer is. `said`:
/// that time of an earlier change of the same transaction.
pub(super) fn base(
    settings: &Settings,
    state: &State,
    ns: &Namespace,
    hash: u64,
    seen: &Seen,
    said: Option<Timestamp>,
) -> Result<Option<Timestamp>> {
    let Some(window) = state.window.as_ref().filter(|_| settings.policy(ns).conflicts == Conflicts::Merge) else {
        return Ok(None);
    };
    let first = window.unheard(hash, seen, said).map(|write| write.time).min();
    Ok(if first.is_some() && is_arbiter(settings, window)? { first } else { None })
}

/// The documents that this marker waits for a word on, from the first on that its writer has left out of each; the peer being the
/// arbiter. With each, whether no such word is on its way.
pub(super) fn questions(settings: &Settings, state: &State, event: &Event, seen: &Seen) -> Result<Vec<(Word, bool)>> {
    let Some(window) = &state.window else { return Ok(Vec::new()) };
    let asked = asked(settings, event);
    if asked.is_empty() || !is_arbiter(settings, window)? {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for word in asked.into_iter().filter(|word| merges(settings, &word.ns)) {
        let hash = word.hash()?;
        // What a word was about is left out with it.
        let base = window.begins(hash, word.base, seen);
        let is_said = window.concurrent(hash, seen).any(|write| write.again.is_some_and(|from| from <= base));
        all.push((Word { base, audience: Audience::Node, ..word }, !is_said));
    }
    Ok(all)
}

/// See [`verdict::verdict`].
pub(super) fn verdict(
    settings: &Settings,
    window: &Window,
    event: &Event,
    hash: u64,
    (sight, n): (&Sight, usize),
    Earlier { beaten, said }: Earlier,
) -> Result<Verdict> {
    let (clock, seen) = sight.of(n);
    let met: Vec<&Write> = window.unheard(hash, seen, said).collect();
    if met.is_empty() {
        return Ok(Verdict::Apply);
    }
    if !is_arbiter(settings, window)? {
        return Ok(Verdict::Wait);
    }
    let last = met.iter().map(|write| write.time).max();
    let live = |write: &&Write| write.again.is_none() && beaten.is_none_or(|upto| write.time > upto);
    let live: Vec<&Write> = met.into_iter().filter(live).collect();
    let policy = settings.policy(&event.ns);
    let Some(greatest) = verdict::greatest(settings, policy, window, &live) else {
        // What was beaten has gone: the document is as it was at the origin.
        return Ok(Verdict::Apply);
    };
    if live.iter().any(|write| write.time > sight.known) {
        return Ok(Verdict::TooNew);
    }
    if event.wall.is_none() {
        return Err(verdict::no_clock(event, "a document was changed"));
    }
    let theirs = ranked(window, greatest);
    let conflict = Conflict {
        kind: verdict::kind(greatest.op, event.op),
        node: theirs.node.to_owned(),
        write: greatest.clone(),
        upto: last.unwrap_or(greatest.time),
        is_new: false,
    };
    let ours = Ranked { node: &settings.link.node, clock, is_delete: event.op == Op::Delete };
    let is_less = |other| compare(policy, &settings.priority, ours, other) == Ordering::Less;
    if event.op != Op::Update || live.iter().any(|write| write.paths.is_none()) {
        return Ok(if is_less(theirs) { Verdict::Local(conflict) } else { Verdict::Remote(conflict) });
    }
    let greater = live.iter().filter(|write| is_less(ranked(window, write)));
    let kept = greater.filter_map(|write| write.paths.as_deref()).flatten().cloned().collect();
    Ok(Verdict::Fields(Fields { conflict, kept }))
}
