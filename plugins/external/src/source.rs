//! The source.

use std::{sync::Arc, time::Duration};

use bson::{RawDocumentBuf, Timestamp, cstr, rawdoc};
use oplogue_api::{
    BadEvent, Batch, Doc, Error, Event, EventId, Finding, Interest, Namespace, Op, Position, Replicated, Result,
    Source, StartAt, async_trait,
};
use tokio::sync::oneshot;

use crate::{
    answer::{self, wrong},
    link::{self, Link},
    options::Spec,
    process::Process,
    request,
};

/// How long the child may wait for something to tell, before it says that there is nothing.
const WAIT: Duration = Duration::from_secs(1);

pub struct External {
    process: Process,
    /// The child that was told where to begin; `None`: not open.
    open: Option<Open>,
}

struct Open {
    link: Arc<Link>,
    /// A question that was asked already, by a `next` that was dropped.
    asked: Option<oneshot::Receiver<Result<Doc>>>,
    end: Position,
    last: Option<EventId>,
    finished: bool,
}

impl External {
    pub fn new(spec: Spec) -> External {
        External { process: Process::new(spec), open: None }
    }
}

#[async_trait]
impl Source for External {
    async fn open(&mut self, from: StartAt<'_>, interest: &Interest) -> Result<Position> {
        self.open = None;
        let link = self.process.start().await?;
        let markers = interest.replicated != Replicated::AsWrites;
        if markers && !self.process.hello().is_some_and(|hello| hello.markers) {
            return Err(Error::operator("the child does not know the markers of replicators, which the sink asks for")
                .hint(
                    "a sink that replicates needs a source that reads a MongoDB: mongo-oplog or mongo-change-stream",
                ));
        }
        let (start, position) = match from {
            StartAt::Position(position) => ("position", Some(position)),
            StartAt::Configured => ("configured", None),
            StartAt::Now => ("now", None),
        };
        let replicated = match interest.replicated {
            Replicated::AsWrites => "as-writes",
            Replicated::Markers => "markers",
            Replicated::MarkersAndWrites => "markers-and-writes",
        };
        let mut body = rawdoc! {"start": start, "replicated": replicated};
        if let Some(position) = position {
            body.append(cstr!("from"), request::of_position(position));
        }
        let answer = link::answer(&link, &mut link.ask("open", body, Duration::ZERO)?).await?;
        let end = answer::position(&answer, "position")?;
        self.open = Some(Open { link, asked: None, end: end.clone(), last: None, finished: false });
        Ok(end)
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(open) = &mut self.open else {
            return Err(Error::bug("`next` of a source that is not open"));
        };
        if open.finished {
            return Ok(None);
        }
        let asked = match &mut open.asked {
            Some(asked) => asked,
            asked => {
                let body = rawdoc! {"wait": WAIT.as_millis() as i64};
                asked.insert(open.link.ask("next", body, WAIT)?)
            }
        };
        // Cancel-safe (S3): what was asked stays asked, and nothing is awaited behind it.
        let answer = link::answer(&open.link, asked).await;
        open.asked = None;
        self.process.judge("next", &answer);
        let read = answer.and_then(|answer| open.read(answer));
        if read.is_err() {
            self.open = None;
        }
        read
    }

    async fn committed(&mut self, upto: &Position) -> Result<()> {
        let wanted = self.process.hello().is_some_and(|hello| hello.committed);
        let Some(open) = self.open.as_ref().filter(|_| wanted) else { return Ok(()) };
        let mut body = RawDocumentBuf::new();
        body.append(cstr!("upto"), request::of_position(upto));
        link::answer(&open.link, &mut open.link.ask("committed", body, WAIT)?).await.map(drop)
    }

    async fn check(&mut self) -> Vec<Finding> {
        let had = self.open.is_some();
        if had {
            return vec![Finding::ok("the child runs")];
        }
        self.process.check(false).await
    }

    async fn close(&mut self) {
        self.open = None;
        self.process.close().await;
    }
}

