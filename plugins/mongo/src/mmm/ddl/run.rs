//! Running commands at the peer.

use std::{future::IntoFuture, time::Duration};

use bson::{Timestamp, doc};
use oplogue_api::{Error, ErrorKind, Result};

use super::{Applier, Command, ledger::ended};
use crate::{
    client::run,
    errors::{Phase, classify, code, is_unexpected},
};

/// How often the peer is asked whether it is still there while it builds an index.
const PULSE: Duration = Duration::from_secs(20);

/// What became of commands.
pub(super) enum Ran {
    /// All were carried out, by this time.
    Done(Timestamp),
    /// What they rely on has changed: it has to be looked at again.
    Changed(i32),
    Refused(i32),
}

impl Applier {
    /// Index builds take as long as they take, so the wait is not bounded, as long as the server answers others. A call that is given
    /// up or loses its connection leaves a ledger entry behind, with which [`super::ledger::Ledger::earlier`] goes on.
    pub(super) async fn run(&self, db: &str, commands: &[Command]) -> Result<Ran> {
        let mut end = Timestamp { time: 0, increment: 0 };
        for Command { command, admin } in commands {
            let mut command = command.clone();
            command.insert("writeConcern", doc! {"w": "majority"});
            let db = self.peer.database(if *admin { "admin" } else { db });
            let mut answer = std::pin::pin!(db.run_command(command).into_future());
            let answer = loop {
                match tokio::time::timeout(PULSE, &mut answer).await {
                    Ok(answer) => break answer,
                    Err(_) => drop(run(&db, doc! {"ping": 1}, Phase::Ddl).await?),
                }
            };
            match answer {
                Ok(reply) => end = end.max(ended(&reply)),
                Err(e) => return verdict(e),
            }
        }
        Ok(Ran::Done(end))
    }
}

/// Whether the command can be carried out later, or never.
fn verdict(e: mongodb::error::Error) -> Result<Ran> {
    match code(&e) {
        // No such namespace or index, or there is one already; an index build or the like is under way.
        Some(code @ (26 | 27 | 48 | 68)) => Ok(Ran::Changed(code)),
        Some(117 | 12587 | 14031 | 276) => Err(Error::transient("the target cannot carry out DDL now")),
        Some(13) => Err(Error::operator("the user of the target may not carry out DDL").hint(
            "grant the user `dbAdmin` and `readWrite` on the databases that are replicated (or dbAdminAnyDatabase and readWriteAnyDatabase), or set ddl = \"ignore\"",
        )),
        Some(code) => {
            let unexpected = is_unexpected(&e);
            let e = classify(e, Phase::Ddl);
            let passes = !unexpected && e.kind() == ErrorKind::Transient;
            if passes || matches!(code, 18 | 11 | 8000) { Err(e) } else { Ok(Ran::Refused(code)) }
        }
        None => Err(classify(e, Phase::Ddl)),
    }
}
