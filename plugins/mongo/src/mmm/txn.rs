//! Transactions at the peer.

use std::{
    future::IntoFuture,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bson::{Bson, Document, RawDocumentBuf, Uuid, doc};
use mongodb::{
    Client, ClientSession,
    error::{Error as MongoError, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::{Acknowledgment, ReadConcern, ReadPreference, SelectionCriteria, TransactionOptions, WriteConcern},
};
use oplogue_api::{Error, Result};

use crate::{
    client::answered,
    errors::{Phase, classify, code},
};

/// How long a majority may take. Shorter than the wait for any answer, so that the server says so itself.
const MAJORITY: Duration = Duration::from_secs(25);
/// How long the command of a call that was dropped may take to begin at the server.
const UNDERWAY: Duration = Duration::from_secs(5);
/// A commit whose outcome is unknown is sent again: it is the same commit, whatever became of the first.
const COMMITS: u32 = 20;

/// Why a transaction was not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Somebody else writes the same documents, or an election: nothing is written, and the same may work now.
    Again(Error),
    /// It is more than the server takes in one transaction.
    TooLarge(Error),
    /// Whatever it is, it concerns the route.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Error(e)
    }
}

/// One transaction at a time.
pub(super) struct Transaction<'a> {
    client: Client,
    session: ClientSession,
    slot: &'a Session,
}

/// A command and what it did.
pub(super) struct Reply(pub Document);

impl Reply {
    /// How many documents a write matched, inserted or deleted.
    pub fn n(&self) -> i64 {
        match self.0.get("n") {
            Some(bson::Bson::Int32(n)) => i64::from(*n),
            Some(bson::Bson::Int64(n)) => *n,
            Some(bson::Bson::Double(n)) => *n as i64,
            _ => 0,
        }
    }

    /// The first of the errors of a write.
    pub fn refusal(&self) -> Option<&Document> {
        self.0.get_array("writeErrors").ok()?.first()?.as_document()
    }

    /// The first statement that was refused: its index and the code.
    pub fn refused(&self) -> Option<(usize, i32)> {
        let error = self.refusal()?;
        let index = match error.get("index") {
            Some(bson::Bson::Int32(n)) => usize::try_from(*n).ok()?,
            Some(bson::Bson::Int64(n)) => usize::try_from(*n).ok()?,
            _ => 0,
        };
        Some((index, error.get_i32("code").unwrap_or(0)))
    }
}

/// The session of a link. Always the same one, so that the next process knows which transaction a killed one has left open: the
/// server would keep that for a minute, and with it the marker.
pub(super) struct Session {
    slot: Mutex<Option<ClientSession>>,
    /// Whose transaction is neither committed nor aborted, since when: the server does not hear of it when the connection is lost, or the
    /// call dropped. It holds the marker, and documents that applications want to write.
    open: Mutex<Vec<(Uuid, Instant)>>,
    acknowledgment: Acknowledgment,
}

impl Default for Session {
    /// Transactions that a majority has when they are committed.
    fn default() -> Session {
        Session { slot: Mutex::default(), open: Mutex::default(), acknowledgment: Acknowledgment::Majority }
    }
}

impl Session {
    /// Transactions that are committed when the primary has them. An election may take back the last of them, but then it takes
    /// back the marker too, and with it what the link believes to have done: nothing is lost, and nobody waits for each one.
    pub fn quick() -> Session {
        Session { slot: Mutex::default(), open: Mutex::default(), acknowledgment: Acknowledgment::Nodes(1) }
    }

