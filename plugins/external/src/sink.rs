//! The sink.

use bson::{RawDocumentBuf, cstr};
use oplogue_api::{
    Doc, Error, ErrorKind, Event, Failed, Finding, Ordering, Position, Result, Sink, Written, async_trait, same_key,
};

use crate::{
    answer::{self, wrong},
    options::Spec,
    process::Process,
    request,
};

pub struct External {
    process: Process,
}

impl External {
    pub fn new(spec: Spec) -> External {
        External { process: Process::new(spec) }
    }
}

#[async_trait]
impl Sink for External {
    fn ordering(&self) -> Ordering {
        self.process.hello().map_or(Ordering::PerKey, |hello| hello.ordering)
    }

    fn max_batch(&self) -> Option<usize> {
        self.process.hello()?.max_batch
    }

    async fn open(&self) -> Result<()> {
        self.ping().await
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let mut written = Written::default();
        let all: Vec<&Event> = events.iter().collect();
        let pieces = request::pieces(&all);
        let last = pieces.len();
        for (n, piece) in pieces.into_iter().enumerate() {
            // K4, where one write is several requests.
            let (waiting, sent): (Vec<usize>, Vec<usize>) =
                piece.partition(|i| waits(events, *i, &written.failed, self.ordering()));
            let refused = self.request(events, &sent, upto.filter(|_| n + 1 == last), &mut written).await?;
            let kept = waiting.into_iter().map(|index| Failed {
                index,
                error: Error::transient("waits for an event in front of it that the child has not taken"),
            });
            let mut failed: Vec<Failed> = refused.into_iter().chain(kept).collect();
            failed.sort_by_key(|failed| failed.index);
            written.failed.extend(failed);
        }
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        self.process.call("ping", RawDocumentBuf::new()).await.map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.process.close().await;
        Ok(())
    }

    async fn check(&self) -> Vec<Finding> {
        self.process.check(true).await
    }
}

impl External {
    /// Writes the events of these indexes.
    async fn request(
        &self,
        events: &[Event],
        sent: &[usize],
        upto: Option<&Position>,
        written: &mut Written,
    ) -> Result<Vec<Failed>> {
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        self.process.start().await?;
        let raw = self.process.hello().is_some_and(|hello| hello.raw);
        let mut body = request::of_events(sent.iter().map(|i| &events[*i]), raw);
        // I1: a position is good only when all before it is.
        if let Some(upto) = upto.filter(|_| written.failed.is_empty()) {
            body.append(cstr!("upto"), request::of_position(upto));
        }
        let answer = self.process.call("write", body).await?;
        let failed = read(&answer, sent)?;
        let (duplicates, ignored) = (answer::count(&answer, "duplicates")?, answer::count(&answer, "ignored")?);
        if (failed.len() as u64).saturating_add(duplicates).saturating_add(ignored) > sent.len() as u64 {
            return Err(wrong(format_args!("accounted for more events than the {} that it was sent", sent.len())));
        }
        written.duplicates += duplicates;
        written.ignored += ignored;
        Ok(failed)
    }
}

/// Whether the event has to wait for one that failed: of the same key, or any where either is a barrier or the order is total.
fn waits(events: &[Event], i: usize, failed: &[Failed], ordering: Ordering) -> bool {
    failed.iter().map(|failed| &events[failed.index]).any(|before| {
        let event = &events[i];
        match (&before.key, &event.key) {
            _ if ordering == Ordering::Total => true,
            (Some(a), Some(b)) => before.ns == event.ns && same_key(a, b),
            _ => true,
        }
    })
}

/// `{failed: [{index, kind, message, hint}, …]}`, with the indexes of the whole write.
fn read(answer: &Doc, sent: &[usize]) -> Result<Vec<Failed>> {
    let failed = answer::get(answer, "failed")
        .and_then(|failed| failed.as_array())
        .ok_or_else(|| wrong("answered `write` without an array `failed`"))?;
    let mut out: Vec<Failed> = Vec::new();
    for entry in failed {
        let entry =
            entry.ok().and_then(|entry| entry.as_document()).ok_or_else(|| wrong("sent a `failed` of no documents"))?;
        let index = answer::get(entry, "index")
            .and_then(answer::number)
            .ok_or_else(|| wrong("sent an entry of `failed` without an `index`"))?;
        let Some(index) = usize::try_from(index).ok().and_then(|index| sent.get(index)).copied() else {
            return Err(wrong(format_args!("named event {index}, which it was not sent: there were {}", sent.len())));
        };
        if out.last().is_some_and(|last| last.index >= index) {
            return Err(wrong("sent a `failed` that is not ascending"));
        }
        let kind = match answer::get(entry, "kind").and_then(|kind| kind.as_str()) {
            Some("transient") => ErrorKind::Transient,
            Some("data") => ErrorKind::Data,
            _ => return Err(wrong("sent an entry of `failed` whose `kind` is neither transient nor data")),
        };
        out.push(Failed { index, error: answer::error_of(kind, entry) });
    }
    Ok(out)
}
