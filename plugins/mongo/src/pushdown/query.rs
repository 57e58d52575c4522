//! A query about a document as one about what holds the document, as far as every server from 4.4 on means the same by it.
//!
//! The parts of a conjunction that are not certain are left out, so that more matches, never less. Left out are regular expressions (PCRE
//! goes back and forth, and gives up), null (its meaning changed in 8.0), decimals, whole documents and arrays, numeric steps in paths,
//! and the operators that are not named here.

use bson::{Bson, Document, RawBsonRef, RawDocument, doc, spec::BinarySubtype};

/// What can be asked.
#[derive(Default)]
pub(super) struct Asked {
    /// All of these must hold.
    pub terms: Vec<Document>,
    /// They say all that the query says.
    pub is_whole: bool,
}

impl Asked {
    fn whole(terms: Vec<Document>) -> Asked {
        Asked { terms, is_whole: true }
    }
    fn nothing() -> Asked {
        Asked::default()
    }
    fn and(&mut self, other: Asked) {
        self.terms.extend(other.terms);
        self.is_whole &= other.is_whole;
    }
    /// As one document, which is empty where all matches.
    fn document(self) -> Document {
        super::all(self.terms).unwrap_or_default()
    }
    /// That it does not hold: only where all of it can be asked.
    fn not(self) -> Asked {
        if self.is_whole && !self.terms.is_empty() {
            Asked::whole(vec![doc! {"$nor": [self.document()]}])
        } else {
            Asked::nothing()
        }
    }
}

/// Asks `query` of the document at `holder`. `wants` says which paths may be asked about.
pub(super) fn of(query: &RawDocument, holder: &str, wants: &dyn Fn(&str) -> bool) -> Asked {
    let mut asked = Asked::whole(Vec::new());
    // Raw, since a name may come twice.
    for element in query.iter() {
        let Ok((name, value)) = element else { return Asked::nothing() };
        asked.and(match (name.as_str(), value) {
            ("$comment", _) => Asked::whole(Vec::new()),
            ("$and" | "$or" | "$nor", RawBsonRef::Array(_)) => logical(name.as_str(), value, holder, wants),
            (path, value) if is_plain(path) && wants(path) => field(&format!("{holder}.{path}"), value),
            _ => Asked::nothing(),
        });
    }
    asked
}

fn logical(operator: &str, value: RawBsonRef<'_>, holder: &str, wants: &dyn Fn(&str) -> bool) -> Asked {
    let mut parts = Vec::new();
    for part in value.as_array().into_iter().flatten() {
        let Some(part) = part.ok().and_then(|part| part.as_document()) else { return Asked::nothing() };
        parts.push(of(part, holder, wants));
    }
    let mut asked = Asked::whole(Vec::new());
    match operator {
        "$and" => parts.into_iter().for_each(|part| asked.and(part)),
        "$nor" => parts.into_iter().for_each(|part| asked.and(part.not())),
        _ => {
            let is_whole = parts.iter().all(|part| part.is_whole);
            // One that asks nothing lets everything pass.
            if parts.is_empty() || parts.iter().any(|part| part.terms.is_empty()) {
                return Asked::nothing();
            }
            let ways: Vec<Document> = parts.into_iter().map(Asked::document).collect();
            asked = Asked { terms: vec![doc! {"$or": ways}], is_whole };
        }
    }
    asked
}

/// The predicates on one path: a value, or operators.
fn field(path: &str, value: RawBsonRef<'_>) -> Asked {
    let RawBsonRef::Document(operators) = value else { return compared(path, "$eq", value) };
    let mut asked = Asked::whole(Vec::new());
    for (n, element) in operators.iter().enumerate() {
        let Ok((name, operand)) = element else { return Asked::nothing() };
        let name = name.as_str();
        // A document that is compared as a whole.
        if n == 0 && !name.starts_with('$') {
            return Asked::nothing();
        }
        asked.and(match (name, operand) {
            ("$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte", operand) => compared(path, name, operand),
            ("$in" | "$nin", RawBsonRef::Array(all)) => {
                let all: Option<Vec<Bson>> = all.into_iter().map(|one| one.ok().and_then(scalar)).collect();
                all.map_or_else(Asked::nothing, |all| Asked::whole(vec![doc! {path: {name: all}}]))
            }
            ("$exists", RawBsonRef::Boolean(exists)) => Asked::whole(vec![doc! {path: {"$exists": exists}}]),
            ("$size", RawBsonRef::Int32(size)) if size >= 0 => Asked::whole(vec![doc! {path: {"$size": size}}]),
            ("$not", RawBsonRef::Document(_)) => field(path, operand).not(),
            _ => Asked::nothing(),
        });
    }
    // `{}` is compared as a whole too.
    if asked.terms.is_empty() { Asked::nothing() } else { asked }
}

