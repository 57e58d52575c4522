//! Which entries are read, when not all.

use bson::{Document, RawDocumentBuf, Timestamp, doc, raw::cstr};
use oplogue_api::Interest;

use crate::pushdown;

/// The alternatives of which an entry must meet one.
#[derive(Clone, Debug)]
pub(super) struct Wanted(Vec<Document>);

impl Wanted {
    /// What a route is interested in; `None`: all.
    pub fn new(interest: &Interest) -> Option<Wanted> {
        pushdown::oplog_filter(interest).map(Wanted)
    }

    /// Adds them to a filter, and the entry at `place`: whether that is there shows that none was lost (I4).
    pub fn restrict(&self, filter: &mut RawDocumentBuf, place: Timestamp) {
        let mut any = self.0.clone();
        any.push(doc! {"ts": place});
        if let Ok(any) = RawDocumentBuf::try_from(&doc! {"$or": any})
            && let Ok(any) = any.get_array("$or")
        {
            filter.append(cstr!("$or"), any.to_owned());
        }
    }
}
