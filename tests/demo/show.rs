//! One terminal for several processes: each line says whose it is.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
};

/// Whose line it is.
#[derive(Clone, Copy)]
pub struct Who {
    pub name: &'static str,
    /// The code of its colour on a terminal.
    pub colour: &'static str,
}

pub const DEMO: Who = Who { name: "demo", colour: "1" };

/// Whether lines are coloured.
pub fn colours() -> bool {
    stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a line.
pub fn say(who: Who, line: &str) {
    let Who { name, colour } = who;
    let mut out = stdout().lock();
    // A terminal that is gone is no reason to fail: the servers are still to be ended.
    let _ = if colours() {
        writeln!(out, "\x1b[{colour}m{name:>14} │\x1b[0m {line}")
    } else {
        writeln!(out, "{name:>14} │ {line}")
    };
}
