//! Extended JSON as Debezium writes documents: the older, strict form, with `{"$numberLong": "7"}`, dates in milliseconds and binaries as
//! base64 beside their type.

use std::fmt::Write;

use oplogue_api::{
    Error, Result,
    bson::{Decimal128, spec::ElementType},
    raw::{Elements, Value},
};

use super::tree::DEEPEST;

/// Appends a document.
pub(super) fn document(out: &mut String, elements: Elements<'_>) -> Result<()> {
    members(out, elements, true, 0)
}

fn members(out: &mut String, elements: Elements<'_>, has_names: bool, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::data("a document nests too deep to be written"));
    }
    out.push(if has_names { '{' } else { '[' });
    for (i, element) in elements.enumerate() {
        let element = element?;
        if i > 0 {
            out.push_str(", ");
        }
        if has_names {
            text(out, element.name)?;
            out.push_str(": ");
        }
        value(out, element.value, depth)?;
    }
    out.push(if has_names { '}' } else { ']' });
    Ok(())
}

/// A text in quotes. What is no UTF-8 has a replacement character: there is no way to say it.
fn text(out: &mut String, text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    out.push_str(&serde_json::to_string(&*text).map_err(|_| Error::bug("a text is no JSON"))?);
    Ok(())
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Error::data("damaged BSON"))
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes anything.
    let _ = out.write_fmt(text);
}

fn value(out: &mut String, value: Value<'_>, depth: usize) -> Result<()> {
    let bytes = value.bytes();
    if let Some(elements) = value.elements() {
        return members(out, elements, value.kind() != Some(ElementType::Array), depth + 1);
    }
    match value.kind().ok_or_else(|| Error::data("damaged BSON"))? {
        ElementType::String => text(out, value.text().unwrap_or_default())?,
        ElementType::Int32 => put(out, format_args!("{}", i32::from_le_bytes(array(bytes)?))),
        ElementType::Int64 => put(out, format_args!("{{\"$numberLong\": \"{}\"}}", i64::from_le_bytes(array(bytes)?))),
        ElementType::Double => double(out, f64::from_le_bytes(array(bytes)?)),
        ElementType::Decimal128 => {
            put(out, format_args!("{{\"$numberDecimal\": \"{}\"}}", Decimal128::from_bytes(array(bytes)?)));
        }
        ElementType::Boolean => out.push_str(if bytes == [0] { "false" } else { "true" }),
        ElementType::Null => out.push_str("null"),
        ElementType::DateTime => put(out, format_args!("{{\"$date\": {}}}", i64::from_le_bytes(array(bytes)?))),
        ElementType::ObjectId => {
            out.push_str("{\"$oid\": \"");
            bytes.iter().for_each(|byte| put(out, format_args!("{byte:02x}")));
            out.push_str("\"}");
        }
        ElementType::Binary => {
            let (subtype, bytes) = value.binary().ok_or_else(|| Error::data("damaged BSON"))?;
            out.push_str("{\"$binary\": \"");
            base64(out, bytes);
            put(out, format_args!("\", \"$type\": \"{subtype:02x}\"}}"));
        }
        ElementType::Timestamp => {
            let both = u64::from_le_bytes(array(bytes)?);
            put(out, format_args!("{{\"$timestamp\": {{\"t\": {}, \"i\": {}}}}}", both >> 32, both as u32));
        }
        ElementType::RegularExpression => {
            let (pattern, options) = value.regex().ok_or_else(|| Error::data("damaged BSON"))?;
            out.push_str("{\"$regex\": ");
            text(out, pattern)?;
            out.push_str(", \"$options\": ");
            text(out, options)?;
            out.push('}');
        }
        ElementType::JavaScriptCode => tagged(out, "$code", value.text().unwrap_or_default())?,
        ElementType::Symbol => tagged(out, "$symbol", value.text().unwrap_or_default())?,
        ElementType::Undefined => out.push_str("{\"$undefined\": true}"),
        ElementType::MinKey => out.push_str("{\"$minKey\": 1}"),
        ElementType::MaxKey => out.push_str("{\"$maxKey\": 1}"),
        kind => return Err(Error::data(format!("a value of the type {kind:?} has no form in this envelope"))),
    }
    Ok(())
}

fn tagged(out: &mut String, tag: &str, inner: &[u8]) -> Result<()> {
    put(out, format_args!("{{\"{tag}\": "));
    text(out, inner)?;
    out.push('}');
    Ok(())
}

fn double(out: &mut String, d: f64) {
    if d.is_finite() {
        put(out, format_args!("{d:?}"));
    } else {
        let name = if d.is_nan() {
            "NaN"
        } else if d > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        put(out, format_args!("{{\"$numberDouble\": \"{name}\"}}"));
    }
}

fn base64(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}
