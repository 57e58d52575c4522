//! Which fields a description of an update names, straight from its bytes.

use oplogue_api::{Change, Error, Result};
use serde::Deserialize;

use crate::raw::{Element, Elements, find, kind};

/// The option `fields`: how exactly the changed fields of an update are told.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Detail {
    /// Top-level names.
    #[default]
    TopLevel,
    /// The same, but the dotted paths of oplog entries of version 1 as they were logged.
    Logged,
    /// Paths, as deep as the description goes.
    Deep,
}

/// No server nests documents deeper than 200 levels; a damaged or hostile dump may.
const DEEPEST: usize = 250;

/// Calls `name` for each field that the change names, in the order of the description; a name may come twice. `false` when it
/// holds something that only the full decoder judges: what `name` got is incomplete then.
///
/// # Errors
/// `Data` when the description is damaged.
pub fn names(change: &Change, detail: Detail, name: &mut impl FnMut(&[u8])) -> Result<bool> {
    let deep = detail == Detail::Deep;
    match change {
        Change::OplogV2(diff) if deep => Deep { path: Vec::new(), name }.document(diff.as_bytes(), 0),
        Change::OplogV2(diff) => {
            for section in Elements::of(diff.as_bytes()) {
                let section = section?;
                match (section.name, section.kind) {
                    (b"i" | b"u" | b"d", kind::DOCUMENT) => {
                        for field in Elements::of(section.value) {
                            name(field?.name);
                        }
                    }
                    // Whatever is behind it, it concerns this field.
                    ([b's', field @ ..], _) => name(field),
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        Change::OplogV1(modifiers) => {
            for modifier in Elements::of(modifiers.as_bytes()) {
                let modifier = modifier?;
                match (modifier.name, modifier.kind) {
                    (b"$v", _) => {}
                    (b"$set" | b"$unset", kind::DOCUMENT) => {
                        for field in Elements::of(modifier.value) {
                            let path = field?.name;
                            name(if detail == Detail::TopLevel { top(path) } else { path });
                        }
                    }
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        Change::ChangeStream(description) => {
            for part in Elements::of(description.as_bytes()) {
                let part = part?;
                match (part.name, part.kind) {
                    (b"updatedFields", kind::DOCUMENT) if deep => {
                        let mut deep = Deep { path: Vec::new(), name: &mut *name };
                        for field in Elements::of(part.value) {
                            deep.value(&field?, 0)?;
                        }
                    }
                    (b"updatedFields", kind::DOCUMENT) => {
                        for field in Elements::of(part.value) {
                            name(top(field?.name));
                        }
                    }
                    (b"removedFields", kind::ARRAY) => {
                        for field in Elements::of(part.value) {
                            let Some(path) = field?.text() else { return Ok(false) };
                            name(if deep { path } else { top(path) });
                        }
                    }
                    // `{field, newSize}` each, and none as a rule.
                    (b"truncatedArrays", kind::ARRAY) => {
                        for array in Elements::of(part.value) {
                            let Some(path) = find(array?.value, "field")?.and_then(|f| f.text()) else {
                                return Ok(false);
                            };
                            name(if deep { path } else { top(path) });
                        }
                    }
                    // Which dots are part of a name: the decoder puts the two together. A deep path is the dotted one anyway.
                    (b"disambiguatedPaths", kind::DOCUMENT) if deep || part.value.len() <= 5 => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
    }
}

/// The part before the first dot.
fn top(path: &[u8]) -> &[u8] {
    path.split(|b| *b == b'.').next().unwrap_or(path)
}

/// Walks a diff of version 2 down to its leaves.
///
/// oplogtoredis names leaves alone, which hides a change from whoever sorts on a field that went with the old value; so here
///
/// - a sub-document that is set as a whole adds its own path before those of its leaves,
/// - an array that is cut adds its path,
/// - every index of a diff of an array is named, those of nested diffs too.
struct Deep<'a, F> {
    path: Vec<u8>,
    name: &'a mut F,
}

impl<F: FnMut(&[u8])> Deep<'_, F> {
    /// Runs `inside` with `name` at the end of the path.
    fn at<T>(&mut self, name: &[u8], inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push(b'.');
        }
        self.path.extend_from_slice(name);
        let result = inside(self);
        self.path.truncate(length);
        result
    }

    /// Names the path itself.
    fn here(&mut self) -> bool {
        (self.name)(&self.path);
        true
    }

    fn document(&mut self, diff: &[u8], depth: usize) -> Result<bool> {
        too_deep(depth)?;
        for section in Elements::of(diff) {
            let section = section?;
            let known = match (section.name, section.kind) {
                (b"i" | b"u" | b"d", kind::DOCUMENT) => {
                    for field in Elements::of(section.value) {
                        self.value(&field?, depth + 1)?;
                    }
                    true
                }
                ([b's', field @ ..], kind::DOCUMENT) => self.at(field, |deep| deep.sub(section.value, depth + 1))?,
                ([b's', field @ ..], _) => self.at(field, Deep::here),
                _ => false,
            };
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A diff of a value that is a document or an array.
    fn sub(&mut self, diff: &[u8], depth: usize) -> Result<bool> {
        let is_array = Elements::of(diff).next().transpose()?.is_some_and(|e| (e.name, e.kind) == (b"a", kind::BOOL));
        if !is_array {
            return self.document(diff, depth);
        }
        too_deep(depth)?;
        for edit in Elements::of(diff).skip(1) {
            let edit = edit?;
            let known = match (edit.name, edit.kind) {
                (b"l", _) => self.here(),
                ([b'u', index @ ..], _) if is_index(index) => self.at(index, Deep::here),
                ([b's', index @ ..], kind::DOCUMENT) if is_index(index) => {
                    self.at(index, |deep| deep.sub(edit.value, depth + 1))?
                }
                _ => false,
            };
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A value that was set, or removed.
    fn value(&mut self, field: &Element<'_>, depth: usize) -> Result<()> {
        too_deep(depth)?;
        self.at(field.name, |deep| {
            deep.here();
            if field.kind == kind::DOCUMENT {
                for inner in Elements::of(field.value) {
                    deep.value(&inner?, depth + 1)?;
                }
            }
            Ok(())
        })
    }
}

fn is_index(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn too_deep(depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::data(format!("the change nests deeper than {DEEPEST} levels")));
    }
    Ok(())
}
