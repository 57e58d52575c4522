//! Which fields the updates of a transaction have changed, where the log of the peer does not say so: what was merged, or taken
//! whole, is logged as a whole document, and what was there already is not logged at all.

use std::collections::{BTreeMap, btree_map::Entry};

use bson::{Bson, Document, doc};
use oplogue_api::{Event, Op, Result};

use super::paths::FieldPath;

/// By hash, the fields of the updates of a document; `None`: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched(BTreeMap<u64, Option<Vec<FieldPath>>>);

impl Touched {
    pub fn note(&mut self, hash: u64, event: &Event) -> Result<()> {
        let fields = match &event.change {
            Some(change) if event.op == Op::Update => Some(FieldPath::all(change)?),
            _ => None,
        };
        let known = match self.0.entry(hash) {
            Entry::Vacant(place) => {
                place.insert(fields);
                return Ok(());
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        match (&mut *known, fields) {
            (Some(known), Some(fields)) => {
                for field in fields {
                    if !known.contains(&field) {
                        known.push(field);
                    }
                }
            }
            _ => *known = None,
        }
        Ok(())
    }

    /// `None`: all of them, or nothing is known.
    pub fn of(&self, hash: u64) -> Option<&[FieldPath]> {
        self.0.get(&hash)?.as_deref()
    }

    /// What it takes in a marker, roughly.
    pub fn bytes(&self) -> usize {
        self.0.values().map(|fields| 48 + fields.iter().flatten().map(FieldPath::bytes).sum::<usize>()).sum()
    }

    /// Documents of which all fields count are left out.
    pub fn encode(&self) -> Option<Bson> {
        let all: Vec<Document> = self
            .0
            .iter()
            .filter_map(|(hash, fields)| Some((hash, fields.as_ref()?)))
            .map(|(hash, fields)| {
                let paths: Vec<Bson> = fields.iter().map(FieldPath::encode).collect();
                doc! {"hash": hash.cast_signed(), "paths": paths}
            })
            .collect();
        (!all.is_empty()).then(|| all.into())
    }

    pub fn decode(stored: Option<&Bson>) -> Option<Touched> {
        let Some(stored) = stored else { return Some(Touched::default()) };
        let each = stored.as_array()?.iter().map(|one| {
            let one = one.as_document()?;
            let paths = one.get_array("paths").ok()?.iter().map(FieldPath::decode).collect::<Option<_>>()?;
            Some((one.get_i64("hash").ok()?.cast_unsigned(), Some(paths)))
        });
        each.collect::<Option<_>>().map(Touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::Timestamp;
    use oplogue_api::{Change, Doc, Namespace};

    fn event(op: Op, change: Option<Doc>) -> Event {
        let change = change.map(Change::OplogV2);
        Event { change, ..Event::new(op, Namespace::new("a.b"), Timestamp { time: 1, increment: 1 }, Doc::empty()) }
    }

    #[test]
    fn the_fields_of_all_updates_of_a_document_count_and_survive_the_marker() {
        let set = |name: &str| {
            event(Op::Update, Some(bson::RawDocumentBuf::try_from(&doc! {"i": {name: 1}}).unwrap().into()))
        };
        let mut touched = Touched::default();
        for name in ["x", "y", "x"] {
            touched.note(u64::MAX, &set(name)).unwrap();
        }
        touched.note(2, &set("x")).unwrap();
        touched.note(2, &event(Op::Delete, None)).unwrap();
        touched.note(2, &set("x")).unwrap();
        let names = |touched: &Touched, hash| {
            touched.of(hash).map(|fields| fields.iter().map(FieldPath::text).collect::<Vec<_>>())
        };
        let stored = touched.encode();
        assert_eq!(stored.as_ref().unwrap().as_array().unwrap().len(), 1);
        for touched in [&touched, &Touched::decode(stored.as_ref()).unwrap()] {
            assert_eq!(names(touched, u64::MAX), Some(vec!["x".to_owned(), "y".to_owned()]));
            assert_eq!([names(touched, 2), names(touched, 3)], [None, None]);
        }
        assert_eq!((Touched::default().encode(), Touched::decode(None)), (None, Some(Touched::default())));
    }
}
