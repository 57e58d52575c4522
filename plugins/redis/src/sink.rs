//! The `redis-oplog` sink.

use std::{collections::HashSet, sync::Arc};

use oplogue_api::{
    CheckpointStore, Context, Error, ErrorKind, Event, Failed, Finding, Namespace, Op, Ordering, Position, Result,
    Sink, Written, async_trait,
};
use redis::Value;
use tokio::sync::Mutex;

use crate::{
    check,
    coalesce::{Runs, window},
    link::{Link, Script},
    options::SinkOptions,
    pack::Pack,
    render::{Rendered, Renderer, time_digits},
    store::{Keeping, RedisStore, script_error, strange_reply},
};

/// The most events, and about the most bytes, in one call of the script: while it runs, Redis does nothing else.
const MOST_EVENTS: usize = 1024;
/// See [`MOST_EVENTS`].
const MOST_BYTES: usize = 1 << 20;
/// More namespaces than this are not remembered as logged.
const MOST_LOGGED: usize = 10_000;

/// Publishes events for Meteor's redis-oplog; see `docs/redis-oplog.md`.
///
/// One script call publishes a run of events, marks them as sent and moves the position. A call whose reply is lost may have
/// run, or may run later: it is repeated, and the script leaves out what is marked.
pub struct RedisOplog {
    link: Arc<Link>,
    store: Arc<RedisStore>,
    route: Option<String>,
    prefix: Option<String>,
    dedupe: bool,
    publish: Script,
    work: Mutex<Work>,
}

/// What is reused from call to call.
struct Work {
    renderer: Renderer,
    pack: Pack,
    /// For each event of the pack its place in the slice.
    packed: Vec<usize>,
    /// Places of events without a message.
    ignored: Vec<usize>,
    logged: HashSet<Namespace>,
    coalesce: bool,
    /// Events that are told together; none without `coalesce`.
    runs: Runs,
}

/// What one call of the script did.
struct Published {
    done: usize,
    known: u64,
    watermark: Vec<u8>,
    failure: Option<Error>,
}

impl RedisOplog {
    /// The sink of a route. No I/O.
    ///
    /// # Errors
    /// Naming the option that is wrong.
    pub fn new(context: &Context, options: SinkOptions) -> Result<RedisOplog> {
        let link = Arc::new(Link::new(&options.url, options.ca_file.as_deref())?);
        Ok(RedisOplog {
            store: Arc::new(RedisStore::new(Arc::clone(&link), &options.metadata_prefix, Keeping::WithSink)),
            link,
            route: context.route.clone(),
            dedupe: options.dedupe.is_on(),
            publish: Script::new(include_str!("publish.lua")),
            work: Mutex::new(Work::new(Renderer::new(options.rendering), options.coalesce)),
            prefix: options.prefix,
        })
    }

    fn key(&self) -> Result<String> {
        let route = self.route.as_deref().ok_or_else(|| Error::bug("a sink without a route cannot write"))?;
        Ok(self.store.key(route))
    }

    /// Runs the script. `known` is the watermark that an earlier call has confirmed; `whole`: if the batch is not published as a
    /// whole, nothing of it counts as published.
    async fn publish(&self, batch: &[u8], upto: Option<&Position>, known: &[u8], whole: bool) -> Result<Published> {
        let time = upto.map(|p| time_digits(p.time));
        let args = [
            batch,
            if self.dedupe { b"1" } else { b"0" },
            upto.map_or(&[][..], |p| p.token.as_bytes()),
            time.as_ref().map_or(&[][..], |t| &t[..]),
            known,
            if whole { b"1" } else { b"" },
        ];
        let place = self.link.place();
        let reply = self.link.run(&self.publish, self.key()?.as_bytes(), &args).await?;
        let Value::Array(parts) = &reply else { return Err(strange_reply(place)) };
        // A false at the end of a Lua table is a nil in the reply.
        match &parts[..] {
            [Value::Int(-1), _, error] => Err(script_error(error, place)),
            [Value::Int(done), Value::Int(known), Value::BulkString(watermark), rest @ ..] => Ok(Published {
                done: usize::try_from(*done).map_err(|_| strange_reply(place))?,
                known: u64::try_from(*known).map_err(|_| strange_reply(place))?,
                watermark: watermark.clone(),
                failure: match rest {
                    [] | [Value::Nil] => None,
                    [error, ..] => Some(script_error(error, place)),
                },
            }),
            _ => Err(strange_reply(place)),
        }
    }
}

impl Work {
    fn new(renderer: Renderer, coalesce: bool) -> Work {
        Work {
            renderer,
            pack: Pack::new(),
            packed: Vec::new(),
            ignored: Vec::new(),
            logged: HashSet::new(),
            coalesce,
            runs: Runs::default(),
        }
    }

