//! What is to be copied, in which pieces, and whether it may be.

use std::{collections::HashMap, future::IntoFuture};

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{Doc, Error, Namespace, Result};

use super::{Copy, Initial, read, state::Piece};
use crate::{
    client::{answered, bounded, run},
    errors::{Phase, classify, code, unlisted},
};

/// A database lists this many collections at once.
const LISTED: i32 = 10_000;
/// The most pieces of one collection.
const MOST_PIECES: u64 = 64;
/// Samples for each piece, so that pieces come out alike.
const SAMPLES: u64 = 20;
/// Bounds are kept in documents, and a sample of large documents is not sorted in memory.
const MOST_BOUND: usize = 64 << 10;
const MOST_SAMPLED: u64 = 32 << 20;

/// A collection or view, as `listCollections` describes it.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub ns: Namespace,
    pub kind: Kind,
    pub options: Document,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Documents by `_id`, in transactions.
    Ordinary,
    Capped,
    TimeSeries,
    View,
}

impl Kind {
    /// Cannot be written in a transaction.
    pub fn is_plain(self) -> bool {
        matches!(self, Kind::Capped | Kind::TimeSeries)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Ordinary => "collection",
            Kind::Capped => "capped collection",
            Kind::TimeSeries => "time-series collection",
            Kind::View => "view",
        }
    }
}

/// All wanted collections and views of a deployment, by name.
pub(super) async fn collections(client: &Client, wanted: &super::Wanted) -> Result<Vec<Described>> {
    let mut all = Vec::new();
    let names = bounded(client.list_database_names().into_future(), Phase::Copy).await?;
    for db in names.iter().filter(|db| *db != "admin" && wanted(&Namespace::of(db, ""))) {
        let asked = doc! {"listCollections": 1, "cursor": {"batchSize": LISTED}};
        let listed = async {
            let cursor = client.database(db).run_cursor_command(asked).await?;
            cursor.try_collect::<Vec<Document>>().await
        };
        for found in answered(listed).await?.map_err(|e| unlisted(db, e, Phase::Copy))? {
            let Ok(name) = found.get_str("name") else { continue };
            let ns = Namespace::of(db, name);
            if ns.is_system() || !wanted(&ns) {
                continue;
            }
            let options = found.get_document("options").cloned().unwrap_or_default();
            let kind = match found.get_str("type") {
                Ok("view") => Kind::View,
                Ok("timeseries") => Kind::TimeSeries,
                _ if options.get_bool("capped").unwrap_or(false) => Kind::Capped,
                _ => Kind::Ordinary,
            };
            all.push(Described { ns, kind, options });
        }
    }
    all.sort_by(|a, b| a.ns.cmp(&b.ns));
    Ok(all)
}

/// Whether anything stands against a copy, before anything is written.
pub(super) async fn refuse(copy: &Copy, there: &[Described]) -> Result<()> {
    let here = collections(&copy.to, &copy.wanted).await?;
    let link = &copy.marker.link;
    let known: HashMap<&Namespace, &Described> = here.iter().map(|d| (&d.ns, d)).collect();
    for source in there {
        let Some(target) = known.get(&source.ns) else { continue };
        if source.kind != target.kind {
            return Err(Error::operator(format!(
                "`{}` is a {} at {} and a {} at {}",
                source.ns,
                source.kind.name(),
                link.node,
                target.kind.name(),
                link.peer
            ))
            .hint("rename or drop one of the two, or leave it out of the namespaces of this link"));
        }
        let collation = |d: &Described| d.options.get_document("collation").ok().cloned();
        if source.kind == Kind::Ordinary && collation(source) != collation(target) {
            return Err(Error::operator(format!("`{}` has another collation at {} than at {}", source.ns, link.node, link.peer))
                .hint("ids that are equal on one side are not on the other: make the collection anew on one side, or leave it out of the namespaces of this link"));
        }
    }
    if copy.mode == Initial::Merge {
        let Some(plain) = there.iter().find(|d| d.kind.is_plain()) else { return Ok(()) };
        return Err(Error::operator(format!("`{}` is a {}, which cannot be merged", plain.ns, plain.kind.name()))
            .hint("it can be copied in one direction only (initial = \"copy\" into an empty target): leave it out of the namespaces of this link"));
    }
    let mut full = Vec::new();
    for target in here.iter().filter(|d| d.kind != Kind::View) {
        if !is_empty(&copy.to, &target.ns).await? {
            full.push(format!("`{}`", target.ns));
        }
    }
    if full.is_empty() {
        return Ok(());
    }
    let more = if full.len() > 5 { format!(" and {} more", full.len() - 5) } else { String::new() };
    full.truncate(5);
    Err(Error::operator(format!(
        "initial = \"copy\" needs an empty target, but {} has documents in {}{more}",
        link.peer,
        full.join(", ")
    ))
    .hint("set initial = \"merge\" to unite what both sides have, or drop these collections at the target"))
}

