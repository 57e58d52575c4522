//! The elements of a document, for envelopes: each is framed, and only what is asked for is looked into. The general
//! iterator checks each name twice more, which is a third of the time that decoding takes.

use bson::{DateTime, RawBsonRef, RawDocument, Timestamp};

use super::damaged;
use crate::{Error, Result};

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BINARY: u8 = 0x05;
const UNDEFINED: u8 = 0x06;
const OBJECT_ID: u8 = 0x07;
const BOOL: u8 = 0x08;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0a;
const REGEX: u8 = 0x0b;
const DB_POINTER: u8 = 0x0c;
const CODE: u8 = 0x0d;
const SYMBOL: u8 = 0x0e;
const CODE_WITH_SCOPE: u8 = 0x0f;
const INT32: u8 = 0x10;
const TIMESTAMP: u8 = 0x11;
const INT64: u8 = 0x12;
const DECIMAL: u8 = 0x13;
const MAX_KEY: u8 = 0x7f;
const MIN_KEY: u8 = 0xff;

/// The elements of `doc`; an error ends them.
pub(super) fn fields(doc: &RawDocument) -> Fields<'_> {
    let bytes = doc.as_bytes();
    // Between the length and the terminator, which a RawDocument is known to have.
    Fields(bytes.get(4..bytes.len().saturating_sub(1)).unwrap_or_default())
}

pub(super) struct Fields<'a>(&'a [u8]);

/// An element whose value has the length that its type asks for.
pub(super) struct Field<'a> {
    pub name: &'a [u8],
    kind: u8,
    value: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>>;

    fn next(&mut self) -> Option<Result<Field<'a>>> {
        let (&kind, rest) = self.0.split_first()?;
        let split = split(kind, rest);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(field, _)| field).ok_or_else(broken))
    }
}

fn split(kind: u8, bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (name, rest) = text(bytes)?;
    let (value, rest) = rest.split_at_checked(size(kind, rest)?)?;
    Some((Field { name, kind, value }, rest))
}

/// What is before the first zero byte, and what is behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The size of a value at the beginning of `bytes`.
fn size(kind: u8, bytes: &[u8]) -> Option<usize> {
    let length = || usize::try_from(i32::from_le_bytes(*bytes.first_chunk()?)).ok();
    Some(match kind {
        NULL | UNDEFINED | MIN_KEY | MAX_KEY => 0,
        BOOL => 1,
        INT32 => 4,
        DOUBLE | DATE | TIMESTAMP | INT64 => 8,
        OBJECT_ID => 12,
        DECIMAL => 16,
        // The length counts itself.
        DOCUMENT | ARRAY | CODE_WITH_SCOPE => length().filter(|n| *n >= 5)?,
        STRING | CODE | SYMBOL => 4 + length().filter(|n| *n >= 1)?,
        BINARY => 5 + length()?,
        DB_POINTER => 16 + length()?,
        REGEX => bytes.len() - text(text(bytes)?.1)?.1.len(),
        _ => return None,
    })
}

impl<'a> Field<'a> {
    /// The value, if it is of a type that something in an envelope has; null for any other.
    pub fn value(&self) -> Result<RawBsonRef<'a>> {
        Ok(match self.kind {
            DOCUMENT => RawBsonRef::Document(RawDocument::from_bytes(self.value).map_err(damaged)?),
            STRING => match self.value {
                [_, _, _, _, text @ .., 0] => RawBsonRef::String(std::str::from_utf8(text).map_err(|_| broken())?),
                _ => return Err(broken()),
            },
            BOOL => match self.value {
                [0] => RawBsonRef::Boolean(false),
                [1] => RawBsonRef::Boolean(true),
                _ => return Err(broken()),
            },
            INT32 => RawBsonRef::Int32(i32::from_le_bytes(self.array()?)),
            INT64 => RawBsonRef::Int64(i64::from_le_bytes(self.array()?)),
            DOUBLE => RawBsonRef::Double(f64::from_le_bytes(self.array()?)),
            DATE => RawBsonRef::DateTime(DateTime::from_millis(i64::from_le_bytes(self.array()?))),
            TIMESTAMP => {
                let both = u64::from_le_bytes(self.array()?);
                RawBsonRef::Timestamp(Timestamp { time: (both >> 32) as u32, increment: both as u32 })
            }
            _ => RawBsonRef::Null,
        })
    }

    fn array<const N: usize>(&self) -> Result<[u8; N]> {
        self.value.try_into().map_err(|_| broken())
    }
}

fn broken() -> Error {
    Error::data("damaged BSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{
        Binary, Bson, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, doc, oid::ObjectId,
        spec::BinarySubtype,
    };
    use proptest::prelude::*;

    /// One field of every type, in front of one that is found only when all are framed rightly.
    fn all_types() -> RawDocumentBuf {
        let regex = Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() };
        let document = doc! {
            "double": 1.5, "string": "text", "document": {"a": 1}, "array": [1, "b"],
            "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] },
            "undefined": Bson::Undefined, "oid": ObjectId::from_bytes([7; 12]), "bool": true,
            "date": DateTime::from_millis(-5), "null": null, "regex": regex,
            "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()),
            "scope": JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} },
            "int": 7, "timestamp": Timestamp { time: 4_000_000_000, increment: 9 }, "long": 1_i64 << 40,
            "decimal": Decimal128::from_bytes([1; 16]), "min": Bson::MinKey, "max": Bson::MaxKey,
        };
        let mut bytes = RawDocumentBuf::try_from(&document).unwrap().into_bytes();
        bytes.pop();
        // One that the crate lets nobody make.
        bytes.extend(b"\x0cpointer\0\x04\0\0\0a.b\0twelve bytes\x08last\0\x01\0");
        let length = bytes.len() as i32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        RawDocumentBuf::from_bytes(bytes).unwrap()
    }

    #[test]
    fn every_type_is_framed_as_the_general_iterator_frames_it() {
        let raw = all_types();
        let ours: Vec<_> = fields(&raw).map(Result::unwrap).collect();
        let theirs: Vec<_> = raw.iter_elements().map(Result::unwrap).collect();
        assert_eq!(ours.len(), theirs.len());
        for (our, their) in ours.iter().zip(&theirs) {
            let name = their.key().as_str();
            assert_eq!(our.name, name.as_bytes());
            assert_eq!(our.value.len(), their.size(), "{name}");
            match (our.value().unwrap(), their.value().unwrap()) {
                (RawBsonRef::Null, _) => assert!(!matches!(
                    name,
                    "double" | "string" | "document" | "bool" | "date" | "int" | "timestamp" | "long" | "last"
                )),
                (ours, theirs) => assert_eq!(ours, theirs, "{name}"),
            }
        }
    }

    proptest! {
        /// What is damaged is an error or other fields, never a panic, and never a field that reaches too far.
        #[test]
        fn damage_ends_in_an_error(at in 4usize..400, byte in any::<u8>()) {
            let mut bytes = all_types().into_bytes();
            let at = 4 + at % (bytes.len() - 5);
            bytes[at] = byte;
            let raw = RawDocument::from_bytes(&bytes).unwrap();
            let mut read = 0;
            for field in fields(raw) {
                match field {
                    Ok(field) => {
                        read += 2 + field.name.len() + field.value.len();
                        let _ = field.value();
                    }
                    Err(_) => read = bytes.len(),
                }
            }
            prop_assert!(read == bytes.len() || read == bytes.len() - 5);
        }
    }
}
