//! The word of the arbiter: a document whose concurrent writes it has merged goes back whole to the others. In a mesh it says one for
//! whatever comes, since the others tell each other nothing of merged namespaces.
//!
//! The transaction that merges says so in its marker (`again`), since the links away see nothing else of it. There each word is a
//! replacement that was made at the time of that transaction, and whose document is fetched as it was then.
//!
//! Who leaves a change out asks for a word (`waits`), in case that the arbiter has not noticed: of what it looks at and does not
//! write, such as a document that is deleted at both ends, another version may come up before its transaction is committed. And
//! from the question on the arbiter knows that what was left out was not seen, whatever the markers say.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use bson::{Bson, Document, RawDocument, Timestamp, doc};
use oplogue_api::{Doc, Event, Namespace, Op, Result, hash_key};

use super::{
    marker::Marker,
    options::Settings,
    origin::{as_bson, raw},
    state::is_marker,
    statements::id,
    window::Window,
};

/// Whom a word concerns, as seen from the node whose link says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Audience {
    /// That node and the others: what it wrote was merged.
    #[default]
    All,
    /// The others: what it wrote met nothing.
    Others,
    /// That node, which has asked.
    Node,
}

/// A document that the arbiter has merged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Word {
    pub ns: Namespace,
    pub id: Bson,
    /// The time, in the log of the arbiter, of the first write that what came was concurrent with: until the word is heard,
    /// everything from there on is unknown to whoever has not heard it. [`NOTHING`]: it met nothing.
    pub base: Timestamp,
    pub audience: Audience,
}

/// Later than all writes.
pub(super) const NOTHING: Timestamp = Timestamp { time: u32::MAX, increment: u32::MAX };

impl Word {
    pub fn encode(&self) -> Bson {
        let mut word = doc! {"ns": self.ns.as_str(), "id": self.id.clone(), "base": self.base};
        match self.audience {
            Audience::All => None,
            Audience::Others => word.insert("for", "others"),
            Audience::Node => word.insert("for", "node"),
        };
        Bson::Document(word)
    }

    pub fn decode(stored: &Bson) -> Option<Word> {
        let stored = stored.as_document()?;
        let ns = Namespace::new(stored.get_str("ns").ok()?);
        let audience = match stored.get("for") {
            None => Audience::All,
            Some(of) => match of.as_str()? {
                "others" => Audience::Others,
                "node" => Audience::Node,
                _ => return None,
            },
        };
        Some(Word { ns, id: stored.get("id")?.clone(), base: stored.get_timestamp("base").ok()?, audience })
    }

    /// A word on the document of this event.
    pub(super) fn on(event: &Event, key: &RawDocument, base: Timestamp, audience: Audience) -> Result<Word> {
        Ok(Word { ns: event.ns.clone(), id: as_bson(id(key)?)?, base, audience })
    }

    /// Whether `node` has to hear it, which the link of `said_by` says.
    pub fn concerns(&self, node: &str, said_by: &str) -> bool {
        match self.audience {
            Audience::All => true,
            Audience::Others => node != said_by,
            Audience::Node => node == said_by,
        }
    }

    /// What it takes in a marker, roughly.
    pub fn bytes(&self) -> usize {
        let id = match &self.id {
            Bson::Document(id) => bson::RawDocumentBuf::try_from(id).map_or(0, |id| id.as_bytes().len()),
            Bson::String(id) => id.len(),
            Bson::Binary(id) => id.bytes.len(),
            _ => 0,
        };
        64 + self.ns.as_str().len() + id
    }

    pub fn key(&self) -> Result<Doc> {
        Ok(Doc::from(raw(&doc! {"_id": self.id.clone()})?))
    }

    pub fn hash(&self) -> Result<u64> {
        Ok(Window::hash(&self.ns, &self.key()?))
    }
}

/// The words of a transaction, one for each document.
#[derive(Default)]
pub(super) struct Words(HashMap<(Namespace, u64), Word>);

impl Words {
    /// Takes note of a word; whether that is news, which the marker does not have yet.
    pub fn note(&mut self, word: Word) -> Result<bool> {
        let known = match self.0.entry((word.ns.clone(), hash_key(&word.key()?))) {
            Entry::Vacant(place) => {
                place.insert(word);
                return Ok(true);
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        let before = known.clone();
        known.base = known.base.min(word.base);
        if known.audience != word.audience {
            known.audience = Audience::All;
        }
        Ok(*known != before)
    }

    pub fn has(&self, ns: &Namespace, key: &RawDocument) -> Result<bool> {
        Ok(self.0.contains_key(&(ns.clone(), hash_key(key))))
    }

    pub fn all(&self) -> Vec<Word> {
        self.0.values().cloned().collect()
    }
}

/// Whether the event is a word: a replacement without a document.
pub(super) fn is_word(event: &Event) -> bool {
    event.op == Op::Replace && event.after.is_none()
}

/// The events, with the words behind the markers that say them.
pub(super) fn heard<'a>(settings: &Settings, events: &'a [Event]) -> Result<Cow<'a, [Event]>> {
    let mut all: Option<Vec<Event>> = None;
    for (n, event) in events.iter().enumerate() {
        let words = said(settings, event);
        if !words.is_empty() && all.is_none() {
            all = Some(events[..n].to_vec());
        }
        let Some(all) = &mut all else { continue };
        all.push(event.clone());
        for (n, word) in (1..).zip(&words) {
            all.push(Event {
                key: Some(word.key()?),
                // The others of the transaction are not here.
                index: event.index + n,
                wall: event.wall,
                txn: event.txn.clone(),
                ..Event::new(Op::Replace, word.ns.clone(), event.time, Doc::empty())
            });
        }
    }
    Ok(all.map_or(Cow::Borrowed(events), Cow::Owned))
}

