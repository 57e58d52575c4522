//! The database that subscribers read, and the queries they ask.

use std::{cmp::Ordering, collections::BTreeMap};

use bson::{Bson, Document};

use super::ejson::{doc_from_mongo, from_mongo};

/// A condition on a field, as far as these tests need them.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Equals.
    Is(&'static str, Bson),
    /// `$gt` a number.
    Above(&'static str, f64),
}

/// A cursor.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// `_id`: one, or `$in`.
    pub ids: Option<Vec<Bson>>,
    pub conditions: Vec<Condition>,
    /// Paths, and whether descending. What is equal is ordered by `_id` here, so that a query has one answer.
    pub sort: Vec<(&'static str, bool)>,
    pub limit: Option<usize>,
    pub skip: usize,
    /// Top-level fields that the cursor asks for.
    pub fields: Option<Vec<&'static str>>,
    /// `namespaces` and `channels` of the cursor.
    pub namespaces: Vec<String>,
    pub channels: Vec<String>,
}

/// Documents by collection.
#[derive(Clone, Default)]
pub struct Mongo(BTreeMap<String, Vec<Document>>);

impl Mongo {
    pub fn all(&self, coll: &str) -> &[Document] {
        self.0.get(coll).map_or(&[], Vec::as_slice)
    }

    pub fn get(&self, coll: &str, id: &Bson) -> Option<&Document> {
        self.all(coll).iter().find(|doc| from_mongo(&doc["_id"]) == from_mongo(id))
    }

    /// Sets or removes the document of an id.
    pub fn put(&mut self, coll: &str, id: &Bson, doc: Option<Document>) {
        let docs = self.0.entry(coll.to_owned()).or_default();
        docs.retain(|doc| from_mongo(&doc["_id"]) != from_mongo(id));
        docs.extend(doc);
    }

    /// The documents that a cursor gives, in its order.
    pub fn find(&self, coll: &str, query: &Query) -> Vec<Document> {
        let mut found: Vec<Document> =
            self.all(coll).iter().map(doc_from_mongo).filter(|doc| query.matches(doc)).collect();
        found.sort_by(|a, b| query.compare(a, b));
        found
            .into_iter()
            .skip(query.skip)
            .take(query.limit.unwrap_or(usize::MAX))
            .map(|doc| query.project(doc))
            .collect()
    }
}

impl Query {
    /// What minimongo's matcher says.
    pub fn matches(&self, doc: &Document) -> bool {
        let by_id = self.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| from_mongo(id) == doc["_id"]));
        by_id
            && self.conditions.iter().all(|condition| match condition {
                Condition::Is(path, value) => values(doc, path).contains(&from_mongo(value)),
                Condition::Above(path, low) => {
                    values(doc, path).iter().any(|v| matches!(v, Bson::Double(d) if d > low))
                }
            })
    }

    pub fn project(&self, mut doc: Document) -> Document {
        if let Some(fields) = &self.fields {
            doc = doc.into_iter().filter(|(name, _)| name == "_id" || fields.contains(&name.as_str())).collect();
        }
        doc
    }

    fn compare(&self, a: &Document, b: &Document) -> Ordering {
        for (path, descending) in &self.sort {
            let key = |doc| {
                let values = values(doc, path).into_iter();
                if *descending { values.max_by(compare) } else { values.min_by(compare) }.unwrap_or(Bson::Null)
            };
            let order = compare(&key(a), &key(b));
            if order != Ordering::Equal {
                return if *descending { order.reverse() } else { order };
            }
        }
        compare(&a["_id"], &b["_id"])
    }
}

/// The values at a path, through arrays.
fn values(doc: &Document, path: &str) -> Vec<Bson> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(value) = doc.get(name) else { return Vec::new() };
    let each = match value {
        Bson::Array(list) => list.iter().collect(),
        other => vec![other],
    };
    match rest {
        None => each.into_iter().cloned().collect(),
        Some(rest) => each.iter().filter_map(|v| v.as_document()).flat_map(|inner| values(inner, rest)).collect(),
    }
}

fn compare(a: &Bson, b: &Bson) -> Ordering {
    let rank = |v: &Bson| match v {
        Bson::Null => 0,
        Bson::Double(_) => 1,
        Bson::String(_) => 2,
        _ => 3,
    };
    match (a, b) {
        (Bson::Double(a), Bson::Double(b)) => a.total_cmp(b),
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)).then_with(|| format!("{a:?}").cmp(&format!("{b:?}"))),
    }
}