fn compared(path: &str, operator: &str, operand: RawBsonRef<'_>) -> Asked {
    match scalar(operand) {
        Some(operand) => Asked::whole(vec![doc! {path: {operator: operand}}]),
        None => Asked::nothing(),
    }
}

fn scalar(value: RawBsonRef<'_>) -> Option<Bson> {
    match value {
        RawBsonRef::Double(d) if d.is_finite() => {}
        RawBsonRef::Binary(binary) if matches!(binary.subtype, BinarySubtype::Generic | BinarySubtype::Uuid) => {}
        RawBsonRef::String(_)
        | RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Boolean(_)
        | RawBsonRef::ObjectId(_)
        | RawBsonRef::DateTime(_) => {}
        _ => return None,
    }
    Bson::try_from(value).ok()
}

/// A path of names: without operators, empty steps, and numbers (which are names or indexes).
fn is_plain(path: &str) -> bool {
    let is_number = |step: &str| step.bytes().all(|b| b.is_ascii_digit());
    !path.split('.').any(|step| step.is_empty() || step.starts_with('$') || is_number(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};

    fn asked(query: &RawDocumentBuf) -> (Document, bool) {
        let asked = of(query, "o", &|_| true);
        let is_whole = asked.is_whole;
        (asked.document(), is_whole)
    }

    #[test]
    fn what_is_certain_is_asked_whole() {
        for (query, expected) in [
            (rawdoc! {"a": 1}, doc! {"o.a": {"$eq": 1}}),
            (rawdoc! {"a.b": {"$gt": 1, "$lt": 5.5}}, doc! {"$and": [{"o.a.b": {"$gt": 1}}, {"o.a.b": {"$lt": 5.5}}]}),
            (
                rawdoc! {"$or": [{"a": "x"}, {"b": {"$exists": true}}]},
                doc! {"$or": [{"o.a": {"$eq": "x"}}, {"o.b": {"$exists": true}}]},
            ),
            (rawdoc! {"a": {"$not": {"$in": [1, 2]}}}, doc! {"$nor": [{"o.a": {"$in": [1, 2]}}]}),
            (
                rawdoc! {"$nor": [{"a": 1, "b": 2}]},
                doc! {"$nor": [{"$and": [{"o.a": {"$eq": 1}}, {"o.b": {"$eq": 2}}]}]},
            ),
        ] {
            assert_eq!(asked(&query), (expected, true), "{query:?}");
        }
    }

    #[test]
    fn what_is_not_certain_lets_more_pass() {
        let nothing = doc! {};
        for (query, expected) in [
            (rawdoc! {"a": 1, "b": null}, doc! {"o.a": {"$eq": 1}}),
            (rawdoc! {"a": {"$regex": "^x"}}, nothing.clone()),
            (rawdoc! {"a": {"x": 1}}, nothing.clone()),
            (rawdoc! {"a": {}}, nothing.clone()),
            (rawdoc! {"a.0": 1}, nothing.clone()),
            (rawdoc! {"a": {"$in": [1, null]}}, nothing.clone()),
            (rawdoc! {"a": f64::NAN}, nothing.clone()),
            (rawdoc! {"$or": [{"a": 1}, {"b": null}]}, nothing.clone()),
            (
                rawdoc! {"$or": [{"a": 1, "b": null}, {"c": 1}]},
                doc! {"$or": [{"o.a": {"$eq": 1}}, {"o.c": {"$eq": 1}}]},
            ),
            (rawdoc! {"$nor": [{"a": 1, "b": null}]}, nothing.clone()),
            (rawdoc! {"a": {"$not": {"$gt": 1, "$type": "int"}}}, nothing.clone()),
            (rawdoc! {"$expr": {"$eq": ["$a", 1]}}, nothing.clone()),
            (rawdoc! {"$alwaysFalse": 1}, nothing),
        ] {
            assert_eq!(asked(&query), (expected, false), "{query:?}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_is_asked_twice() {
        let mut query = rawdoc! {"a": {"$gt": 1}};
        query.append(bson::cstr!("a"), rawdoc! {"$lt": 5});
        assert_eq!(asked(&query), (doc! {"$and": [{"o.a": {"$gt": 1}}, {"o.a": {"$lt": 5}}]}, true));
    }
}
