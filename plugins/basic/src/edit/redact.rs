//! The `redact` transform: takes out, masks, digests or shortens fields, wherever an event has them.

use oplogue_api::{
    Batch, Error, Field, FieldType, Footprint, Registry, Result, Transform,
    bson::{RawDocumentBuf, spec::ElementType},
    closest,
    raw::Value,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    change::write_text,
    digest::Digest,
    event::{self, Outcome},
    scope::{NAMESPACES, Scope},
    tree::{Action, Otherwise, Rewrite, Rules},
};

const FIELDS: &[Field] = &[
    Field::new(
        "fields",
        FieldType::Any,
        "The fields: dotted paths, or tables such as { field = \"card\", mode = \"mask\", keep_last = 4 }",
    )
    .required()
    .example("[\"email\", \"address.street\"]"),
    Field::new("mode", FieldType::OneOf(MODES), "What is done to the fields that are given by their path alone")
        .default("\"remove\""),
    Field::new(
        "key",
        FieldType::String,
        "The secret of the digests of mode \"hash\": whoever has it can find out which value a digest stands for. 16 characters or more",
    )
    .secret(),
    Field::new(
        "empty_updates",
        FieldType::OneOf(&["keep", "drop"]),
        "What becomes of an update of which nothing is left",
    )
    .default("\"keep\""),
    NAMESPACES,
];

const MODES: &[&str] = &["remove", "mask", "hash", "truncate"];

pub(super) fn register(r: &mut Registry) {
    r.transform(
        "redact",
        "Removes, masks, hashes or truncates fields, wherever an event has them",
        FIELDS,
        |_, options| Ok(Box::new(Redact::new(options.parse()?)?)),
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    fields: Vec<Entry>,
    mode: Option<String>,
    key: Option<String>,
    #[serde(default)]
    empty_updates: EmptyUpdates<false>,
    namespaces: Option<Vec<String>>,
}

/// `"keep"` or `"drop"`, with a default.
#[derive(Clone, Copy)]
pub(super) struct EmptyUpdates<const DROP: bool>(pub bool);

impl<const DROP: bool> Default for EmptyUpdates<DROP> {
    fn default() -> Self {
        EmptyUpdates(DROP)
    }
}

impl<'de, const DROP: bool> Deserialize<'de> for EmptyUpdates<DROP> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "keep" => Ok(EmptyUpdates(false)),
            "drop" => Ok(EmptyUpdates(true)),
            _ => Err(D::Error::custom("`empty_updates` is \"keep\" or \"drop\"")),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "each of `fields` is a path, or a table with `field`, `mode` and what the mode takes")]
enum Entry {
    Path(String),
    Table(Table),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    field: String,
    mode: Option<String>,
    with: Option<toml::Value>,
    keep_last: Option<usize>,
    length: Option<usize>,
}

struct Redact {
    rules: Rules,
    scope: Scope,
    footprint: Footprint,
    drops_empty: bool,
    scratch: Vec<u8>,
}

fn wrong(option: &str, what: impl Into<String>, hint: &str) -> Error {
    Error::option(option, what).hint(hint)
}

