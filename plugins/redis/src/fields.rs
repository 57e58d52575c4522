//! The `f` of a message: which fields an event concerns.

use std::{collections::HashSet, ops::Range};

use oplogue_api::{Change, Doc, Error, Event, Op, Result};

use crate::{
    json::write_text,
    raw::{Elements, kind},
};

/// Writes the array `f`: all top-level keys of an insert or replacement, the changed top-level names of an update in the
/// order of the server's description and each once, nothing for a delete.
///
/// Top-level names are enough for every subscriber, and deep paths are not: a subscriber that sorts on a field of array
/// elements does not recognise `list.0.field`.
#[derive(Default)]
pub struct FieldList {
    /// Where the names of this list stand in the output, to leave out the second of two equal ones.
    seen: Vec<Range<usize>>,
    /// The same by content, once they are many.
    many: HashSet<Vec<u8>>,
}

/// Beyond this many names a hash set finds a repeated one faster than looking at each.
const FEW: usize = 16;

impl FieldList {
    /// Appends the array.
    ///
    /// # Errors
    /// `Data` when the event does not say what it changed, or its documents are damaged. The output is then incomplete.
    pub fn write(&mut self, out: &mut Vec<u8>, event: &Event) -> Result<()> {
        out.push(b'[');
        let start = out.len();
        match event.op {
            Op::Insert | Op::Replace => {
                let after = event.after.as_ref().ok_or_else(|| Error::data("the event does not hold its document"))?;
                keys(out, after)?;
            }
            Op::Update => {
                self.seen.clear();
                self.many.clear();
                match &event.change {
                    Some(change) => {
                        if !self.changed(out, change)? {
                            out.truncate(start);
                            self.seen.clear();
                            self.many.clear();
                            self.decoded(out, change)?;
                        }
                    }
                    // A superset does no harm.
                    None => keys(
                        out,
                        event.after.as_ref().ok_or_else(|| Error::data("the update does not say what it changed"))?,
                    )?,
                }
            }
            _ => {}
        }
        if out.len() > start {
            out.pop(); // the comma behind the last name
        }
        out.push(b']');
        Ok(())
    }

    /// The names straight from the description; `false` when it holds something that only the full decoder judges.
    fn changed(&mut self, out: &mut Vec<u8>, change: &Change) -> Result<bool> {
        match change {
            Change::OplogV2(diff) => {
                for section in Elements::of(diff.as_bytes()) {
                    let section = section?;
                    match (section.name, section.kind) {
                        (b"i" | b"u" | b"d", kind::DOCUMENT) => {
                            for field in Elements::of(section.value) {
                                self.name(out, field?.name);
                            }
                        }
                        ([b's', name @ ..], kind::DOCUMENT) => self.name(out, name),
                        _ => return Ok(false),
                    }
                }
            }
            Change::OplogV1(modifiers) => {
                for modifier in Elements::of(modifiers.as_bytes()) {
                    let modifier = modifier?;
                    match (modifier.name, modifier.kind) {
                        (b"$v", _) => {}
                        (b"$set" | b"$unset", kind::DOCUMENT) => {
                            for field in Elements::of(modifier.value) {
                                self.name(out, top(field?.name));
                            }
                        }
                        _ => return Ok(false),
                    }
                }
            }
            Change::ChangeStream(description) => {
                for part in Elements::of(description.as_bytes()) {
                    let part = part?;
                    match (part.name, part.kind) {
                        (b"updatedFields", kind::DOCUMENT) => {
                            for field in Elements::of(part.value) {
                                self.name(out, top(field?.name));
                            }
                        }
                        (b"removedFields", kind::ARRAY) => {
                            for field in Elements::of(part.value) {
                                let Some(path) = field?.text() else { return Ok(false) };
                                self.name(out, top(path));
                            }
                        }
                        // `{field, newSize}` each, and none as a rule.
                        (b"truncatedArrays", kind::ARRAY) => {
                            for array in Elements::of(part.value) {
                                let Some(path) = crate::raw::find(array?.value, "field")?.and_then(|f| f.text()) else {
                                    return Ok(false);
                                };
                                self.name(out, top(path));
                            }
                        }
                        // Which dots are part of a name: the decoder puts the two together.
                        (b"disambiguatedPaths", kind::DOCUMENT) if part.value.len() <= 5 => {}
                        _ => return Ok(false),
                    }
                }
            }
        }
        Ok(true)
    }

    fn decoded(&mut self, out: &mut Vec<u8>, change: &Change) -> Result<()> {
        let update = change.decode()?;
        let set = update.set.iter().map(|(path, _)| path);
        let truncated = update.truncate.iter().map(|(path, _)| path);
        for path in set.chain(&update.unset).chain(truncated) {
            self.name(out, path.top().as_bytes());
        }
        Ok(())
    }

    /// Appends one name and a comma, if it is not there yet.
    fn name(&mut self, out: &mut Vec<u8>, name: &[u8]) {
        let start = out.len();
        write_text(out, name);
        let (before, new) = out.split_at(start);
        let known = if self.seen.len() < FEW {
            self.seen.iter().any(|range| before[range.clone()] == *new)
        } else {
            if self.many.is_empty() {
                self.many.extend(self.seen.iter().map(|range| before[range.clone()].to_vec()));
            }
            !self.many.insert(new.to_vec())
        };
        if known {
            out.truncate(start);
            return;
        }
        self.seen.push(start..out.len());
        out.push(b',');
    }
}

/// All top-level keys, each with a comma.
fn keys(out: &mut Vec<u8>, doc: &Doc) -> Result<()> {
    for element in Elements::of(doc.as_bytes()) {
        write_text(out, element?.name);
        out.push(b',');
    }
    Ok(())
}

/// The part before the first dot.
fn top(path: &[u8]) -> &[u8] {
    path.split(|b| *b == b'.').next().unwrap_or(path)
}
