use super::{Flags, Read, class, refuse};

/// A part of a regular expression.
pub(super) enum Ast {
    /// One character; what the crate `regex` writes for it.
    One(String),
    /// A place between characters; what `regex` writes for it.
    Place(String),
    /// `^` of lines: not behind a newline at the very end.
    LineStart,
    /// `$` and `\Z`: at the end, or before a newline there.
    End,
    /// `\B`, by ASCII.
    NoBoundary,
    Concat(Vec<Ast>),
    Either(Vec<Ast>),
    Repeat {
        part: Box<Ast>,
        least: u32,
        most: Option<u32>,
    },
}

pub(super) struct Parser<'a> {
    pub(super) rest: &'a str,
    groups: u32,
    /// Of groups.
    names: Vec<&'a str>,
}

pub(super) fn parse(text: &str, mut flags: Flags) -> Read<Ast> {
    let mut parser = Parser::at(text);
    if text.starts_with("(*") {
        return refuse("verbs such as `(*UTF8)` are not supported in a regular expression", "leave it out");
    }
    let ast = parser.either(&mut flags)?;
    match parser.peek() {
        None => Ok(ast),
        Some(_) => refuse("the regular expression has a `)` without a `(`", "write `\\)` for the character itself"),
    }
}

const ATOMIC: (&str, &str) = (
    "atomic groups and possessive repetitions",
    "leave out the `+` or `>`: it saves time only where a match cannot be found",
);
const BACK: (&str, &str) = ("back-references", "write out what may stand there");
const LOOK: (&str, &str) = ("look-around", "combine two expressions with \"$and\", or \"$not\" for a negative one");
const RECURSE: (&str, &str) = ("recursion and conditions", "write out what may stand there");

pub(super) fn unsupported<T>((what, hint): (&str, &str)) -> Read<T> {
    refuse(
        format!("{what} are not supported in a regular expression").replace("look-around are", "look-around is"),
        hint,
    )
}

/// As the crate `regex` writes a character.
pub(super) fn literal(c: char) -> String {
    format!("\\x{{{:x}}}", u32::from(c))
}

