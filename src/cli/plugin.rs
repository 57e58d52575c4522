//! `oplogue plugin test`: the conformance kit, for a plugin that is a child process.

use std::{fmt::Write as _, panic, sync::Arc};

use clap::{Args, Subcommand, ValueEnum};
use oplogue_api::{Context, Error, Options, Registry, Result, Sink, Source, Transform};
use oplogue_testkit::conformance::outside::{self, Clause, Found};

use super::{FAILED, MISUSED, output, runtime};
use crate::{config::LogPlan, telemetry};

/// The `type` of plugins that are child processes.
const EXTERNAL: &str = "external";

#[derive(Subcommand)]
pub enum Plugin {
    /// Tests a child process against the clauses of docs/plugin-contract.md that concern its role
    Test(Test),
}

#[derive(Args)]
#[command(
    after_help = "A sink gets events of kit.items, and keeps them: let it write to a place for tests. A source must have \
                        some events to give.\n\nExit codes: 0 every clause that was tested holds, 1 one does not, 2 bad arguments"
)]
pub struct Test {
    /// What the child is
    #[arg(long, value_enum)]
    role: Role,
    /// Options of the plugin, as they stand in the configuration: 'encoding = "json"', 'options = { path = "/tmp/x" }'
    #[arg(long = "set", value_name = "TOML")]
    set: Vec<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Source,
    Transform,
    Sink,
}

impl Plugin {
    pub fn run(self, registry: &Registry) -> u8 {
        let Plugin::Test(test) = self;
        test.run(registry).unwrap_or_else(|code| code)
    }
}

impl Test {
    fn run(&self, registry: &Registry) -> Result<u8, u8> {
        let options = self.options().map_err(|e| {
            output::complain_of(&e);
            MISUSED
        })?;
        // What the child says for itself is worth seeing here; what the plugin says of its restarts is not.
        let level = format!("error,oplogue_{EXTERNAL}::log=info");
        let _ = telemetry::log::init(&LogPlan { level: Some(level), json: Some(false) });
        let runtime = runtime()?;
        // A clause that does not hold is a panic of the kit, which is told below.
        panic::set_hook(Box::new(|_| {}));
        let clauses = runtime.block_on(self.clauses(registry, &options));
        let _ = panic::take_hook();
        let clauses = clauses.map_err(|e| {
            output::complain_of(&e);
            if e.field().is_some() { MISUSED } else { FAILED }
        })?;
        let code = output::answer(&render(&clauses, output::answers_in_colour()));
        Ok(if outside::all_hold(&clauses) { code } else { FAILED })
    }

    fn options(&self) -> Result<Options> {
        let mut table = toml::Table::new();
        for set in &self.set {
            let more: toml::Table = set.parse().map_err(|e: toml::de::Error| {
                Error::operator(format!("--set is no TOML: {}", e.message()))
                    .hint("such as --set 'encoding = \"json\"'")
            })?;
            table.extend(more);
        }
        let command = self.command.iter().cloned().map(toml::Value::String).collect();
        table.insert("command".into(), toml::Value::Array(command));
        Ok(Options::new(table))
    }

    async fn clauses(&self, registry: &Registry, options: &Options) -> Result<Vec<Clause>> {
        let missing = || Error::operator(format!("this program has no plugin `{EXTERNAL}`"));
        let context = Context { name: "plugin".into(), source: Some("kit".into()), ..Context::default() };
        // That it can be built once is seen here, so that the kit need not know how that fails.
        let broken = |e: Error| -> ! { panic!("it cannot be built: {e}") };
        Ok(match self.role {
            Role::Source => {
                let build = Arc::clone(&registry.sources.get(EXTERNAL).ok_or_else(missing)?.build);
                let make = || -> Result<Box<dyn Source>> { build(&context, options) };
                let mut first = make()?;
                starts(first.check().await)?;
                outside::source(|| make().unwrap_or_else(|e| broken(e))).await
            }
            Role::Transform => {
                let build = Arc::clone(&registry.transforms.get(EXTERNAL).ok_or_else(missing)?.build);
                let make = || -> Result<Box<dyn Transform>> { build(&context, options) };
                make()?;
                outside::transform(|| make().unwrap_or_else(|e| broken(e)))
            }
            Role::Sink => {
                let build = Arc::clone(&registry.sinks.get(EXTERNAL).ok_or_else(missing)?.build);
                let make = || -> Result<Arc<dyn Sink>> { build(&context, options) };
                starts(make()?.check().await)?;
                outside::sink(|| make().unwrap_or_else(|e| broken(e))).await
            }
        })
    }
}

/// A child that does not even answer is told of once, and not by every clause.
fn starts(findings: Vec<oplogue_api::Finding>) -> Result<()> {
    match findings.into_iter().find(|f| f.severity == oplogue_api::Severity::Error) {
        None => Ok(()),
        Some(finding) => {
            let e = Error::operator(format!("it cannot be tested: {}", finding.what));
            Err(finding.hint.into_iter().fold(e, Error::hint))
        }
    }
}

fn render(clauses: &[Clause], colour: bool) -> String {
    let mut out = String::new();
    let (mut hold, mut violated, mut untested) = (0, 0, 0);
    for clause in clauses {
        let (mark, why) = match &clause.found {
            Found::Holds => {
                hold += 1;
                (output::paint(colour, "32", "✓"), String::new())
            }
            Found::Untested(why) => {
                untested += 1;
                ("-".to_owned(), format!(" (not tested: {why})"))
            }
            Found::Violated(why) => {
                violated += 1;
                (output::paint(colour, "31", "✗"), format!("\n      {why}"))
            }
        };
        let _ = writeln!(out, "{mark} {:3} {}{why}", clause.number, clause.words);
    }
    let _ = writeln!(out, "\n{hold} hold, {violated} violated, {untested} not tested: docs/plugin-contract.md");
    out
}
