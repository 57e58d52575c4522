//! JavaScript as BSON.
//!
//! A value that stands where one of the same meaning stood is written as that one was, to the byte; a number in the place of a number keeps its
//! type where that can hold it; fields that were there keep their place. A document or array that moved is known by its origin.

use bson::spec::ElementType;
use oplogue_api::raw::{Element, Value as Raw};
use rquickjs::{Array, Error, Object, Value};

use super::read::{DEEPEST, Origins, SAFE, Tools, unhex};

/// What a server takes.
pub const LARGEST: usize = 16 << 20;

/// Why a value cannot be written.
#[derive(Debug)]
pub enum Unwritable {
    /// Reading it threw, or ran into a limit: the exception is in the context.
    Thrown,
    /// It has no form in BSON: why, and the path from the document down to it.
    Value(String, Vec<String>),
}

impl From<Error> for Unwritable {
    fn from(e: Error) -> Unwritable {
        match e {
            Error::Utf8(_) => wrong("a text with half of a surrogate pair is not Unicode"),
            Error::Exception | Error::Allocation => Unwritable::Thrown,
            _ => wrong("an object of a BSON type was damaged"),
        }
    }
}

fn wrong(what: impl Into<String>) -> Unwritable {
    Unwritable::Value(what.into(), Vec::new())
}

type Result<T> = std::result::Result<T, Unwritable>;

pub struct Writer<'a, 'js> {
    pub tools: &'a Tools<'js>,
    pub origins: &'a Origins,
    pub out: Vec<u8>,
}

