//! Questions to `local.oplog.rs`.

use std::time::Duration;

use bson::{RawDocumentBuf, Timestamp, doc, raw::cstr, rawdoc};
use futures_util::StreamExt;
use mongodb::{Client, Database, options::RunCursorCommandOptions, raw_batch_cursor::RawBatchCursor};
use oplogue_api::{Doc, Error, Result, oplog::OpTime};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    ahead::Ahead,
    echoes::{self, Form},
    reply::Reply,
    wanted::Wanted,
};
use crate::{
    client::{self, answered, reply},
    errors::{Phase, classify, code, is_unexpected},
};

/// How long to wait for the majority to have what one member has.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// What an entry must be before it is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadConcern {
    /// On a majority of the members: it cannot be rolled back.
    #[default]
    Majority,
    /// On the member that is read.
    Local,
}

impl ReadConcern {
    fn level(self) -> &'static str {
        match self {
            ReadConcern::Majority => "majority",
            ReadConcern::Local => "local",
        }
    }

    /// As a command takes it.
    pub fn document(self) -> RawDocumentBuf {
        rawdoc! {"level": self.level()}
    }
}

/// The oplog of one deployment.
#[derive(Clone)]
pub(crate) struct Log {
    db: Database,
    concern: ReadConcern,
}

/// What is wanted of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryPart {
    /// What chains it to others.
    Link,
    Contents(Form),
}

/// An end of the oplog.
pub(crate) struct End {
    pub at: OpTime,
    /// The entry with which a replica set begins: nothing was ever before it.
    pub is_genesis: bool,
}

impl Log {
    pub fn new(client: &Client, concern: ReadConcern) -> Log {
        Log { db: client.database("local"), concern }
    }

    /// A tailing cursor on the entries from `from` on, of which `wanted` takes some. Its first reply comes at once; with `wanted`, it is
    /// the entry at `from` alone, if that is there. `None`: truncation was just there.
    pub(super) async fn tail(
        &self,
        from: Timestamp,
        batch: u32,
        wait: Duration,
        form: Form,
        wanted: Option<&Wanted>,
    ) -> Result<Option<Ahead>> {
        // On its own at the top level, this bound is a seek in the oplog and no scan.
        let mut filter = rawdoc! {"ts": {"$gte": from}};
        if let Some(wanted) = wanted {
            wanted.restrict(&mut filter, from);
        }
        let mut command = rawdoc! {
            "find": "oplog.rs",
            "filter": filter,
            "tailable": true,
            "awaitData": true,
            // A server that looks for more would not answer before it has found them.
            "batchSize": if wanted.is_some() { 1 } else { i64::from(batch) },
            "readConcern": {"level": self.concern.level()},
        };
        if wanted.is_some() {
            // So that replies say how far the server has looked.
            command.append(cstr!("$_requestResumeToken"), true);
            command.append(cstr!("hint"), rawdoc! {"$natural": 1});
        }
        if form == Form::Cut {
            command.append(cstr!("projection"), echoes::cut());
        }
        let options = self.options(Some(batch), Some(wait));
        match answered(self.db.run_raw_cursor_command(command).with_options(options).batch()).await? {
            Ok(cursor) => Ok(Some(Ahead::new(cursor))),
            // CappedPositionLost.
            Err(e) if code(&e) == Some(136) => Ok(None),
            Err(e) => Err(classify(e, Phase::Resume)),
        }
    }

    /// Whether the server still answers while it looks for entries that are wanted; the newest cluster time that it knows.
    pub(super) async fn ping(&self) -> Result<Timestamp> {
        let ping = client::run(&self.db, doc! {"ping": 1}, Phase::Read).await?;
        Ok(ping.get_timestamp("operationTime").unwrap_or(Timestamp { time: 0, increment: 0 }))
    }

