//! Classes such as `[a-z\d]`, and escapes, which are the same in them.

use super::{
    Read,
    parse::{Parser, literal},
    refuse,
};

pub(super) fn dangling<T>() -> Read<T> {
    refuse("the regular expression ends in a `\\`", "write `\\\\` for the character itself")
}

const HORIZONTAL: &str = "\\t \\x{a0}\\x{1680}\\x{180e}\\x{2000}-\\x{200a}\\x{202f}\\x{205f}\\x{3000}";
const VERTICAL: &str = "\\n-\\r\\x{85}\\x{2028}\\x{2029}";

/// Behind `\`: a set such as `\d`, as an item of a class.
pub(super) fn shorthand(parser: &mut Parser<'_>) -> Read<Option<String>> {
    let Some(c) = parser.peek() else { return dangling() };
    let set = match c.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t-\\r ",
        'h' => HORIZONTAL,
        'v' => VERTICAL,
        'p' => return property(parser).map(Some),
        _ => return Ok(None),
    };
    parser.next();
    Ok(Some(if c.is_ascii_uppercase() { format!("[^{set}]") } else { format!("[{set}]") }))
}

/// `\pL`, `\p{Lu}`, `\P{Greek}`, `\p{^L}`.
fn property(parser: &mut Parser<'_>) -> Read<String> {
    let mut negative = parser.next() == Some('P');
    let name = match parser.next() {
        Some('{') => parser.until("}").unwrap_or_default().to_owned(),
        Some(c) => c.to_string(),
        None => String::new(),
    };
    let name = match name.strip_prefix('^') {
        Some(name) => {
            negative = !negative;
            name
        }
        None => &name,
    };
    let kind = if negative { "P" } else { "p" };
    let written = format!("\\{kind}{{{name}}}");
    let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    // What the two call differently, and what only one of them knows.
    if !is_word || name.starts_with('X') && name.len() == 3 || regex::Regex::new(&written).is_err() {
        return refuse(
            format!("the property `{name}` of characters is not supported in a regular expression"),
            "write one such as `\\p{L}`, `\\p{Lu}` or `\\p{Greek}`",
        );
    }
    Ok(written)
}

/// Behind `\`: what stands for a single character.
pub(super) fn escaped(parser: &mut Parser<'_>) -> Read<char> {
    let Some(c) = parser.next() else { return dangling() };
    let code = match c {
        'a' => 7,
        'e' => 27,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'c' => match parser.next() {
            Some(c) if c.is_ascii() => u32::from(c.to_ascii_uppercase()) ^ 0x40,
            _ => return refuse("`\\c` has no letter behind it in the regular expression", "write one such as `\\cA`"),
        },
        'x' if parser.eat("{") => {
            let digits = parser.until("}").map(|digits| u32::from_str_radix(digits, 16));
            match digits {
                Some(Ok(code)) => code,
                _ => {
                    return refuse(
                        "`\\x{` holds no hexadecimal number in the regular expression",
                        "write one such as `\\x{e9}`",
                    );
                }
            }
        }
        'x' => number(parser, 16, 2),
        'o' if parser.eat("{") => match parser.until("}").map(|digits| u32::from_str_radix(digits, 8)) {
            Some(Ok(code)) => code,
            _ => {
                return refuse(
                    "`\\o{` holds no octal number in the regular expression",
                    "write one such as `\\o{351}`",
                );
            }
        },
        '0' => number(parser, 8, 2),
        c if c.is_ascii_alphanumeric() => {
            return refuse(
                format!("`\\{c}` is not supported in a regular expression"),
                format!("write `{c}` for the character itself"),
            );
        }
        c => u32::from(c),
    };
    match char::from_u32(code) {
        Some(c) => Ok(c),
        None => refuse("a code in the regular expression is that of no character", "the largest is 10ffff"),
    }
}

fn number(parser: &mut Parser<'_>, radix: u32, most: usize) -> u32 {
    let mut code = 0;
    for _ in 0..most {
        let Some(digit) = parser.peek().and_then(|c| c.to_digit(radix)) else { break };
        code = code * radix + digit;
        parser.next();
    }
    code
}

/// What POSIX calls a class, as an item of a class.
fn posix(name: &str, caseless: bool) -> Option<&'static str> {
    Some(match name {
        "alpha" => "A-Za-z",
        "lower" | "upper" if caseless => "A-Za-z",
        "lower" => "a-z",
        "upper" => "A-Z",
        "alnum" => "0-9A-Za-z",
        "ascii" => "\\x00-\\x7f",
        "blank" => "\\t ",
        "cntrl" => "\\x00-\\x1f\\x7f",
        "digit" => "0-9",
        "graph" => "!-~",
        "print" => "\\x20-~",
        "punct" => "!-/:-@\\x5b-\\x60{-~",
        "space" => "\\t-\\r ",
        "word" => "0-9A-Za-z_",
        "xdigit" => "0-9A-Fa-f",
        _ => return None,
    })
}

