//! `oplogue position show | set | reset FILE [ROUTE]`.

use std::{
    fmt::Write as _,
    future::Future,
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use oplogue_api::{
    Checkpoint, Error, Interest, Options, Position as Place, Registry, Result, Source, StartAt,
    bson::{Bson, DateTime, Document},
};

use super::{DONE, FAILED, MISUSED, check::store, file, output, runtime};
use crate::config::RoutePlan;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub enum Position {
    /// Shows the checkpoints: where each route would resume
    Show {
        /// The configuration
        file: PathBuf,
        /// The route; all when absent
        route: Option<String>,
    },
    /// Sets the checkpoint of a route to another place. Stop the route first
    Set {
        /// The configuration
        file: PathBuf,
        /// The route
        route: String,
        #[command(flatten)]
        to: Target,
    },
    /// Removes checkpoints: the routes begin again where `start` says. Stop them first
    Reset {
        /// The configuration
        file: PathBuf,
        /// The route; all when absent
        route: Option<String>,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// At this time, such as 2026-11-21T10:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// At the end of what is there now
    #[arg(long)]
    now: bool,
    /// At the oldest change that the source still has
    #[arg(long)]
    oldest: bool,
}

impl Position {
    pub fn run(self, registry: &Registry) -> u8 {
        file::code(self.act(registry))
    }

    fn act(self, registry: &Registry) -> Result<(), u8> {
        let (path, name) = match &self {
            Position::Show { file, route } | Position::Reset { file, route, .. } => (file, route.as_deref()),
            Position::Set { file, route, .. } => (file, Some(route.as_str())),
        };
        let plan = file::plan(path, registry)?;
        file::log_quietly(&plan)?;
        let routes = file::routes(&plan, name)?;
        if let Position::Reset { yes: false, .. } = &self {
            confirm(&routes)?;
        }
        let runtime = runtime()?;
        let code = runtime.block_on(async {
            let mut code = DONE;
            for route in routes {
                let result = match &self {
                    Position::Show { .. } => soon(show(route)).await,
                    Position::Set { to, .. } => match aim(route, to, registry) {
                        Ok(aim) => soon(set(route, aim)).await,
                        Err(e) => return file::failed(&e.at(format!("route {}", route.name))).max(MISUSED),
                    },
                    Position::Reset { .. } => soon(reset(route)).await,
                };
                code = code.max(match result {
                    Ok(text) => output::answer(&text),
                    Err(e) => file::failed(&e.at(format!("route {}", route.name))),
                });
            }
            code
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        if code == DONE { Ok(()) } else { Err(code) }
    }
}

async fn soon<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let late = Error::transient(format!("no answer within {} seconds", PATIENCE.as_secs()));
        Err(late.hint("run `oplogue check FILE --connect`, which tells what is in the way"))
    })
}

async fn show(route: &RoutePlan) -> Result<String> {
    let (store, place) = store(route)?;
    let mut out = format!("route {}\n  kept        {place}\n", route.name);
    match store.load(&route.name).await? {
        None => out.push_str("  position    none: the route begins where the `start` of its source says\n"),
        Some(Checkpoint { position, generation }) => {
            let _ = writeln!(out, "  position    {}", when(&position));
            let _ = writeln!(out, "  generation  {generation}");
            let _ = writeln!(out, "  token       {}", token(&position));
        }
    }
    Ok(out)
}

async fn set(route: &RoutePlan, aim: Aim) -> Result<String> {
    let (store, _) = store(route)?;
    let Aim { mut source, from } = aim;
    let place = source.open(from, &Interest::default()).await;
    source.close().await;
    let place = place?;
    store.reset(&route.name, Some(&place)).await?;
    Ok(format!("route {}: set to {}\n", route.name, when(&place)))
}

async fn reset(route: &RoutePlan) -> Result<String> {
    let (store, _) = store(route)?;
    store.reset(&route.name, None).await?;
    Ok(format!("route {}: checkpoint removed\n", route.name))
}

/// A position is opaque to all but its source: so the source is opened at the wanted place, and says where that is.
struct Aim {
    source: Box<dyn Source>,
    from: StartAt<'static>,
}

/// A source that opens at the wanted place. No I/O: an error here is one of the arguments.
fn aim(route: &RoutePlan, to: &Target, registry: &Registry) -> Result<Aim> {
    let mut node = route.source.clone();
    let start = match (&to.at, to.oldest) {
        (Some(at), _) => {
            Some(toml::Value::Table([("at".into(), toml::Value::String(at.clone()))].into_iter().collect()))
        }
        (None, true) => Some(toml::Value::String("oldest".into())),
        (None, false) => None,
    };
    let mut from = StartAt::Now;
    if let Some(start) = start {
        if !has_start(registry, node.kind) {
            return Err(Error::operator(format!("a source of type {} has no option `start`", node.kind)));
        }
        let mut options = node.options.table().clone();
        options.insert("start".into(), start);
        node.options = Options::new(options);
        from = StartAt::Configured;
    }
    Ok(Aim { source: node.build(&route.context(&node.name))?, from })
}

/// Whether a type of source can be told where to begin.
pub fn has_start(registry: &Registry, kind: &str) -> bool {
    registry.sources.get(kind).is_some_and(|plugin| plugin.fields.iter().any(|f| f.name == "start"))
}

/// Asks a person. A script that removes a checkpoint means it.
fn confirm(routes: &[&RoutePlan]) -> Result<(), u8> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let names: Vec<_> = routes.iter().map(|r| r.name.as_str()).collect();
    output::note(&format!("Remove the checkpoint of {}? [y/N] ", names.join(", ")));
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(_) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => {
            output::note("nothing was changed\n");
            Err(MISUSED)
        }
        Err(e) => {
            output::complain(&format!("cannot read the answer: {e}"));
            Err(FAILED)
        }
    }
}

/// `2026-11-21T10:00:00Z (3m 20s ago, 1763719200.5)`.
fn when(position: &Place) -> String {
    let time = position.time;
    let utc = DateTime::from_millis(i64::from(time.time) * 1000);
    let utc = utc.try_to_rfc3339_string().unwrap_or_else(|_| utc.to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let age = match now.checked_sub(u64::from(time.time)) {
        Some(seconds) => format!("{} ago", span(seconds)),
        None => "ahead of this machine's clock".into(),
    };
    format!("{utc} ({age}; {}.{})", time.time, time.increment)
}

/// The two largest units of a number of seconds.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The token in relaxed extended JSON.
fn token(position: &Place) -> String {
    match Document::try_from(&*position.token) {
        Ok(document) => Bson::Document(document).into_relaxed_extjson().to_string(),
        Err(_) => "not readable".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplogue_api::{
        Doc,
        bson::{RawDocumentBuf, Timestamp, doc},
    };

    #[test]
    fn a_position_is_shown_for_people() {
        let token_of = RawDocumentBuf::try_from(&doc! {"t": 1, "at": Timestamp { time: 5, increment: 6 }}).unwrap();
        let place = Place { token: Doc::from(token_of), time: Timestamp { time: 1_000_000_000, increment: 7 } };
        let text = when(&place);
        assert!(text.starts_with("2001-09-09T01:46:40Z (") && text.ends_with("ago; 1000000000.7)"), "{text}");
        assert_eq!(token(&place), r#"{"t":1,"at":{"$timestamp":{"t":5,"i":6}}}"#);
        let ahead = Place { time: Timestamp { time: u32::MAX, increment: 1 }, ..place };
        assert!(when(&ahead).contains("ahead of this machine's clock"));
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!([59, 61, 3700, 90_000].map(span), ["59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
