//! Events as BSON documents: how they travel to other processes, and how a dead letter holds one.
//!
//! ```text
//! { op: "update", ns: "app.orders", key: {_id: 7}, after: {…}, before: {…}, change: { diff: {…} }, to: "app.new",
//!   time: Timestamp, index: 0, entry: { time: Timestamp, index: 0 }, wall: Date, txn: { lsid: {…}, number: 3, replicated: true }, raw: {…} }
//! ```
//!
//! `op`, `ns` and `time` are always there; the rest is absent where the event has none, `index` where it is 0, `replicated` where it is false. `change` has one member:
//! `description` ([`Change::ChangeStream`]), `modifiers` ([`Change::OplogV1`]) or `diff` ([`Change::OplogV2`]).

use std::sync::Arc;

use bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, cstr, rawdoc};

use crate::{Change, Doc, Error, Event, EventId, Namespace, Op, Result, Txn};

impl Event {
    /// The event as a document. An empty `raw` is left out.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut to = rawdoc! {"op": self.op.name(), "ns": self.ns.as_str()};
        for (name, part) in [(cstr!("key"), &self.key), (cstr!("after"), &self.after), (cstr!("before"), &self.before)]
        {
            if let Some(part) = part {
                to.append(name, &**part);
            }
        }
        if let Some(change) = &self.change {
            let mut inner = RawDocumentBuf::new();
            match change {
                Change::ChangeStream(doc) => inner.append(cstr!("description"), &**doc),
                Change::OplogV1(doc) => inner.append(cstr!("modifiers"), &**doc),
                Change::OplogV2(doc) => inner.append(cstr!("diff"), &**doc),
            }
            to.append(cstr!("change"), inner);
        }
        if let Some(ns) = &self.to {
            to.append(cstr!("to"), ns.as_str());
        }
        to.append(cstr!("time"), self.time);
        if self.index > 0 {
            to.append(cstr!("index"), i64::from(self.index));
        }
        if let Some(entry) = self.entry {
            to.append(cstr!("entry"), rawdoc! {"time": entry.time, "index": i64::from(entry.index)});
        }
        if let Some(wall) = self.wall {
            to.append(cstr!("wall"), DateTime::from_millis(wall));
        }
        if let Some(txn) = &self.txn {
            let mut inner = rawdoc! {"lsid": (*txn.lsid).to_owned(), "number": txn.number};
            if txn.replicated {
                inner.append(cstr!("replicated"), true);
            }
            to.append(cstr!("txn"), inner);
        }
        if self.raw != Doc::empty() {
            to.append(cstr!("raw"), &*self.raw);
        }
        to
    }

    /// The event that [`Event::to_document`] wrote, sharing the memory of the document. Members that it does not know are passed over.
    ///
    /// # Errors
    /// [`Data`](crate::ErrorKind::Data), naming the member that is missing or of a wrong type.
    pub fn from_document(document: &Doc) -> Result<Event> {
        let (mut op, mut ns, mut time) = (None, None, None);
        let mut event = Event::new(Op::Other, Namespace::new(""), Timestamp { time: 0, increment: 0 }, Doc::empty());
        for element in document.iter() {
            let (name, value) = element.map_err(|e| Error::data(format!("the event is no valid BSON: {e}")))?;
            let wrong = || wrong(name.as_str(), &value);
            let inner = || value.as_document().ok_or_else(wrong);
            match name.as_str() {
                "op" => op = Some(Op::named(value.as_str().ok_or_else(wrong)?)?),
                "ns" => ns = Some(Namespace::new(value.as_str().ok_or_else(wrong)?)),
                "key" => event.key = Some(document.slice(inner()?)),
                "after" => event.after = Some(document.slice(inner()?)),
                "before" => event.before = Some(document.slice(inner()?)),
                "change" => event.change = Some(change(document, inner()?)?),
                "to" => event.to = Some(Namespace::new(value.as_str().ok_or_else(wrong)?)),
                "time" => time = Some(value.as_timestamp().ok_or_else(wrong)?),
                "index" => event.index = index(value).ok_or_else(wrong)?,
                "entry" => event.entry = Some(entry(inner()?).ok_or_else(wrong)?),
                "wall" => event.wall = Some(value.as_datetime().ok_or_else(wrong)?.timestamp_millis()),
                "txn" => event.txn = Some(Arc::new(txn(document, inner()?).ok_or_else(wrong)?)),
                "raw" => event.raw = document.slice(inner()?),
                _ => {}
            }
        }
        let missing = |name| Error::data(format!("the event has no `{name}`"));
        event.op = op.ok_or_else(|| missing("op"))?;
        event.ns = ns.ok_or_else(|| missing("ns"))?;
        event.time = time.ok_or_else(|| missing("time"))?;
        Ok(event)
    }
}

impl Op {
    /// The operation of a [name](Op::name).
    ///
    /// # Errors
    /// [`Data`](crate::ErrorKind::Data) when there is none.
    pub fn named(name: &str) -> Result<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name).ok_or_else(|| {
            let all: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
            Error::data("`op` is no operation").hint(format!("it is one of {}", all.join(", ")))
        })
    }
}

