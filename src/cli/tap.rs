//! `oplogue tap FILE SOURCE`: prints the events of a source, and touches nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use oplogue_api::{
    Batch, Context, Error, ErrorKind, Interest, Options, Ordering, Position, Registry, Result, Sink, Source, StartAt,
};

use super::{MISUSED, file, output, position::has_start, run::asked_to_stop, runtime};

/// How long to wait before a source that failed is opened again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Tap {
    /// The configuration
    file: PathBuf,
    /// The name of a source in it
    source: String,
    /// `json`: one event a line; `pretty`: for people
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Where to begin; when absent, where the `start` of the source says
    #[arg(long, value_enum)]
    start: Option<Start>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Json,
    Pretty,
}

impl Format {
    /// As the sink `stdout` calls it.
    pub fn word(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Pretty => "pretty",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Start {
    /// At the end of what is there now
    Now,
    /// At the oldest change that the source still has
    Oldest,
}

impl Tap {
    pub fn run(self, registry: &Registry) -> u8 {
        file::code(self.tap(registry))
    }

    fn tap(self, registry: &Registry) -> Result<(), u8> {
        let plan = file::plan(&self.file, registry)?;
        file::log_quietly(&plan)?;
        let Some(node) = plan.sources.get(&self.source) else {
            file::unknown("source", &self.source, plan.sources.keys().map(String::as_str));
            return Err(MISUSED);
        };
        let mut node = node.clone();
        if self.start == Some(Start::Oldest) {
            if !has_start(registry, node.kind) {
                output::complain(&format!("a source of type {} has no option `start`: leave out --start", node.kind));
                return Err(MISUSED);
            }
            let mut options = node.options.table().clone();
            options.insert("start".into(), toml::Value::String("oldest".into()));
            node.options = Options::new(options);
        }
        let Some(printer) = registry.sinks.get("stdout") else {
            output::complain("this program has no sink `stdout`");
            return Err(MISUSED);
        };
        let mut options = toml::Table::new();
        options.insert("format".into(), self.format.word().into());
        let context = Context { name: "stdout".into(), source: Some(node.name.clone()), ..Context::default() };
        let told = |e: Error| file::failed(&e);
        let sink = (printer.build)(&context, &Options::new(options)).map_err(told)?;
        let source = node.build(&Context { name: node.name.clone(), ..context }).map_err(told)?;

        let runtime = runtime()?;
        let mut tapping = Tapping { source, sink, now: self.start == Some(Start::Now), at: None };
        let result = runtime.block_on(async {
            let result = tokio::select! {
                result = tapping.run() => result,
                () = asked_to_stop() => Ok(()),
                () = reader_gone() => Ok(()),
            };
            tapping.source.close().await;
            result.and(tapping.sink.close().await)
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        match result {
            Ok(()) => Ok(()),
            Err(e) if e.is_ended() => Ok(()),
            Err(e) => Err(file::failed(&e)),
        }
    }
}

/// Returns when whoever read our output has gone: `tap … | head -3` must not wait for a fourth event to notice.
#[cfg(unix)]
#[allow(deprecated, reason = "an owned descriptor cannot be closed while it is watched; the successor is an unsafe fn")]
async fn reader_gone() {
    use std::os::fd::AsFd;
    use tokio::io::{Interest, unix::AsyncFd};

    let output = std::io::stdout().as_fd().try_clone_to_owned();
    // A file cannot be watched, and has no reader.
    if let Ok(Ok(output)) = output.map(|fd| AsyncFd::with_interest(fd, Interest::ERROR)) {
        while let Ok(mut ready) = output.ready(Interest::ERROR).await {
            if ready.ready().is_error() {
                return;
            }
            ready.clear_ready();
        }
    }
    std::future::pending().await
}

#[cfg(not(unix))]
async fn reader_gone() {
    std::future::pending().await
}

struct Tapping {
    source: Box<dyn Source>,
    sink: Arc<dyn Sink>,
    now: bool,
    /// The end of what was printed.
    at: Option<Position>,
}

impl Tapping {
    async fn run(&mut self) -> Result<()> {
        self.sink.open().await?;
        loop {
            match self.read().await {
                Err(e) if e.kind() == ErrorKind::Transient => {
                    output::note(&format!("{e}; trying again\n"));
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Reads until the source ends or fails.
    async fn read(&mut self) -> Result<()> {
        let from = match &self.at {
            Some(position) => StartAt::Position(position),
            None if self.now => StartAt::Now,
            None => StartAt::Configured,
        };
        let begin = self.source.open(from, &Interest::default()).await?;
        self.at.get_or_insert(begin);
        while let Some(batch) = self.source.next().await? {
            self.print(&batch).await?;
            self.at = Some(batch.end);
        }
        Ok(())
    }

    async fn print(&self, batch: &Batch) -> Result<()> {
        for bad in &batch.bad {
            output::note(&format!("an entry cannot be decoded: {}\n", bad.error));
        }
        if batch.events.is_empty() {
            return Ok(());
        }
        let upto = (self.sink.ordering() == Ordering::Total).then_some(&batch.end);
        match self.sink.write(&batch.events, upto).await?.failed.into_iter().next() {
            Some(failed) => Err(failed.error),
            None => Ok(()),
        }
    }
}
