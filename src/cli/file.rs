//! Reads the configuration of a command.

use std::{fs, path::Path};

use oplogue_api::Registry;

use super::{FAILED, MISUSED, output};
use crate::{
    config::{self, Diagnostics, LogPlan, Plan, RoutePlan},
    telemetry::log,
};

/// The plan of a file. What is wrong with it goes to stderr, warnings too.
///
/// # Errors
/// The exit code, when there is no plan.
pub fn plan(file: &Path, registry: &Registry) -> Result<Plan, u8> {
    let name = file.display().to_string();
    let bytes = fs::read(file).map_err(|e| {
        output::complain(&format!("cannot read {name}: {e}"));
        MISUSED
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        let help = Some(format!("line {line} holds the first byte that is none: save the file as UTF-8"));
        show(&Diagnostics::of_file(&name, "the file is not UTF-8 text", help));
        MISUSED
    })?;
    let loaded = config::examine(&text, &name, &|variable| std::env::var(variable).ok(), registry);
    show(&loaded.diagnostics);
    loaded.plan.ok_or(MISUSED)
}

/// Tells what is wrong with a configuration.
pub fn show(diagnostics: &Diagnostics) {
    if !diagnostics.is_empty() {
        output::note(&diagnostics.render(output::errors_in_colour()));
    }
}

/// The routes that a command is about: the named one, or all.
pub fn routes<'p>(plan: &'p Plan, name: Option<&str>) -> Result<Vec<&'p RoutePlan>, u8> {
    let Some(name) = name else { return Ok(plan.routes.iter().collect()) };
    match plan.routes.iter().find(|route| route.name == name) {
        Some(route) => Ok(vec![route]),
        None => {
            unknown("route", name, plan.routes.iter().map(|r| r.name.as_str()));
            Err(MISUSED)
        }
    }
}

/// Complains of a name that does not exist.
pub fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str> + Clone) {
    output::complain(&format!("there is no {what} `{name}`"));
    match oplogue_api::closest(name, known.clone()) {
        Some(meant) => output::note(&format!("  did you mean `{meant}`?\n")),
        None => output::note(&format!("  {what}s: {}\n", known.clone().collect::<Vec<_>>().join(", "))),
    }
    // `position show FILE a->b` asks a shell for the route `a-`, with its output in the file `b`.
    if name.ends_with('-') && known.clone().any(|known| known.starts_with(&format!("{name}>"))) {
        output::note("  a shell takes > for itself: write the name in quotes, 'a->b'\n");
    }
}

/// Logging for the commands whose answer is on stdout: only what a person must know.
pub fn log_quietly(plan: &Plan) -> Result<(), u8> {
    let quiet = LogPlan { level: Some("warn".into()), json: plan.log.json };
    log::init(&quiet).map_err(|e| failed(&e).max(MISUSED))
}

/// The exit code of a result that was told already.
pub fn code(result: Result<(), u8>) -> u8 {
    result.map_or_else(|code| code, |()| super::DONE)
}

/// Complains of an error at run time.
pub fn failed(error: &oplogue_api::Error) -> u8 {
    output::complain_of(error);
    FAILED
}
