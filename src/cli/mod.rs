//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 failed at run time, 2 bad arguments or configuration. Data goes to stdout, all else to stderr.

mod check;
mod completions;
mod file;
mod output;
mod plugins;
mod position;
mod run;
mod tap;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use oplogue_api::Registry;

/// Done.
const DONE: u8 = 0;
/// Failed at run time.
const FAILED: u8 = 1;
/// Bad arguments or configuration.
const MISUSED: u8 = 2;

/// Routes every change of a MongoDB to where it is wanted.
#[derive(Parser)]
#[command(name = "oplogue", version, max_term_width = 100)]
struct Arguments {
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
    /// Checks a configuration and tells all that is wrong with it
    Check {
        /// The configuration
        file: PathBuf,
        /// Look at the servers as well: reachable, right topology, sufficient privileges. Changes nothing
        #[arg(long)]
        connect: bool,
    },
    /// Lists the plugins, or tells the options of one
    Plugins {
        /// The `type` of a plugin
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Prints the events of a source to stdout, and touches nothing: no sink, no checkpoint
    Tap(tap::Tap),
    /// Shows, sets or removes the checkpoints of routes
    #[command(subcommand)]
    Position(position::Position),
    /// Prints a script that completes the arguments of oplogue in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The whole program, for the given plugins: reads the arguments, does what they say and returns the exit code.
pub fn main_with(registry: Registry) -> ExitCode {
    let arguments = match Arguments::try_parse() {
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
        Command::Tap(tap) => tap.run(&registry),
        Command::Position(position) => position.run(&registry),
        Command::Completions { shell } => completions::completions(shell),
    };
    ExitCode::from(code)
}

/// The runtime of the commands that talk to servers.
fn runtime() -> Result<tokio::runtime::Runtime, u8> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("oplogue").build().map_err(|e| {
        output::complain(&format!("cannot start threads: {e}"));
        FAILED
    })
}
