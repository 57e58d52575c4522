//! Editing a diff of version 2, section by section. Its grammar is in `oplogue_api::oplog`; its names are literal.

use oplogue_api::{
    Doc, Error, Result,
    bson::spec::ElementType,
    raw::{Elements, Value, elements},
};

use super::{
    document::{DOCUMENT, Edited, Editor, Kind, NULL, close, collision, element, finished, header, open},
    tree::{DEEPEST, Place, Rules},
};

/// The diff after the rules; `None` when they do not touch it.
pub(super) fn edit(rules: &Rules, diff: &Doc, scratch: &mut Vec<u8>) -> Result<Option<Doc>> {
    scratch.clear();
    let mut editor = Editor { rules, out: scratch };
    if !is_touched(&mut editor, &rules.top(), elements(diff), Kind::Top, 0)? {
        return Ok(None);
    }
    editor.out.clear();
    editor.out.extend_from_slice(&[0; 4]);
    document(&mut editor, &rules.top(), elements(diff), Kind::Top, 0)?;
    close(editor.out, 0)?;
    finished(scratch).map(Some)
}

fn wrong() -> Error {
    Error::data("the diff has a section that is not known")
}

/// Whether it is the diff of an array.
fn kind_of(diff: Value<'_>) -> Result<Kind> {
    match diff.elements().ok_or_else(wrong)?.next() {
        Some(first) if first.as_ref().is_ok_and(|first| first.name == b"a") => Ok(Kind::Array),
        _ => Ok(Kind::Document),
    }
}

fn index(text: &[u8]) -> Result<usize> {
    let digits = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|t| t.parse().ok()).ok_or_else(wrong)
}

