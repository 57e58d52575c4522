//! The `_id` of a document: how its channel ends, and how a message says it.

use crate::{
    json::{write_hex, write_text},
    number::write_number,
    raw::{Element, kind},
};

/// The number that a value is, as JavaScript's driver gives it to Meteor.
pub fn number(value: &Element<'_>) -> Option<f64> {
    match value.kind {
        kind::DOUBLE => value.value.try_into().ok().map(f64::from_le_bytes),
        kind::INT32 => value.value.try_into().ok().map(|v| f64::from(i32::from_le_bytes(v))),
        kind::INT64 => value.value.try_into().ok().map(|v| i64::from_le_bytes(v) as f64),
        _ => None,
    }
}

/// Appends what `MongoID.idStringify` makes of the id; `false` for a type that it refuses.
pub fn write_suffix(out: &mut Vec<u8>, id: &Element<'_>) -> bool {
    match id.kind {
        kind::STRING => {
            let text = id.text().unwrap_or_default();
            let like_object_id = text.len() == 24 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if like_object_id || matches!(text.first(), Some(b'-' | b'~' | b'{')) {
                out.push(b'-');
            }
            out.extend_from_slice(text);
        }
        kind::OBJECT_ID => write_hex(out, id.value),
        kind::BOOL => out.extend_from_slice(if id.value == [0] { b"~false" } else { b"~true" }),
        kind::NULL => out.extend_from_slice(b"~null"),
        _ => match number(id) {
            Some(d) if d.is_finite() => {
                out.push(b'~');
                write_number(out, d);
            }
            // JSON.stringify(NaN)
            Some(_) => out.extend_from_slice(b"~null"),
            None => return false,
        },
    }
    true
}

/// Appends a value as EJSON, if it is of a type that an id may have ([`write_suffix`] knows it); `null` for others.
pub fn write_id(out: &mut Vec<u8>, id: &Element<'_>) {
    match id.kind {
        kind::STRING => write_text(out, id.text().unwrap_or_default()),
        kind::OBJECT_ID => {
            out.extend_from_slice(b"{\"$type\":\"oid\",\"$value\":\"");
            write_hex(out, id.value);
            out.extend_from_slice(b"\"}");
        }
        kind::BOOL => out.extend_from_slice(if id.value == [0] { b"false" } else { b"true" }),
        _ => match number(id) {
            Some(d) if d.is_finite() => write_number(out, d),
            Some(d) => out.extend_from_slice(match d {
                f64::INFINITY => b"{\"$InfNaN\":1}",
                f64::NEG_INFINITY => b"{\"$InfNaN\":-1}",
                _ => b"{\"$InfNaN\":0}",
            }),
            None => out.extend_from_slice(b"null"),
        },
    }
}
