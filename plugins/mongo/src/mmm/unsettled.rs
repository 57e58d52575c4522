//! Documents that met over a unique value. Each end has decided which of them stays by what it knew then; once neither has news for
//! the other, they are looked at again ([`super::settle`]).

use std::collections::BTreeSet;

use bson::{Bson, Document, RawDocument, doc, raw::cstr};
use oplogue_api::{Namespace, bson::RawDocumentBuf};

/// A document: its namespace, and `{_id}` as bytes.
type Place = (String, Vec<u8>);

/// So many at once: they lie in each marker. More are left to `oplogue verify`.
const MOST: usize = 2000;
const MOST_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    all: BTreeSet<Place>,
    bytes: usize,
}

impl Unsettled {
    /// `key`: a document or key, of which the `_id` counts. Returns whether it is new.
    pub fn enter(&mut self, ns: &Namespace, key: &RawDocument) -> bool {
        let mut only = RawDocumentBuf::new();
        let Ok(Some(id)) = key.get("_id") else { return false };
        only.append(cstr!("_id"), id);
        self.enter_place((ns.as_str().to_owned(), only.into_bytes()))
    }

    fn enter_place(&mut self, place: Place) -> bool {
        let bytes = place.0.len() + place.1.len();
        if self.is_full() || !self.all.insert(place) {
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// `key`: as [`Unsettled::all`] gives it.
    pub fn has(&self, ns: &Namespace, key: &RawDocument) -> bool {
        self.all.contains(&(ns.as_str().to_owned(), key.as_bytes().to_vec()))
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// No more are taken.
    pub fn is_full(&self) -> bool {
        self.all.len() >= MOST || self.bytes >= MOST_BYTES
    }

    pub fn merge(&mut self, other: &Unsettled) {
        for place in &other.all {
            self.enter_place(place.clone());
        }
    }

    pub fn remove(&mut self, ns: &Namespace, key: &RawDocument) {
        let place = (ns.as_str().to_owned(), key.as_bytes().to_vec());
        if self.all.remove(&place) {
            self.bytes -= place.0.len() + place.1.len();
        }
    }

    /// The namespaces and keys.
    pub fn all(&self) -> impl Iterator<Item = (Namespace, RawDocumentBuf)> {
        self.all
            .iter()
            .filter_map(|(ns, key)| Some((Namespace::new(ns.as_str()), RawDocumentBuf::from_bytes(key.clone()).ok()?)))
    }

    /// As a field of a marker.
    pub fn encode(&self) -> Bson {
        let each = self.all().filter_map(|(ns, key)| {
            let id = Bson::try_from(key.get("_id").ok()??).ok()?;
            Some(Bson::Document(doc! {"ns": ns.as_str(), "id": id}))
        });
        Bson::Array(each.collect())
    }

    pub fn decode(field: Option<&Bson>) -> Unsettled {
        let mut found = Unsettled::default();
        for one in field.and_then(Bson::as_array).into_iter().flatten().filter_map(Bson::as_document) {
            let (Ok(ns), Some(id)) = (one.get_str("ns"), one.get("id")) else { continue };
            let key: Document = doc! {"_id": id.clone()};
            if let Ok(key) = RawDocumentBuf::try_from(&key) {
                found.enter(&Namespace::new(ns), &key);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn they_survive_the_marker() {
        let ns = Namespace::new("a.b");
        let mut some = Unsettled::default();
        assert!(some.enter(&ns, &rawdoc! {"_id": 1, "x": 2}));
        assert!(!some.enter(&ns, &rawdoc! {"_id": 1}));
        assert!(some.enter(&ns, &rawdoc! {"_id": {"a": 1}}));
        let mut back = Unsettled::decode(Some(&some.encode()));
        assert_eq!(back, some);
        back.remove(&ns, &rawdoc! {"_id": 1});
        assert_eq!(back.all().map(|(_, key)| key).collect::<Vec<_>>(), [rawdoc! {"_id": {"a": 1}}]);
        back.merge(&some);
        assert_eq!(back, some);
        assert_eq!(Unsettled::decode(None), Unsettled::default());
    }

    #[test]
    fn they_are_bounded() {
        let mut some = Unsettled::default();
        for n in 0..3000 {
            some.enter(&Namespace::new("a.b"), &rawdoc! {"_id": n});
        }
        assert!(some.is_full());
        assert_eq!(some.all().count(), MOST);
    }
}
