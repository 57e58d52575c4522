//! MongoDB relaxed Extended JSON (v2), straight from raw BSON into a buffer: no tree in between, which costs ten times as much.
//!
//! Format: the MongoDB specification "Extended JSON", relaxed form. One addition, for text that is not UTF-8 (which old
//! clients could store): `{"$invalidUtf8": "<base64>"}`, so that not a byte is lost and nobody takes it for text.

mod scalar;
#[cfg(test)]
mod tests;

use bson::{RawArray, RawBsonRef, RawDocument, raw::RawElement, spec::ElementType};
use oplogue_api::{Error, Result};

pub(crate) use scalar::{datetime, instant, text, uuid};

/// The server stores 100 levels and never sends more than 200; a deeper document is damaged or hostile, and following it
/// would overflow the stack.
const DEEPEST: usize = 250;

/// Appends a document. After an error the buffer ends somewhere inside: cut it back.
///
/// # Errors
/// `Data`, saying at which byte the document is damaged.
pub(crate) fn document(out: &mut Vec<u8>, doc: &RawDocument) -> Result<()> {
    elements(out, doc, true, 0)
}

/// Appends a value.
///
/// # Errors
/// As [`document`].
pub(crate) fn value(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<()> {
    nested(out, value, 0)
}

/// Appends anything that JSON itself has a form for: numbers, booleans, strings.
pub(crate) fn plain(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|e| Error::bug("a plain JSON value could not be written").caused_by(e))
}

fn elements(out: &mut Vec<u8>, doc: &RawDocument, names: bool, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::data(format!("a document is nested deeper than {DEEPEST} levels")));
    }
    let (open, close) = if names { (b'{', b'}') } else { (b'[', b']') };
    out.push(open);
    let mut at = 4; // the element's offset: behind the length of the document
    for element in doc.iter_elements() {
        let element = element.map_err(|_| damaged(at))?;
        if at > 4 {
            out.push(b',');
        }
        if names {
            text(out, element.key().as_str())?;
            out.push(b':');
        }
        at = field(out, doc, &element, at, depth)?;
    }
    out.push(close);
    Ok(())
}

/// Appends the value of an element of `doc` that begins at `at`, and returns where the next one begins.
fn field(out: &mut Vec<u8>, doc: &RawDocument, element: &RawElement<'_>, at: usize, depth: usize) -> Result<usize> {
    // Type, name, NUL.
    let start = at + 1 + element.key().as_str().len() + 1;
    let end = start + element.size();
    match element.value() {
        Ok(value) => nested(out, value, depth)?,
        Err(_) => invalid_text(out, element.element_type(), doc.as_bytes().get(start..end))
            .unwrap_or_else(|| Err(damaged(at)))?,
    }
    Ok(end)
}

/// The fields of a document, each with its value.
///
/// # Errors
/// As [`document`].
pub(crate) fn fields(doc: &RawDocument) -> Result<Vec<(&str, Vec<u8>)>> {
    let mut at = 4;
    let mut all = Vec::new();
    for element in doc.iter_elements() {
        let element = element.map_err(|_| damaged(at))?;
        let mut value = Vec::new();
        at = field(&mut value, doc, &element, at, 0)?;
        all.push((element.key().as_str(), value));
    }
    Ok(all)
}

// I8: where, not what: neither names nor values of fields reach an error.
fn damaged(at: usize) -> Error {
    Error::data(format!("the BSON is damaged at byte {at} of a document"))
}

/// The text of a string, symbol or code that could not be read, when not being UTF-8 is all that is wrong with it.
fn invalid_text(out: &mut Vec<u8>, kind: ElementType, bytes: Option<&[u8]>) -> Option<Result<()>> {
    // int32 length, text, NUL.
    let bytes = bytes?;
    let bytes = bytes.get(4..bytes.len().checked_sub(1)?)?;
    if std::str::from_utf8(bytes).is_ok() {
        return None;
    }
    match kind {
        ElementType::String => scalar::invalid_utf8(out, bytes),
        ElementType::Symbol => {
            out.extend_from_slice(b"{\"$symbol\":");
            scalar::invalid_utf8(out, bytes);
            out.push(b'}');
        }
        ElementType::JavaScriptCode => {
            out.extend_from_slice(b"{\"$code\":");
            scalar::invalid_utf8(out, bytes);
            out.push(b'}');
        }
        _ => return None,
    }
    Some(Ok(()))
}

fn array(out: &mut Vec<u8>, array: &RawArray, depth: usize) -> Result<()> {
    let doc = RawDocument::from_bytes(array.as_bytes()).map_err(|_| damaged(0))?;
    elements(out, doc, false, depth)
}

fn nested(out: &mut Vec<u8>, value: RawBsonRef<'_>, depth: usize) -> Result<()> {
    match value {
        RawBsonRef::Document(d) => elements(out, d, true, depth + 1),
        RawBsonRef::Array(a) => array(out, a, depth + 1),
        RawBsonRef::String(s) => text(out, s),
        RawBsonRef::Int32(n) => plain(out, &n),
        RawBsonRef::Int64(n) => plain(out, &n),
        RawBsonRef::Double(d) => scalar::double(out, d),
        RawBsonRef::Boolean(b) => plain(out, &b),
        RawBsonRef::Null => plain(out, &()),
        RawBsonRef::ObjectId(id) => {
            scalar::object_id(out, &id.bytes());
            Ok(())
        }
        RawBsonRef::DateTime(d) => datetime(out, d.timestamp_millis()),
        RawBsonRef::Timestamp(t) => scalar::timestamp(out, t),
        RawBsonRef::Binary(b) => {
            scalar::binary(out, b.subtype.into(), b.bytes);
            Ok(())
        }
        RawBsonRef::Decimal128(d) => wrapped(out, "$numberDecimal", &d.to_string()),
        RawBsonRef::RegularExpression(r) => {
            out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
            text(out, r.pattern.as_str())?;
            out.extend_from_slice(b",\"options\":");
            // The specification wants them in alphabetical order, whatever a client stored.
            let mut options: Vec<char> = r.options.as_str().chars().collect();
            options.sort_unstable();
            text(out, &options.into_iter().collect::<String>())?;
            out.extend_from_slice(b"}}");
            Ok(())
        }
        RawBsonRef::Symbol(s) => wrapped(out, "$symbol", s),
        RawBsonRef::JavaScriptCode(code) => wrapped(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(c) => {
            out.extend_from_slice(b"{\"$code\":");
            text(out, c.code)?;
            out.extend_from_slice(b",\"$scope\":");
            elements(out, c.scope, true, depth + 1)?;
            out.push(b'}');
            Ok(())
        }
        // Its parts are private to bson, whose own form is the one we want.
        RawBsonRef::DbPointer(p) => plain(out, &p),
        RawBsonRef::Undefined => wrapped(out, "$undefined", &true),
        RawBsonRef::MinKey => wrapped(out, "$minKey", &1),
        RawBsonRef::MaxKey => wrapped(out, "$maxKey", &1),
    }
}

fn wrapped(out: &mut Vec<u8>, name: &str, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    plain(out, value)?;
    out.push(b'}');
    Ok(())
}
