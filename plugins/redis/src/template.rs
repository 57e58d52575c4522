//! Names of channels made of fields of a document: `company::{companyId}`.

use std::collections::HashSet;

use oplogue_api::{Error, Result};
use serde::Deserialize;

use crate::{
    id::number,
    json::write_hex,
    number::write_number,
    raw::{Element, Elements, find, kind},
};

/// The option `object_ids`: how a template writes an ObjectId.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ObjectIds {
    /// `5ae7d0042b2acc1f1796c0b6`: what `toHexString()` gives.
    #[default]
    Hex,
    /// `ObjectID("5ae7d0042b2acc1f1796c0b6")`: what JavaScript writes into a text.
    Call,
}

/// A name with fields in it.
pub struct Template {
    source: String,
    parts: Vec<Part>,
    fields: Vec<Vec<String>>,
}

enum Part {
    Text(String),
    /// A place in `fields`.
    Field(usize),
}

/// The most channels of one event that templates may give.
pub const MOST_CHANNELS: usize = 1000;
/// The most bytes that these may have together.
const MOST_BYTES: usize = 32 << 20;

impl Template {
    /// Reads `text{field.path}text…`; `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Template, String> {
        if source.is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut template = Template { source: source.to_owned(), parts: Vec::new(), fields: Vec::new() };
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                text.push_str(brace);
                rest = behind;
                continue;
            }
            if brace == "}" {
                return Err("a `}` has no `{` before it; `}}` stands for the character".to_owned());
            }
            let end = rest.find(['{', '}']).filter(|end| rest[*end..].starts_with('}'));
            let end = end.ok_or("a `{` has no `}` behind it; `{{` stands for the character")?;
            let path: Vec<String> = rest[..end].split('.').map(str::to_owned).collect();
            if path.iter().any(|name| name.is_empty() || name.trim() != name) {
                return Err(format!("`{{{}}}` is no path of a field, such as {{owner.id}}", &rest[..end]));
            }
            rest = &rest[end + 1..];
            if !text.is_empty() {
                template.parts.push(Part::Text(std::mem::take(&mut text)));
            }
            let known = template.fields.iter().position(|field| *field == path);
            template.parts.push(Part::Field(known.unwrap_or(template.fields.len())));
            if known.is_none() {
                template.fields.push(path);
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            template.parts.push(Part::Text(text));
        }
        Ok(template)
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is the same for every document.
    pub fn is_constant(&self) -> bool {
        self.fields.is_empty()
    }

    /// The top-level names of the fields in it.
    pub fn top_fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter_map(|path| path.first()).map(String::as_str)
    }

    /// Adds a channel for each combination of values that the fields have in `doc`, between `front` and `back`. A field that is
    /// missing or null gives none; of an array each element counts, of a sub-document each key.
    ///
    /// Returns whether all values could be written: `false` when one is of a type that has no text.
    ///
    /// # Errors
    /// `Data` when there are too many, or the document is damaged.
    pub fn channels(
        &self,
        doc: &[u8],
        object_ids: ObjectIds,
        (front, back): (&[u8], &[&[u8]]),
        out: &mut Channels,
    ) -> Result<bool> {
        let mut values = Values { object_ids, all_written: true };
        let mut lists = Vec::with_capacity(self.fields.len());
        let mut count = 1usize;
        for path in &self.fields {
            let mut list = Vec::new();
            if let Some(first) = find(doc, &path[0])? {
                values.collect(&first, &path[1..], &mut list)?;
            }
            let mut seen = HashSet::new();
            list.retain(|value| seen.insert(value.clone()));
            count = count.saturating_mul(list.len());
            lists.push(list);
        }
        if count > MOST_CHANNELS {
            return Err(too_many());
        }
        for n in 0..count {
            let mut channel = front.to_vec();
            for part in &self.parts {
                match part {
                    Part::Text(text) => channel.extend_from_slice(text.as_bytes()),
                    Part::Field(field) => {
                        // n counts through the combinations, the last field fastest.
                        let behind: usize = lists[field + 1..].iter().map(Vec::len).product();
                        let list = &lists[*field];
                        channel.extend_from_slice(&list[n / behind % list.len()]);
                    }
                }
            }
            for text in back {
                channel.extend_from_slice(text);
            }
            out.add(channel)?;
        }
        Ok(values.all_written)
    }
}

