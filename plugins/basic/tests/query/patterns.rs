//! Regular expressions, most of which PCRE takes.

use oplogue_testkit::generate::Rng;

const ITEMS: &[&str] = &[
    "a",
    "b",
    "a",
    "B",
    "é",
    "É",
    ".",
    "\\d",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\D",
    "[ab]",
    "[^a]",
    "[a-c]",
    "[^a-z]",
    "[[:alpha:]]",
    "[[:^upper:]]",
    "[[:upper:]b]",
    "[\\w-]",
    "[^\\w]",
    "[^\\s1]",
    "[]a]",
    "[^]a]",
    "[a-]",
    "[\\d-z]",
    "[é]",
    "[A-Z]",
    "\\x61",
    "\\x{e9}",
    "\\n",
    "\\.",
    " ",
    "#",
    "\\-",
    "\\x00",
    "\\h",
    "\\v",
    "\\N",
    "\\p{L}",
    "\\p{Lu}",
    "\\P{Ll}",
    "\\Qa\\E",
    "{",
    "{1",
    "}",
    "]",
    "\\0",
    "s",
    "k",
    "1",
    "_",
    "\\r",
    "[^\\n]",
    "\\E",
];
const PLACES: &[&str] = &["^", "$", "\\b", "\\B", "\\A", "\\z", "\\Z"];
const REPEATS: &[&str] = &["*", "+", "?", "{2}", "{0}", "{1,2}", "{0,}", "*?", "+?", "??", "{,2}"];
const ODD: &[&str] = &[
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "\\1",
    "(?>a)",
    "a++",
    "(?i)",
    "(?-i)",
    "(?m)",
    "(?s)",
    "(?x) ",
    "(?#c)",
    "(?<n>a)",
    "(?P<n>b)",
    "\\K",
    "\\X",
    "(a",
    "a)",
    "[a",
    "\\",
    "*",
    "\\C",
    "(?R)",
    "\\R",
    "\\G",
    "\\y",
    "\\u",
    "\\i",
    "(?U)",
    "a**",
    "a{2}{2}",
    "^*",
    "\\cA",
    "\\p{Foo}",
    "[b-a]",
    "(?",
    "(*UTF8)a",
    "(?'n'a)",
    "[[:foo:]]",
    "[[.a.]]",
];

/// A pattern.
pub fn pattern(rng: &mut Rng) -> String {
    if rng.chance(0.1) {
        return ["", "a", "^a", "a$", "^a$", "^$", "b|a", "^ab?c?$", "^.$", "^..?$"][rng.below(10)].into();
    }
    either(rng, 2)
}

fn either(rng: &mut Rng, depth: usize) -> String {
    let branches = [1, 1, 1, 2, 3][rng.below(5)];
    (0..branches).map(|_| concat(rng, depth)).collect::<Vec<_>>().join("|")
}

fn concat(rng: &mut Rng, depth: usize) -> String {
    let mut out = String::new();
    if rng.chance(0.3) {
        out.push('^');
    }
    for _ in 0..rng.below(4) {
        if rng.chance(0.06) {
            out.push_str(PLACES[rng.below(PLACES.len())]);
            continue;
        }
        if rng.chance(0.04) {
            out.push_str(ODD[rng.below(ODD.len())]);
            continue;
        }
        if depth > 0 && rng.chance(0.15) {
            let open = ["(", "(?:", "(?i:", "(?-i:", "(?s-m:", "(?|"][rng.below(6)];
            out.push_str(&format!("{open}{})", either(rng, depth - 1)));
        } else {
            out.push_str(ITEMS[rng.below(ITEMS.len())]);
        }
        if rng.chance(0.25) {
            out.push_str(REPEATS[rng.below(REPEATS.len())]);
        }
    }
    if rng.chance(0.2) {
        out.push('$');
    }
    out
}

/// A text that patterns meet. No blank or line end beyond ASCII: PCRE 8 takes `\S+` and `\v` for disjoint and then gives up too early, which
/// is no meaning to follow.
pub fn text(rng: &mut Rng) -> String {
    const LETTERS: [char; 24] = [
        'a', 'a', 'b', 'B', 'é', 'É', '\n', '\n', '\r', ' ', '1', '_', '-', '#', 'k', '\u{212a}', 's', 'ſ', 'S', '{',
        '\0', '\x0b', ']', 'é',
    ];
    (0..rng.below(6)).map(|_| LETTERS[rng.below(LETTERS.len())]).collect()
}

/// A pattern and options.
pub fn with_options(rng: &mut Rng) -> (String, String) {
    let options = ["i", "m", "s", "x"].iter().filter(|_| rng.chance(0.25)).copied().collect();
    (pattern(rng), options)
}
