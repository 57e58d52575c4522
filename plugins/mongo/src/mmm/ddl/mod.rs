//! DDL: what changes collections and indexes instead of documents. See `docs/replication.md`.
//!
//! A DDL event is a barrier, so this runs between two transactions of the link. Nothing in the log tells who ran a command; what makes it
//! exact is the ledger ([`ledger`]) at the deployment where it is run:
//! - an event that a replicator has caused is found in the ledger of its source, and goes no further ([`Outcome::Echo`]);
//! - an event that was applied already is found in the ledger of its target, and is not applied again, whatever has become of the
//!   collection since.
//!
//! For the rest the state decides: nothing is done where it is as described already, and what contradicts it is refused and reported,
//! never forced.

mod canonical;
mod decide;
mod described;
mod kind;
mod ledger;
mod record;
mod run;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bson::Document;
use mongodb::Client;
use oplogue_api::{Error, Event, Namespace, Result};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use self::{
    decide::Decision,
    described::{Described, Read, Target},
    ledger::{Earlier, Id, Ledger},
    run::Ran,
};
pub(crate) use self::{kind::Kinds, record::Refusal};
use super::marker::Link;

/// What to do with DDL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ddl {
    #[default]
    Apply,
    /// Leave it out, and say so once a namespace.
    Ignore,
    /// Stop the route for a person to look at it.
    Stop,
}

/// The options `ddl` and `ddl_drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DdlPolicy {
    pub changes: Ddl,
    /// Of those that take data away: drop, dropDatabase, a rename onto another collection.
    pub drops: Ddl,
}

/// What became of a DDL event. Each of them is done with: the position may move behind it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Applied,
    /// The target is as the event describes.
    AlreadySo,
    /// A replicator has caused it at the source: it is known where it comes from.
    Echo,
    /// By the policy.
    Ignored,
    /// The collection has got its content in a way that the events do not show: it has to be copied.
    Resync {
        ns: Namespace,
        why: &'static str,
    },
    /// It contradicts what the target has, or the target refuses it. To be stored in the conflict collection; it is logged already.
    Refused(Box<Refusal>),
}

/// How often the state is looked at again when it has changed under the command.
const ATTEMPTS: usize = 4;
/// How long another link may take with the same event, and how often it is looked at.
const OTHERS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
const REFUSED: &str = "the target refuses the command";
/// More namespaces than this are not remembered at once (I6).
const MOST_NAMESPACES: usize = 10_000;

/// Applies the DDL of one link.
pub(crate) struct Applier {
    link: Link,
    policy: DdlPolicy,
    /// Whether events that other nodes have made, and a replicator has brought to `node`, go on to `peer`.
    forwards: bool,
    origin: Client,
    peer: Client,
    /// The ledger at the origin: there it is told which events are echoes.
    known: Ledger,
    /// The ledger at the peer.
    ledger: Ledger,
    ready: OnceCell<()>,
    kinds: Kinds,
    ignored: Mutex<HashSet<Namespace>>,
}

impl Applier {
    /// `origin` reads (and, rarely, writes) `__mmm.ddl` of the deployment that the events come from, and its `listCollections`.
    pub fn new(link: Link, policy: DdlPolicy, forwards: bool, origin: &Client, peer: &Client) -> Applier {
        Applier {
            link,
            policy,
            forwards,
            origin: origin.clone(),
            peer: peer.clone(),
            known: Ledger::new(origin),
            ledger: Ledger::new(peer),
            ready: OnceCell::new(),
            kinds: Kinds::new(peer),
            ignored: Mutex::default(),
        }
    }

    /// What has this name at the peer: see [`Kinds`].
    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// Applies an event that [`is_barrier`](oplogue_api::Op::is_barrier), except gaps. Everything before it must have been committed.
    /// To be repeated after a transient error, and after a restart, until it gives an outcome; then the position may move on.
    ///
    /// # Errors
    /// Transient ones; those of kind `Operator` for the policy "stop" and for missing privileges; those of kind `Data` for an event
    /// that is damaged.
    pub async fn apply(&self, event: &Event) -> Result<Outcome> {
        let mut read = Read::new(event)?;
        let mut id = Id { origin: self.link.node.clone(), time: event.time, index: event.index };
        if let Some((theirs, made_from)) = self.known.echo(event, &read.marks()).await? {
            if !self.forwards || theirs.origin == self.link.peer {
                return Ok(Outcome::Echo);
            }
            (id, read.made_from) = (theirs, made_from);
        }
        let drops = read.drops();
        match if drops { self.policy.drops } else { self.policy.changes } {
            Ddl::Apply => {}
            Ddl::Ignore => {
                self.say_ignored(&read.ns);
                return Ok(Outcome::Ignored);
            }
            Ddl::Stop => return Err(self.stopped(&read, drops)),
        }
        if let (None, Some(uuid)) = (&read.made_from, &read.uuid) {
            read.made_from = self.known.counterpart("peer_uuid", uuid).await?;
        }
        self.kinds.forget_database(read.ns.db());
        let outcome = self.carry_out(event, &read, &id).await;
        self.kinds.forget_database(read.ns.db());
        outcome
    }

