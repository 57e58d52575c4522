//! Asks an idle sink now and then whether it is still there, so that `/readyz` knows before the next event does.

use std::{sync::Arc, time::Duration};

use oplogue_api::{Error, Sink};
use tracing::{info, warn};

use super::{status::RouteStatus, tracker::Tracker};
use crate::telemetry::metrics::Place;

/// How often a sink is asked, and how long it may take to answer.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub every: Duration,
    pub patience: Duration,
}

/// For `/readyz`.
pub const CALM: Pace = Pace { every: Duration::from_secs(10), patience: Duration::from_secs(5) };
/// For a `/healthz` that answers for the destination without asking it.
pub const BRISK: Pace = Pace { every: Duration::from_secs(2), patience: Duration::from_secs(3) };

/// Runs until it is dropped. A sink that is being written to is left alone: its lanes tell how it is.
pub async fn run(pace: Pace, route: String, sink: Arc<dyn Sink>, tracker: Tracker, status: Arc<RouteStatus>) {
    let Pace { every, patience } = pace;
    let mut silent = false;
    loop {
        tokio::time::sleep(every).await;
        if !tracker.is_drained() {
            silent = false;
            continue;
        }
        let answer = match tokio::time::timeout(patience, sink.ping()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::transient(format!("the sink has not answered for {patience:?}"))),
        };
        match answer {
            Ok(()) if silent => {
                info!(route, "the sink answers again");
                status.recovered(Place::Sink);
                silent = false;
            }
            Ok(()) => {}
            Err(e) => {
                if !silent {
                    warn!(route, error = %e, "the sink does not answer, though there is nothing to deliver; asking again");
                }
                status.retrying(Place::Sink, &e);
                silent = true;
            }
        }
    }
}
