//! BSON as JavaScript sees it.
//!
//! Numbers become numbers (an int64 that a number cannot hold becomes a BigInt), dates become dates, and all that JavaScript has no type for
//! an object of the prelude. Documents, arrays and what cannot be shown remember where they came from, so that they can be written back
//! to the byte ([`Origins`]).

use bson::spec::ElementType;
use bytes::Bytes;
use oplogue_api::{
    Doc,
    raw::{Elements, Value as Raw},
};
use rquickjs::{Array, Ctx, Exception, Function, Object, Result, String as Text, Symbol, Value, object::Property};

/// Deeper than any server nests documents.
pub const DEEPEST: usize = 200;

/// The largest whole number up to which a double holds all.
pub const SAFE: i64 = (1 << 53) - 1;

/// Where the values of the present event came from. Numbers are never used twice, so that a value that was kept from an earlier event is
/// known for one.
#[derive(Default)]
pub struct Origins {
    first: u32,
    all: Vec<(ElementType, Bytes)>,
}

impl Origins {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.first = self.first.wrapping_add(self.all.len() as u32);
        self.all.clear();
    }
    fn add(&mut self, kind: ElementType, bytes: Bytes) -> u32 {
        self.all.push((kind, bytes));
        self.first.wrapping_add(self.all.len() as u32 - 1)
    }
    /// The value of a number.
    pub fn get(&self, number: u32) -> Option<(ElementType, Bytes)> {
        self.all.get(number.wrapping_sub(self.first) as usize).cloned()
    }
}

/// What the prelude has for reading and writing.
pub struct Tools<'js> {
    pub origin: Symbol<'js>,
    pub kind_of: Function<'js>,
    pub make: Function<'js>,
    pub fits: Function<'js>,
    pub time: Function<'js>,
    pub hex: Function<'js>,
}

