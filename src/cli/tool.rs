//! `oplogue TOOL [ACTION] FILE …`: the subcommands that plugins bring.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use oplogue_api::{
    Action, Argument, ArgumentKind, Outcome, Registry, Tool, ToolArguments, ToolContext, ToolNode, ToolRoute,
};

use super::{DONE, FAILED, MISUSED, file, output, run::asked_to_stop, runtime};
use crate::config::RoutePlan;

/// The argument in front of those of the tool.
const FILE: &str = "file";

/// Adds the tools to the subcommands of the program.
///
/// # Panics
/// When a tool has the name of one of them.
pub fn extend(mut command: Command, registry: &Registry) -> Command {
    for tool in registry.tools.values() {
        assert!(command.find_subcommand(tool.name).is_none(), "a tool has the name of the subcommand `{}`", tool.name);
        command = command.subcommand(subcommand(tool));
    }
    command
}

fn subcommand(tool: &Tool) -> Command {
    let command = Command::new(tool.name).about(tool.summary).after_help(tool.help).disable_help_subcommand(true);
    match tool.actions {
        [only] if only.name.is_empty() => takes(command, only),
        actions => command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommands(actions.iter().map(|action| takes(Command::new(action.name).about(action.summary), action))),
    }
}

fn takes(command: Command, action: &Action) -> Command {
    let file = Arg::new(FILE).value_name("FILE").required(true).help("The configuration");
    let command = command.arg(file.value_parser(value_parser!(PathBuf)));
    command.args(action.arguments.iter().map(|argument| {
        let arg = Arg::new(argument.name).help(argument.help).required(argument.required);
        let arg = match argument.kind {
            ArgumentKind::Flag => return arg.long(argument.name).action(ArgAction::SetTrue),
            ArgumentKind::Positional => arg,
            ArgumentKind::Rest => arg.num_args(0..),
            ArgumentKind::Value => arg.long(argument.name),
            ArgumentKind::Values => arg.long(argument.name).action(ArgAction::Append),
        };
        match argument.value.contains('|') {
            true => arg.value_parser(PossibleValuesParser::new(argument.value.split('|'))),
            false => arg.value_name(argument.value),
        }
    }))
}

/// Runs the tool.
pub fn run(tool: &Tool, matches: &ArgMatches, registry: &Registry) -> u8 {
    let (action, matches) = match matches.subcommand() {
        Some((name, matches)) => (tool.actions.iter().find(|action| action.name == name), matches),
        None => (tool.actions.first(), matches),
    };
    match action {
        Some(action) => file::code(act(tool, action, matches, registry)),
        None => MISUSED,
    }
}

fn act(tool: &Tool, action: &Action, matches: &ArgMatches, registry: &Registry) -> Result<(), u8> {
    let path: &PathBuf = matches.get_one(FILE).ok_or(MISUSED)?;
    let plan = file::plan(path, registry)?;
    file::log_quietly(&plan)?;
    let (mut out, mut notes) = (io::stdout(), io::stderr());
    let mut context = ToolContext {
        action: action.name,
        routes: plan.routes.iter().map(route).collect(),
        arguments: given(action.arguments, matches),
        terminal: out.is_terminal(),
        out: &mut out,
        notes: &mut notes,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            result = tool.run.run(&mut context) => Some(result),
            () = asked_to_stop() => None,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Some(Ok(Outcome::Well)) => Ok(()),
        Some(Ok(Outcome::Unwell)) => Err(FAILED),
        Some(Err(e)) if e.is_ended() => Ok(()),
        // Of an argument: nothing was done.
        Some(Err(e)) if e.field().is_some() => Err(file::failed(&e).max(MISUSED)),
        Some(Err(e)) => Err(file::failed(&e)),
        None => {
            output::complain("told to stop before it was done");
            Err(FAILED)
        }
    }
}

fn route(plan: &RoutePlan) -> ToolRoute {
    let (source, sink) = (&plan.source, &plan.sink);
    ToolRoute {
        name: plan.name.clone(),
        source: ToolNode { name: source.name.clone(), kind: source.kind, options: source.options.clone() },
        sink: ToolNode { name: sink.name.clone(), kind: sink.kind, options: sink.options.clone() },
    }
}

fn given(arguments: &[Argument], matches: &ArgMatches) -> ToolArguments {
    let mut given = ToolArguments::default();
    for argument in arguments {
        if argument.kind == ArgumentKind::Flag {
            if matches.get_flag(argument.name) {
                given.insert(argument.name, []);
            }
        } else if let Some(values) = matches.get_many::<String>(argument.name) {
            given.insert(argument.name, values.cloned());
        }
    }
    given
}

/// The lines of `oplogue plugins TOOL`.
pub fn describe(tool: &Tool) -> u8 {
    let mut command = subcommand(tool).bin_name(format!("oplogue {}", tool.name));
    match output::answer(&format!("{} (tool)\n  {}\n\n", tool.name, tool.summary)) {
        DONE => output::answer(&command.render_help().to_string()),
        code => code,
    }
}

#[cfg(test)]
#[path = "tool_tests.rs"]
mod tests;
