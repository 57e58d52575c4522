//! `oplogue completions SHELL`.

use clap::Command;
use clap_complete::Shell;

use super::output;

pub fn completions(shell: Shell, mut command: Command) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "oplogue", &mut script);
    output::answer(&String::from_utf8_lossy(&script))
}
