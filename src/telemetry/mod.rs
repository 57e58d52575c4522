//! What a running router tells about itself: metrics, the HTTP interface, logs.

pub mod metrics;
mod process;

use std::sync::Arc;

use crate::engine::status::RouteStatus;
use metrics::Metrics;

/// What the HTTP interface shows.
pub struct Telemetry {
    /// The counters of the process.
    pub metrics: Metrics,
    /// Every route, in the order of the configuration.
    pub routes: Vec<Arc<RouteStatus>>,
}

impl Telemetry {
    /// Nothing counted, no route.
    pub fn new() -> Telemetry {
        Telemetry { metrics: Metrics::new(), routes: Vec::new() }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry::new()
    }
}
