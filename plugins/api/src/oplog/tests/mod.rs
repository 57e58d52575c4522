mod changes;
mod entries;
mod generate;
mod properties;
mod transactions;

use bson::{Document, RawDocumentBuf};

use crate::Doc;

fn raw(doc: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(doc).unwrap()
}

fn doc(doc: Document) -> Doc {
    Doc::from(raw(&doc))
}
