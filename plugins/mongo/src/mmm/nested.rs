//! Changes of nested fields as `$set` and `$unset` of their paths.
//!
//! The server applies a path in half the time that a diff takes, and in a third of what it takes with the shape as its condition. But
//! a path makes what is missing on its way. So the documents are asked for their shape, all of a collection with one
//! question, beside the transaction that writes them: what others write to them between its snapshot and its commit, the server
//! refuses to one of the two, so whatever is found in that time is what the transaction has written to.

use std::{
    collections::{HashMap, HashSet},
    future::IntoFuture,
};

use bson::{
    Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc,
    raw::{CString, cstr},
};
use futures_util::TryStreamExt;
use mongodb::{
    Client,
    options::{CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria},
};
use oplogue_api::{Change, Error, Event, Namespace, Op, Result, hash_key};

use super::{
    apply::Place,
    origin::as_bson,
    shape,
    statements::{Applied, id, update},
};
use crate::{client::bounded, errors::Phase};

/// A question for the shapes of fewer documents costs more than it saves.
const LEAST: usize = 16;
/// And so do many shapes.
const MOST_SHAPES: usize = 8;

/// The paths that must lead to objects, or (`true`) to an array.
type Shape = Vec<(String, bool)>;

/// A diff as operators, and the shape with which they do the same.
struct Nested {
    operators: RawDocumentBuf,
    shape: Shape,
}

/// What has to be true of documents, all of one collection.
struct Question {
    ns: Namespace,
    /// The documents with another shape.
    filter: Document,
    /// The hashes of the keys of all.
    asked: HashSet<u64>,
}

/// What has to be true of documents before a transaction is committed.
#[derive(Default)]
pub(super) struct Questions(Vec<Question>);

impl Questions {
    /// The documents that have another shape than is needed. To be asked behind the first write of the transaction, which fixes its
    /// snapshot.
    pub async fn others(&self, client: &Client) -> Result<Vec<Place>> {
        let mut others = Vec::new();
        for Question { ns, filter, asked } in &self.0 {
            let options = CollectionOptions::builder()
                .read_concern(ReadConcern::local())
                .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
                .build();
            let coll = client.database(ns.db()).collection_with_options::<RawDocumentBuf>(ns.coll(), options);
            let find = coll.find(filter.clone()).projection(doc! {"_id": 1});
            let mut found = bounded(find.into_future(), Phase::Apply).await?;
            while let Some(document) = bounded(found.try_next(), Phase::Apply).await? {
                // By the collation of the collection an `_id` may be found that was not asked for.
                let key = hash_key(&document);
                others.extend(asked.contains(&key).then(|| (ns.clone(), key)));
            }
        }
        Ok(others)
    }
}

/// Statements for the events that change nested fields and are the first of their document here, where a collection has enough of
/// them, by event; and what has to be true for them.
pub(super) fn statements(
    events: &[Event],
    is_candidate: impl Fn(usize) -> bool,
) -> Result<(HashMap<usize, RawDocumentBuf>, Questions)> {
    let mut known = HashSet::new();
    let mut all: HashMap<&Namespace, Vec<(usize, Nested)>> = HashMap::new();
    for (n, event) in events.iter().enumerate() {
        let Some(key) = event.key.as_deref() else { continue };
        // An earlier event may give the document its shape.
        let is_first = known.insert((&event.ns, hash_key(key)));
        if !is_first || event.op != Op::Update || !is_candidate(n) {
            continue;
        }
        let Some(Change::OplogV2(diff)) = &event.change else { continue };
        if let Some(nested) = nested(diff)? {
            all.entry(&event.ns).or_default().push((n, nested));
        }
    }
    let is_worth_it = |some: &[(usize, Nested)]| {
        let shapes: HashSet<&Shape> = some.iter().map(|(_, nested)| &nested.shape).collect();
        some.len() >= LEAST && shapes.len() <= MOST_SHAPES
    };
    let (mut found, mut questions) = (HashMap::new(), Questions::default());
    for (ns, some) in all.into_iter().filter(|(_, some)| is_worth_it(some)) {
        let asked = keys(&some, events).map(hash_key).collect();
        questions.0.push(Question { ns: ns.clone(), filter: another_shape(&some, events)?, asked });
        for (n, Nested { operators, .. }) in some {
            let Some(key) = events[n].key.as_deref() else { continue };
            if let Applied::Statement(_, statement) = update(key, operators)? {
                found.insert(n, statement);
            }
        }
    }
    Ok((found, questions))
}

fn keys<'a>(some: &'a [(usize, Nested)], events: &'a [Event]) -> impl Iterator<Item = &'a RawDocument> {
    some.iter().filter_map(|(n, _)| events[*n].key.as_deref())
}

