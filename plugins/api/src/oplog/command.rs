//! Commands in the oplog: what they mean as events.

use bson::{RawBsonRef, RawDocument};

use crate::{Error, Op, Result};

/// What a command that is neither `applyOps` nor the end of a transaction means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A barrier about a collection.
    Collection(Op, &'a str),
    /// A barrier about the whole database.
    Database(Op),
    /// A rename, with both full names.
    Rename { from: &'a str, to: &'a str },
    /// Nothing changed for a reader: an index build that is not complete, a consistency check.
    Nothing,
}

/// `name` and `argument` are the first element of `o`. Commands that are not known become [`Op::Other`]: a barrier too
/// many does no harm, one too few may.
pub(super) fn meaning<'a>(name: &str, argument: RawBsonRef<'a>, o: &'a RawDocument) -> Result<Meaning<'a>> {
    let collection = |op| match argument.as_str() {
        Some(coll) => Ok(Meaning::Collection(op, coll)),
        None => Err(Error::data(format!("the `{name}` command names no collection"))),
    };
    match name {
        "create" => collection(Op::Create),
        "drop" => collection(Op::Drop),
        "dropDatabase" => Ok(Meaning::Database(Op::DropDatabase)),
        "renameCollection" => {
            let to = o.get("to").map_err(super::damaged)?.and_then(|to| to.as_str());
            match (argument.as_str(), to) {
                (Some(from), Some(to)) => Ok(Meaning::Rename { from, to }),
                _ => Err(Error::data("the `renameCollection` command names no collections")),
            }
        }
        // An index build of its own entry (the collection was empty), or the end of a longer one.
        "createIndexes" | "commitIndexBuild" | "dropIndexes" | "deleteIndexes" => collection(Op::Index),
        "startIndexBuild" | "abortIndexBuild" | "dbCheck" => Ok(Meaning::Nothing),
        _ => match argument.as_str() {
            Some(coll) => Ok(Meaning::Collection(Op::Other, coll)),
            None => Ok(Meaning::Database(Op::Other)),
        },
    }
}