    /// What is wanted, if the server understands it and says how far it has looked.
    pub(super) async fn can_restrict(&self, wanted: Wanted) -> Result<Option<Wanted>> {
        // Nothing is that late, and the bound is a seek.
        let late = Timestamp { time: u32::MAX, increment: 0 };
        let mut filter = rawdoc! {"ts": {"$gte": late}};
        wanted.restrict(&mut filter, late);
        let command = rawdoc! {
            "find": "oplog.rs",
            "filter": filter,
            "hint": {"$natural": 1},
            "$_requestResumeToken": true,
            "singleBatch": true,
            "readConcern": {"level": self.concern.level()},
        };
        match self.find(command).await? {
            Ok(_) => Ok(Some(wanted)),
            Err(e) if is_unexpected(&e) => {
                tracing::warn!(
                    code = code(&e),
                    "the server cannot evaluate the filters of the route: all of the oplog is read"
                );
                Ok(None)
            }
            Err(e) => Err(classify(e, Phase::Open)),
        }
    }

    fn options(&self, batch: Option<u32>, wait: Option<Duration>) -> RunCursorCommandOptions {
        let mut options = RunCursorCommandOptions::default();
        options.selection_criteria = self.db.client().selection_criteria().cloned();
        options.batch_size = batch;
        options.max_time = wait;
        options
    }

    /// The first reply of a `find` that is not tailing, and the cursor for the others.
    async fn find(&self, command: RawDocumentBuf) -> Result<mongodb::error::Result<RawBatchCursor>> {
        answered(self.db.run_raw_cursor_command(command).with_options(self.options(None, None)).batch()).await
    }

    async fn first(&self, command: RawDocumentBuf, phase: Phase) -> Result<Option<Doc>> {
        let mut cursor = self.find(command).await?.map_err(|e| classify(e, phase))?;
        match cursor.next().await {
            Some(batch) => Ok(Reply::read(reply(batch.map_err(|e| classify(e, phase))?)?)?.entry(0)),
            None => Ok(None),
        }
    }

    /// Whether the server understands [`Form::Cut`].
    pub async fn can_cut(&self) -> Result<bool> {
        let command = rawdoc! {
            "find": "oplog.rs",
            "projection": echoes::cut(),
            "limit": 1_i64,
            "singleBatch": true,
            "readConcern": {"level": self.concern.level()},
        };
        match self.find(command).await? {
            Ok(_) => Ok(true),
            Err(e) if is_unexpected(&e) => {
                tracing::info!(
                    code = code(&e),
                    "the server cannot leave out what a replicator wrote: all of it is read"
                );
                Ok(false)
            }
            Err(e) => Err(classify(e, Phase::Open)),
        }
    }

    /// The entry with this timestamp, or as much of it as is asked for.
    pub(super) async fn entry(&self, ts: Timestamp, part: EntryPart, phase: Phase) -> Result<Option<Doc>> {
        let mut command = rawdoc! {
            "find": "oplog.rs",
            "filter": {"ts": {"$gte": ts, "$lte": ts}},
            "limit": 1_i64,
            "singleBatch": true,
            "readConcern": {"level": self.concern.level()},
        };
        match part {
            EntryPart::Link => command.append(
                cstr!("projection"),
                rawdoc! {"ts": 1, "t": 1, "prevOpTime": 1, "lsid": 1, "txnNumber": 1, "multiOpType": 1},
            ),
            EntryPart::Contents(Form::Cut) => command.append(cstr!("projection"), echoes::cut()),
            EntryPart::Contents(Form::Whole) => {}
        }
        self.first(command, phase).await
    }

    async fn end(
        &self,
        filter: RawDocumentBuf,
        natural: i32,
        concern: ReadConcern,
        phase: Phase,
    ) -> Result<Option<End>> {
        let command = end_command(filter, natural, concern);
        self.first(command, phase).await?.map(|entry| read_end(&entry)).transpose()
    }

    /// The oldest entry.
    pub async fn oldest(&self, phase: Phase) -> Result<Option<End>> {
        self.end(rawdoc! {}, 1, self.concern, phase).await
    }

