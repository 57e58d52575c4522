//! What a transform reads and changes, as far as that follows from its options: for `oplogue check`.

use crate::NamespacePattern;

/// What a transform does to the documents of events. What it does not say is not known, and nothing is concluded from it.
///
/// Paths are dotted names as in the configuration. A place is that of an option in the transform's table: `after`, `fields[2]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Whose events it concerns; empty: all.
    pub namespaces: Vec<NamespacePattern>,
    /// It lets pass only these, and passes no others as they are.
    pub is_filter: bool,
    /// The fields that it asks about or edits: place and path.
    pub reads: Vec<(String, String)>,
    /// The fields that are there no more behind it.
    pub removes: Vec<String>,
    /// The only fields that are left behind it, beside `_id`.
    pub keeps: Option<Vec<String>>,
    /// The fields that have another name behind it: the paths before and after.
    pub renames: Vec<(String, String)>,
    /// The fields that are there behind it, whatever was before.
    pub sets: Vec<String>,
    /// Whether it gives collections other names.
    pub renames_collections: bool,
    /// The options that ask about the document before the change.
    pub asks_before: Option<String>,
    /// The option that asks updates, and nothing else, for their full document.
    pub asks_after_of_updates: Option<String>,
}

/// What a source gives, as far as that follows from its options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// The collections that it reads; empty: all, or not known.
    pub namespaces: Vec<NamespacePattern>,
    /// No event ever has the document before the change.
    pub never_before: bool,
    /// No update ever has its full document.
    pub never_after_of_updates: bool,
}
