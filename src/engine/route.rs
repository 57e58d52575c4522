//! One run of a route: from opening both ends to closing them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bson::{RawDocumentBuf, Timestamp, cstr};
use oplogue_api::{
    Batch, Context, Error, ErrorKind, Event, Interest, Namespace, Op, Ordering, Position, Result, Selection, Sink,
    Source, StartAt, Transform,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    bad::BadEvents,
    checkpoint::Saver,
    choice,
    lane::{self, LaneShared},
    pulse,
    reader::Reader,
    run::Run,
    status::{ClusterTime, RouteStatus},
    tracker::Tracker,
    whole::Whole,
    window::Window,
};
use crate::{
    config::{CheckpointPlan, OnBadEvent, OnPositionLost, RoutePlan},
    denylist::{Denied, Denylist},
    telemetry::metrics::{Place, RouteMetrics},
};

/// What a route wants of its source: what its sink does, of what the filters at the head of the chain let through.
pub fn interest(sink: &dyn Sink, chain: &[(String, Box<dyn Transform>)]) -> Interest {
    let mut interest = sink.interest();
    interest.origins |= chain.iter().any(|(_, transform)| transform.asks_origin());
    for (name, transform) in chain {
        let Some(selection) = transform.selection() else { break };
        let refuses = selection.refuses;
        interest.selections.push(Selection { by: name.clone(), ..selection });
        // A bad event that is reported must come, whatever stands behind.
        if refuses {
            break;
        }
    }
    interest
}

/// A route: its plan and its instruments, which outlive its runs.
pub struct Route {
    pub plan: RoutePlan,
    pub status: Arc<RouteStatus>,
    pub metrics: Arc<RouteMetrics>,
    pub stop: CancellationToken,
    pub grace: Duration,
    pub denylist: Option<Arc<Denylist>>,
    pub pace: pulse::Pace,
}

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteEnd {
    /// The source is finite and everything in it was delivered, or the destination was closed on purpose.
    Finished,
    /// It was asked to stop.
    Stopped,
}

/// Both ends, open, and the place to begin.
struct Opened {
    source: Box<dyn Source>,
    saver: Saver,
    position: Position,
    /// Set when the route could not resume where it was: what to tell the sink.
    gap: Option<Batch>,
}

impl Route {
    /// Runs the route once: until its end, the stop, or an error that only the supervisor can judge.
    pub async fn run(&self) -> Result<RouteEnd> {
        let context = self.plan.context(&self.plan.sink.name);
        let sink = self.plan.sink.build(&context)?;
        let watched = Arc::downgrade(&sink);
        self.status.watch_progress(move || watched.upgrade().and_then(|sink| sink.progress()));
        let result = self.run_with(&context, &sink).await;
        match tokio::time::timeout(Duration::from_secs(5), sink.close()).await {
            Ok(Ok(())) => {}
            // Everything that was promised is durable already; a failing close is worth a line, not the route's result.
            Ok(Err(e)) => warn!(route = self.plan.name, error = %e, "closing the sink failed"),
            Err(_) => warn!(route = self.plan.name, "closing the sink took too long"),
        }
        result
    }

    async fn run_with(&self, context: &Context, sink: &Arc<dyn Sink>) -> Result<RouteEnd> {
        let chain = choice::chain(&self.plan, context)?;
        let interest = interest(sink.as_ref(), &chain);
        let (opened, bad) = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(RouteEnd::Stopped),
            opened = async {
                let opened = self.open(context, sink, &interest).await?;
                let bad = self.bad_events(context).await?;
                self.begin_sink(sink, &opened.position).await?;
                Ok::<_, Error>((opened, bad))
            } => opened?,
        };
        self.metrics.counted_by_sink(&sink.counted());
        let bad = Arc::new(bad);