impl<'a> Parser<'a> {
    pub(super) fn at(rest: &'a str) -> Parser<'a> {
        Parser { rest, groups: 0, names: Vec::new() }
    }
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }
    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }
    pub(super) fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
    /// What is before `end`, which is left out.
    pub(super) fn until(&mut self, end: &str) -> Option<&'a str> {
        let (before, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(before)
    }

    fn either(&mut self, flags: &mut Flags) -> Read<Ast> {
        let mut all = vec![self.concat(flags)?];
        while self.eat("|") {
            all.push(self.concat(flags)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Ast::Either(all) })
    }

    fn concat(&mut self, flags: &mut Flags) -> Read<Ast> {
        let mut all = Vec::new();
        loop {
            if flags.extended {
                self.skip_blanks()?;
            }
            match self.peek() {
                None | Some('|' | ')') => return Ok(Ast::Concat(all)),
                _ => {}
            }
            // Between `\Q` and `\E` everything is itself.
            if self.eat("\\Q") {
                let quoted = match self.rest.contains("\\E") {
                    true => self.until("\\E").unwrap_or_default().to_owned(),
                    false => std::mem::take(&mut self.rest).to_owned(),
                };
                all.extend(quoted.chars().map(|c| one(literal(c), flags.caseless)));
                if let Some(last) = all.pop() {
                    all.push(self.repeated(last, *flags)?);
                }
                continue;
            }
            if self.eat("\\E") {
                continue;
            }
            if let Some(part) = self.atom(flags)? {
                let part = self.repeated(part, *flags)?;
                all.push(part);
            }
        }
    }

    fn skip_blanks(&mut self) -> Read<()> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
            if !self.eat("#") {
                return Ok(());
            }
            // Servers up to 6.0 take it for one that hides the end of the expression.
            if self.until("\n").is_none() {
                return refuse(
                    "a comment does not end in the regular expression",
                    "put a newline behind it, write `\\#` for the character itself, or leave out the option `x`",
                );
            }
        }
    }

    /// One item, without what repeats it; none for what only sets options.
    fn atom(&mut self, flags: &mut Flags) -> Read<Option<Ast>> {
        if self.rest.starts_with('{') && Parser::at(self.rest).repetition()?.is_some() {
            return nothing_to_repeat('{');
        }
        let Some(c) = self.next() else { return Ok(None) };
        Ok(Some(match c {
            '.' if flags.dot_all => Ast::One("(?s:.)".into()),
            '.' => Ast::One("[^\\n]".into()),
            '^' if flags.lines => Ast::LineStart,
            '^' => Ast::Place("\\A".into()),
            '$' if flags.lines => Ast::Place("(?m:$)".into()),
            '$' => Ast::End,
            '[' if class::is_stray(self) => {
                return refuse(
                    "a class such as `[:alpha:]` stands only within another in a regular expression",
                    "write `[[:alpha:]]`",
                );
            }
            '[' => Ast::One(class::class(self, flags.caseless)?),
            '(' => return self.group(flags),
            '\\' => self.escape(flags.caseless)?,
            '*' | '+' | '?' => return nothing_to_repeat(c),
            c => one(literal(c), flags.caseless),
        }))
    }

    fn repeated(&mut self, part: Ast, flags: Flags) -> Read<Ast> {
        // What counts for nothing does so between an item and its repetition too.
        loop {
            if flags.extended {
                self.skip_blanks()?;
            }
            let is_comment = self.rest.starts_with("(?#") && self.until(")").is_some();
            if !is_comment && !self.eat("\\E") {
                break;
            }
        }
        let Some((least, most)) = self.repetition()? else { return Ok(part) };
        if matches!(part, Ast::Place(_) | Ast::LineStart | Ast::End | Ast::NoBoundary) {
            return refuse(
                "a place such as `^` or `\\b` is repeated in the regular expression",
                "leave out the repetition",
            );
        }
        if flags.extended {
            self.skip_blanks()?;
        }
        self.eat("?");
        if self.eat("+") {
            return unsupported(ATOMIC);
        }
        let copy = Parser::at(self.rest).repetition();
        if copy.is_err() || copy.is_ok_and(|more| more.is_some()) {
            return refuse("a repetition is repeated in the regular expression", "put the inner one into `(?:…)`");
        }
        Ok(Ast::Repeat { part: Box::new(part), least, most })
    }

    fn repetition(&mut self) -> Read<Option<(u32, Option<u32>)>> {
        for (sign, least, most) in [("*", 0, None), ("+", 1, None), ("?", 0, Some(1))] {
            if self.eat(sign) {
                return Ok(Some((least, most)));
            }
        }
        // What does not look like a repetition is itself.
        let Some((inside, rest)) = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Ok(None);
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (least, most) = match inside.split_once(',') {
            Some((least, most)) if is_number(least) && (most.is_empty() || is_number(most)) => (least, Some(most)),
            None if is_number(inside) => (inside, None),
            _ => return Ok(None),
        };
        let number = |text: &str| match text.parse::<u32>() {
            Ok(n) if n < 65536 => Ok(n),
            _ => refuse("a number of repetitions is too large in the regular expression", "the largest is 65535"),
        };
        let from = number(least)?;
        let to = match most {
            Some("") => None,
            Some(most) => Some(number(most)?),
            None => Some(from),
        };
        if to.is_some_and(|to| to < from) {
            return refuse(
                "the numbers of a repetition are out of order in the regular expression",
                "the smaller one comes first",
            );
        }
        self.rest = rest;
        Ok(Some((from, to)))
    }

    /// Behind `(`.
    fn group(&mut self, flags: &mut Flags) -> Read<Option<Ast>> {
        self.groups += 1;
        // Deeper ones would take the stack of who compiles them.
        if self.groups > 200 {
            return refuse("the regular expression has more than 200 groups", "write several smaller ones");
        }
        if self.eat("?#") {
            return match self.until(")") {
                Some(_) => Ok(None),
                None => refuse("a comment does not end in the regular expression", "close it with `)`"),
            };
        }
        let mut inner = *flags;
        if self.eat("*") {
            return refuse("verbs such as `(*FAIL)` are not supported in a regular expression", "leave it out");
        }
        if self.eat("?") {
            let named = |rest: &str| rest.starts_with("P<") || rest.starts_with('\'') || rest.starts_with('<');
            match self.rest {
                rest if ["=", "!", "<=", "<!"].iter().any(|look| rest.starts_with(look)) => return unsupported(LOOK),
                rest if rest.starts_with('>') => return unsupported(ATOMIC),
                rest if rest.starts_with("P=") => return unsupported(BACK),
                rest if rest
                    .starts_with(['R', '&', '(', 'C', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '+']) =>
                {
                    return unsupported(RECURSE);
                }
                rest if rest.starts_with("P>") => return unsupported(RECURSE),
                rest if named(rest) => {
                    let end = if rest.starts_with('\'') { '\'' } else { '>' };
                    let name = rest.trim_start_matches('P').get(1..).and_then(|r| r.split_once(end));
                    let is_word =
                        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                    let name =
                        name.filter(|(name, _)| is_word(name) && !name.starts_with(|c: char| c.is_ascii_digit()));
                    let Some((name, behind)) = name.filter(|(name, _)| name.len() <= 32) else {
                        return refuse("a group has no proper name in the regular expression", "write `(?<name>…)`");
                    };
                    if self.names.contains(&name) {
                        let what = "two groups of one name are not supported in a regular expression";
                        return refuse(what, "leave out the names: nothing asks for them");
                    }
                    self.names.push(name);
                    self.rest = behind;
                }
                _ if self.eat("|") => {}
                _ => {
                    self.options(&mut inner)?;
                    if self.eat(")") {
                        *flags = inner;
                        return Ok(None);
                    }
                    if !self.eat(":") {
                        return refuse(
                            "a group begins in an unknown way in the regular expression",
                            "write `(?:…)` or `(?i:…)`",
                        );
                    }
                }
            }
        }
        let inside = self.either(&mut inner)?;
        if !self.eat(")") {
            return refuse("the regular expression has a `(` without a `)`", "write `\\(` for the character itself");
        }
        // Always an item of its own, so that a repetition repeats all of it.
        Ok(Some(Ast::Concat(vec![inside])))
    }

    fn options(&mut self, flags: &mut Flags) -> Read<()> {
        let mut on = true;
        while let Some(c) = self.peek().filter(|c| !matches!(c, ')' | ':')) {
            match c {
                '-' => on = false,
                'i' => flags.caseless = on,
                'm' => flags.lines = on,
                's' => flags.dot_all = on,
                'x' => flags.extended = on,
                // Shorter matches first makes no difference to whether there is one.
                'U' => {}
                c => {
                    return refuse(
                        format!("there is no option `{c}` of regular expressions"),
                        "options are i, m, s and x",
                    );
                }
            }
            self.next();
        }
        Ok(())
    }

    /// Behind `\`, outside of a class.
    fn escape(&mut self, caseless: bool) -> Read<Ast> {
        let Some(c) = self.peek() else { return class::dangling() };
        let place = match c {
            'A' => Ast::Place("\\A".into()),
            'z' => Ast::Place("\\z".into()),
            'Z' => Ast::End,
            'b' => Ast::Place("(?-u:\\b)".into()),
            'B' => Ast::NoBoundary,
            'N' if !self.rest.starts_with("N{") || Parser::at(&self.rest[1..]).repetition()?.is_some() => {
                Ast::One("[^\\n]".into())
            }
            '1'..='9' | 'g' | 'k' => return unsupported(BACK),
            _ => {
                if let Some(set) = class::shorthand(self)? {
                    return Ok(Ast::One(format!("[{set}]")));
                }
                return Ok(one(literal(class::escaped(self)?), caseless));
            }
        };
        self.next();
        Ok(place)
    }
}

fn one(text: String, caseless: bool) -> Ast {
    Ast::One(if caseless { format!("(?i:{text})") } else { text })
}

fn nothing_to_repeat<T>(c: char) -> Read<T> {
    let hint = format!("write `\\{c}` for the character itself");
    refuse(format!("`{c}` has nothing before it to repeat in the regular expression"), hint)
}
