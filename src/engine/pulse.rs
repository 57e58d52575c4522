//! Asks an idle sink now and then whether it is still there, so that `/readyz` knows before the next event does.

use std::{sync::Arc, time::Duration};

use oplogue_api::{Error, Sink};
use tracing::{info, warn};

use super::{status::RouteStatus, tracker::Tracker};
use crate::telemetry::metrics::Place;

const EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until it is dropped. A sink that is being written to is left alone: its lanes tell how it is.
pub async fn run(route: String, sink: Arc<dyn Sink>, tracker: Tracker, status: Arc<RouteStatus>) {
    let mut silent = false;
    loop {
        tokio::time::sleep(EVERY).await;
        if !tracker.is_drained() {
            silent = false;
            continue;
        }
        let answer = match tokio::time::timeout(PATIENCE, sink.ping()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::transient(format!("the sink has not answered for {PATIENCE:?}"))),
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
