//! What is told once for each namespace, because it is so for every document of it.

use std::collections::HashSet;

use oplogue_api::Namespace;

/// What is missing to do with the events of a collection as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// `document = "full"`, and the source did not deliver the document.
    Document,
    /// Templates, and the source did not deliver the document.
    Image,
    /// Templates, and the source did not deliver the document as it was before.
    PreImage,
    /// A field of a template has a value that has no text.
    Text,
    /// Ids of a type that Meteor has a channel for.
    Channel,
}

/// More than this are not remembered as told.
const MOST: usize = 10_000;

/// What has been told.
#[derive(Default)]
pub struct Notices(HashSet<(Namespace, Missing)>);

impl Notices {
    /// Logs it, the first time that it concerns this namespace.
    pub fn once(&mut self, ns: &Namespace, missing: Missing) {
        if self.0.len() >= MOST || self.0.contains(&(ns.clone(), missing)) {
            return;
        }
        self.0.insert((ns.clone(), missing));
        match missing {
            Missing::Document => tracing::warn!(
                %ns,
                "updates without the document are not published, as document = \"full\" asks for it: let the source deliver full documents"
            ),
            Missing::Image => tracing::warn!(
                %ns,
                "updates without the document are not published to the channels of templates: let the source deliver full documents"
            ),
            Missing::PreImage => tracing::warn!(
                %ns,
                "the channels that a document leaves, or had when it was deleted, are not told: let the source deliver pre-images"
            ),
            Missing::Channel => {
                tracing::warn!(%ns, "documents whose _id is of a type that Meteor has no channel for are not published");
            }
            Missing::Text => tracing::warn!(
                %ns,
                "a field of a template holds values of a type that has no text; they make no channel"
            ),
        }
    }

    /// Whether this has been told.
    #[cfg(test)]
    pub fn has(&self, ns: &str, missing: Missing) -> bool {
        self.0.contains(&(Namespace::new(ns), missing))
    }
}
