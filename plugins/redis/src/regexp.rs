//! Regular expressions that JavaScript is sure to accept.
//!
//! A subscriber makes a `RegExp` of what it gets, and one that JavaScript refuses ends its process. MongoDB's expressions are of
//! another dialect, so each is checked against a part of JavaScript's grammar (ECMA-262, annex B, without the flag `u`) that is
//! enough for common ones; others count as refused.

/// Longer ones are not looked at.
const LONGEST: usize = 10_000;
/// More groups inside groups are not followed.
const DEEPEST: usize = 100;

/// The flag that MongoDB's driver for JavaScript makes of an option of a stored expression; none for those that it drops.
pub fn flag(option: u8) -> Option<u8> {
    match option {
        b'i' | b'm' => Some(option),
        b's' => Some(b'g'),
        _ => None,
    }
}

/// Whether `new RegExp(pattern)` is sure not to throw.
pub fn compiles(pattern: &[u8]) -> bool {
    let Ok(pattern) = std::str::from_utf8(pattern) else { return false };
    if pattern.len() > LONGEST {
        return false;
    }
    // JavaScript compares the ends of a range by their UTF-16 units.
    let units: Vec<u16> = pattern.encode_utf16().collect();
    Reader { units: &units, at: 0 }.pattern().is_some()
}

struct Reader<'a> {
    units: &'a [u16],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        // A unit that is half of a character is not special; any such one stands for it.
        self.units.get(self.at).map(|unit| char::from_u32(u32::from(*unit)).unwrap_or('\u{fffd}'))
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let there = text.encode_utf16().eq(self.units[self.at..].iter().copied().take(text.len()));
        if there {
            self.at += text.len();
        }
        there
    }

    fn pattern(&mut self) -> Option<()> {
        // For each open group: whether it may be repeated.
        let mut open: Vec<bool> = Vec::new();
        while let Some(c) = self.take() {
            let repeatable = match c {
                '|' | '^' | '$' => false,
                '(' => {
                    if open.len() >= DEEPEST {
                        return None;
                    }
                    if self.eat("?=") || self.eat("?!") {
                        open.push(false);
                    } else if self.eat("?:") || self.peek() != Some('?') {
                        open.push(true);
                    } else {
                        return None;
                    }
                    false
                }
                ')' => open.pop()?,
                '[' => {
                    self.class()?;
                    true
                }
                '\\' => match self.take()? {
                    'b' | 'B' => false,
                    c => {
                        escape(c)?;
                        true
                    }
                },
                // Nothing to repeat: what may be repeated is followed by its quantifier at once.
                '*' | '+' | '?' => return None,
                '{' if self.braces(self.at - 1).is_some() => return None,
                _ => true,
            };
            if repeatable {
                self.quantifier()?;
            }
        }
        open.is_empty().then_some(())
    }

    /// `*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}`, and `?` behind it, if there is one.
    fn quantifier(&mut self) -> Option<()> {
        match self.peek() {
            Some('*' | '+' | '?') => self.at += 1,
            Some('{') => match self.braces(self.at) {
                Some((end, least, most)) if least <= most => self.at = end,
                Some(_) => return None,
                // Braces around something else are plain characters.
                None => return Some(()),
            },
            _ => return Some(()),
        }
        if self.peek() == Some('?') {
            self.at += 1;
        }
        Some(())
    }

    /// The end and the numbers of a `{n,m}` that begins at a place.
    fn braces(&self, start: usize) -> Option<(usize, u64, u64)> {
        let length = self.units[start..].iter().take(40).position(|unit| *unit == u16::from(b'}'))?;
        let inner = String::from_utf16(&self.units[start + 1..start + length]).ok()?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            // Saturated, both ends alike.
            digits.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let (least, most) = match inner.split_once(',') {
            None => (number(&inner)?, number(&inner)?),
            Some((least, "")) => (number(least)?, u64::MAX),
            Some((least, most)) => (number(least)?, number(most)?),
        };
        Some((start + length + 1, least, most))
    }

    /// What is between `[` and `]`.
    fn class(&mut self) -> Option<()> {
        self.eat("^");
        loop {
            let low = match self.class_atom()? {
                Atom::End => return Some(()),
                atom => atom,
            };
            let is_range =
                self.peek() == Some('-') && self.units.get(self.at + 1).is_some_and(|u| *u != u16::from(b']'));
            if is_range {
                self.at += 1;
                match (low, self.class_atom()?) {
                    (Atom::Unit(low), Atom::Unit(high)) if low <= high => {}
                    // `[\w-z]` is allowed, and rare.
                    _ => return None,
                }
            }
        }
    }

    fn class_atom(&mut self) -> Option<Atom> {
        let unit = *self.units.get(self.at)?;
        Some(match self.take()? {
            ']' => Atom::End,
            '\\' => {
                let escaped = *self.units.get(self.at)?;
                match self.take()? {
                    'b' => Atom::Unit(8),
                    'n' => Atom::Unit(10),
                    'r' => Atom::Unit(13),
                    't' => Atom::Unit(9),
                    'f' => Atom::Unit(12),
                    'v' => Atom::Unit(11),
                    'd' | 'D' | 's' | 'S' | 'w' | 'W' => Atom::Set,
                    c if c.is_ascii_punctuation() || c == ' ' => Atom::Unit(escaped),
                    _ => return None,
                }
            }
            _ => Atom::Unit(unit),
        })
    }
}

