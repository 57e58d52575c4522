//! Makes differing documents equal.
//!
//! Each is written in a transaction that begins with a marker of the link from the winner, in a lane of its own, so that no replicator
//! takes it for a change; with a record among the conflicts that holds both versions.

use std::future::IntoFuture;

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId};
use oplogue_api::{Doc, EventId, Namespace, Position, Result};

use super::{
    super::{
        super::{
            marker::{Link, LogState, Marker},
            names,
            options::Conflicts,
            origin::{document, raw},
            state::FIRST_SIDE_LANE,
        },
        links::{collection, current},
        write::{Step, Undone, transact},
    },
    ends::{Pair, clock},
    scan::{Candidate, digest},
};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify, code},
};

/// Behind those of copies.
const LANE: u32 = FIRST_SIDE_LANE + 9_000;
/// A document larger than this is not repeated in a record.
const LARGEST: usize = 4 << 20;
const NAMESPACE_EXISTS: i32 = 48;

/// What becomes of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// The end whose version stays.
    winner: usize,
    /// Why.
    policy: &'static str,
}

/// What became of it.
pub(super) enum Repair {
    /// The version of this end is at both now.
    Done { winner: usize, deleted: bool },
    /// They have become equal by themselves.
    Equal,
    /// Nothing was written, and why.
    Left(String),
}

pub(super) async fn repair(pair: &Pair, candidate: &Candidate) -> Result<Repair> {
    let Candidate { ns, id, .. } = candidate;
    let clients = &pair.ends.clients;
    let versions = [current(&clients[0], ns, id).await?, current(&clients[1], ns, id).await?];
    let [here, there] = [0, 1].map(|end| versions[end].as_ref().map(|v| digest(v, pair.ends.stamped)));
    if here == there {
        return Ok(Repair::Equal);
    }
    let mut deleted = [false, false];
    for end in 0..2 {
        deleted[end] = versions[end].is_none() && is_deleted(pair, end, ns, id).await?;
    }
    let exists = [versions[0].is_some(), versions[1].is_some()];
    let Some(verdict) = judge(pair, ns, exists, deleted) else {
        return Ok(Repair::Left("the link is one-way, and the document is at its peer only".into()));
    };
    let loser = 1 - verdict.winner;
    let steps = [
        Step::Put {
            ns: Namespace::of(names::DATABASE, names::MARKERS),
            id: Bson::String(link(pair, verdict.winner).marker_id(LANE)),
            document: Some(raw(&marker(pair, verdict.winner).await?.encode())?),
        },
        Step::Expect { ns: ns.clone(), id: id.clone(), document: versions[loser].clone() },
        Step::Put { ns: ns.clone(), id: id.clone(), document: versions[verdict.winner].clone() },
        Step::Insert {
            ns: Namespace::of(names::DATABASE, names::CONFLICTS),
            document: record(pair, verdict, ns, id, &versions).await?,
        },
    ];
    match transact(&clients[loser], &steps).await {
        Ok(()) => Ok(Repair::Done { winner: verdict.winner, deleted: !exists[verdict.winner] }),
        Err(Undone::Error(e)) => Err(e),
        Err(undone) => Ok(Repair::Left(undone.reason())),
    }
}

/// Whose version stays; `None`: nothing may be written.
fn judge(pair: &Pair, ns: &Namespace, exists: [bool; 2], deleted: [bool; 2]) -> Option<Verdict> {
    if let [(from, _)] = pair.links[..] {
        // Nothing is ever written at the source of a one-way link, and what its peer has of its own stays.
        let ours = exists[from] || deleted[from];
        return ours.then_some(Verdict { winner: from, policy: "one-way" });
    }
    for end in 0..2 {
        if !exists[end] {
            return Some(match deleted[end] {
                true => Verdict { winner: end, policy: "tombstone" },
                false => Verdict { winner: 1 - end, policy: "copy" },
            });
        }
    }
    // Without history nobody knows which was written last.
    let settings = pair.links[0].1.settings();
    let names = &pair.ends.names;
    let place = |end: usize| settings.priority.iter().position(|name| *name == names[end]).unwrap_or(usize::MAX);
    let (here, there) = (place(0), place(1));
    if settings.policy(ns).conflicts != Conflicts::Origin && here != there {
        return Some(Verdict { winner: usize::from(there < here), policy: "priority" });
    }
    Some(Verdict { winner: usize::from(names[1] > names[0]), policy: "name" })
}