        let tracker = Tracker::default();
        let ordering = sink.ordering();
        let whole = ordering == Ordering::Total && sink.whole_transactions();
        let count = if ordering == Ordering::Total { 1 } else { self.plan.lanes.max(1) };
        let shared = Arc::new(LaneShared {
            route: self.plan.name.clone(),
            sink: Arc::clone(sink),
            bad: Arc::clone(&bad),
            max_batch: sink.max_batch().unwrap_or(usize::MAX).min(self.plan.max_batch).max(1),
            whole,
            tracker: tracker.clone(),
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
        });
        let mut lanes = JoinSet::new();
        let mut senders = Vec::with_capacity(count);
        for _ in 0..count {
            let (sender, queue) = mpsc::unbounded_channel();
            senders.push(sender);
            lanes.spawn(lane::run(Arc::clone(&shared), queue));
        }
        let (committed, watching) = watch::channel(None);
        let stop_reading = self.stop.child_token();
        let window = Window::new(self.plan.max_in_flight);
        let measured = window.clone();
        self.status.measure_in_flight(move || measured.used());
        let mut reader = Reader {
            route: self.plan.name.clone(),
            source: opened.source,
            interest,
            denied: self.denylist.clone().map(Denied::new),
            chain,
            bad,
            lanes: senders,
            ordering,
            whole: whole.then(Whole::default),
            tracker: tracker.clone(),
            window,
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
            committed: watching,
            stop: stop_reading.clone(),
            turn: 0,
        };
        info!(
            route = self.plan.name,
            from = %ClusterTime(opened.position.time).utc(),
            cluster_time = %ClusterTime(opened.position.time),
            "running"
        );
        self.status.started(&opened.position);
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Some(gap) = opened.gap {
                reader.hand_over(gap).await?;
            }
            reader.run(opened.position).await
        }));
        let _pulse = AbortOnDropHandle::new(tokio::spawn(pulse::run(
            self.pace,
            self.plan.name.clone(),
            Arc::clone(sink),
            tracker.clone(),
            Arc::clone(&self.status),
        )));
        let run =
            Run { route: self, tracker, committed, saver: opened.saver, unsaved: false, lanes, reading, stop_reading };
        run.supervise().await
    }

    /// Opens sink, checkpoint store and source, trying again for as long as it takes.
    async fn open(&self, context: &Context, sink: &Arc<dyn Sink>, interest: &Interest) -> Result<Opened> {
        self.patiently(Place::Sink, || sink.open()).await?;
        let (store, place) = match (&self.plan.checkpoint, sink.checkpoints()) {
            (CheckpointPlan::Sink(_), Some(store)) => (store, "the sink"),
            (CheckpointPlan::Sink(node) | CheckpointPlan::Store(node), _) => {
                (node.build(&Context { name: node.name.clone(), ..context.clone() })?, node.kind)
            }
        };
        let mut saver = self.patiently(Place::Checkpoint, || Saver::load(Arc::clone(&store), &self.plan.name)).await?;
        let mut source = self.plan.source.build(&Context { name: self.plan.source.name.clone(), ..context.clone() })?;
        let Some(saved) = saver.saved().cloned() else {
            info!(
                route = self.plan.name,
                checkpoint = place,
                "no checkpoint yet: beginning where `start` of the source says"
            );
            let position = self.open_source(&mut source, None, interest).await?;
            // Durable before anything is read, so that neither a crash nor a twin of this route begins elsewhere.
            self.begin_patiently(&mut saver, &position).await?;
            if saver.saved() != Some(&position) {
                // A twin was first: begin where it began.
                let twin = saver.saved().cloned().unwrap_or(position);
                let position = self.open_source(&mut source, Some(&twin), interest).await?;
                return Ok(Opened { source, saver, position, gap: None });
            }
            return Ok(Opened { source, saver, position, gap: None });
        };
        let too_old = self.too_old(&saved);
        let skips = too_old.is_some() || self.plan.on_position_lost == OnPositionLost::FromNow;
        let opened = match too_old {
            Some(e) => Err(e),
            None => self.open_source(&mut source, Some(&saved), interest).await,
        };
        match opened {
            Ok(position) => {
                self.claim_patiently(&mut saver).await?;
                self.metrics.resumed(age(saved.time), true);
                Ok(Opened { source, saver, position, gap: None })
            }
            Err(e) if e.kind() == ErrorKind::PositionLost && skips => {
                let position = self.open_now(&mut source, interest).await?;
                // I4: seen in the log, the metrics and by the sink.
                error!(
                    route = self.plan.name,
                    from = %ClusterTime(saved.time).utc(),
                    to = %ClusterTime(position.time).utc(),
                    error = %e,
                    "going on from now. Events between these times are missing"
                );
                self.metrics.gap();
                self.metrics.resumed(age(saved.time), false);
                let gap = gap_batch(saved.time, &position, &e);
                Ok(Opened { source, saver, position, gap: Some(gap) })
            }
            Err(e) => Err(e),
        }
    }

    /// Whether `max_catch_up` forbids to go on from there. Asked once a process: what a route falls behind while it runs, it
    /// catches up with.
    fn too_old(&self, saved: &Position) -> Option<Error> {
        let most = self.plan.max_catch_up.filter(|_| !self.status.has_begun())?;
        let age = age(saved.time);
        (age > most).then(|| {
            Error::position_lost(format!("the checkpoint is {} s old, and max_catch_up is {most:?}", age.as_secs()))
        })
    }

    async fn open_source(
        &self,
        source: &mut Box<dyn Source>,
        from: Option<&Position>,
        interest: &Interest,
    ) -> Result<Position> {
        let mut backoff = Backoff::new();
        loop {
            let at = from.map_or(StartAt::Configured, StartAt::Position);
            match self.calling(Place::Source, source.open(at, interest)).await {
                Ok(position) => return Ok(position),
                Err(e) => self.wait(Place::Source, e, &mut backoff).await?,
            }
        }
    }

    async fn open_now(&self, source: &mut Box<dyn Source>, interest: &Interest) -> Result<Position> {
        let mut backoff = Backoff::new();
        loop {
            match self.calling(Place::Source, source.open(StartAt::Now, interest)).await {
                Ok(position) => return Ok(position),
                Err(e) => self.wait(Place::Source, e, &mut backoff).await?,
            }
        }
    }

    /// Lets the sink do what comes before the first write (K16). The cursor of the source may die of old age meanwhile: then
    /// the reader opens it again.
    async fn begin_sink(&self, sink: &Arc<dyn Sink>, from: &Position) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            match self.calling(Place::Sink, sink.begin(from)).await {
                Ok(()) => return Ok(()),
                Err(e) => self.wait(Place::Sink, e, &mut backoff).await?,
            }
            self.patiently(Place::Sink, || sink.open()).await?;
        }
    }

    async fn claim_patiently(&self, saver: &mut Saver) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            match self.calling(Place::Checkpoint, saver.claim()).await {
                Ok(()) => return Ok(()),
                Err(e) => self.wait(Place::Checkpoint, e, &mut backoff).await?,
            }
        }
    }

    async fn begin_patiently(&self, saver: &mut Saver, position: &Position) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            match self.calling(Place::Checkpoint, saver.begin(position)).await {
                Ok(()) => return Ok(()),
                Err(e) => self.wait(Place::Checkpoint, e, &mut backoff).await?,
            }
        }
    }

    /// Calls until it works or fails for another reason than a passing one.
    async fn patiently<T, F: Future<Output = Result<T>>>(
        &self,
        place: Place,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let mut backoff = Backoff::new();
        loop {
            match self.calling(place, call()).await {
                Ok(value) => return Ok(value),
                Err(e) => self.wait(place, e, &mut backoff).await?,
            }
        }
    }

    /// Waits for a call, which the status knows of meanwhile.
    async fn calling<T>(&self, place: Place, call: impl Future<Output = T>) -> T {
        let _calling = self.status.calling(place);
        call.await
    }

    /// Waits before the next try after a passing error; returns every other one.
    async fn wait(&self, place: Place, error: Error, backoff: &mut Backoff) -> Result<()> {
        if error.kind() != ErrorKind::Transient {
            self.status.blame(place);
            return Err(error);
        }
        self.metrics.not_open(place);
        if backoff.tries() == 0 {
            warn!(route = self.plan.name, place = place.name(), error = %error, "out of reach; trying again for as long as it takes");
        }
        self.metrics.retry(place, error.kind());
        self.status.retrying(place, &error);
        tokio::time::sleep(backoff.next_wait()).await;
        Ok(())
    }

    async fn bad_events(&self, context: &Context) -> Result<BadEvents> {
        Ok(match &self.plan.on_bad_event {
            OnBadEvent::Stop => BadEvents::Stop,
            OnBadEvent::Skip => BadEvents::Skip,
            OnBadEvent::DeadLetter(node) => {
                let sink = node.build(&Context { name: node.name.clone(), ..context.clone() })?;
                self.patiently(Place::DeadLetter, || sink.open()).await?;
                BadEvents::DeadLetter(sink)
            }
        })
    }
}

/// How long ago a cluster time was, by the clock of this machine.
fn age(time: Timestamp) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(time.time.into()))
}

/// The event that tells a sink that others are missing.
fn gap_batch(from: Timestamp, position: &Position, error: &Error) -> Batch {
    let mut raw = RawDocumentBuf::new();
    raw.append(cstr!("from"), from);
    raw.append(cstr!("to"), position.time);
    raw.append(cstr!("reason"), error.to_string());
    // Behind whatever else has this time: it was all skipped.
    let event = Event { index: u32::MAX, ..Event::new(Op::Gap, Namespace::new(""), position.time, raw.into()) };
    let bytes = event.size();
    Batch { events: vec![event], bad: Vec::new(), end: position.clone(), head: position.time, bytes }
}
