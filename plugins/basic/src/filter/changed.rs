use oplogue_api::{Error, Path, Result, Update};

/// Which updates pass, by the paths that they changed: those with a path that any positive pattern meets (any path at all, when
/// there is none) and no negative one covers.
#[derive(Debug)]
pub(super) struct Changed {
    positive: Vec<Pattern>,
    negative: Vec<Pattern>,
}

/// The steps of a path; `*` in one stands for any run of characters.
#[derive(Debug)]
struct Pattern(Vec<String>);

impl Changed {
    pub fn new(entries: &[String]) -> Result<Changed> {
        let wrong = |what: String, hint: &str| Err(Error::option("changed", what).hint(hint));
        if entries.is_empty() {
            return wrong(
                "the list of changed paths is empty: no update would ever pass".to_owned(),
                "leave `changed` out to let all pass, or name some, such as \"price\"",
            );
        }
        let mut changed = Changed { positive: Vec::new(), negative: Vec::new() };
        for entry in entries {
            let (pattern, side) = match entry.strip_prefix('!') {
                Some(pattern) => (pattern, &mut changed.negative),
                None => (entry.as_str(), &mut changed.positive),
            };
            if pattern.trim() != pattern {
                return wrong(format!("`{entry}` begins or ends with a blank"), "take the blanks out");
            }
            if pattern.split('.').any(str::is_empty) {
                return wrong(
                    format!("`{entry}` has an empty step"),
                    "write names with dots between them, such as \"stock.count\" or \"stock.*\"",
                );
            }
            side.push(Pattern(pattern.split('.').map(str::to_owned).collect()));
        }
        Ok(changed)
    }

    /// The paths of which one must have changed, those without wildcards.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let plain = self.positive.iter().filter(|Pattern(steps)| !steps.iter().any(|step| step.contains('*')));
        plain.map(|Pattern(steps)| steps.join("."))
    }

    pub fn matches(&self, update: &Update<'_>) -> bool {
        let paths = update.set.iter().map(|(path, _)| path).chain(&update.unset);
        paths.chain(update.truncate.iter().map(|(path, _)| path)).any(|path| self.meets(path))
    }

    fn meets(&self, path: &Path<'_>) -> bool {
        let exact;
        // The dotted form is all that some sources know, and all shall decide alike.
        let dotted = match path {
            Path::Dotted(dotted) => *dotted,
            path => {
                exact = path.to_string();
                &exact
            }
        };
        let met = |pattern: &Pattern, above| overlap(&pattern.0, Some(dotted), true, above);
        (self.positive.is_empty() || self.positive.iter().any(|p| met(p, true)))
            && !self.negative.iter().any(|p| met(p, false))
    }
}

/// Whether the rest of a changed path lies at or below what the steps lead to, or, with `above`, over it. Indexes of arrays may be left out
/// of the steps.
fn overlap(steps: &[String], path: Option<&str>, is_first: bool, above: bool) -> bool {
    let Some((step, behind)) = steps.split_first() else { return true };
    let Some(path) = path else { return above };
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let is_index = !is_first && !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    glob(step, name) && overlap(behind, rest, false, above) || is_index && overlap(steps, rest, false, above)
}

fn glob(pattern: &str, name: &str) -> bool {
    let Some((before, behind)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    // From the last place on, so that what matches is found at the end of the name soonest.
    let places = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    places.rev().any(|at| glob(behind, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplogue_api::PathPart;

    fn passes(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let update = Update { unset: vec![Path::Dotted(path)], ..Update::default() };
        Changed::new(&patterns).unwrap().matches(&update)
    }

    #[test]
    fn a_change_below_or_above_counts() {
        for (patterns, path, expected) in [
            (&["price"][..], "price", true),
            (&["price"], "price.net", true),
            (&["price"], "prices", false),
            (&["price.net"], "price", true),
            (&["price.net"], "price.gross", false),
            (&["stock.*"], "stock", true),
            (&["stock.*"], "stock.berlin", true),
            (&["stock.*"], "stock.berlin.shelf", true),
            (&["stock.*.shelf"], "stock.berlin.count", false),
            (&["stock.*.shelf"], "stock.berlin", true),
            (&["tmp_*"], "tmp_a", true),
            (&["tmp_*"], "tmp", false),
            (&["*_at"], "sent_at.x", true),
            (&["*a*b"], "xaab", true),
            (&["*a*b"], "xba", false),
            (&["a", "b"], "b", true),
        ] {
            assert_eq!(passes(patterns, path), expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn indexes_may_be_left_out() {
        assert!(passes(&["lines.price"], "lines.0.price") && !passes(&["lines.price"], "lines.0.count"));
        assert!(passes(&["lines.price"], "lines.0"), "the whole element");
        assert!(passes(&["lines.0.price"], "lines.0.price") && !passes(&["lines.1.price"], "lines.0.price"));
        assert!(passes(&["lines.*.price"], "lines.0.price") && passes(&["a.b"], "a.1.2.b"));
        assert!(!passes(&["price"], "0.price"), "a document is no array");
    }

    #[test]
    fn negative_patterns_take_away_what_they_cover() {
        assert!(!passes(&["!seen"], "seen") && !passes(&["!seen"], "seen.at") && passes(&["!seen"], "name"));
        assert!(passes(&["!a.b"], "a"), "more than `a.b` may have changed");
        assert!(passes(&["a", "!a.b"], "a.c") && !passes(&["a", "!a.b"], "a.b") && !passes(&["a", "!a.b"], "c"));
        assert!(!passes(&["!lines.price"], "lines.0.price") && passes(&["!lines.price"], "lines.0"));
    }

    #[test]
    fn one_path_of_several_is_enough_and_all_forms_are_alike() {
        let changed = Changed::new(&["!seen".to_owned()]).unwrap();
        let both = Update { unset: vec![Path::Dotted("seen"), Path::Dotted("name")], ..Update::default() };
        assert!(changed.matches(&both));
        assert!(!changed.matches(&Update::default()));
        let exact = |parts: &[PathPart<'static>]| Path::Exact(parts.to_vec());
        let cut =
            Update { truncate: vec![(exact(&[PathPart::Field("lines"), PathPart::Index(0)]), 2)], ..Update::default() };
        assert!(changed.matches(&cut) && Changed::new(&["lines.price".to_owned()]).unwrap().matches(&cut));
        assert!(!Changed::new(&["!lines".to_owned()]).unwrap().matches(&cut));
    }

    #[test]
    fn wrong_patterns_are_named() {
        for (pattern, part) in
            [("", "empty step"), ("!", "empty step"), ("a..b", "`a..b`"), (" a", "blank"), ("a.", "empty step")]
        {
            let e = Changed::new(&[pattern.to_owned()]).unwrap_err();
            assert!(e.to_string().contains(part) && e.get_hint().is_some() && e.field() == Some("changed"), "{e}");
        }
        assert!(Changed::new(&[]).is_err());
    }
}
