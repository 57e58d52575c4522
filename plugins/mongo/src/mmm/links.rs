//! What each link to a peer replicates, so that no namespace is replicated twice by links that do not know of each other.
//!
//! ```text
//! { _id: "factory->cloud", node: "factory", peer: "cloud", source: "65f0…", namespaces: ["app.*"] }
//! ```
//!
//! `source` is the identity of the deployment that `node` names, since another link may call it otherwise. `namespaces: null` is
//! everything. Written only where it differs from what is there: a start is silent.

use std::future::IntoFuture;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    options::{Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{Error, Result};

use super::{names, options::Settings, state::Peer};
use crate::{
    client::bounded,
    errors::Phase,
    globs::{Globs, overlap},
};

/// Says what the link replicates.
///
/// # Errors
/// `Operator` when another link brings some of it from the same deployment; nothing is said then.
pub(super) async fn announce(peer: &Peer, source: Option<&str>) -> Result<()> {
    // Where the deployment cannot be told, `check` warns.
    let Some(source) = source else { return Ok(()) };
    let links = links(peer).await?;
    let ours = describe(&peer.settings, source);
    let id = doc! {"_id": ours.get("_id")};
    let before = bounded(links.find_one(id.clone()).into_future(), Phase::Apply).await?;
    if before.as_ref() != Some(&ours) {
        // Said before the others are asked for: of two that begin at once, at least one hears of the other.
        bounded(links.replace_one(id.clone(), &ours).upsert(true).into_future(), Phase::Apply).await?;
    }
    let Err(e) = look(&links, &peer.settings, source).await else { return Ok(()) };
    // As it was, so that nothing of this stands in the way of the other link.
    match before {
        Some(before) if before == ours => {}
        Some(before) => {
            bounded(links.replace_one(id, before).into_future(), Phase::Apply).await?;
        }
        None => {
            bounded(links.delete_one(id).into_future(), Phase::Apply).await?;
        }
    }
    Err(e)
}

/// Whether another link brings from the same deployment what this one does. Writes nothing.
///
/// # Errors
/// `Operator` when one does.
pub(super) async fn check(peer: &Peer, source: &str) -> Result<()> {
    look(&links(peer).await?, &peer.settings, source).await
}

/// The link is no more.
pub(super) async fn forget(peer: &Peer) -> Result<()> {
    let id = doc! {"_id": peer.settings.link.marker_id(0)};
    bounded(links(peer).await?.delete_one(id).into_future(), Phase::Store).await.map(drop)
}

async fn links(peer: &Peer) -> Result<Collection<Document>> {
    let options = CollectionOptions::builder()
        .read_concern(ReadConcern::local())
        .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    Ok(peer.client().await?.database(names::DATABASE).collection_with_options(names::LINKS, options))
}

fn describe(settings: &Settings, source: &str) -> Document {
    let namespaces = settings.namespaces.as_ref().map(|globs| globs.patterns().collect::<Vec<_>>());
    doc! {
        "_id": settings.link.marker_id(0),
        "node": &settings.link.node,
        "peer": &settings.link.peer,
        "source": source,
        "namespaces": namespaces,
    }
}

async fn look(links: &Collection<Document>, settings: &Settings, source: &str) -> Result<()> {
    let id = settings.link.marker_id(0);
    let others = doc! {"source": source, "_id": {"$ne": &id}};
    let others = bounded(links.find(others).into_future(), Phase::Apply).await?;
    let others: Vec<Document> = bounded(others.try_collect(), Phase::Apply).await?;
    for other in others {
        if let Some((ours, theirs)) = meeting(settings.namespaces.as_ref(), other.get("namespaces")) {
            let name = other.get_str("_id").unwrap_or_default();
            return Err(Error::operator(format!(
                "the link `{name}` replicates from the same deployment to the same peer what this one does: `{theirs}` there, `{ours}` here"
            ))
            .hint(format!(
                "each change would be applied twice, and the links would not know each other's markers as echoes: give both `namespaces` without a collection in common. If `{name}` is no longer run: `oplogue position reset FILE ROUTE` for its route, or remove its document from {}.{} at the peer",
                names::DATABASE,
                names::LINKS
            )));
        }
    }
    Ok(())
}

/// A pattern of each side that some namespace matches both of.
fn meeting(ours: Option<&Globs>, theirs: Option<&Bson>) -> Option<(String, String)> {
    let everything = || vec!["*".to_owned()];
    let ours: Vec<String> = ours.map_or_else(everything, |globs| globs.patterns().collect());
    let theirs: Vec<String> = match theirs {
        Some(Bson::Array(all)) => all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => everything(),
    };
    let all = ours.iter().flat_map(|a| theirs.iter().map(move |b| (a, b)));
    all.filter(|(a, b)| overlap(a, b)).map(|(a, b)| (a.clone(), b.clone())).next()
}
