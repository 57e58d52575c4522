//! What a running router tells about itself: metrics, the HTTP interface, logs.

pub mod http;
pub mod log;
pub mod metrics;
pub mod otr;
mod process;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{denylist::Denylist, engine::status::RouteStatus};
use metrics::Metrics;
use otr::Otr;

/// How often the router's own loop shows that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// After so long without a beat it is taken for dead.
const DEAD: Duration = Duration::from_secs(30);

/// What the HTTP interface shows.
pub struct Telemetry {
    /// The counters of the process.
    pub metrics: Metrics,
    /// Every route, in the order of the configuration.
    pub routes: Vec<Arc<RouteStatus>>,
    /// The metrics of oplogtoredis, with `[http] style = "oplogtoredis"`.
    pub otr: Option<Arc<Otr>>,
    /// With a table `[denylist]`.
    pub denylist: Option<Arc<Denylist>>,
    last_beat: Mutex<Option<Instant>>,
}

impl Telemetry {
    /// Nothing counted, no route.
    pub fn new() -> Telemetry {
        Telemetry {
            metrics: Metrics::new(),
            routes: Vec::new(),
            otr: None,
            denylist: None,
            last_beat: Mutex::new(None),
        }
    }

    /// All metrics, in Prometheus' text format.
    pub fn render(&self) -> String {
        let others = self.otr.as_ref().map(|otr| otr.families(&self.routes, self.denylist.as_deref()));
        self.metrics.render_with(&self.routes, others.unwrap_or_default())
    }

    /// The loop that calls this lives. Once called, `/healthz` expects it again within 30 seconds.
    pub fn beat(&self) {
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Beats for as long as it is polled: run it beside the engine, on the engine's runtime, since the HTTP interface runs on
    /// one of its own and would answer whatever became of the engine.
    pub async fn keep_beating(&self) -> Infallible {
        loop {
            self.beat();
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Whether the loop that beats, if any, lives.
    pub fn is_alive(&self) -> bool {
        let last = *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|at| at.elapsed() < DEAD)
    }

    /// Whether every route does what it should.
    pub fn is_ready(&self) -> bool {
        self.routes.iter().all(|route| route.state().is_up())
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_beats_no_more_is_dead() {
        let t = Telemetry::new();
        tokio::time::advance(2 * DEAD).await;
        assert!(t.is_alive(), "nobody has promised to beat");
        let _ = tokio::time::timeout(3 * DEAD, t.keep_beating()).await;
        assert!(t.is_alive());
        tokio::time::advance(DEAD).await;
        assert!(!t.is_alive());
    }
}
