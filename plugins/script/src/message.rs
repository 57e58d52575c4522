//! Texts of a script as they may be logged.
//!
//! The message of an error may hold what the event holds: the script may put it there, and so does the engine (a name of a field). What is
//! certain to be none of it are the words of the script itself and those of the engine: all others are replaced (I8).

use std::collections::HashSet;

/// In the place of a word.
const HIDDEN: &str = "…";
/// The longest message, in characters.
const LONGEST: usize = 300;

/// The words of the messages of QuickJS and of the prelude.
const OWN: &str = "Error TypeError RangeError ReferenceError SyntaxError InternalError EvalError URIError Error \
    cannot could not read set delete define convert property properties of undefined null is are a an the no to in at and or must be as \
    function constructor object Object string String number Number symbol Symbol bigint BigInt boolean array Array iterator iterable \
    prototype defined initialized lexical variable constant assignment invalid value values type types out memory range expected \
    unexpected token end input Maximum call stack size exceeded too long large many arguments argument array length circular reference \
    extensible writable configurable getter setter for with without required without new class constructors be invoked instance \
    proxy handler target Date regular expression JSON parse string literal character position digits hexadecimal text takes ObjectId \
    Timestamp Decimal128 Binary Uint8Array Int32 Long Double whole from subtype t i has clock take event wall script random numbers that \
    comes again become same only read 64 24 bits division by zero mix other use explicit conversions holds damaged BSON it nested deeper \
    than 200 levels forbidden stringify called index bounds duplicate name loop operator operand operands in or itself this update decoded";

/// What a script may say.
pub struct Words {
    known: HashSet<String>,
    /// The operator takes it on himself.
    shows_all: bool,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_part(c)).filter(|word| !word.is_empty())
}

/// What words consist of. Punctuation and blanks tell nothing.
fn is_part(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

impl Words {
    /// The words of this script.
    pub fn new(source: &str, shows_all: bool) -> Words {
        Words { known: words(source).chain(words(OWN)).map(str::to_owned).collect(), shows_all }
    }

    /// The text, in one line, without what may come from an event.
    pub fn shown(&self, text: &str) -> String {
        let text: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if self.shows_all {
            return text;
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            out.push_str(if word.is_empty() || self.known.contains(word) { word } else { HIDDEN });
            let end = behind.find(is_part).unwrap_or(behind.len());
            let (between, behind) = behind.split_at(end);
            out.push_str(between);
            rest = behind;
        }
        out
    }
}

/// Line and column, from 1, of the first place of the stack that lies in the script: `at f (TITLE:3:7)`.
pub fn place(stack: &str, title: &str) -> Option<(usize, usize)> {
    stack.lines().find_map(|line| {
        let (_, behind) = line.rsplit_once(&format!("{title}:"))?;
        let mut numbers = behind.trim_end_matches(')').split(':').map(|n| n.parse().ok());
        Some((numbers.next()??, numbers.next().flatten().unwrap_or(1)))
    })
}

/// The line of a place with a caret below, as the configuration shows its own.
pub fn excerpt(source: &str, (line, column): (usize, usize)) -> String {
    let Some(text) = source.lines().nth(line - 1) else { return String::new() };
    let from = column.saturating_sub(100);
    let shown: String = text.chars().skip(from).take(160).map(|c| if c == '\t' { ' ' } else { c }).collect();
    let margin = " ".repeat(line.to_string().len());
    let indent = " ".repeat(column.saturating_sub(1) - from.min(column.saturating_sub(1)));
    format!("\n {margin} |\n {line} | {shown}\n {margin} | {indent}^")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_words_of_the_script_and_of_the_engine_only() {
        let words = Words::new("throw new Error(`no rate for ${event.after.currency}`) // 12", false);
        assert_eq!(words.shown("no rate for Groschen, 12 or 13"), "no rate for …, 12 or …");
        assert_eq!(words.shown("cannot read property 'x-1' of undefined"), "cannot read property '…-…' of undefined");
        assert_eq!(words.shown("größe\nEUR"), "… …");
        assert_eq!(Words::new("", true).shown("Groschen\n13"), "Groschen 13");
        assert_eq!(words.shown(&"rate ".repeat(1000)).chars().count(), LONGEST);
    }

    #[test]
    fn a_place_is_found_in_the_stack() {
        let stack = "    at clock (prelude:1:2)\n    at f (my:script.js:3:7)\n    at <eval> (my:script.js:9:1)\n";
        assert_eq!(place(stack, "my:script.js"), Some((3, 7)));
        assert_eq!(place("    at my:script.js:4", "my:script.js"), Some((4, 1)));
        assert_eq!(place("", "x"), None);
        assert_eq!(excerpt("a\nlet = 1", (2, 5)), "\n   |\n 2 | let = 1\n   |     ^");
    }
}
