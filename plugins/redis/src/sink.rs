//! The `redis-oplog` sink.

use std::sync::Arc;

use oplogue_api::{
    CheckpointStore, Context, Error, ErrorKind, Event, Failed, Finding, Ordering, Position, Result, Sink, Written,
    async_trait,
};
use redis::Value;
use tokio::sync::Mutex;

use crate::{
    check,
    keyed::Keyed,
    link::Link,
    marks::{Marks, Part},
    options::{Dedupe, OnRefused, Resync, SinkOptions},
    pack::Pack,
    render::{Ids, Renderer},
    store::{Keeping, RedisStore, strange_reply},
    watermark::Watermark,
    work::{Cut, Work},
};

/// Publishes events for Meteor's redis-oplog; see `docs/redis-oplog.md`.
///
/// One script call publishes a run of events, marks them as sent and moves the position. A call whose reply is lost may have
/// run, or may run later: it is repeated, and the script leaves out what is marked.
pub struct RedisOplog {
    link: Arc<Link>,
    marks: Box<dyn Marks>,
    /// What channels begin with; `None`: the name of the database.
    prefixes: Vec<Option<String>>,
    on_refused: OnRefused,
    resync: Vec<Resync>,
    resync_user: Option<String>,
    work: Mutex<Work>,
}

impl RedisOplog {
    /// The sink of a route. No I/O.
    ///
    /// # Errors
    /// Naming the option that is wrong.
    pub fn new(context: &Context, link: Arc<Link>, options: SinkOptions) -> Result<RedisOplog> {
        let (ttl, ordinals) = options.keys()?;
        if options.resync_user.is_some() && options.resync.is_empty() {
            return Err(Error::option("resync_user", "`resync_user` has a meaning with `resync` only")
                .hint("add resync = [\"gap\", \"drop\", \"rename\"], or remove it"));
        }
        let marks: Box<dyn Marks> = match options.dedupe {
            Dedupe::Keys => Box::new(Keyed::new(Arc::clone(&link), &options.metadata_prefix, ttl, ordinals)),
            Dedupe::Watermark | Dedupe::Off => {
                let store = Arc::new(RedisStore::new(Arc::clone(&link), &options.metadata_prefix, Keeping::WithSink));
                let is_on = options.dedupe == Dedupe::Watermark && !context.replay;
                Box::new(Watermark::new(Arc::clone(&link), store, context.route.clone(), is_on))
            }
        };
        let of_databases = options.rendering.prefixes.values().map(|p| Some(String::from_utf8_lossy(p).into_owned()));
        let prefixes = std::iter::once(options.prefix.clone()).chain(of_databases).collect();
        Ok(RedisOplog {
            link,
            on_refused: options.on_refused,
            resync: options.resync,
            resync_user: options.resync_user,
            work: Mutex::new(Work::new(Renderer::new(marks.ids(), options.rendering), options.coalesce)),
            prefixes,
            marks,
        })
    }

    /// Makes subscribers connect anew, on which redis-oplog loads its data again (its only means to hear of what has no message).
    ///
    /// A twin of this instance does the same; that costs its subscribers another load, and nothing else.
    async fn resync(&self, event: &Event) -> Result<()> {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("pubsub");
        if let Some(user) = &self.resync_user {
            kill.arg("USER").arg(user);
        }
        let killed = match self.link.ask(&kill).await? {
            Value::Int(n) => n,
            _ => return Err(strange_reply(self.link.place())),
        };
        tracing::warn!(op = event.op.name(), ns = %event.ns, subscribers = killed, "subscribers are disconnected, so that they load their data again");
        Ok(())
    }

    /// Whether what the options ask for can be had of the Redis that the link has found.
    fn fits(&self) -> Result<()> {
        if !self.link.is_cluster() {
            return Ok(());
        }
        let refused =
            |what: &str, hint: &str| Err(Error::operator(format!("{}: {what}", self.link.place())).hint(hint));
        if self.marks.ids() == Ids::Entry {
            return refused(
                "dedupe = \"keys\" cannot be had of a Redis Cluster: its keys lie on several nodes, and no script sees them all",
                "use dedupe = \"watermark\"; oplogtoredis cannot publish to a cluster either",
            );
        }
        if !self.resync.is_empty() {
            return refused(
                "`resync` cannot be had of a Redis Cluster: it would reach the subscribers of one node only",
                "remove `resync`",
            );
        }
        Ok(())
    }

