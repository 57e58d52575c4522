//! The `stdout` sink: events as lines of JSON for a pipe, or laid out for people.

mod json;
mod output;
mod pretty;
#[cfg(test)]
mod tests;
mod update;

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use oplogue_api::{
    Error, Event, Failed, Field, FieldType, Finding, Ordering, Position, Registry, Result, Sink, Written, async_trait,
    same_key,
};
use serde::Deserialize;

use output::Output;

const FIELDS: &[Field] = &[Field::new(
    "format",
    FieldType::OneOf(&["json", "pretty"]),
    "json: one event a line, in relaxed extended JSON; pretty: for people",
)
.default("\"json\"")];

pub(crate) fn register(r: &mut Registry) {
    r.sink("stdout", "Prints events to the standard output, as JSON or for people", FIELDS, |context, options| {
        let options: StdoutOptions = options.parse()?;
        let format = match options.format {
            Word::Json => Format::Json,
            Word::Pretty => Format::Pretty { colour: wants_colour() },
        };
        Ok(Arc::new(Stdout::new(Output::stdout(), format, context.source.clone())))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StdoutOptions {
    #[serde(default)]
    format: Word,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    Json,
    Pretty,
}

/// Colour is for terminals (and pipes that lead to one, where `CLICOLOR_FORCE` says so), and not for those who do not want it
/// (see no-color.org).
fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && (set("CLICOLOR_FORCE").is_some_and(|v| v != "0") || io::stdout().is_terminal())
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One event a line, in MongoDB relaxed extended JSON.
    Json,
    /// A headline an event, and indented lines with what changed.
    Pretty {
        /// Whether to use the colours of a terminal.
        colour: bool,
    },
}

/// Prints events, in source order, one write a batch.
pub struct Stdout {
    format: Format,
    source: Option<String>,
    output: Output,
    /// The buffer of the last batch, used again for the next.
    spare: Mutex<Vec<u8>>,
    /// Whether the last write failed: there is no way to ask a disk or a pipe but to write.
    failing: AtomicBool,
}

/// A buffer that has grown larger than this is not kept for the next batch.
const LARGEST_KEPT: usize = 4 << 20;

impl Stdout {
    /// The same sink on another output than the standard one. `source` is shown with every event of the JSON format.
    pub fn to(writer: Box<dyn Write + Send>, format: Format, source: Option<String>) -> Stdout {
        Stdout::new(Output::new(writer), format, source)
    }

    fn new(output: Output, format: Format, source: Option<String>) -> Stdout {
        Stdout { format, source, output, spare: Mutex::default(), failing: AtomicBool::new(false) }
    }

    fn render(&self, out: &mut Vec<u8>, event: &Event) -> Result<()> {
        match self.format {
            Format::Json => json::line(out, event, self.source.as_deref()),
            Format::Pretty { colour } => pretty::block(out, event, colour),
        }
    }
}

#[async_trait]
impl Sink for Stdout {
    fn ordering(&self) -> Ordering {
        Ordering::Total
    }

    async fn open(&self) -> Result<()> {
        self.failing.store(false, Relaxed);
        self.output.is_open()
    }

    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        let mut out = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        out.clear();
        let mut written = Written::default();
        for (index, event) in events.iter().enumerate() {
            // I2: nothing of a document is printed behind an event of it that was not.
            if let Some(earlier) = written.failed.iter().find(|f| is_same_document(&events[f.index], event)) {
                let error = Error::transient(format!("event {} of the same document was not printed", earlier.index));
                written.failed.push(Failed { index, error });
                continue;
            }
            let start = out.len();
            if let Err(error) = self.render(&mut out, event) {
                out.truncate(start);
                written.failed.push(Failed { index, error });
            }
        }
        if !out.is_empty() {
            let result = self.output.write(out).await;
            self.failing.store(result.is_err(), Relaxed);
            out = result?;
        }
        if out.capacity() <= LARGEST_KEPT {
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = out;
        }
        Ok(written)
    }

    async fn ping(&self) -> Result<()> {
        self.output.is_open()?;
        match self.failing.load(Relaxed) {
            true => Err(Error::transient("the last write to the standard output failed")),
            false => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        // Every write has been flushed.
        Ok(())
    }

    async fn check(&self) -> Vec<Finding> {
        vec![Finding::ok("prints to the standard output")]
    }
}

fn is_same_document(a: &Event, b: &Event) -> bool {
    match (&a.key, &b.key) {
        (Some(ka), Some(kb)) => a.ns == b.ns && same_key(ka, kb),
        _ => false,
    }
}
