mod envelope;
mod events;
mod names;
mod paths;
mod properties;
mod reference;
mod set;
mod unwrap;

use bson::{Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use oplogue_api::{Batch, Change, Context, Doc, Event, Namespace, Op, Options, Position, Registry, Result, Transform};

fn raw(doc: &Document) -> Doc {
    RawDocumentBuf::try_from(doc).unwrap().into()
}

fn decoded(doc: &Doc) -> Document {
    Document::try_from(&**doc).unwrap()
}

/// The transform of a type with these options.
fn make(kind: &str, options: &str) -> Result<Box<dyn Transform>> {
    let mut registry = Registry::default();
    crate::register(&mut registry);
    (registry.transforms[kind].build)(&Context::default(), &Options::new(options.parse().unwrap()))
}

fn time() -> Timestamp {
    Timestamp { time: 1, increment: 1 }
}

fn batch(events: Vec<Event>) -> Batch {
    let end = Position { token: rawdoc! {"n": 1}.into(), time: time() };
    Batch { events, bad: vec![], end, head: time(), bytes: 0 }
}

/// What becomes of an event.
fn one(transform: &mut dyn Transform, event: Event) -> Option<Event> {
    let mut batch = batch(vec![event]);
    transform.apply(&mut batch).unwrap();
    assert!(batch.bad.is_empty(), "{}", batch.bad[0].error);
    batch.events.pop()
}

fn event(op: Op) -> Event {
    Event {
        key: Some(raw(&doc! {"_id": 1})),
        ..Event::new(op, Namespace::new("app.users"), time(), raw(&doc! {"raw": 1}))
    }
}

fn insert(after: Document) -> Event {
    Event { after: Some(raw(&after)), ..event(Op::Insert) }
}

fn update(change: Change) -> Event {
    Event { change: Some(change), ..event(Op::Update) }
}

/// What becomes of the document of an insert.
fn edited(kind: &str, options: &str, after: Document) -> Document {
    let mut transform = make(kind, options).unwrap_or_else(|e| panic!("{e}: {:?}", e.get_hint()));
    decoded(&one(&mut *transform, insert(after)).unwrap().after.unwrap())
}

/// What becomes of a change; `None` when the update is left out.
fn changed(kind: &str, options: &str, change: Change) -> Option<Change> {
    one(&mut *make(kind, options).unwrap(), update(change)).map(|event| event.change.unwrap())
}
