//! Writing documents at the target: transactions that begin with a marker and end with the progress of the piece.

use std::{future::IntoFuture, time::Duration};

use bson::{Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc, raw::cstr, rawdoc};
use mongodb::{
    Client, ClientSession,
    error::{Error as MongoError, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{ReadConcern, ReadPreference, SelectionCriteria, TransactionOptions, WriteConcern},
};
use oplogue_api::{Doc, Error, Namespace, Result};

use super::{
    Copy,
    merge::{self, Conflict, Write},
    state::{Piece, State, metadata, superseded},
};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify, code},
    mmm::{marker::Marker, names},
};

pub(super) const DUPLICATE_KEY: i32 = 11000;
const VALIDATION: i32 = 121;
/// One oplog entry holds 16 MB: larger transactions fail on some servers, and nobody can skip their later entries.
const MOST_BYTES: usize = 12 << 20;
/// All ids of a question must fit into it.
const MOST_ID_BYTES: usize = 1 << 20;
/// What a statement may fail with that has nothing to do with its document: conflicts, elections, a full cache.
const PASSING: &[i32] = &[24, 91, 112, 189, 246, 251, 262, 290, 388, 10107, 11600, 11602, 13388, 13435, 13436];
/// How often a transaction is tried before the whole copy begins again where it is.
const MOST_TRIES: u32 = 30;

/// A worker's place at the target: markers of its own, so that workers do not meet on one document.
pub(super) struct Lane {
    marker: Marker,
    session: ClientSession,
}

/// What became of an attempt.
enum Outcome {
    /// Nothing is to be written but that the piece has come as far as this.
    Same(Box<Piece>),
    /// So many documents are done.
    Done(usize),
    /// The server gave the transaction up; nothing is written.
    Again(Error),
    /// One of the documents is there already: they have to be compared.
    There,
    /// The target refuses a document.
    Refused { at: usize, code: i32 },
    /// The marker or the piece is not as this run left it.
    Moved,
}

/// How an attempt is made.
#[derive(Clone, Copy)]
struct How {
    /// Look at the target's documents first.
    compare: bool,
    /// The only document is not to be written, since the target refuses it with this code.
    refused: Option<i32>,
    /// Without the target's validator.
    bypass: bool,
}

type Attempt<T> = Result<Result<T, MongoError>>;

impl Lane {
    pub async fn open(copy: &Copy, to: &Client, number: u32) -> Result<Lane> {
        let mut marker = Marker { lane: number, ..copy.marker.clone() };
        let markers = metadata(to, names::MARKERS);
        let id = marker.link.marker_id(number);
        let stored = bounded(markers.find_one(doc! {"_id": &id}).into_future(), Phase::Copy).await?;
        marker.seq = stored.and_then(|stored| stored.get_i64("seq").ok()).map_or(0, |seq| seq.max(0) as u64) + 1;
        let generation = i64::try_from(marker.generation).unwrap_or(i64::MAX);
        let older = doc! {"_id": &id, "generation": {"$lte": generation}};
        let written = markers.replace_one(older, marker.encode()).upsert(true);
        match answered(written.into_future()).await? {
            Ok(_) => {}
            Err(e) if code(&e) == Some(DUPLICATE_KEY) => return Err(superseded(&marker.link)),
            Err(e) => return Err(classify(e, Phase::Copy)),
        }
        let session = bounded(to.start_session().into_future(), Phase::Copy).await?;
        Ok(Lane { marker, session })
    }
}

/// Writes documents of one piece.
pub(super) struct Writer<'a> {
    pub copy: &'a Copy,
    pub state: &'a State,
    /// Both collections have the same validator: then a document that is older than it is not refused.
    pub same_rules: bool,
}

