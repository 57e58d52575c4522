use bson::{Bson, Document, Timestamp, doc};
use oplogue_api::{Change, Doc, Event, Namespace, Op};

fn raw(doc: &Document) -> Doc {
    // A `Document` of the tests themselves: always encodable.
    Doc::from(bson::RawDocumentBuf::try_from(doc).expect("a document of a test can be encoded"))
}

/// The document key of `id`: `{_id: id}`.
pub fn key_of(id: impl Into<Bson>) -> Doc {
    raw(&doc! {"_id": id.into()})
}

fn event(op: Op, ns: &str, body: Document) -> Event {
    let mut shown = doc! {"op": op.name(), "ns": ns};
    shown.extend(body);
    Event::new(op, Namespace::new(ns), Timestamp { time: 0, increment: 0 }, raw(&shown))
}

/// An insert of `document`, which holds its `_id`. The time is zero until the event is pushed to a log.
pub fn insert(ns: &str, document: Document) -> Event {
    let id = document.get("_id").cloned().unwrap_or(Bson::Null);
    Event { key: Some(key_of(id)), after: Some(raw(&document)), ..event(Op::Insert, ns, doc! {"o": document.clone()}) }
}

/// A replacement by `document`, which holds its `_id`.
pub fn replace(ns: &str, document: Document) -> Event {
    let id = document.get("_id").cloned().unwrap_or(Bson::Null);
    Event {
        key: Some(key_of(id.clone())),
        after: Some(raw(&document)),
        ..event(Op::Replace, ns, doc! {"o2": {"_id": id}, "o": document.clone()})
    }
}

/// An update that sets the fields of `set` in the document `id`.
pub fn update(ns: &str, id: impl Into<Bson>, set: Document) -> Event {
    let id = id.into();
    let diff = doc! {"u": set};
    Event {
        key: Some(key_of(id.clone())),
        change: Some(Change::OplogV2(raw(&diff))),
        ..event(Op::Update, ns, doc! {"o2": {"_id": id}, "o": {"$v": 2, "diff": diff.clone()}})
    }
}

/// A deletion of the document `id`.
pub fn delete(ns: &str, id: impl Into<Bson>) -> Event {
    let id = id.into();
    Event { key: Some(key_of(id.clone())), ..event(Op::Delete, ns, doc! {"o": {"_id": id}}) }
}

/// A barrier: an event about more than one document.
pub fn barrier(op: Op, ns: &str) -> Event {
    let body = doc! {"o": {op.name(): ns}};
    Event { to: (op == Op::Rename).then(|| Namespace::new(&format!("{ns}_renamed"))), ..event(op, ns, body) }
}