/// Behind `[`: the class as the crate `regex` writes it.
pub(super) fn class(parser: &mut Parser<'_>, caseless: bool) -> Read<String> {
    let negative = parser.eat("^");
    let mut sets = String::new();
    let mut ranges: Vec<(char, char)> = Vec::new();
    let mut is_first = true;
    loop {
        let Some(c) = parser.peek() else {
            return refuse(
                "a class does not end in the regular expression",
                "close it with `]`, or write `\\[` for the character itself",
            );
        };
        if c == ']' && !is_first {
            parser.next();
            break;
        }
        is_first = false;
        if ["[:", "[.", "[="].iter().any(|open| parser.rest.starts_with(open))
            && let Some(set) = posix_set(parser, caseless)?
        {
            sets.push_str(&set);
            continue;
        }
        let low = match item(parser)? {
            Item::Set(set) => {
                sets.push_str(&set);
                continue;
            }
            Item::Nothing => continue,
            Item::One(c) => c,
        };
        // A `-` before the end or before a set is itself.
        let mut high = low;
        if let Some(behind) = parser.rest.strip_prefix('-') {
            let mut ahead = Parser::at(behind);
            if !matches!(ahead.peek(), None | Some(']'))
                && !behind.starts_with("[:")
                && let Item::One(c) = item(&mut ahead)?
            {
                if c < low {
                    return refuse(
                        "a range is out of order in the regular expression",
                        "the lower character comes first",
                    );
                }
                high = c;
                parser.rest = ahead.rest;
            }
        }
        ranges.push((low, high));
    }
    finish(negative, sets, ranges, caseless)
}

enum Item {
    One(char),
    Set(String),
    /// `\E` and the like.
    Nothing,
}

fn item(parser: &mut Parser<'_>) -> Read<Item> {
    if parser.eat("\\E") {
        return Ok(Item::Nothing);
    }
    if parser.rest.starts_with("\\Q") {
        return refuse("`\\Q` is not supported in a class of a regular expression", "escape the characters one by one");
    }
    if !parser.eat("\\") {
        return Ok(parser.next().map_or(Item::Nothing, Item::One));
    }
    if parser.eat("b") {
        return Ok(Item::One('\x08'));
    }
    if let Some(set) = shorthand(parser)? {
        return Ok(Item::Set(set));
    }
    Ok(Item::One(match parser.peek() {
        Some('1'..='7') => char::from_u32(number(parser, 8, 3)).unwrap_or('\0'),
        _ => escaped(parser)?,
    }))
}

/// Behind `[`: whether this is `[:alpha:]` by itself.
pub(super) fn is_stray(parser: &Parser<'_>) -> bool {
    let Some(sign) = parser.peek().filter(|c| matches!(c, ':' | '.' | '=')) else { return false };
    let name = parser.rest[1..].split_once(&format!("{sign}]")).map(|(name, _)| name);
    name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'^'))
}

/// `[:alpha:]`, where it is one: otherwise the bracket is itself.
fn posix_set(parser: &mut Parser<'_>, caseless: bool) -> Read<Option<String>> {
    let Some(sign) = parser.rest.chars().nth(1) else { return Ok(None) };
    let Some((name, rest)) = parser.rest[2..].split_once(&format!("{sign}]")) else { return Ok(None) };
    if !name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'^') {
        return Ok(None);
    }
    let (name, negative) = name.strip_prefix('^').map_or((name, ""), |name| (name, "^"));
    match posix(name, caseless).filter(|_| sign == ':') {
        Some(set) => {
            parser.rest = rest;
            Ok(Some(format!("[{negative}{set}]")))
        }
        None => refuse(
            format!("`[{sign}{name}{sign}]` is no class of characters of a regular expression"),
            "write one such as `[:alpha:]`",
        ),
    }
}

fn finish(negative: bool, sets: String, mut ranges: Vec<(char, char)>, caseless: bool) -> Read<String> {
    let mut fold = caseless && !ranges.is_empty();
    if fold && !sets.is_empty() {
        // Case is nothing to sets, but would be folded in them too.
        if ranges.iter().any(|(_, high)| !high.is_ascii()) {
            return refuse(
                "a class with a set such as `\\w` and a character beyond ASCII is not supported together with the option `i`",
                "write it as two classes: `(?:\\w|[é])`",
            );
        }
        fold = false;
        for (low, high) in ranges.clone() {
            for c in (low..=high).filter(|c| c.is_ascii_alphabetic()) {
                let other = if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
                ranges.push((other, other));
                match c.to_ascii_lowercase() {
                    // The other two letters whose lower case is one of ASCII.
                    's' => ranges.push(('\u{17f}', '\u{17f}')),
                    'k' => ranges.push(('\u{212a}', '\u{212a}')),
                    _ => {}
                }
            }
        }
    }
    let mut class = String::from(if negative { "[^" } else { "[" });
    class.push_str(&sets);
    for (low, high) in ranges {
        class.push_str(&format!("{}-{}", literal(low), literal(high)));
    }
    class.push(']');
    Ok(if fold { format!("(?i:{class})") } else { class })
}
