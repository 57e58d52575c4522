//! The transform: the child's answer is got by `prepare` and handed out by `apply`.

use std::sync::Arc;

use oplogue_api::{Batch, Doc, Event, Result, Transform, Verdict, Verdicts, async_trait};

use crate::{
    answer::{self, wrong},
    options::Spec,
    process::Process,
    request,
};

pub struct External {
    process: Process,
    prepared: Verdicts,
}

impl External {
    pub fn new(spec: Spec) -> External {
        External { process: Process::new(spec), prepared: Verdicts::default() }
    }
}

#[async_trait]
impl Transform for External {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        self.prepared.clear();
        let asked: Vec<&Event> = Verdicts::asked(batch).collect();
        let mut verdicts = Vec::with_capacity(asked.len());
        for piece in request::pieces(&asked) {
            self.process.start().await?;
            let raw = self.process.hello().is_some_and(|hello| hello.raw);
            let piece = &asked[piece];
            let answer = self.process.call("transform", request::of_events(piece.iter().copied(), raw)).await?;
            verdicts.extend(read(&answer, piece)?);
        }
        self.prepared.note(batch, verdicts);
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        self.prepared.apply(batch)
    }
}

/// The verdicts of an answer, `{events: [true | false | {event: {…}} | {bad: "why"}, …]}`: one for each that was asked about.
fn read(answer: &Doc, asked: &[&Event]) -> Result<Vec<Verdict>> {
    let verdicts = answer::get(answer, "events")
        .and_then(|events| events.as_array())
        .ok_or_else(|| wrong("answered `transform` without an array `events`"))?;
    let mut out = Vec::with_capacity(asked.len());
    for verdict in verdicts {
        let i = out.len();
        let Some(event) = asked.get(i) else {
            return Err(wrong(format_args!("answered about more events than the {} that it was sent", asked.len())));
        };
        let wrong = |what: &str| wrong(format_args!("answered about event {i} {what}"));
        let verdict = verdict.map_err(|_| wrong("with what is no BSON"))?;
        out.push(if let Some(keep) = verdict.as_bool() {
            if keep { Verdict::Keep } else { Verdict::Drop }
        } else {
            let inner = verdict.as_document().ok_or_else(|| wrong("with neither true, false nor a document"))?;
            match (answer::get(inner, "event"), answer::get(inner, "bad")) {
                (Some(new), None) => {
                    let new = new.as_document().ok_or_else(|| wrong("with an `event` that is no document"))?;
                    Verdict::Replace(Box::new(replaced(event, &answer.slice(new)).map_err(|e| wrong(&e))?))
                }
                (None, Some(why)) => {
                    let why = why.as_str().ok_or_else(|| wrong("with a `bad` that is no text"))?;
                    Verdict::Bad(answer::refused(why, answer::get(inner, "hint").and_then(|hint| hint.as_str())))
                }
                _ => return Err(wrong("with a document that has neither `event` nor `bad`, or both")),
            }
        });
    }
    if out.len() < asked.len() {
        return Err(wrong(format_args!("answered about {} of the {} events that it was sent", out.len(), asked.len())));
    }
    Ok(out)
}

/// The child's event in the place of `old`: what it is about is the child's, where it stands in the history is not (T7).
fn replaced(old: &Event, document: &Doc) -> Result<Event, String> {
    let new = Event::from_document(document).map_err(|e| format!("with an event that is none: {e}"))?;
    if new.id() != old.id() {
        return Err(format!("with the event {}, but it is {}", new.id(), old.id()));
    }
    if new.op.is_barrier() != old.op.is_barrier() || Verdicts::passes(&new) {
        return Err(format!("by making {} of {}", new.op.name(), old.op.name()));
    }
    if new.op.is_barrier() == new.key.is_some() {
        return Err(format!("with `{}` {} a `key`", new.op.name(), if new.key.is_some() { "and" } else { "without" }));
    }
    Ok(Event { entry: old.entry, wall: old.wall, txn: old.txn.as_ref().map(Arc::clone), ..new })
}
