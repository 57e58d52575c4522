//! `oplogue replay FILE EVENTS`: captured events and dead letters, through the routes once more.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use oplogue_api::{Context, Error, Options, Registry, Result, Sink};

use super::{DONE, FAILED, MISUSED, file, output, run::asked_to_stop, runtime, tap::Format};
use crate::{
    config::RoutePlan,
    replay::{Captured, Entry, Input, Lane},
};

#[derive(Args)]
pub struct Replay {
    /// The configuration
    file: PathBuf,
    /// What to replay: a file of the sink `file`, or the oplog.bson of a dump
    events: PathBuf,
    /// To this route alone; otherwise dead letters go to the route that gave them up, and captured events to all
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Shows what would be delivered, on stdout; touches no sink
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: `json`: one event a line; `pretty`: for people
    #[arg(long, value_enum, default_value_t = Format::Json, requires = "dry_run")]
    format: Format,
    /// Where to put what is refused again, as dead letters; a file for the next replay
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    left: Option<PathBuf>,
}

impl Replay {
    pub fn run(self, registry: &Registry) -> u8 {
        file::code(self.replay(registry))
    }

    fn replay(self, registry: &Registry) -> Result<(), u8> {
        let plan = file::plan(&self.file, registry)?;
        file::log_quietly(&plan)?;
        let routes = file::routes(&plan, self.route.as_deref())?;
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            tokio::select! {
                result = self.pass(&routes, registry) => result,
                () = asked_to_stop() => {
                    output::complain("stopped: what comes behind was not replayed");
                    Ok(FAILED)
                }
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        match result {
            Ok(DONE) => Ok(()),
            Ok(code) => Err(code),
            Err(e) if e.is_ended() => Ok(()),
            Err(e) => Err(file::failed(&e)),
        }
    }

    async fn pass(&self, routes: &[&RoutePlan], registry: &Registry) -> Result<u8> {
        let mut input = Input::open(&self.events, registry).await?;
        let left = match &self.left {
            Some(path) => {
                let path = path.display().to_string();
                let sink =
                    of_type(registry, "file", "path", &path, Context { name: "left".into(), ..Context::default() })?;
                sink.open().await?;
                Some(sink)
            }
            None => None,
        };
        let mut lanes: Vec<Lane> = Vec::new();
        let mut undecodable = 0_u64;
        let mut code = DONE;
        loop {
            let read = input.next().await?;
            if read.is_empty() {
                break;
            }
            let mut events = Vec::new();
            for one in read {
                match one {
                    Entry::Event(event) => events.push(*event),
                    Entry::Undecodable(e) => {
                        undecodable += 1;
                        if undecodable == 1 {
                            output::complain_of(&e);
                        }
                    }
                }
            }
            code = code.max(self.unknown_routes(&events, routes));
            for route in routes {
                let mine: Vec<Captured> = events.iter().filter(|one| self.goes_to(one, route)).cloned().collect();
                if mine.is_empty() {
                    continue;
                }
                let place = match lanes.iter().position(|lane| lane.route() == route.name) {
                    Some(place) => place,
                    None => {
                        lanes.push(self.lane(route, registry, left.clone()).await?);
                        lanes.len() - 1
                    }
                };
                lanes[place].pass(&mine).await?;
            }
        }
        for lane in &lanes {
            lane.close().await?;
            let report = lane.report;
            output::note(&format!(
                "{}: {} read, {} {}, {} filtered, {} ignored, {} refused\n",
                lane.route(),
                report.read,
                report.delivered,
                if self.dry_run { "would be delivered" } else { "delivered" },
                report.filtered,
                report.ignored,
                report.refused
            ));
            if let Some(why) = &lane.why {
                output::complain(&format!("{}: {why}", lane.route()));
                code = FAILED;
            }
        }
        if undecodable > 0 {
            output::complain(&format!("{undecodable} could not be decoded and were left out"));
            code = FAILED;
        }
        if lanes.is_empty() && code == DONE {
            output::note("there was nothing to replay\n");
        }
        Ok(code)
    }

    fn goes_to(&self, one: &Captured, route: &RoutePlan) -> bool {
        self.route.is_some() || one.route.as_ref().is_none_or(|name| *name == route.name)
    }

    /// Complains of letters of routes that are not there.
    fn unknown_routes(&self, events: &[Captured], routes: &[&RoutePlan]) -> u8 {
        let lost = events.iter().find(|one| !routes.iter().any(|route| self.goes_to(one, route)));
        let Some(name) = lost.and_then(|one| one.route.as_deref()) else { return DONE };
        file::unknown("route", name, routes.iter().map(|route| route.name.as_str()));
        output::note("  it has given up an event that is left out here: --route NAME gives all to another one\n");
        MISUSED
    }

    async fn lane(&self, route: &RoutePlan, registry: &Registry, left: Option<Arc<dyn Sink>>) -> Result<Lane> {
        let shown = match self.dry_run {
            true => {
                let context = Context { name: "stdout".into(), source: Some(route.name.clone()), ..Context::default() };
                Some(of_type(registry, "stdout", "format", self.format.word(), context)?)
            }
            false => None,
        };
        Lane::open(route, shown, left).await
    }
}

/// A sink of this program, with one option.
fn of_type(registry: &Registry, kind: &str, option: &str, value: &str, context: Context) -> Result<Arc<dyn Sink>> {
    let plugin = registry
        .sinks
        .get(kind)
        .ok_or_else(|| Error::operator(format!("this program has no sink `{kind}`")).hint("use the one that has"))?;
    let mut options = toml::Table::new();
    options.insert(option.into(), value.into());
    (plugin.build)(&context, &Options::new(options))
}
