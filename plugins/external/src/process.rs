//! A child that is started when it is needed, and again when it has failed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bson::{RawDocumentBuf, cstr, rawdoc};
use oplogue_api::{Doc, Error, ErrorKind, Finding, Result};
use tokio::sync::Mutex;

use crate::{
    PROTOCOL,
    answer::{self, Hello},
    link::{self, Link},
    options::Spec,
};

/// The wait behind the first failure; doubled by each further one, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The child of one plugin.
pub struct Process {
    spec: Spec,
    link: Mutex<Option<Arc<Link>>>,
    hello: OnceLock<Hello>,
    /// How often it has failed since it last did what it is there for.
    failures: AtomicU32,
}

impl Process {
    pub fn new(spec: Spec) -> Process {
        Process { spec, link: Mutex::default(), hello: OnceLock::new(), failures: AtomicU32::new(0) }
    }

    /// What the child said of itself; `None` until it was started.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.get()
    }

    /// The running child, which is started if there is none.
    pub async fn start(&self) -> Result<Arc<Link>> {
        let mut running = self.link.lock().await;
        if let Some(link) = &*running {
            if link.is_alive() {
                return Ok(Arc::clone(link));
            }
            // The old one must be dead before a new one does anything.
            link.ended().await;
            let untold = link.untold();
            *running = None;
            self.failures.fetch_add(1, Relaxed);
            // That it ended between two calls disturbed nobody; a fault is told.
            if let Some(e) = untold.filter(|e| e.kind() == ErrorKind::Bug) {
                return Err(e);
            }
        }
        let failures = self.failures.load(Relaxed);
        if self.spec.restarts > 0 && failures >= self.spec.restarts {
            // Whoever asks once more has been told, and means it.
            self.failures.store(0, Relaxed);
            return Err(Error::operator(format!(
                "the child has failed {failures} times without doing anything between"
            ))
            .hint("its lines in the log say why; `restarts` is how often it may"));
        }
        if failures > 0 {
            tokio::time::sleep(FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_WAIT)).await;
        }
        let link = Arc::new(Link::start(&self.spec)?);
        // One that is dropped here is told to end; it is waited for, too.
        *running = Some(Arc::clone(&link));
        let hello = async {
            let answer = link::answer(&link, &mut link.ask("hello", self.greeting(), Duration::ZERO)?).await?;
            Hello::read(&answer)
        };
        let hello = hello.await?;
        let first = self.hello.get_or_init(|| hello.clone());
        // The engine has asked for the order once.
        if (first.ordering, first.max_batch) != (hello.ordering, hello.max_batch) {
            return Err(answer::wrong("asks for another `ordering` or `max_batch` than when it was first started"));
        }
        Ok(link)
    }

    fn greeting(&self) -> RawDocumentBuf {
        let spec = &self.spec;
        let mut greeting = rawdoc! {"protocol": PROTOCOL, "role": spec.role, "name": spec.name.as_str()};
        for (name, value) in [(cstr!("route"), &spec.route), (cstr!("source"), &spec.source)] {
            if let Some(value) = value {
                greeting.append(name, value.as_str());
            }
        }
        greeting.append(cstr!("max_frame"), spec.max_frame as i64);
        greeting.append(cstr!("options"), &*spec.options);
        greeting
    }

    /// Asks a child, which is started if there is none.
    pub async fn call(&self, name: &'static str, body: RawDocumentBuf) -> Result<Doc> {
        let link = self.start().await?;
        let answer = link::answer(&link, &mut link.ask(name, body, Duration::ZERO)?).await;
        self.judge(name, &answer);
        answer
    }

    /// Notes whether the child does what it is there for.
    pub fn judge(&self, name: &str, answer: &Result<Doc>) {
        if answer.is_ok() && name != "ping" {
            self.failures.store(0, Relaxed);
        }
    }

    /// Ends the child, if it runs. It can be started again.
    pub async fn close(&self) {
        let link = self.link.lock().await.take();
        if let Some(link) = link {
            link.close().await;
        }
    }

    /// Whether it can be started and answers. Leaves nothing running.
    pub async fn check(&self, pings: bool) -> Vec<Finding> {
        let found = async {
            let link = self.start().await?;
            if pings {
                link::answer(&link, &mut link.ask("ping", RawDocumentBuf::new(), Duration::ZERO)?).await?;
            }
            Ok::<_, Error>(())
        };
        let found = found.await;
        let finding = match (found, self.hello()) {
            (Ok(()), Some(hello)) => Finding::ok(format!("{} answers, protocol {PROTOCOL}", hello.name)),
            (Ok(()), None) => Finding::ok("it answers"),
            (Err(e), _) if e.kind() == ErrorKind::Bug && e.get_hint().is_none() => e.hint("mend the child").into(),
            (Err(e), _) => e.into(),
        };
        self.close().await;
        vec![finding]
    }
}
