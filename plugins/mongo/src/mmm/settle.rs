//! Makes documents that met over a unique value the same at both ends.
//!
//! Each end has decided by what it knew ([`super::unique`]), and most often both did alike. But a write that was still on its way may
//! have changed one of the documents, and then they did not. So the link from the preferred node looks at them again
//! once neither end has writes of them that the other has not heard of, and gives the peer what its node has.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bson::{RawDocument, RawDocumentBuf, Timestamp};
use oplogue_api::{Error, Namespace, Result, hash_key};
use tracing::warn;

use super::{
    apply::{Retry, Writes},
    deliver::{PATIENCE, TRIES},
    options::Conflicts,
    records,
    sight::Sight,
    sink::Mmm,
    state::{Peer, State},
    statements::Commands,
    subjects::Subjects,
    txn::{Failure, Transaction},
    unique::{Ask, ask, holder},
    unsettled::Unsettled,
    window::Window,
};

/// How many documents at a time.
const MOST: usize = 200;
/// How many documents in the way of one another are looked at in turn.
const ROUNDS: u32 = 100;

/// What one attempt has shown.
enum Outcome {
    /// Nothing is left that can be done now.
    Done,
    /// So many documents are the same now, and in a record.
    More(u64),
    /// Another document has a unique value that is needed.
    Blocked(Namespace, Ask, RawDocumentBuf),
    /// The peer refuses this one.
    Refused(Namespace, RawDocumentBuf, i32),
}

/// What is tried.
struct Effort {
    most: usize,
    /// Those that are in the way come first.
    first: Unsettled,
    refused: HashMap<(Namespace, u64), i32>,
}

impl Mmm {
    /// Settles what can be settled. All changes of the origin up to `upto` are applied.
    ///
    /// # Errors
    /// `Transient` where somebody is in the way for long.
    pub(super) async fn settle(&self, state: &mut State, upto: Timestamp) -> Result<()> {
        let Some(window) = &mut state.window else { return Ok(()) };
        let told = std::mem::take(&mut window.met);
        if state.stream.settles {
            state.stream.unsettled.merge(&told);
        }
        if state.stream.unsettled.is_empty() {
            return Ok(());
        }
        if state.stream.unsettled.is_full() {
            warn!(route = self.route, "many documents contradict each other by unique values: run `oplogue verify`");
        }
        let mut effort = Effort { most: MOST, first: Unsettled::default(), refused: HashMap::new() };
        let (mut tries, mut rounds, mut since) = (0, 0, Instant::now());
        loop {
            if !state.is_certain {
                self.reload(state).await?;
            }
            match self.peer.settle_some(state, upto, &effort).await {
                Ok(Outcome::Done) => return Ok(()),
                Ok(Outcome::More(records)) => {
                    self.counts.conflicts.fetch_add(records, Relaxed);
                    (tries, rounds, since, effort.first) = (0, 0, Instant::now(), Unsettled::default())
                }
                Ok(Outcome::Blocked(ns, ask, refused)) => {
                    rounds += 1;
                    let found = self.peer.find_holder(&ns, &ask).await?;
                    let is_new = found.is_some_and(|holder| {
                        effort.first.enter(&ns, &refused);
                        state.stream.unsettled.enter(&ns, &holder);
                        effort.first.enter(&ns, &holder)
                    });
                    if !is_new || rounds >= ROUNDS {
                        effort.refused.insert((ns, hash_key(&refused)), 11000);
                    }
                }
                Ok(Outcome::Refused(ns, key, code)) => {
                    effort.refused.insert((ns, hash_key(&key)), code);
                }
                Err(Retry::Otherwise) => {}
                Err(Retry::Failure(Failure::Again(e))) => {
                    tries += 1;
                    if tries >= TRIES || since.elapsed() > PATIENCE {
                        return Err(e);
                    }
                    tokio::time::sleep(Duration::from_millis(2 << tries.min(8))).await;
                }
                Err(Retry::Failure(Failure::TooLarge(_))) if effort.most > 1 => effort.most /= 2,
                Err(Retry::Failure(Failure::TooLarge(e) | Failure::Error(e))) => {
                    state.is_certain = false;
                    return Err(e);
                }
            }
        }
    }
}

