//! A program with a sink of its own: everything that oplogue is, and `type = "append"`.

use std::{fs::File, io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use oplogue::api::{
    Error, Event, Field, FieldType, Finding, Ordering, Position, Registry, Result, Sink, Written, async_trait, hash_key,
};

const FIELDS: &[Field] = &[Field::new("path", FieldType::String, "The file that events go to").required()];

/// Appends a line for each event: its id, what happened, where, and to which document.
struct Append {
    path: PathBuf,
}

fn line(event: &Event) -> String {
    let key = event.key.as_ref().map_or(0, |key| hash_key(key));
    format!("{} {} {} {key:016x}\n", event.id(), event.op.name(), event.ns)
}

#[async_trait]
impl Sink for Append {
    fn ordering(&self) -> Ordering {
        Ordering::Total // one file, one writer
    }
    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        let text: String = events.iter().map(line).collect();
        let append = || {
            let mut file = File::options().create(true).append(true).open(&self.path)?;
            file.write_all(text.as_bytes())?;
            file.sync_data() // K1: durable before we say so
        };
        append().map_err(|e| Error::transient("cannot append").caused_by(e))?;
        Ok(Written::default())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok(format!("appends to {}", self.path.display()))]
    }
}

fn register(registry: &mut Registry) {
    registry.sink("append", "Appends a line for each event to a file", FIELDS, |_, options| {
        let path = options.table()["path"].as_str().unwrap_or_default(); // FIELDS has made sure of it
        Ok(Arc::new(Append { path: path.into() }))
    });
}

fn main() -> ExitCode {
    let mut registry = oplogue::builtin::registry();
    register(&mut registry);
    oplogue::main_with(registry)
}

#[cfg(test)]
mod tests {
    use oplogue_testkit::conformance::{self, Seen, SinkHarness};

    use super::*;

    struct Harness(tempfile::TempDir);

    #[async_trait]
    impl SinkHarness for Harness {
        async fn sink(&self) -> Arc<dyn Sink> {
            Arc::new(Append { path: self.0.path().join("out") })
        }
        async fn delivered(&self) -> Vec<Seen> {
            let text = std::fs::read_to_string(self.0.path().join("out")).unwrap_or_default();
            text.lines().map(seen).collect()
        }
        fn seen(&self, event: &Event) -> Option<Seen> {
            Some(seen(line(event).trim_end()))
        }
    }

    fn seen(line: &str) -> Seen {
        let key = line.rsplit(' ').next().unwrap_or_default();
        Seen { key: key.to_owned(), what: line.to_owned() }
    }

    #[tokio::test]
    async fn the_sink_keeps_the_contract() {
        let report = conformance::sink(&Harness(tempfile::tempdir().unwrap())).await;
        // It refuses nothing, has one lane, keeps no checkpoints and no connection.
        assert_eq!(report.skipped_clauses(), ["K4", "K9", "K12", "K8"]);
    }
}
