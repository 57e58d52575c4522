//! Where log lines go: standard error, as text for a person and as JSON otherwise. Standard output is for data.

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    sync::Once,
};

use oplogue_api::{Error, Result};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

use crate::config::LogPlan;

/// Overrides `[log] level`, for a look without editing the file.
pub const LEVEL_VARIABLE: &str = "OPLOGUE_LOG";

/// The libraries beneath: what they tell is for debugging them. A filter that names one of them overrides this.
const LIBRARIES: &str = "mongodb=warn,redis=warn,rustls=warn,hickory_proto=warn,hickory_resolver=warn,hickory_net=warn,\
                         hyper=warn,hyper_util=warn,axum=warn,tower=warn,h2=warn";

/// Begins to log, as `plan` and the variable `OPLOGUE_LOG` say, and makes a panic a line of the log. A second call in one
/// process changes nothing.
///
/// # Errors
/// [`Operator`](oplogue_api::ErrorKind::Operator) when the level is neither a level nor a filter.
pub fn init(plan: &LogPlan) -> Result<()> {
    // Logging must not fail a start for an empty variable.
    let variable = std::env::var(LEVEL_VARIABLE).ok().filter(|value| !value.trim().is_empty());
    let filter = match &variable {
        Some(level) => filter(level).map_err(|e| e.at(LEVEL_VARIABLE))?,
        None => filter(plan.level.as_deref().unwrap_or("info")).map_err(|e| e.at("[log] level"))?,
    };
    let terminal = io::stderr().is_terminal();
    let json = plan.json.unwrap_or(!terminal);
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // In tests and in programs that embed oplogue somebody may have been first; theirs stays.
    let _ = tracing_subscriber::registry().with(format(json, colour, io::stderr).with_filter(filter)).try_init();
    log_panics();
    Ok(())
}

/// Whether `level` is one that [`init`] takes: `off`, `error`, `warn`, `info`, `debug`, `trace`, or a list such as
/// `info,oplogue_mongo=debug`.
///
/// # Errors
/// [`Operator`](oplogue_api::ErrorKind::Operator), saying what is wrong with it.
pub fn check_level(level: &str) -> Result<()> {
    filter(level).map(|_| ())
}

fn filter(level: &str) -> Result<EnvFilter> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = level.trim();
    let is_level = LEVELS.iter().any(|l| l.eq_ignore_ascii_case(level));
    // A lone word would be taken for the name of a target: `inof` would silence everything.
    let stray = level
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', '[']) && !LEVELS.iter().any(|l| l.eq_ignore_ascii_case(part)));
    if let Some(stray) = stray {
        return Err(bad_level(&format!("`{stray}` is no level")));
    }
    let directives = match level.to_ascii_lowercase().as_str() {
        // Not less from the libraries than from oplogue, nor more.
        quiet @ ("off" | "error" | "warn") => quiet.to_owned(),
        level if is_level => format!("{level},{LIBRARIES}"),
        _ => format!("{LIBRARIES},{level}"),
    };
    EnvFilter::builder().with_regex(false).parse(directives).map_err(|e| bad_level(&format!("`{level}`: {e}")))
}

fn bad_level(message: &str) -> Error {
    Error::operator(message)
        .hint("use off, error, warn, info, debug or trace, or a list such as \"info,oplogue_mongo=debug\"")
}

fn format<S, W>(json: bool, colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    if json {
        layer.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        layer.with_ansi(colour).with_target(false).boxed()
    }
}

/// A panic becomes one line of the log. With `RUST_BACKTRACE` set, the standard report follows it.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let standard = panic::take_hook();
        let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        panic::set_hook(Box::new(move |info| {
            log_panic(info);
            if wanted {
                standard(info);
            }
        }));
    });
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
    let message = message(info);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(
        place,
        message_of_panic = message,
        thread,
        "a panic: this is a fault in oplogue or in a plugin, please report it"
    );
}

// I8: a message that was put together at run time may hold a piece of a document (slicing a string in the middle of a
// character quotes the string), a literal cannot.
fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload()
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("withheld, as it may quote data; set RUST_BACKTRACE=1 to see it")
}

#[cfg(test)]
mod tests;