    /// The first entry of this cluster time or later.
    pub async fn at_or_after(&self, ts: Timestamp, phase: Phase) -> Result<Option<End>> {
        self.end(rawdoc! {"ts": {"$gte": ts}}, 1, self.concern, phase).await
    }

    /// The newest entry, such that all that was acknowledged before is not behind it.
    pub async fn newest(&self, phase: Phase) -> Result<Option<OpTime>> {
        let Some(mut committed) = self.committed(phase).await? else { return Ok(None) };
        let last = self.last_from(committed, phase).await?;
        if self.concern == ReadConcern::Local {
            return Ok(Some(last));
        }
        // Writes that were acknowledged by one member alone are before "now" too: what they wrote is waited for, but not
        // for ever, and a place that is too early loses nothing.
        let limit = Instant::now() + COMMIT_PATIENCE;
        while committed.ts < last.ts && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
            committed = self.committed(phase).await?.unwrap_or(committed);
        }
        Ok(Some(committed))
    }

    /// The newest entry that a majority has.
    ///
    /// Read backwards without that bound, the oplog also shows entries before which others are still being written; a
    /// place behind such an entry would lose those. The majority point has no such holes before it, and a scan that
    /// goes forward from there stops at the first one.
    async fn committed(&self, phase: Phase) -> Result<Option<OpTime>> {
        let command = end_command(rawdoc! {}, -1, ReadConcern::Majority);
        let mut cursor = match self.find(command).await? {
            Ok(cursor) => cursor,
            // A server that was told to keep no majority point: the oldest entry is the only certain place to go on from.
            Err(e) if self.concern == ReadConcern::Local && code(&e) == Some(148) => {
                return Ok(self.oldest(phase).await?.map(|oldest| oldest.at));
            }
            Err(e) => return Err(classify(e, phase)),
        };
        match cursor.next().await {
            Some(batch) => {
                let reply = Reply::read(reply(batch.map_err(|e| classify(e, phase))?)?)?;
                reply.entry(0).map(|entry| op_time(&entry)).transpose()
            }
            None => Ok(None),
        }
    }

    /// The last entry that a scan from `from` on shows.
    async fn last_from(&self, from: OpTime, phase: Phase) -> Result<OpTime> {
        let command = rawdoc! {
            "find": "oplog.rs",
            "filter": {"ts": {"$gte": from.ts}},
            "projection": {"ts": 1, "t": 1},
            "readConcern": {"level": "local"},
        };
        let mut cursor = self.find(command).await?.map_err(|e| classify(e, phase))?;
        let mut last = from;
        while let Some(batch) = cursor.next().await {
            let reply = Reply::read(reply(batch.map_err(|e| classify(e, phase))?)?)?;
            if let Some(entry) = reply.last() {
                last = op_time(&entry)?;
            }
        }
        Ok(last)
    }
}

fn end_command(filter: RawDocumentBuf, natural: i32, concern: ReadConcern) -> RawDocumentBuf {
    rawdoc! {
        "find": "oplog.rs",
        "filter": filter,
        "sort": {"$natural": natural},
        "projection": {"ts": 1, "t": 1, "op": 1, "o.msg": 1},
        "limit": 1_i64,
        "singleBatch": true,
        "readConcern": {"level": concern.level()},
    }
}

/// The optime of an entry.
pub(crate) fn op_time(entry: &Doc) -> Result<OpTime> {
    let ts = entry.get_timestamp("ts");
    let t = entry.get_i64("t").unwrap_or(-1);
    match ts {
        Ok(ts) => Ok(OpTime { ts, t }),
        Err(_) => Err(Error::transient("MongoDB sent an oplog entry without `ts`")),
    }
}

fn read_end(entry: &Doc) -> Result<End> {
    let msg = entry.get_document("o").ok().and_then(|o| o.get_str("msg").ok());
    let is_genesis = entry.get_str("op").is_ok_and(|op| op == "n") && msg == Some("initiating set");
    Ok(End { at: op_time(entry)?, is_genesis })
}