fn is_touched<'r>(
    editor: &mut Editor<'r, '_>,
    place: &Place<'r>,
    diff: Elements<'_>,
    kind: Kind,
    depth: usize,
) -> Result<bool> {
    if depth > DEEPEST {
        return Err(Error::data("a diff nests too deep to be edited"));
    }
    let rules = editor.rules;
    for member in diff {
        let member = member?;
        let is_touched = match (kind, member.name) {
            (Kind::Array, b"a" | b"l") => false,
            (Kind::Array, [b'u', at @ ..]) => {
                editor.value(&place.element(index(at)?), member.value, depth)? != Edited::Same
            }
            (Kind::Array, [b's', at @ ..]) => sub_is_touched(editor, &place.element(index(at)?), member.value, depth)?,
            (_, b"d" | b"u" | b"i" | b"b") => {
                let mut any = false;
                for field in member.value.elements().ok_or_else(wrong)? {
                    let field = field?;
                    let reached = place.reach(field.name, kind == Kind::Top, rules);
                    any = reached.renamed.is_some()
                        || match (member.name, &reached.place) {
                            (_, Place::Keep) => false,
                            (_, Place::Gone) => true,
                            (b"d", _) => false,
                            (b"b", _) => true,
                            (_, place) => editor.value(place, field.value, depth)? != Edited::Same,
                        };
                    if any {
                        break;
                    }
                }
                any
            }
            (_, [b's', name @ ..]) => {
                let reached = place.reach(name, kind == Kind::Top, rules);
                reached.renamed.is_some() || sub_is_touched(editor, &reached.place, member.value, depth)?
            }
            _ => return Err(wrong()),
        };
        if is_touched {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sub_is_touched<'r>(editor: &mut Editor<'r, '_>, place: &Place<'r>, diff: Value<'_>, depth: usize) -> Result<bool> {
    match place {
        Place::Keep => Ok(false),
        Place::Gone => Ok(true),
        _ => is_touched(editor, place, diff.elements().ok_or_else(wrong)?, kind_of(diff)?, depth + 1),
    }
}

/// What the diff of a document does to one field.
enum Step<'r, 'a> {
    Delete,
    /// `u` or `i`: the value, or where the new one lies in the scratch, with its type.
    Set(u8, New<'a>),
    Binary(Value<'a>),
    Sub(Place<'r>, Value<'a>),
}

enum New<'a> {
    Same(Value<'a>),
    Edited(u8, Vec<u8>),
    Null,
}

struct Field<'r, 'a> {
    name: Vec<u8>,
    is_renamed: bool,
    step: Step<'r, 'a>,
}

/// Writes the diff of a document, without its length and end.
fn document<'r>(
    editor: &mut Editor<'r, '_>,
    place: &Place<'r>,
    diff: Elements<'_>,
    kind: Kind,
    depth: usize,
) -> Result<()> {
    let mut fields = Vec::new();
    for member in diff {
        let member = member?;
        match member.name {
            section @ (b"d" | b"u" | b"i" | b"b") => {
                for field in member.value.elements().ok_or_else(wrong)? {
                    let field = field?;
                    take(editor, &mut fields, place, kind, (section[0], field.name, field.value), depth)?;
                }
            }
            [b's', name @ ..] => take(editor, &mut fields, place, kind, (b's', name, member.value), depth)?,
            _ => return Err(wrong()),
        }
    }
    settle(&mut fields, editor.rules)?;
    for section in [b'd', b'u', b'i', b'b'] {
        let mut start = None;
        for Field { name, step, .. } in &fields {
            match step {
                Step::Delete if section == b'd' => {}
                Step::Set(of, _) if *of == section => {}
                Step::Binary(_) if section == b'b' => {}
                _ => continue,
            }
            start = start.or_else(|| Some(open(editor.out, DOCUMENT, &[section])));
            match step {
                Step::Delete => {
                    header(editor.out, ElementType::Boolean as u8, name);
                    editor.out.push(0);
                }
                Step::Set(_, New::Same(value)) | Step::Binary(value) => element(editor.out, name, *value),
                Step::Set(_, new) => write_new(editor.out, name, new),
                Step::Sub(..) => {}
            }
        }
        if let Some(start) = start {
            close(editor.out, start)?;
        }
    }
    for Field { name, step, .. } in &fields {
        if let Step::Sub(place, diff) = step {
            sub(editor, &[b"s", name.as_slice()].concat(), place, *diff, depth)?;
        }
    }
    Ok(())
}

fn write_new(out: &mut Vec<u8>, name: &[u8], new: &New<'_>) {
    match new {
        New::Same(value) => element(out, name, *value),
        New::Null => header(out, NULL, name),
        New::Edited(kind, bytes) => {
            header(out, *kind, name);
            out.extend_from_slice(bytes);
        }
    }
}

fn new_value<'r, 'a>(
    editor: &mut Editor<'r, '_>,
    place: &Place<'r>,
    value: Value<'a>,
    depth: usize,
) -> Result<Option<New<'a>>> {
    let start = editor.out.len();
    Ok(match editor.value(place, value, depth)? {
        Edited::Same => Some(New::Same(value)),
        Edited::New(kind) => Some(New::Edited(kind, editor.out.drain(start..).collect())),
        Edited::Gone => None,
    })
}

fn take<'r, 'a>(
    editor: &mut Editor<'r, '_>,
    fields: &mut Vec<Field<'r, 'a>>,
    place: &Place<'r>,
    kind: Kind,
    (section, name, value): (u8, &'a [u8], Value<'a>),
    depth: usize,
) -> Result<()> {
    let reached = place.reach(name, kind == Kind::Top, editor.rules);
    let is_gone = matches!(reached.place, Place::Gone);
    let step = match section {
        // An element that is gone is null in the edited document.
        b'd' if is_gone && !reached.is_element => return Ok(()),
        b'd' => Step::Delete,
        b'u' | b'i' if is_gone && !reached.is_element => return Ok(()),
        b'u' | b'i' => match new_value(editor, &reached.place, value, depth)? {
            Some(new) => Step::Set(section, new),
            None if reached.is_element => Step::Set(section, New::Null),
            // It may have been a document with fields that are kept.
            None => Step::Delete,
        },
        _ if is_gone => return Ok(()),
        b'b' => match (&reached.place, reached.is_element) {
            (Place::Keep, _) => Step::Binary(value),
            (Place::Inside(_), _) if editor.rules.otherwise == super::tree::Otherwise::Keep => Step::Binary(value),
            (Place::Inside(_), false) => Step::Delete,
            _ => {
                return Err(Error::data(
                    "the update overwrites a part of a binary value, which cannot be redacted by itself",
                )
                .hint("only time-series buckets are changed like that: leave `system.buckets.*` out"));
            }
        },
        _ => Step::Sub(reached.place, value),
    };
    let is_renamed = reached.renamed.is_some();
    let name = reached.renamed.unwrap_or_else(|| name.to_vec());
    fields.push(Field { name, is_renamed, step });
    Ok(())
}

/// Sees to fields that were renamed to what others are called.
fn settle(fields: &mut Vec<Field<'_, '_>>, rules: &Rules) -> Result<()> {
    if !fields.iter().any(|f| f.is_renamed) {
        return Ok(());
    }
    let names: Vec<(Vec<u8>, bool, bool)> =
        fields.iter().map(|f| (f.name.clone(), f.is_renamed, matches!(f.step, Step::Delete))).collect();
    let mut at = 0;
    let mut is_collision = false;
    fields.retain(|f| {
        let here = at;
        at += 1;
        let others = || names.iter().enumerate().filter(|(i, other)| *i != here && other.0 == f.name);
        // One of the names went as the other came, which is what a renaming in the database looks like.
        if matches!(f.step, Step::Delete) {
            return others().all(|(i, other)| other.2 && i > here);
        }
        let gives_way = !f.is_renamed && others().any(|(_, other)| other.1 && !other.2);
        is_collision |= gives_way || f.is_renamed && others().any(|(_, other)| other.1 && !other.2);
        !gives_way
    });
    if is_collision && !rules.replaces { Err(collision()) } else { Ok(()) }
}

/// Writes a diff inside the diff, or nothing when nothing is left of it.
fn sub<'r>(editor: &mut Editor<'r, '_>, name: &[u8], place: &Place<'r>, diff: Value<'_>, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::data("a diff nests too deep to be edited"));
    }
    if matches!(place, Place::Keep) {
        element(editor.out, name, diff);
        return Ok(());
    }
    let begin = editor.out.len();
    let start = open(editor.out, DOCUMENT, name);
    let kind = kind_of(diff)?;
    let inner = diff.elements().ok_or_else(wrong)?;
    let empty = match kind {
        Kind::Array => {
            // `a: true` alone says nothing.
            header(editor.out, ElementType::Boolean as u8, b"a");
            editor.out.push(1);
            let empty = editor.out.len();
            array(editor, place, inner, depth + 1)?;
            empty
        }
        _ => {
            let empty = editor.out.len();
            document(editor, place, inner, Kind::Document, depth + 1)?;
            empty
        }
    };
    if editor.out.len() == empty {
        editor.out.truncate(begin);
        return Ok(());
    }
    close(editor.out, start)
}

fn array<'r>(editor: &mut Editor<'r, '_>, place: &Place<'r>, diff: Elements<'_>, depth: usize) -> Result<()> {
    for member in diff {
        let member = member?;
        match member.name {
            b"a" => {}
            b"l" => element(editor.out, member.name, member.value),
            [b'u', at @ ..] => {
                let new = new_value(editor, &place.element(index(at)?), member.value, depth)?;
                write_new(editor.out, member.name, &new.unwrap_or(New::Null));
            }
            [b's', at @ ..] => match place.element(index(at)?) {
                Place::Gone => {}
                inner => sub(editor, member.name, &inner, member.value, depth)?,
            },
            _ => return Err(wrong()),
        }
    }
    Ok(())
}