/// Makes the collections that a repair writes beside the data: created in the transaction they would come before the marker, and
/// the rest would look like a change.
pub(super) async fn prepare(pair: &Pair) -> Result<()> {
    for client in &pair.ends.clients {
        for coll in [names::MARKERS, names::CONFLICTS] {
            let database = client.database(names::DATABASE);
            let made = database.create_collection(coll).into_future();
            match answered(made).await? {
                Err(e) if code(&e) != Some(NAMESPACE_EXISTS) => return Err(classify(e, Phase::Apply)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a replicator has deleted it there.
async fn is_deleted(pair: &Pair, end: usize, ns: &Namespace, id: &Bson) -> Result<bool> {
    let tombstones = Namespace::of(names::DATABASE, names::TOMBSTONES);
    let coll = collection::<Document>(&pair.ends.clients[end], &tombstones);
    let found = coll.find_one(doc! {"_id": {"$eq": {"ns": ns.as_str(), "id": id}}});
    Ok(bounded(found.into_future(), Phase::Lookup).await?.is_some())
}

fn link(pair: &Pair, winner: usize) -> Link {
    Link { node: pair.ends.names[winner].clone(), peer: pair.ends.names[1 - winner].clone() }
}

/// Says of the link what its own marker says, so that nobody learns anything from it.
async fn marker(pair: &Pair, winner: usize) -> Result<Marker> {
    let link = link(pair, winner);
    let coll = collection::<Document>(&pair.ends.clients[1 - winner], &Namespace::of(names::DATABASE, names::MARKERS));
    let stored = async |lane: u32| -> Result<Option<Marker>> {
        let found = coll.find_one(doc! {"_id": link.marker_id(lane)});
        let stored = bounded(found.into_future(), Phase::Lookup).await?;
        Ok(stored.as_ref().and_then(Marker::decode))
    };
    let zero = Timestamp { time: 0, increment: 0 };
    let seq = stored(LANE).await?.map_or(0, |marker| marker.seq) + 1;
    let own = stored(0).await?.unwrap_or_else(|| Marker {
        link: link.clone(),
        lane: 0,
        route: String::new(),
        generation: 0,
        seq: 0,
        origin: link.node.clone(),
        position: Position { token: Doc::from(RawDocumentBuf::new()), time: zero },
        done: EventId { time: zero, index: 0 },
        clock: 0,
        session: None,
        seen: Vec::new(),
        saw: Vec::new(),
        writes: Vec::new(),
        fields: Default::default(),
        again: Vec::new(),
        waits: Vec::new(),
        unsettled: Default::default(),
        log: LogState { clock: 0, since: zero, since_clock: 0 },
        forward: None,
    });
    Ok(Marker {
        writes: Vec::new(),
        fields: Default::default(),
        again: Vec::new(),
        waits: Vec::new(),
        forward: None,
        lane: LANE,
        route: "verify --repair".into(),
        generation: 1,
        seq,
        origin: link.node.clone(),
        ..own
    })
}

async fn record(
    pair: &Pair,
    verdict: Verdict,
    ns: &Namespace,
    id: &Bson,
    versions: &[Option<RawDocumentBuf>; 2],
) -> Result<Document> {
    let loser = 1 - verdict.winner;
    let (local, remote) = (side(pair, loser, versions).await?, side(pair, verdict.winner, versions).await?);
    Ok(doc! {
        "_id": ObjectId::new(), "at": DateTime::now(), "link": link(pair, verdict.winner).marker_id(0),
        "ns": ns.as_str(), "key": id, "kind": "repair", "policy": verdict.policy,
        "winner": &pair.ends.names[verdict.winner], "local": local, "remote": remote, "status": "resolved",
    })
}

async fn side(pair: &Pair, end: usize, versions: &[Option<RawDocumentBuf>; 2]) -> Result<Document> {
    let mut side = doc! {"node": &pair.ends.names[end], "time": clock(&pair.ends.clients[end]).await?};
    match &versions[end] {
        None => side.insert("doc", Bson::Null),
        Some(version) if version.as_bytes().len() > LARGEST => {
            side.insert("doc_omitted", version.as_bytes().len() as i64)
        }
        Some(version) => side.insert("doc", document(version)?),
    };
    Ok(side)
}
