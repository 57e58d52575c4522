//! Both ends of routes that replicate between two deployments.

use std::{sync::Arc, time::Duration};

use bson::{Timestamp, doc};
use mongodb::Client;
use oplogue_api::{Error, Namespace, Result};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::super::{
    super::{checks::same_deployment, marker::Marker, names},
    links::LinkRoute,
};
use crate::{
    client::{bounded, run},
    errors::Phase,
    globs::Globs,
    identity::identity,
};

/// Two deployments.
#[derive(Clone)]
pub(super) struct Ends {
    /// The names of the nodes.
    pub names: [String; 2],
    pub clients: [Client; 2],
    /// Documents may have the field `__mmm` at one end only.
    pub stamped: bool,
    pub rate: Arc<Rate>,
}

/// Two deployments and the routes between them.
pub(super) struct Pair {
    pub ends: Ends,
    /// With which end is their node: 0 or 1.
    pub links: Vec<(usize, LinkRoute)>,
}

impl Pair {
    /// Whether a namespace is replicated between them, and asked about.
    pub fn wants(&self, ns: &Namespace, asked: Option<&Globs>) -> bool {
        self.links.iter().any(|(_, link)| link.settings().wants(ns)) && asked.is_none_or(|g| g.wants(ns))
    }

    pub async fn close(&self) {
        for (_, link) in &self.links {
            link.peer.close().await;
        }
    }
}

/// Opposite routes make one pair.
///
/// # Errors
/// `Operator` where both ends are one deployment.
pub(super) async fn pairs(links: Vec<LinkRoute>, rate: Option<u64>) -> Result<Vec<Pair>> {
    let rate = Arc::new(Rate::new(rate));
    let mut pairs: Vec<Pair> = Vec::new();
    for link in links {
        let names = [link.settings().link.node.clone(), link.settings().link.peer.clone()];
        let stamped = link.settings().stamp.is_some();
        let known = pairs.iter_mut().find_map(|pair| {
            let from = pair.ends.names.iter().position(|name| *name == names[0])?;
            (pair.ends.names[1 - from] == names[1]).then_some((pair, from))
        });
        if let Some((pair, from)) = known {
            pair.ends.stamped |= stamped;
            pair.links.push((from, link));
            continue;
        }
        let clients = [link.peer.origin.client().await?.clone(), link.peer.client().await?.clone()];
        if let (Some(a), Some(b)) = (identity(&clients[0]).await?, identity(&clients[1]).await?)
            && a == b
        {
            return Err(same_deployment().at(format!("route {}", link.route)));
        }
        pairs.push(Pair { ends: Ends { names, clients, stamped, rate: Arc::clone(&rate) }, links: vec![(0, link)] });
    }
    Ok(pairs)
}

/// The time of the newest operation at an end.
pub(super) async fn clock(client: &Client) -> Result<Timestamp> {
    let reply = run(&client.database("admin"), doc! {"ping": 1}, Phase::Lookup).await?;
    reply
        .get_timestamp("operationTime")
        .map_err(|_| Error::operator("the server has no cluster time: it is no replica set"))
}

/// How far the log of a link's node is applied at its peer; `None`: the link has never run.
pub(super) async fn applied(link: &LinkRoute) -> Result<Option<Timestamp>> {
    let markers = link.metadata(names::MARKERS).await?;
    let found = markers.find_one(doc! {"_id": link.id()});
    let stored = bounded(std::future::IntoFuture::into_future(found), Phase::Lookup).await?;
    Ok(stored.as_ref().and_then(Marker::decode).map(|marker| marker.position.time))
}

/// Bytes per second, of all readers together.
pub(super) struct Rate {
    per_second: Option<u64>,
    free: Mutex<Instant>,
}

impl Rate {
    fn new(per_second: Option<u64>) -> Rate {
        Rate { per_second, free: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes more may have been read.
    pub async fn take(&self, bytes: u64) {
        let Some(per_second) = self.per_second else { return };
        let due = {
            let mut free = self.free.lock().await;
            let due = (*free).max(Instant::now());
            *free = due + Duration::from_secs_f64(bytes as f64 / per_second as f64);
            due
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept_by_all_together() {
        let begun = Instant::now();
        let rate = Rate::new(Some(1_000_000));
        futures_util::future::join_all((0..4).map(|_| rate.take(100_000))).await;
        rate.take(1).await;
        assert!(begun.elapsed() >= Duration::from_millis(399), "{:?}", begun.elapsed());
        Rate::new(None).take(u64::MAX).await;
    }
}
