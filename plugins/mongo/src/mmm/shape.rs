//! Whether a document has the shape that a diff of version 2 was made for.
//!
//! A server that applies a diff to a document of another shape sets the field to `null` and says nothing. So the shape is a
//! condition of the update, or is looked at in a document at hand.

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use oplogue_api::{Error, Result};

/// More conditions than this cost the server more than the document does.
const MOST: usize = 12;
const DEEPEST: usize = 40;
/// An index beyond would make the server pad an array with that many nulls.
const HIGHEST_INDEX: usize = 1_500_000;

/// The conditions, as operands of `$and`, under which the server applies the diff as it was made; empty: always. `None`: too many,
/// or something that a condition cannot say.
pub(super) fn conditions(diff: &RawDocument) -> Result<Option<RawArrayBuf>> {
    let mut found = Vec::new();
    if !collect(diff, &Expression::Root, 0, &mut found)? {
        return Ok(None);
    }
    let mut all = RawArrayBuf::new();
    for condition in found {
        all.push(condition);
    }
    Ok(Some(all))
}

enum Expression<'a> {
    Root,
    Of(&'a RawDocumentBuf),
}

impl Expression<'_> {
    fn field(&self, name: &str) -> RawDocumentBuf {
        let mut get = RawDocumentBuf::new();
        get.append(cstr!("field"), rawdoc! {"$literal": name});
        match self {
            Expression::Root => get.append(cstr!("input"), "$$ROOT"),
            Expression::Of(inner) => get.append(cstr!("input"), (*inner).clone()),
        }
        rawdoc! {"$getField": get}
    }

    fn element(&self, index: i32) -> RawDocumentBuf {
        let mut of = RawArrayBuf::new();
        match self {
            Expression::Root => of.push("$$ROOT"),
            Expression::Of(inner) => of.push((*inner).clone()),
        }
        of.push(index);
        rawdoc! {"$arrayElemAt": of}
    }
}

fn collect(diff: &RawDocument, place: &Expression<'_>, depth: usize, found: &mut Vec<RawDocumentBuf>) -> Result<bool> {
    if depth > DEEPEST {
        return Ok(false);
    }
    for (name, sub, is_element) in subs(diff)? {
        let at = match is_element {
            false => place.field(name),
            true => match name.parse::<i32>() {
                Ok(index) => place.element(index),
                Err(_) => return Ok(false),
            },
        };
        let wanted = if is_array(sub)? { "array" } else { "object" };
        if found.len() >= MOST {
            return Ok(false);
        }
        let mut pair = RawArrayBuf::new();
        pair.push(rawdoc! {"$type": at.clone()});
        pair.push(wanted);
        found.push(rawdoc! {"$eq": pair});
        if !collect(sub, &Expression::Of(&at), depth + 1, found)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The diffs inside of a diff: the field or index, the diff, and whether it is that of an element.
fn subs(diff: &RawDocument) -> Result<Vec<(&str, &RawDocument, bool)>> {
    let damaged = |_| Error::data("damaged BSON");
    let elements = is_array(diff)?;
    let mut found = Vec::new();
    for element in diff.iter_elements() {
        let element = element.map_err(damaged)?;
        let name = element.key().as_str();
        if elements && name.len() > 1 && name[1..].parse::<usize>().is_ok_and(|index| index > HIGHEST_INDEX) {
            return Err(Error::data("the update names an element of an array that is out of all bounds"));
        }
        if let (Some(name), RawBsonRef::Document(sub)) = (name.strip_prefix('s'), element.value().map_err(damaged)?) {
            found.push((name, sub, elements));
        }
    }
    Ok(found)
}

pub(super) fn is_array(diff: &RawDocument) -> Result<bool> {
    Ok(diff.get("a").map_err(|_| Error::data("damaged BSON"))?.is_some_and(|a| a.as_bool() == Some(true)))
}

/// Whether the document has the shape that the diff was made for.
pub(super) fn fits(diff: &RawDocument, document: &RawDocument) -> Result<bool> {
    fits_at(diff, document, 0)
}

fn fits_at(diff: &RawDocument, document: &RawDocument, depth: usize) -> Result<bool> {
    if depth > DEEPEST * 5 {
        return Ok(false);
    }
    for (name, sub, _) in subs(diff)? {
        let value = document.get(name).map_err(|_| Error::data("damaged BSON"))?;
        let inner = match (value, is_array(sub)?) {
            (Some(RawBsonRef::Document(inner)), false) => inner,
            // An array is in BSON a document whose names are the indexes.
            (Some(RawBsonRef::Array(inner)), true) => match RawDocument::from_bytes(inner.as_bytes()) {
                Ok(inner) => inner,
                Err(_) => return Err(Error::data("damaged BSON")),
            },
            _ => return Ok(false),
        };
        if !fits_at(sub, inner, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_fits_what_it_was_made_for() {
        let diff =
            rawdoc! {"u": {"x": 1}, "sn": {"u": {"a.b": 1}}, "sarr": {"a": true, "s0": {"u": {"k": 1}}, "u3": 4}};
        for (document, fits_it) in [
            (rawdoc! {"n": {}, "arr": [{}, 1]}, true),
            (rawdoc! {"n": {"a.b": 2}, "arr": [{"k": 0}]}, true),
            (rawdoc! {"n": [], "arr": [{}]}, false),
            (rawdoc! {"n": {}, "arr": [1]}, false),
            (rawdoc! {"n": {}, "arr": []}, false),
            (rawdoc! {"n": {}, "arr": {"0": {}}}, false),
            (rawdoc! {"arr": [{}]}, false),
        ] {
            assert_eq!(fits(&diff, &document).unwrap(), fits_it, "{document:?}");
        }
        assert_eq!(conditions(&diff).unwrap().unwrap().into_iter().count(), 3);
        assert_eq!(conditions(&rawdoc! {"u": {"x": 1}}).unwrap().unwrap().into_iter().count(), 0);
    }

    #[test]
    fn a_field_called_a_is_no_array() {
        // In a diff of a document a field `a` stands inside of `u` or `i`, never beside them.
        assert!(!is_array(&rawdoc! {"u": {"a": true}}).unwrap());
        assert!(is_array(&rawdoc! {"a": true, "l": 1}).unwrap());
    }

    #[test]
    fn an_index_beyond_all_bounds_is_refused() {
        assert!(conditions(&rawdoc! {"sarr": {"a": true, "u99999999": 1}}).is_err());
    }
}
