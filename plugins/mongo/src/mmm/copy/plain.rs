//! Capped and time-series collections: the server takes no transaction for them, so their documents are copied as they are, in one
//! direction. What was interrupted begins anew in an empty collection.

use std::future::IntoFuture;

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, doc, rawdoc};
use mongodb::options::{Hint, ReadConcern};
use oplogue_api::{Error, Result};
use tracing::{info, warn};

use super::{
    Copy,
    plan::{Described, Kind},
    shape,
};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify},
};

/// Documents and bytes of one `insert`.
const MOST: (usize, usize) = (1000, 12 << 20);

/// Copies the whole collection. Documents and bytes.
pub(super) async fn copy(copy: &Copy, there: &Described) -> Result<(u64, u64)> {
    let (ns, link) = (&there.ns, &copy.marker.link);
    warn!(
        namespace = %ns, from = link.node, to = link.peer,
        "a {} is copied in this direction only: it cannot be written in transactions, so what the target gets would come back as its own writes",
        there.kind.name()
    );
    let to = copy.to.database(ns.db());
    // It was empty when the copy began, so what is in it is a part of this copy.
    if bounded(to.collection::<RawDocumentBuf>(ns.coll()).find_one(doc! {}).into_future(), Phase::Copy).await?.is_some()
    {
        info!(namespace = %ns, "its copy was interrupted, and begins anew");
        bounded(to.collection::<RawDocumentBuf>(ns.coll()).drop().into_future(), Phase::Copy).await?;
    }
    shape::prepare(&copy.to, there).await?;
    shape::indexes(&copy.from, &copy.to, there, true).await?;
    let coll = copy.from.database(ns.db()).collection::<RawDocumentBuf>(ns.coll());
    let mut find = coll.find(doc! {}).read_concern(ReadConcern::majority());
    if there.kind == Kind::Capped {
        // In the order of insertion, which is what such a collection is about.
        find = find.hint(Hint::Keys(doc! {"$natural": 1}));
    }
    let mut cursor = bounded(find.into_future(), Phase::Copy).await?;
    let (mut documents, mut bytes) = (0, 0);
    let (mut held, mut size) = (RawArrayBuf::new(), (0, 0));
    loop {
        let more = bounded(cursor.advance(), Phase::Copy).await?;
        let next = if more { cursor.current().as_bytes().len() } else { 0 };
        if size.0 > 0 && (!more || size.0 >= MOST.0 || size.1 + next > MOST.1) {
            insert(copy, there, std::mem::take(&mut held)).await?;
            copy.meter.done(size.0 as u64, size.1 as u64, 0);
            (documents, bytes) = (documents + size.0 as u64, bytes + size.1 as u64);
            size = (0, 0);
        }
        if !more {
            break;
        }
        held.push(RawBsonRef::Document(cursor.current()));
        size = (size.0 + 1, size.1 + next);
    }
    shape::indexes(&copy.from, &copy.to, there, false).await?;
    Ok((documents, bytes))
}

async fn insert(copy: &Copy, there: &Described, documents: RawArrayBuf) -> Result<()> {
    let command =
        rawdoc! {"insert": there.ns.coll(), "documents": documents, "ordered": true, "writeConcern": {"w": "majority"}};
    let db = copy.to.database(there.ns.db());
    let reply = answered(db.run_raw_command(command).into_future()).await?.map_err(|e| classify(e, Phase::Copy))?;
    if reply.get_array("writeErrors").is_ok_and(|errors| !errors.is_empty()) {
        return Err(Error::operator(format!("the target refuses a document of the {} `{}`", there.kind.name(), there.ns))
            .hint("check validators and unique indexes of the target, or leave the collection out of the namespaces of this link"));
    }
    Ok(())
}
