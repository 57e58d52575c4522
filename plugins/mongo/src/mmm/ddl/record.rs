//! The conflict record of DDL that was not applied.

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use oplogue_api::Event;

use super::{described::Read, state::Existing};
use crate::mmm::marker::Link;

/// DDL that contradicts what the target has, or that the target refuses.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// For `__mmm.conflicts`, of the kind `ddl`.
    pub record: Document,
}

impl Refusal {
    pub(super) fn new(
        link: &Link,
        event: &Event,
        read: &Read,
        why: &'static str,
        code: Option<i32>,
        local: Option<Existing>,
    ) -> Refusal {
        let command = Document::try_from(&*event.raw).unwrap_or_default();
        let local = local.map(|l| doc! {"name": l.name, "type": l.kind, "options": l.options});
        let mut record = doc! {
            "_id": ObjectId::new(),
            "at": DateTime::now(),
            "link": link.marker_id(0),
            "ns": read.ns.as_str(),
            "key": Bson::Null,
            "kind": "ddl",
            "policy": "refuse",
            "winner": Bson::Null,
            "local": {"node": &link.peer, "collection": local},
            "remote": {"node": &link.node, "time": event.time, "op": read.name(), "event": command},
            "error": {"message": why},
            "status": "parked",
        };
        if let (Some(code), Ok(error)) = (code, record.get_document_mut("error")) {
            error.insert("code", code);
        }
        Refusal { record }
    }
}