    /// Who has made an event of the log of `node`, and when.
    pub async fn maker(&self, event: &Event) -> Result<(String, bson::Timestamp)> {
        let theirs = self.known.echo(event, &Read::new(event)?.marks()).await?;
        Ok(theirs.map_or_else(|| (self.link.node.clone(), event.time), |(id, _)| (id.origin, id.time)))
    }

    async fn carry_out(&self, event: &Event, read: &Read, id: &Id) -> Result<Outcome> {
        self.ready.get_or_try_init(|| self.ledger.ensure()).await?;
        let earlier = self.ledger.earlier(id).await?;
        if self.is_done(id, &earlier).await? {
            return Ok(Outcome::AlreadySo);
        }
        // What was brought to the node goes by the name that it has where it was made, whatever way it has come.
        let uuid = read.made_from.as_ref().filter(|_| self.forwards).or(read.uuid.as_ref());
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let start = self.ledger.now().await?;
            let (commands, marks) = match self.decide(read).await? {
                Decision::AlreadySo => {
                    // It may have been an earlier attempt of this link, just now, and what it led to be still on its way back.
                    if matches!(earlier, Earlier::Begun(_)) && self.ledger.earlier(id).await? != Earlier::Done {
                        self.ledger.done(id, self.ledger.now().await?, None, true).await?;
                    }
                    return Ok(Outcome::AlreadySo);
                }
                Decision::Resync(_) | Decision::Refuse(_) if self.forwards && self.is_done_by_now(id).await? => {
                    return Ok(Outcome::AlreadySo);
                }
                Decision::Resync(why) => {
                    warn!(ns = %read.ns, link = %self.link.marker_id(0), why, "the collection has to be copied");
                    return Ok(Outcome::Resync { ns: read.resync_ns(), why });
                }
                Decision::Refuse(why) => return self.refuse(event, read, why, None).await,
                Decision::Run { commands, marks } => (commands, marks),
            };
            let is_ours = self.ledger.begin(id, &self.link.marker_id(0), (read, uuid), &marks, start).await?;
            if !is_ours && self.wait_for_other(id).await? {
                return Ok(Outcome::AlreadySo);
            }
            match self.run(read.ns.db(), &commands).await? {
                Ran::Done(end) => {
                    let uuid = self.made(read).await?;
                    self.ledger.done(id, end, uuid, false).await?;
                    info!(ns = %read.ns, link = %self.link.marker_id(0), what = read.name(), "DDL applied");
                    return Ok(Outcome::Applied);
                }
                ran @ (Ran::Changed(code) | Ran::Refused(code)) => {
                    if self.take_back(id, &earlier, commands.len()).await? {
                        return Ok(Outcome::AlreadySo);
                    }
                    if matches!(ran, Ran::Refused(_)) {
                        return self.refuse(event, read, REFUSED, Some(code)).await;
                    }
                    last = Some(code);
                }
            }
        }
        self.refuse(event, read, REFUSED, last).await
    }

    /// Whether it is done, or another link that has begun with it comes to its end.
    async fn is_done(&self, id: &Id, earlier: &Earlier) -> Result<bool> {
        Ok(match earlier {
            Earlier::None => false,
            Earlier::Done => true,
            Earlier::Begun(by) => *by != self.link.marker_id(0) && self.wait_for_other(id).await?,
        })
    }

    /// The same of a link that may have begun with it since it was asked first.
    async fn is_done_by_now(&self, id: &Id) -> Result<bool> {
        let earlier = self.ledger.earlier(id).await?;
        self.is_done(id, &earlier).await
    }

    /// Where several links bring the same, the first carries it out: twice in the log, the second would look like one that was made
    /// there. Whether it has; a link that takes longer may be gone, and one that was refused has taken back what it began.
    async fn wait_for_other(&self, id: &Id) -> Result<bool> {
        for _ in 0..OTHERS.as_millis() / PAUSE.as_millis() {
            match self.ledger.earlier(id).await? {
                Earlier::Done => return Ok(true),
                Earlier::None => return Ok(false),
                Earlier::Begun(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        Ok(false)
    }

    /// After a command that was not carried out. Whether it was, by an earlier attempt that was still under way.
    async fn take_back(&self, id: &Id, earlier: &Earlier, commands: usize) -> Result<bool> {
        // Another link may bring the same, and have been faster.
        let is_tried = self.forwards || matches!(earlier, Earlier::Begun(_));
        if is_tried && self.ledger.earlier(id).await? == Earlier::Done {
            return Ok(true);
        }
        if commands == 1 {
            self.ledger.refused(id, &self.link.marker_id(0)).await?;
        }
        // Of several, some may have been carried out, and come back.
        Ok(false)
    }

    /// The collection that the event has made here.
    async fn made(&self, read: &Read) -> Result<Option<bson::Binary>> {
        match read.makes_collection() {
            true => Ok(state::collection(&self.peer, &read.ns).await?.and_then(|c| c.uuid)),
            false => Ok(None),
        }
    }

    async fn refuse(&self, event: &Event, read: &Read, why: &'static str, code: Option<i32>) -> Result<Outcome> {
        let link = self.link.marker_id(0);
        warn!(ns = %read.ns, %link, what = read.name(), why, code, "DDL refused: it is kept in the conflict collection");
        let local = state::collection(&self.peer, &read.ns).await?;
        Ok(Outcome::Refused(Box::new(Refusal::new(&self.link, event, read, why, code, local))))
    }

    fn say_ignored(&self, ns: &Namespace) {
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        if ignored.len() >= MOST_NAMESPACES {
            ignored.clear();
        }
        if ignored.insert(ns.clone()) {
            info!(%ns, link = %self.link.marker_id(0), "DDL is left out, as the options `ddl` and `ddl_drops` say");
        }
    }

    fn stopped(&self, read: &Read, drops: bool) -> Error {
        let option = if drops { "ddl_drops" } else { "ddl" };
        Error::operator(format!("{} of `{}` at {} is not applied: {option} = \"stop\"", read.name(), read.ns, self.link.node)).hint(
            format!(
                "look at what was done; then set {option} = \"apply\", or do what is to be done at {} by hand and set {option} = \"ignore\", for this restart at least",
                self.link.peer
            ),
        )
    }
}

/// What a DDL event has taken from under its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Removed {
    /// The documents are gone.
    Dropped(Namespace),
    /// They have another name now.
    Moved(Namespace, Namespace),
    /// All of the database is gone.
    Database(String),
}

/// What an event of the target's own log has taken away: writes that were made elsewhere without knowing of it must not bring it back.
pub(crate) fn removed(event: &Event) -> Result<Vec<Removed>> {
    let read = Read::new(event)?;
    Ok(match read.what {
        Described::Drop { .. } => vec![Removed::Dropped(read.ns)],
        Described::DropDatabase => vec![Removed::Database(read.ns.db().to_owned())],
        Described::Rename { to, target } => {
            let over = (target != Target::Free).then(|| Removed::Dropped(to.clone()));
            over.into_iter().chain([Removed::Moved(read.ns, to)]).collect()
        }
        // Converting keeps the documents.
        Described::Replaced { converted: false } => vec![Removed::Dropped(read.ns)],
        _ => Vec::new(),
    })
}

impl Read {
    /// What a log calls it.
    pub fn name(&self) -> &str {
        match &self.what {
            Described::Create(_) => "create",
            Described::Drop { .. } => "drop",
            Described::DropDatabase => "dropDatabase",
            Described::Rename { .. } => "rename",
            Described::Replaced { .. } => "replacement",
            Described::CreateIndexes(_) => "createIndexes",
            Described::DropIndexes(_) => "dropIndexes",
            Described::Modify(_) | Described::ModifyView => "collMod",
            Described::Unknown(name) => name,
        }
    }

    /// The collection whose content is not known.
    fn resync_ns(&self) -> Namespace {
        match &self.what {
            Described::Rename { to, .. } => to.clone(),
            _ => self.ns.clone(),
        }
    }
}

/// A command for the database of the event, or with `admin` for `admin`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub command: Document,
    pub admin: bool,
}
