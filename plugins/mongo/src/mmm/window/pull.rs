//! Reading the log of the peer into the window.

use std::{collections::HashSet, future::IntoFuture, sync::Arc, time::Instant};

use bson::{Document, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::{
    Client,
    options::{ReadPreference, RunCursorCommandOptions, SelectionCriteria},
};
use oplogue_api::{
    Error, Event, Op, Replicated, Result,
    oplog::{Decoder, Outcome},
};

use super::{Exact, PLACES, WRITE_BYTES, Window, Write};
use crate::{
    client::{answered, reply},
    errors::{Phase, classify},
    mmm::{
        ddl::removed,
        forward::{One, told as told_of},
        marker::Marker,
        paths::FieldPath,
        seen::{Seen, hybrid},
        state::{FIRST_SIDE_LANE, is_marker},
        word::Word,
    },
    oplog::{Form, Gathering, Log, Part, ReadConcern, Reply, op_time},
};

impl Window {
    /// Reads the log to its end.
    ///
    /// # Errors
    /// `Operator` when the log does not reach back to where it was read last, and when the window is full. `Transient` when an election
    /// has taken back what was read last: then the window has to be made anew, from what the marker says.
    pub async fn pull(&mut self, client: &Client) -> Result<()> {
        let log = Log::new(client, ReadConcern::Local);
        let mut options = RunCursorCommandOptions::default();
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.batch_size = Some(5000);
        let local = client.database("local");
        let cursor = local.run_cursor_command(self.command()).with_options(options).batch();
        let mut cursor = answered(cursor.into_future()).await?.map_err(|e| classify(e, Phase::Apply))?;
        let mut first = true;
        let mut decoder = Decoder::new(false).replicated(Replicated::MarkersAndWrites);
        let (mut events, mut bad) = (Vec::new(), Vec::new());
        loop {
            let next = answered(async { Ok(cursor.next().await) }).await?.map_err(|e| classify(e, Phase::Apply))?;
            let Some(batch) = next else { break };
            let batch = Reply::read(reply(batch.map_err(|e| classify(e, Phase::Apply))?)?)?;
            for entry in batch.entries(0) {
                let entry = entry?;
                let at = op_time(&entry)?;
                if std::mem::take(&mut first) {
                    if at.ts != self.at {
                        return Err(self.missing(&log).await?);
                    }
                    continue;
                }
                let decoded = decoder.entry(&entry, &mut events, &mut bad);
                if let Outcome::NeedsChain(chain) = decoded.outcome {
                    let mut gathering = Gathering::new(chain, at, Form::Whole);
                    loop {
                        match gathering.next_part(&log).await? {
                            Part::Entry(entry) => {
                                decoder.chain_entry(&mut gathering.chain, &entry, &mut events, &mut bad);
                                gathering.delivered();
                            }
                            Part::Last => {
                                decoder.chain_end(gathering.chain, &mut events, &mut bad);
                                break;
                            }
                            Part::Broken(e) => return Err(e),
                        }
                    }
                }
                // What cannot be decoded has a source's attention on the way back.
                bad.clear();
                self.enter(&events, at.ts)?;
                events.clear();
                self.at = at.ts;
            }
        }
        if first {
            return Err(self.missing(&log).await?);
        }
        self.pulled = Some(Instant::now());
        // A place to begin at again, now and then.
        if self.clocks.back().is_none_or(|(time, _)| self.at.time >= time.time + PLACES) {
            self.clocks.push_back((self.at, self.clock));
        }
        Ok(())
    }

    /// Why the entry that was read last is not in the log.
    async fn missing(&self, log: &Log) -> Result<Error> {
        Ok(match log.oldest(Phase::Apply).await? {
            Some(oldest) if oldest.at.ts <= self.at => {
                Error::transient("an election at the peer has taken back what was read of its oplog")
            }
            _ => gone(),
        })
    }

    /// Of our own transactions, only the marker, unless they decide something. Most entries are plain: of those only `op` is looked at.
    fn command(&self) -> Document {
        let first = doc! {"$arrayElemAt": ["$o.applyOps", 0]};
        let ours = doc! {"$and": [
            {"$eq": ["$op", "c"]},
            {"$eq": ["$ns", "admin.$cmd"]},
            {"$let": {"vars": {"first": &first}, "in": {"$and": [
                {"$eq": ["$$first.ns", oplogue_api::MARKERS]},
                {"$eq": ["$$first.o.node", &self.link.node]},
                {"$eq": ["$$first.o.peer", &self.link.peer]},
                {"$not": ["$$first.o.forward.decides"]},
            ]}}},
        ]};
        let marker = doc! {"applyOps": [first]};
        doc! {
            "find": "oplog.rs",
            "filter": {"ts": {"$gte": self.at}},
            "projection": {
                "ts": 1, "t": 1, "op": 1, "ns": 1, "o2": 1, "wall": 1, "lsid": 1, "txnNumber": 1, "prevOpTime": 1,
                "fromMigrate": 1, "multiOpType": 1,
                "o": {"$cond": [ours, marker, "$o"]},
            },
            "readConcern": {"level": "local"},
        }
    }

    pub(super) fn enter(&mut self, events: &[Event], time: Timestamp) -> Result<()> {
        let mut marker: Option<(Marker, Exact)> = None;
        let (mut written, mut told) = (HashSet::new(), HashSet::new());
        for event in events {
            if is_marker(event) {
                let found = event.after.as_deref().and_then(|after| Document::try_from(after).ok());
                let Some(found) = found.and_then(|d| Marker::decode(&d)) else { continue };
                // Others are of a replication beside ours. As in `Stream::pass`.
                if found.link.peer == self.link.peer {
                    self.clock = self.clock.max(found.clock);
                    if found.link.node != self.link.node && found.lane < FIRST_SIDE_LANE {
                        self.note_applied(&found);
                        self.met.merge(&found.unsettled);
                    }
                    if self.forwards && found.lane < FIRST_SIDE_LANE {
                        self.note_had(&found);
                    }
                    for word in found.again.iter().filter(|_| event.txn.is_some()) {
                        if !word.concerns(&self.link.node, &found.link.node) {
                            continue;
                        }
                        told.insert(word.hash()?);
                        self.enter_word(word, time)?;
                    }
                }
                let exact = told_of(&found);
                marker = event.txn.is_some().then_some((found, exact));
                continue;
            }
            if event.op.is_barrier() {
                // What cannot be read has a source's attention on the way back.
                let known = self.removed.len();
                self.removed.extend(removed(event).unwrap_or_default().into_iter().map(|what| (time, what)));
                self.is_run_missing |= self.removed.len() > known;
            }
            let Some(key) = event.key.as_deref().filter(|_| !event.op.is_barrier()) else { continue };
            let hash = Window::hash(&event.ns, key);
            if (self.wanted)(&event.ns).is_none() {
                written.insert(hash);
                continue;
            }
            let op = event.op;
            let write = match &marker {
                // What a router has decided by itself is the peer's own write.
                Some((marker, exact)) if is_decided(marker, exact, hash) => {
                    let clock = hybrid(event.wall, event.time, self.clock);
                    Write {
                        time,
                        node: 0,
                        origin_time: time,
                        clock,
                        op,
                        saw_us: None,
                        paths: None,
                        again: None,
                        is_told: false,
                    }
                }
                Some((marker, _)) if marker.link == self.link => continue,
                Some((marker, exact)) => {
                    written.insert(hash);
                    let write = self.replicated(marker, time, op, exact.get(&hash));
                    let paths = match fields_told(marker, &write, hash) {
                        Some(paths) => Some(paths),
                        None => self.fields_of(event)?,
                    };
                    Write { paths, is_told: told.contains(&hash), ..write }
                }
                None => {
                    let clock = hybrid(event.wall, event.time, self.clock);
                    let paths = self.fields_of(event)?;
                    Write {
                        time,
                        node: 0,
                        origin_time: time,
                        clock,
                        op,
                        saw_us: None,
                        paths,
                        again: None,
                        is_told: false,
                    }
                }
            };
            self.enter_write(hash, write);
        }
        // What changed nothing here (a delete of what was gone already) was considered all the same.
        if let Some((marker, exact)) =
            marker.filter(|(marker, _)| marker.link != self.link && marker.link.peer == self.link.peer)
        {
            for (hash, one) in exact.into_iter().filter(|(hash, _)| !written.contains(hash)) {
                let op = if one.is_delete { Op::Delete } else { Op::Update };
                let write = self.replicated(&marker, time, op, Some(&one));
                let paths = fields_told(&marker, &write, hash);
                self.enter_write(hash, Write { paths, is_told: told.contains(&hash), ..write });
            }
        }
        if self.order.len() + self.held / WRITE_BYTES > self.most {
            return Err(Error::operator(
                "more has been written at the peer than the window holds, since its changes last came back",
            )
            .hint(
                "raise `window` of the sink; if nothing replicates the peer's writes back, set conflicts = \"origin\"",
            ));
        }
        Ok(())
    }

    /// A write that the link of `marker` has brought.
    fn replicated(&mut self, marker: &Marker, time: Timestamp, op: Op, one: Option<&One>) -> Write {
        let groups = marker.forward.as_ref().map_or(&[][..], |forward| &forward.groups);
        let group = one.and_then(|one| groups.get(one.group?));
        let (origin, saw) = group.map_or((&marker.origin, &marker.saw), |group| (&group.node, &group.saw));
        let node = self.place(origin);
        let saw_us = Seen::new(saw).of(&self.link.node);
        let (origin_time, clock) = one.map_or((marker.done.time, marker.clock), |one| (one.time, one.clock));
        Write { time, node, origin_time, clock, op, saw_us, paths: None, again: None, is_told: false }
    }

    /// The fields that an update changes, where they are asked for.
    fn fields_of(&self, event: &Event) -> Result<Option<Arc<[FieldPath]>>> {
        match &event.change {
            Some(change) if event.op == Op::Update && (self.wanted)(&event.ns) == Some(true) => {
                Ok(Some(FieldPath::all(change)?.into()))
            }
            _ => Ok(None),
        }
    }

    /// A word of the peer: like a write of its own, which is concurrent with what has not heard it.
    pub(super) fn enter_word(&mut self, word: &Word, time: Timestamp) -> Result<()> {
        let (op, again) = (Op::Replace, Some(word.base));
        let write =
            Write { time, node: 0, origin_time: time, clock: 0, op, saw_us: None, paths: None, again, is_told: false };
        self.enter_write(word.hash()?, write);
        Ok(())
    }

    pub(super) fn enter_write(&mut self, hash: u64, write: Write) {
        let time = write.time;
        let writes = self.writes.entry(hash).or_default();
        let is_same = |known: &&mut Write| known.time == time && known.again.is_some() == write.again.is_some();
        match writes.iter_mut().rev().take(2).find(is_same) {
            // Several writes of one entry count as its last, but all of their fields count.
            Some(known) => {
                self.held -= known.bytes();
                let paths = match (&known.paths, &write.paths) {
                    (Some(a), Some(b)) => Some(a.iter().chain(b.iter()).cloned().collect()),
                    _ => None,
                };
                *known = Write { paths, ..write };
                self.held += known.bytes();
            }
            None => {
                self.held += write.bytes();
                writes.push(write);
                self.order.push_back((time, hash));
            }
        }
    }

    fn place(&mut self, node: &str) -> u16 {
        let found = self.nodes.iter().position(|name| name == node);
        let place = found.unwrap_or_else(|| {
            self.nodes.push(node.to_owned());
            self.nodes.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

/// Whether a write of a transaction is none that has come over its link, where that tells all that have.
fn is_decided(marker: &Marker, told: &Exact, hash: u64) -> bool {
    marker.forward.is_some() && !told.contains_key(&hash) && marker.lane < FIRST_SIDE_LANE
}

/// The fields of a write that a link has brought, as its marker tells them.
fn fields_told(marker: &Marker, write: &Write, hash: u64) -> Option<Arc<[FieldPath]>> {
    marker.fields.of(hash).filter(|_| write.op != Op::Delete).map(Arc::from)
}

pub(in crate::mmm) fn gone() -> Error {
    Error::operator("the oplog of the peer no longer reaches back to where conflicts have to be looked for")
        .hint("changes of both sides may contradict each other unseen: run `oplogue verify --repair FILE`, then `oplogue position set FILE ROUTE --now`; a larger oplog (replSetResizeOplog) keeps it from happening again")
}