fn wrong(name: &str, value: &RawBsonRef<'_>) -> Error {
    Error::data(format!("`{name}` of the event is of the wrong type, {:?}, or incomplete", value.element_type()))
}

fn index(value: RawBsonRef<'_>) -> Option<u32> {
    match value {
        RawBsonRef::Int32(n) => u32::try_from(n).ok(),
        RawBsonRef::Int64(n) => u32::try_from(n).ok(),
        _ => None,
    }
}

fn entry(inner: &RawDocument) -> Option<EventId> {
    Some(EventId { time: inner.get_timestamp("time").ok()?, index: index(inner.get("index").ok()??)? })
}

fn txn(document: &Doc, inner: &RawDocument) -> Option<Txn> {
    let number = match inner.get("number").ok()?? {
        RawBsonRef::Int32(n) => i64::from(n),
        RawBsonRef::Int64(n) => n,
        _ => return None,
    };
    let replicated = match inner.get("replicated").ok()? {
        Some(replicated) => replicated.as_bool()?,
        None => false,
    };
    Some(Txn { lsid: document.slice(inner.get_document("lsid").ok()?), number, replicated })
}

fn change(document: &Doc, inner: &RawDocument) -> Result<Change> {
    let mut members = inner.iter();
    let one = || Error::data("`change` of the event must have one member: `description`, `modifiers` or `diff`");
    let (name, value) = members.next().and_then(|first| first.ok()).ok_or_else(one)?;
    let value = document.slice(value.as_document().ok_or_else(one)?);
    match name.as_str() {
        _ if members.next().is_some() => Err(one()),
        "description" => Ok(Change::ChangeStream(value)),
        "modifiers" => Ok(Change::OplogV1(value)),
        "diff" => Ok(Change::OplogV2(value)),
        _ => Err(one()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(n: u32) -> Timestamp {
        Timestamp { time: n, increment: 1 }
    }

    fn full(change: Change) -> Event {
        let mut event = Event::new(Op::Update, Namespace::new("a.b.c"), time(9), rawdoc! {"ts": 1}.into());
        event.key = Some(rawdoc! {"_id": 1}.into());
        event.after = Some(rawdoc! {"_id": 1, "x": 2}.into());
        event.before = Some(rawdoc! {"_id": 1, "x": 1}.into());
        event.change = Some(change);
        event.to = Some(Namespace::new("a.d"));
        event.index = u32::MAX;
        event.entry = Some(EventId { time: time(8), index: 3 });
        event.wall = Some(1_764_000_000_123);
        event.txn = Some(Arc::new(Txn { lsid: rawdoc! {"id": 1}.into(), number: -5, replicated: true }));
        event
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let doc = || Doc::from(rawdoc! {"u": {"x": 2}});
        let changes = [Change::ChangeStream(doc()), Change::OplogV1(doc()), Change::OplogV2(doc())];
        let small = Event::new(Op::Gap, Namespace::new(""), time(1), Doc::empty());
        for event in changes.into_iter().map(full).chain([small]) {
            let back = Event::from_document(&event.to_document().into()).unwrap();
            // Whatever a field is: two events that are the same are written the same.
            assert_eq!(back.to_document(), event.to_document());
            assert_eq!((back.op, &back.ns, back.id(), back.entry), (event.op, &event.ns, event.id(), event.entry));
            assert_eq!((back.key, back.after, back.before), (event.key, event.after, event.before));
            assert_eq!((back.change, back.to, back.wall, back.txn), (event.change, event.to, event.wall, event.txn));
            assert_eq!(back.raw, event.raw);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ok = || rawdoc! {"op": "insert", "ns": "a.b", "time": time(1)};
        assert!(Event::from_document(&ok().into()).is_ok());
        for name in ["op", "ns", "time"] {
            let kept = ok().iter().filter_map(|e| e.ok()).filter(|(n, _)| n.as_str() != name).fold(
                RawDocumentBuf::new(),
                |mut doc, (name, value)| {
                    doc.append(name, value);
                    doc
                },
            );
            let e = Event::from_document(&kept.into()).unwrap_err();
            assert!(e.message().contains(&format!("`{name}`")), "{e}");
        }
        let names =
            ["op", "ns", "key", "after", "before", "change", "to", "time", "index", "entry", "wall", "txn", "raw"];
        for name in names {
            let mut doc = ok();
            doc.append(bson::raw::CString::try_from(name).unwrap(), 1.5);
            let e = Event::from_document(&doc.into()).unwrap_err();
            assert!(e.message().contains(&format!("`{name}`")), "{e}");
        }
        for change in [rawdoc! {}, rawdoc! {"diff": {}, "modifiers": {}}, rawdoc! {"diff": 1}, rawdoc! {"other": {}}] {
            let mut doc = ok();
            doc.append(cstr!("change"), change);
            assert!(Event::from_document(&doc.into()).is_err());
        }
        assert_eq!(Op::named("inserts").unwrap_err().message(), "`op` is no operation");
    }
}
