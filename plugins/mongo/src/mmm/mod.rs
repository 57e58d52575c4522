//! `mongo-mmm`: replicates into another MongoDB deployment that takes writes too. See `docs/replication.md` and
//! `docs/decisions/replication.md`.

mod apply;
mod arbiter;
mod checks;
mod chunk;
mod copy;
mod ddl;
mod deliver;
mod document;
pub(crate) mod forward;
mod links;
pub(crate) mod marker;
mod meanwhile;
pub(crate) mod names;
mod nested;
mod options;
mod origin;
mod paths;
mod rank;
mod reach;
mod records;
mod seen;
mod settle;
mod shape;
mod sight;
mod sink;
mod stamp;
mod state;
mod statements;
mod store;
mod subjects;
mod tools;
pub(crate) mod touched;
mod txn;
mod unique;
mod unsettled;
mod verdict;
mod window;
pub(crate) mod word;
mod write;

use std::sync::Arc;

use oplogue_api::Registry;

pub(crate) fn register(r: &mut Registry) {
    r.sink(
        "mongo-mmm",
        "Replicates into another MongoDB deployment that takes writes too",
        options::FIELDS,
        |context, options| Ok(Arc::new(sink::Mmm::new(context, options)?)),
    );
    tools::register(r);
}