impl Redact {
    fn new(options: Options) -> Result<Redact> {
        if options.fields.is_empty() {
            return Err(wrong("fields", "the list of fields is empty: nothing would be redacted", "name some fields"));
        }
        let key = options.key.as_deref();
        if key.is_some_and(|key| key.chars().count() < 16) {
            let hint = "take a long random text, such as one of `openssl rand -hex 32`";
            return Err(wrong("key", "the key has less than 16 characters, so that it can be guessed", hint));
        }
        let mut rules = Rules::new(Otherwise::Keep);
        let mut uses_key = false;
        let mut footprint = Footprint::default();
        for (n, entry) in options.fields.into_iter().enumerate() {
            let table = match entry {
                Entry::Path(field) => Table { field, ..Table::default() },
                Entry::Table(table) => table,
            };
            let (mode, option) = match &table.mode {
                Some(mode) => (mode.as_str(), "fields"),
                None => (options.mode.as_deref().unwrap_or("remove"), "mode"),
            };
            uses_key |= mode == "hash";
            let action = action(&table, mode, option, key)?;
            if mode != "hash" && (table.field == "_id" || table.field.starts_with("_id.")) {
                let what = format!("`{}` is a part of the document key, which tells documents apart", table.field);
                return Err(wrong("fields", what, "`_id` can be hashed: { field = \"_id\", mode = \"hash\" }"));
            }
            rules.add("fields", &table.field, action)?;
            if mode == "remove" {
                footprint.removes.push(table.field.clone());
            }
            footprint.reads.push((format!("fields[{n}]"), table.field));
        }
        if options.key.is_some() && !uses_key {
            return Err(wrong(
                "key",
                "there is a key, but no field is hashed",
                "set mode = \"hash\", or leave `key` out",
            ));
        }
        let scope = Scope::new(options.namespaces.as_deref())?;
        Ok(Redact { rules, scope, footprint, drops_empty: options.empty_updates.0, scratch: Vec::new() })
    }
}

fn action(table: &Table, mode: &str, option: &str, key: Option<&str>) -> Result<Action> {
    let Table { field, with, keep_last, length, .. } = table;
    let unused = [("with", with.is_some()), ("keep_last", keep_last.is_some()), ("length", length.is_some())];
    let takes: &[&str] = match mode {
        "mask" => &["with", "keep_last"],
        "truncate" => &["length"],
        _ => &[],
    };
    if let Some((name, _)) = unused.iter().find(|(name, is_set)| *is_set && !takes.contains(name)) {
        let what = format!("`{name}` of `{field}` means nothing with the mode \"{mode}\"");
        return Err(wrong("fields", what, "`with` and `keep_last` belong to \"mask\", `length` to \"truncate\""));
    }
    let rewrite: Box<dyn Rewrite> = match mode {
        "remove" => return Ok(Action::Remove),
        "mask" => {
            Box::new(Mask { with: with.as_ref().map(|with| constant(field, with)).transpose()?, keep_last: *keep_last })
        }
        "hash" => {
            let hint = "set `key` to a long secret of your own, such as key = \"${REDACT_KEY}\"";
            let key = key.ok_or_else(|| wrong("key", format!("the digest of `{field}` needs a key"), hint))?;
            Box::new(Digest::new(key))
        }
        "truncate" => {
            let hint = "write how many characters stay, such as { field = \"zip\", mode = \"truncate\", length = 2 }";
            let what = || wrong("fields", format!("`{field}` is to be truncated, but `length` is missing"), hint);
            Box::new(Truncate(length.ok_or_else(what)?))
        }
        other => {
            let hint = match closest(other, MODES.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("it is one of {}", MODES.join(", ")),
            };
            return Err(wrong(option, format!("there is no mode `{other}`"), &hint));
        }
    };
    Ok(Action::Rewrite(rewrite))
}

/// Type and bytes of a value of the configuration.
fn constant(field: &str, with: &toml::Value) -> Result<(u8, Vec<u8>)> {
    let mut doc = RawDocumentBuf::new();
    let name = oplogue_api::bson::cstr!("");
    match with {
        toml::Value::String(text) => doc.append(name, text.as_str()),
        toml::Value::Integer(n) => match i32::try_from(*n) {
            Ok(n) => doc.append(name, n),
            Err(_) => doc.append(name, *n),
        },
        toml::Value::Float(n) => doc.append(name, *n),
        toml::Value::Boolean(b) => doc.append(name, *b),
        _ => {
            let what = format!("`with` of `{field}` is no text, number or boolean");
            return Err(wrong("fields", what, "write what is shown instead, such as with = \"(hidden)\""));
        }
    }
    // Length, type, an empty name; then the value, and the end.
    let bytes = doc.as_bytes();
    Ok((bytes[4], bytes[6..bytes.len() - 1].to_vec()))
}

/// The text that stands for what is not shown.
const STARS: &str = "***";

