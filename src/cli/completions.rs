//! `oplogue completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, output};

pub fn completions(shell: Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "oplogue", &mut script);
    output::answer(&String::from_utf8_lossy(&script))
}