    /// Renders events from `next` on until the pack is full, and moves `next` behind them. An event that cannot be rendered
    /// ends the pack, too; `next` is its place then.
    fn fill(&mut self, events: &[Event], next: &mut usize) -> Option<Error> {
        let (start, ignored) = (*next, self.ignored.len());
        let mut bad = None;
        let mut end = if self.coalesce { window(events, start, MOST_EVENTS, MOST_BYTES) } else { events.len() };
        loop {
            *next = start;
            self.ignored.truncate(ignored);
            if self.coalesce {
                self.runs.plan(&mut self.renderer, events, start, end);
            }
            let Err((error, alone)) = self.fill_until(&events[..end], next) else { return bad };
            // Of several events together it is not known which one is wrong: the next call tries the last by itself.
            bad = alone.then_some(error);
            if self.runs.first_untold(*next) == *next {
                return bad;
            }
            // What was to be told with an event that is not reached is told without it.
            end = *next;
        }
    }

    /// The same for one pass. An error comes with whether its event stood alone.
    fn fill_until(&mut self, events: &[Event], next: &mut usize) -> Result<(), (Error, bool)> {
        self.pack.clear(2 * MOST_BYTES);
        self.renderer.begin();
        self.packed.clear();
        while let Some(event) = events.get(*next) {
            let full = self.packed.len() >= MOST_EVENTS || self.pack.size() >= MOST_BYTES;
            // Events of one id stay together: the watermark cannot stand between them.
            if full && !self.coalesce && events[*next - 1].id() != event.id() {
                break;
            }
            if self.runs.is_merged(*next) {
                self.ignored.push(*next);
                *next += 1;
                continue;
            }
            let earlier = self.runs.earlier(events, *next);
            match self.renderer.render(&mut self.pack, &earlier, event) {
                Ok(Rendered::Message) => self.packed.push(*next),
                Ok(Rendered::Gap) => {
                    self.packed.push(*next);
                    self.ignored.push(*next);
                }
                Ok(Rendered::Barrier) => {
                    if matches!(event.op, Op::Drop | Op::DropDatabase | Op::Rename) {
                        tracing::info!(op = event.op.name(), ns = %event.ns, "subscribers are not told: redis-oplog has no message for it");
                    }
                    self.ignored.push(*next);
                }
                Ok(Rendered::LeftOut) => self.ignored.push(*next),
                Ok(Rendered::NoChannel) => {
                    self.log_once(&event.ns);
                    self.ignored.push(*next);
                }
                Err(e) => return Err((e.at(format_args!("{} of {}", event.op.name(), event.ns)), earlier.is_empty())),
            }
            *next += 1;
        }
        Ok(())
    }

    fn log_once(&mut self, ns: &Namespace) {
        if self.logged.len() < MOST_LOGGED && self.logged.insert(ns.clone()) {
            tracing::warn!(%ns, "documents whose _id is of a type that Meteor has no channel for are not published");
        }
    }
}

/// The same error as one to try again after.
fn as_transient(error: &Error) -> Error {
    let transient = Error::transient(error.message());
    match error.get_hint() {
        Some(hint) => transient.hint(hint),
        None => transient,
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
        check::role(&self.link).await?;
        // An empty batch proves the rest: script, key, and the right to write.
        self.ping().await
    }

    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        let mut work = self.work.lock().await;
        let work = &mut *work;
        work.ignored.clear();
        let mut written = Written::default();
        let mut next = 0;
        loop {
            let first = next;
            let bad = work.fill(events, &mut next);
            let upto = upto.filter(|_| next == events.len());
            let mut failed = bad.map(|e| (next, e));
            if !work.packed.is_empty() || upto.is_some() {
                let known = self.store.watermark()?;
                match self.publish(work.pack.finish(), upto, &known, work.runs.any()).await {
                    Ok(published) => {
                        if self.dedupe {
                            self.store.set_watermark(published.watermark);
                        }
                        written.duplicates += published.known;
                        if let Some(e) = published.failure {
                            // I1: what was not sent is not marked, and is reported.
                            let at = work.packed.get(published.done).copied();
                            let at = at.ok_or_else(|| strange_reply(self.link.place()))?;
                            failed = Some((work.runs.first_untold(at), e));
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::PositionLost => {
                        // The route goes back to what Redis holds.
                        self.store.set_behind();
                        return Err(e);
                    }
                    // Nothing is known about this part, and nothing of it is assumed.
                    Err(e) if first == 0 || events.is_empty() => return Err(e),
                    Err(e) => failed = Some((first, e)),
                }
            }
            if let Some((at, error)) = failed {
                let of_the_event = matches!(error.kind(), ErrorKind::Transient | ErrorKind::Data);
                if at == 0 && !of_the_event {
                    return Err(error);
                }
                // What was sent is accounted for first: the write of the rest tells that a person is needed.
                let error = if of_the_event { error } else { as_transient(&error) };
                work.ignored.retain(|i| *i < at);
                written.failed = fail_from(events, at, error);
                break;
            }
            if next == events.len() {
                break;
            }
        }
        written.ignored = work.ignored.len() as u64;
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        self.publish(Pack::new().finish(), None, b"", false).await.map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.link.disconnect().await;
        Ok(())
    }

    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        Some(Arc::clone(&self.store) as Arc<dyn CheckpointStore>)
    }

    async fn check(&self) -> Vec<Finding> {
        let key = self.store.key(self.route.as_deref().unwrap_or("oplogue-check"));
        check::sink(&self.link, &key, self.prefix.as_deref()).await
    }
}
