use std::{collections::VecDeque, path::Path};

use bson::Timestamp;
use oplogue_api::{
    Batch, Doc, Error, Finding, Position, Replicated, Result,
    oplog::{Chain, Decoded, Decoder, OpTime, Outcome},
};

use super::{
    Settings,
    entries::Entries,
    partial::{Gathering, PartialEntries},
    position::Place,
};
use crate::fingerprint::fingerprint;

/// A batch ends behind the entry with which it comes to this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Where a replay begins.
pub(super) enum From {
    Begin,
    Position(Position),
    End,
}

/// A dump as it is replayed. Blocks while it reads. Of no more use after an error.
pub(super) struct Replay {
    entries: Entries,
    batch_size: usize,
    decoder: Decoder,
    /// Behind what has been delivered.
    place: Place,
    /// Read, but not decoded yet: each with the offset behind it.
    queue: VecDeque<(Doc, u64)>,
    /// What is wrong with the file behind the queue.
    damage: Option<Error>,
    partial: PartialEntries,
    gathering: Option<Gathering>,
}

impl Replay {
    /// # Errors
    /// `PositionLost` when the dump does not reach to the position; `Operator` when it is one of another dump.
    pub(super) fn open(settings: &Settings, from: &From, replicated: Replicated) -> Result<Replay> {
        let (dump, ts) = begin(&settings.path)?;
        let mut replay = Replay {
            entries: Entries::open(&settings.path)?,
            batch_size: settings.batch_size,
            decoder: Decoder::new(settings.include_system).replicated(replicated),
            place: Place { dump, offset: 0, ts },
            queue: VecDeque::new(),
            damage: None,
            partial: PartialEntries::default(),
            gathering: None,
        };
        match from {
            From::Begin => {}
            From::End => while replay.pass_over()? {},
            From::Position(position) => replay.resume(&Place::read(position)?)?,
        }
        Ok(replay)
    }

    fn resume(&mut self, wanted: &Place) -> Result<()> {
        // Nothing was there, so nothing was read.
        if wanted.offset == 0 && wanted.dump.is_empty() {
            return Ok(());
        }
        let path = self.entries.path().display().to_string();
        if wanted.dump != self.place.dump {
            return Err(Error::operator(format!("the position belongs to another dump than {path}"))
                .hint("set `path` to the dump that was replayed, or begin anew with `oplogue position reset`"));
        }
        // From the beginning, for the sake of transactions that begin before the position and end behind it.
        while self.place.offset < wanted.offset {
            match self.pass_over() {
                Ok(true) => {}
                // It may be the damage or the end: the position is not there.
                Ok(false) => break,
                Err(e) => {
                    let lost = Error::position_lost(format!("the dump {path} does not reach to the position any more"));
                    return Err(lost.hint("put the whole dump back in its place").caused_by(e));
                }
            }
        }
        // I4: what is not found exactly is lost. At the beginning, the time is that of the first entry.
        if self.place.offset != wanted.offset || self.place.ts != wanted.ts {
            return Err(Error::position_lost(format!(
                "the position is not in the dump {path}, which has been changed"
            ))
            .hint("put the whole dump back in its place, or begin anew with `oplogue position reset`"));
        }
        Ok(())
    }

    /// Reads one entry without delivering it.
    fn pass_over(&mut self) -> Result<bool> {
        let Some((entry, end)) = self.fetch()? else { return Ok(false) };
        let (mut events, mut bad) = (Vec::new(), Vec::new());
        let decoded = self.decoder.entry(&entry, &mut events, &mut bad);
        match (&decoded.outcome, decoded.at) {
            (Outcome::Partial, Some(at)) => self.partial.remember(at, self.place.offset, &entry),
            // Its earlier entries are not wanted any more.
            (Outcome::NeedsChain(chain), _) => drop(self.partial.gather(chain)),
            _ => {}
        }
        self.move_to(end, decoded.at);
        Ok(true)
    }

    pub(super) fn position(&self) -> Position {
        self.place.position()
    }

    fn move_to(&mut self, end: u64, at: Option<OpTime>) {
        self.place.offset = end;
        if let Some(at) = at {
            self.place.ts = at.ts;
        }
    }

