//! A program with a plugin of its own: everything that oplogue is, and the sink `count`.

use std::{process::ExitCode, sync::Arc};

use oplogue::api::{Event, Finding, Position, Result, Sink, Written, async_trait};

struct Count;

#[async_trait]
impl Sink for Count {
    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        eprintln!("{} more events", events.len());
        Ok(Written::default())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok("counts")]
    }
}

fn main() -> ExitCode {
    let mut registry = oplogue::builtin::registry();
    registry.sink("count", "Tells how many events there were", &[], |_, _| Ok(Arc::new(Count)));
    oplogue::main_with(registry)
}
