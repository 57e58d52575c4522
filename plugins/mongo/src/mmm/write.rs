//! The writes of a transaction behind its marker, and what is written outside of transactions.

use std::future::IntoFuture;

use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, raw::cstr};
use futures_util::TryStreamExt;
use oplogue_api::{Error, Event, Namespace, Op, Result, hash_key};

use super::{
    apply::{Retry, Tactics, Writes},
    chunk::units,
    names,
    options::Conflicts,
    origin::{document, raw},
    records::{self, By},
    state::{Peer, State},
    statements::{Applied, Commands, Kind, Serial, delete, filter},
    subjects::Subjects,
    txn::{Failure, Transaction},
    window::Run,
    word::{Audience, Word},
};
use crate::{
    client::{answered, bounded, run},
    errors::{Phase, classify, code},
};

/// How many transactions with tombstones expect them to be there already, once one was.
const UPSERTS: u32 = 1000;

impl Peer {
    pub(super) async fn write(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        events: &[Event],
        commands: Commands,
        tactics: &mut Tactics,
    ) -> Result<(), Retry> {
        for command in commands.into_all() {
            let reply = transaction.run(command.ns.db(), command.body()).await?;
            if let Some((statement, code)) = reply.refused() {
                let event = command.events.get(statement).copied().unwrap_or(0);
                if code == 11000 && state.serial.contains(&events[event].ns) && units(events).len() > 1 {
                    // Documents that are read are written as they are in the end, and so values may meet that never met at the
                    // origin: in smaller transactions they go by one another as they did there.
                    let e = Error::transient("the peer has another document with the value of a unique index");
                    return Err(Failure::TooLarge(e).into());
                }
                let document = command.document(statement);
                if code == 11000 && self.is_asked(state, &events[event], reply.refusal(), document, tactics).await? {
                    return Err(Retry::Otherwise);
                }
                return Err(on_refusal(&events[event], event, code, &mut state.serial, tactics));
            }
            if command.must_find(self.touches(state, &command.ns)).is_some_and(|n| n != reply.n()) {
                // One of them is missing, or has another shape than at the origin: look at all.
                for event in &command.events {
                    let event = &events[*event];
                    if let Some(key) = &event.key {
                        tactics.read.insert((event.ns.clone(), hash_key(key)));
                    }
                }
                return Err(Retry::Otherwise);
            }
        }
        Ok(())
    }

    /// Whether what changes nothing in a namespace is written all the same. Where several links lead to the peer, the server has to notice
    /// when another one writes the same document at this moment; and where this one forwards, everything that stays has to be seen in the
    /// log, to go on from there.
    fn touches(&self, state: &State, ns: &Namespace) -> bool {
        // What is merged comes by one link, and without a policy nothing is looked for.
        let is_decided = !matches!(self.settings.policy(ns).conflicts, Conflicts::Merge | Conflicts::Origin);
        self.settings.forwards || state.is_mesh && is_decided
    }

    /// Writes what changes nothing: a document is deleted and made again, and one that is not there is made and deleted. Where the peer
    /// does not take that, the marker of a link that forwards names it.
    pub(super) async fn touch(
        &self,
        transaction: &mut Transaction<'_>,
        state: &State,
        events: &[Event],
        subjects: &mut Subjects,
        tactics: &mut Tactics,
    ) -> Result<(), Retry> {
        let mut commands = Commands::default();
        for subject in subjects.all().filter(|subject| subject.is_won && !subject.is_changed()) {
            if !self.touches(state, &subject.ns) || tactics.same.has(&subject.ns, &subject.key)? {
                continue;
            }
            let statements = match &subject.before {
                // A replacement by the very same is not logged.
                Some(before) => vec![delete(&subject.key)?, Applied::Statement(Kind::Insert, before.clone())],
                None => {
                    let only = filter(&subject.key)?;
                    vec![Applied::Statement(Kind::Insert, only), delete(&subject.key)?]
                }
            };
            for statement in statements {
                if let Applied::Statement(kind, statement) = statement {
                    commands.push(subject.event, &subject.ns, &subject.key, true, kind, statement);
                }
            }
        }
        for command in commands.into_all() {
            let reply = transaction.run(command.ns.db(), command.body()).await?;
            match reply.refused() {
                None => {}
                Some((_, 112 | 251)) => {
                    return Err(Failure::Again(Error::transient("another writer was in the way")).into());
                }
                Some((statement, _)) => {
                    let event = &events[command.events.get(statement).copied().unwrap_or(0)];
                    if let Some(key) = &event.key {
                        tactics.same.note(Word::on(event, key, event.time, Audience::All)?)?;
                    }
                    return Err(Retry::Otherwise);
                }
            }
        }
        Ok(())
    }

    /// A change of a collection that takes no transactions. Before the commit, so that none is lost; what is there already has come
    /// before a crash. The server's own evictions are not repeated.
    pub(super) async fn write_plain(&self, event: &Event, key: &RawDocument) -> Result<(), Retry> {
        let after = match event.op {
            Op::Delete => return Ok(()),
            Op::Insert | Op::Replace => event.after.clone(),
            _ => self.origin.documents(&event.ns, &[key], event.time, false).await?.found.pop().flatten(),
        };
        let Some(after) = after else { return Ok(()) };
        let statement = doc! {"q": document(&filter(key)?)?, "u": document(&after)?, "upsert": true};
        let db = self.client().await?.database(event.ns.db());
        let body = doc! {"update": event.ns.coll(), "updates": [statement]};
        let reply = run(&db, body, Phase::Apply).await?;
        if reply.contains_key("writeErrors") {
            let record = records::refused(By::node(&self.settings.link), event, 0)?;
            self.record(record).await?;
        }
        Ok(())
    }

