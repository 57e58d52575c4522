//! Joining the fragments that `$changeStreamSplitLargeEvent` makes of an event that does not fit in a reply.

use bson::{RawDocument, RawDocumentBuf, raw::cstr};
use oplogue_api::{Doc, Error, Result};

/// The fragments of one event so far. Memory is bounded to that event (I6).
#[derive(Default)]
pub(super) struct Fragments {
    parts: Vec<Doc>,
}

impl Fragments {
    /// Whether an event is half read.
    pub fn is_open(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Takes a change event or a fragment of one; gives it back when it is whole. A joined event has the `_id` of its last
    /// fragment, behind which reading goes on.
    ///
    /// # Errors
    /// Of kind `Transient` when a fragment is missing: the stream has to be opened again before the event.
    pub fn add(&mut self, doc: Doc) -> Result<Option<Doc>> {
        let Some((fragment, of)) = split_event(&doc) else {
            if self.is_open() {
                return Err(self.broken());
            }
            return Ok(Some(doc));
        };
        if usize::try_from(fragment) != Ok(self.parts.len() + 1) || fragment > of {
            return Err(self.broken());
        }
        // Each fragment nearly fills a reply, so it shares its memory with nothing else.
        self.parts.push(doc);
        if fragment < of {
            return Ok(None);
        }
        let parts = std::mem::take(&mut self.parts);
        Ok(Some(join(&parts)?))
    }

    fn broken(&mut self) -> Error {
        self.parts.clear();
        Error::transient("the fragments of a large change event came out of order")
    }
}

fn split_event(doc: &RawDocument) -> Option<(i32, i32)> {
    let split = doc.get_document("splitEvent").ok()?;
    Some((split.get_i32("fragment").ok()?, split.get_i32("of").ok()?))
}

fn join(parts: &[Doc]) -> Result<Doc> {
    let mut joined = RawDocumentBuf::new();
    if let Some(token) = parts.last().and_then(|last| last.get_document("_id").ok()) {
        joined.append(cstr!("_id"), token);
    }
    for part in parts {
        for element in part.iter_elements() {
            let element = element.map_err(|_| Error::transient("a fragment of a change event is no valid BSON"))?;
            if matches!(element.key().as_str(), "_id" | "splitEvent") {
                continue;
            }
            let value =
                element.value().map_err(|_| Error::transient("a fragment of a change event is no valid BSON"))?;
            joined.append(element.key(), value);
        }
    }
    Ok(Doc::from(joined))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn part(n: i32, of: i32, name: &str) -> Doc {
        let mut doc = rawdoc! {"_id": {"_data": format!("{n}")}, "splitEvent": {"fragment": n, "of": of}};
        doc.append(bson::raw::CString::try_from(name).unwrap(), n);
        doc.into()
    }

    #[test]
    fn fragments_are_joined_in_order() {
        let mut f = Fragments::default();
        let whole: Doc = rawdoc! {"_id": {"_data": "0"}, "a": 1}.into();
        assert_eq!(f.add(whole.clone()).unwrap(), Some(whole));
        assert!(f.add(part(1, 3, "a")).unwrap().is_none());
        assert!(f.is_open());
        assert!(f.add(part(2, 3, "b")).unwrap().is_none());
        let joined = f.add(part(3, 3, "c")).unwrap().unwrap();
        assert_eq!(joined, rawdoc! {"_id": {"_data": "3"}, "a": 1, "b": 2, "c": 3}.into());
        assert!(!f.is_open());
    }

    #[test]
    fn a_missing_fragment_is_an_error_and_leaves_nothing_behind() {
        let mut f = Fragments::default();
        f.add(part(1, 3, "a")).unwrap();
        f.add(part(3, 3, "c")).unwrap_err();
        assert!(!f.is_open());
        f.add(part(2, 3, "b")).unwrap_err();
        f.add(part(1, 2, "a")).unwrap();
        f.add(rawdoc! {"_id": {}}.into()).unwrap_err();
        assert!(!f.is_open());
    }
}
