//! One process of an app: its observers, the channels they listen to, and what it does with a message.

use bson::{Bson, Document, oid::ObjectId};

use super::{
    ejson::{Died, doc_from_mongo, from_mongo, parse},
    mongo::{Mongo, Query},
    observer::{Incoming, Observer, Strategy},
};

pub struct Client {
    /// `globalRedisPrefix`.
    pub prefix: String,
    /// `protectAgainstRaceConditions`.
    pub protect: bool,
    pub observers: Vec<Observer>,
    /// How often it read a document.
    pub reads: usize,
    /// What it threw and survived.
    pub thrown: Vec<String>,
    uid: String,
}

impl Client {
    pub fn new(prefix: &str, protect: bool) -> Client {
        let (observers, thrown) = Default::default();
        Client { prefix: prefix.to_owned(), protect, observers, reads: 0, thrown, uid: "me".to_owned() }
    }

    pub fn observe(&mut self, mongo: &Mongo, coll: &str, query: Query) -> usize {
        self.observers.push(Observer::new(mongo, coll, query));
        self.observers.len() - 1
    }

    /// The channels of an observer.
    fn channels(&self, observer: &Observer) -> Vec<String> {
        let (prefix, coll, query) = (&self.prefix, &observer.coll, &observer.query);
        if observer.strategy() == Strategy::Dedicated {
            let ids = query.ids.iter().flatten();
            return ids.map(|id| format!("{prefix}{coll}::{}", id_stringify(id))).collect();
        }
        let namespaces = query.namespaces.iter().map(|ns| format!("{prefix}{ns}::{coll}"));
        let custom: Vec<String> =
            namespaces.chain(query.channels.iter().map(|channel| format!("{prefix}{channel}"))).collect();
        if custom.is_empty() { vec![format!("{prefix}{coll}")] } else { custom }
    }

    /// Handles one message.
    ///
    /// # Errors
    /// The process has ended.
    pub fn receive(&mut self, mongo: &Mongo, channel: &str, text: &str) -> Result<(), Died> {
        let listeners: Vec<usize> = (0..self.observers.len())
            .filter(|n| self.channels(&self.observers[*n]).iter().any(|c| c == channel))
            .collect();
        if listeners.is_empty() {
            return Ok(());
        }
        let message = parse(text)?;
        if let Err(thrown) = self.handle(mongo, &listeners, &message) {
            self.thrown.push(thrown);
        }
        Ok(())
    }

    fn handle(&mut self, mongo: &Mongo, listeners: &[usize], message: &Bson) -> Result<(), String> {
        let message = message.as_document().ok_or("no object")?;
        if message.get("u").is_some_and(|u| u.as_str() == Some(&self.uid)) {
            return Ok(());
        }
        let d = message.get_document("d").map_err(|_| "d is undefined")?;
        let id = d.get("_id").ok_or("d._id is undefined")?;
        let event = message.get_str("e").map_err(|_| "e is undefined")?;
        let fields: Option<Vec<String>> =
            message.get_array("f").ok().map(|f| f.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect());
        let mut doc = Some(d.clone());
        if event != "r" && self.protect {
            self.reads += 1;
            let coll = self.observers[listeners[0]].coll.clone();
            doc = find_one(mongo, &coll, id)?;
            if let Some(doc) = &mut doc {
                self.keep_interesting(listeners, doc);
            }
            if doc.is_none() {
                return Ok(());
            }
        }
        for n in listeners {
            let incoming = Incoming { event, id, doc: doc.as_ref(), fields: fields.as_deref() };
            self.observers[*n].process(mongo, &incoming)?;
        }
        Ok(())
    }

    /// Reads only what some observer of the channel is interested in.
    fn keep_interesting(&self, listeners: &[usize], doc: &mut Document) {
        let interests: Option<Vec<_>> = listeners.iter().map(|n| self.observers[*n].interest()).collect();
        if let Some(all) = interests {
            let names: Vec<&str> = all.into_iter().flatten().collect();
            *doc = std::mem::take(doc).into_iter().filter(|(n, _)| n == "_id" || names.contains(&n.as_str())).collect();
        }
    }
}

/// `findOneAsync(id)`: Meteor rewrites what is falsy to something that is never found.
fn find_one(mongo: &Mongo, coll: &str, id: &Bson) -> Result<Option<Document>, String> {
    match id {
        Bson::Boolean(true) => Err("Cannot use 'in' operator to search for '_id' in true".into()),
        Bson::Null | Bson::Boolean(false) | Bson::Symbol(_) => Ok(None),
        Bson::String(text) if text.is_empty() => Ok(None),
        Bson::Double(d) if *d == 0.0 => Ok(None),
        id => Ok(mongo.get(coll, id).map(doc_from_mongo)),
    }
}

/// `MongoID.idStringify`.
fn id_stringify(id: &Bson) -> String {
    match from_mongo(id) {
        Bson::ObjectId(id) => id.to_hex(),
        Bson::String(text) => {
            let looks_like = ObjectId::parse_str(&text).is_ok() && text == text.to_lowercase();
            if looks_like || text.starts_with(['-', '~', '{']) { format!("-{text}") } else { text }
        }
        Bson::Boolean(b) => format!("~{b}"),
        // JSON.stringify of the numbers that these tests use.
        Bson::Double(d) if d.is_finite() => format!("~{d}"),
        Bson::Double(_) | Bson::Symbol(_) | Bson::Null => "~null".to_owned(),
        other => panic!("Meteor throws for an id like {other:?}"),
    }
}
