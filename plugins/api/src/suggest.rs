//! "Did you mean": the known word that is closest to a mistyped one.

/// Longer words than this are compared no further: nobody mistypes them, and the work grows with the square.
const LONGEST: usize = 64;

/// The candidate that `word` was probably meant to be: a few letters off, or the only one that contains it.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let letters: Vec<char> = lower.chars().take(LONGEST + 1).collect();
    if letters.is_empty() || letters.len() > LONGEST {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    let mut containing = Vec::new();
    for candidate in candidates {
        let other: Vec<char> = candidate.to_lowercase().chars().take(LONGEST + 1).collect();
        let away = distance(&letters, &other);
        let near = (letters.len().max(other.len()) / 3).max(1);
        if away <= near && best.is_none_or(|(least, _)| away < least) {
            best = Some((away, candidate));
        }
        if letters.len() >= 3 && candidate.to_lowercase().contains(&lower) {
            containing.push(candidate);
        }
    }
    match (best, containing.as_slice()) {
        (Some((_, candidate)), _) => Some(candidate),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// How many letters must be put in, left out, changed or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut least = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let words = ["namespaces", "operations", "mongo-oplog", "mongo-change-stream", "type"];
        for (typed, meant) in [
            ("namespace", Some("namespaces")),
            ("opreations", Some("operations")),
            ("Type", Some("type")),
            ("tyep", Some("type")),
            ("change-stream", Some("mongo-change-stream")),
            ("mongo", None),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, words), meant, "{typed}");
        }
        assert_eq!(closest(&"x".repeat(100_000), words), None);
    }

    #[test]
    fn neighbours_swapped_count_once() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("ab"), &chars("ba")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
    }
}
