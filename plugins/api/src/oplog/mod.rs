//! Decoding of MongoDB's oplog: entries, transactions, update descriptions. Pure: no I/O, no clock.
//!
//! A reader gives each raw entry to a [`Decoder`], which appends [`Event`](crate::Event)s. A transaction is delivered
//! whole, with its last entry; when it has earlier entries, the decoder asks for them with a [`Chain`], and the reader
//! looks them up. So a decoder carries nothing from one entry to the next, and a reader may begin anywhere.
//!
//! It lives in the contract because two plugin crates need it (`mongo`, `basic`) and because every sink decodes
//! [`Change`](crate::Change)s; see `docs/decisions/oplog-decoder-in-the-contract.md`.

mod apply;
mod chain;
mod command;
mod decoder;
mod description;
mod diff;
mod envelope;
mod operation;
#[cfg(test)]
mod tests;
mod views;

pub use apply::apply;
pub use chain::{Chain, Link};
pub use decoder::{Decoded, Decoder, Outcome};
pub(crate) use description::{decode_description, decode_modifiers};
pub(crate) use diff::decode_diff;
pub use envelope::OpTime;

use bson::RawBsonRef;

use crate::Error;

/// An error for bytes that are no BSON. The cause is left out: it may quote what is in the document (I8).
fn damaged(_: bson::error::Error) -> Error {
    Error::data("damaged BSON")
}

/// A whole number of any numeric type: the server is not consistent about them.
fn number(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        RawBsonRef::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(n as i64),
        _ => None,
    }
}
