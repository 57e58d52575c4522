//! Globs of namespaces, with the meaning that the transform `filter` gives them.

use oplogue_api::{Error, Namespace, Result};

/// Patterns of `database.collection`. `*` is any run of characters, dots included, `?` any one.
#[derive(Clone, Debug)]
pub(crate) struct Globs(Vec<Vec<char>>);

impl Globs {
    /// # Errors
    /// [`Error::option`] for `option`, when the list is empty or holds what no namespace can match.
    pub fn new(option: &str, patterns: &[String]) -> Result<Globs> {
        if patterns.is_empty() {
            return Err(Error::option(option, format!("`{option}` is empty: no document would ever be looked up"))
                .hint(format!("leave `{option}` out for all namespaces, or name some, such as \"app.*\"")));
        }
        for pattern in patterns {
            if pattern.trim() != pattern {
                return Err(Error::option(option, format!("`{pattern}` begins or ends with a blank"))
                    .hint("take the blanks out"));
            }
            if !pattern.contains(['.', '*']) {
                return Err(Error::option(
                    option,
                    format!("`{pattern}` names no collection, so that nothing would match it"),
                )
                .hint(format!("write \"{pattern}.*\" for all collections of a database")));
            }
            if pattern.starts_with(['!', '/']) {
                return Err(Error::option(option, format!("`{pattern}` is no glob"))
                    .hint("only globs of what is wanted may stand here, such as \"app.*\""));
            }
        }
        Ok(Globs(patterns.iter().map(|p| p.chars().collect()).collect()))
    }

    pub fn matches(&self, ns: &str) -> bool {
        let ns: Vec<char> = ns.chars().collect();
        self.0.iter().any(|pattern| matches(pattern, &ns))
    }

    /// The same for a namespace; one without a collection stands for its database: whether anything of it may match.
    pub fn wants(&self, ns: &Namespace) -> bool {
        if !ns.coll().is_empty() {
            return self.matches(ns.as_str());
        }
        let text: Vec<char> = ns.db().chars().chain(['.']).collect();
        self.0.iter().any(|pattern| begins(pattern, &text))
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|p| p.iter().collect())
    }
}

/// In one pass: a mismatch goes back to the last `*`, which then takes one character more.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether something that begins with `text` matches.
fn begins(pattern: &[char], text: &[char]) -> bool {
    // The places in the pattern that the text so far may have led to.
    let mut places = vec![0];
    for c in text {
        let mut next = Vec::new();
        for place in places {
            let mut place = place;
            while pattern.get(place) == Some(&'*') {
                next.push(place);
                place += 1;
            }
            if pattern.get(place).is_some_and(|p| *p == '?' || p == c) {
                next.push(place + 1);
            }
        }
        next.sort_unstable();
        next.dedup();
        places = next;
    }
    // At the end of the pattern, nothing may follow; but a collection has a name.
    places.iter().any(|place| *place < pattern.len())
}

/// Whether some text matches both globs.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // `meets[j]`: whether what is left of `a` and `b[j..]` have a text in common.
    let mut meets: Vec<bool> = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let behind = meets.clone();
        for j in (0..=b.len()).rev() {
            meets[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some('*'), _) => behind[j] || j < b.len() && meets[j + 1],
                (_, Some('*')) => meets[j + 1] || i < a.len() && behind[j],
                (Some(x), Some(y)) => (x == y || *x == '?' || *y == '?') && behind[j + 1],
                _ => false,
            };
        }
    }
    meets[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn globs(patterns: &[&str]) -> Result<Globs> {
        Globs::new("full_document_namespaces", &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, yes, no) in [
            ("app.tasks", &["app.tasks"][..], &["app.task", "app.tasks2", "xapp.tasks", ""][..]),
            ("app.*", &["app.tasks", "app.fs.chunks", "app."], &["apps.tasks", "app"]),
            ("*.tasks", &["app.tasks", "a.b.tasks", ".tasks"], &["app.tasks.x"]),
            ("a?p.*s*", &["app.tasks", "a\u{e4}p.s"], &["ap.tasks", "app.tak"]),
            ("*", &["", "a.b"], &[]),
            ("a.*b*c", &["a.bc", "a.xbxbc", "a.bcbc"], &["a.cb", "a.b"]),
        ] {
            let globs = globs(&[pattern]).unwrap();
            assert!(yes.iter().all(|ns| globs.matches(ns)), "{pattern}");
            assert!(!no.iter().any(|ns| globs.matches(ns)), "{pattern}");
        }
        assert!(globs(&["a.x", "b.*"]).unwrap().matches("b.y"));
    }

    #[test]
    fn a_database_is_wanted_if_something_of_it_is() {
        for (pattern, yes, no) in [
            ("app.tasks", &["app"][..], &["ap", "apps"][..]),
            ("app.*", &["app"], &["apps", "xapp"]),
            ("*.tasks", &["app", "x"], &[]),
            ("a?p*s", &["app", "azp", "appx"], &["ap", "bpp"]),
            ("*", &["a"], &[]),
        ] {
            let globs = globs(&[pattern]).unwrap();
            assert!(yes.iter().all(|db| globs.wants(&Namespace::of(db, ""))), "{pattern}");
            assert!(!no.iter().any(|db| globs.wants(&Namespace::of(db, ""))), "{pattern}");
        }
        assert!(globs(&["a.x"]).unwrap().wants(&Namespace::new("a.x")));
    }

    #[test]
    fn what_nothing_would_match_is_refused() {
        for patterns in [&[][..], &["app"], &[""], &[" app.x"], &["!app.x"], &["/app.x/"]] {
            let e = globs(patterns).map(|_| ()).expect_err("refused");
            assert_eq!(e.field(), Some("full_document_namespaces"), "{patterns:?}");
            assert!(e.get_hint().is_some(), "{patterns:?}");
        }
    }

    /// A glob by its definition.
    fn defined(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|n| defined(rest, &text[n..])),
            Some(('?', rest)) => !text.is_empty() && defined(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && defined(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_database_is_wanted_if_a_collection_of_it_matches(pattern in "[ab.*?]{0,6}", db in "[ab]{1,3}", coll in "[ab.]{1,3}") {
            let globs = Globs(vec![pattern.chars().collect()]);
            if globs.matches(&format!("{db}.{coll}")) {
                prop_assert!(globs.wants(&Namespace::of(&db, "")));
            }
        }

        #[test]
        fn two_overlap_where_a_text_matches_both(a in "[ab*?]{0,5}", b in "[ab*?]{0,5}", text in "[ab]{0,6}") {
            prop_assert_eq!(overlap(&a, &b), overlap(&b, &a));
            let both = [&a, &b].iter().all(|g| matches(&g.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>()));
            prop_assert!(!both || overlap(&a, &b));
        }

        #[test]
        fn two_that_overlap_have_a_text_in_common(a in "[ab*?]{0,3}", b in "[ab*?]{0,3}") {
            // No text needs to be longer than both together.
            let mut texts = vec![String::new()];
            let mut found = false;
            for _ in 0..=6 {
                found |= texts.iter().any(|text| {
                    let text: Vec<char> = text.chars().collect();
                    [&a, &b].iter().all(|g| matches(&g.chars().collect::<Vec<_>>(), &text))
                });
                texts = texts.iter().flat_map(|text| ["a", "b"].map(|c| format!("{text}{c}"))).collect();
            }
            prop_assert_eq!(overlap(&a, &b), found);
        }

        #[test]
        fn they_match_what_their_definition_says(pattern in "[ab.*?]{0,8}", text in "[ab.]{0,10}") {
            let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&pattern, &text), defined(&pattern, &text));
        }
    }
}
