//! A reply of the tailing cursor.

use bson::{RawDocument, Timestamp};
use oplogue_api::{Doc, Error, Result};

/// The entries of a reply, sharing its memory.
pub(crate) struct Reply {
    /// The array of entries, as the document that an array is in BSON.
    entries: Doc,
    /// The newest cluster time that the server knows.
    pub head: Timestamp,
    /// How far the server has looked, where it is asked to say: the time of the last entry that it has read.
    pub looked: Option<Timestamp>,
    /// The size of the reply.
    pub bytes: usize,
}

impl Reply {
    pub fn read(reply: Doc) -> Result<Reply> {
        let unreadable = || Error::transient("MongoDB sent a reply that cannot be read");
        let (mut entries, mut looked) = (None, None);
        let mut head = Timestamp { time: 0, increment: 0 };
        for element in reply.iter_elements() {
            let element = element.map_err(|_| unreadable())?;
            let time = match element.key().as_str() {
                "cursor" => {
                    let cursor = element.value().map_err(|_| unreadable())?;
                    let cursor = cursor.as_document().ok_or_else(unreadable)?;
                    entries = Some(batch_of(cursor).ok_or_else(unreadable)?);
                    looked = cursor.get_document("postBatchResumeToken").ok().and_then(looked_at);
                    continue;
                }
                // What the server has, and what it has heard of: the later one is what can still come.
                "operationTime" => element.value().ok().and_then(|v| v.as_timestamp()),
                "$clusterTime" => {
                    let time = element.value().ok();
                    time.and_then(|v| v.as_document()).and_then(|d| d.get_timestamp("clusterTime").ok())
                }
                _ => None,
            };
            head = head.max(time.unwrap_or(head));
        }
        let entries = reply.slice(entries.ok_or_else(unreadable)?);
        Ok(Reply { entries, head, looked, bytes: reply.as_bytes().len() })
    }

    /// The entries from the `from`-th on.
    pub fn entries(&self, from: usize) -> impl Iterator<Item = Result<Doc>> {
        self.entries.iter_elements().skip(from).map(|element| {
            let entry = element.and_then(|e| e.value()).ok().and_then(|v| v.as_document());
            match entry {
                Some(entry) => Ok(self.entries.slice(entry)),
                None => Err(Error::transient("MongoDB sent a reply that cannot be read")),
            }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.iter_elements().next().is_none()
    }

    pub fn entry(&self, n: usize) -> Option<Doc> {
        self.entries(n).next().and_then(Result::ok)
    }

    pub fn last(&self) -> Option<Doc> {
        self.entries(0).last().and_then(Result::ok)
    }
}

/// `{ts: timestamp}`, or before 5.0 `{$recordId: int64}`: an oplog entry is stored under its timestamp as a number.
fn looked_at(token: &RawDocument) -> Option<Timestamp> {
    token.get_timestamp("ts").ok().or_else(|| {
        let record = u64::try_from(token.get_i64("$recordId").ok()?).ok()?;
        Some(Timestamp { time: u32::try_from(record >> 32).ok()?, increment: record as u32 })
    })
}

fn batch_of(cursor: &RawDocument) -> Option<&RawDocument> {
    for element in cursor.iter_elements() {
        let element = element.ok()?;
        if matches!(element.key().as_str(), "firstBatch" | "nextBatch") {
            let array = element.value().ok()?.as_array()?;
            return RawDocument::from_bytes(array.as_bytes()).ok();
        }
    }
    None
}
