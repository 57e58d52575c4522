//! What is told once for each namespace, because it is so for every document of it.

use std::collections::HashSet;

use oplogue_api::Namespace;

/// Something that an operator should know about a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// `document = "full"`, and the source did not deliver the document.
    DocumentMissing,
    /// Templates, and the source did not deliver the document.
    ImageMissing,
    /// Templates, and the source did not deliver the document as it was before.
    PreImageMissing,
    /// A field of a template has a value that has no text.
    FieldWithoutText,
    /// Ids of a type that Meteor has no channel for.
    IdWithoutChannel,
}

/// More than this are not remembered as told.
const MOST: usize = 10_000;

/// What has been told.
#[derive(Default)]
pub struct Notices(HashSet<(Namespace, Notice)>);

impl Notices {
    /// Logs the notice, the first time that it concerns this namespace.
    pub fn once(&mut self, ns: &Namespace, notice: Notice) {
        if self.0.len() >= MOST || self.0.contains(&(ns.clone(), notice)) {
            return;
        }
        self.0.insert((ns.clone(), notice));
        match notice {
            Notice::DocumentMissing => tracing::warn!(
                %ns,
                "updates without the document are not published, as document = \"full\" asks for it: let the source deliver full documents"
            ),
            Notice::ImageMissing => tracing::warn!(
                %ns,
                "updates without the document are not published to the channels of templates: let the source deliver full documents"
            ),
            Notice::PreImageMissing => tracing::warn!(
                %ns,
                "the channels that a document leaves, or had when it was deleted, are not told: let the source deliver pre-images"
            ),
            Notice::IdWithoutChannel => {
                tracing::warn!(%ns, "documents whose _id is of a type that Meteor has no channel for are not published");
            }
            Notice::FieldWithoutText => tracing::warn!(
                %ns,
                "a field of a template holds values of a type that has no text; they make no channel"
            ),
        }
    }

    /// Whether this has been told.
    #[cfg(test)]
    pub fn has(&self, ns: &str, notice: Notice) -> bool {
        self.0.contains(&(Namespace::new(ns), notice))
    }
}
