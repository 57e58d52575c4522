//! What is wrong with a configuration, told so that it can be mended: place, line, caret, remedy. Holds no secret: the
//! excerpts are masked when they are made.

use std::fmt::{self, Write as _};

/// More than this many are counted, and the count is shown: a file that is no configuration at all has thousands.
pub(super) const MOST_SHOWN: usize = 50;

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The configuration cannot be used.
    Error,
    /// It can, but is probably not what was meant.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub level: Level,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where; `None` when the file as a whole is meant.
    pub place: Option<Place>,
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The line as it is shown: secrets masked, tabs as spaces, a very long line cut with `…`.
    pub excerpt: String,
    /// The underlined part of `excerpt`: cells to its left, and cells underlined (at least one).
    pub underline: (usize, usize),
}

/// All problems of one file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    all: Vec<Diagnostic>,
    /// Errors and warnings that were counted only.
    more: (usize, usize),
}

impl Diagnostics {
    pub(super) fn new(file: &str, all: Vec<Diagnostic>, more: (usize, usize)) -> Diagnostics {
        Diagnostics { file: file.to_owned(), all, more }
    }

    /// A single problem with the file as a whole.
    pub fn of_file(file: &str, message: impl Into<String>, help: Option<String>) -> Diagnostics {
        Diagnostics::new(
            file,
            vec![Diagnostic { level: Level::Error, message: message.into(), help, place: None }],
            (0, 0),
        )
    }

    /// The problems, in the order of the file; not more than a person will read, but [`count`](Self::count) counts all.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.all.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        let more = match level {
            Level::Error => self.more.0,
            Level::Warning => self.more.1,
        };
        self.all.iter().filter(|d| d.level == level).count() + more
    }

    /// The text for a person, several lines a problem, and a count at the end. `colour` adds terminal escapes.
    pub fn render(&self, colour: bool) -> String {
        let paint = |style: &str, text: &str| match colour {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let mut out = String::new();
        for d in &self.all {
            let (word, style) = match d.level {
                Level::Error => ("error", "1;31"),
                Level::Warning => ("warning", "1;33"),
            };
            let _ = writeln!(out, "{}{}", paint(style, word), paint("1", &format!(": {}", shown(&d.message))));
            match &d.place {
                Some(place) => {
                    let number = place.line.to_string();
                    let margin = " ".repeat(number.len());
                    let bar = paint("34", "|");
                    let (left, under) = place.underline;
                    let _ =
                        writeln!(out, "{margin}{} {}:{}:{}", paint("34", "-->"), self.file, place.line, place.column);
                    let _ = writeln!(out, "{margin} {bar}");
                    let _ = writeln!(out, "{} {bar} {}", paint("34", &number), place.excerpt);
                    let _ =
                        writeln!(out, "{margin} {bar} {}{}", " ".repeat(left), paint(style, &"^".repeat(under.max(1))));
                    if let Some(help) = &d.help {
                        let _ = writeln!(out, "{margin} {} help: {}", paint("34", "="), shown(help));
                    }
                }
                None => {
                    let _ = writeln!(out, " {} {}", paint("34", "-->"), self.file);
                    if let Some(help) = &d.help {
                        let _ = writeln!(out, "  {} help: {}", paint("34", "="), shown(help));
                    }
                }
            }
            out.push('\n');
        }
        if self.more != (0, 0) {
            let _ = writeln!(out, "... and {} more\n", self.more.0 + self.more.1);
        }
        if !self.all.is_empty() {
            let _ = writeln!(out, "{}: {}", self.file, self.summary());
        }
        out
    }

    /// `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{n} {word}s")),
        };
        [count(self.count(Level::Error), "error"), count(self.count(Level::Warning), "warning")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Names come from the file and may hold anything: a terminal must not be driven by them.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
