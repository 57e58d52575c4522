//! An open source: the cursor, the reply that is being delivered, the transaction that is being gathered.

use std::time::Duration;

use bson::Timestamp;
use oplogue_api::{
    Batch, Error, Position, Replicated, Result,
    oplog::{Decoder, OpTime, Outcome},
};
use tokio::time::Instant;

use super::{
    ahead::Ahead,
    echoes::{Echoes, Form},
    gathering::{Gathering, Part},
    log::{EntryPart, Log, op_time},
    looking::Decoded,
    lookup::{Looking, Lookup},
    position::Place,
    reply::Reply,
    wanted::Wanted,
};
use crate::{
    client::reply,
    errors::{HISTORY_GONE, Phase, classify},
};

/// How much longer than the agreed wait the server may take before the connection counts as dead. (A shorter limit
/// would abandon getMores, and each of them a cursor on the server.)
const PATIENCE: Duration = Duration::from_secs(30);
/// A batch is cut behind the entry with which it reaches this many events: a reply of large transactions unfolds into
/// many more events than entries.
const MOST_EVENTS: usize = 10_000;

/// What of the options concerns reading.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub batch: u32,
    pub wait: Duration,
    pub include_system: bool,
    /// What is wanted of the transactions of replicators.
    pub replicated: Replicated,
}

pub(super) struct Tail {
    log: Log,
    cursor: Ahead,
    pace: Pace,
    /// The entries that the server leaves out are of no concern to the route.
    wanted: Option<Wanted>,
    decoder: Decoder,
    echoes: Echoes,
    deployment: Option<String>,
    /// The end of what was delivered.
    place: Place,
    /// The newest cluster time heard of.
    head: Timestamp,
    /// When the server must have answered.
    deadline: Option<Instant>,
    pending: Option<Pending>,
    lookup: Option<Lookup>,
    /// What is decoded and waits for documents.
    looking: Option<Looking>,
    /// How many events the last batch had: the next one likely has as many, and growing costs copies.
    expected: usize,
}

/// A reply that is being delivered.
struct Pending {
    reply: Reply,
    /// The first entry that is not delivered.
    next: usize,
    /// The transaction whose last entry that one is.
    gathering: Option<Gathering>,
}

/// How far decoding came.
enum Reached {
    /// The end of the reply.
    End,
    /// As many events as a batch may have.
    Full,
    /// The last entry of a transaction that has others.
    Transaction(Gathering),
}

impl Tail {
    /// Opens a cursor at `place` and makes sure that the entry there is the one that was there.
    ///
    /// With `wanted`, not all entries are read. With `lookup`, updates bring the documents as they are now.
    pub async fn open(
        log: Log,
        place: Place,
        deployment: Option<String>,
        pace: Pace,
        wanted: Option<Wanted>,
        lookup: Option<Lookup>,
    ) -> Result<Tail> {
        let (cursor, first) = begin(&log, place, pace, Form::Whole, wanted.as_ref()).await?;
        let can_cut = pace.replicated == Replicated::Markers && log.can_cut().await?;
        let (next, head) = (usize::from(!place.first), first.head);
        let pending = Some(Pending { reply: first, next, gathering: None });
        let decoder = Decoder::new(pace.include_system).replicated(pace.replicated);
        Ok(Tail {
            log,
            cursor,
            pace,
            wanted,
            decoder,
            echoes: Echoes::new(can_cut),
            deployment,
            place,
            head,
            deadline: None,
            pending,
            lookup,
            looking: None,
            expected: 0,
        })
    }

    pub fn position(&self) -> Position {
        self.place.to_position(self.deployment.as_deref())
    }

    /// Cancel-safe: what was read is in `self` before the next wait, and the cursor keeps what is under way.
    pub async fn next(&mut self) -> Result<Batch> {
        if self.looking.is_none() {
            if self.pending.is_none()
                && let Some(form) = self.echoes.turn()
            {
                self.turn(form).await?;
            }
            if self.pending.is_none() {
                let Some(reply) = self.read().await? else { return Ok(self.beat(0)) };
                self.head = self.head.max(reply.head);
                if let Some(looked) = reply.looked
                    && reply.is_empty()
                {
                    self.pass(looked).await?;
                    return Ok(self.beat(reply.bytes));
                }
                self.pending = Some(Pending { reply, next: 0, gathering: None });
            }
            let began = self.place;
            let (decoded, bytes) = self.deliver().await?;
            if !self.lookup.as_mut().is_some_and(|lookup| lookup.concerns(&decoded.events)) {
                let end = self.position();
                let Decoded { events, bad, .. } = decoded;
                return Ok(Batch { events, bad, head: self.head.max(end.time), end, bytes });
            }
            self.looking = Some(Looking::new(decoded, began, self.head, bytes));
        }
        let (Some(lookup), Some(looking)) = (&mut self.lookup, &mut self.looking) else {
            return Err(Error::bug("documents are looked up without the option"));
        };
        let part = lookup.part(looking, self.deployment.as_deref()).await?;
        if part.is_last {
            self.looking = None;
        }
        Ok(part.batch)
    }

