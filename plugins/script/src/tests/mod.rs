//! Scripts and what they make of events.

mod events;
mod limits;
mod messages;
mod values;

use std::sync::Arc;

use bson::{RawDocumentBuf, Timestamp};
use oplogue_api::{Batch, Change, Context, Doc, Event, Namespace, Op, Options, Position, Transform};

use crate::{options::Script, transform::Scripted};

/// A script of these options, in TOML.
pub fn with(options: &str) -> oplogue_api::Result<Scripted> {
    let options = Options::new(options.parse().expect("TOML"));
    Scripted::new(Script::new(&Context { name: "mine".into(), ..Context::default() }, &options)?)
}

pub fn script(code: &str) -> Scripted {
    let table = toml::Table::from_iter([("code".to_owned(), toml::Value::from(code))]);
    with(&table.to_string()).unwrap_or_else(|e| panic!("{e}\n{code}"))
}

pub fn doc(doc: RawDocumentBuf) -> Doc {
    Doc::from(doc)
}

pub fn event(op: Op, n: u32) -> Event {
    let raw = doc(bson::rawdoc! {"raw": "of the server"});
    let mut event = Event::new(op, Namespace::new("app.orders"), Timestamp { time: 100 + n, increment: 7 }, raw);
    event.key = Some(doc(bson::rawdoc! {"_id": 1}));
    event
}

pub fn insert(after: RawDocumentBuf) -> Event {
    Event { after: Some(doc(after)), ..event(Op::Insert, 0) }
}

/// An update of this diff.
pub fn update(diff: RawDocumentBuf) -> Event {
    Event { change: Some(Change::OplogV2(doc(diff))), ..event(Op::Update, 0) }
}

pub fn batch(events: Vec<Event>) -> Batch {
    let time = Timestamp { time: 1000, increment: 1 };
    let end = Position { token: Doc::empty(), time };
    Batch { events, bad: Vec::new(), end, head: time, bytes: 1 << 20 }
}

pub async fn pass(script: &mut Scripted, events: Vec<Event>) -> Batch {
    let mut batch = batch(events);
    script.prepare(&batch).await.expect("prepare");
    script.apply(&mut batch).expect("apply");
    batch
}

/// What becomes of one event: nothing, another one, or why it is bad.
pub async fn one(script: &mut Scripted, event: Event) -> Result<Option<Event>, String> {
    let mut batch = pass(script, vec![event]).await;
    match batch.bad.pop() {
        Some(bad) => Err(bad.error.to_string()),
        None => Ok(batch.events.pop()),
    }
}

/// What becomes of one event in a new script.
pub async fn run(code: &str, event: Event) -> Result<Option<Event>, String> {
    one(&mut script(code), event).await
}

/// Whether two events are the same to the byte.
pub fn assert_same(event: &Event, expected: &Event) {
    assert_eq!(event.to_document(), expected.to_document());
    assert_eq!(event.txn.as_ref().map(Arc::as_ptr), expected.txn.as_ref().map(Arc::as_ptr));
}