/// The words of this marker that the peer has to hear.
fn said(settings: &Settings, event: &Event) -> Vec<Word> {
    ours(settings, event, |marker| {
        let mut words = marker.again;
        words.retain(|word| word.concerns(&settings.link.peer, &marker.link.node));
        words
    })
}

/// The documents that the writer of this marker waits for a word on.
pub(super) fn asked(settings: &Settings, event: &Event) -> Vec<Word> {
    ours(settings, event, |marker| marker.waits)
}

/// Several replications may share a deployment, each with names and namespaces of its own: what the others say and ask there is
/// none of our business. To answer them would be to say what none of their markers has told of.
fn ours(settings: &Settings, event: &Event, of: impl Fn(Marker) -> Vec<Word>) -> Vec<Word> {
    // Only in a transaction: a marker by itself brings nothing.
    let Some(after) = event.after.as_deref().filter(|_| event.txn.is_some() && is_marker(event)) else {
        return Vec::new();
    };
    let marker = Document::try_from(after).ok().and_then(|marker| Marker::decode(&marker));
    let Some(marker) = marker.filter(|marker| marker.link.peer == settings.link.node) else { return Vec::new() };
    let mut words = of(marker);
    words.retain(|word| settings.wants(&word.ns));
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use bson::{Binary, RawDocumentBuf, spec::BinarySubtype};
    use oplogue_api::{MARKERS, Options, Txn};

    /// A transaction of the link `x->peer` that says and asks something of a document of `ns`.
    fn event(peer: &str, ns: &str) -> Event {
        let time = Timestamp { time: 5, increment: 0 };
        let bytes = |bytes: &[u8]| Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() };
        let words = vec![doc! {"ns": ns, "id": 1, "base": time}];
        let marker = doc! {
            "_id": format!("x->{peer}"), "node": "x", "peer": peer, "lane": 0, "route": "", "generation": 1, "seq": 1,
            "origin": "x", "position": {"token": bytes(&[5, 0, 0, 0, 0]), "time": time}, "done": {"time": time, "index": 0},
            "clock": 5000, "seen": {}, "saw": {}, "writes": bytes(&[]), "again": words.clone(), "waits": words,
            "log": {"clock": 0, "since": time, "since_clock": 0},
        };
        Event {
            after: Some(RawDocumentBuf::try_from(&marker).unwrap().into()),
            txn: Some(Arc::new(Txn { lsid: Doc::empty(), number: 1, replicated: false })),
            ..Event::new(Op::Replace, Namespace::new(MARKERS), time, Doc::empty())
        }
    }

    #[test]
    fn a_word_is_heard_by_those_whom_it_concerns() {
        let (ns, id, base) = (Namespace::new("a.b"), Bson::Int32(1), Timestamp { time: 5, increment: 0 });
        for (audience, node, others) in
            [(Audience::All, true, true), (Audience::Others, false, true), (Audience::Node, true, false)]
        {
            let word = Word { ns: ns.clone(), id: id.clone(), base, audience };
            assert_eq!([word.concerns("x", "x"), word.concerns("z", "x")], [node, others], "{audience:?}");
            assert_eq!(Word::decode(&word.encode()), Some(word.clone()));
            // What one of them must hear and the others must, all must.
            let mut words = Words::default();
            assert!(words.note(Word { base: NOTHING, audience: Audience::Others, ..word.clone() }).unwrap());
            assert!(words.note(word.clone()).unwrap());
            assert!(!words.note(word.clone()).unwrap());
            let expected = if audience == Audience::Others { Audience::Others } else { Audience::All };
            assert_eq!(words.all(), [Word { audience: expected, ..word.clone() }]);
        }
        let stranger = doc! {"ns": "a.b", "id": 1, "base": base, "for": "somebody"};
        assert_eq!(Word::decode(&Bson::Document(stranger)), None);
    }

    #[test]
    fn words_of_a_replication_beside_ours_are_neither_heard_nor_answered() {
        let options = r#"
            uri = "mongodb://localhost"
            node = "a"
            peer = "b"
            namespaces = ["ours.*"]
            conflicts = "merge"
        "#;
        let settings = Settings::new(&Options::new(options.parse().unwrap())).unwrap();
        for (peer, ns, expected) in [("a", "ours.c", 1), ("a", "theirs.c", 0), ("y", "ours.c", 0), ("y", "theirs.c", 0)]
        {
            let events = [event(peer, ns)];
            assert_eq!(asked(&settings, &events[0]).len(), expected, "{peer} {ns}");
            assert_eq!(heard(&settings, &events).unwrap().len(), 1 + expected, "{peer} {ns}");
        }
    }
}
