//! The older ways to describe an update: the modifiers of oplog entries of version 1, and `updateDescription` of change
//! events. Both name fields by dotted paths.

use std::collections::HashMap;

use bson::{RawArray, RawBsonRef, RawDocument};

use super::{damaged, diff::MOST_ELEMENTS, number};
use crate::{Error, Path, PathPart, Result, Update};

/// `{$v: 1, $set: {path: value, …}, $unset: {path: true, …}}`
pub(crate) fn decode_modifiers(doc: &RawDocument) -> Result<Update<'_>> {
    let mut update = Update::default();
    for element in doc.iter_elements() {
        let element = element.map_err(damaged)?;
        let value = element.value().map_err(damaged)?;
        match element.key().as_str() {
            "$v" => match number(value) {
                Some(1) => {}
                _ => return Err(Error::data("the update is not of version 1")),
            },
            "$set" => {
                for field in fields(value)?.iter_elements() {
                    let field = field.map_err(damaged)?;
                    update.set.push((Path::Dotted(field.key().as_str()), field.value().map_err(damaged)?));
                }
            }
            "$unset" => {
                for field in fields(value)?.iter_elements() {
                    update.unset.push(Path::Dotted(field.map_err(damaged)?.key().as_str()));
                }
            }
            // A server logs nothing else; an `applyOps` command of a user may hold any operator.
            _ => return Err(Error::data("the update has an operator other than $set and $unset")),
        }
    }
    Ok(update)
}

fn fields(value: RawBsonRef<'_>) -> Result<&RawDocument> {
    value.as_document().ok_or_else(|| Error::data("an operator of the update is no document"))
}

/// `{updatedFields, removedFields, truncatedArrays?, disambiguatedPaths?}`
pub(crate) fn decode_description(doc: &RawDocument) -> Result<Update<'_>> {
    let wrong = || Error::data("the update description is not of the known shape");
    let (mut updated, mut removed, mut truncated, mut paths) = (None, None, None, None);
    for element in doc.iter_elements() {
        let element = element.map_err(damaged)?;
        let value = element.value().map_err(damaged)?;
        match (element.key().as_str(), value) {
            // `null` instead of an empty list has been seen from servers that stand in for MongoDB.
            ("updatedFields" | "removedFields" | "truncatedArrays" | "disambiguatedPaths", RawBsonRef::Null) => {}
            ("updatedFields", value) => updated = Some(value.as_document().ok_or_else(wrong)?),
            ("removedFields", value) => removed = Some(value.as_array().ok_or_else(wrong)?),
            ("truncatedArrays", value) => truncated = Some(value.as_array().ok_or_else(wrong)?),
            ("disambiguatedPaths", value) => paths = Some(value.as_document().ok_or_else(wrong)?),
            // MongoDB adds fields to change events between versions and asks clients to pass over them.
            _ => {}
        }
    }
    let paths = Paths::new(paths)?;
    let mut update = Update::default();
    for field in updated.into_iter().flat_map(RawDocument::iter_elements) {
        let field = field.map_err(damaged)?;
        update.set.push((paths.resolve(field.key().as_str()), field.value().map_err(damaged)?));
    }
    for field in removed.into_iter().flat_map(RawArray::iter_elements) {
        let value = field.and_then(|f| f.value()).map_err(damaged)?;
        update.unset.push(paths.resolve(value.as_str().ok_or_else(wrong)?));
    }
    for entry in truncated.into_iter().flat_map(RawArray::iter_elements) {
        let entry = entry.and_then(|e| e.value()).map_err(damaged)?;
        let entry = entry.as_document().ok_or_else(wrong)?;
        let field = entry.get("field").map_err(damaged)?.and_then(|f| f.as_str()).ok_or_else(wrong)?;
        let size = entry.get("newSize").map_err(damaged)?.and_then(number).ok_or_else(wrong)?;
        let size = u32::try_from(size).ok().filter(|n| *n <= MOST_ELEMENTS);
        let size = size.ok_or_else(|| Error::data("the update description gives an array an impossible length"))?;
        update.truncate.push((paths.resolve(field), size));
    }
    Ok(update)
}

/// `disambiguatedPaths`: `{"a.0": ["a", 0], …}` for every path whose dots or numbers can be read in two ways.
enum Paths<'a> {
    /// The server does not send it: every path stays dotted.
    Unknown,
    Known(HashMap<&'a str, Vec<PathPart<'a>>>),
}

impl<'a> Paths<'a> {
    fn new(doc: Option<&'a RawDocument>) -> Result<Paths<'a>> {
        let Some(doc) = doc else { return Ok(Paths::Unknown) };
        let wrong = || Error::data("disambiguatedPaths is not of the known shape");
        let mut known = HashMap::new();
        for element in doc.iter_elements() {
            let element = element.map_err(damaged)?;
            let value = element.value().map_err(damaged)?;
            let mut parts = Vec::new();
            for part in value.as_array().ok_or_else(wrong)?.iter_elements() {
                parts.push(match part.and_then(|p| p.value()).map_err(damaged)? {
                    RawBsonRef::String(name) => PathPart::Field(name),
                    value => match number(value).and_then(|n| u32::try_from(n).ok()) {
                        Some(index) if index < MOST_ELEMENTS => PathPart::Index(index),
                        _ => return Err(wrong()),
                    },
                });
            }
            known.insert(element.key().as_str(), parts);
        }
        Ok(Paths::Known(known))
    }

    fn resolve(&self, dotted: &'a str) -> Path<'a> {
        let Paths::Known(known) = self else { return Path::Dotted(dotted) };
        if let Some(parts) = known.get(dotted) {
            return Path::Exact(parts.clone());
        }
        // A path that is not listed has no name with a dot and no number in it, so its dots are steps.
        let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if dotted.split('.').any(numeric) {
            return Path::Dotted(dotted);
        }
        Path::Exact(dotted.split('.').map(PathPart::Field).collect())
    }
}
