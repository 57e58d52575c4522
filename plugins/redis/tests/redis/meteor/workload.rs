//! Random changes, as a server describes them.

use std::collections::HashSet;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc, oid::ObjectId};
use oplogue_api::{Change, Doc, Event, Op, oplog};
use oplogue_testkit::{generate::Rng, sample};

use super::mongo::Mongo;

/// Ids that a subscriber can read: all that it can name but the falsy ones and `true`.
pub fn readable_ids() -> Vec<Bson> {
    let oid = ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap();
    let texts = ["t1", "t2", "-x", "~x", "{x", "aaaaaaaaaaaaaaaaaaaaaaaa", "price$100,a::b|<é>"];
    let mut ids: Vec<Bson> = texts.into_iter().map(Bson::from).collect();
    ids.extend([oid.into(), 5.into(), 7i64.into(), 1.5.into(), (-3).into()]);
    ids
}

/// All ids that a subscriber can name.
pub fn all_ids() -> Vec<Bson> {
    let mut ids = readable_ids();
    ids.extend(["".into(), 0.into(), true.into(), false.into(), Bson::Null]);
    ids
}

pub struct Workload {
    pub rng: Rng,
    pub ids: Vec<Bson>,
    pub coll: String,
    /// What moved in this batch is not deleted in it: a subscriber that reads for itself finds nothing when it hears of the
    /// move, and does not hear of the deletion where the document was before.
    pub moved_stay: bool,
}

fn raw(doc: &Document) -> Doc {
    RawDocumentBuf::try_from(doc).unwrap().into()
}

impl Workload {
    fn n(&mut self) -> i32 {
        self.rng.below(100) as i32
    }

    fn company(&mut self) -> Bson {
        match self.rng.below(8) {
            0 => Bson::Array(vec!["c1".into(), "c2".into()]),
            1 => Bson::Null,
            n => format!("c{}", n % 3).into(),
        }
    }

    fn document(&mut self, id: &Bson) -> Document {
        let mut doc = doc! {"_id": id.clone()};
        if self.rng.chance(0.9) {
            doc.insert("n", self.n());
        }
        doc.insert("s", ["a", "b", "<c>"][self.rng.below(3)]);
        if self.rng.chance(0.8) {
            doc.insert("o", doc! {"n": self.n(), "m": 1});
        }
        doc.insert("list", (0..self.rng.below(4)).map(|_| Bson::from(self.n())).collect::<Vec<_>>());
        doc.insert("objs", [doc! {"v": self.n()}, doc! {"v": self.n()}]);
        doc.insert("companyId", self.company());
        if self.rng.chance(0.5) {
            doc.insert("at", DateTime::from_millis(i64::from(self.n())));
            doc.insert("odd", doc! {"escaped": {"$date": 5}, "nan": f64::NAN});
            doc.insert("price", doc! {"EJSON$type": "Money", "EJSON$value": {"EJSONamount": self.n()}});
        }
        doc
    }

    /// A diff that fits the document.
    fn diff(&mut self, doc: &Document) -> Document {
        let n = self.n();
        let list = doc.get_array("list").map_or(0, Vec::len);
        match self.rng.below(11) {
            0 if doc.contains_key("n") => doc! {"d": {"n": false}},
            1 => doc! {"u": {"s": if n % 2 == 0 { "a" } else { "b" }}},
            2 if doc.get_document("o").is_ok() => doc! {"so": {"u": {"n": n}}},
            3 if doc.get_document("o").is_ok() => doc! {"u": {"o": {"m": n}}},
            4 => doc! {"i": {"o": {"n": n}}},
            5 if doc.contains_key("list") => doc! {"slist": {"a": true, format!("u{list}"): n}},
            6 if list > 0 => doc! {"slist": {"a": true, "l": list as i32 - 1}},
            7 if doc.contains_key("objs") => doc! {"sobjs": {"a": true, "s0": {"u": {"v": n}}, "u1": {"v": self.n()}}},
            8 => doc! {"u": {"companyId": self.company()}},
            9 if list > 1 => doc! {"u": {"s": "b"}, "slist": {"a": true, "l": 1, "u0": n}},
            _ => doc! {"u": {"n": n}},
        }
    }

    /// So many changes, applied to `mongo`, with the documents before and after each.
    pub fn batch(&mut self, mongo: &mut Mongo, db: &str, size: usize) -> Vec<Event> {
        let ns = format!("{db}.{}", self.coll);
        let mut moved = HashSet::new();
        // Not inserted again in this batch: a sorted list that has the old document still has its id when it asks again, and
        // passes over the insert.
        let mut deleted = HashSet::new();
        let mut events = Vec::new();
        for _ in 0..10 * size {
            if events.len() == size {
                break;
            }
            let id = self.ids[self.rng.below(self.ids.len())].clone();
            let before = mongo.get(&self.coll, &id).cloned();
            let (event, after) = match &before {
                None => {
                    if deleted.contains(&id.to_string()) {
                        continue;
                    }
                    let doc = self.document(&id);
                    (sample::insert(&ns, doc.clone()), Some(doc))
                }
                Some(_) if self.rng.chance(0.15) => {
                    if moved.contains(&id.to_string()) && self.moved_stay {
                        continue;
                    }
                    deleted.insert(id.to_string());
                    (sample::delete(&ns, id.clone()), None)
                }
                Some(_) if self.rng.chance(0.15) => {
                    let doc = self.document(&id);
                    (sample::replace(&ns, doc.clone()), Some(doc))
                }
                Some(before) => {
                    let diff = raw(&self.diff(before));
                    let after = oplog::apply(&diff, &raw(before)).unwrap();
                    let change = Some(Change::OplogV2(diff));
                    let event = Event { change, ..sample::update(&ns, id.clone(), doc! {}) };
                    (event, Some(Document::try_from(after.as_ref()).unwrap()))
                }
            };
            if matches!(event.op, Op::Update | Op::Replace) {
                moved.insert(id.to_string());
            }
            events.push(Event { before: before.as_ref().map(raw), after: after.as_ref().map(raw), ..event });
            mongo.put(&self.coll, &id, after);
        }
        events
    }
}
