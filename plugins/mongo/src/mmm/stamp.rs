//! `stamp = "document"`: the field `__mmm` in the documents, for people who want to see where a version came from, and for
//! deployments of MongoMultiMaster. Nothing here ever decides by it.
//!
//! ```text
//! __mmm: { o: "factory", h: 1764049191000 }      the origin and the clock of the write, in milliseconds
//! __mmm: UUID (binary subtype 3)                 with `stamp_id`: what MongoMultiMaster writes and looks for
//! ```

use bson::{Binary, RawBson, RawDocument, RawDocumentBuf, raw::cstr, rawdoc, spec::BinarySubtype};
use oplogue_api::{Error, Event, Result};

/// The field.
pub(super) const FIELD: &str = "__mmm";
/// A document that is nearly as large as documents may be is left as it is.
const LARGEST: usize = (16 << 20) - 256;

/// What is written into documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The origin and its clock.
    Node(String),
    /// What MongoMultiMaster calls the origin: its UUID, as 16 bytes.
    Id(Vec<u8>),
}

impl Stamp {
    /// Reads `stamp_id`.
    pub fn id(text: &str) -> Result<Stamp> {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..32).step_by(2).map(byte).collect();
        match bytes {
            Some(bytes) if hex.len() == 32 => Ok(Stamp::Id(bytes)),
            _ => Err(Error::option("stamp_id", "`stamp_id` is no UUID")
                .hint("write the `id` of the node in mmm.yml, such as \"2c88ae84-7cb9-40f7-835d-c05e981f564d\"")),
        }
    }

    pub fn value(&self, event: &Event) -> RawBson {
        match self {
            Stamp::Node(node) => {
                let clock = event.wall.unwrap_or_else(|| i64::from(event.time.time) * 1000);
                RawBson::Document(rawdoc! {"o": node.as_str(), "h": clock})
            }
            Stamp::Id(bytes) => RawBson::Binary(Binary { subtype: BinarySubtype::UuidOld, bytes: bytes.clone() }),
        }
    }

    /// The document with the stamp, at the place of an older one or at the end.
    pub fn on(&self, document: &RawDocument, event: &Event) -> Result<RawDocumentBuf> {
        if document.as_bytes().len() > LARGEST {
            return Ok(document.to_owned());
        }
        let mut stamped = RawDocumentBuf::new();
        let mut value = Some(self.value(event));
        for element in document.iter_elements() {
            let element = element.map_err(|_| Error::data("damaged BSON"))?;
            match (element.key().as_str(), &mut value) {
                (FIELD, value) => {
                    if let Some(value) = value.take() {
                        stamped.append(cstr!("__mmm"), value);
                    }
                }
                _ => stamped.append(element.key(), element.value().map_err(|_| Error::data("damaged BSON"))?),
            }
        }
        if let Some(value) = value {
            stamped.append(cstr!("__mmm"), value);
        }
        Ok(stamped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::Timestamp;
    use oplogue_api::{Doc, Namespace, Op};

    #[test]
    fn a_document_carries_one_stamp() {
        let time = Timestamp { time: 5, increment: 1 };
        let event = Event { wall: Some(5001), ..Event::new(Op::Insert, Namespace::new("a.b"), time, Doc::empty()) };
        let stamp = Stamp::Node("a".into());
        let expected = rawdoc! {"_id": 1, "x": 2, "__mmm": {"o": "a", "h": 5001_i64}};
        assert_eq!(stamp.on(&rawdoc! {"_id": 1, "x": 2}, &event).unwrap(), expected);
        let old = rawdoc! {"_id": 1, "__mmm": {"o": "b", "h": 1_i64}, "x": 2};
        assert_eq!(stamp.on(&old, &event).unwrap(), rawdoc! {"_id": 1, "__mmm": {"o": "a", "h": 5001_i64}, "x": 2});
        assert!(Stamp::id("2c88ae84-7cb9-40f7-835d-c05e981f564d").is_ok());
        for wrong in [
            "",
            "2c88",
            "zc88ae84-7cb9-40f7-835d-c05e981f564d",
            "2c88ae84-7cb9-40f7-835d-c05e981f564d0",
            "ü88ae84-7cb9-40f7-835d-c05e981f564",
        ] {
            assert_eq!(Stamp::id(wrong).unwrap_err().field(), Some("stamp_id"), "{wrong}");
        }
    }
}
