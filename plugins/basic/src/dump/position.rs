use bson::{RawBsonRef, Timestamp, rawdoc};
use oplogue_api::{Error, Position, Result};

/// A place in a dump: `{bsonDump: string, offset: int64, ts: Timestamp}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The fingerprint of the dump's first entry, which tells it from other dumps and stays when it grows; empty for a
    /// dump that had no entries yet.
    pub(super) dump: String,
    /// Behind so many bytes of the unpacked data.
    pub(super) offset: u64,
    /// Of the entry that ends here.
    pub(super) ts: Timestamp,
}

impl Place {
    pub(super) fn position(&self) -> Position {
        let offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        Position { token: rawdoc! {"bsonDump": &*self.dump, "offset": offset, "ts": self.ts}.into(), time: self.ts }
    }

    pub(super) fn read(position: &Position) -> Result<Place> {
        let get = |name| position.token.get(name).ok().flatten();
        match (get("bsonDump"), get("offset"), get("ts")) {
            (Some(RawBsonRef::String(dump)), Some(RawBsonRef::Int64(offset)), Some(RawBsonRef::Timestamp(ts)))
                if offset >= 0 =>
            {
                Ok(Place { dump: dump.to_owned(), offset: offset as u64, ts })
            }
            _ => Err(Error::operator("the position is not one in a dump")
                .hint("it was saved for another source: begin anew with `oplogue position reset`")),
        }
    }
}
