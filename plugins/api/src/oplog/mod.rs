//! Decoding of MongoDB's oplog: entries, transactions, update descriptions.
//!
//! It lives in the contract because two plugin crates need it (`mongo`, `basic`) and because every sink decodes
//! [`Change`](crate::Change)s; see `docs/decisions/`.

use bson::RawDocument;

use crate::{Error, Result, Update};

pub(crate) fn decode_description(_doc: &RawDocument) -> Result<Update<'_>> {
    Err(Error::bug("not written yet"))
}
pub(crate) fn decode_modifiers(_doc: &RawDocument) -> Result<Update<'_>> {
    Err(Error::bug("not written yet"))
}
pub(crate) fn decode_diff(_doc: &RawDocument) -> Result<Update<'_>> {
    Err(Error::bug("not written yet"))
}
