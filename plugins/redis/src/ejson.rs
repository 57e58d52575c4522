//! Whole documents as Meteor's EJSON: what a subscriber makes of the text equals what its own read of the document gives.
//!
//! A value that has no EJSON form, or one that could end the subscriber's process when it is read, is an error: a document is sent
//! as it is or not at all.

use bson::Decimal128;
use oplogue_api::{Error, Result};

use crate::{
    id::write_id,
    json::write_text,
    number::write_number,
    raw::{Element, Elements, kind},
    regexp,
};

/// MongoDB nests documents 200 levels deep at most.
const DEEPEST: usize = 250;

/// Appends a document.
///
/// # Errors
/// `Data` when it holds something that EJSON cannot say, or is damaged. The output is then incomplete.
pub fn write_document(out: &mut Vec<u8>, doc: &[u8]) -> Result<()> {
    document(out, doc, 0)
}

fn document(out: &mut Vec<u8>, doc: &[u8], depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(unsayable("documents that are nested too deep"));
    }
    match shape(doc)? {
        Shape::Plain => fields(out, doc, depth),
        Shape::Special => {
            out.extend_from_slice(b"{\"$escape\":");
            fields(out, doc, depth)?;
            out.push(b'}');
            Ok(())
        }
        Shape::Custom(name, value) => {
            out.extend_from_slice(b"{\"$type\":");
            write_text(out, name);
            out.extend_from_slice(b",\"$value\":");
            custom(out, &value, depth)?;
            out.push(b'}');
            Ok(())
        }
    }
}

fn fields(out: &mut Vec<u8>, doc: &[u8], depth: usize) -> Result<()> {
    out.push(b'{');
    list(out, doc, |out, field| {
        write_text(out, field.name);
        out.push(b':');
        value(out, &field, depth)
    })?;
    out.push(b'}');
    Ok(())
}

/// Writes the elements with commas between.
fn list<'a>(
    out: &mut Vec<u8>,
    doc: &'a [u8],
    mut write: impl FnMut(&mut Vec<u8>, Element<'a>) -> Result<()>,
) -> Result<()> {
    for (n, element) in Elements::of(doc).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(out, element?)?;
    }
    Ok(())
}

fn value(out: &mut Vec<u8>, field: &Element<'_>, depth: usize) -> Result<()> {
    match field.kind {
        kind::STRING | kind::OBJECT_ID | kind::BOOL | kind::NULL | kind::DOUBLE | kind::INT32 | kind::INT64 => {
            write_id(out, field);
        }
        kind::DOCUMENT => document(out, field.value, depth + 1)?,
        kind::ARRAY => {
            if depth >= DEEPEST {
                return Err(unsayable("arrays that are nested too deep"));
            }
            out.push(b'[');
            list(out, field.value, |out, element| value(out, &element, depth + 1))?;
            out.push(b']');
        }
        kind::DATE => {
            let millis = field.value.try_into().map(i64::from_le_bytes).unwrap_or_default();
            out.extend_from_slice(b"{\"$date\":");
            write_number(out, millis as f64);
            out.push(b'}');
        }
        kind::BINARY => match field.value {
            [_, _, _, _, 0, bytes @ ..] => {
                out.extend_from_slice(b"{\"$binary\":\"");
                base64(out, bytes);
                out.extend_from_slice(b"\"}");
            }
            _ => return Err(unsayable("binary values of a subtype other than 0, such as UUIDs")),
        },
        kind::DECIMAL => {
            let bytes = field.value.try_into().map_err(|_| Error::data("a damaged BSON document"))?;
            out.extend_from_slice(b"{\"$type\":\"Decimal\",\"$value\":");
            write_text(out, Decimal128::from_bytes(bytes).to_string().as_bytes());
            out.push(b'}');
        }
        kind::REGEX => {
            let mut parts = field.value.split(|b| *b == 0);
            let (pattern, options) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if !regexp::compiles(pattern) {
                return Err(unsayable("regular expressions that may not be ones in JavaScript"));
            }
            out.extend_from_slice(b"{\"$regexp\":");
            write_text(out, pattern);
            out.extend_from_slice(b",\"$flags\":\"");
            out.extend(options.iter().filter_map(|option| regexp::flag(*option)));
            out.extend_from_slice(b"\"}");
        }
        other => return Err(unsayable(type_name(other))),
    }
    Ok(())
}