impl<'js> Tools<'js> {
    pub fn new(from: &Object<'js>) -> Result<Tools<'js>> {
        Ok(Tools {
            origin: from.get("origin")?,
            kind_of: from.get("kindOf")?,
            make: from.get("make")?,
            fits: from.get("fits")?,
            time: from.get("time")?,
            hex: from.get("hex")?,
        })
    }
}

/// Reads the values of one document.
pub struct Reader<'a, 'js> {
    pub ctx: &'a Ctx<'js>,
    pub tools: &'a Tools<'js>,
    pub origins: &'a mut Origins,
    pub document: &'a Doc,
}

impl<'js> Reader<'_, 'js> {
    /// The document as an object.
    ///
    /// # Errors
    /// An exception, when it is damaged or memory is out.
    pub fn root(&mut self) -> Result<Value<'js>> {
        let document = self.document.clone();
        let Ok(raw) = Raw::new(ElementType::EmbeddedDocument, document.as_bytes()) else { return Err(self.damaged()) };
        self.value(raw, 0)
    }

    fn damaged(&self) -> rquickjs::Error {
        Exception::throw_type(self.ctx, "the event holds damaged BSON")
    }

    fn value(&mut self, raw: Raw<'_>, depth: usize) -> Result<Value<'js>> {
        let Some(kind) = raw.kind() else { return Err(self.damaged()) };
        let bytes = raw.bytes();
        let number = || bytes.first_chunk::<8>().map(|b| i64::from_le_bytes(*b)).unwrap_or_default();
        let ctx = self.ctx.clone();
        Ok(match kind {
            ElementType::Null => Value::new_null(ctx),
            ElementType::Boolean => Value::new_bool(ctx, bytes.first() == Some(&1)),
            ElementType::Double => Value::new_float(ctx, f64::from_bits(number() as u64)),
            ElementType::Int32 => {
                Value::new_int(ctx, bytes.first_chunk::<4>().map(|b| i32::from_le_bytes(*b)).unwrap_or_default())
            }
            ElementType::Int64 => match number() {
                n if n.abs_diff(0) <= SAFE as u64 => Value::new_number(ctx, n as f64),
                n => Value::new_big_int(ctx, n)?,
            },
            ElementType::String => match raw.text().map(std::str::from_utf8) {
                Some(Ok(text)) => Text::from_str(ctx, text)?.into_value(),
                _ => self.opaque(kind, bytes, "String")?,
            },
            ElementType::EmbeddedDocument if depth < DEEPEST => self.document(raw, depth)?,
            ElementType::Array if depth < DEEPEST => {
                let array = Array::new(ctx)?;
                for (i, element) in raw.elements().into_iter().flatten().enumerate() {
                    let element = element.map_err(|_| self.damaged())?;
                    array.set(i, self.value(element.value, depth + 1)?)?;
                }
                self.remember(array.as_object(), kind, bytes)?;
                array.into_value()
            }
            ElementType::DateTime => match number() {
                // What a Date can hold.
                ms if ms.abs_diff(0) <= 8_640_000_000_000_000 => self.tools.make.call((0x09, ms as f64))?,
                _ => self.opaque(kind, bytes, "Date")?,
            },
            ElementType::ObjectId => self.tools.make.call((0x07, hex(bytes)))?,
            ElementType::Timestamp => {
                let both = number() as u64;
                self.tools.make.call((0x11, (both >> 32) as f64, f64::from(both as u32)))?
            }
            ElementType::Decimal128 => self.tools.make.call((0x13, hex(bytes)))?,
            ElementType::Binary => match raw.binary() {
                Some((subtype, _)) => {
                    let object: Object<'js> = self.tools.make.call((0x05, i32::from(subtype)))?;
                    self.remember(&object, kind, bytes)?;
                    object.into_value()
                }
                None => return Err(self.damaged()),
            },
            ElementType::RegularExpression => {
                match raw.regex().map(|(p, o)| (std::str::from_utf8(p), std::str::from_utf8(o))) {
                    Some((Ok(pattern), Ok(options))) => self.tools.make.call((0x0b, pattern, options))?,
                    _ => self.opaque(kind, bytes, "BSONRegExp")?,
                }
            }
            ElementType::MinKey => self.tools.make.call((0xff,))?,
            ElementType::MaxKey => self.tools.make.call((0x7f,))?,
            ElementType::JavaScriptCode | ElementType::JavaScriptCodeWithScope => self.opaque(kind, bytes, "Code")?,
            ElementType::Symbol => self.opaque(kind, bytes, "BSONSymbol")?,
            ElementType::DbPointer => self.opaque(kind, bytes, "DBRef")?,
            ElementType::Undefined => self.opaque(kind, bytes, "Undefined")?,
            ElementType::EmbeddedDocument => self.opaque(kind, bytes, "Document")?,
            ElementType::Array => self.opaque(kind, bytes, "Array")?,
        })
    }

    fn document(&mut self, raw: Raw<'_>, depth: usize) -> Result<Value<'js>> {
        let Some(elements) = raw.elements() else { return Err(self.damaged()) };
        if !can_be_shown(elements.clone()) {
            return self.opaque(ElementType::EmbeddedDocument, raw.bytes(), "Document");
        }
        let object = Object::new(self.ctx.clone())?;
        for element in elements {
            let element = element.map_err(|_| self.damaged())?;
            let name = std::str::from_utf8(element.name).map_err(|_| self.damaged())?;
            let value = self.value(element.value, depth + 1)?;
            if name == "__proto__" {
                object.prop(name, Property::from(value).writable().enumerable().configurable())?;
            } else {
                object.set(name, value)?;
            }
        }
        self.remember(&object, ElementType::EmbeddedDocument, raw.bytes())?;
        Ok(object.into_value())
    }

    fn remember(&mut self, object: &Object<'js>, kind: ElementType, bytes: &[u8]) -> Result<()> {
        let number = self.origins.add(kind, self.document.bytes().slice_ref(bytes));
        object.prop(self.tools.origin.clone(), f64::from(number))
    }

    /// What a script can pass on, and no more.
    fn opaque(&mut self, kind: ElementType, bytes: &[u8], name: &str) -> Result<Value<'js>> {
        let object: Object<'js> = self.tools.make.call((0x100, name))?;
        self.remember(&object, kind, bytes)?;
        Ok(object.into_value())
    }
}

/// Whether an object can have these fields: no name comes twice, and all are UTF-8. What is damaged is found where it is read.
fn can_be_shown(elements: Elements<'_>) -> bool {
    let mut names: Vec<&[u8]> = elements.filter_map(std::result::Result::ok).map(|element| element.name).collect();
    if names.iter().any(|name| std::str::from_utf8(name).is_err()) {
        return false;
    }
    if names.len() <= 16 {
        return (1..names.len()).all(|i| !names[..i].contains(&names[i]));
    }
    names.sort_unstable();
    names.windows(2).all(|two| two[0] != two[1])
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}
