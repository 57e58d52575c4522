//! What `EJSON.parse` makes of a text, and when it throws: outside of any handler, which ends the process.

use bson::{Binary, Bson, DateTime, Decimal128, Document, oid::ObjectId, spec::BinarySubtype};
use serde_json::Value;

/// The process has ended.
#[derive(Debug, PartialEq)]
pub struct Died(pub String);

/// Types that the app has registered, beside those of Meteor's packages.
const TYPES: &[&str] = &["Money"];

pub fn parse(text: &str) -> Result<Bson, Died> {
    let value = serde_json::from_str(text).map_err(|e| Died(format!("not JSON: {e}")))?;
    from(&value)
}

fn from(value: &Value) -> Result<Bson, Died> {
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Bool(b) => Bson::Boolean(*b),
        Value::Number(n) => Bson::Double(n.as_f64().unwrap() + 0.0),
        Value::String(s) => Bson::String(s.clone()),
        Value::Array(list) => Bson::Array(list.iter().map(from).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
            keys.sort_unstable();
            let text = |key: &str| map[key].as_str().ok_or_else(|| Died(format!("{key} is no text")));
            match &keys[..] {
                ["$date"] => DateTime::from_millis(map["$date"].as_f64().unwrap_or(f64::NAN) as i64).into(),
                ["$InfNaN"] => match map["$InfNaN"].as_f64() {
                    Some(0.0) => nan(),
                    sign => Bson::Double(f64::INFINITY * sign.unwrap_or(f64::NAN)),
                },
                ["$binary"] => Binary { subtype: BinarySubtype::Generic, bytes: base64(text("$binary")?) }.into(),
                ["$escape"] => {
                    let inner = map["$escape"].as_object().ok_or_else(|| Died("$escape of no object".into()))?;
                    Bson::Document(document(inner)?)
                }
                ["$flags", "$regexp"] => {
                    let (pattern, flags) = (text("$regexp")?, text("$flags")?);
                    // A stand-in for JavaScript's own judgement.
                    if pattern.contains("(?i") || pattern.matches('(').count() != pattern.matches(')').count() {
                        return Err(Died("Invalid regular expression".into()));
                    }
                    regex(pattern, flags)
                }
                ["$type", "$value"] => match text("$type")? {
                    "oid" => ObjectId::parse_str(text("$value")?).map_err(|e| Died(e.to_string()))?.into(),
                    "Decimal" => text("$value")?.parse::<Decimal128>().map_err(|e| Died(e.to_string()))?.into(),
                    name if TYPES.contains(&name) => money(from(&map["$value"])?),
                    name => return Err(Died(format!("Custom EJSON type {name} is not defined"))),
                },
                _ => Bson::Document(document(map)?),
            }
        }
    })
}

fn document(map: &serde_json::Map<String, Value>) -> Result<Document, Died> {
    map.iter().map(|(key, value)| Ok((key.clone(), from(value)?))).collect()
}

/// NaN, so that it equals itself.
fn nan() -> Bson {
    Bson::Symbol("NaN".into())
}

fn regex(pattern: &str, flags: &str) -> Bson {
    let mut flags: Vec<char> = flags.chars().filter(|c| "gim".contains(*c)).collect();
    flags.sort_unstable();
    Bson::Symbol(format!("/{pattern}/{}", String::from_iter(flags)))
}

/// A value of the app's type.
fn money(value: Bson) -> Bson {
    Bson::Array(vec![Bson::Symbol("Money".into()), value])
}

fn base64(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.chars().filter_map(|c| digits.find(c)) {
        bits = bits << 6 | c as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A value as the app gets it from its own read: all numbers are doubles, Meteor's types are converted.
pub fn from_mongo(value: &Bson) -> Bson {
    match value {
        Bson::Int32(n) => Bson::Double(f64::from(*n)),
        Bson::Int64(n) => Bson::Double(*n as f64),
        Bson::Double(d) if d.is_nan() => nan(),
        Bson::Double(d) => Bson::Double(d + 0.0),
        Bson::Array(list) => Bson::Array(list.iter().map(from_mongo).collect()),
        Bson::RegularExpression(regex_) => {
            let flag = |c: char| if c == 's' { 'g' } else { c };
            regex(regex_.pattern.as_str(), &regex_.options.as_str().chars().map(flag).collect::<String>())
        }
        Bson::Document(doc) => match (doc.get("EJSON$type"), doc.get("EJSON$value")) {
            (Some(Bson::String(_)), Some(value)) if doc.len() == 2 => money(without_prefix(value)),
            _ => Bson::Document(doc.iter().map(|(key, value)| (key.clone(), from_mongo(value))).collect()),
        },
        other => other.clone(),
    }
}

fn without_prefix(value: &Bson) -> Bson {
    match value {
        Bson::Document(doc) => {
            Bson::Document(doc.iter().map(|(key, value)| (key[5..].to_owned(), without_prefix(value))).collect())
        }
        other => from_mongo(other),
    }
}

/// A document of the same kind.
pub fn doc_from_mongo(doc: &Document) -> Document {
    doc.iter().map(|(key, value)| (key.clone(), from_mongo(value))).collect()
}
