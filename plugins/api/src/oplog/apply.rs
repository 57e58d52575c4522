//! Applying a `$v: 2` diff to a document, exactly as the server does (`src/mongo/db/update/document_diff_applier.cpp`).

use std::collections::HashMap;

use bson::{RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::CStr};

use super::{
    damaged,
    diff::{ElementEdit, FieldEdit, MOST_NESTED, SubDiff, array_edits, document_edits, too_deep},
};
use crate::{Error, Result};

/// The document that results from applying a `$v: 2` diff to `before`.
///
/// Follows the server in every corner: `i` moves a field that is there to the end, `u` appends a field that is missing,
/// a diff inside the diff for a value of another type makes it `null`, and arrays are padded with `null`.
///
/// # Errors
/// [`ErrorKind::Data`](crate::ErrorKind::Data) when the diff does not follow the grammar, or `before` is damaged.
pub fn apply(diff: &RawDocument, before: &RawDocument) -> Result<RawDocumentBuf> {
    apply_document(diff, before, 0)
}

fn apply_document(diff: &RawDocument, before: &RawDocument, depth: usize) -> Result<RawDocumentBuf> {
    if depth > MOST_NESTED {
        return Err(too_deep());
    }
    let edits = document_edits(diff)?;
    let by_name: HashMap<&str, usize> = edits.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let mut done = vec![false; edits.len()];
    let mut after = RawDocumentBuf::new();
    for element in before.iter_elements() {
        let element = element.map_err(damaged)?;
        let (key, value) = (element.key(), element.value().map_err(damaged)?);
        let Some(&i) = by_name.get(key.as_str()) else {
            after.append(key, value);
            continue;
        };
        match edits[i].1 {
            FieldEdit::Delete | FieldEdit::Insert(_) => {}
            FieldEdit::Update(new) => {
                after.append(key, new);
                done[i] = true;
            }
            FieldEdit::Binary(patch) => append_patched(&mut after, key, value, patch)?,
            FieldEdit::Sub(sub) => match (sub, value) {
                (SubDiff::Document(diff), RawBsonRef::Document(inner)) => {
                    after.append(key, apply_document(diff, inner, depth + 1)?);
                }
                (SubDiff::Array(diff), RawBsonRef::Array(inner)) => {
                    after.append(key, apply_array(diff, inner, depth + 1)?);
                }
                _ => after.append(key, RawBsonRef::Null),
            },
        }
    }
    for ((name, edit), done) in edits.into_iter().zip(done) {
        if let (FieldEdit::Update(value) | FieldEdit::Insert(value), false) = (edit, done) {
            after.append(cstr(name)?, value);
        }
    }
    Ok(after)
}

fn apply_array(diff: &RawDocument, before: &RawArray, depth: usize) -> Result<RawArrayBuf> {
    if depth > MOST_NESTED {
        return Err(too_deep());
    }
    let edits = array_edits(diff)?;
    let mut pending = edits.elements.into_iter().peekable();
    let mut after = RawArrayBuf::new();
    let mut index = 0u32;
    for element in before.iter_elements() {
        if edits.length.is_some_and(|length| index >= length) {
            break;
        }
        let value = element.and_then(|e| e.value()).map_err(damaged)?;
        match pending.next_if(|(i, _)| *i == index) {
            None => after.push(value),
            Some((_, ElementEdit::Update(new))) => after.push(new),
            Some((_, ElementEdit::Sub(sub))) => match (sub, value) {
                (SubDiff::Document(diff), RawBsonRef::Document(inner)) => {
                    after.push(apply_document(diff, inner, depth + 1)?);
                }
                (SubDiff::Array(diff), RawBsonRef::Array(inner)) => after.push(apply_array(diff, inner, depth + 1)?),
                _ => after.push(RawBsonRef::Null),
            },
        }
        index += 1;
    }
    while pending.peek().is_some() || edits.length.is_some_and(|length| index < length) {
        match pending.next_if(|(i, _)| *i <= index) {
            Some((_, ElementEdit::Update(new))) => after.push(new),
            _ => after.push(RawBsonRef::Null),
        }
        index += 1;
    }
    Ok(after)
}

/// `b: {name: {o: offset, d: bytes}}` overwrites from the offset on and leaves what lies before.
fn append_patched(after: &mut RawDocumentBuf, key: &CStr, value: RawBsonRef<'_>, patch: RawBsonRef<'_>) -> Result<()> {
    let wrong = || Error::data("the diff of a binary value is not of the known shape");
    let patch = patch.as_document().ok_or_else(wrong)?;
    let offset = patch.get("o").map_err(damaged)?.and_then(super::number).ok_or_else(wrong)?;
    let new = match patch.get("d").map_err(damaged)? {
        Some(RawBsonRef::Binary(new)) => new,
        _ => return Err(wrong()),
    };
    let RawBsonRef::Binary(old) = value else {
        after.append(key, RawBsonRef::Null);
        return Ok(());
    };
    let kept = usize::try_from(offset).ok().and_then(|offset| old.bytes.get(..offset)).ok_or_else(wrong)?;
    let bytes = [kept, new.bytes].concat();
    after.append(key, RawBsonRef::Binary(bson::raw::RawBinaryRef { subtype: new.subtype, bytes: &bytes }));
    Ok(())
}

fn cstr(name: &str) -> Result<&CStr> {
    <&CStr>::try_from(name).map_err(damaged)
}
