//! The elements of a raw BSON document, as bytes.
//!
//! The publisher reads two things of a document, names and the `_id`, at millions of documents a second, and it must cope
//! with names and texts that are not UTF-8 (old drivers wrote them). So it looks at the bytes only.

use oplogue_api::{Error, Result};

/// BSON element types that the publisher tells apart.
pub mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOL: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const REGEX: u8 = 0x0b;
    pub const INT32: u8 = 0x10;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL: u8 = 0x13;
}

/// One element of a document.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    /// The BSON type.
    pub kind: u8,
    /// The name, without its terminator.
    pub name: &'a [u8],
    /// The value as it is stored.
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// The bytes of a text value; `None` for another type.
    pub fn text(&self) -> Option<&'a [u8]> {
        if self.kind != kind::STRING {
            return None;
        }
        self.value.get(4..self.value.len().checked_sub(1)?)
    }
}

/// Walks over the elements of one document (or array), without going into them.
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// The elements of the document whose bytes these are, length prefix and terminator included.
    pub fn of(doc: &'a [u8]) -> Elements<'a> {
        let end = doc.len().saturating_sub(1);
        Elements { rest: doc.get(4..end).unwrap_or_default() }
    }

    fn take(&mut self) -> Option<Element<'a>> {
        let (&kind, rest) = self.rest.split_first()?;
        let end = rest.iter().position(|b| *b == 0)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let size = value_size(kind, rest)?;
        let value = rest.get(..size)?;
        self.rest = &rest[size..];
        Some(Element { kind, name, value })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>>;
    fn next(&mut self) -> Option<Result<Element<'a>>> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.take();
        if element.is_none() {
            self.rest = &[];
        }
        Some(element.ok_or_else(|| Error::data("a damaged BSON document")))
    }
}

fn length(bytes: &[u8]) -> Option<usize> {
    let n = i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    usize::try_from(n).ok()
}

/// How many bytes the value takes (bsonspec.org, version 1.1).
fn value_size(kind: u8, rest: &[u8]) -> Option<usize> {
    let text = |bytes: &[u8]| length(bytes).filter(|n| *n >= 1)?.checked_add(4);
    Some(match kind {
        kind::DOUBLE | kind::DATE | 0x11 | kind::INT64 => 8,
        kind::STRING | 0x0d | 0x0e => text(rest)?,
        kind::DOCUMENT | kind::ARRAY | 0x0f => length(rest).filter(|n| *n >= 5)?,
        kind::BINARY => length(rest)?.checked_add(5)?,
        kind::UNDEFINED | kind::NULL | 0x7f | 0xff => 0,
        kind::OBJECT_ID => 12,
        kind::BOOL => 1,
        kind::REGEX => {
            let pattern = rest.iter().position(|b| *b == 0)? + 1;
            pattern + rest.get(pattern..)?.iter().position(|b| *b == 0)? + 1
        }
        0x0c => text(rest)?.checked_add(12)?,
        kind::INT32 => 4,
        kind::DECIMAL => 16,
        _ => return None,
    })
}

/// The first element called `name`.
///
/// # Errors
/// `Data` when the document is damaged before it.
pub fn find<'a>(doc: &'a [u8], name: &str) -> Result<Option<Element<'a>>> {
    for element in Elements::of(doc) {
        let element = element?;
        if element.name == name.as_bytes() {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{
        Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc,
        oid::ObjectId, spec::BinarySubtype,
    };

    fn every_type() -> RawDocumentBuf {
        let all = doc! {
            "double": 1.5, "string": "s", "doc": {"a": 1}, "array": [1, "x"],
            "binary": Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] },
            "undefined": Bson::Undefined, "oid": ObjectId::from_bytes([7; 12]), "bool": true,
            "date": DateTime::from_millis(1), "null": Bson::Null,
            "regex": Bson::RegularExpression(Regex { pattern: "a+".try_into().unwrap(), options: "im".try_into().unwrap() }),
            "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("sym".into()),
            "scope": Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} }),
            "int32": 1, "timestamp": Timestamp { time: 1, increment: 2 }, "int64": 5i64,
            "decimal": "1.5".parse::<Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey,
            "last": "here",
        };
        RawDocumentBuf::try_from(&all).unwrap()
    }

    #[test]
    fn walks_over_every_type() {
        let doc = every_type();
        let names: Vec<_> = Elements::of(doc.as_bytes()).map(|e| e.unwrap().name.to_vec()).collect();
        let expected: Vec<_> = doc.iter_elements().map(|e| e.unwrap().key().as_str().as_bytes().to_vec()).collect();
        assert_eq!(names, expected);
        assert_eq!(find(doc.as_bytes(), "last").unwrap().unwrap().text(), Some(&b"here"[..]));
        assert!(find(doc.as_bytes(), "none").unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error_and_ends_the_walk() {
        let sound = every_type();
        for at in 4..sound.as_bytes().len() - 1 {
            for byte in [0u8, 1, 2, 0x7f, 0x80, 0xff] {
                let mut bytes = sound.as_bytes().to_vec();
                bytes[at] = byte;
                let mut steps = 0;
                for element in Elements::of(&bytes) {
                    steps += 1;
                    assert!(steps < 1000);
                    if element.is_err() {
                        break;
                    }
                }
            }
        }
        assert!(Elements::of(&[9, 0, 0, 0, 0x42, b'a', 0, 1, 0]).any(|e| e.is_err()));
        assert_eq!(Elements::of(&[]).count(), 0);
    }
}