    /// What a refused message means for the route.
    fn refused(&self, error: Error) -> Error {
        match (error.kind(), self.on_refused) {
            (ErrorKind::Operator, OnRefused::Retry) => with_kind(ErrorKind::Transient, &error),
            (ErrorKind::Operator, OnRefused::BadEvent) => with_kind(ErrorKind::Data, &error),
            _ => error,
        }
    }
}

/// The same error as one of another kind.
fn with_kind(kind: ErrorKind, error: &Error) -> Error {
    let other = Error::new(kind, error.message());
    match error.get_hint() {
        Some(hint) => other.hint(hint),
        None => other,
    }
}

/// All events from `first` on have failed: the order is total, so none may be sent before an earlier one.
fn fail_from(events: &[Event], first: usize, error: Error) -> Vec<Failed> {
    let mut failed = vec![Failed { index: first, error }];
    let behind = || Error::transient("an event before it was not accepted");
    failed.extend((first + 1..events.len()).map(|index| Failed { index, error: behind() }));
    failed
}

#[async_trait]
impl Sink for RedisOplog {
    fn ordering(&self) -> Ordering {
        // The watermark says "all before it were sent", which only the source's own order makes true.
        Ordering::Total
    }

    async fn open(&self) -> Result<()> {
        self.link.disconnect().await;
        // Whoever may not ask this has a connection all the same. What it leads to is known then.
        let _ = self.link.call(&redis::cmd("PING")).await?;
        self.fits()?;
        // The link asks for the role; an empty batch proves the rest: script, key, and the right to write.
        self.ping().await
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let mut work = self.work.lock().await;
        let work = &mut *work;
        work.ignored.clear();
        let mut written = Written::default();
        let (mut next, mut passed) = (0, false);
        loop {
            let first = next;
            let cut = work.fill(events, &mut next, &self.resync, std::mem::take(&mut passed));
            let is_last = cut.is_none();
            let upto = upto.filter(|_| is_last);
            let mut failed = None;
            if !work.packed.is_empty() || upto.is_some() {
                let part = Part { pack: work.pack.finish(), upto, has_gap: work.has_gap, is_whole: work.runs.any() };
                match self.marks.publish(part).await {
                    Ok(published) => {
                        written.duplicates += published.known;
                        if let Some(e) = published.failure {
                            // I1: what was not sent is not marked, and is reported.
                            let at = work.packed.get(published.done).copied();
                            let at = at.ok_or_else(|| strange_reply(self.link.place()))?;
                            failed = Some((work.runs.first_untold(at), self.refused(e)));
                        }
                    }
                    // The route goes back to what Redis holds.
                    Err(e) if e.kind() == ErrorKind::PositionLost => return Err(e),
                    // Nothing is known about this part, and nothing of it is assumed.
                    Err(e) if first == 0 || events.is_empty() => return Err(e),
                    Err(e) => failed = Some((first, e)),
                }
            }
            if failed.is_none() {
                match cut {
                    Some(Cut::Bad(e)) => failed = Some((next, e)),
                    Some(Cut::Resync) if self.marks.is_marked(&events[next]) => passed = true,
                    Some(Cut::Resync) => match self.resync(&events[next]).await {
                        Ok(()) => passed = true,
                        Err(e) => failed = Some((next, e)),
                    },
                    Some(Cut::Full) | None => {}
                }
            }
            if let Some((at, error)) = failed {
                let of_the_event = matches!(error.kind(), ErrorKind::Transient | ErrorKind::Data);
                if at == 0 && !of_the_event {
                    return Err(error);
                }
                // What was sent is accounted for first: the write of the rest tells that a person is needed.
                let error = if of_the_event { error } else { with_kind(ErrorKind::Transient, &error) };
                work.ignored.retain(|i| *i < at);
                written.failed = fail_from(events, at, error);
                break;
            }
            if is_last {
                break;
            }
        }
        written.ignored = work.ignored.len() as u64;
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        let mut pack = Pack::new();
        self.marks.publish(Part::of(pack.finish(), None)).await.map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.link.close().await;
        Ok(())
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        Some(self.marks.store())
    }

    async fn check(&self) -> Vec<Finding> {
        let mut found = check::sink(&self.link, &*self.marks, &self.prefixes, !self.resync.is_empty()).await;
        found.extend(self.fits().err().map(Finding::from));
        found
    }
}