    /// Has the entries come in another form from here on. Nothing is lost when it is dropped half-way: the cursor that is there
    /// stays.
    async fn turn(&mut self, form: Form) -> Result<()> {
        let (cursor, reply) = begin(&self.log, self.place, self.pace, form, self.wanted.as_ref()).await?;
        tracing::debug!(?form, "the oplog is read in another form");
        self.cursor = cursor;
        self.deadline = None;
        self.echoes.form = form;
        self.head = self.head.max(reply.head);
        self.pending = Some(Pending { reply, next: usize::from(!self.place.first), gathering: None });
        Ok(())
    }

    /// A batch without events.
    fn beat(&self, bytes: usize) -> Batch {
        let end = self.position();
        Batch { events: Vec::new(), bad: Vec::new(), head: self.head.max(end.time), end, bytes }
    }

    /// The server has found nothing that is wanted up to this entry.
    ///
    /// Only an empty reply says so: in another one, the server may have read an entry for which there was no room.
    async fn pass(&mut self, looked: Timestamp) -> Result<()> {
        if looked > self.place.at.ts
            // A place has the term of its entry. Another member may not have it yet: then the place stays for now.
            && let Some(entry) = self.log.entry(looked, EntryPart::Link, Phase::Read).await?
        {
            self.place = Place::behind(op_time(&entry)?);
        }
        Ok(())
    }

    /// The next reply; `None` while the server is looking for what is wanted.
    async fn read(&mut self) -> Result<Option<Reply>> {
        loop {
            let wait = self.pace.wait;
            // Kept across calls: a caller that gives up early each time must not put the limit off for ever.
            let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + wait + PATIENCE);
            let answer = tokio::time::timeout_at(deadline, self.cursor.next()).await;
            self.deadline = None;
            match answer {
                // It may have much to look through until it finds something.
                Err(_) if self.wanted.is_some() => {
                    let ping = tokio::time::timeout(PATIENCE, self.log.ping()).await;
                    self.head = self.head.max(ping.map_err(|_| silent())??);
                    return Ok(None);
                }
                Err(_) => return Err(silent()),
                Ok(Some(batch)) => {
                    return Reply::read(reply(batch.map_err(|e| classify(e, Phase::Read))?)?).map(Some);
                }
                // A tailing cursor on an empty collection ends at once.
                Ok(None) if self.place.at.is_null() => {
                    tokio::time::sleep(wait).await;
                    let (from, form) = (self.place.at.ts, self.echoes.form);
                    let cursor = self.log.tail(from, self.pace.batch, wait, form, self.wanted.as_ref()).await?;
                    self.cursor = cursor.ok_or_else(overtaken)?;
                }
                Ok(None) => return Err(Error::transient("MongoDB closed the cursor")),
            }
        }
    }

    /// A batch from the pending reply. Each one ends where it is safe to resume: a transaction of many entries is
    /// delivered entry by entry, and all but the last of its batches end at the position before it.
    async fn deliver(&mut self) -> Result<(Decoded, usize)> {
        let mut decoded = Decoded {
            events: Vec::with_capacity(self.expected),
            bad: Vec::new(),
            stops: self.lookup.as_ref().map(|_| Vec::new()),
        };
        let mut bytes = self.pending.as_ref().map_or(0, |pending| pending.reply.bytes);
        let began = self.place;
        while let Some(pending) = &mut self.pending {
            if let Some(gathering) = &mut pending.gathering {
                // Nothing may be held in local variables across this wait (cancel-safety): `decoded` is empty.
                let at = gathering.at;
                let Decoded { events, bad, .. } = &mut decoded;
                match gathering.next_part(&self.log).await? {
                    Part::Entry(entry) => {
                        bytes += entry.as_bytes().len();
                        self.decoder.chain_entry(&mut gathering.chain, &entry, events, bad);
                        gathering.delivered();
                        break;
                    }
                    Part::Last => {
                        if let Some(gathering) = pending.gathering.take() {
                            self.decoder.chain_end(gathering.chain, events, bad);
                        }
                    }
                    Part::Broken(error) => {
                        gathering.chain.bad(error, events.len(), bad);
                        pending.gathering = None;
                    }
                }
                self.place = Place::behind(at);
                decoded.stop(self.place);
                pending.next += 1;
                continue;
            }
            match decode(&mut self.decoder, &mut self.echoes, pending, &mut self.place, &mut decoded)? {
                Reached::End => self.pending = None,
                Reached::Full => break,
                Reached::Transaction(gathering) => {
                    pending.gathering = Some(gathering);
                    // What is before it goes first.
                    if self.place != began || !decoded.events.is_empty() || !decoded.bad.is_empty() {
                        break;
                    }
                }
            }
        }
        self.expected = decoded.events.len().min(MOST_EVENTS);
        Ok((decoded, bytes))
    }
}

