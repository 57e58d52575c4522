//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 failed at run time, 2 bad arguments or configuration. Data goes to stdout, all else to stderr.

mod check;
mod completions;
mod file;
mod graph;
mod mmm;
mod oplogtoredis;
mod output;
mod plugin;
mod plugins;
mod position;
mod replay;
mod run;
mod tap;
mod test;
mod tool;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use oplogue_api::Registry;

/// Done.
const DONE: u8 = 0;
/// Failed at run time.
const FAILED: u8 = 1;
/// Bad arguments or configuration.
const MISUSED: u8 = 2;

/// Below the help.
const BEGIN: &str = "Begin with:
  oplogue check FILE --connect   is the file right, and are the servers?
  oplogue run FILE

Exit codes: 0 done, 1 failed at run time, 2 bad arguments or configuration";

/// Routes every change of a MongoDB to where it is wanted.
#[derive(Parser)]
#[command(
    name = "oplogue",
    version,
    max_term_width = 100,
    after_help = BEGIN,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct Arguments {
    /// Shows help
    #[arg(short, long, global = true, display_order = 1000, action = ArgAction::Help)]
    help: Option<bool>,
    /// Shows the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the routes of a configuration until it is told to stop
    Run {
        /// The configuration
        file: PathBuf,
    },
    /// Tells all that is wrong with a configuration; with --connect, with its servers
    Check {
        /// The configuration
        file: PathBuf,
        /// Looks at the servers as well: can they be reached, topology, privileges. Changes nothing
        #[arg(long)]
        connect: bool,
    },
    /// Lists the plugins, or tells the options of one with an example
    Plugins {
        /// The `type` of a plugin
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Tests a plugin of one's own that is a child process
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Prints the events of a source to stdout; touches no sink and no checkpoint
    Tap(tap::Tap),
    /// Tests a configuration: what its routes make of given events
    Test {
        /// The configuration
        file: PathBuf,
        /// The cases; when absent, `oplogue.test.toml` beside `oplogue.toml`
        cases: Option<PathBuf>,
    },
    /// Runs captured events and dead letters through the routes once more
    Replay(replay::Replay),
    /// Shows, sets or removes the checkpoints of routes
    #[command(subcommand)]
    Position(position::Position),
    /// Prints the configuration that that of another program comes to
    #[command(subcommand)]
    Import(Program),
    /// Runs in the place of oplogtoredis, configured by its variables OTR_*; a link to this program by that name does too
    Oplogtoredis,
    /// Prints a script with which a shell completes arguments
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Shows help, for those who write it without dashes
    #[command(hide = true)]
    Help,
}

/// Whose configuration can be read.
#[derive(Subcommand)]
enum Program {
    /// That of oplogtoredis: its variables OTR_*
    Oplogtoredis,
    /// That of MongoMultiMaster: mmm.yml, and the links that it keeps at its servers
    Mmm(mmm::Mmm),
}

/// Whether the program was called by the name of the one it stands in for.
fn is_drop_in() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.as_deref().and_then(Path::file_stem).is_some_and(|stem| stem == crate::oplogtoredis::NAME)
}

/// The whole program, for the given plugins: reads the arguments, does what they say and returns the exit code.
pub fn main_with(registry: Registry) -> ExitCode {
    let command = tool::extend(Arguments::command(), &registry);
    let matches = command.clone().try_get_matches_from(if is_drop_in() { drop_in_arguments() } else { given() });
    if let Ok(Some((name, matches))) = matches.as_ref().map(clap::ArgMatches::subcommand)
        && let Some(tool) = registry.tools.get(name)
    {
        return ExitCode::from(tool::run(tool, matches, &registry));
    }
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(e) => {
            // A closed pipe is no reason to fail.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { MISUSED } else { DONE });
        }
    };
    let code = match arguments.command {
        Command::Run { file } => run::run(&file, &registry),
        Command::Check { file, connect } => check::check(&file, connect, &registry),
        Command::Plugins { kind } => plugins::plugins(kind.as_deref(), &registry),
        Command::Plugin(plugin) => plugin.run(&registry),
        Command::Tap(tap) => tap.run(&registry),
        Command::Test { file, cases } => test::test(&file, cases.as_deref(), &registry),
        Command::Replay(replay) => replay.run(&registry),
        Command::Position(position) => position.run(&registry),
        Command::Completions { shell } => completions::completions(shell, command),
        Command::Import(Program::Oplogtoredis) => oplogtoredis::import(),
        Command::Import(Program::Mmm(mmm)) => mmm.import(),
        Command::Oplogtoredis => oplogtoredis::run(&registry),
        Command::Help => output::answer(&command.clone().render_help().to_string()),
    };
    ExitCode::from(code)
}

/// oplogtoredis takes no arguments and ignores what it is given; help and the version are asked for all the same.
fn drop_in_arguments() -> Vec<OsString> {
    let stand_in = || vec!["oplogue".into(), crate::oplogtoredis::NAME.into()];
    match std::env::args_os().nth(1) {
        Some(asked) if ["-h", "--help", "-V", "--version"].iter().any(|known| asked == *known) => given(),
        Some(_) => {
            output::note("oplogtoredis takes no arguments: they are ignored\n");
            stand_in()
        }
        None => stand_in(),
    }
}

fn given() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// The runtime of the commands that talk to servers.
fn runtime() -> Result<tokio::runtime::Runtime, u8> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("oplogue").build().map_err(|e| {
        output::complain(&format!("cannot start threads: {e}"));
        FAILED
    })
}
