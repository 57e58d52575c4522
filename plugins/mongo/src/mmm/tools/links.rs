//! The routes of the configuration that replicate.

use std::future::IntoFuture;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{
    Client, Collection,
    options::{Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use oplogue_api::{Error, Namespace, Origin as Source, Result, ToolRoute};

use super::super::{names, options::Settings, origin::Origin, state::Peer};
use crate::{
    client::answered,
    errors::{Phase, classify},
};

/// The type of the sink.
const SINK: &str = "mongo-mmm";

/// A route from one deployment to another.
pub(super) struct LinkRoute {
    pub route: String,
    pub peer: Peer,
}

impl LinkRoute {
    pub fn settings(&self) -> &Settings {
        &self.peer.settings
    }
    /// As records and markers call it.
    pub fn id(&self) -> String {
        self.settings().link.marker_id(0)
    }
    /// A collection of the metadata at the peer.
    pub async fn metadata(&self, coll: &str) -> Result<Collection<Document>> {
        Ok(collection(self.peer.client().await?, &Namespace::of(names::DATABASE, coll)))
    }
}

/// The routes that replicate: those that are named, or all.
///
/// # Errors
/// [`Error::option`] for `route` when a name is unknown or no such route; `Operator` when there is none at all.
pub(super) fn links(routes: &[ToolRoute], named: &[String]) -> Result<Vec<LinkRoute>> {
    for name in named {
        match routes.iter().find(|route| route.name == *name) {
            None => {
                let known: Vec<_> = routes.iter().filter(|r| r.sink.kind == SINK).map(|r| r.name.as_str()).collect();
                return Err(Error::option("route", format!("there is no route `{name}`"))
                    .hint(format!("those that replicate: {}; in a shell, quote names with a >", known.join(", "))));
            }
            Some(route) if route.sink.kind != SINK => {
                return Err(Error::option("route", format!("the route `{name}` does not replicate"))
                    .hint(format!("its sink is of type `{}`, not `{SINK}`", route.sink.kind)));
            }
            Some(_) => {}
        }
    }
    let wanted = routes.iter().filter(|r| r.sink.kind == SINK && (named.is_empty() || named.contains(&r.name)));
    let links = wanted.map(|route| {
        let source = Source { kind: route.source.kind, options: route.source.options.clone() };
        let made = Settings::new(&route.sink.options)
            .and_then(|settings| Ok(Peer::new(settings, Origin::new(Some(&source))?)));
        match made {
            Ok(peer) => Ok(LinkRoute { route: route.name.clone(), peer }),
            Err(e) => Err(e.at(format!("route {}", route.name))),
        }
    });
    let links = links.collect::<Result<Vec<_>>>()?;
    if links.is_empty() {
        return Err(Error::operator(format!("no route of this file has a sink of type {SINK}")));
    }
    Ok(links)
}

/// A collection, read at the primary with a majority and written with one.
pub(super) fn collection<T: Send + Sync>(client: &Client, ns: &Namespace) -> Collection<T> {
    let options = CollectionOptions::builder()
        .read_concern(ReadConcern::majority())
        .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    client.database(ns.db()).collection_with_options(ns.coll(), options)
}

/// The document of a key, as a majority has it.
pub(super) async fn current(client: &Client, ns: &Namespace, id: &bson::Bson) -> Result<Option<RawDocumentBuf>> {
    let coll = collection::<RawDocumentBuf>(client, ns);
    let found = coll.find_one(doc! {"_id": {"$eq": id}});
    answered(found.into_future()).await?.map_err(|e| classify(e, Phase::Lookup))
}
