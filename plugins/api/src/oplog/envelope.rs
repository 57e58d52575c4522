//! The outer fields of an oplog entry, or of an operation inside `applyOps`, found in one pass.

use bson::{RawBsonRef, RawDocument, Timestamp};

use super::{damaged, number};
use crate::{
    Error, Result,
    raw::{Element, elements},
};

/// Identifies an oplog entry across elections: `ts` alone may name another entry after a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpTime {
    /// Cluster time of the entry.
    pub ts: Timestamp,
    /// Election term; -1 where there is none.
    pub t: i64,
}

impl OpTime {
    pub(super) fn read(doc: &RawDocument) -> Result<OpTime> {
        let (mut ts, mut t) = (None, -1);
        for element in doc.iter_elements() {
            let element = element.map_err(damaged)?;
            match element.key().as_str() {
                "ts" => ts = element.value().map_err(damaged)?.as_timestamp(),
                "t" => t = number(element.value().map_err(damaged)?).unwrap_or(-1),
                _ => {}
            }
        }
        match ts {
            Some(ts) => Ok(OpTime { ts, t }),
            None => Err(Error::data("an optime without ts")),
        }
    }

    /// Whether this is the `{ts: 0, t: -1}` that stands for "none".
    pub fn is_null(&self) -> bool {
        self.ts.time == 0 && self.ts.increment == 0
    }
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
    Command,
    Noop,
}

/// The fields that matter, borrowed from the entry. The order of fields differs between versions.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub ts: Option<Timestamp>,
    pub t: i64,
    pub kind: Option<Kind>,
    pub ns: &'a str,
    pub o: Option<&'a RawDocument>,
    pub o2: Option<&'a RawDocument>,
    pub wall: Option<i64>,
    pub lsid: Option<&'a RawDocument>,
    pub txn_number: Option<i64>,
    pub prev: Option<&'a RawDocument>,
    pub from_migrate: bool,
    /// `multiOpType`, from 8.0: a number other than 0 says that an `applyOps` is no transaction.
    pub grouped: bool,
}

impl<'a> Envelope<'a> {
    /// Fills in what can be read, and says what cannot: even a bad entry has a time and a namespace to report.
    pub fn read(&mut self, entry: &'a RawDocument) -> Result<()> {
        let mut read = Ok(());
        for field in elements(entry) {
            if let Err(e) = self.field(&field?) {
                read = read.and(Err(e));
            }
        }
        read
    }

    fn field(&mut self, field: &Element<'a>) -> Result<()> {
        let wrong = |name: &str| Error::data(format!("`{name}` of the entry has the wrong type"));
        let value = || field.value.of_envelope();
        let document = |name| value()?.as_document().ok_or_else(|| wrong(name));
        match field.name {
            b"op" => {
                self.kind = Some(match value()?.as_str() {
                    Some("i") => Kind::Insert,
                    Some("u") => Kind::Update,
                    Some("d") => Kind::Delete,
                    Some("c") => Kind::Command,
                    Some("n") => Kind::Noop,
                    _ => return Err(Error::data("the entry's `op` is not known")),
                });
            }
            b"ns" => self.ns = value()?.as_str().ok_or_else(|| wrong("ns"))?,
            b"o" => self.o = Some(document("o")?),
            // `null` where there is none has been written by tools that make entries.
            b"o2" => self.o2 = value()?.as_document(),
            b"ts" => self.ts = Some(value()?.as_timestamp().ok_or_else(|| wrong("ts"))?),
            b"t" => self.t = number(value()?).ok_or_else(|| wrong("t"))?,
            b"wall" => self.wall = value()?.as_datetime().map(|d| d.timestamp_millis()),
            b"lsid" => self.lsid = Some(document("lsid")?),
            b"txnNumber" => self.txn_number = Some(number(value()?).ok_or_else(|| wrong("txnNumber"))?),
            b"prevOpTime" => self.prev = Some(document("prevOpTime")?),
            b"fromMigrate" => self.from_migrate = value()?.as_bool().unwrap_or(false),
            b"multiOpType" => self.grouped = number(value()?).ok_or_else(|| wrong("multiOpType"))? != 0,
            _ => {}
        }
        Ok(())
    }

    pub fn body(&self) -> Result<&'a RawDocument> {
        self.o.ok_or_else(|| Error::data("the entry has no `o`"))
    }

    /// Whether an `applyOps`, `commitTransaction` or `abortTransaction` may be one of a chain of entries. An
    /// `applyOps` command of a user has no `prevOpTime`; a vectored write of 8.0 has `multiOpType`, and its `prevOpTime`
    /// leads to another statement. There are chains without a session: large batched deletes.
    pub fn is_chained(&self) -> bool {
        self.prev.is_some() && !self.grouped
    }

    /// Whether this is a part of a transaction.
    pub fn is_transaction(&self) -> bool {
        self.is_chained() && self.lsid.is_some() && self.txn_number.is_some()
    }

    /// The entry that this one follows in its chain.
    pub fn previous(&self) -> Result<Option<OpTime>> {
        match self.prev {
            Some(prev) if self.is_chained() => Ok(Some(OpTime::read(prev)?).filter(|at| !at.is_null())),
            _ => Ok(None),
        }
    }
}

/// The name of the command and its argument.
pub(super) fn command(o: &RawDocument) -> Result<(&str, RawBsonRef<'_>)> {
    match o.iter_elements().next() {
        Some(element) => {
            let element = element.map_err(damaged)?;
            Ok((element.key().as_str(), element.value().map_err(damaged)?))
        }
        None => Err(Error::data("the entry's command is empty")),
    }
}