/// Says nothing but what type the value had.
fn masked(value: Value<'_>, out: &mut Vec<u8>) -> Option<u8> {
    let kind = value.kind()?;
    match kind {
        ElementType::Null | ElementType::Undefined | ElementType::MinKey | ElementType::MaxKey => return None,
        // The bytes of a zero, of false, of 1970, …: all zero, but for decimals.
        ElementType::Double
        | ElementType::Int32
        | ElementType::Int64
        | ElementType::Boolean
        | ElementType::DateTime
        | ElementType::Timestamp
        | ElementType::ObjectId => out.resize(out.len() + value.bytes().len(), 0),
        ElementType::Decimal128 => out.extend_from_slice(&(0x3040_u128 << 112).to_le_bytes()),
        ElementType::Binary => {
            out.extend_from_slice(&[0; 4]);
            out.push(0);
        }
        _ => {
            write_text(out, STARS.as_bytes());
            return Some(ElementType::String as u8);
        }
    }
    Some(kind as u8)
}

/// Texts become `***`, or `***` and their last characters; other values what their type has for nothing.
struct Mask {
    with: Option<(u8, Vec<u8>)>,
    keep_last: Option<usize>,
}

impl Rewrite for Mask {
    fn rewrite(&self, value: Value<'_>, out: &mut Vec<u8>) -> Option<u8> {
        if let (Some(ElementType::String), Some(keep), Some(text)) = (value.kind(), self.keep_last, value.text()) {
            let text = String::from_utf8_lossy(text);
            let from = text.char_indices().rev().nth(keep.saturating_sub(1)).map(|(at, _)| at);
            // Of a text that is hardly longer, all would be seen.
            if let Some(from) = from.filter(|_| keep > 0 && text.chars().count() >= 2 * keep) {
                write_text(out, format!("{}{}", self.stars(), &text[from..]).as_bytes());
                return Some(ElementType::String as u8);
            }
        }
        match (&self.with, value.kind()) {
            (_, Some(ElementType::Null | ElementType::Undefined)) => None,
            (Some((kind, bytes)), _) => {
                out.extend_from_slice(bytes);
                Some(*kind)
            }
            (None, _) => masked(value, out),
        }
    }
}

impl Mask {
    fn stars(&self) -> std::borrow::Cow<'_, str> {
        match &self.with {
            Some((kind, bytes)) if *kind == ElementType::String as u8 => {
                String::from_utf8_lossy(&bytes[4..bytes.len() - 1])
            }
            _ => STARS.into(),
        }
    }
}

/// Texts keep their first characters, binary values their first bytes; all else is masked.
struct Truncate(usize);

impl Rewrite for Truncate {
    fn rewrite(&self, value: Value<'_>, out: &mut Vec<u8>) -> Option<u8> {
        if let (Some(ElementType::String), Some(text)) = (value.kind(), value.text()) {
            let text = String::from_utf8_lossy(text);
            let end = text.char_indices().nth(self.0)?.0;
            write_text(out, &text.as_bytes()[..end]);
            return Some(ElementType::String as u8);
        }
        if let Some((subtype, bytes)) = value.binary() {
            let bytes = bytes.get(..self.0).filter(|cut| cut.len() < bytes.len())?;
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            // Any other subtype may ask for a length.
            out.push(if subtype < 0x80 { 0 } else { subtype });
            out.extend_from_slice(bytes);
            return Some(ElementType::Binary as u8);
        }
        masked(value, out)
    }
}

impl Transform for Redact {
    fn footprint(&self) -> Footprint {
        Footprint { namespaces: self.scope.patterns(), ..self.footprint.clone() }
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let Redact { rules, scope, drops_empty, scratch, .. } = self;
        event::hide_bad(batch, |ns| ns.is_none_or(|ns| scope.has(ns)));
        event::each(batch, true, |event| {
            Ok(!scope.has(&event.ns) || event::edit(rules, event, scratch)? != Outcome::Emptied || !*drops_empty)
        });
        Ok(())
    }
}