/// The documents that have another shape than their event needs.
fn another_shape(some: &[(usize, Nested)], events: &[Event]) -> Result<Document> {
    let mut ids: HashMap<&Shape, Vec<Bson>> = HashMap::new();
    for (n, Nested { shape, .. }) in some {
        if let Some(key) = events[*n].key.as_deref() {
            ids.entry(shape).or_default().push(as_bson(id(key)?)?);
        }
    }
    // A path would lead into the elements of an array too; an array on the way is another shape.
    let is_object = doc! {"$type": "object", "$not": {"$type": "array"}};
    let either = ids.into_iter().map(|(shape, ids)| {
        let wanted = shape.iter().map(|(path, is_array)| match is_array {
            true => doc! {path: {"$type": "array"}},
            false => doc! {path: is_object.clone()},
        });
        doc! {"_id": {"$in": ids}, "$nor": [{"$and": wanted.collect::<Vec<_>>()}]}
    });
    Ok(doc! {"$or": either.collect::<Vec<_>>()})
}

/// `None`: it changes nothing nested, or paths cannot say all of it.
fn nested(diff: &RawDocument) -> Result<Option<Nested>> {
    let mut paths = Paths::default();
    if !paths.collect(diff, "")? || paths.shape.is_empty() {
        return Ok(None);
    }
    let mut operators = RawDocumentBuf::new();
    for (name, fields) in [(cstr!("$set"), paths.set), (cstr!("$unset"), paths.unset)] {
        if !fields.is_empty() {
            operators.append(name, fields);
        }
    }
    Ok((!operators.is_empty()).then_some(Nested { operators, shape: paths.shape }))
}

#[derive(Default)]
struct Paths {
    set: RawDocumentBuf,
    unset: RawDocumentBuf,
    shape: Shape,
}

impl Paths {
    /// `false`: it cannot be said.
    fn collect(&mut self, diff: &RawDocument, before: &str) -> Result<bool> {
        for section in diff.iter_elements() {
            let section = section.map_err(damaged)?;
            let RawBsonRef::Document(inner) = section.value().map_err(damaged)? else { return Ok(false) };
            match (section.key().as_str(), section.key().as_str().strip_prefix('s')) {
                (name @ ("u" | "d"), _) => {
                    for field in inner.iter_elements() {
                        let field = field.map_err(damaged)?;
                        let Some(path) = path(before, field.key().as_str()) else { return Ok(false) };
                        let into = if name == "u" { &mut self.set } else { &mut self.unset };
                        into.append(path, field.value().map_err(damaged)?);
                    }
                }
                (_, Some(name)) => {
                    let Some(path) = path(before, name) else { return Ok(false) };
                    let is_array = shape::is_array(inner)?;
                    self.shape.push((path.as_str().to_owned(), is_array));
                    let is_said = match is_array {
                        true => self.elements(inner, path.as_str())?,
                        false => self.collect(inner, path.as_str())?,
                    };
                    if !is_said {
                        return Ok(false);
                    }
                }
                // `i` moves a field that is there to the end, which `$set` does not.
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Of an array only whole elements: what is inside of one cannot be asked for by a path.
    fn elements(&mut self, diff: &RawDocument, before: &str) -> Result<bool> {
        for element in diff.iter_elements() {
            let element = element.map_err(damaged)?;
            match (element.key().as_str(), element.key().as_str().strip_prefix('u')) {
                ("a", _) => {}
                (_, Some(index)) if index.parse::<u32>().is_ok() => {
                    let Some(path) = path(before, index) else { return Ok(false) };
                    self.set.append(path, element.value().map_err(damaged)?);
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn damaged(_: bson::error::Error) -> Error {
    Error::data("damaged BSON")
}

/// `None`: the name has a meaning in a path.
fn path(before: &str, name: &str) -> Option<CString> {
    if name.is_empty() || name.starts_with('$') || name.contains('.') {
        return None;
    }
    let path = if before.is_empty() { name.to_owned() } else { format!("{before}.{name}") };
    CString::try_from(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_diff_becomes_paths_and_the_shape_that_they_need() {
        let diff = rawdoc! {"d": {"gone": false}, "u": {"x": 1}, "sn": {"u": {"5": 2}, "sin": {"d": {"y": false}}}, "sarr": {"a": true, "u3": {"k": 4}}};
        let Nested { operators, shape } = nested(&diff).unwrap().unwrap();
        assert_eq!(
            operators,
            rawdoc! {"$set": {"x": 1, "n.5": 2, "arr.3": {"k": 4}}, "$unset": {"gone": false, "n.in.y": false}}
        );
        let shape: Vec<_> = shape.iter().map(|(path, is_array)| (path.as_str(), *is_array)).collect();
        assert_eq!(shape, [("n", false), ("n.in", false), ("arr", true)]);
    }

    #[test]
    fn what_paths_cannot_say_stays_a_diff() {
        for diff in [
            rawdoc! {"u": {"x": 1}},
            rawdoc! {"sn": {"i": {"x": 1}}},
            rawdoc! {"sn": {"u": {"a.b": 1}}},
            rawdoc! {"sn": {"u": {"$a": 1}}},
            rawdoc! {"sn": {"u": {"": 1}}},
            rawdoc! {"s$n": {"u": {"x": 1}}},
            rawdoc! {"sarr": {"a": true, "l": 1}},
            rawdoc! {"sarr": {"a": true, "s0": {"u": {"x": 1}}}},
        ] {
            assert!(nested(&diff).unwrap().is_none(), "{diff:?}");
        }
    }
}