async fn is_empty(client: &Client, ns: &Namespace) -> Result<bool> {
    let coll = client.database(ns.db()).collection::<RawDocumentBuf>(ns.coll());
    Ok(bounded(coll.find_one(doc! {}).into_future(), Phase::Copy).await?.is_none())
}

/// Documents and bytes of a collection, as far as the server knows without counting.
pub(super) async fn size(client: &Client, ns: &Namespace) -> (u64, u64) {
    // An estimate only: where it cannot be had, the progress has no end to show.
    let stats = run(&client.database(ns.db()), doc! {"collStats": ns.coll()}, Phase::Copy).await.unwrap_or_default();
    let number = |name: &str| match stats.get(name) {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Double(n)) if *n > 0.0 => *n as u64,
        _ => 0,
    };
    (number("count"), number("size"))
}

/// The pieces of a collection: alike in size, between ids that were drawn at random.
pub(super) async fn pieces(copy: &Copy, ns: &Namespace, is_clustered: bool) -> Result<Vec<Piece>> {
    let (count, bytes) = size(&copy.from, ns).await;
    let wanted = (bytes / copy.pace.piece_bytes.max(1)).clamp(1, MOST_PIECES);
    let average = (bytes / count.max(1)).max(1);
    let samples = (wanted * SAMPLES).min(MOST_SAMPLED / average).min(count / 2);
    let mut bounds = if wanted > 1 && samples >= wanted && !is_clustered {
        sample(&copy.from, ns, samples).await?
    } else {
        Vec::new()
    };
    bounds.retain(|bound| !read::is_greatest(bound));
    bounds.dedup_by(|a, b| a.as_bytes() == b.as_bytes());
    let every = (bounds.len() as u64 / wanted).max(1) as usize;
    let mut bounds: Vec<Doc> = bounds.into_iter().skip(every).step_by(every).collect();
    if bounds.iter().any(|bound| bound.as_bytes().len() > MOST_BOUND) {
        bounds.clear();
    }
    let mut all = Vec::with_capacity(bounds.len() + 1);
    let mut min = None;
    for bound in bounds {
        all.push(Piece::new(ns, all.len() as i32, min.replace(bound.clone()), Some(bound)));
    }
    all.push(Piece::new(ns, all.len() as i32, min, None));
    Ok(all)
}

/// Some ids in the server's own order.
async fn sample(from: &Client, ns: &Namespace, samples: u64) -> Result<Vec<Doc>> {
    let pipeline =
        vec![doc! {"$sample": {"size": samples as i64}}, doc! {"$project": {"_id": 1}}, doc! {"$sort": {"_id": 1}}];
    let coll = from.database(ns.db()).collection::<Document>(ns.coll());
    let drawn = async {
        let cursor = coll.aggregate(pipeline).allow_disk_use(true).with_type::<RawDocumentBuf>().await?;
        cursor.try_collect::<Vec<_>>().await
    };
    match answered(drawn).await? {
        Ok(drawn) => Ok(drawn.into_iter().map(Doc::from).filter_map(|doc| read::key_of(&doc)).collect()),
        // A server that cannot draw: one piece is slower, nothing else.
        Err(e) if code(&e).is_some_and(|code| code != 13) => {
            tracing::debug!(namespace = %ns, code = code(&e), "no ids can be drawn: the collection is copied in one piece");
            Ok(Vec::new())
        }
        Err(e) => Err(classify(e, Phase::Copy)),
    }
}
