//! The `diff` of an oplog entry of version 2: its grammar, and what it says about fields.
//!
//! ```text
//! DOC := { d?: {name: false, …}, u?: {name: value, …}, i?: {name: value, …}, b?: {name: …}, "s" + name: DOC | ARR, … }
//! ARR := { a: true, l?: length, ("u" + index: value | "s" + index: DOC | ARR)… }
//! ```
//! Names are literal. The format is that of `src/mongo/db/update/document_diff_serialization.h` in the server.

use bson::{RawBsonRef, RawDocument};

use super::damaged;
use crate::{Error, Path, PathPart, Result, Update};

/// The server nests documents 200 deep at most; a diff needs one level for each.
pub(super) const MOST_NESTED: usize = 200;

/// No array has more elements: with two million of them the keys alone ("0", "1", …) are larger than a document may be.
pub(super) const MOST_ELEMENTS: u32 = 2_000_000;

/// What a diff says about one field of a document.
#[derive(Clone, Copy, Debug)]
pub(super) enum FieldEdit<'a> {
    Delete,
    Update(RawBsonRef<'a>),
    Insert(RawBsonRef<'a>),
    /// A part of a binary value is overwritten: time-series buckets of newer servers.
    Binary(RawBsonRef<'a>),
    Sub(SubDiff<'a>),
}

/// What a diff says about one element of an array.
#[derive(Clone, Copy, Debug)]
pub(super) enum ElementEdit<'a> {
    Update(RawBsonRef<'a>),
    Sub(SubDiff<'a>),
}

/// A diff inside a diff.
#[derive(Clone, Copy, Debug)]
pub(super) enum SubDiff<'a> {
    Document(&'a RawDocument),
    Array(&'a RawDocument),
}

/// The edits of a DOC, in the order in which they are written. A field occurs once.
pub(super) fn document_edits(diff: &RawDocument) -> Result<Vec<(&str, FieldEdit<'_>)>> {
    let mut edits = Vec::new();
    let mut sections = [false; 4];
    for element in diff.iter_elements() {
        let element = element.map_err(damaged)?;
        let (key, value) = (element.key().as_str(), element.value().map_err(damaged)?);
        let section = match key {
            "d" => 0,
            "u" => 1,
            "i" => 2,
            "b" => 3,
            _ => match key.strip_prefix('s') {
                Some(name) => {
                    edits.push((name, FieldEdit::Sub(sub_diff(value)?)));
                    continue;
                }
                None => return Err(Error::data("the diff has a section that is not known")),
            },
        };
        if std::mem::replace(&mut sections[section], true) {
            return Err(Error::data("a section of the diff occurs twice"));
        }
        let fields = value.as_document().ok_or_else(|| Error::data("a section of the diff is no document"))?;
        for field in fields.iter_elements() {
            let field = field.map_err(damaged)?;
            let value = field.value().map_err(damaged)?;
            let edit = match section {
                0 => FieldEdit::Delete,
                1 => FieldEdit::Update(value),
                2 => FieldEdit::Insert(value),
                _ => FieldEdit::Binary(value),
            };
            edits.push((field.key().as_str(), edit));
        }
    }
    // The server refuses such a diff too (4728000): which of the two edits holds would be anybody's guess.
    if has_duplicates(edits.iter().map(|(name, _)| *name)) {
        return Err(Error::data("a field occurs twice in the diff"));
    }
    Ok(edits)
}

/// The edits of an ARR.
#[derive(Debug)]
pub(super) struct ArrayEdits<'a> {
    /// The length that the array is cut or padded to.
    pub length: Option<u32>,
    /// By index, ascending.
    pub elements: Vec<(u32, ElementEdit<'a>)>,
}

pub(super) fn array_edits(diff: &RawDocument) -> Result<ArrayEdits<'_>> {
    let mut edits = ArrayEdits { length: None, elements: Vec::new() };
    // The first element is `a: true`, see `sub_diff`.
    for element in diff.iter_elements().skip(1) {
        let element = element.map_err(damaged)?;
        let (key, value) = (element.key().as_str(), element.value().map_err(damaged)?);
        if key == "l" {
            let length = match value {
                RawBsonRef::Int32(n) => u32::try_from(n).ok(),
                RawBsonRef::Int64(n) => u32::try_from(n).ok(),
                _ => None,
            };
            let length = length.filter(|n| *n <= MOST_ELEMENTS);
            let length = length.ok_or_else(|| Error::data("the diff gives an array an impossible length"))?;
            if edits.length.replace(length).is_some() {
                return Err(Error::data("the diff gives an array two lengths"));
            }
        } else if let Some(index) = key.strip_prefix('u') {
            edits.elements.push((parse_index(index)?, ElementEdit::Update(value)));
        } else if let Some(index) = key.strip_prefix('s') {
            edits.elements.push((parse_index(index)?, ElementEdit::Sub(sub_diff(value)?)));
        } else {
            return Err(Error::data("the diff of an array has a section that is not known"));
        }
    }
    edits.elements.sort_by_key(|(index, _)| *index);
    if edits.elements.windows(2).any(|w| w[0].0 == w[1].0) {
        return Err(Error::data("an index occurs twice in the diff of an array"));
    }
    Ok(edits)
}

fn sub_diff(value: RawBsonRef<'_>) -> Result<SubDiff<'_>> {
    let diff = value.as_document().ok_or_else(|| Error::data("a diff inside the diff is no document"))?;
    match diff.iter_elements().next() {
        Some(first) => {
            let first = first.map_err(damaged)?;
            if first.key().as_str() != "a" {
                return Ok(SubDiff::Document(diff));
            }
            match first.value().map_err(damaged)? {
                RawBsonRef::Boolean(true) => Ok(SubDiff::Array(diff)),
                _ => Err(Error::data("the diff of an array does not begin with `a: true`")),
            }
        }
        None => Ok(SubDiff::Document(diff)),
    }
}

/// An index as the server writes it: no sign, no leading zero, and no larger than an array can be.
pub(super) fn parse_index(text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.len() <= 7 && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    match text.parse::<u32>() {
        Ok(index) if digits && canonical && index < MOST_ELEMENTS => Ok(index),
        _ => Err(Error::data("the diff names an impossible array index")),
    }
}

fn has_duplicates<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> bool {
    if names.len() < 2 {
        return false;
    }
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.windows(2).any(|w| w[0] == w[1])
}

/// What a diff changed, with exact paths.
pub(crate) fn decode_diff(diff: &RawDocument) -> Result<Update<'_>> {
    let mut update = Update::default();
    let mut path = Vec::new();
    walk_document(diff, &mut path, &mut update)?;
    Ok(update)
}

fn walk_document<'a>(diff: &'a RawDocument, path: &mut Vec<PathPart<'a>>, update: &mut Update<'a>) -> Result<()> {
    for (name, edit) in document_edits(diff)? {
        path.push(PathPart::Field(name));
        match edit {
            FieldEdit::Delete => update.unset.push(Path::Exact(path.clone())),
            FieldEdit::Update(value) | FieldEdit::Insert(value) => {
                update.set.push((Path::Exact(path.clone()), value));
            }
            // Neither a new value nor a removal: an `Update` cannot say it, and leaving it out would be a silent loss.
            FieldEdit::Binary(_) => {
                return Err(Error::data("the diff overwrites a part of a binary value")
                    .hint("only time-series buckets are changed like that: leave `system.buckets.*` out"));
            }
            FieldEdit::Sub(sub) => walk_sub(sub, path, update)?,
        }
        path.pop();
    }
    Ok(())
}

fn walk_sub<'a>(sub: SubDiff<'a>, path: &mut Vec<PathPart<'a>>, update: &mut Update<'a>) -> Result<()> {
    if path.len() >= MOST_NESTED {
        return Err(too_deep());
    }
    let diff = match sub {
        SubDiff::Document(diff) => return walk_document(diff, path, update),
        SubDiff::Array(diff) => diff,
    };
    let edits = array_edits(diff)?;
    if let Some(length) = edits.length {
        update.truncate.push((Path::Exact(path.clone()), length));
    }
    for (index, edit) in edits.elements {
        path.push(PathPart::Index(index));
        match edit {
            ElementEdit::Update(value) => update.set.push((Path::Exact(path.clone()), value)),
            ElementEdit::Sub(sub) => walk_sub(sub, path, update)?,
        }
        path.pop();
    }
    Ok(())
}

pub(super) fn too_deep() -> Error {
    Error::data(format!("the diff nests deeper than {MOST_NESTED} levels"))
}
