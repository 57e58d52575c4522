//! Keeps a route running, and decides when it must not.

use std::{collections::VecDeque, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use oplogue_api::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    route::{Route, RouteEnd},
};
use crate::config::OnPositionLost;

/// A route is given up after this many restarts for a bug ...
const MOST_RESTARTS: usize = 5;
/// ... within this time.
const RESTART_WINDOW: Duration = Duration::from_secs(600);

/// Runs a route until it ends, is stopped, or fails for good.
///
/// The table from error to action, for what the reader and the lanes did not mend themselves: `Transient` runs the route
/// again from its checkpoint; `Bug` too, up to a limit; `Operator`, `Data` and `PositionLost` stop it, since the
/// policies of the route have been asked before. I5: nothing here touches another route.
pub async fn keep_running(route: Route) -> Result<RouteEnd> {
    let name = &route.plan.name;
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        // Opening, and the checkpoints: reader and lanes run in tasks of their own.
        let ended = AssertUnwindSafe(route.run()).catch_unwind().await;
        let failed = match ended.unwrap_or_else(|_| Err(Error::bug("the route panicked"))) {
            Ok(end) => {
                info!(route = name, "{}", if end == RouteEnd::Finished { "finished" } else { "stopped, as told" });
                route.status.finished();
                return Ok(end);
            }
            Err(e) => e,
        };
        if route.stop.is_cancelled() && failed.kind() == ErrorKind::Transient {
            return Ok(RouteEnd::Stopped);
        }
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        match failed.kind() {
            // Opening the route again asks the policy, and finds the gap.
            ErrorKind::PositionLost if route.plan.on_position_lost == OnPositionLost::FromNow => {
                warn!(route = name, error = %failed, "the position is lost; starting the route again");
            }
            ErrorKind::Transient => {
                warn!(route = name, error = %failed, "starting the route again from its checkpoint");
            }
            ErrorKind::Bug => {
                let now = Instant::now();
                restarts.retain(|at| now.duration_since(*at) < RESTART_WINDOW);
                if restarts.len() >= MOST_RESTARTS {
                    let e = failed
                        .at(format!(
                            "gave up after {MOST_RESTARTS} restarts in {} minutes",
                            RESTART_WINDOW.as_secs() / 60
                        ))
                        .hint("this is a fault in oplogue or in a plugin: please report it with the log around it");
                    return Err(stop(&route, e));
                }
                restarts.push_back(now);
                error!(route = name, error = %failed, "a bug; starting the route again from its checkpoint");
            }
            ErrorKind::Operator | ErrorKind::Data | ErrorKind::PositionLost => {
                return Err(stop(&route, failed));
            }
        }
        route.metrics.restarted();
        route.status.restarting(&failed);
        tokio::select! {
            () = route.stop.cancelled() => return Ok(RouteEnd::Stopped),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

fn stop(route: &Route, e: Error) -> Error {
    error!(
        route = route.plan.name,
        error = %e,
        kind = e.kind().name(),
        hint = e.get_hint(),
        "the route has stopped, and stays so until oplogue is started again"
    );
    route.status.stopped(&e);
    e
}