impl Open {
    /// `{events: […], end, head?, bad?: […]}` or `{finished: true}`.
    fn read(&mut self, answer: Doc) -> Result<Option<Batch>> {
        if answer::get(&answer, "finished").and_then(|f| f.as_bool()) == Some(true) {
            self.finished = true;
            return Ok(None);
        }
        let end = answer::position(&answer, "end")?;
        if end.time < self.end.time {
            return Err(wrong("gave an `end` before that of its last batch"));
        }
        let head = answer::timestamp(&answer, "head").unwrap_or(end.time).max(end.time);
        let array = answer::get(&answer, "events")
            .and_then(|events| events.as_array())
            .ok_or_else(|| wrong("answered `next` without an array `events`"))?;
        let bytes = answer.as_bytes().len();
        let mut batch = Batch { events: Vec::new(), bad: Vec::new(), end, head, bytes };
        let mut told = bad(&answer)?.into_iter().peekable();
        let mut txn: Option<Arc<oplogue_api::Txn>> = None;
        for (i, event) in array.into_iter().enumerate() {
            while let Some((_, bad)) = told.next_if(|(before, _)| *before <= i) {
                batch.bad.push(BadEvent { before: batch.events.len(), ..bad });
            }
            let document = event
                .ok()
                .and_then(|event| event.as_document())
                .ok_or_else(|| wrong("sent an event that is no document"))?;
            let document = answer.slice(document);
            match complete(&document) {
                Ok(mut event) => {
                    if self.last.is_some_and(|last| event.id() <= last) {
                        return Err(wrong(format_args!("sent the event {} behind a later one or itself", event.id())));
                    }
                    self.last = Some(event.id());
                    // One value for all events of a transaction.
                    if event.txn.is_some() {
                        if event.txn == txn { event.txn.clone_from(&txn) } else { txn.clone_from(&event.txn) }
                    }
                    batch.events.push(event);
                }
                // P4: the others are sound, and the route has a policy for this one.
                Err(error) => batch.bad.push(BadEvent {
                    event: None,
                    by: None,
                    before: batch.events.len(),
                    time: answer::timestamp(&document, "time").unwrap_or(batch.end.time),
                    ns: answer::get(&document, "ns").and_then(|ns| ns.as_str()).map(Namespace::new),
                    raw: document,
                    error,
                }),
            }
        }
        batch.bad.extend(told.map(|(_, bad)| BadEvent { before: batch.events.len(), ..bad }));
        self.end = batch.end.clone();
        Ok(Some(batch))
    }
}

/// `bad: [{before, time?, ns?, raw, message, hint?}, …]`: entries that the child could not decode. `before` counts events of the
/// answer.
fn bad(answer: &Doc) -> Result<Vec<(usize, BadEvent)>> {
    let Some(array) = answer::get(answer, "bad") else { return Ok(Vec::new()) };
    let array = array.as_array().ok_or_else(|| wrong("sent a `bad` that is no array"))?;
    let mut out: Vec<(usize, BadEvent)> = Vec::new();
    for entry in array {
        let entry =
            entry.ok().and_then(|entry| entry.as_document()).ok_or_else(|| wrong("sent a `bad` of no documents"))?;
        let before =
            answer::get(entry, "before").and_then(answer::number).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        if out.last().is_some_and(|(last, _)| *last > before) {
            return Err(wrong("sent a `bad` that is not in order"));
        }
        let raw = answer::get(entry, "raw").and_then(|raw| raw.as_document()).map(|raw| answer.slice(raw));
        let message = answer::get(entry, "message").and_then(|m| m.as_str()).unwrap_or("the child gave no reason");
        let event = BadEvent {
            event: None,
            by: None,
            before,
            time: answer::timestamp(entry, "time").unwrap_or(Timestamp { time: 0, increment: 0 }),
            ns: answer::get(entry, "ns").and_then(|ns| ns.as_str()).map(Namespace::new),
            raw: raw.unwrap_or_else(|| answer.slice(entry)),
            error: answer::refused(message, answer::get(entry, "hint").and_then(|hint| hint.as_str())),
        };
        out.push((before, event));
    }
    Ok(out)
}

/// The event, if it has all that S9 asks for. Where the child gives no `raw`, it is the document that the child sent.
fn complete(document: &Doc) -> Result<Event> {
    let mut event = Event::from_document(document)?;
    let missing = |name: &str| Err(Error::data(format!("the child's event of `{}` has no `{name}`", event.op.name())));
    let has_id = event.key.as_ref().is_some_and(|key| matches!(key.get("_id"), Ok(Some(_))));
    match event.op {
        Op::Insert | Op::Update | Op::Replace | Op::Delete if !has_id => return missing("key._id"),
        Op::Insert | Op::Replace if event.after.is_none() => return missing("after"),
        Op::Update => match &event.change {
            None => return missing("change"),
            Some(change) => drop(change.decode()?),
        },
        op if op.is_barrier() && event.key.is_some() => {
            return Err(Error::data(format!("the child's event of `{}` has a `key`", op.name())));
        }
        _ => {}
    }
    if event.raw == Doc::empty() {
        event.raw = document.clone();
    }
    Ok(event)
}
