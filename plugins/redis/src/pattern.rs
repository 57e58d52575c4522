//! Patterns of namespaces, as the transform `filter` has them: globs, `/regular expressions/`, and `!` before either.

use regex::Regex;

/// Which namespaces a list of patterns means: those that any pattern without `!` matches (all, when there is none) and none with
/// `!` does.
pub struct Patterns {
    positive: Vec<Regex>,
    negative: Vec<Regex>,
    /// The one collection name that all matched namespaces have, if the patterns spell it out.
    collection: Option<String>,
}

impl Patterns {
    /// Reads the patterns.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(entries: &[String]) -> Result<Patterns, String> {
        if entries.is_empty() {
            return Err("it is empty: nothing would match".to_owned());
        }
        let mut patterns = Patterns { positive: Vec::new(), negative: Vec::new(), collection: None };
        for entry in entries {
            match entry.strip_prefix('!') {
                Some(pattern) => patterns.negative.push(compile(entry, pattern)?),
                None => patterns.positive.push(compile(entry, entry)?),
            }
        }
        let mut names = entries.iter().filter(|e| !e.starts_with('!')).map(|e| literal(e));
        if let Some(Some(first)) = names.next()
            && names.all(|name| name == Some(first))
        {
            patterns.collection = Some(first.to_owned());
        }
        Ok(patterns)
    }

    /// Whether a namespace is meant.
    pub fn match_ns(&self, ns: &str) -> bool {
        (self.positive.is_empty() || self.positive.iter().any(|p| p.is_match(ns)))
            && !self.negative.iter().any(|p| p.is_match(ns))
    }

    /// The one collection name that all namespaces have that these patterns match; `None` when there may be several.
    pub fn collection(&self) -> Option<&str> {
        self.collection.as_deref()
    }
}

/// The collection of a pattern that is just a namespace.
fn literal(pattern: &str) -> Option<&str> {
    let (_, collection) = pattern.split_once('.')?;
    (!pattern.starts_with('/') && !pattern.contains(['*', '?'])).then_some(collection)
}

fn compile(entry: &str, pattern: &str) -> Result<Regex, String> {
    if pattern.trim().is_empty() {
        return Err(format!("`{entry}` holds no pattern"));
    }
    if pattern.trim() != pattern {
        return Err(format!("`{entry}` begins or ends with a blank"));
    }
    let source = if let Some(rest) = pattern.strip_prefix('/') {
        match rest.strip_suffix('/') {
            Some(regex) if !regex.is_empty() => format!(r"\A(?:{regex})\z"),
            _ => return Err(format!("`{entry}` is no regular expression between slashes, such as /app\\.(a|b)/")),
        }
    } else {
        if !pattern.contains(['.', '*']) {
            return Err(format!("`{entry}` names no collection, so that nothing would match it: write `{pattern}.*`"));
        }
        let mut regex = String::from(r"(?s)\A");
        for c in pattern.chars() {
            match c {
                '*' => regex.push_str(".*"),
                '?' => regex.push('.'),
                c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push_str(r"\z");
        regex
    };
    Regex::new(&source).map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => format!("`{entry}` is too large"),
        e => format!("`{entry}` is no regular expression: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(entries: &[&str]) -> Result<Patterns, String> {
        Patterns::new(&entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn as_the_filter_matches() {
        let table: &[(&[&str], &[&str], &[&str])] = &[
            (&["app.orders"], &["app.orders"], &["app.orders2", "xapp.orders", "appxorders"]),
            (&["app.*"], &["app.a", "app.fs.chunks"], &["apps.a"]),
            (&["app.log_?"], &["app.log_1"], &["app.log_12"]),
            (&["*.orders"], &["shop.orders", "shop.old.orders"], &["shop.orders2"]),
            (&[r"/app\.(a|b)/"], &["app.a", "app.b"], &["app.c", "xapp.a", "app.ab"]),
            (&["app.*", "!app.audit_*"], &["app.a"], &["app.audit_x"]),
            (&["!app.*"], &["b.c"], &["app.a"]),
        ];
        for (entries, inside, outside) in table {
            let patterns = patterns(entries).unwrap();
            assert!(inside.iter().all(|ns| patterns.match_ns(ns)), "{entries:?}");
            assert!(!outside.iter().any(|ns| patterns.match_ns(ns)), "{entries:?}");
        }
    }

    #[test]
    fn wrong_ones_are_named() {
        for entry in ["", "!", " ", "app", "app. ", "/", "//", "/a", "/(/", r"/a{100}{100}{100}{100}/"] {
            let error = patterns(&["app.ok", entry]).err().unwrap_or_else(|| panic!("accepted: {entry}"));
            assert!(error.contains(&format!("`{entry}`")), "{error}");
        }
        assert!(patterns(&[]).is_err());
    }

    #[test]
    fn one_collection_is_known_when_it_is_spelt_out() {
        for (entries, collection) in [
            (&["a.x.y"][..], Some("x.y")),
            (&["a.x", "b.x", "!c.*"], Some("x")),
            (&["a.x", "b.y"], None),
            (&["*.x"], None),
            (&["a.x", "/a.x/"], None),
            (&["!a.x"], None),
        ] {
            assert_eq!(patterns(entries).unwrap().collection(), collection, "{entries:?}");
        }
    }
}
