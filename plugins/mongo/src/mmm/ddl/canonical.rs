//! When two definitions are the same: what the server adds, leaves out or writes with another type of number does not count.

use bson::{Bson, Document};

/// What says nothing about the definition.
const OF_THE_SERVER: &[&str] =
    &["ns", "v", "background", "uuid", "temp", "flags", "autoIndexId", "idIndex", "buildUUID"];
/// What is the default, and is shown by some versions and left out by others.
const DEFAULTS: &[(&str, &str)] = &[("validationLevel", "strict"), ("validationAction", "error")];

/// Whether two definitions mean the same. Documents compare without regard to order, which matters in the key of an index.
pub(crate) fn same(a: &Document, b: &Document) -> bool {
    let bytes = |d: &Document| canonical(d).to_vec().ok();
    bytes(a).is_some() && bytes(a) == bytes(b)
}

/// The options of a collection or view, or the specification of an index. Numbers are int64 where they are whole; what is switched
/// off is left out; options come in alphabetical order, their contents stay in theirs.
pub(crate) fn canonical(definition: &Document) -> Document {
    let mut options: Vec<(&String, Bson)> = definition
        .iter()
        .filter(|(name, value)| {
            !OF_THE_SERVER.contains(&name.as_str())
                && !matches!(value, Bson::Boolean(false) | Bson::Null)
                && !DEFAULTS.iter().any(|(n, default)| n == name && value.as_str() == Some(*default))
                && !is_empty(name, value)
        })
        .map(|(name, value)| (name, option(name, value)))
        .collect();
    options.sort_by(|a, b| a.0.cmp(b.0));
    options.into_iter().map(|(name, value)| (name.clone(), value)).collect()
}

fn is_empty(name: &str, value: &Bson) -> bool {
    match value {
        Bson::Document(d) if name == "changeStreamPreAndPostImages" => d.get_bool("enabled").is_ok_and(|is| !is),
        Bson::Document(d) => d.is_empty() && matches!(name, "validator" | "storageEngine" | "indexOptionDefaults"),
        _ => false,
    }
}

fn option(name: &str, value: &Bson) -> Bson {
    match (name, numbers(value)) {
        // The server rounds it up.
        ("size", Bson::Int64(size)) => Bson::Int64(((size + 255) / 256 * 256).max(4096)),
        // What else the server tells of it follows from these.
        ("clusteredIndex" | "timeseries" | "collation" | "weights", Bson::Document(d)) => {
            let mut d = canonical(&d);
            if name == "collation" {
                d.remove("version");
            }
            Bson::Document(d)
        }
        ("wildcardProjection", Bson::Document(d)) => {
            let mut paths = Vec::new();
            projection("", &d, &mut paths);
            paths.sort();
            Bson::Document(paths.into_iter().map(|(path, is)| (path, Bson::Boolean(is))).collect())
        }
        // Any number other than zero means the same, and so does `true`.
        ("unique" | "sparse" | "capped" | "hidden", Bson::Int64(n)) => Bson::Boolean(n != 0),
        (_, value) => value,
    }
}

/// From 5.0 on, the server writes booleans for numbers and documents for dotted paths, and adds that `_id` is left out, which is the default.
fn projection(at: &str, part: &Document, paths: &mut Vec<(String, bool)>) {
    for (name, value) in part {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match value {
            Bson::Document(inner) => projection(&path, inner, paths),
            Bson::Boolean(false) | Bson::Int64(0) if path == "_id" => {}
            Bson::Boolean(is) => paths.push((path, *is)),
            value => paths.push((path, *value != Bson::Int64(0))),
        }
    }
}

/// Whole numbers as int64, everywhere inside.
fn numbers(value: &Bson) -> Bson {
    match value {
        Bson::Int32(n) => Bson::Int64(i64::from(*n)),
        Bson::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Bson::Int64(*d as i64),
        Bson::Document(d) => Bson::Document(d.iter().map(|(k, v)| (k.clone(), numbers(v))).collect()),
        Bson::Array(a) => Bson::Array(a.iter().map(numbers).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn what_the_server_adds_does_not_count() {
        for (a, b) in [
            (doc! {"key": {"a": 1}, "name": "a_1"}, doc! {"v": 2, "key": {"a": 1.0}, "name": "a_1", "ns": "d.c"}),
            (doc! {"capped": true, "size": 5000, "max": 3}, doc! {"max": 3i64, "size": 5120, "capped": true}),
            (
                doc! {"wildcardProjection": {"a.b": 1, "_id": 0}},
                doc! {"wildcardProjection": {"_id": false, "a": {"b": true}}},
            ),
            (doc! {"validationLevel": "strict"}, doc! {"temp": false}),
            (doc! {"key": {"a": 1}, "sparse": false}, doc! {"key": {"a": 1}}),
            (
                doc! {"collation": {"locale": "de", "version": "57.1"}},
                doc! {"collation": {"version": "60", "locale": "de"}},
            ),
        ] {
            assert!(same(&a, &b), "{a} {b}");
        }
        for (a, b) in [
            (doc! {"key": {"a": 1, "b": 1}}, doc! {"key": {"b": 1, "a": 1}}),
            (doc! {"key": {"a": 1}}, doc! {"key": {"a": -1}}),
            (doc! {"key": {"a": 1}, "unique": true}, doc! {"key": {"a": 1}}),
            (doc! {"capped": true, "size": 5000}, doc! {"capped": true, "size": 9000}),
            (doc! {"expireAfterSeconds": 5}, doc! {"expireAfterSeconds": 6}),
        ] {
            assert!(!same(&a, &b), "{a} {b}");
        }
    }
}
