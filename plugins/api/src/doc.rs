use std::{fmt, ops::Deref};

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;

use crate::{Error, Result};

/// A raw BSON document: a shared slice of the reply that it arrived in.
///
/// Cloning costs a reference count. Because a slice keeps the whole reply alive (up to 48 MB), whoever keeps a
/// document longer than its batch calls [`Doc::detach`].
#[derive(Clone, PartialEq, Eq)]
pub struct Doc(Bytes);

impl Doc {
    /// Takes `bytes` as one BSON document. Checks the frame (length prefix, terminator), not the elements: those are
    /// checked where they are read.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::ErrorKind::Data) when the frame is not that of a BSON document.
    pub fn new(bytes: Bytes) -> Result<Doc> {
        match RawDocument::from_bytes(&bytes) {
            Ok(_) => Ok(Doc(bytes)),
            Err(e) => Err(Error::data(format!("not a BSON document: {e}"))),
        }
    }

    /// The empty document.
    pub fn empty() -> Doc {
        Doc(Bytes::from_static(&[5, 0, 0, 0, 0]))
    }

    /// A document inside this one, sharing its memory.
    ///
    /// # Panics
    /// When `inner` does not lie inside this document's bytes.
    pub fn slice(&self, inner: &RawDocument) -> Doc {
        Doc(self.0.slice_ref(inner.as_bytes()))
    }

    /// A copy that shares no memory with the reply.
    pub fn detach(&self) -> Doc {
        Doc(Bytes::copy_from_slice(&self.0))
    }

    /// The document's bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Deref for Doc {
    type Target = RawDocument;
    fn deref(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.0).expect("the frame was checked when the Doc was made")
    }
}

impl From<RawDocumentBuf> for Doc {
    fn from(doc: RawDocumentBuf) -> Doc {
        Doc(Bytes::from(doc.into_bytes()))
    }
}

impl From<&RawDocument> for Doc {
    fn from(doc: &RawDocument) -> Doc {
        Doc(Bytes::copy_from_slice(doc.as_bytes()))
    }
}

// I8: a document's content must not reach a log through `{:?}` either.
impl fmt::Debug for Doc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doc({} bytes)", self.0.len())
    }
}
