//! A running child, which is asked one thing at a time.

use std::{
    process::{ExitStatus, Stdio},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use bson::RawDocumentBuf;
use oplogue_api::{Doc, Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, Notify, mpsc, oneshot},
    task::JoinHandle,
};
use tracing::{info, warn};

use crate::{
    answer,
    encoding::{Frames, NoFrame},
    log,
    options::{Spec, Stderr},
};

/// How long a child that ended its output may take to end, and its last words to come.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Something to ask.
struct Call {
    name: &'static str,
    id: i64,
    message: Vec<u8>,
    limit: Duration,
    answer: oneshot::Sender<Result<Doc>>,
}

/// The handle of a running child. When the last one is dropped, the child is told to end by the end of its stdin.
pub struct Link {
    calls: std::sync::Mutex<Option<mpsc::UnboundedSender<Call>>>,
    closing: Arc<Notify>,
    left: Arc<std::sync::Mutex<Option<Error>>>,
    ids: AtomicI64,
    encoding: crate::encoding::Encoding,
    limit: Duration,
    end: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Starts the child.
    ///
    /// # Errors
    /// `Operator` when there is no such program, `Transient` when the system lacks something.
    pub fn start(spec: &Spec) -> Result<Link> {
        let child = Running::start(spec)?;
        let (calls, queue) = mpsc::unbounded_channel();
        let (closing, left) = (Arc::new(Notify::new()), Arc::default());
        let end = tokio::spawn(serve(child, queue, Arc::clone(&closing), Arc::clone(&left)));
        Ok(Link {
            calls: std::sync::Mutex::new(Some(calls)),
            closing,
            left,
            ids: AtomicI64::new(1),
            encoding: spec.encoding,
            limit: spec.timeout,
            end: Mutex::new(Some(end)),
        })
    }