    /// The next entry; `None` at the end of the file.
    fn fetch(&mut self) -> Result<Option<(Doc, u64)>> {
        if self.queue.is_empty() && self.damage.is_none() {
            let chunk = self.entries.read(self.batch_size, BATCH_BYTES);
            self.queue = chunk.entries.into();
            self.damage = chunk.damage;
        }
        match self.queue.pop_front() {
            Some(entry) => Ok(Some(entry)),
            None => self.damage.take().map_or(Ok(None), Err),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Batch>> {
        if self.gathering.is_some() {
            return self.next_of_transaction().map(Some);
        }
        let mut batch = self.empty();
        // Nothing of the chunk is left: what is fetched now fills the queue for this batch.
        let Some(mut next) = self.fetch()? else { return Ok(None) };
        loop {
            let (entry, end) = next;
            let size = entry.as_bytes().len();
            batch.bytes += size;
            let Decoded { at, outcome } = self.decoder.entry(&entry, &mut batch.events, &mut batch.bad);
            match (outcome, at) {
                (Outcome::NeedsChain(chain), _) => self.begin_transaction(chain, end, size, &mut batch)?,
                (Outcome::Partial, Some(at)) => self.partial.remember(at, self.place.offset, &entry),
                _ => {}
            }
            if self.gathering.is_some() {
                break;
            }
            self.move_to(end, at);
            match self.queue.pop_front() {
                Some(entry) => next = entry,
                None => break,
            }
        }
        // P1: with a transaction that has only begun, still the place before its last entry.
        batch.end = self.position();
        batch.head = self.place.ts;
        Ok(Some(batch))
    }

    /// Has the transaction delivered by the next batches, or reports it as a bad one.
    fn begin_transaction(&mut self, chain: Chain, end: u64, size: usize, batch: &mut Batch) -> Result<()> {
        match self.partial.gather(&chain) {
            Ok(left) => {
                self.gathering = Some(Gathering::new(self.entries.path(), chain, left, end, size)?);
                batch.bytes -= size;
            }
            Err(e) => chain.bad(e, batch.events.len(), &mut batch.bad),
        }
        Ok(())
    }

    /// The operations of one entry of the transaction that is being gathered.
    fn next_of_transaction(&mut self) -> Result<Batch> {
        let mut batch = self.empty();
        let Some(gathering) = &mut self.gathering else { return Ok(batch) };
        batch.head = gathering.chain.time();
        if let Some(entry) = gathering.next()? {
            batch.bytes = entry.as_bytes().len();
            self.decoder.chain_entry(&mut gathering.chain, &entry, &mut batch.events, &mut batch.bad);
        } else if let Some(Gathering { chain, end, size, .. }) = self.gathering.take() {
            batch.bytes = size;
            self.place.ts = chain.time();
            self.place.offset = end;
            self.decoder.chain_end(chain, &mut batch.events, &mut batch.bad);
        }
        batch.end = self.position();
        Ok(batch)
    }

    fn empty(&self) -> Batch {
        Batch { events: Vec::new(), bad: Vec::new(), end: self.position(), head: self.place.ts, bytes: 0 }
    }
}

/// The fingerprint and the time of the first entry; an empty one and zero in an empty file.
fn begin(path: &Path) -> Result<(String, Timestamp)> {
    match Entries::open(path)?.one()? {
        Some(first) => {
            let ts = first.get_timestamp("ts").unwrap_or(Timestamp { time: 0, increment: 0 });
            Ok((format!("{:016x}", fingerprint(first.as_bytes())), ts))
        }
        None => Ok((String::new(), Timestamp { time: 0, increment: 0 })),
    }
}

/// Looks whether the file is a dump of an oplog.
pub(super) fn look(path: &Path) -> Finding {
    let found = || -> Result<Finding> {
        let Some(first) = Entries::open(path)?.one()? else {
            return Ok(Finding::warning(
                format!("the dump {} is empty", path.display()),
                "set `path` to oplog.bson or oplog.rs.bson of a dump",
            ));
        };
        let (Ok(ts), Ok(_)) = (first.get_timestamp("ts"), first.get_str("op")) else {
            return Ok(Error::operator(format!("{} is a dump, but not of an oplog", path.display()))
                .hint("set `path` to oplog.bson (mongodump --oplog) or oplog.rs.bson (mongodump -d local -c oplog.rs)")
                .into());
        };
        Ok(Finding::ok(format!("the dump {} begins at {}.{}", path.display(), ts.time, ts.increment)))
    };
    found().unwrap_or_else(Finding::from)
}