fn too_many() -> Error {
    Error::data(format!(
        "the templates make more than {MOST_CHANNELS} channels of the document, or more than {} MiB of names",
        MOST_BYTES >> 20
    ))
    .hint("put a field with fewer values into the templates of this collection")
}

/// Channels, each once, in the order in which they were added.
#[derive(Default)]
pub struct Channels {
    list: Vec<Vec<u8>>,
    known: HashSet<Vec<u8>>,
    bytes: usize,
}

impl Channels {
    /// Empties it.
    pub fn clear(&mut self) {
        self.list.clear();
        self.known.clear();
        self.bytes = 0;
    }

    /// Makes a channel one that is not added.
    pub fn leave_out(&mut self, channel: &[u8]) {
        self.known.insert(channel.to_vec());
    }

    /// The channels.
    pub fn list(&self) -> &[Vec<u8>] {
        &self.list
    }

    fn add(&mut self, channel: Vec<u8>) -> Result<()> {
        if self.known.insert(channel.clone()) {
            self.bytes += channel.len();
            self.list.push(channel);
            if self.list.len() > MOST_CHANNELS || self.bytes > MOST_BYTES {
                return Err(too_many());
            }
        }
        Ok(())
    }
}

struct Values {
    object_ids: ObjectIds,
    all_written: bool,
}

impl Values {
    /// Follows `path` from a value on, through the elements of arrays on the way as MongoDB does.
    fn collect(&mut self, value: &Element<'_>, path: &[String], out: &mut Vec<Vec<u8>>) -> Result<()> {
        let Some((name, rest)) = path.split_first() else { return self.expand(value, out) };
        match value.kind {
            kind::DOCUMENT => match find(value.value, name)? {
                Some(inner) => self.collect(&inner, rest, out),
                None => Ok(()),
            },
            kind::ARRAY => {
                for element in Elements::of(value.value) {
                    let element = element?;
                    if element.name == name.as_bytes() {
                        self.collect(&element, rest, out)?;
                    }
                    if element.kind == kind::DOCUMENT {
                        self.collect(&element, path, out)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn expand(&mut self, value: &Element<'_>, out: &mut Vec<Vec<u8>>) -> Result<()> {
        match value.kind {
            kind::ARRAY => {
                for element in Elements::of(value.value) {
                    self.scalar(&element?, out);
                }
            }
            kind::DOCUMENT => {
                for element in Elements::of(value.value) {
                    out.push(element?.name.to_vec());
                }
            }
            _ => self.scalar(value, out),
        }
        Ok(())
    }

    /// Writes a value as JavaScript writes it into a text.
    fn scalar(&mut self, value: &Element<'_>, out: &mut Vec<Vec<u8>>) {
        let mut text = Vec::new();
        match value.kind {
            kind::NULL | kind::UNDEFINED => return,
            kind::STRING => text.extend_from_slice(value.text().unwrap_or_default()),
            kind::BOOL => text.extend_from_slice(if value.value == [0] { b"false" } else { b"true" }),
            kind::OBJECT_ID if self.object_ids == ObjectIds::Hex => write_hex(&mut text, value.value),
            kind::OBJECT_ID => {
                text.extend_from_slice(b"ObjectID(\"");
                write_hex(&mut text, value.value);
                text.extend_from_slice(b"\")");
            }
            _ => match number(value) {
                Some(d) if d.is_finite() => write_number(&mut text, d),
                Some(d) if d.is_nan() => text.extend_from_slice(b"NaN"),
                Some(d) => text.extend_from_slice(if d > 0.0 { b"Infinity" } else { b"-Infinity" }),
                None => {
                    self.all_written = false;
                    return;
                }
            },
        }
        out.push(text);
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