fn decode(
    decoder: &mut Decoder,
    echoes: &mut Echoes,
    pending: &mut Pending,
    place: &mut Place,
    decoded: &mut Decoded,
) -> Result<Reached> {
    let mut delivered = 0;
    let mut reached = Reached::End;
    for entry in pending.reply.entries(pending.next) {
        if decoded.events.len() >= MOST_EVENTS {
            reached = Reached::Full;
            break;
        }
        let (entry, before) = (entry?, decoded.events.len());
        let size = entry.as_bytes().len();
        let entry = decoder.entry(&entry, &mut decoded.events, &mut decoded.bad);
        echoes.saw(size, &decoded.events[before..]);
        if let (Outcome::NeedsChain(chain), Some(at)) = (entry.outcome, entry.at) {
            reached = Reached::Transaction(Gathering::new(chain, at, echoes.one()));
            break;
        }
        if let Some(at) = entry.at {
            *place = Place::behind(at);
            decoded.stop(*place);
        }
        delivered += 1;
    }
    pending.next += delivered;
    Ok(reached)
}

/// Opens a cursor at `place` and makes sure that the entry there is the one that was there. Gives the first reply too.
async fn begin(log: &Log, place: Place, pace: Pace, form: Form, wanted: Option<&Wanted>) -> Result<(Ahead, Reply)> {
    let phase = Phase::Resume;
    if wanted.is_some() && !place.at.is_null() {
        // The cursor would look for the next wanted entry, however far that is, before it showed that this one is not there.
        let found = log.entry(place.at.ts, EntryPart::Link, phase).await?;
        if found.is_none() {
            let next = log.at_or_after(place.at.ts, phase).await?;
            return Err(missing(log, place.at, next.map(|next| next.at)).await);
        }
    }
    let Some(mut cursor) = log.tail(place.at.ts, pace.batch, pace.wait, form, wanted).await? else {
        return Err(match log.oldest(phase).await? {
            Some(oldest) if oldest.at.ts > place.at.ts => rolled_over(),
            _ => overtaken(),
        });
    };
    let first = match cursor.next().await {
        Some(first) => Reply::read(reply(first.map_err(|e| classify(e, phase))?)?)?,
        None => return Err(Error::transient("MongoDB closed the cursor at once")),
    };
    if place.at.is_null() {
        if log.oldest(phase).await?.is_some_and(|oldest| !oldest.is_genesis) {
            return Err(rolled_over());
        }
    } else {
        let found = first.entry(0).map(|entry| op_time(&entry)).transpose()?;
        // I4: a `find` behind the truncation point begins at the oldest entry without a word.
        if found != Some(place.at) {
            return Err(missing(log, place.at, found).await);
        }
    }
    Ok((cursor, first))
}

/// Why the entry at the position is not there.
async fn missing(log: &Log, at: OpTime, found: Option<OpTime>) -> Error {
    let Some(found) = found else {
        return Error::transient("the server has not come as far as the position yet")
            .hint("a member that lags behind is being read, or one that is rolling back");
    };
    if found.ts > at.ts {
        match log.oldest(Phase::Resume).await {
            Ok(Some(oldest)) if oldest.at.ts <= at.ts => {}
            Ok(_) => return rolled_over(),
            Err(e) => return e,
        }
    }
    Error::position_lost("the entry at the position is no longer in the oplog: it was rolled back after an election")
        .hint("events that were rolled back may have been delivered: bring the destination up to date by other means, then `oplogue position set FILE ROUTE --now`, or on_position_lost = \"from-now\"; read_concern = \"majority\" never delivers such events")
}

fn silent() -> Error {
    Error::transient("MongoDB stopped answering")
}

fn overtaken() -> Error {
    Error::transient("the oplog was truncated at the place to read")
}

fn rolled_over() -> Error {
    Error::position_lost("the oplog no longer reaches back to the position").hint(HISTORY_GONE)
}
