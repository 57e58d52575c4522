//! Editing a document as it lies in memory: what no rule touches is copied in one piece, and not at all when nothing is touched.

use oplogue_api::{
    Doc, Error, Result,
    bson::{RawDocument, spec::ElementType},
    bytes::Bytes,
    raw::{Elements, Value, elements},
};

use super::tree::{DEEPEST, Otherwise, Place, Rules};

pub(super) const DOCUMENT: u8 = ElementType::EmbeddedDocument as u8;
pub(super) const ARRAY: u8 = ElementType::Array as u8;
pub(super) const NULL: u8 = ElementType::Null as u8;

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edited {
    Same,
    /// It was written, with this type.
    New(u8),
    Gone,
}

/// The document after the rules; `None` when they do not touch it.
pub(super) fn edit(rules: &Rules, doc: &Doc, scratch: &mut Vec<u8>) -> Result<Option<Doc>> {
    scratch.clear();
    let is_new = Editor { rules, out: scratch }.document(&rules.top(), doc.as_bytes(), elements(doc), Kind::Top, 0)?;
    is_new.then(|| finished(scratch)).transpose()
}

/// What was written, by itself.
pub(super) fn finished(bytes: &[u8]) -> Result<Doc> {
    Doc::new(Bytes::copy_from_slice(bytes)).map_err(|_| Error::bug("an edited document has no frame"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The document of an event, or the diff of one.
    Top,
    Document,
    Array,
}

pub(super) struct Editor<'r, 'o> {
    pub(super) rules: &'r Rules,
    pub(super) out: &'o mut Vec<u8>,
}

impl<'r> Editor<'r, '_> {
    /// Writes the value as it is at a place, without type and name; nothing unless it is new.
    pub(super) fn value(&mut self, place: &Place<'r>, value: Value<'_>, depth: usize) -> Result<Edited> {
        let kind = match value.kind() {
            Some(ElementType::Array) => Kind::Array,
            _ => Kind::Document,
        };
        match (place, value.elements()) {
            (Place::Keep, _) => Ok(Edited::Same),
            (Place::Gone, _) => Ok(Edited::Gone),
            (Place::Rewrite(rewrite), None) => Ok(rewrite.rewrite(value, self.out).map_or(Edited::Same, Edited::New)),
            // As a projection has it: where the list asks for fields inside, a value that holds none is not asked for.
            (Place::Inside(_), None) => match self.rules.otherwise {
                Otherwise::Keep => Ok(Edited::Same),
                Otherwise::Remove => Ok(Edited::Gone),
            },
            (Place::Rewrite(_) | Place::Inside(_), Some(elements)) => {
                let is_new = self.document(place, value.bytes(), elements, kind, depth + 1)?;
                let kind = if kind == Kind::Array { ARRAY } else { DOCUMENT };
                Ok(if is_new { Edited::New(kind) } else { Edited::Same })
            }
        }
    }

    /// Writes the document or array whose `bytes` hold these elements, and says whether it is new; nothing when it is not.
    pub(super) fn document(
        &mut self,
        place: &Place<'r>,
        bytes: &[u8],
        elements: Elements<'_>,
        kind: Kind,
        depth: usize,
    ) -> Result<bool> {
        if depth > DEEPEST {
            return Err(Error::data("a document nests too deep to be edited"));
        }
        let taken = self.taken(place, &elements, kind)?;
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        // What lies before `copied` has been written or left out; the element at hand ends at `end`.
        let (mut copied, mut end, mut is_new) = (4, 4, false);
        for (index, element) in elements.enumerate() {
            let element = element?;
            let begin = end;
            end += 2 + element.name.len() + element.value.bytes().len();
            let value_begin = end - element.value.bytes().len();
            let (mut inner, renamed, mut is_element) = match (place, kind) {
                (_, Kind::Array) => (place.element(index), None, true),
                (Place::Inside(_), _) => {
                    let reached = place.reach(element.name, kind == Kind::Top, self.rules);
                    (reached.place, reached.renamed, reached.is_element)
                }
                (place, _) => (place.clone(), None, false),
            };
            if renamed.is_none() && taken.iter().any(|name| **name == *element.name) {
                (inner, is_element) = (Place::Gone, false);
            }
            if matches!(inner, Place::Keep) && renamed.is_none() {
                continue;
            }
            self.out.extend_from_slice(&bytes[copied..begin]);
            let header = self.out.len();
            self.out.push(bytes[begin]);
            self.out.extend_from_slice(renamed.as_deref().unwrap_or(element.name));
            self.out.push(0);
            copied = value_begin;
            is_new |= renamed.is_some();
            match self.value(&inner, element.value, depth)? {
                Edited::Same => continue,
                Edited::New(kind) => self.out[header] = kind,
                // An array keeps its length, as with `$unset`: the indexes of later changes count on it.
                Edited::Gone if is_element => self.out[header] = NULL,
                Edited::Gone => self.out.truncate(header),
            }
            copied = end;
            is_new = true;
        }
        if end + 1 != bytes.len() {
            return Err(Error::data("damaged BSON"));
        }
        if is_new {
            self.out.extend_from_slice(&bytes[copied..]);
            patch_length(self.out, start)?;
        } else {
            self.out.truncate(start);
        }
        Ok(is_new)
    }

    /// The names that renamed fields of this document get, if others have them: those give way, or the document is refused.
    fn taken(&self, place: &Place<'r>, elements: &Elements<'_>, kind: Kind) -> Result<Vec<Vec<u8>>> {
        let Place::Inside(active) = place else { return Ok(Vec::new()) };
        if kind == Kind::Array || !active.has_renames() {
            return Ok(Vec::new());
        }
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for element in elements.clone() {
            let name = element?.name;
            match place.reach(name, kind == Kind::Top, self.rules).renamed {
                Some(to) => new.push(to),
                None => old.push(name),
            }
        }
        new.sort_unstable();
        let is_twice = new.windows(2).any(|w| w[0] == w[1]);
        new.retain(|to| old.contains(&&**to));
        if is_twice || !(new.is_empty() || self.rules.replaces) {
            return Err(collision());
        }
        Ok(new)
    }
}

pub(super) fn collision() -> Error {
    Error::data("a renamed field would get the name of another one")
        .hint("set existing = \"replace\" if the renamed one is to take its place")
}

/// Enters the length of the document that begins at `start` and ends here.
pub(super) fn patch_length(out: &mut [u8], start: usize) -> Result<()> {
    let length = i32::try_from(out.len() - start).map_err(|_| Error::data("an edited document is too large"))?;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Begins a document: what to give to [`close`].
pub(super) fn open(out: &mut Vec<u8>, kind: u8, name: &[u8]) -> usize {
    header(out, kind, name);
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

/// Ends the document that was begun there.
pub(super) fn close(out: &mut Vec<u8>, start: usize) -> Result<()> {
    out.push(0);
    patch_length(out, start)
}

pub(super) fn header(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    out.push(kind);
    out.extend_from_slice(name);
    out.push(0);
}

/// Writes an element as it was, under a name.
pub(super) fn element(out: &mut Vec<u8>, name: &[u8], value: Value<'_>) {
    header(out, value.kind().map_or(NULL, |kind| kind as u8), name);
    out.extend_from_slice(value.bytes());
}

/// Whether a document has no fields.
pub(super) fn is_empty(doc: &RawDocument) -> bool {
    doc.as_bytes().len() <= 5
}
