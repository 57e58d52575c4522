//! Editing what an update says it changed, so that whoever applies it to an edited document has the edited result.

use oplogue_api::{
    Change, Doc, Error, Result,
    bson::{RawDocument, spec::ElementType},
    raw::{Element, Value, elements},
};

use super::{
    diff,
    document::{ARRAY, DOCUMENT, Edited, Editor, NULL, close, collision, element, finished, header, is_empty, open},
    tree::{Place, Reached, Rules},
};

/// The change after the rules; `None` when they do not touch it.
pub(super) fn edit(rules: &Rules, change: &Change, scratch: &mut Vec<u8>) -> Result<Option<Change>> {
    Ok(match change {
        Change::ChangeStream(doc) => dotted(rules, doc, Dialect::Description, scratch)?.map(Change::ChangeStream),
        Change::OplogV1(doc) => dotted(rules, doc, Dialect::Modifiers, scratch)?.map(Change::OplogV1),
        Change::OplogV2(doc) => diff::edit(rules, doc, scratch)?.map(Change::OplogV2),
    })
}

/// Whether a change says nothing.
pub(super) fn says_nothing(change: &Change) -> bool {
    match change {
        Change::OplogV2(diff) => is_empty(diff),
        Change::ChangeStream(doc) | Change::OplogV1(doc) => elements(doc).all(|part| {
            part.is_ok_and(|part| match part.name {
                b"$v" | b"disambiguatedPaths" => true,
                _ => part.value.elements().is_none_or(|mut inner| inner.next().is_none()),
            })
        }),
    }
}

/// Both name fields by dotted paths.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `{updatedFields, removedFields, truncatedArrays?, disambiguatedPaths?}`
    Description,
    /// `{$v: 1, $set, $unset}`
    Modifiers,
}

/// A value that is set.
enum New<'a> {
    Same(Value<'a>),
    /// Its type, and where it lies in the scratch.
    Edited(u8, std::ops::Range<usize>),
    Null,
}

/// A path as it is written, and where the part of it that is renamed ends (0: none is).
struct Written {
    path: Vec<u8>,
    renamed_to: usize,
}