    /// The session, and its id.
    async fn take(&self, client: &Client) -> Result<ClientSession> {
        if let Some(session) = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(session);
        }
        // Causally consistent, which is the default: without it a snapshot may lie before the last transaction, as long as another
        // writer has not committed what it began earlier, and the marker is not found.
        answered(client.start_session().into_future()).await?.map_err(|e| classify(e, Phase::Apply))
    }

    /// The same for a transaction, with what one before it has left open ended.
    async fn take_to_begin(&self, client: &Client) -> Result<ClientSession> {
        let left = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, _) in left {
            end_session(client, id).await?;
        }
        let session = self.take(client).await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, since)| since.elapsed() < UNDERWAY);
        open.extend(uuid(&session).map(|id| (id, Instant::now())));
        drop(open);
        Ok(session)
    }

    fn give_back(&self, session: ClientSession) {
        let id = uuid(&session);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| Some(*open) != id);
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// The id of the session that the next transaction will have.
    pub async fn id(&self, client: &Client) -> Result<Option<Uuid>> {
        let session = self.take(client).await?;
        let id = uuid(&session);
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        Ok(id)
    }
}

fn uuid(session: &ClientSession) -> Option<Uuid> {
    match session.id().get("id") {
        Some(Bson::Binary(id)) => id.to_uuid().ok(),
        _ => None,
    }
}

/// Ends a session of another process, with the transaction that it may have left open.
pub(super) async fn end_session(client: &Client, id: Uuid) -> Result<()> {
    let kill = doc! {"killSessions": [{"id": id}]};
    match answered(client.database("admin").run_command(kill).into_future()).await? {
        Ok(_) => Ok(()),
        // Not ours to end: then it ends by itself within a minute.
        Err(e) if code(&e).is_some() => Ok(()),
        Err(e) => Err(classify(e, Phase::Apply)),
    }
}

impl<'a> Transaction<'a> {
    pub async fn begin(client: &Client, slot: &'a Session) -> Result<Transaction<'a>> {
        let mut session = slot.take_to_begin(client).await?;
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::builder().w(slot.acknowledgment.clone()).w_timeout(MAJORITY).build())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let started = session.start_transaction().with_options(options).await;
        started.map_err(|e| classify(e, Phase::Apply))?;
        Ok(Transaction { client: client.clone(), session, slot })
    }

    /// Runs a command of the transaction.
    pub async fn run(&mut self, db: &str, command: RawDocumentBuf) -> Result<Reply, Failure> {
        let db = self.client.database(db);
        let run = db.run_raw_command(command).session(&mut self.session);
        answered(run.into_future()).await?.map(Reply).map_err(failure)
    }

    /// The documents of a collection with these ids, as they are in the snapshot of the transaction.
    pub async fn documents(&mut self, db: &str, coll: &str, filter: Document) -> Result<Vec<RawDocumentBuf>, Failure> {
        let coll = self.client.database(db).collection::<RawDocumentBuf>(coll);
        let find = coll.find(filter).session(&mut self.session);
        let mut cursor = answered(find.into_future()).await?.map_err(failure)?;
        let mut found = Vec::new();
        while let Some(next) =
            answered(async { cursor.next(&mut self.session).await.transpose() }).await?.map_err(failure)?
        {
            found.push(next);
        }
        Ok(found)
    }

    pub async fn commit(mut self) -> Result<(), Failure> {
        for again in 0.. {
            match answered(self.session.commit_transaction().into_future()).await? {
                Ok(()) => break,
                Err(e) if again < COMMITS && e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                    tokio::time::sleep(Duration::from_millis(50 << again.min(5))).await;
                }
                Err(e) => return Err(failure(e)),
            }
        }
        self.slot.give_back(self.session);
        Ok(())
    }

    /// Gives it up. Where the server does not hear of it, it is ended when the server is there again.
    pub async fn abort(mut self) {
        if let Ok(Ok(())) = answered(self.session.abort_transaction().into_future()).await {
            self.slot.give_back(self.session);
        }
    }
}

fn failure(e: MongoError) -> Failure {
    match code(&e) {
        // TransactionTooLargeForCache, BSONObjectTooLarge, and "Total size of all transaction operations must be less than …".
        Some(257 | 319 | 10334) => Failure::TooLarge(classify(e, Phase::Apply)),
        _ if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => Failure::Again(classify(e, Phase::Apply)),
        // The transaction went away under our hands: an election, or it was too old.
        Some(251 | 256 | 112) => Failure::Again(classify(e, Phase::Apply)),
        _ => Failure::Error(classify(e, Phase::Apply)),
    }
}