impl Peer {
    async fn settle_some(&self, state: &mut State, upto: Timestamp, effort: &Effort) -> Result<Outcome, Retry> {
        let Some(window) = &mut state.window else { return Ok(Outcome::Done) };
        window.pull(self.client().await?).await?;
        let concerns = |ns: &Namespace| {
            self.settings.wants(ns)
                && self.settings.policy(ns).conflicts != Conflicts::Origin
                && !self.settings.is_between_others(ns)
        };
        let all: Vec<_> = state.stream.unsettled.all().collect();
        for (ns, key) in all.iter().filter(|(ns, _)| !concerns(ns)) {
            state.stream.unsettled.remove(ns, key);
        }
        let is_ready = |state: &State, (ns, key): &(Namespace, RawDocumentBuf)| {
            let unseen =
                |window: &Window| window.concurrent(Window::hash(ns, key), &state.stream.seen).next().is_some();
            !state.window.as_ref().is_some_and(unseen)
        };
        let wanted = |place: &(Namespace, RawDocumentBuf)| concerns(&place.0) && is_ready(state, place);
        let others = all.iter().filter(|(ns, key)| !effort.first.has(ns, key)).cloned();
        let some: Vec<_> = effort.first.all().chain(others.take(effort.most)).filter(wanted).collect();
        if some.is_empty() || effort.first.all().any(|place| !is_ready(state, &place)) {
            return Ok(Outcome::Done);
        }
        let mut subjects = Subjects::default();
        let mut theirs = HashMap::new();
        let mut by_ns: HashMap<&Namespace, Vec<&RawDocument>> = HashMap::new();
        for (ns, key) in &some {
            by_ns.entry(ns).or_default().push(key);
        }
        let mut at = upto;
        for (ns, keys) in by_ns {
            let documents = self.origin.documents(ns, &keys, upto, true).await?;
            at = at.max(documents.at.unwrap_or(at));
            for (key, document) in keys.iter().zip(documents.found) {
                theirs.insert(subjects.enter(ns, key), (document, documents.at.unwrap_or(upto)));
            }
        }
        let mut sight = Sight::new(&state.stream, &[], false, &self.settings)?;
        for (ns, key) in &some {
            sight.stream.unsettled.remove(ns, key);
        }
        let position = state.marker()?.position.clone();
        let mut marker = sight.marker(state, &position, Some(at), Default::default())?;
        marker.session = self.session.id(self.client().await?).await?;
        if let Some(forward) = &mut marker.forward {
            forward.decides = true;
        }
        if let Some(window) = &mut state.window {
            (marker.log.since, marker.log.since_clock) = window.forget(&state.stream.seen);
            window.tell_base(&mut marker);
        }
        let mut transaction = Transaction::begin(self.client().await?, &self.session).await?;
        let outcome = async {
            self.mark(&mut transaction, state, &marker).await?;
            if let Some(window) = &mut state.window {
                window.pull(self.client().await?).await?;
            }
            if !some.iter().all(|place| is_ready(state, place)) {
                // Somebody has written one of them just now: without it.
                return Err(Retry::Otherwise);
            }
            self.read(&mut transaction, &mut subjects).await?;
            let mut writes = Writes::default();
            for (place, subject) in subjects.all().enumerate() {
                let Some((document, _)) = theirs.get(&place) else { continue };
                let now = document.as_deref().map(RawDocument::to_owned);
                if now == subject.before {
                    continue;
                }
                let versions = (subject.before.as_deref(), now.as_deref());
                let refused = effort.refused.get(&(subject.ns.clone(), hash_key(&subject.key))).copied();
                let link = &self.settings.link;
                writes.records.push(records::settled(link, &subject.ns, &subject.key, refused, versions)?);
                if refused.is_none() {
                    subject.now = now;
                    subject.event = place;
                    subject.makes_room = true;
                }
            }
            if writes.records.is_empty() {
                return Ok(None);
            }
            let mut commands = Commands::default();
            subjects.write(&mut commands, |_| true, |_, document| Ok(document.to_owned()))?;
            for command in commands.into_all() {
                let reply = transaction.run(command.ns.db(), command.body()).await?;
                let Some((statement, code)) = reply.refused() else { continue };
                let key = subjects.get(command.events.get(statement).copied().unwrap_or(0)).key.clone();
                return match (code, reply.refusal(), command.document(statement)) {
                    (112 | 251, ..) => Err(Failure::Again(Error::transient("another writer was in the way")).into()),
                    (11000, Some(refusal), Some(document)) => {
                        match ask(self.client().await?, &command.ns, refusal, document).await? {
                            Some(ask) => Ok(Some(Outcome::Blocked(command.ns.clone(), ask, key))),
                            None => Ok(Some(Outcome::Refused(command.ns.clone(), key, code))),
                        }
                    }
                    _ => Ok(Some(Outcome::Refused(command.ns.clone(), key, code))),
                };
            }
            self.write_beside(&mut transaction, state, &writes).await?;
            Ok(Some(Outcome::More(writes.records.len() as u64)))
        };
        match outcome.await {
            Ok(Some(Outcome::More(records))) => {
                state.is_certain = false;
                transaction.commit().await?;
                let taken = theirs.into_iter().filter(|(_, (_, at))| *at > upto).map(|(place, (_, at))| {
                    let subject = subjects.get(place);
                    ((subject.ns.clone(), hash_key(&subject.key)), at)
                });
                let taken: Vec<_> = taken.collect();
                state.committed(marker, sight.stream, taken.into_iter());
                Ok(Outcome::More(records))
            }
            Ok(Some(blocked)) => {
                transaction.abort().await;
                Ok(blocked)
            }
            Ok(None) => {
                // They are the same: nothing is written for that.
                transaction.abort().await;
                state.stream = sight.stream;
                Ok(Outcome::More(0))
            }
            Err(retry) => {
                transaction.abort().await;
                Err(retry)
            }
        }
    }

    /// The document that has a value, now.
    async fn find_holder(&self, ns: &Namespace, ask: &Ask) -> Result<Option<RawDocumentBuf>> {
        let mut transaction = Transaction::begin(self.client().await?, &self.session).await?;
        let found = holder(&mut transaction, ns, ask).await;
        transaction.abort().await;
        match found {
            Ok(found) => Ok(found),
            Err(Failure::Again(e) | Failure::TooLarge(e) | Failure::Error(e)) => Err(e),
        }
    }
}
