//! Runs the routes of a plan.
//!
//! Source, chain and lanes of a route run in tasks of their own:
//! `source -> reader (chain, window, tracker) -> lanes -> sink`, with the supervisor beside them. See `docs/architecture.md`.

pub(crate) mod backoff;
pub(crate) mod bad;
mod checkpoint;
pub(crate) mod choice;
mod lane;
mod pulse;
mod reader;
mod route;
mod run;
pub mod status;
mod supervisor;
mod tracker;
mod whole;
mod window;

use std::sync::Arc;

use oplogue_api::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    config::Plan,
    telemetry::{Telemetry, metrics::RouteMetrics},
};
pub(crate) use choice::chain;
use route::Route;
pub use route::interest;
use status::RouteStatus;

/// The routes of a plan, ready to run.
pub struct Engine {
    routes: Vec<Route>,
    stop: CancellationToken,
}

/// What became of the routes that failed, by name.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The routes that stopped with an error; empty when all finished or were asked to stop.
    pub failed: Vec<(String, Error)>,
}

impl Engine {
    /// Prepares the routes of `plan` and enters each into `telemetry`. They end when `stop` is cancelled: what was read is
    /// delivered within the plan's grace, checkpoints are saved, and both ends closed.
    pub fn new(plan: Plan, telemetry: &mut Telemetry, stop: CancellationToken) -> Engine {
        let grace = plan.shutdown_grace;
        let routes = plan
            .routes
            .into_iter()
            .enumerate()
            .map(|(index, plan)| {
                let status = RouteStatus::new(&plan.name, &plan.source.name, &plan.sink.name);
                let otr = telemetry.otr.as_ref().map(|otr| otr.route(index, plan.max_in_flight));
                let metrics = Arc::new(RouteMetrics::new(&telemetry.metrics, &plan.name).with_otr(otr));
                let denylist = telemetry.denylist.clone();
                let pace = if telemetry.otr.is_some() { pulse::BRISK } else { pulse::CALM };
                telemetry.routes.push(Arc::clone(&status));
                Route { plan, status, metrics, stop: stop.child_token(), grace, denylist, pace }
            })
            .collect();
        Engine { routes, stop }
    }

    /// Runs all routes until each has ended.
    pub async fn run(self) -> Outcome {
        let mut running = JoinSet::new();
        for route in self.routes {
            running.spawn(async move {
                let name = route.plan.name.clone();
                let status = Arc::clone(&route.status);
                // A task of its own, so that a panic in one route's own code ends that route alone (I5).
                let result = tokio::spawn(supervisor::keep_running(route)).await;
                let result = result.unwrap_or_else(|_| Err(Error::bug("the route panicked")));
                if let Err(e) = &result {
                    status.stopped(e);
                }
                (name, result)
            });
        }
        let mut outcome = Outcome::default();
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((_, Ok(_))) => {}
                Ok((name, Err(e))) => outcome.failed.push((name, e)),
                Err(e) => error!(error = %e, "a route's task was lost"),
            }
        }
        self.stop.cancel();
        outcome
    }
}
