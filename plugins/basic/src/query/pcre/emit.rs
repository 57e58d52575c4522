use super::{Read, parse::Ast, refuse};

/// What surrounds a part, as far as places depend on it.
#[derive(Clone, Copy, Default)]
struct Around {
    /// At least one character is matched before.
    before: bool,
    /// At least one character is matched behind.
    behind: bool,
    /// Something other than another `$` may stand behind. Not even a place may: `$` takes the newline that it looks at.
    may_follow: bool,
}

/// The expression in the syntax of the crate `regex`.
pub(super) fn translate(ast: &Ast) -> Read<String> {
    let mut out = String::new();
    emit(ast, Around::default(), &mut out)?;
    Ok(out)
}

/// Whether at least one character is matched, and whether there is anything but `$`.
fn width(ast: &Ast) -> (bool, bool) {
    match ast {
        Ast::One(_) => (true, true),
        Ast::Place(_) | Ast::LineStart | Ast::NoBoundary => (false, true),
        Ast::End => (false, false),
        Ast::Concat(all) => all.iter().map(width).fold((false, false), |(a, b), (c, d)| (a || c, b || d)),
        Ast::Either(all) => all.iter().map(width).fold((true, false), |(a, b), (c, d)| (a && c, b || d)),
        Ast::Repeat { part, least, most } => {
            let (surely, maybe) = width(part);
            (surely && *least > 0, maybe && *most != Some(0))
        }
    }
}

fn emit(ast: &Ast, around: Around, out: &mut String) -> Read<()> {
    match ast {
        Ast::One(text) | Ast::Place(text) => out.push_str(text),
        Ast::LineStart if around.behind => out.push_str("(?m:^)"),
        Ast::LineStart => {
            return refuse(
                "`^` with the option `m` is not supported where nothing need follow it",
                "put something behind it, such as `^.`, or leave out the option",
            );
        }
        Ast::End if !around.may_follow => out.push_str("(?:\\n?\\z)"),
        Ast::End => {
            return refuse(
                "`$` is not supported in the middle of a regular expression",
                "put it at the end, or write `\\n` or `\\z`, or set the option `m` for the end of a line",
            );
        }
        Ast::NoBoundary if around.before || around.behind => out.push_str("(?-u:\\B)"),
        Ast::NoBoundary => {
            return refuse(
                "`\\B` is not supported where no character need be beside it",
                "put one beside it, such as `\\Ba`",
            );
        }
        Ast::Concat(all) => {
            out.push_str("(?:");
            let widths: Vec<_> = all.iter().map(width).collect();
            for (n, part) in all.iter().enumerate() {
                let (earlier, later) = (&widths[..n], &widths[n + 1..]);
                let here = Around {
                    before: around.before || earlier.iter().any(|w| w.0),
                    behind: around.behind || later.iter().any(|w| w.0),
                    may_follow: around.may_follow || later.iter().any(|w| w.1),
                };
                emit(part, here, out)?;
            }
            out.push(')');
        }
        Ast::Either(all) => {
            out.push_str("(?:");
            for (n, part) in all.iter().enumerate() {
                if n > 0 {
                    out.push('|');
                }
                emit(part, around, out)?;
            }
            out.push(')');
        }
        Ast::Repeat { part, least, most } => {
            // Another round may come behind.
            let again = *most != Some(0) && *most != Some(1);
            let here = Around { may_follow: around.may_follow || again && width(part).1, ..around };
            out.push_str("(?:");
            emit(part, here, out)?;
            match most {
                Some(most) => out.push_str(&format!("){{{least},{most}}}")),
                None => out.push_str(&format!("){{{least},}}")),
            }
        }
    }
    Ok(())
}
