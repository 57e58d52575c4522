//! One observer: what redis-oplog keeps of a cursor, and what it does with an event.

use std::collections::BTreeMap;

use bson::{Bson, Document};

use super::{
    ejson::{doc_from_mongo, from_mongo},
    mongo::{Mongo, Query},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Listens to the collection.
    Default,
    /// Listens to documents.
    Dedicated,
    /// Keeps the first few of a sorted list.
    LimitSort,
}

/// What it tells its own listeners.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Added(Bson, Document),
    /// The fields that are new; null for those that are gone.
    Changed(Bson, Document),
    Removed(Bson),
}

pub struct Observer {
    pub coll: String,
    pub query: Query,
    store: BTreeMap<String, Document>,
    pub said: Vec<Said>,
}

/// A message for observers.
pub struct Incoming<'a> {
    pub event: &'a str,
    pub id: &'a Bson,
    /// The document: from the observer's own read, or from the message.
    pub doc: Option<&'a Document>,
    pub fields: Option<&'a [String]>,
}

fn key(id: &Bson) -> String {
    format!("{:?}", from_mongo(id))
}

impl Observer {
    /// An observer after its first fetch.
    pub fn new(mongo: &Mongo, coll: &str, mut query: Query) -> Observer {
        if query.limit.is_some() && query.sort.is_empty() {
            query.sort.push(("_id", false));
        }
        let docs = mongo.find(coll, &query);
        let store = docs.into_iter().map(|doc| (key(&doc["_id"]), doc)).collect();
        Observer { coll: coll.to_owned(), query, store, said: Vec::new() }
    }

    pub fn strategy(&self) -> Strategy {
        let is_truthy = |id: &Bson| match from_mongo(id) {
            Bson::Null | Bson::Boolean(false) => false,
            Bson::Double(d) => d != 0.0,
            Bson::String(s) => !s.is_empty(),
            Bson::Symbol(_) => false,
            _ => true,
        };
        if self.query.limit.is_some() {
            Strategy::LimitSort
        } else if self.query.ids.as_ref().is_some_and(|ids| ids.len() != 1 || is_truthy(&ids[0])) {
            Strategy::Dedicated
        } else {
            Strategy::Default
        }
    }

    pub fn docs(&self) -> Vec<Document> {
        self.store.values().cloned().collect()
    }

    /// Top-level fields that it must know of a document; `None`: all.
    pub fn interest(&self) -> Option<Vec<&'static str>> {
        let mut all = self.query.fields.clone()?;
        all.extend(self.query.conditions.iter().map(|c| match c {
            super::mongo::Condition::Is(path, _) | super::mongo::Condition::Above(path, _) => *path,
        }));
        all.extend(self.query.sort.iter().map(|(path, _)| *path));
        Some(all.into_iter().map(|path| path.split('.').next().unwrap()).collect())
    }

    /// # Errors
    /// What the processor throws: the event is lost for this observer.
    pub fn process(&mut self, mongo: &Mongo, incoming: &Incoming<'_>) -> Result<(), String> {
        let contained = self.store.contains_key(&key(incoming.id));
        if incoming.event == "r" {
            match self.strategy() {
                Strategy::LimitSort if contained || self.query.skip > 0 => self.requery(mongo, None),
                Strategy::LimitSort => {}
                _ if contained => self.remove(incoming.id),
                _ => {}
            }
            return Ok(());
        }
        let doc = incoming.doc.ok_or("no document")?;
        let only_id = self.strategy() == Strategy::Dedicated && self.query.conditions.is_empty();
        let matches = only_id || self.query.matches(doc);
        match (self.strategy(), incoming.event) {
            (Strategy::LimitSort, "i") if matches => self.requery(mongo, Some((doc, false))),
            (Strategy::LimitSort, "u") => match (contained, matches) {
                (true, true) if !self.has_sort_fields(incoming.fields.ok_or("f is not iterable")?) => self.change(doc),
                (false, false) => {}
                _ => self.requery(mongo, Some((doc, true))),
            },
            (_, "i") if matches && !contained => self.add(doc),
            (Strategy::LimitSort, "i") | (_, "i") => {}
            (_, "u") => match (contained, matches) {
                (true, true) => self.change(doc),
                (true, false) => self.remove(incoming.id),
                (false, true) => self.add(doc),
                (false, false) => {}
            },
            _ => return Err("unknown event".into()),
        }
        Ok(())
    }

    fn has_sort_fields(&self, changed: &[String]) -> bool {
        let touches = |c: &String, s: &str| c == s || c.contains(&format!("{s}.")) || s.contains(&format!("{c}."));
        changed.iter().any(|c| self.query.sort.iter().any(|(s, _)| touches(c, s)))
    }

    /// Which documents belong to the list now; reads those that are new.
    fn requery(&mut self, mongo: &Mongo, newcomer: Option<(&Document, bool)>) {
        let query = Query { fields: None, ..self.query.clone() };
        let ids: Vec<Bson> = mongo.find(&self.coll, &query).iter().map(|doc| doc["_id"].clone()).collect();
        let gone: Vec<Bson> =
            self.store.values().map(|doc| doc["_id"].clone()).filter(|id| !ids.contains(id)).collect();
        gone.iter().for_each(|id| self.remove(id));
        for id in &ids {
            if self.store.contains_key(&key(id)) {
                continue;
            }
            match newcomer {
                Some((doc, _)) if doc["_id"] == *id => self.add(doc),
                _ => {
                    if let Some(doc) = mongo.get(&self.coll, id) {
                        self.add(&doc_from_mongo(doc));
                    }
                }
            }
        }
        if let Some((doc, true)) = newcomer
            && self.store.contains_key(&key(&doc["_id"]))
        {
            self.change(doc);
        }
    }

    fn add(&mut self, doc: &Document) {
        let doc = self.query.project(doc.clone());
        self.said.push(Said::Added(doc["_id"].clone(), doc.clone()));
        self.store.insert(key(&doc["_id"]), doc);
    }

    fn change(&mut self, doc: &Document) {
        let doc = self.query.project(doc.clone());
        let old = self.store.insert(key(&doc["_id"]), doc.clone()).unwrap_or_default();
        let new = doc.iter().filter(|(name, value)| old.get(name) != Some(*value)).map(|(n, v)| (n.clone(), v.clone()));
        let gone = old.keys().filter(|name| !doc.contains_key(name)).map(|name| (name.clone(), Bson::Null));
        let changed: Document = new.chain(gone).collect();
        if !changed.is_empty() {
            self.said.push(Said::Changed(doc["_id"].clone(), changed));
        }
    }

    fn remove(&mut self, id: &Bson) {
        if self.store.remove(&key(id)).is_some() {
            self.said.push(Said::Removed(from_mongo(id)));
        }
    }
}
