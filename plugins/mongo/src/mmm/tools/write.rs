//! Writing documents in a transaction.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, raw::cstr, rawdoc};
use mongodb::Client;
use oplogue_api::{Error, Namespace, Result};

use super::super::{
    origin::raw,
    txn::{Failure, Session, Transaction},
};

/// How often a transaction that somebody else was in the way of is tried again.
const TRIES: u32 = 30;

/// A step of a transaction.
#[derive(Clone)]
pub(super) enum Step {
    /// Writes the whole document of an `_id`, or removes it.
    Put { ns: Namespace, id: Bson, document: Option<RawDocumentBuf> },
    /// Goes on only while the document of an `_id` is this one.
    Expect { ns: Namespace, id: Bson, document: Option<RawDocumentBuf> },
    /// Updates exactly one document, or does not go on.
    Update { ns: Namespace, q: Document, u: Document },
    /// Inserts a document.
    Insert { ns: Namespace, document: Document },
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum Undone {
    /// Something is not as it was expected any more.
    Overtaken,
    /// The server refuses a document, with this code.
    Refused(i32),
    /// It is more than goes into one transaction.
    TooLarge,
    Error(Error),
}

impl Undone {
    /// What it means for one document.
    pub fn reason(&self) -> String {
        match self {
            Undone::Overtaken => "it was changed meanwhile".into(),
            Undone::Refused(11000) => "a unique index refuses the document: another one has its value".into(),
            Undone::Refused(121) => "the validator of the collection refuses the document".into(),
            Undone::Refused(code) => format!("the server refuses the document (MongoDB error {code})"),
            Undone::TooLarge => "it is too large for a transaction".into(),
            Undone::Error(e) => e.to_string(),
        }
    }
}

impl From<Error> for Undone {
    fn from(e: Error) -> Undone {
        Undone::Error(e)
    }
}

/// Runs the steps in one transaction, again where somebody else was in the way.
pub(super) async fn transact(client: &Client, steps: &[Step]) -> Result<(), Undone> {
    for tried in 0.. {
        match attempt(client, steps).await {
            Err(Attempt::Again(_)) if tried < TRIES => {
                tokio::time::sleep(Duration::from_millis(5 << tried.min(7))).await;
            }
            Err(Attempt::Again(e)) => return Err(Undone::Error(e)),
            Err(Attempt::Undone(undone)) => return Err(undone),
            Ok(()) => return Ok(()),
        }
    }
    Err(Undone::Overtaken)
}

enum Attempt {
    Again(Error),
    Undone(Undone),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Attempt {
        match failure {
            Failure::Again(e) => Attempt::Again(e),
            Failure::TooLarge(_) => Attempt::Undone(Undone::TooLarge),
            Failure::Error(e) => Attempt::Undone(Undone::Error(e)),
        }
    }
}

impl From<Error> for Attempt {
    fn from(e: Error) -> Attempt {
        Attempt::Undone(Undone::Error(e))
    }
}

async fn attempt(client: &Client, steps: &[Step]) -> Result<(), Attempt> {
    let session = Session::default();
    let mut txn = Transaction::begin(client, &session).await?;
    for step in steps {
        if let Err(e) = take(&mut txn, step).await {
            txn.abort().await;
            return Err(e);
        }
    }
    Ok(txn.commit().await?)
}

async fn take(txn: &mut Transaction<'_>, step: &Step) -> Result<(), Attempt> {
    let (ns, command, exactly) = match step {
        Step::Expect { ns, id, document } => {
            let found = txn.documents(ns.db(), ns.coll(), bson::doc! {"_id": {"$eq": id}}).await?;
            return match found.first() == document.as_ref() {
                true => Ok(()),
                false => Err(Attempt::Undone(Undone::Overtaken)),
            };
        }
        Step::Put { ns, id, document } => {
            let q = raw(&bson::doc! {"_id": {"$eq": id}})?;
            let command = match document {
                Some(document) => {
                    let mut statement = rawdoc! {"q": q};
                    statement.append(cstr!("u"), document.as_ref() as &bson::RawDocument);
                    statement.append(cstr!("upsert"), true);
                    rawdoc! {"update": ns.coll(), "updates": [statement]}
                }
                None => rawdoc! {"delete": ns.coll(), "deletes": [{"q": q, "limit": 1}]},
            };
            (ns, command, None)
        }
        Step::Update { ns, q, u } => {
            (ns, rawdoc! {"update": ns.coll(), "updates": [{"q": raw(q)?, "u": raw(u)?}]}, Some(1))
        }
        Step::Insert { ns, document } => (ns, rawdoc! {"insert": ns.coll(), "documents": [raw(document)?]}, Some(1)),
    };
    let reply = txn.run(ns.db(), command).await?;
    if let Some((_, code)) = reply.refused() {
        return Err(Attempt::Undone(Undone::Refused(code)));
    }
    match exactly {
        Some(n) if reply.n() != n => Err(Attempt::Undone(Undone::Overtaken)),
        _ => Ok(()),
    }
}
