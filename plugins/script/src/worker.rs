//! The thread that an engine lives in, and what guards it.
//!
//! Most of what a script can do wrong the engine ends by itself: it asks `Shared::interrupts` between instructions, also within regular
//! expressions. Some of its own functions do not ask, and go on as long as they like (`join` of an array with four billion holes). Such a
//! thread cannot be ended. It is left behind, with the lowest priority, and counted.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use oplogue_api::{Error, Event, Result, Verdict};
use tokio::sync::oneshot;

use crate::{
    message::Words,
    options::Script,
    sandbox::{self, Limit, Pulse, Sandbox, THREAD_STACK, for_bytes},
};

/// How long nothing may be heard of an engine at all. It tells of itself every some thousand instructions, also while others have the CPU.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long loading may take in all.
const LOADING: Duration = Duration::from_secs(20);

/// Events for the script.
struct Request {
    events: Arc<Vec<Event>>,
    /// The first of them that is asked about.
    from: usize,
    /// The answers so far, in order.
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    pulse: Arc<Pulse>,
    done: oneshot::Sender<Result<()>>,
}

impl Request {
    fn next(&self) -> Option<&Event> {
        let done = lock(&self.verdicts).len();
        self.events.get(self.from + done)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread with an engine.
pub struct Worker {
    requests: mpsc::Sender<Request>,
    thread: ThreadId,
}

/// What became of a request.
pub enum Answer {
    /// A verdict on every event.
    All(Vec<Verdict>),
    /// The engine did not come back from the event behind these.
    Stuck(Vec<Verdict>),
}

/// Sets a flag when it is dropped: nobody waits any longer.
struct Cancel(Arc<Pulse>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Worker {
    /// Starts a thread, and waits for the script to be loaded.
    ///
    /// # Errors
    /// `Operator`, when the script is no good.
    pub fn start(script: &Arc<Script>, words: &Arc<Words>) -> Result<Worker> {
        let (requests, received) = mpsc::channel();
        let (ready, loaded) = mpsc::channel();
        let (its_script, its_words) = (Arc::clone(script), Arc::clone(words));
        let live = move || serve(&its_script, &its_words, &received, &ready);
        thread::Builder::new()
            .name("script".into())
            .stack_size(THREAD_STACK)
            .spawn(live)
            .map_err(|e| Error::transient(format!("cannot start a thread for a script: {e}")))?;
        match loaded.recv_timeout(LOADING) {
            Ok(Ok(thread)) => Ok(Worker { requests, thread }),
            Ok(Err(e)) => Err(e),
            Err(_) => {
                Err(Error::option(script.option, format!("{}: loading it does not come to an end", script.title)))
            }
        }
    }

    /// Has the script judge the events from `from` on. May be dropped.
    ///
    /// # Errors
    /// `Bug`, when the engine fails.
    pub async fn ask(&self, events: &Arc<Vec<Event>>, from: usize) -> Result<Answer> {
        let verdicts = Arc::<Mutex<Vec<Verdict>>>::default();
        let pulse = Arc::<Pulse>::default();
        let _cancel = Cancel(Arc::clone(&pulse));
        let (done, mut answered) = oneshot::channel();
        let request = Request {
            events: Arc::clone(events),
            from,
            verdicts: Arc::clone(&verdicts),
            pulse: Arc::clone(&pulse),
            done,
        };
        let gone = || Error::bug("the thread of a script ended");
        self.requests.send(request).map_err(|_| gone())?;
        let (mut seen, mut since) = ((0, 0), Instant::now());
        loop {
            match tokio::time::timeout(Duration::from_millis(500), &mut answered).await {
                Ok(Ok(Ok(()))) => return Ok(Answer::All(std::mem::take(&mut lock(&verdicts)))),
                Ok(Ok(Err(e))) => return Err(e),
                Ok(Err(_)) => return Err(gone()),
                Err(_) => {}
            }
            let now = (lock(&verdicts).len(), pulse.beats.load(Ordering::Relaxed));
            let size = events.get(from + now.0).map_or(0, Event::size);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE + 2 * for_bytes(size) {
                lower_priority(self.thread);
                return Ok(Answer::Stuck(std::mem::take(&mut lock(&verdicts))));
            }
        }
    }
}

/// Why an engine has come to its end.
enum End {
    /// Nobody asks any more.
    Closed,
    /// It ran into a limit.
    Spoilt,
}

/// The life of the thread: engines, one after the other.
fn serve(
    script: &Arc<Script>,
    words: &Arc<Words>,
    requests: &mpsc::Receiver<Request>,
    ready: &mpsc::Sender<Result<ThreadId>>,
) {
    let mut pending: Option<Request> = None;
    let mut is_first = true;
    loop {
        let life = sandbox::with(script, words, |sandbox| {
            if std::mem::take(&mut is_first) {
                // Nobody listens to the news of an engine that took too long to load.
                let _ = ready.send(Ok(thread_id()));
            }
            live(sandbox, script, requests, &mut pending)
        });
        match life {
            Ok(End::Closed) => return,
            Ok(End::Spoilt) => {}
            Err(e) => {
                match pending.take() {
                    Some(request) => drop(request.done.send(Err(e))),
                    None => drop(ready.send(Err(e))),
                }
                return;
            }
        }
    }
}

/// The life of an engine.
fn live(
    sandbox: &Sandbox<'_>,
    script: &Script,
    requests: &mpsc::Receiver<Request>,
    pending: &mut Option<Request>,
) -> End {
    // Whether no event has come before: what it then runs into is its own doing.
    let mut is_fresh = true;
    loop {
        let request = match pending.take() {
            Some(request) => request,
            None => match requests.recv() {
                Ok(request) => request,
                Err(_) => return End::Closed,
            },
        };
        while let Some(event) = request.next() {
            if request.pulse.cancelled.load(Ordering::Relaxed) {
                break;
            }
            match sandbox.pass(event, &request.pulse) {
                Ok(verdict) => lock(&request.verdicts).push(verdict),
                Err(Limit::Cancelled) => return End::Spoilt,
                Err(limit) => {
                    // What earlier events left behind may be the reason: once more, in an engine that has seen none.
                    if is_fresh {
                        lock(&request.verdicts).push(Verdict::Bad(exceeded(limit, script)));
                    }
                    *pending = Some(request);
                    return End::Spoilt;
                }
            }
            is_fresh = false;
        }
        // Whoever asked may have gone.
        let _ = request.done.send(Ok(()));
    }
}

/// The error of an event that ran into a limit.
fn exceeded(limit: Limit, script: &Script) -> Error {
    match limit {
        Limit::Memory => Error::data(format!(
            "{}: it needs more memory for the event than {} MiB",
            script.title,
            script.memory >> 20
        ))
        .hint("mend the script, or raise `memory`; a script that throws null looks the same"),
        Limit::Time | Limit::Cancelled => too_long(script),
    }
}

/// The error of an event that takes too long.
pub fn too_long(script: &Script) -> Error {
    Error::data(format!("{}: the event takes it longer than {:?} of CPU time", script.title, script.time))
        .hint("mend the script, or raise `time`")
}

#[cfg(target_os = "linux")]
type ThreadId = rustix::thread::Pid;
#[cfg(not(target_os = "linux"))]
type ThreadId = ();

#[cfg(target_os = "linux")]
fn thread_id() -> ThreadId {
    rustix::thread::gettid()
}
#[cfg(not(target_os = "linux"))]
fn thread_id() -> ThreadId {}

/// Lets a thread have the CPU only when nobody else wants it. Linux has priorities for threads.
#[cfg(target_os = "linux")]
fn lower_priority(thread: ThreadId) {
    if let Err(e) = rustix::process::setpriority_process(Some(thread), 19) {
        tracing::warn!(error = %e, "cannot lower the priority of a script that does not end");
    }
}
#[cfg(not(target_os = "linux"))]
fn lower_priority((): ThreadId) {}