impl Writer<'_> {
    /// Writes all of `docs`, which follow `piece.last`, and moves the piece. `false`: somebody else has moved it meanwhile, and
    /// it is now as it is stored.
    pub async fn write(&self, lane: &mut Lane, piece: &mut Piece, docs: &[Doc], time: Timestamp) -> Result<bool> {
        let mut rest = docs;
        let (mut width, mut tries) = (usize::MAX, 0);
        let usual = How { compare: self.copy.mode == super::Initial::Merge, refused: None, bypass: false };
        let mut how = usual;
        while !rest.is_empty() {
            let part = &rest[..cut(rest, width)];
            how.compare |= part.iter().any(|doc| has_zero_time(doc));
            match self.attempt(lane, piece, part, time, how).await? {
                Outcome::Done(n) => {
                    rest = &rest[n..];
                    (width, tries) = (width.saturating_mul(2).max(1), 0);
                    how = usual;
                }
                Outcome::Again(e) => {
                    tries += 1;
                    if tries > MOST_TRIES {
                        return Err(e);
                    }
                    // Somebody writes here too: smaller transactions meet less, and hold them up for less time.
                    if tries > 2 {
                        width = (part.len() / 2).max(1);
                    }
                    tokio::time::sleep(Duration::from_millis(5u64 << tries.min(7))).await;
                }
                Outcome::Same(after) => {
                    let n = usize::try_from(after.documents - piece.documents).unwrap_or(part.len());
                    if !self.advance(piece, *after).await? {
                        return Ok(false);
                    }
                    rest = &rest[n..];
                    (width, tries, how) = (width.saturating_mul(2).max(1), 0, usual);
                }
                Outcome::There if !how.compare => how.compare = true,
                // Told of a command as a whole: one by one, to see which.
                Outcome::There if part.len() > 1 => width = part.len() / 2,
                Outcome::There => how.refused = Some(DUPLICATE_KEY),
                Outcome::Refused { at: 0, code: VALIDATION } if self.same_rules && !how.bypass => {
                    (width, how.bypass) = (1, true);
                }
                Outcome::Refused { at: 0, code } => (width, how.refused) = (1, Some(code)),
                Outcome::Refused { at, .. } => width = at,
                Outcome::Moved => {
                    let Some(stored) = self.state.piece(piece).await? else { return Err(superseded(&self.state.link)) };
                    if stored.step == piece.step {
                        return Err(superseded(&self.state.link));
                    }
                    *piece = stored;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn attempt(
        &self,
        lane: &mut Lane,
        piece: &mut Piece,
        part: &[Doc],
        time: Timestamp,
        how: How,
    ) -> Result<Outcome> {
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        if let Err(e) = answered(lane.session.start_transaction().with_options(options).into_future()).await? {
            return Err(classify(e, Phase::Copy));
        }
        let (after, outcome) = match self.body(lane, piece, part, time, how).await? {
            Ok(Ok(after)) => (after, None),
            Ok(Err(outcome)) => (piece.clone(), Some(outcome)),
            Err(e) => (piece.clone(), Some(self.failed(e)?)),
        };
        if let Some(outcome) = outcome {
            // An abort that fails leaves a transaction that the server ends by itself.
            let _ = answered(lane.session.abort_transaction().into_future()).await?;
            return Ok(outcome);
        }
        let n = usize::try_from(after.documents - piece.documents).unwrap_or(part.len());
        let mut tries = 0;
        loop {
            match answered(lane.session.commit_transaction().into_future()).await? {
                Ok(()) => break,
                Err(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && tries < MOST_TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return self.failed(e),
            }
        }
        *piece = after;
        Ok(Outcome::Done(n))
    }

    fn failed(&self, e: MongoError) -> Result<Outcome> {
        if e.contains_label(TRANSIENT_TRANSACTION_ERROR) {
            return Ok(Outcome::Again(classify(e, Phase::Copy)));
        }
        match code(&e) {
            Some(DUPLICATE_KEY) => Ok(Outcome::There),
            _ => Err(classify(e, Phase::Copy)),
        }
    }

    /// The statements of a transaction. Gives the piece behind it, or what came in between.
    async fn body(
        &self,
        lane: &mut Lane,
        piece: &Piece,
        part: &[Doc],
        time: Timestamp,
        how: How,
    ) -> Attempt<Result<Piece, Outcome>> {
        // Settles a server error at once.
        macro_rules! tried {
            ($answer:expr) => {
                match $answer {
                    Ok(value) => value,
                    Err(e) => return Ok(Err(e)),
                }
            };
        }
        let to = &self.copy.to;
        lane.marker.seq += 1;
        let generation = self.state.generation;
        let own = doc! {"_id": lane.marker.link.marker_id(lane.marker.lane), "generation": generation};
        let marker = doc! {"update": names::MARKERS, "updates": [{"q": own, "u": lane.marker.encode()}]};
        let session = &mut lane.session;
        let reply = tried!(run(to, names::DATABASE, raw(&marker)?, session).await?);
        if count(&reply) != 1 {
            return Ok(Ok(Err(Outcome::Moved)));
        }
        let mut after = piece.clone();
        let mut records = Vec::new();
        let mut writes = Vec::new();
        let link = &self.state.link;
        if let (Some(code), [doc]) = (how.refused, part) {
            records.push(merge::record(link, &piece.ns, doc, time, Conflict::Refused { code }));
            tally(&mut after, part);
        } else if how.compare {
            let coll = to.database(piece.ns.db()).collection::<RawDocumentBuf>(piece.ns.coll());
            let theirs = tried!(bounded_mongo(merge::counterparts(&coll, session, part)).await?);
            let stones = to.database(names::DATABASE).collection::<RawDocumentBuf>(names::TOMBSTONES);
            let stones = tried!(bounded_mongo(merge::tombstones(&stones, session, &piece.ns, part)).await?);
            let remote_wins = (self.copy.remote_wins)(&piece.ns);
            let mut bytes = 0;
            for ((n, doc), (local, stone)) in part.iter().enumerate().zip(theirs.iter().zip(&stones)) {
                let before = (writes.len(), records.len());
                match (local, stone) {
                    (Some(local), _) if local.as_bytes() == doc.as_bytes() => {}
                    (Some(local), _) => {
                        if remote_wins {
                            writes.push(Write::Replace(local.clone(), doc.clone()));
                        }
                        let why = Conflict::Differs { local, remote_wins };
                        records.push(merge::record(link, &piece.ns, doc, time, why));
                    }
                    // What the source deleted itself and has again is newer than the tombstone.
                    (None, Some(node)) if *node != link.node => {
                        records.push(merge::record(link, &piece.ns, doc, time, Conflict::Deleted { node }));
                    }
                    (None, _) => writes.push(Write::Insert(doc.clone())),
                }
                let size = |w: &Write| match w {
                    Write::Insert(doc) | Write::Replace(_, doc) => doc.as_bytes().len(),
                };
                let more = writes[before.0..].iter().map(size).sum::<usize>()
                    + records[before.1..].iter().map(|r| r.as_bytes().len()).sum::<usize>();
                if n > 0 && bytes + more > MOST_BYTES {
                    writes.truncate(before.0);
                    records.truncate(before.1);
                    break;
                }
                bytes += more;
                tally(&mut after, std::slice::from_ref(doc));
            }
        } else {
            writes.extend(part.iter().cloned().map(Write::Insert));
            tally(&mut after, part);
        }
        after.step += 1;
        after.until = after.until.max(time);
        after.conflicts += records.len() as i64;
        let done = &part[..usize::try_from(after.documents - piece.documents).unwrap_or(0)];
        after.last = done.last().and_then(super::read::key_of).or(after.last);

        if writes.is_empty() && records.is_empty() {
            return Ok(Ok(Err(Outcome::Same(Box::new(after)))));
        }
        let mut inserts: Vec<Doc> = Vec::new();
        let mut statements = Vec::new();
        for write in writes {
            match write {
                Write::Insert(doc) if !has_zero_time(&doc) => inserts.push(doc),
                Write::Insert(doc) => statements.push((doc.clone(), whole(&doc, &doc))),
                Write::Replace(local, doc) if merge::same_id(&local, &doc) => {
                    let statement = whole(&local, &doc);
                    statements.push((doc, statement));
                }
                Write::Replace(local, doc) => {
                    let mut deletes = RawArrayBuf::new();
                    deletes.push(rawdoc! {"q": merge::exactly(&local), "limit": 1});
                    let delete = rawdoc! {"delete": piece.ns.coll(), "deletes": deletes};
                    tried!(run(to, piece.ns.db(), delete, session).await?);
                    if has_zero_time(&doc) {
                        statements.push((doc.clone(), whole(&doc, &doc)));
                    } else {
                        inserts.push(doc);
                    }
                }
            }
        }
        for (doc, statement) in statements {
            let reply = tried!(run(to, piece.ns.db(), update(&piece.ns, &statement, how.bypass), session).await?);
            if let Some((_, code)) = write_error(&reply) {
                return Ok(Ok(Err(refusal(done, &doc, code))));
            }
        }
        if !inserts.is_empty() {
            let reply = tried!(run(to, piece.ns.db(), insert(&piece.ns, &inserts, how.bypass), session).await?);
            if let Some((at, code)) = write_error(&reply) {
                if code == DUPLICATE_KEY && !how.compare {
                    return Ok(Ok(Err(Outcome::There)));
                }
                let outcome = inserts.get(at).map_or(Outcome::There, |doc| refusal(done, doc, code));
                return Ok(Ok(Err(outcome)));
            }
        }
        if !records.is_empty() {
            let mut documents = RawArrayBuf::new();
            for record in &records {
                documents.push(RawBsonRef::Document(record));
            }
            let insert = rawdoc! {"insert": names::CONFLICTS, "documents": documents};
            let reply = tried!(run(to, names::DATABASE, insert, session).await?);
            if let Some((_, code)) = write_error(&reply) {
                return Err(Error::operator(format!(
                    "a conflict record cannot be written to __mmm.conflicts (MongoDB error {code})"
                ))
                .hint("remove validators and unique indexes from __mmm.conflicts"));
            }
        }
        let progress = doc! {"update": names::COPIES, "updates": [self.state.advance(piece, &after)]};
        let reply = tried!(run(to, names::DATABASE, raw(&progress)?, session).await?);
        if count(&reply) != 1 {
            return Ok(Ok(Err(Outcome::Moved)));
        }
        Ok(Ok(Ok(after)))
    }

    /// Marks the piece as read to its end.
    pub async fn finish(&self, piece: &mut Piece, time: Timestamp) -> Result<()> {
        while !piece.done {
            let mut after = piece.clone();
            (after.done, after.step, after.until) = (true, piece.step + 1, piece.until.max(time));
            self.advance(piece, after).await?;
        }
        Ok(())
    }

    /// Moves the piece by a plain write: nobody but this replicator sees it. `false` as with `write`.
    async fn advance(&self, piece: &mut Piece, after: Piece) -> Result<bool> {
        let progress = doc! {"update": names::COPIES, "updates": [self.state.advance(piece, &after)],
        "writeConcern": {"w": "majority"}};
        let db = self.copy.to.database(names::DATABASE);
        let reply = bounded(db.run_command(progress).into_future(), Phase::Copy).await?;
        if count(&reply) == 1 {
            *piece = after;
            return Ok(true);
        }
        match self.state.piece(piece).await? {
            Some(stored) if stored.step != piece.step => *piece = stored,
            _ => return Err(superseded(&self.state.link)),
        }
        Ok(false)
    }
}

fn insert(ns: &Namespace, docs: &[Doc], bypass: bool) -> RawDocumentBuf {
    let mut documents = RawArrayBuf::new();
    for doc in docs {
        documents.push(RawBsonRef::Document(doc));
    }
    let mut command = rawdoc! {"insert": ns.coll(), "ordered": true, "documents": documents};
    if bypass {
        command.append(cstr!("bypassDocumentValidation"), true);
    }
    command
}

/// The statement that puts `doc` in the place of `there`, or there where nothing is.
fn whole(there: &RawDocument, doc: &Doc) -> RawDocumentBuf {
    let mut statement = rawdoc! {"q": merge::exactly(there)};
    if has_zero_time(doc) {
        let mut stages = RawArrayBuf::new();
        stages.push(rawdoc! {"$replaceWith": {"$literal": RawBsonRef::Document(doc)}});
        statement.append(cstr!("u"), stages);
        statement.append(cstr!("upsert"), true);
    } else {
        statement.append(cstr!("u"), RawBsonRef::Document(doc));
    }
    statement
}

/// The server puts its own time in the place of a `Timestamp(0, 0)` when it inserts or replaces a document that has one at the top.
fn has_zero_time(doc: &RawDocument) -> bool {
    let zero = |value| matches!(value, RawBsonRef::Timestamp(Timestamp { time: 0, increment: 0 }));
    doc.iter_elements().any(|element| element.is_ok_and(|e| e.value().is_ok_and(zero)))
}

fn update(ns: &Namespace, statement: &RawDocumentBuf, bypass: bool) -> RawDocumentBuf {
    let mut updates = RawArrayBuf::new();
    updates.push(RawBsonRef::Document(statement));
    let mut command = rawdoc! {"update": ns.coll(), "updates": updates};
    if bypass {
        command.append(cstr!("bypassDocumentValidation"), true);
    }
    command
}

fn tally(piece: &mut Piece, docs: &[Doc]) {
    piece.documents += docs.len() as i64;
    piece.bytes += docs.iter().map(|doc| doc.as_bytes().len() as i64).sum::<i64>();
}

/// Which document of the part was refused.
fn refusal(part: &[Doc], doc: &Doc, code: i32) -> Outcome {
    if PASSING.contains(&code) {
        return Outcome::Again(Error::transient(format!(
            "the target gave up a write (MongoDB error {code} while copying)"
        )));
    }
    let at = part.iter().position(|d| d.bytes().as_ptr() == doc.bytes().as_ptr()).unwrap_or(0);
    Outcome::Refused { at, code }
}

/// How many of the documents go into one transaction.
fn cut(docs: &[Doc], width: usize) -> usize {
    let (mut bytes, mut ids) = (0, 0);
    let fits = docs.iter().take(width).take_while(|doc| {
        bytes += doc.as_bytes().len();
        ids += super::read::key_of(doc).map_or(0, |key| key.as_bytes().len());
        bytes <= MOST_BYTES && ids <= MOST_ID_BYTES
    });
    fits.count().max(1)
}

async fn run(to: &Client, db: &str, command: RawDocumentBuf, session: &mut ClientSession) -> Attempt<Document> {
    answered(to.database(db).run_raw_command(command).session(session).into_future()).await
}

async fn bounded_mongo<T>(answer: impl Future<Output = mongodb::error::Result<T>>) -> Attempt<T> {
    answered(answer).await
}

fn raw(command: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(command).map_err(|_| Error::bug("a command cannot be encoded"))
}

/// How many documents an `update` matched.
fn count(reply: &Document) -> i64 {
    reply.get_i32("n").map(i64::from).or_else(|_| reply.get_i64("n")).unwrap_or(0)
}

/// The first write error of a reply: its place and code.
fn write_error(reply: &Document) -> Option<(usize, i32)> {
    let first = reply.get_array("writeErrors").ok()?.first()?.as_document()?;
    Some((first.get_i32("index").ok()? as usize, first.get_i32("code").ok()?))
}
