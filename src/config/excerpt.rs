//! The line of a diagnostic: masked, made harmless for a terminal, with the place of its underline.

use std::ops::Range;

use super::diagnostics::Place;

const MASK: &str = "\"***\"";
/// Cells of a line that are shown at most, and how many of them stand left of the underline.
const WIDEST: usize = 160;
const LEFT: usize = 40;
const TAB: usize = 4;

/// The lines of a text.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Lines<'a> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    /// The index of the line that holds a byte.
    pub fn index(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The bytes of a line, its end left out.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = self.starts[index];
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }

    /// The place of a span. `hidden` are the spans that must not be shown.
    pub fn place(&self, span: &Range<usize>, hidden: &[Range<usize>]) -> Place {
        let start = floor(self.text, span.start);
        let index = self.index(start);
        let line = self.range(index);
        let column = self.text[line.start..start.clamp(line.start, line.end)].chars().count() + 1;
        let marked = start..span.end.max(start + 1).min(line.end.max(start + 1));
        let here: Vec<_> = hidden.iter().filter(|h| h.start < line.end && line.start < h.end).cloned().collect();
        let (excerpt, underline) = draw(self.text, &line, &marked, &here);
        Place { line: index + 1, column, excerpt, underline }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn draw(text: &str, line: &Range<usize>, marked: &Range<usize>, hidden: &[Range<usize>]) -> (String, (usize, usize)) {
    let mut cells: Vec<(char, usize)> = Vec::new();
    let mut width = 0;
    // Where the underline begins and ends, in cells.
    let mut under: Option<(usize, usize)> = None;
    let mut put = |c: char, w: usize, is_marked: bool| {
        if is_marked {
            let begin = under.map_or(width, |(begin, _)| begin);
            under = Some((begin, width + w));
        }
        cells.push((c, w));
        width += w;
    };
    let mut at = line.start;
    while at < line.end {
        if let Some(secret) = hidden.iter().find(|h| h.contains(&at)) {
            let end = secret.end.min(line.end);
            let is_marked = marked.start < end && at < marked.end;
            MASK.chars().for_each(|c| put(c, 1, is_marked));
            at = end;
            // Adjoining or overlapping secrets are one mask.
            while let Some(next) = hidden.iter().find(|h| h.contains(&at) && at < line.end) {
                at = next.end.min(line.end);
            }
            continue;
        }
        let Some(c) = text[at..].chars().next() else { break };
        let is_marked = marked.contains(&at);
        match c {
            '\t' => (0..TAB).for_each(|_| put(' ', 1, is_marked)),
            c if c.is_control() => put('\u{fffd}', 1, is_marked),
            c => put(c, cell_width(c), is_marked),
        }
        at += c.len_utf8();
    }
    let (begin, end) = under.unwrap_or((width, width + 1));
    cut(&cells, width, begin, end)
}

/// Cuts a very long line to what stands around its underline.
fn cut(cells: &[(char, usize)], width: usize, begin: usize, end: usize) -> (String, (usize, usize)) {
    if width <= WIDEST {
        return (cells.iter().map(|(c, _)| *c).collect(), (begin, end - begin));
    }
    let from = if begin > WIDEST - LEFT { begin - LEFT } else { 0 };
    let mut out = String::new();
    let mut skipped = 0;
    let mut at = 0;
    for (c, w) in cells {
        if at < from {
            skipped += w;
        } else if at + w <= from + WIDEST {
            out.push(*c);
        }
        at += w;
    }
    let mut left = begin - skipped;
    if from > 0 {
        out.insert(0, '…');
        left += 1;
    }
    if from + WIDEST < width {
        out.push('…');
    }
    (out, (left, (end - begin).min((WIDEST + 1).saturating_sub(left)).max(1)))
}

/// How many cells of a terminal a character takes, near enough for a caret.
fn cell_width(c: char) -> usize {
    match u32::from(c) {
        // Combining marks, joiners and variation selectors.
        0x300..=0x36f | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x20d0..=0x20ff => 0,
        0xfe00..=0xfe0f | 0xfe20..=0xfe2f | 0xfeff => 0,
        // East Asian wide characters, and emoji.
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe4f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, what: &str, hidden: &[&str]) -> Place {
        let find = |part: &str| {
            let at = text.find(part).unwrap();
            at..at + part.len()
        };
        let hidden: Vec<_> = hidden.iter().map(|h| find(h)).collect();
        Lines::new(text).place(&find(what), &hidden)
    }

    #[test]
    fn the_underline_stands_below_the_span() {
        let p = place("a = 1\r\n\tä漢 = \"x\"\r\n", "\"x\"", &[]);
        assert_eq!((p.line, p.column), (2, 7));
        assert_eq!(p.excerpt, "    ä漢 = \"x\"");
        assert_eq!(p.underline, (4 + 1 + 2 + 3, 3));
    }

    #[test]
    fn secrets_are_masked_and_the_underline_follows() {
        let p = place("u = 'secret' # b", "# b", &["'secret'"]);
        assert_eq!(p.excerpt, "u = \"***\" # b");
        assert_eq!((p.column, p.underline), (14, (10, 3)));
        let p = place("u = 'secret'", "cr", &["'secret'"]);
        assert_eq!((p.excerpt.as_str(), p.underline), ("u = \"***\"", (4, 5)));
        let p = place("u = '''x\nsecret'''", "ret", &["'''x\nsecret'''"]);
        assert_eq!((p.excerpt.as_str(), p.line), ("\"***\"", 2));
    }

    #[test]
    fn a_span_over_several_lines_is_underlined_on_the_first() {
        let p = place("a = [1,\n2]", "[1,\n2]", &[]);
        assert_eq!((p.excerpt.as_str(), p.underline), ("a = [1,", (4, 3)));
    }

    #[test]
    fn the_end_of_the_text_is_a_place() {
        let text = "a = [";
        let p = Lines::new(text).place(&(5..5), &[]);
        assert_eq!((p.line, p.column, p.underline), (1, 6, (5, 1)));
        let p = Lines::new("").place(&(0..0), &[]);
        assert_eq!((p.line, p.column), (1, 1));
        assert_eq!(Lines::new("a\n").place(&(99..120), &[]).line, 2);
    }

    #[test]
    fn a_long_line_is_cut_around_the_underline() {
        let text = format!("{}HERE{}", "x".repeat(1000), "y".repeat(1000));
        let p = place(&text, "HERE", &[]);
        assert_eq!(p.excerpt.chars().count(), WIDEST + 2);
        let marked: String = p.excerpt.chars().skip(p.underline.0).take(p.underline.1).collect();
        assert_eq!(marked, "HERE");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(place("a\u{1b}[31m", "a", &[]).excerpt, "a\u{fffd}[31m");
    }
}
