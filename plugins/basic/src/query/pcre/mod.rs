//! Regular expressions as mongod understands them, which are those of PCRE (with UTF-8, without Unicode properties of `\w`), for the
//! crate `regex`, which never takes more than linear time. What the two understand differently is written anew: `$` also before
//! a newline at the end, `\d`, `\w`, `\s` and `\b` of ASCII only. What `regex` cannot do is refused, by name.

mod class;
mod emit;
mod parse;

use std::str;

use oplogue_api::{
    bson::spec::ElementType,
    raw::{Element, Value},
};
use regex::bytes::Regex;

use super::{
    parse::damaged,
    predicate::Pattern,
    wrong::{Place, Wrong},
};

/// What is wrong with a regular expression: what, what would be right.
pub(super) struct Refused(String, String);

type Read<T> = Result<T, Refused>;

fn refuse<T>(what: impl Into<String>, hint: impl Into<String>) -> Read<T> {
    Err(Refused(what.into(), hint.into()))
}

/// Options in force.
#[derive(Clone, Copy, Default)]
struct Flags {
    /// `i`: upper and lower case are one.
    caseless: bool,
    /// `m`: `^` and `$` at every line.
    lines: bool,
    /// `s`: `.` is any character.
    dot_all: bool,
    /// `x`: blanks and comments do not count.
    extended: bool,
}

/// From a regular expression of BSON.
pub(super) fn pattern(value: Value<'_>, place: &Place<'_>) -> Result<Pattern, Wrong> {
    let (source, options) = value.regex().ok_or_else(|| damaged(place))?;
    compile(source, options, place)
}

/// From `$regex` and `$options`.
pub(super) fn pattern_of(operators: &[Element<'_>], place: &Place<'_>) -> Result<Pattern, Wrong> {
    let place_of = |name: &str| operators.iter().position(|e| e.name == name.as_bytes());
    let find = |name: &str| place_of(name).map(|n| operators[n].value);
    let regex = find("$regex").ok_or_else(|| damaged(place))?;
    let (source, own) = match regex.kind() {
        Some(ElementType::String) => (regex.text().unwrap_or_default(), None),
        Some(ElementType::RegularExpression) => {
            let (source, options) = regex.regex().ok_or_else(|| damaged(place))?;
            (source, Some(options).filter(|o| !o.is_empty()))
        }
        _ => return place.wrong("`$regex` takes a text", "write { \"$regex\" = \"^a\" }"),
    };
    let beside = match find("$options") {
        Some(value) if value.kind() == Some(ElementType::String) => value.text(),
        Some(_) => {
            return place.wrong("`$options` takes a text", "write { \"$regex\" = \"^a\", \"$options\" = \"i\" }");
        }
        None => None,
    };
    // As mongod has it: no options are options where they come last.
    let beside = beside.filter(|o| !o.is_empty() || place_of("$options") > place_of("$regex"));
    if own.is_some() && beside.is_some() {
        return place.wrong("options stand in the regular expression and in `$options`", "leave out one of them");
    }
    compile(source, own.or(beside).unwrap_or_default(), place)
}

fn compile(source: &[u8], options: &[u8], place: &Place<'_>) -> Result<Pattern, Wrong> {
    let text = |bytes| str::from_utf8(bytes).map_err(|_| damaged(place));
    let flags = flags(text(options)?);
    let translated = flags.and_then(|flags| {
        let text = str::from_utf8(source).unwrap_or_default();
        emit::translate(&parse::parse(text, flags)?)
    });
    text(source)?;
    let Refused(what, hint) = match translated {
        Ok(translated) => match Regex::new(&translated) {
            Ok(regex) => return Ok(Pattern { regex, source: source.into(), options: options.into() }),
            Err(regex::Error::CompiledTooBig(_)) => {
                Refused("the regular expression is too large".into(), "write several smaller ones".into())
            }
            Err(_) => Refused("the regular expression is not supported".into(), "write it in a simpler way".into()),
        },
        Err(refused) => refused,
    };
    place.wrong(what, hint)
}

fn flags(options: &str) -> Read<Flags> {
    let mut flags = Flags::default();
    for option in options.chars() {
        match option {
            'i' => flags.caseless = true,
            'm' => flags.lines = true,
            's' => flags.dot_all = true,
            'x' => flags.extended = true,
            other => {
                return refuse(
                    format!("there is no option `{other}` of regular expressions"),
                    "options are i, m, s and x",
                );
            }
        }
    }
    Ok(flags)
}
