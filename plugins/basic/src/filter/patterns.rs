use oplogue_api::{Error, NamespacePattern, Result};
use regex::Regex;

use super::whole_database::Automaton;

/// Which namespaces pass: those that any positive pattern matches (all, when there is none) and no negative one does.
pub(crate) struct Patterns {
    pub(super) positive: Vec<Pattern>,
    pub(super) negative: Vec<Pattern>,
    /// As they were written.
    written: Vec<NamespacePattern>,
}

pub(super) struct Pattern {
    pub(super) regex: Regex,
    pub(super) automaton: Option<Automaton>,
}

impl Patterns {
    pub(crate) fn new(entries: &[String]) -> Result<Patterns> {
        if entries.is_empty() {
            return Err(Error::option("namespaces", "the list of namespaces is empty: nothing would ever pass")
                .hint("leave `namespaces` out to let all pass, or name some, such as \"app.*\""));
        }
        let mut patterns = Patterns { positive: Vec::new(), negative: Vec::new(), written: Vec::new() };
        for entry in entries {
            let (pattern, side) = match entry.strip_prefix('!') {
                Some(pattern) => (pattern, &mut patterns.negative),
                None => (entry.as_str(), &mut patterns.positive),
            };
            side.push(compile(entry, pattern)?);
            let regex = pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
            patterns.written.push(NamespacePattern {
                text: regex.unwrap_or(pattern).to_owned(),
                is_regex: regex.is_some(),
                negated: entry.starts_with('!'),
            });
        }
        Ok(patterns)
    }

    /// As they were written.
    pub(crate) fn written(&self) -> &[NamespacePattern] {
        &self.written
    }

    /// Whether a namespace with a collection passes.
    pub(crate) fn matches(&self, ns: &str) -> bool {
        (self.positive.is_empty() || self.positive.iter().any(|p| p.regex.is_match(ns)))
            && !self.negative.iter().any(|p| p.regex.is_match(ns))
    }
}

fn compile(entry: &str, pattern: &str) -> Result<Pattern> {
    let wrong = |why: String, hint: &str| Err(Error::option("namespaces", format!("`{entry}` {why}")).hint(hint));
    if pattern.is_empty() {
        return wrong("holds no pattern".to_owned(), "write a glob such as \"app.*\"");
    }
    if pattern.trim() != pattern {
        return wrong("begins or ends with a blank".to_owned(), "take the blanks out");
    }
    let source = if let Some(rest) = pattern.strip_prefix('/') {
        match rest.strip_suffix('/') {
            Some(regex) if !regex.is_empty() => format!(r"\A(?:{regex})\z"),
            _ => {
                return wrong(
                    "is no regular expression".to_owned(),
                    "write it between slashes, such as \"/app\\.(a|b)/\"",
                );
            }
        }
    } else {
        if !pattern.contains(['.', '*']) {
            return wrong(
                "names no collection, so that nothing would match it".to_owned(),
                &format!("write \"{pattern}.*\" for all collections of a database"),
            );
        }
        glob(pattern)
    };
    match Regex::new(&source) {
        Ok(regex) => Ok(Pattern { automaton: Automaton::new(&source), regex }),
        Err(regex::Error::CompiledTooBig(_)) => wrong("is too large".to_owned(), "write several smaller ones"),
        // The message of regex shows the anchored form, with a caret.
        Err(e) => wrong(format!("is no regular expression: {e}"), "see https://docs.rs/regex/#syntax"),
    }
}

/// The regular expression of a glob: `*` is any run of characters (dots included, so that `app.*` has `app.fs.chunks`),
/// `?` any one; all others are themselves.
fn glob(pattern: &str) -> String {
    let mut regex = String::from(r"(?s)\A");
    let mut buffer = [0; 4];
    for c in pattern.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut buffer))),
        }
    }
    regex.push_str(r"\z");
    regex
}
