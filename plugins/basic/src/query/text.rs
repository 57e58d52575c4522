//! A query as it is written: a table of TOML, or extended JSON in a text. Both become one tree, in which the order of fields and
//! what occurs twice are kept, and then raw BSON. The wrappers of extended JSON (`{"$oid": "…"}`) are understood in both.

use std::fmt;

use oplogue_api::bson::{Bson, DateTime, RawArrayBuf, RawBson, RawDocumentBuf, raw::CString};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

use super::{
    parse::too_deep,
    wrong::{Place, Wrong},
};

/// A query as a configuration has it, read by serde: a table, or a text with extended JSON.
#[derive(Clone)]
pub enum Tree {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point, and a whole one that is larger than an int64.
    Double(f64),
    /// A text; at the top, extended JSON.
    Text(String),
    /// A date of TOML, as it displays it.
    Date(String),
    /// A list.
    List(Vec<Tree>),
    /// A table, in its order; from JSON, a name may occur twice.
    Table(Vec<(String, Tree)>),
}

// I8: as with a compiled query.
impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tree")
    }
}

/// How the crate `toml` tells serde of a date.
const TOML_DATE: &str = "$__toml_private_datetime";

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a query")
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Tree, E> {
        Ok(Tree::Int(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Tree, E> {
        Ok(i64::try_from(n).map_or(Tree::Double(n as f64), Tree::Int))
    }
    fn visit_f64<E>(self, d: f64) -> Result<Tree, E> {
        Ok(Tree::Double(d))
    }
    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = seq.next_element()? {
            all.push(element);
        }
        Ok(Tree::List(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Tree>()? {
            if name == TOML_DATE {
                let Tree::Text(date) = value else { return Err(A::Error::custom("a date that is none")) };
                return Ok(Tree::Date(date));
            }
            all.push((name, value));
        }
        Ok(Tree::Table(all))
    }
}

/// How each wrapper of extended JSON is written.
const WRAPPERS: &[(&str, &str)] = &[
    ("$oid", r#"{"$oid": "65a1b2c3d4e5f60718293a4b"}, 24 hexadecimal digits"#),
    ("$date", r#"{"$date": "2024-05-01T12:00:00Z"}"#),
    ("$numberInt", r#"{"$numberInt": "1"}"#),
    ("$numberLong", r#"{"$numberLong": "1"}"#),
    ("$numberDouble", r#"{"$numberDouble": "1.5"}"#),
    ("$numberDecimal", r#"{"$numberDecimal": "1.50"}"#),
    ("$timestamp", r#"{"$timestamp": {"t": 1700000000, "i": 1}}"#),
    ("$binary", r#"{"$binary": {"base64": "AQID", "subType": "00"}}"#),
    ("$uuid", r#"{"$uuid": "c8edabc3-f738-4ca3-b68d-ab92a91478a3"}"#),
    ("$regularExpression", r#"{"$regularExpression": {"pattern": "^a", "options": "i"}}"#),
    ("$symbol", r#"{"$symbol": "a"}"#),
    ("$code", r#"{"$code": "f()"}"#),
    ("$minKey", r#"{"$minKey": 1}"#),
    ("$maxKey", r#"{"$maxKey": 1}"#),
    ("$undefined", r#"{"$undefined": true}"#),
    ("$dbPointer", r#"{"$dbPointer": {"$ref": "db.c", "$id": {"$oid": "65a1b2c3d4e5f60718293a4b"}}}"#),
];

/// Deeper than any query means anything. A level takes about 10 KiB of stack without optimization.
pub(super) const DEEPEST: usize = 64;

/// The document of a query.
pub(super) fn document(tree: &Tree) -> Result<RawDocumentBuf, Wrong> {
    let parsed;
    let tree = match tree {
        Tree::Text(text) => {
            parsed = parse(text)?;
            &parsed
        }
        tree => tree,
    };
    match value(tree, &Place::Root)? {
        RawBson::Document(document) => Ok(document),
        _ => Place::Root.wrong(
            "a query is a table, or a text with extended JSON",
            r#"write it such as { status = "paid" } or '{"status": "paid"}'"#,
        ),
    }
}

fn parse(text: &str) -> Result<Tree, Wrong> {
    serde_json::from_str(text).or_else(|e| {
        let hint = r#"write names and texts in double quotes, as in '{"owner": {"$oid": "65a1b2c3d4e5f60718293a4b"}}'"#;
        Place::Root.wrong(format!("the text is no extended JSON: {e}"), hint)
    })
}

fn value(tree: &Tree, place: &Place<'_>) -> Result<RawBson, Wrong> {
    if place.depth() > DEEPEST {
        return too_deep();
    }
    Ok(match tree {
        Tree::Null => RawBson::Null,
        Tree::Bool(b) => RawBson::Boolean(*b),
        Tree::Int(n) => i32::try_from(*n).map_or(RawBson::Int64(*n), RawBson::Int32),
        Tree::Double(d) => RawBson::Double(*d),
        Tree::Text(text) => RawBson::String(text.clone()),
        Tree::Date(date) => match DateTime::parse_rfc3339_str(date) {
            Ok(date) => RawBson::DateTime(date),
            Err(_) => {
                return place.wrong(
                    "a date needs a time and an offset from UTC",
                    "write it such as 2024-05-01T12:00:00Z, or in quotes if a text is meant",
                );
            }
        },
        Tree::List(all) => {
            let mut array = RawArrayBuf::new();
            for (n, element) in all.iter().enumerate() {
                array.push(value(element, &place.index(n))?);
            }
            RawBson::Array(array)
        }
        Tree::Table(all) => {
            if let Some((name, form)) = wrapper(all) {
                return wrapped(tree, name, form, place);
            }
            let mut document = RawDocumentBuf::new();
            for (name, element) in all {
                let value = value(element, &place.field(name))?;
                match CString::try_from(name.as_str()) {
                    Ok(name) => document.append(name, value),
                    Err(_) => {
                        return place.wrong("a name of a field holds a zero character", "no field has such a name");
                    }
                }
            }
            RawBson::Document(document)
        }
    })
}

fn wrapper(all: &[(String, Tree)]) -> Option<(&'static str, &'static str)> {
    let (first, _) = all.first()?;
    WRAPPERS.iter().copied().find(|(name, _)| name == first)
}

fn wrapped(tree: &Tree, name: &str, form: &str, place: &Place<'_>) -> Result<RawBson, Wrong> {
    let read = Bson::try_from(json(tree)).ok().filter(|value| !matches!(value, Bson::Document(_)));
    match read.and_then(|value| RawBson::try_from(value).ok()) {
        Some(value) => Ok(value),
        None => place.wrong(format!("`{name}` is not written as extended JSON has it"), format!("write {form}")),
    }
}

fn json(tree: &Tree) -> serde_json::Value {
    match tree {
        Tree::Null => serde_json::Value::Null,
        Tree::Bool(b) => (*b).into(),
        Tree::Int(n) => (*n).into(),
        Tree::Double(d) => (*d).into(),
        Tree::Text(text) | Tree::Date(text) => text.as_str().into(),
        Tree::List(all) => all.iter().map(json).collect(),
        Tree::Table(all) => all.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
    }
}
