//! Collects the problems of one text while it is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
};

use oplogue_api::Error;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostics::{Diagnostic, Diagnostics, Level, MOST_SHOWN},
    excerpt::Lines,
    expand::expand,
    mask,
};

pub(super) type Span = Range<usize>;

/// How many lines above one that is no TOML are looked at for the key that it may belong to.
const FARTHEST: usize = 100;

struct Found {
    level: Level,
    span: Option<Span>,
    message: String,
    help: Option<String>,
}

/// Everything that is known about a text that is being read.
pub(super) struct Report<'a> {
    pub text: &'a str,
    /// The folder of the file.
    pub config_dir: PathBuf,
    env: &'a dyn Fn(&str) -> Option<String>,
    lines: Lines<'a>,
    found: Vec<Found>,
    errors: usize,
    /// Spans that must not be shown.
    hidden: Vec<Span>,
    /// Values that must not be quoted.
    unspoken: BTreeSet<String>,
    /// The lines that are no TOML: what seems to follow from them is not told.
    broken: BTreeSet<usize>,
}

impl<'a> Report<'a> {
    pub fn new(text: &'a str, env: &'a dyn Fn(&str) -> Option<String>) -> Report<'a> {
        let hidden = mask::credentials(text);
        let lines = Lines::new(text);
        Report {
            text,
            config_dir: PathBuf::new(),
            env,
            lines,
            found: Vec::new(),
            errors: 0,
            hidden,
            unspoken: BTreeSet::new(),
            broken: BTreeSet::new(),
        }
    }

    /// Whether parts of the file could not be read. Then nothing can be said about what is *missing*.
    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// The number of the line where a span begins, from 1.
    pub fn line_number(&self, span: &Span) -> usize {
        self.lines.index(span.start) + 1
    }

    /// How many errors there are so far.
    pub fn errors(&self) -> usize {
        self.errors
    }

    pub fn error(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.add(Level::Error, Some(span.clone()), message.into(), help);
    }

    pub fn warning(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.add(Level::Warning, Some(span.clone()), message.into(), help);
    }

    /// A warning that quotes options of plugins: values that are secret are cut out of it (I8).
    pub fn plugin_warning(&mut self, span: &Span, message: &str, help: &str) {
        let (message, help) = (self.scrubbed(message), self.scrubbed(help));
        self.warning(span, message, Some(help));
    }

    /// A warning about the file as a whole.
    pub fn remark(&mut self, message: impl Into<String>, help: Option<String>) {
        self.add(Level::Warning, None, message.into(), help);
    }

    /// What a plugin says about its options. Values that are secret are cut out of its words (I8).
    pub fn plugin_error(&mut self, span: &Span, what: &str, error: &Error) {
        let message = self.scrubbed(&format!("{what}: {error}"));
        let help = error.get_hint().map(|hint| self.scrubbed(hint));
        self.error(span, message, help);
    }

    fn add(&mut self, level: Level, span: Option<Span>, message: String, help: Option<String>) {
        if let Some(span) = &span
            && self.broken.contains(&self.lines.index(span.start))
        {
            return;
        }
        self.errors += usize::from(level == Level::Error);
        self.found.push(Found { level, span, message, help });
    }

    fn scrubbed(&self, words: &str) -> String {
        // The longest first, or a part would be cut out of the whole.
        let mut unspoken: Vec<&str> = self.unspoken.iter().map(String::as_str).collect();
        unspoken.sort_by_key(|value| std::cmp::Reverse(value.len()));
        unspoken.into_iter().fold(words.to_owned(), |words, value| words.replace(value, "***"))
    }

    /// Hides a value, with all that is in it.
    pub fn hide(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => table.values().for_each(|v| self.hide(v)),
            DeValue::Array(array) => array.iter().for_each(|v| self.hide(v)),
            DeValue::String(text) => {
                self.keep_quiet(text);
                // A value that is nothing but a variable tells nothing.
                if !is_lone_variable(text) {
                    self.hidden.push(value.span());
                }
            }
            _ => self.hidden.push(value.span()),
        }
    }

    /// Hides all values of a table whose options are not known.
    pub fn hide_all_but_type(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            if key.get_ref() != "type" {
                self.hide(value);
            }
        }
    }

    fn keep_quiet(&mut self, value: &str) {
        let mut quiet = |value: &str| {
            // A shorter word would be cut out of the middle of others, and is no secret that keeps anybody out.
            if value.len() >= 3 {
                self.unspoken.insert(value.to_owned());
            }
        };
        quiet(value);
        for range in mask::credentials(value) {
            quiet(&value[range.clone()]);
            if let Some((_, password)) = value[range].split_once(':') {
                quiet(password);
            }
        }
    }

    /// A string value with its variables put in; `None` when that failed, which is told.
    pub fn expanded(&mut self, raw: &str, span: &Span, secret: bool) -> Option<String> {
        match expand(raw, self.env) {
            Ok(expanded) => {
                expanded.from_environment.iter().for_each(|value| self.keep_quiet(value));
                if secret || !expanded.from_environment.is_empty() {
                    self.keep_quiet(&expanded.text);
                }
                Some(expanded.text)
            }
            Err(problems) => {
                for problem in problems {
                    let within = self.text.get(span.clone()).and_then(|source| {
                        let at = span.start + source.find(&problem.token)?;
                        let end = self.text[at..span.end].find('}').map_or(at + problem.token.len(), |n| at + n + 1);
                        Some(at..end)
                    });
                    self.error(&within.unwrap_or_else(|| span.clone()), problem.message, Some(problem.help));
                }
                None
            }
        }
    }

    /// Enters the errors of the TOML parser. `keys` knows what may be shown of such lines.
    pub fn syntax(&mut self, errors: &[toml::de::Error], unclosed: &Unclosed, keys: &mask::Keys<'a>) {
        let mut told: Vec<(Span, &str, Option<usize>)> = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let words = error.message();
            // A list without its end swallows the rest of the file: its beginning is the place, and the rest unknown.
            match unclosed.get(&span.start).filter(|_| words.starts_with("unclosed")) {
                Some(start) => told.push((*start..*start + 1, words, Some(span.start))),
                None => told.push((span, words, None)),
            }
        }
        told.sort_by_key(|(span, ..)| span.start);
        let mut swallowed = 0..0;
        for (span, words, end) in told {
            if swallowed.contains(&span.start) {
                continue;
            }
            if let Some(end) = end {
                swallowed = span.start..end + 1;
                self.broken.extend(self.lines.index(span.start) + 1..=self.lines.index(end));
            }
            let line = self.lines.index(span.start);
            // One error a line: what follows it is mostly its consequence.
            if !self.broken.insert(line) {
                continue;
            }
            let range = self.lines.range(line);
            let above = (0..line).rev().take(FARTHEST).map(|i| &self.text[self.lines.range(i)]);
            if let Some(part) = keys.hidden_part(&self.text[range.clone()], above) {
                self.hidden.push(range.start + part.start..range.start + part.end);
            }
            let words = match words {
                "duplicate key" => match self.text.get(span.clone()) {
                    Some(key) if !key.is_empty() => format!("the key `{key}` is there twice"),
                    _ => words.to_owned(),
                },
                "string values must be quoted, expected literal string" => {
                    "this is no value: texts stand in quotes".to_owned()
                }
                _ => words.replace(", expected nothing", ""),
            };
            self.found.push(Found { level: Level::Error, span: Some(span), message: words, help: None });
            self.errors += 1;
        }
    }

    /// All problems, in the order of the file.
    pub fn finish(mut self, file: &str) -> Diagnostics {
        self.found.sort_by_key(|f| (f.span.as_ref().map_or(usize::MAX, |s| s.start), f.level));
        let mut all: Vec<Diagnostic> = Vec::new();
        let mut more = (0, 0);
        for found in self.found {
            if all.len() >= MOST_SHOWN {
                match found.level {
                    Level::Error => more.0 += 1,
                    Level::Warning => more.1 += 1,
                }
                continue;
            }
            let place = found.span.map(|span| self.lines.place(&span, &self.hidden));
            all.push(Diagnostic { level: found.level, message: found.message, help: found.help, place });
        }
        Diagnostics::new(file, all, more)
    }
}

fn is_lone_variable(text: &str) -> bool {
    text.strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// Where the outermost list or inline table begins that reaches to an end: what an unclosed one swallowed.
pub(super) type Unclosed = BTreeMap<usize, usize>;

/// Enters the lists and tables of a value that reach to one of `ends`.
pub(super) fn reaching(value: &Spanned<DeValue<'_>>, ends: &BTreeSet<usize>, out: &mut Unclosed) {
    let span = value.span();
    if matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_)) && ends.contains(&span.end) {
        let start = out.entry(span.end).or_insert(span.start);
        *start = span.start.min(*start);
    }
    match value.get_ref() {
        DeValue::Array(array) => array.iter().for_each(|v| reaching(v, ends, out)),
        DeValue::Table(table) => table.values().for_each(|v| reaching(v, ends, out)),
        _ => {}
    }
}
