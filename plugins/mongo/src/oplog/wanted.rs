//! Which entries are read, when not all.

use bson::{Document, RawDocumentBuf, Timestamp, doc, raw::cstr};
use oplogue_api::{Interest, Replicated};

use crate::pushdown;

/// The alternatives of which an entry must meet one.
#[derive(Clone, Debug)]
pub(super) struct Wanted(Vec<Document>);

impl Wanted {
    /// What a route is interested in; `None`: all.
    pub fn new(interest: &Interest, include_system: bool) -> Option<Wanted> {
        let markers = interest.replicated != Replicated::AsWrites || include_system;
        pushdown::oplog_filter(interest, markers).map(Wanted)
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

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use oplogue_api::{NamespacePattern, Selection};
    use oplogue_testkit::{servers, unique};

    /// The servers go to the place and do not look through what is before it.
    #[tokio::test]
    async fn what_is_before_the_place_is_not_looked_at() {
        for version in ["4.4.2", "5.0.4", "6.0.27"] {
            let client = servers::mongo_version(version).await.client().await;
            let coll = client.database(&unique("wanted")).collection::<Document>("c");
            for _ in 0..3 {
                coll.insert_many((0..200).map(|_| doc! {})).await.expect("inserted");
            }
            let oplog = client.database("local").collection::<Document>("oplog.rs");
            let last = oplog.find_one(doc! {}).sort(doc! {"$natural": -1}).await.expect("read").expect("an entry");
            let from = last.get_timestamp("ts").expect("ts");
            let pattern = NamespacePattern { text: "a.*".to_owned(), is_regex: false, negated: false };
            let selection = Selection { namespaces: vec![pattern], ..Selection::default() };
            let interest = Interest { selections: vec![selection], ..Interest::default() };
            let mut filter = rawdoc! {"ts": {"$gte": from}};
            Wanted::new(&interest, false).expect("not all is wanted").restrict(&mut filter, from);
            let filter = Document::try_from(&filter).expect("BSON");
            let find = doc! {"find": "oplog.rs", "filter": filter, "hint": {"$natural": 1}, "tailable": true};
            let explain = doc! {"explain": find, "verbosity": "executionStats"};
            let told = client.database("local").run_command(explain).await.expect("explained");
            let stats = told.get_document("executionStats").expect("stats");
            let examined = stats.get_i32("totalDocsExamined").expect("a number");
            assert!((1..600).contains(&examined), "{version}: {stats}");
        }
    }
}