impl<'js> Writer<'_, 'js> {
    /// Writes a document that stands in the place of `old`.
    ///
    /// # Errors
    /// [`Unwritable`]; what is in `out` is of no use then.
    pub fn document(&mut self, value: &Value<'js>, old: Option<Raw<'_>>) -> Result<()> {
        let kind = self.kind(value)?;
        // A whole document that could not be shown (a name twice) goes on as it was.
        if kind == Some(Kind::Opaque) {
            let (kind, bytes) = self.origin(value)?;
            if kind == ElementType::EmbeddedDocument {
                self.out.extend_from_slice(&bytes);
                return Ok(());
            }
        }
        if kind != Some(Kind::Document) {
            return Err(wrong("must be a document, an object"));
        }
        self.fields(value, old, 0)
    }

    /// Writes type, name and value; nothing for `undefined`.
    fn element(&mut self, name: &str, value: &Value<'js>, old: Option<Raw<'_>>, depth: usize) -> Result<()> {
        if name.contains('\0') {
            return Err(wrong("a name with a zero byte is none in BSON"));
        }
        let start = self.out.len();
        self.out.push(0);
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        let kind = self.value(value, old, depth).map_err(|e| match e {
            Unwritable::Value(what, mut path) => {
                path.insert(0, name.to_owned());
                Unwritable::Value(what, path)
            }
            thrown => thrown,
        })?;
        match kind {
            Some(kind) => self.out[start] = kind as u8,
            None => self.out.truncate(start),
        }
        if self.out.len() > LARGEST { Err(wrong("the document is larger than 16 MiB")) } else { Ok(()) }
    }

    /// Writes a value and tells its type; none for `undefined`.
    fn value(&mut self, value: &Value<'js>, old: Option<Raw<'_>>, depth: usize) -> Result<Option<ElementType>> {
        if depth > DEEPEST {
            return Err(wrong("it is nested deeper than 200 levels, or holds itself"));
        }
        if value.is_undefined() {
            return Ok(None);
        }
        if value.is_null() {
            return Ok(Some(ElementType::Null));
        }
        if let Some(is) = value.as_bool() {
            self.out.push(is.into());
            return Ok(Some(ElementType::Boolean));
        }
        if let Some(n) = value.as_number() {
            return Ok(Some(self.number(n, old)));
        }
        if let Some(n) = value.as_big_int() {
            if !self.tools.fits.call::<_, bool>((n.clone(),))? {
                return Err(wrong("a BigInt of more than 64 bits has no form in BSON"));
            }
            self.out.extend_from_slice(&n.clone().to_i64()?.to_le_bytes());
            return Ok(Some(ElementType::Int64));
        }
        if let Some(text) = value.as_string() {
            let text = text.to_string()?;
            self.text(text.as_bytes());
            return Ok(Some(ElementType::String));
        }
        if let Some(array) = value.as_array() {
            self.array(array, old, depth)?;
            return Ok(Some(ElementType::Array));
        }
        match self.kind(value)? {
            Some(Kind::Document) => {
                self.fields(value, old, depth)?;
                Ok(Some(ElementType::EmbeddedDocument))
            }
            Some(kind) => self.object(kind, value).map(Some),
            None => Err(wrong(
                "a function, symbol, Map, Set, RegExp or object of a class of the script has no form in BSON",
            )),
        }
    }

    /// A number in the place of a number keeps its type, where that holds it; another one is an int32 or a double.
    fn number(&mut self, n: f64, old: Option<Raw<'_>>) -> ElementType {
        let is_whole = n.trunc() == n && !(n == 0.0 && n.is_sign_negative());
        let int32 = is_whole && f64::from(i32::MIN) <= n && n <= f64::from(i32::MAX);
        match old.and_then(|raw| Some((raw.kind()?, raw.bytes()))) {
            Some((ElementType::Double, bytes)) => {
                let was = bytes.first_chunk().map(|b| f64::from_le_bytes(*b));
                match was {
                    // There are many of them, and JavaScript knows one.
                    Some(was) if was.is_nan() && n.is_nan() => self.out.extend_from_slice(bytes),
                    _ => self.out.extend_from_slice(&n.to_le_bytes()),
                }
                ElementType::Double
            }
            Some((ElementType::Int64, _)) if is_whole && n.abs() <= SAFE as f64 => {
                self.out.extend_from_slice(&(n as i64).to_le_bytes());
                ElementType::Int64
            }
            _ if int32 => {
                self.out.extend_from_slice(&(n as i32).to_le_bytes());
                ElementType::Int32
            }
            _ => {
                self.out.extend_from_slice(&n.to_le_bytes());
                ElementType::Double
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(&(bytes.len() as i32 + 1).to_le_bytes());
        self.out.extend_from_slice(bytes);
        self.out.push(0);
    }

    /// What the place held before: the origin of the value itself, if it is of this event, else what stood there.
    fn before<'r>(
        &self,
        object: &Object<'js>,
        is: ElementType,
        old: Option<Raw<'r>>,
        found: &'r mut Option<bytes::Bytes>,
    ) -> Result<Option<Raw<'r>>> {
        let number: Option<f64> = object.get(self.tools.origin.clone())?;
        if let Some((kind, bytes)) = number.and_then(|n| self.origins.get(n as u32))
            && kind == is
        {
            return Ok(Raw::new(kind, found.insert(bytes)).ok());
        }
        Ok(old.filter(|raw| raw.kind() == Some(is)))
    }

    fn array(&mut self, array: &Array<'js>, old: Option<Raw<'_>>, depth: usize) -> Result<()> {
        let mut found = None;
        let old = self.before(array.as_object(), ElementType::Array, old, &mut found)?;
        let start = self.open();
        let mut olds = old.and_then(|raw| raw.elements()).into_iter().flatten();
        // Sparse arrays can be long without using memory: the size ends them.
        let length: f64 = array.as_object().get("length")?;
        for i in 0..length as usize {
            let was = olds.next().and_then(std::result::Result::ok);
            let value: Value<'js> = array.get(i)?;
            // Others would get other indexes.
            let value = if value.is_undefined() { Value::new_null(value.ctx().clone()) } else { value };
            // Old arrays may have other names than their indexes.
            let name = was.and_then(|was| std::str::from_utf8(was.name).ok().map(str::to_owned));
            let name = name.unwrap_or_else(|| i.to_string());
            self.element(&name, &value, was.map(|was| was.value), depth + 1)?;
        }
        self.close(start)
    }

    fn fields(&mut self, value: &Value<'js>, old: Option<Raw<'_>>, depth: usize) -> Result<()> {
        let Some(object) = value.as_object() else { return Err(wrong("must be a document, an object")) };
        let mut found = None;
        let old = self.before(object, ElementType::EmbeddedDocument, old, &mut found)?;
        let start = self.open();
        let mut names = Vec::new();
        for name in object.keys::<rquickjs::String<'js>>() {
            names.push(Some(name?.to_string()?));
        }
        let mut next = 0;
        for was in old.and_then(|raw| raw.elements()).into_iter().flatten().filter_map(std::result::Result::ok) {
            let Element { name, value: was } = was;
            let is_it = |one: &Option<String>| one.as_ref().is_some_and(|one| one.as_bytes() == name);
            // They come in the same order, but for whole numbers, which JavaScript moves to the front.
            let at = match names.get(next) {
                Some(one) if is_it(one) => Some(next),
                _ => names.iter().position(is_it),
            };
            let Some(at) = at else { continue };
            next = at + 1;
            if let Some(name) = names[at].take() {
                let value: Value<'js> = object.get(name.as_str())?;
                self.element(&name, &value, Some(was), depth + 1)?;
            }
        }
        for name in names.into_iter().flatten() {
            let value: Value<'js> = object.get(name.as_str())?;
            self.element(&name, &value, None, depth + 1)?;
        }
        self.close(start)
    }

    fn open(&mut self) -> usize {
        self.out.extend_from_slice(&[0; 4]);
        self.out.len() - 4
    }

    fn close(&mut self, start: usize) -> Result<()> {
        self.out.push(0);
        let length = (self.out.len() - start) as i32;
        self.out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn kind(&self, value: &Value<'js>) -> Result<Option<Kind>> {
        if !value.is_object() || value.is_function() || value.is_array() {
            return Ok(None);
        }
        Ok(Kind::of(self.tools.kind_of.call::<_, i32>((value.clone(),))?))
    }

    fn origin(&self, value: &Value<'js>) -> Result<(ElementType, bytes::Bytes)> {
        let number: Option<f64> = match value.as_object() {
            Some(object) => object.get(self.tools.origin.clone())?,
            None => None,
        };
        number
            .and_then(|n| self.origins.get(n as u32))
            .ok_or_else(|| wrong("a value of a type that JavaScript has not was kept from an earlier event"))
    }

    /// An object of the prelude.
    fn object(&mut self, kind: Kind, value: &Value<'js>) -> Result<ElementType> {
        let Some(object) = value.as_object() else { return Err(wrong("has no form in BSON")) };
        let damaged = || wrong("an object of a BSON type was damaged");
        Ok(match kind {
            Kind::Document => return Err(damaged()),
            Kind::Opaque => {
                let (kind, bytes) = self.origin(value)?;
                self.out.extend_from_slice(&bytes);
                kind
            }
            Kind::Date => {
                let ms: f64 = self.tools.time.call((value.clone(),))?;
                if ms.is_nan() {
                    return Err(wrong("an invalid Date has no form in BSON"));
                }
                self.out.extend_from_slice(&(ms as i64).to_le_bytes());
                ElementType::DateTime
            }
            Kind::ObjectId => {
                let bytes: [u8; 12] = unhex(&object.get::<_, String>("hex")?).ok_or_else(damaged)?;
                self.out.extend_from_slice(&bytes);
                ElementType::ObjectId
            }
            Kind::Decimal128 => {
                let bytes: [u8; 16] = unhex(&object.get::<_, String>("bytes")?).ok_or_else(damaged)?;
                self.out.extend_from_slice(&bytes);
                ElementType::Decimal128
            }
            Kind::Timestamp => {
                let (t, i): (f64, f64) = (object.get("t")?, object.get("i")?);
                self.out.extend_from_slice(&(i as u32).to_le_bytes());
                self.out.extend_from_slice(&(t as u32).to_le_bytes());
                ElementType::Timestamp
            }
            Kind::Binary => {
                let subtype: i32 = object.get("subtype")?;
                self.binary(subtype as u8, object.get("buffer")?)?
            }
            Kind::Bytes => self.binary(0, value.clone())?,
            Kind::Regex => {
                for part in ["pattern", "options"] {
                    let text: String = object.get(part)?;
                    if text.contains('\0') {
                        return Err(wrong("a regular expression with a zero byte has no form in BSON"));
                    }
                    self.out.extend_from_slice(text.as_bytes());
                    self.out.push(0);
                }
                ElementType::RegularExpression
            }
            Kind::Int32 => {
                self.out.extend_from_slice(&object.get::<_, i32>("value")?.to_le_bytes());
                ElementType::Int32
            }
            Kind::Double => {
                self.out.extend_from_slice(&object.get::<_, f64>("value")?.to_le_bytes());
                ElementType::Double
            }
            Kind::Long => {
                let n: rquickjs::BigInt<'js> = object.get("value")?;
                self.out.extend_from_slice(&n.to_i64()?.to_le_bytes());
                ElementType::Int64
            }
            Kind::MinKey => ElementType::MinKey,
            Kind::MaxKey => ElementType::MaxKey,
        })
    }

    fn binary(&mut self, subtype: u8, buffer: Value<'js>) -> Result<ElementType> {
        let hex: String = self.tools.hex.call((buffer,))?;
        if hex.len() / 2 > LARGEST {
            return Err(wrong("a Binary is larger than 16 MiB"));
        }
        self.out.extend_from_slice(&(hex.len() as i32 / 2).to_le_bytes());
        self.out.push(subtype);
        for two in hex.as_bytes().chunks_exact(2) {
            let digit = |c: u8| (c as char).to_digit(16).unwrap_or_default() as u8;
            self.out.push(digit(two[0]) << 4 | digit(two[1]));
        }
        Ok(ElementType::Binary)
    }
}

/// What an object is, as `kindOf` of the prelude numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Document,
    Opaque,
    Date,
    ObjectId,
    Decimal128,
    Timestamp,
    Binary,
    Bytes,
    Regex,
    Int32,
    Double,
    Long,
    MinKey,
    MaxKey,
}

impl Kind {
    fn of(number: i32) -> Option<Kind> {
        Some(match number {
            0x01 => Kind::Double,
            0x03 => Kind::Document,
            0x05 => Kind::Binary,
            0x07 => Kind::ObjectId,
            0x09 => Kind::Date,
            0x0b => Kind::Regex,
            0x10 => Kind::Int32,
            0x11 => Kind::Timestamp,
            0x12 => Kind::Long,
            0x13 => Kind::Decimal128,
            0x7f => Kind::MaxKey,
            0xff => Kind::MinKey,
            0x100 => Kind::Opaque,
            0x205 => Kind::Bytes,
            _ => return None,
        })
    }
}
