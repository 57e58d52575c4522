//! BSON as it lies in memory: each element is framed, and only what is asked for is looked into. The general iterator of the
//! crate `bson` checks each name twice more, which is a third of the time that decoding takes, and gives no value at all for a
//! text that is not UTF-8, which servers store and compare like any other.

use bson::{DateTime, RawBsonRef, RawDocument, Timestamp, spec::ElementType};

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
pub fn elements(doc: &RawDocument) -> Elements<'_> {
    Elements::new(doc.as_bytes())
}

/// An iterator over the elements of a document or array.
#[derive(Clone)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Between the length and the terminator.
    fn new(document: &'a [u8]) -> Elements<'a> {
        Elements(document.get(4..document.len().saturating_sub(1)).unwrap_or_default())
    }
}

/// An element whose value has the length that its type asks for.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// Its name, without the zero byte.
    pub name: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
}

/// A value: its type, and its bytes without type and name.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    kind: u8,
    bytes: &'a [u8],
}

// I8: as with `Doc`.
impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({:#04x}, {} bytes)", self.kind, self.bytes.len())
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Result<Element<'a>>> {
        let (&kind, rest) = self.0.split_first()?;
        let split = split(kind, rest);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(element, _)| element).ok_or_else(broken))
    }
}

#[inline]
fn split(kind: u8, bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (name, rest) = text(bytes)?;
    let (bytes, rest) = rest.split_at_checked(size(kind, rest)?)?;
    Some((Element { name, value: Value { kind, bytes } }, rest))
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

impl<'a> Value<'a> {
    /// A value from its type and its bytes.
    ///
    /// # Errors
    /// [`Data`](crate::ErrorKind::Data) when the bytes are not exactly those of one such value.
    pub fn new(kind: ElementType, bytes: &'a [u8]) -> Result<Value<'a>> {
        let kind = kind as u8;
        if size(kind, bytes) == Some(bytes.len()) { Ok(Value { kind, bytes }) } else { Err(broken()) }
    }
    /// The type; none for a byte that stands for no type.
    pub fn kind(&self) -> Option<ElementType> {
        ElementType::from(self.kind)
    }
    /// The bytes, as the specification of BSON lays them out for the type.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// The elements of a document or an array.
    pub fn elements(&self) -> Option<Elements<'a>> {
        matches!(self.kind, DOCUMENT | ARRAY).then(|| Elements::new(self.bytes))
    }
    /// The bytes of a string, symbol or code. They need not be UTF-8.
    pub fn text(&self) -> Option<&'a [u8]> {
        matches!(self.kind, STRING | SYMBOL | CODE).then(|| self.bytes.get(4..self.bytes.len() - 1).unwrap_or_default())
    }
    /// Pattern and options of a regular expression.
    pub fn regex(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.kind != REGEX {
            return None;
        }
        let (pattern, rest) = text(self.bytes)?;
        Some((pattern, text(rest)?.0))
    }
    /// Subtype and bytes of a binary.
    pub fn binary(&self) -> Option<(u8, &'a [u8])> {
        match self.bytes {
            [_, _, _, _, subtype, bytes @ ..] if self.kind == BINARY => Some((*subtype, bytes)),
            _ => None,
        }
    }
    /// Code and scope.
    pub(crate) fn scoped(&self) -> Option<(&'a [u8], Elements<'a>)> {
        if self.kind != CODE_WITH_SCOPE {
            return None;
        }
        let inside = self.bytes.get(4..)?;
        let (code, scope) = inside.split_at_checked(size(CODE, inside)?)?;
        Some((code.get(4..)?, Elements::new(scope)))
    }
    /// The bytes of a value of fixed size.
    pub(crate) fn array<const N: usize>(&self) -> Result<[u8; N]> {
        self.bytes.try_into().map_err(|_| broken())
    }

    /// The value, if it is of a type that something in an envelope has; null for any other.
    pub(crate) fn of_envelope(&self) -> Result<RawBsonRef<'a>> {
        Ok(match self.kind {
            DOCUMENT => RawBsonRef::Document(RawDocument::from_bytes(self.bytes).map_err(|_| broken())?),
            STRING => match self.bytes {
                [_, _, _, _, text @ .., 0] => RawBsonRef::String(std::str::from_utf8(text).map_err(|_| broken())?),
                _ => return Err(broken()),
            },
            BOOL => match self.bytes {
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
}

pub(crate) fn broken() -> Error {
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
        let ours: Vec<_> = elements(&raw).map(Result::unwrap).collect();
        let theirs: Vec<_> = raw.iter_elements().map(Result::unwrap).collect();
        assert_eq!(ours.len(), theirs.len());
        for (our, their) in ours.iter().zip(&theirs) {
            let name = their.key().as_str();
            assert_eq!(our.name, name.as_bytes());
            assert_eq!(our.value.bytes.len(), their.size(), "{name}");
            match (our.value.of_envelope().unwrap(), their.value().unwrap()) {
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
            for field in elements(raw) {
                match field {
                    Ok(field) => {
                        read += 2 + field.name.len() + field.value.bytes.len();
                        let _ = field.value.of_envelope();
                    }
                    Err(_) => read = bytes.len(),
                }
            }
            prop_assert!(read == bytes.len() || read == bytes.len() - 5);
        }
    }
}
