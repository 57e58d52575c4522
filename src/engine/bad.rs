//! What happens to an event that cannot be decoded, transformed or delivered.

use std::sync::Arc;

use bson::{Binary, RawDocumentBuf, Timestamp, spec::BinarySubtype};
use oplogue_api::{BadEvent, Doc, Error, ErrorKind, Event, Namespace, Op, Result, Sink};
use tracing::{error, warn};

use super::{backoff::Backoff, status::RouteStatus};
use crate::telemetry::metrics::{Outcome, Place, RouteMetrics};

/// The `on_bad_event` of a route, ready to act.
pub enum BadEvents {
    /// Stop the route.
    Stop,
    /// Log, count, go on.
    Skip,
    /// Deliver to this sink instead.
    DeadLetter(Arc<dyn Sink>),
}

/// An event that is given up.
pub struct Rejected<'a> {
    pub time: Timestamp,
    pub ns: Option<&'a Namespace>,
    /// What the server sent, of what could not be decoded.
    raw: &'a Doc,
    event: Option<&'a Event>,
    by: Option<&'a str>,
    pub error: &'a Error,
}

impl<'a> From<&'a BadEvent> for Rejected<'a> {
    fn from(bad: &'a BadEvent) -> Self {
        Rejected {
            time: bad.time,
            ns: bad.ns.as_ref(),
            raw: &bad.raw,
            event: bad.event.as_deref(),
            by: bad.by.as_deref(),
            error: &bad.error,
        }
    }
}

impl<'a> Rejected<'a> {
    pub fn event(event: &'a Event, error: &'a Error) -> Self {
        Rejected { time: event.time, ns: Some(&event.ns), raw: &event.raw, event: Some(event), by: None, error }
    }

    /// Where it is, without its content (I8).
    fn place(&self) -> String {
        let ns = self.ns.map_or("an unknown namespace", Namespace::as_str);
        format!("event of {ns} at cluster time {}.{}", self.time.time, self.time.increment)
    }

    pub fn letter(&self, route: &str) -> Event {
        let mut doc = RawDocumentBuf::new();
        doc.append(bson::cstr!("route"), route);
        doc.append(bson::cstr!("error"), self.error.to_string());
        if let Some(hint) = self.error.get_hint() {
            doc.append(bson::cstr!("hint"), hint);
        }
        if let Some(ns) = self.ns {
            doc.append(bson::cstr!("ns"), ns.as_str());
        }
        doc.append(bson::cstr!("time"), self.time);
        if let Some(by) = self.by {
            doc.append(bson::cstr!("by"), by);
        }
        match self.event {
            Some(event) => {
                doc.append(bson::cstr!("id"), event.id().to_string());
                doc.append(bson::cstr!("event"), event.to_document());
            }
            None => {
                // As binary: the entry may be damaged, and it must be kept to the byte.
                let bytes = self.raw.as_bytes().to_vec();
                doc.append(bson::cstr!("event"), Binary { subtype: BinarySubtype::Generic, bytes });
            }
        }
        let ns = self.ns.cloned().unwrap_or_else(|| Namespace::new(""));
        Event::new(Op::DeadLetter, ns, self.time, doc.into())
    }
}

impl BadEvents {
    /// Disposes of one event. When this returns `Ok` the checkpoint may pass it (I1).
    pub async fn dispose(
        &self,
        route: &str,
        rejected: Rejected<'_>,
        status: &RouteStatus,
        metrics: &RouteMetrics,
    ) -> Result<()> {
        metrics.count(Outcome::Bad, 1);
        match self {
            BadEvents::Stop => {
                let hint = rejected.error.get_hint().map(|h| format!("{h}; or ")).unwrap_or_default();
                Err(Error::new(ErrorKind::Data, format!("{}: {}", rejected.place(), rejected.error)).hint(format!(
                    "{hint}set on_bad_event = \"dead-letter\" (keeps it) or \"skip\" (counts it) on this route"
                )))
            }
            BadEvents::Skip => {
                warn!(route, error = %rejected.error, "skipped an {}", rejected.place());
                metrics.count(Outcome::Skipped, 1);
                Ok(())
            }
            BadEvents::DeadLetter(sink) => {
                let letter = [rejected.letter(route)];
                let mut backoff = Backoff::new();
                loop {
                    let error = match sink.write(&letter, None).await {
                        Ok(mut written) => match written.failed.pop() {
                            None if written.ignored > 0 => Error::operator("it has no use for dead letters")
                                .hint("name another sink in `dead_letter`, such as one of type \"stdout\""),
                            None => break,
                            Some(failed) => failed.error,
                        },
                        Err(e) => e,
                    };
                    if error.kind() != ErrorKind::Transient {
                        return Err(error.at("dead-letter sink"));
                    }
                    metrics.retry(Place::DeadLetter, error.kind());
                    status.retrying(Place::DeadLetter, &error);
                    tokio::time::sleep(backoff.next_wait()).await;
                    // Its own error, if any, shows at the next write.
                    let _ = sink.open().await;
                }
                if backoff.tries() > 0 {
                    status.recovered(Place::DeadLetter);
                }
                error!(route, error = %rejected.error, "sent an {} to the dead-letter sink", rejected.place());
                metrics.count(Outcome::DeadLetter, 1);
                Ok(())
            }
        }
    }
}