    /// Whether the child has not ended.
    pub fn is_alive(&self) -> bool {
        self.calls().as_ref().is_some_and(|calls| !calls.is_closed())
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, in the order of the calls of this method; the answer may be left alone. `more` is time on top of the limit.
    pub fn ask(
        &self,
        name: &'static str,
        body: RawDocumentBuf,
        more: Duration,
    ) -> Result<oneshot::Receiver<Result<Doc>>> {
        let id = self.ids.fetch_add(1, Relaxed);
        let mut message = bson::rawdoc! {"id": id, "call": name};
        for member in body.iter().flatten() {
            message.append(member.0, member.1);
        }
        let message = self
            .encoding
            .encode(message)
            .map_err(|e| Error::data(format!("the events cannot be written for the child: {e}")))?;
        let (answer, receiver) = oneshot::channel();
        // Where it has ended, the receiver says so.
        if let Some(calls) = &*self.calls() {
            let _ = calls.send(Call { name, id, message, limit: self.limit + more, answer });
        }
        Ok(receiver)
    }

    /// Waits until the child has ended, which it does when it fails or when nobody can ask any more.
    pub async fn ended(&self) {
        let mut end = self.end.lock().await;
        if let Some(task) = end.as_mut() {
            let _ = task.await;
            *end = None;
        }
    }

    /// Why it ended, if nobody has heard yet: between two questions.
    pub fn untold(&self) -> Option<Error> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells the child to end, and waits for that. An answer that nobody waits for any more is not waited for.
    pub async fn close(&self) {
        drop(self.calls().take());
        self.closing.notify_one();
        self.ended().await;
    }
}

/// The answer to a call, or what became of the child instead. Cancel-safe.
pub async fn answer(link: &Link, receiver: &mut oneshot::Receiver<Result<Doc>>) -> Result<Doc> {
    match receiver.await {
        Ok(answer) => answer,
        // It failed between two calls, and this one came too late.
        Err(_) => {
            link.ended().await;
            Err(link.untold().unwrap_or_else(|| Error::transient("the child had ended before it could be asked")))
        }
    }
}

/// Answers the calls until there are no more, or the child fails: then it is dead before the error is told, so that nothing that
/// it still does comes behind what the next one does (K11).
async fn serve(
    mut child: Running,
    mut calls: mpsc::UnboundedReceiver<Call>,
    closing: Arc<Notify>,
    left: Arc<std::sync::Mutex<Option<Error>>>,
) {
    let mut failure = loop {
        tokio::select! {
            call = calls.recv() => {
                let Some(mut call) = call else { return child.close().await };
                let answered = tokio::select! {
                    answered = tokio::time::timeout(call.limit, child.exchange(&call.message, call.id)) => answered,
                    () = async { call.answer.closed().await; closing.notified().await } => return child.close().await,
                };
                let failure = match answered {
                    Ok(Ok(answer)) => {
                        let _ = call.answer.send(answer::checked(call.name, answer));
                        continue;
                    }
                    Ok(Err(failure)) => failure,
                    Err(_) => Failure::Hung(call.limit),
                };
                calls.close();
                let e = child.fail(failure, call.name).await;
                warn!(plugin = child.name, error = %e, "the child failed");
                break call.answer.send(Err(e)).err().and_then(Result::err);
            }
            failure = child.idle() => {
                calls.close();
                let e = child.fail(failure, "").await;
                warn!(plugin = child.name, error = %e, "the child failed");
                break Some(e);
            }
        }
    };
    // One that was asked meanwhile hears why it gets no answer.
    while let Some(call) = calls.recv().await {
        let e = failure.take().unwrap_or_else(|| Error::transient("the child ended before it was asked"));
        let _ = call.answer.send(Err(e));
    }
    *left.lock().unwrap_or_else(PoisonError::into_inner) = failure;
}

/// How a child fails.
enum Failure {
    Ended,
    Hung(Duration),
    /// In words that follow "the child".
    Garbage(String),
}

struct Running {
    name: String,
    child: Child,
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    frames: Frames,
    log: Option<JoinHandle<()>>,
    grace: Duration,
}

impl Running {
    fn start(spec: &Spec) -> Result<Running> {
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .env_clear()
            .envs(&spec.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if spec.stderr == Stderr::Log { Stdio::piped() } else { Stdio::null() })
            // Ctrl-C is for oplogue, which ends its children when they have nothing more to do; and a group can be killed whole.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = &spec.dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn().map_err(|e| cannot_start(spec, &e))?;
        let gone = || Error::bug("a child without pipes");
        let (stdin, stdout) = (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
        let log = child.stderr.take().map(|stderr| tokio::spawn(log::run(spec.name.clone(), stderr)));
        let pid = child.id();
        info!(plugin = spec.name, role = spec.role, pid, "a child was started");
        Ok(Running {
            name: spec.name.clone(),
            group: pid.and_then(|pid| Pid::from_raw(pid as i32)),
            child,
            stdin: Some(stdin),
            stdout,
            frames: Frames::new(spec.encoding, spec.max_frame),
            log,
            grace: spec.grace,
        })
    }

    /// Sends the message and reads one answer, at the same time: a child may answer before it has read everything.
    async fn exchange(&mut self, message: &[u8], asked: i64) -> Result<Doc, Failure> {
        if !self.frames.is_empty() {
            return Err(unasked());
        }
        let Some(stdin) = &mut self.stdin else { return Err(Failure::Ended) };
        let write = async {
            stdin.write_all(message).await?;
            stdin.flush().await
        };
        let read = self.frames.next(&mut self.stdout);
        tokio::pin!(write, read);
        let mut written = false;
        let mut answer = None;
        while !written || answer.is_none() {
            tokio::select! {
                done = &mut write, if !written => {
                    // It closed its stdin, or is about to be found dead.
                    if done.is_err() {
                        return Err(Failure::Ended);
                    }
                    written = true;
                }
                frame = &mut read, if answer.is_none() => match frame {
                    Ok(frame) => answer = Some(frame),
                    Err(NoFrame::Ended) => return Err(Failure::Ended),
                    Err(NoFrame::Garbage(what)) => return Err(Failure::Garbage(what)),
                },
            }
        }
        let answer = answer.ok_or(Failure::Ended)?;
        match answer::id(&answer) {
            Some(id) if id == asked => Ok(answer),
            Some(id) => Err(Failure::Garbage(format!("answered request {id}, which was not asked: {asked} was"))),
            None => Err(Failure::Garbage(format!("sent an answer without the `id` of the request, {asked}"))),
        }
    }

    /// Ends when the child does, or says something unasked. Cancel-safe.
    async fn idle(&mut self) -> Failure {
        if self.frames.is_empty() && self.frames.fill(&mut self.stdout).await.unwrap_or(0) == 0 {
            return Failure::Ended;
        }
        unasked()
    }

    /// Kills it, and says why.
    async fn fail(&mut self, failure: Failure, asked: &str) -> Error {
        self.stdin = None;
        let left = match failure {
            Failure::Ended => tokio::time::timeout(LAST_WORDS, self.child.wait()).await.ok().and_then(Result::ok),
            _ => None,
        };
        self.kill(Signal::KILL);
        let _ = self.child.wait().await;
        if let Some(log) = self.log.take() {
            // A process that the child left behind may keep the pipe.
            let abort = log.abort_handle();
            if tokio::time::timeout(LAST_WORDS, log).await.is_err() {
                abort.abort();
            }
        }
        let place = if asked.is_empty() { String::new() } else { format!(" (asked to `{asked}`)") };
        match failure {
            Failure::Ended => Error::transient(format!("the child {}{place}", how(left)))
                .hint("what it wrote to stderr, in the log above, should say why"),
            Failure::Hung(limit) => Error::transient(format!("the child did not answer within {limit:?}{place}"))
                .hint("if it needs longer, set `timeout`"),
            Failure::Garbage(what) => Error::bug(format!("the child {what}{place}"))
                .hint("a child writes nothing to stdout but answers; everything else belongs on stderr"),
        }
    }

    /// Closes its stdin, and waits; asks it to end, and waits; ends it.
    async fn close(mut self) {
        self.stdin = None;
        let mut ended = tokio::time::timeout(self.grace, self.child.wait()).await.is_ok();
        if !ended {
            self.kill(Signal::TERM);
            ended = tokio::time::timeout(self.grace, self.child.wait()).await.is_ok();
        }
        if !ended {
            warn!(plugin = self.name, "the child did not end when its stdin did, nor on SIGTERM: killing it");
        }
        // Also what it left behind.
        self.kill(Signal::KILL);
        let _ = self.child.wait().await;
        if let Some(log) = self.log.take() {
            let abort = log.abort_handle();
            if tokio::time::timeout(LAST_WORDS, log).await.is_err() {
                abort.abort();
            }
        }
    }

    fn kill(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill(Signal::KILL);
    }
}

fn unasked() -> Failure {
    Failure::Garbage("wrote to its stdout without being asked".into())
}

fn how(left: Option<ExitStatus>) -> String {
    match left {
        Some(status) => format!("ended ({status})"),
        None => "closed its stdin or stdout".into(),
    }
}

fn cannot_start(spec: &Spec, e: &std::io::Error) -> Error {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let what = format!("cannot start `{}`: {e}", spec.program);
    match e.kind() {
        // exec says so of the interpreter of a script and of the folder, too.
        NotFound | NotADirectory if spec.dir.as_ref().is_some_and(|dir| !dir.is_dir()) => {
            Error::option("dir", format!("cannot start `{}`: there is no folder `dir`", spec.program))
                .hint("make the folder, or name another")
        }
        NotFound | NotADirectory => Error::option("command", what).hint(
            "install it, or write its whole path; it is looked for in PATH and not in the folder of the configuration",
        ),
        PermissionDenied => Error::option("command", what).hint("make it executable: chmod +x"),
        _ => Error::transient(what),
    }
}
