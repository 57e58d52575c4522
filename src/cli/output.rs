//! Writing for people: stdout for what was asked for, stderr for the rest.

use std::io::{self, IsTerminal, Write};

use oplogue_api::Error;

use super::{DONE, FAILED};

/// Writes the answer to stdout. A reader that has seen enough is no failure.
pub fn answer(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => DONE,
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(e) => {
            complain(&format!("cannot write to stdout: {e}"));
            FAILED
        }
    }
}

/// Writes to stderr, come what may.
pub fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `error: …` on stderr.
pub fn complain(message: &str) {
    note(&format!("{}: {message}\n", paint(errors_in_colour(), "1;31", "error")));
}

/// An error with its hint.
pub fn complain_of(error: &Error) {
    complain(&error.to_string());
    if let Some(hint) = error.get_hint() {
        note(&format!("  hint: {hint}\n"));
    }
}

/// Whether stderr shows colours.
pub fn errors_in_colour() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// Whether stdout shows colours.
pub fn answers_in_colour() -> bool {
    let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    (forced || io::stdout().is_terminal()) && wants_colour()
}

/// The convention of no-color.org.
fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Adds terminal escapes.
pub fn paint(colour: bool, style: &str, text: &str) -> String {
    if colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}
