//! How far a copy has come, for people: a bar on a terminal, lines in the log otherwise.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use oplogue_api::{Namespace, Progress};

/// How often the bar is drawn anew, and how often the log says something.
const DRAW: Duration = Duration::from_millis(200);
const LOG: Duration = Duration::from_secs(10);

/// Counts what is copied. The sink keeps it for as long as it lives; it shows nothing before a copy begins.
#[derive(Default)]
pub(crate) struct Meter(Mutex<Option<Counted>>);

struct Counted {
    progress: Progress,
    since: Instant,
}

impl Meter {
    /// What is shown over HTTP and in metrics; `None` where nothing was copied in this process.
    pub fn progress(&self) -> Option<Progress> {
        let held = self.held();
        let counted = held.as_ref()?;
        let mut progress = counted.progress.clone();
        if !progress.done {
            progress.seconds = counted.since.elapsed().as_secs_f64();
        }
        Some(progress)
    }

    pub(super) fn begin(&self) {
        *self.held() = Some(Counted { progress: Progress::default(), since: Instant::now() });
    }

    /// There is more to copy.
    pub(super) fn expect(&self, documents: u64, bytes: u64) {
        self.change(|p| {
            (p.documents_estimated, p.bytes_estimated) = (p.documents_estimated + documents, p.bytes_estimated + bytes)
        });
    }

    /// This much is done, now or by an earlier run.
    pub(super) fn done(&self, documents: u64, bytes: u64, conflicts: u64) {
        self.change(|p| {
            p.documents += documents;
            p.bytes += bytes;
            p.conflicts += conflicts;
        });
    }

    pub(super) fn at(&self, ns: &Namespace) {
        self.change(|p| p.namespace = Some(ns.clone()));
    }

    pub(super) fn end(&self) {
        if let Some(counted) = self.held().as_mut() {
            counted.progress.seconds = counted.since.elapsed().as_secs_f64();
            (counted.progress.done, counted.progress.namespace) = (true, None);
        }
    }

    /// Shows the progress until it is dropped.
    pub(super) async fn show(&self, link: &str) -> std::convert::Infallible {
        let terminal = std::io::stderr().is_terminal();
        let mut shown = Shown { terminal };
        loop {
            tokio::time::sleep(if terminal { DRAW } else { LOG }).await;
            let Some(progress) = self.progress() else { continue };
            if terminal {
                shown.draw(&bar(link, &progress));
            } else {
                tracing::info!(
                    link,
                    documents = progress.documents,
                    of = progress.documents_estimated,
                    mb = progress.bytes >> 20,
                    conflicts = progress.conflicts,
                    namespace = progress.namespace.as_ref().map(Namespace::as_str),
                    "copying"
                );
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(counted) = self.held().as_mut() {
            change(&mut counted.progress);
        }
    }

    // Nothing under the lock can panic half-way.
    fn held(&self) -> MutexGuard<'_, Option<Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves a clean line behind.
struct Shown {
    terminal: bool,
}

impl Shown {
    fn draw(&mut self, line: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = write!(std::io::stderr().lock(), "\r{line}\x1b[K");
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// `factory->cloud [#########           ]  45 %  12,345 of 27,000 documents  81 MB  app.orders`
fn bar(link: &str, p: &Progress) -> String {
    const WIDTH: usize = 20;
    // The estimate of a server after a crash may be too low.
    let share = p.documents as f64 / p.documents_estimated.max(p.documents).max(1) as f64;
    let full = (share * WIDTH as f64) as usize;
    let rest = WIDTH.saturating_sub(full);
    let ns = p.namespace.as_ref().map_or("", Namespace::as_str);
    format!(
        "{link} [{}{}] {:3} %  {} of {} documents  {} MB  {ns}",
        "#".repeat(full),
        " ".repeat(rest),
        (share * 100.0) as u32,
        p.documents,
        p.documents_estimated,
        p.bytes >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_never_overflows() {
        for (documents, estimated, full) in [(0, 0, 0), (0, 10, 0), (5, 10, 10), (10, 10, 20), (20, 10, 20)] {
            let p = Progress { documents, documents_estimated: estimated, ..Progress::default() };
            let drawn = bar("a->b", &p);
            assert_eq!(drawn.matches('#').count(), full, "{drawn}");
        }
    }

    #[test]
    fn a_meter_shows_what_was_counted() {
        let meter = Meter::default();
        meter.done(1, 1, 0);
        assert_eq!(meter.progress(), None);
        meter.begin();
        meter.expect(10, 100);
        meter.at(&Namespace::new("a.b"));
        meter.done(3, 30, 1);
        let p = meter.progress().unwrap();
        assert_eq!((p.documents, p.documents_estimated, p.bytes, p.conflicts, p.done), (3, 10, 30, 1, false));
        meter.end();
        assert!(meter.progress().unwrap().done);
    }
}