enum Atom {
    End,
    Unit(u16),
    Set,
}

/// What may follow a backslash outside of brackets, `b` and `B` excepted. Other letters mean different things in different
/// dialects, and some throw.
fn escape(c: char) -> Option<()> {
    (matches!(c, 'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 'r' | 't' | 'f' | 'v' | '1'..='9')
        || c.is_ascii_punctuation()
        || c == ' ')
        .then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_ones_pass() {
        for pattern in [
            "",
            "abc",
            "^a.*b$",
            "a|b|",
            "(a|b)+?",
            "(?:ab){2,3}",
            "a{2}",
            "a{2,}?",
            "x(?=y)",
            "x(?!y)z",
            "[a-z0-9_.-]+",
            "[^\\]a]",
            "[]",
            "[^]",
            "\\d+\\.\\w*",
            "\\bfoo\\b",
            "a{",
            "a{x}",
            "{}",
            "]",
            "}",
            "日本",
            "[α-ω]",
            "\\/",
            "(a)\\1",
            "((((a))))",
            "😀+",
            "[-a]",
            "[a-]",
            "a-b",
            "[\\w.]",
            "[\\n-\\r]",
        ] {
            assert!(compiles(pattern.as_bytes()), "{pattern}");
        }
    }

    /// What Node refuses (`new RegExp(pattern)`), or what another dialect may mean differently.
    #[test]
    fn what_may_throw_is_refused() {
        for pattern in [
            "(",
            ")",
            "(a",
            "a)",
            "[",
            "[a",
            "*",
            "a**",
            "+a",
            "?",
            "^*",
            "a|*",
            "(?",
            "(?<a",
            "(?<n>a)",
            "(?i)a",
            "(?P<n>a)",
            "(?>a)",
            "(?#x)",
            "[z-a]",
            "\\",
            "[\\",
            "a{3,2}",
            "{1}",
            "a{1}{2}",
            "\\b+",
            "a++",
            "(*)",
            "(?=a)*",
            "\\Qa\\E",
            "\\A",
            "\\z",
            "\\x4",
            "\\u{1}",
            "\\p{L}",
            "\\k<a>",
            "\\c",
            "[😀-😂]",
            "[\\w-z]",
        ] {
            assert!(!compiles(pattern.as_bytes()), "{pattern}");
        }
        assert!(!compiles(b"\xff"));
        assert!(!compiles("a".repeat(LONGEST + 1).as_bytes()));
        assert!(!compiles(["(".repeat(200), ")".repeat(200)].concat().as_bytes()));
    }

    #[test]
    fn nothing_panics() {
        let alphabet = ['a', '(', ')', '[', ']', '{', '}', '\\', '*', '?', '1', ',', '-', '^', 'é', '😀'];
        let mut n = 1u64;
        for _ in 0..20_000 {
            let mut pattern = String::new();
            for _ in 0..8 {
                n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                pattern.push(alphabet[(n >> 60) as usize]);
            }
            compiles(pattern.as_bytes());
        }
    }
}
