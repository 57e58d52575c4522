//! Patterns of namespaces as queries.
//!
//! Regular expressions of a filter stay there: its syntax is not quite PCRE's. So do globs with many stars: PCRE goes back and forth, and
//! gives up, as if nothing matched, after so many steps.

use bson::{Document, doc};
use oplogue_api::NamespacePattern;

/// More stars than this that something follows make a glob too costly to match by going back.
const MOST_STARS: usize = 2;
/// No namespace is longer, in bytes.
const LONGEST: usize = 512;

/// The patterns of one selection as far as a server can be asked.
pub(super) struct Asked {
    /// One of these must hold; `None`: any name may pass.
    pub any: Option<Vec<Document>>,
    /// None of these may hold.
    pub none: Vec<Document>,
    /// All patterns are among them.
    pub is_whole: bool,
}

/// Writes each pattern with `term`, which gives `None` where a server cannot be asked.
pub(super) fn ask(patterns: &[NamespacePattern], term: impl Fn(&str) -> Option<Document>) -> Asked {
    let mut asked = Asked { any: None, none: Vec::new(), is_whole: true };
    let term = |pattern: &NamespacePattern| {
        if pattern.is_regex || pattern.text.len() > LONGEST { None } else { term(&pattern.text) }
    };
    let mut positive = Vec::new();
    let mut can_restrict = true;
    for pattern in patterns {
        match (term(pattern), pattern.negated) {
            (Some(term), true) => asked.none.push(term),
            (Some(term), false) => positive.push(term),
            (None, true) => asked.is_whole = false,
            (None, false) => (asked.is_whole, can_restrict) = (false, false),
        }
    }
    if can_restrict && !positive.is_empty() {
        asked.any = Some(positive);
    }
    asked
}

impl Asked {
    /// As terms that must all hold.
    pub fn terms(self) -> Vec<Document> {
        let mut terms = Vec::new();
        match self.any {
            Some(mut any) if any.len() == 1 => terms.extend(any.pop()),
            Some(any) => terms.push(doc! {"$or": any}),
            None => {}
        }
        if !self.none.is_empty() {
            terms.push(doc! {"$nor": self.none});
        }
        terms
    }

    /// Whether anything is asked at all.
    pub fn asks(&self) -> bool {
        self.any.is_some() || !self.none.is_empty()
    }
}

/// The text at `field` matches the glob; `None` where that cannot be asked. An empty document where every text does.
pub(super) fn text(field: &str, glob: &str) -> Option<Document> {
    if !glob.contains(['*', '?']) {
        return Some(doc! {field: glob});
    }
    let prefix = glob.trim_end_matches('*');
    if prefix.is_empty() {
        return Some(doc! {});
    }
    // Texts compare byte by byte, so that those with a prefix are a range. That costs the server less than a regular expression.
    if !prefix.contains(['*', '?'])
        && let Some(end) = behind(prefix)
    {
        return Some(doc! {field: {"$gte": prefix, "$lt": end}});
    }
    if prefix.matches('*').count() > MOST_STARS || glob.contains('\0') {
        return None;
    }
    let mut regex = String::from(r"\A");
    for c in glob.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => regex.extend(['\\', c]),
            c => regex.push(c),
        }
    }
    regex.push_str(r"\z");
    Some(doc! {field: {"$regex": regex, "$options": "s"}})
}

/// The least text that is greater than all that begin with `prefix`.
fn behind(prefix: &str) -> Option<String> {
    let last = prefix.bytes().last().filter(|last| *last < 0x7F)?;
    Some(format!("{}{}", &prefix[..prefix.len() - 1], char::from(last + 1)))
}

/// A glob of `database.collection`, of a server that gives the two apart. The dot between them may be one of the glob, or what a wildcard
/// stands for: the name of a database has none.
pub(super) fn apart(glob: &str, db: &str, coll: &str) -> Option<Document> {
    let mut ways = Vec::new();
    for (at, c) in glob.char_indices() {
        let (before, behind) = (&glob[..at], &glob[at + c.len_utf8()..]);
        let (database, collection) = match c {
            '.' | '?' => (before.to_owned(), behind.to_owned()),
            '*' => (format!("{before}*"), format!("*{behind}")),
            _ => continue,
        };
        // Behind a dot that is written, no other can be the first: what is before it would hold this one.
        if before.contains('.') {
            break;
        }
        let mut way = text(db, &database)?;
        way.extend(text(coll, &collection)?);
        ways.push(way);
    }
    match ways.len() {
        0 => None,
        1 => ways.pop(),
        _ => Some(doc! {"$or": ways}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A glob by its definition.
    fn defined(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|n| defined(rest, &text[n..])),
            Some(('?', rest)) => !text.is_empty() && defined(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && defined(rest, &text[1..]),
        }
    }

    fn glob_of(regex: &str) -> Vec<char> {
        let inner = regex.strip_prefix(r"\A").and_then(|r| r.strip_suffix(r"\z")).expect("anchored");
        let mut glob = Vec::new();
        let mut chars = inner.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' => glob.push(chars.next().expect("something is escaped")),
                '.' if chars.next_if_eq(&'*').is_some() => glob.push('*'),
                '.' => glob.push('?'),
                c => glob.push(c),
            }
        }
        glob
    }

    fn answers(term: &Document, fields: &[(&str, &str)]) -> bool {
        term.iter().all(|(name, asked)| {
            if name == "$or" {
                let ways = asked.as_array().expect("an array");
                return ways.iter().any(|way| answers(way.as_document().expect("a document"), fields));
            }
            let value = fields.iter().find(|(field, _)| field == name).expect("a known field").1;
            match asked.as_document() {
                None => asked.as_str() == Some(value),
                Some(asked) if asked.contains_key("$regex") => {
                    let text: Vec<char> = value.chars().collect();
                    defined(&glob_of(asked.get_str("$regex").expect("a text")), &text)
                }
                Some(asked) => {
                    asked.get_str("$gte").expect("a text") <= value && value < asked.get_str("$lt").expect("a text")
                }
            }
        })
    }

    proptest! {
        #[test]
        fn terms_ask_what_the_glob_says(glob in "[ab.*?é]{1,7}", db in "[abé]{1,3}", coll in "[ab.é]{1,4}") {
            let name = format!("{db}.{coll}");
            let (pattern, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
            let expected = defined(&pattern, &text);
            if let Some(term) = super::text("ns", &glob) {
                prop_assert_eq!(answers(&term, &[("ns", &name)]), expected, "{} {}", glob, name);
            }
            if let Some(term) = apart(&glob, "db", "coll") {
                prop_assert_eq!(answers(&term, &[("db", &db), ("coll", &coll)]), expected, "{} {}: {}", glob, name, term);
            }
        }
    }

    #[test]
    fn what_is_not_certain_is_not_asked() {
        let pattern = |text: &str, is_regex, negated| NamespacePattern { text: text.to_owned(), is_regex, negated };
        let asked = |patterns: &[NamespacePattern]| ask(patterns, |glob| text("ns", glob));
        assert_eq!(text("ns", "a*b*c*d"), None, "PCRE could give up");
        assert!(text("ns", "a*b*c*").is_some());
        let some = asked(&[pattern("a.*", false, false), pattern("b", true, false), pattern("a.x", false, true)]);
        assert_eq!(
            (some.any.is_none(), some.none.len(), some.is_whole),
            (true, 1, false),
            "one of them may let all pass"
        );
        let some = asked(&[pattern("a.*", false, false), pattern("a.x", true, true)]);
        assert_eq!((some.any.map(|any| any.len()), some.none.len(), some.is_whole), (Some(1), 0, false));
    }
}