#[derive(Default)]
struct Parts<'a> {
    set: Vec<(Written, New<'a>)>,
    unset: Vec<Written>,
    truncate: Vec<(Written, Value<'a>)>,
    /// Members that are not about fields.
    others: Vec<Element<'a>>,
    exact: Vec<Element<'a>>,
}

fn dotted(rules: &Rules, doc: &Doc, dialect: Dialect, scratch: &mut Vec<u8>) -> Result<Option<Doc>> {
    scratch.clear();
    let mut editor = Editor { rules, out: scratch };
    if !is_touched(&mut editor, doc)? {
        return Ok(None);
    }
    let mut parts = Parts::default();
    for member in elements(doc) {
        let member = member?;
        match member.name {
            b"updatedFields" | b"$set" if member.value.elements().is_some() => {
                for field in inner(&member)? {
                    set(&mut editor, &mut parts, field?)?;
                }
            }
            b"removedFields" => {
                for field in inner(&member)? {
                    let path = field?.value.text().ok_or_else(wrong)?;
                    unset(rules, &mut parts, path);
                }
            }
            b"$unset" => {
                for field in inner(&member)? {
                    unset(rules, &mut parts, field?.name);
                }
            }
            b"truncatedArrays" => {
                for entry in inner(&member)? {
                    let (field, size) = truncated(entry?.value)?;
                    let reached = rules.top().reach(field, true, rules);
                    if !matches!(reached.place, Place::Gone) {
                        parts.truncate.push((written(field, reached), size));
                    }
                }
            }
            b"disambiguatedPaths" if member.value.elements().is_some() => {
                parts.exact = inner(&member)?.collect::<Result<_>>()?;
            }
            _ => parts.others.push(member),
        }
    }
    parts.settle(rules)?;
    let start = scratch.len();
    match dialect {
        Dialect::Description => parts.description(rules, scratch)?,
        Dialect::Modifiers => parts.modifiers(scratch)?,
    }
    finished(&scratch[start..]).map(Some)
}

/// Whether the rules touch anything that is named, which costs nothing to find out when they do not.
fn is_touched(editor: &mut Editor<'_, '_>, doc: &RawDocument) -> Result<bool> {
    let rules = editor.rules;
    let other = |path: &[u8]| {
        let reached = rules.top().reach(path, true, rules);
        reached.renamed.is_some() || matches!(reached.place, Place::Gone)
    };
    for member in elements(doc) {
        let member = member?;
        let Some(inner) = member.value.elements() else { continue };
        for field in inner {
            let field = field?;
            let is_touched = match member.name {
                b"updatedFields" | b"$set" => {
                    let reached = rules.top().reach(field.name, true, rules);
                    reached.renamed.is_some() || editor.value(&reached.place, field.value, 0)? != Edited::Same
                }
                b"removedFields" => other(field.value.text().ok_or_else(wrong)?),
                b"$unset" => other(field.name),
                b"truncatedArrays" => other(truncated(field.value)?.0),
                _ => false,
            };
            if is_touched {
                editor.out.clear();
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn wrong() -> Error {
    Error::data("the update description is not of the known shape")
}

fn inner<'a>(member: &Element<'a>) -> Result<oplogue_api::raw::Elements<'a>> {
    // `null` instead of an empty list has been seen from servers that stand in for MongoDB.
    const NOTHING: &[u8] = &[5, 0, 0, 0, 0];
    match member.value.elements() {
        Some(inner) => Ok(inner),
        None if member.value.kind() == Some(ElementType::Null) => {
            Ok(elements(RawDocument::from_bytes(NOTHING).map_err(|_| wrong())?))
        }
        None => Err(wrong()),
    }
}

/// `{field: path, newSize: n}`
fn truncated(entry: Value<'_>) -> Result<(&[u8], Value<'_>)> {
    let (mut field, mut size) = (None, None);
    for member in entry.elements().ok_or_else(wrong)? {
        let member = member?;
        match member.name {
            b"field" => field = member.value.text(),
            b"newSize" => size = Some(member.value),
            _ => {}
        }
    }
    field.zip(size).ok_or_else(wrong)
}

fn written(path: &[u8], reached: Reached<'_>) -> Written {
    let renamed_to = reached.renamed_to;
    Written { path: reached.renamed.unwrap_or_else(|| path.to_vec()), renamed_to }
}

fn set<'a>(editor: &mut Editor<'_, '_>, parts: &mut Parts<'a>, field: Element<'a>) -> Result<()> {
    let rules = editor.rules;
    let reached = rules.top().reach(field.name, true, rules);
    if matches!(reached.place, Place::Gone) {
        if reached.is_element {
            // The element is null in the edited document, whatever is set in it, and may come to be with this.
            parts.set_null(&field.name[..reached.length]);
        }
        return Ok(());
    }
    let start = editor.out.len();
    match editor.value(&reached.place, field.value, 0)? {
        Edited::Same => parts.set.push((written(field.name, reached), New::Same(field.value))),
        Edited::New(kind) => {
            let new = New::Edited(kind, start..editor.out.len());
            parts.set.push((written(field.name, reached), new));
        }
        Edited::Gone if reached.is_element => parts.set_null(field.name),
        // It may have been a document with fields that are kept.
        Edited::Gone => parts.unset.push(written(field.name, reached)),
    }
    Ok(())
}

fn unset(rules: &Rules, parts: &mut Parts<'_>, path: &[u8]) {
    let reached = rules.top().reach(path, true, rules);
    match reached.place {
        Place::Gone if !(reached.is_element && reached.length == path.len()) => {}
        _ => parts.unset.push(written(path, reached)),
    }
}

/// Whether a path is `other` or lies in it.
fn lies_in(path: &[u8], other: &[u8]) -> bool {
    path.strip_prefix(other).is_some_and(|rest| matches!(rest, [] | [b'.', ..]))
}

impl Parts<'_> {
    fn set_null(&mut self, path: &[u8]) {
        if !self.set.iter().any(|(written, _)| written.path == path) {
            self.set.push((Written { path: path.to_vec(), renamed_to: 0 }, New::Null));
        }
    }

    /// Sees to fields that were renamed to what others are called.
    fn settle(&mut self, rules: &Rules) -> Result<()> {
        let renamed = |w: &Written| (w.renamed_to > 0).then(|| w.path[..w.renamed_to].to_vec());
        let sets: Vec<_> = self.set.iter().filter_map(|(w, _)| renamed(w)).collect();
        let unsets: Vec<_> = self.unset.iter().filter_map(renamed).collect();
        let truncates: Vec<_> = self.truncate.iter().filter_map(|(w, _)| renamed(w)).collect();
        if sets.is_empty() && unsets.is_empty() && truncates.is_empty() {
            return Ok(());
        }
        // One of the names went as the other came, which is what a renaming in the database looks like.
        let set_paths: Vec<Vec<u8>> = self.set.iter().map(|(w, _)| w.path.clone()).collect();
        self.unset.retain(|unset| !set_paths.contains(&unset.path));
        let gives_way =
            |w: &Written| w.renamed_to == 0 && sets.iter().chain(&truncates).any(|renamed| lies_in(&w.path, renamed));
        let before = self.set.len() + self.unset.len() + self.truncate.len();
        self.set.retain(|(w, _)| !gives_way(w));
        self.unset.retain(|w| !gives_way(w));
        self.truncate.retain(|(w, _)| !gives_way(w));
        let after = self.set.len() + self.unset.len() + self.truncate.len();
        if before == after || rules.replaces { Ok(()) } else { Err(collision()) }
    }

    fn sets(&self, name: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = open(out, DOCUMENT, name);
        for (written, new) in &self.set {
            match new {
                New::Same(value) => element(out, &written.path, *value),
                New::Null => header(out, NULL, &written.path),
                New::Edited(kind, range) => {
                    header(out, *kind, &written.path);
                    out.extend_from_within(range.clone());
                }
            }
        }
        close(out, start)
    }

    fn modifiers(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        for other in &self.others {
            element(out, other.name, other.value);
        }
        if !self.unset.is_empty() {
            let unset = open(out, DOCUMENT, b"$unset");
            for written in &self.unset {
                header(out, ElementType::Boolean as u8, &written.path);
                out.push(1);
            }
            close(out, unset)?;
        }
        if !self.set.is_empty() {
            self.sets(b"$set", out)?;
        }
        close(out, start)
    }

    fn description(&self, rules: &Rules, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.sets(b"updatedFields", out)?;
        let removed = open(out, ARRAY, b"removedFields");
        for (i, written) in self.unset.iter().enumerate() {
            string(out, i.to_string().as_bytes(), &written.path);
        }
        close(out, removed)?;
        if !self.truncate.is_empty() {
            let truncated = open(out, ARRAY, b"truncatedArrays");
            for (i, (written, size)) in self.truncate.iter().enumerate() {
                let entry = open(out, DOCUMENT, i.to_string().as_bytes());
                string(out, b"field", &written.path);
                element(out, b"newSize", *size);
                close(out, entry)?;
            }
            close(out, truncated)?;
        }
        if !self.exact.is_empty() {
            self.exact_paths(rules, out)?;
        }
        for other in &self.others {
            element(out, other.name, other.value);
        }
        close(out, start)
    }

    /// `disambiguatedPaths` of those paths that are still there, with new names.
    fn exact_paths(&self, rules: &Rules, out: &mut Vec<u8>) -> Result<()> {
        let start = open(out, DOCUMENT, b"disambiguatedPaths");
        let mut done: Vec<Vec<u8>> = Vec::new();
        for exact in &self.exact {
            let reached = rules.top().reach(exact.name, true, rules);
            let length = reached.length;
            let path = written(&exact.name[..length], reached).path;
            let is_there = |w: &Written| w.path == path;
            if !(self.set.iter().any(|(w, _)| is_there(w))
                || self.unset.iter().any(is_there)
                || self.truncate.iter().any(|(w, _)| is_there(w)))
                || done.contains(&path)
            {
                continue;
            }
            let parts = open(out, ARRAY, &path);
            let (mut place, mut used) = (rules.top(), 0);
            for (i, part) in exact.value.elements().ok_or_else(wrong)?.enumerate() {
                if used > length {
                    break;
                }
                let (part, index) = (part?, i.to_string());
                let Some(name) = part.value.text() else {
                    // An index, as a number.
                    let at = part.value.bytes().first_chunk().map_or(0, |n| u32::from_le_bytes(*n));
                    used += at.to_string().len() + 1;
                    place = place.element(at as usize);
                    element(out, index.as_bytes(), part.value);
                    continue;
                };
                used += name.len() + 1;
                let reached = place.reach(name, i == 0, rules);
                string(out, index.as_bytes(), reached.renamed.as_deref().unwrap_or(name));
                place = reached.place;
            }
            close(out, parts)?;
            done.push(path);
        }
        close(out, start)
    }
}

fn string(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    header(out, ElementType::String as u8, name);
    write_text(out, text);
}

/// A text as BSON has it, without type and name.
pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(text);
    out.push(0);
    // Its length counts the zero byte, not itself. No text is longer than the document it lies in.
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
