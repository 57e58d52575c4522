//! The `f` of a message: which fields an event concerns.

use std::{collections::HashSet, ops::Range};

use oplogue_api::{Change, Doc, Error, Event, Op, Result};

use crate::{
    changed::{Detail, names},
    json::write_text,
    raw::Elements,
};

/// Writes the array `f`: all top-level keys of an insert; those of the new document and, where it is known, of the old one for a
/// replacement; the changed fields of an update in the order of the server's description and each once; nothing for a delete.
///
/// Top-level names are enough for every subscriber, and deep paths are not: a subscriber that sorts on a field of array
/// elements does not recognise `list.0.field`.
#[derive(Default)]
pub struct FieldList {
    detail: Detail,
    /// Where the names of this list stand in the output, to leave out the second of two equal ones.
    seen: Vec<Range<usize>>,
    /// The same by content, once they are many.
    many: HashSet<Vec<u8>>,
}

/// Beyond this many names a hash set finds a repeated one faster than looking at each.
const FEW: usize = 16;

impl FieldList {
    /// Lists of this detail.
    pub fn new(detail: Detail) -> FieldList {
        FieldList { detail, ..FieldList::default() }
    }

    /// Appends the array for one event, or for several events of one document together: `earlier` and then `last`.
    ///
    /// # Errors
    /// `Data` when an event does not say what it changed, or its documents are damaged. The output is then incomplete.
    pub fn write(&mut self, out: &mut Vec<u8>, earlier: &[&Event], last: &Event) -> Result<()> {
        out.push(b'[');
        let start = out.len();
        if earlier.is_empty() && last.op == Op::Insert {
            // No name twice, nothing to compare.
            for element in Elements::of(after(last)?.as_bytes()) {
                write_text(out, element?.name);
                out.push(b',');
            }
        } else {
            self.seen.clear();
            self.many.clear();
            for event in earlier.iter().copied().chain([last]) {
                self.add(out, event)?;
            }
        }
        if out.len() > start {
            out.pop(); // the comma behind the last name
        }
        out.push(b']');
        Ok(())
    }

    fn add(&mut self, out: &mut Vec<u8>, event: &Event) -> Result<()> {
        match event.op {
            Op::Insert => self.keys(out, after(event)?),
            Op::Replace => {
                self.keys(out, after(event)?)?;
                // Who sorts on a field that was dropped must hear of it.
                event.before.as_ref().map_or(Ok(()), |before| self.keys(out, before))
            }
            Op::Update => match (&event.change, &event.after) {
                (Some(change), _) => self.changed(out, change),
                // A superset does no harm.
                (None, Some(after)) => self.keys(out, after),
                (None, None) => Err(Error::data("the update does not say what it changed")),
            },
            _ => Ok(()),
        }
    }

    fn changed(&mut self, out: &mut Vec<u8>, change: &Change) -> Result<()> {
        let (start, known) = (out.len(), self.seen.len());
        if names(change, self.detail, &mut |name| self.name(out, name))? {
            return Ok(());
        }
        out.truncate(start);
        self.seen.truncate(known);
        self.many.clear();
        let update = change.decode()?;
        let set = update.set.iter().map(|(path, _)| path);
        let truncated = update.truncate.iter().map(|(path, _)| path);
        for path in set.chain(&update.unset).chain(truncated) {
            self.name(out, path.top().as_bytes());
        }
        Ok(())
    }

    /// All top-level keys.
    fn keys(&mut self, out: &mut Vec<u8>, doc: &Doc) -> Result<()> {
        for element in Elements::of(doc.as_bytes()) {
            self.name(out, element?.name);
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

fn after(event: &Event) -> Result<&Doc> {
    event.after.as_ref().ok_or_else(|| Error::data("the event does not hold its document"))
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