    /// When DDL of this link, or where it forwards of any, was run at the peer, by the peer's clock.
    pub(super) async fn ddl_times(&self, since: Timestamp) -> Result<Vec<Run>> {
        let ledger = self.client().await?.database(names::DATABASE).collection::<Document>(names::LEDGER);
        let link = self.settings.link.marker_id(0);
        let mut wanted = doc! {"start": {"$exists": true}, "$or": [{"end": {"$gte": since}}, {"end": null}]};
        if !self.settings.forwards {
            wanted.insert("link", &link);
        }
        let find = ledger.find(wanted).projection(doc! {"start": 1, "end": 1, "link": 1});
        let mut found = bounded(find.into_future(), Phase::Apply).await?;
        let mut times = Vec::new();
        while let Some(entry) = bounded(found.try_next(), Phase::Apply).await? {
            if let Ok(start) = entry.get_timestamp("start") {
                let end = entry.get_timestamp("end").unwrap_or(Timestamp { time: u32::MAX, increment: 0 });
                let id = entry.get_document("_id").ok().filter(|_| entry.get_str("link").ok() != Some(&*link));
                let by =
                    id.and_then(|id| Some((id.get_str("origin").ok()?.to_owned(), id.get_timestamp("time").ok()?)));
                times.push(Run { start, end, by });
            }
        }
        Ok(times)
    }

    /// Keeps the record of a conflict that no transaction has caused. After a crash it may be there twice.
    pub(super) async fn record(&self, record: Document) -> Result<()> {
        let conflicts = self.client().await?.database(names::DATABASE).collection::<Document>(names::CONFLICTS);
        match answered(conflicts.insert_one(record).into_future()).await? {
            Ok(_) => Ok(()),
            Err(e) if code(&e) == Some(11000) => Ok(()),
            Err(e) => Err(classify(e, Phase::Apply)),
        }
    }

    /// Conflicts and tombstones, in the same transaction.
    pub(super) async fn write_beside(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        writes: &Writes,
    ) -> Result<(), Retry> {
        if !writes.records.is_empty() {
            let insert = doc! {"insert": names::CONFLICTS, "documents": writes.records.clone()};
            let reply = transaction.run(names::DATABASE, raw(&insert)?).await?;
            if let Some((_, code)) = reply.refused() {
                return Err(
                    Error::transient(format!("a conflict record could not be written (MongoDB error {code})")).into()
                );
            }
        }
        // To insert takes a third of what an upsert takes. Ids that come back after their delete, and go again, are the exception.
        let are_new = state.known_stones == 0;
        state.known_stones = state.known_stones.saturating_sub(u32::from(!writes.tombstones.is_empty()));
        for some in writes.tombstones.chunks(10_000) {
            let command = if are_new { stones_inserted(some) } else { stones_upserted(some)? };
            let reply = transaction.run(names::DATABASE, command).await?;
            match reply.refused() {
                None => {}
                Some((_, 11000)) if are_new => {
                    state.known_stones = UPSERTS;
                    return Err(Retry::Otherwise);
                }
                Some((_, code)) => {
                    return Err(Failure::Again(Error::transient(format!(
                        "a tombstone could not be written (MongoDB error {code})"
                    )))
                    .into());
                }
            }
        }
        Ok(())
    }
}

fn stones_inserted(stones: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut documents = RawArrayBuf::new();
    for stone in stones {
        documents.push(stone.as_ref());
    }
    let mut insert = RawDocumentBuf::new();
    insert.append(cstr!("insert"), names::TOMBSTONES);
    insert.append(cstr!("documents"), documents);
    insert.append(cstr!("ordered"), true);
    insert
}

fn stones_upserted(stones: &[RawDocumentBuf]) -> Result<RawDocumentBuf> {
    let mut updates = RawArrayBuf::new();
    for stone in stones {
        let mut update = RawDocumentBuf::new();
        update.append(cstr!("q"), filter(stone)?);
        update.append(cstr!("u"), stone.as_ref());
        update.append(cstr!("upsert"), true);
        updates.push(update);
    }
    let mut update = RawDocumentBuf::new();
    update.append(cstr!("update"), names::TOMBSTONES);
    update.append(cstr!("updates"), updates);
    update.append(cstr!("ordered"), true);
    Ok(update)
}

/// What a refused statement means for the next attempt.
fn on_refusal(event: &Event, n: usize, code: i32, serial: &mut Serial, tactics: &mut Tactics) -> Retry {
    let place = event.key.as_ref().map(|key| (event.ns.clone(), hash_key(key)));
    match (code, place) {
        (112 | 251, _) => Failure::Again(Error::transient("another writer was in the way")).into(),
        (13, _) => {
            Error::operator(format!("the user may not write to {}", event.ns)).hint("grant it `readWrite` there").into()
        }
        (263 | 50791, _) => Error::operator(format!("{} cannot be written in transactions", event.ns))
            .hint("it is a capped, time-series or internal collection: leave it out with `namespaces`")
            .into(),
        (14031, _) => Error::transient("the disk of the peer is full").into(),
        // The order of documents among each other may be the reason.
        (11000, _) if serial.insert(event.ns.clone()) => Retry::Otherwise,
        (_, Some(place)) if tactics.read.insert(place.clone()) => Retry::Otherwise,
        (code, _) => {
            tactics.refused.insert(n, code);
            Retry::Otherwise
        }
    }
}