/// What EJSON would take a document for.
enum Shape<'a> {
    Plain,
    /// One of its own notations: a document of a user that looks like one must be told apart.
    Special,
    /// A value of a type that the app has defined, in the form in which Meteor stores it.
    Custom(&'a [u8], Element<'a>),
}

fn shape(doc: &[u8]) -> Result<Shape<'_>> {
    let mut elements = Elements::of(doc);
    let (first, second) = (elements.next().transpose()?, elements.next().transpose()?);
    let Some(first) = first else { return Ok(Shape::Plain) };
    let Some(second) = second else {
        let special = matches!(first.name, b"$date" | b"$InfNaN" | b"$binary" | b"$escape");
        return Ok(if special { Shape::Special } else { Shape::Plain });
    };
    if elements.next().is_some() {
        return Ok(Shape::Plain);
    }
    let (low, high) = if first.name <= second.name { (first, second) } else { (second, first) };
    match (low.name, high.name) {
        (b"$flags", b"$regexp") | (b"$type", b"$value") => Ok(Shape::Special),
        (b"EJSON$type", b"EJSON$value") if is_truthy(&low) && is_truthy(&high) => match low.text() {
            Some(name) => Ok(Shape::Custom(name, high)),
            None => Err(unsayable("values with an EJSON$type that is no text")),
        },
        _ => Ok(Shape::Plain),
    }
}

/// As JavaScript judges.
fn is_truthy(value: &Element<'_>) -> bool {
    match value.kind {
        kind::NULL | kind::UNDEFINED => false,
        kind::BOOL => value.value != [0],
        kind::STRING => value.text().is_some_and(|text| !text.is_empty()),
        _ => crate::id::number(value).is_none_or(|d| d != 0.0 && !d.is_nan()),
    }
}

/// The value of a type that the app has defined: plain JSON, with `EJSON` before each name.
fn custom(out: &mut Vec<u8>, field: &Element<'_>, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(unsayable("documents that are nested too deep"));
    }
    match field.kind {
        kind::STRING | kind::BOOL | kind::NULL => write_id(out, field),
        kind::DOUBLE | kind::INT32 | kind::INT64 if crate::id::number(field).is_some_and(f64::is_finite) => {
            write_id(out, field);
        }
        kind::DOCUMENT => {
            out.push(b'{');
            list(out, field.value, |out, inner| {
                let name = inner.name.strip_prefix(b"EJSON").ok_or_else(not_by_meteor)?;
                write_text(out, name);
                out.push(b':');
                custom(out, &inner, depth + 1)
            })?;
            out.push(b'}');
        }
        kind::ARRAY => {
            out.push(b'[');
            list(out, field.value, |out, element| custom(out, &element, depth + 1))?;
            out.push(b']');
        }
        _ => return Err(not_by_meteor()),
    }
    Ok(())
}

fn not_by_meteor() -> Error {
    unsayable("values with an EJSON$type that Meteor did not write")
}

fn type_name(kind: u8) -> &'static str {
    match kind {
        kind::UNDEFINED => "undefined values",
        0x0c => "DBPointers",
        0x0d | 0x0f => "JavaScript code",
        0x0e => "symbols",
        0x11 => "timestamps",
        0xff => "MinKeys",
        0x7f => "MaxKeys",
        _ => "values of an unknown type",
    }
}

/// I8: names the type, never the value.
fn unsayable(what: &str) -> Error {
    Error::data(format!("the document cannot be sent whole: EJSON has no safe form for {what}")).hint(
        "take such fields out in a transform, set document = \"id\" for this collection, or let on_bad_event pass over it",
    )
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let group = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        let digit = |n: u32| DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
        out.push(digit(0));
        out.push(digit(1));
        out.push(if chunk.len() > 1 { digit(2) } else { b'=' });
        out.push(if chunk.len() > 2 { digit(3) } else { b'=' });
    }
}

#[cfg(test)]
#[path = "ejson_tests.rs"]
mod tests;
