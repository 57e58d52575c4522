use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use oplogue_api::{Event, Finding, Ordering, Position, Registry, Result, Sink, Written, async_trait};

pub(crate) fn register(r: &mut Registry) {
    r.sink("null", "Discards events, for benchmarks and dry runs", &[], |context, options| {
        options.parse::<Nothing>()?;
        Ok(Arc::new(Null { name: context.name.clone(), events: AtomicU64::new(0) }))
    });
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Accepts everything and keeps nothing. Says how much it was when it is closed.
struct Null {
    name: String,
    events: AtomicU64,
}

#[async_trait]
impl Sink for Null {
    fn ordering(&self) -> Ordering {
        Ordering::Any
    }
    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        self.events.fetch_add(events.len() as u64, Relaxed);
        Ok(Written::default())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        tracing::info!(sink = self.name, events = self.events.load(Relaxed), "discarded");
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok("discards everything")]
    }
}
