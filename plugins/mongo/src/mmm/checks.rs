//! What `oplogue check --connect` says about the sink.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::{links, names, state::Peer};
use crate::{
    check::{privileges, server},
    client::bounded,
    errors::Phase,
    identity::identity,
};

pub(super) async fn check(peer: &Peer) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(e) = look(peer, &mut findings).await {
        findings.push(e.into());
    }
    findings
}

async fn look(peer: &Peer, findings: &mut Vec<Finding>) -> Result<()> {
    let client = peer.client().await?;
    server(client, findings).await?;
    let (ours, theirs) = (identity(client).await?, peer.origin.identity().await?);
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == theirs => return Err(same_deployment()),
        (Some(_), Some(source)) => {
            findings.push(Finding::ok("source and peer are two deployments"));
            links::check(peer, &source).await?;
        }
        _ => findings.push(Finding::warning(
            "the identity of the source or the peer cannot be read, so that one deployment would not be noticed as both",
            "grant the users the role `clusterMonitor`, or `read` on `local`",
        )),
    }
    forwarding(peer, findings).await?;
    if let Some(held) = privileges(client).await? {
        let needs = ["find", "insert", "update", "remove"];
        let may = |action: &str| held.iter().any(|p| p.covers(None, None) && p.allows(action));
        let missing: Vec<_> = needs.into_iter().filter(|need| !may(need)).collect();
        if !missing.is_empty() {
            findings.push(Finding::warning(
                format!("the user may not {} in every database", missing.join(", ")),
                "it needs `readWrite` on each database that is replicated and on `__mmm`, or `readWriteAnyDatabase`",
            ));
        }
    }
    Ok(())
}

/// Whether what others bring to the node comes to the peer: over links of its own, or handed on by this one.
async fn forwarding(peer: &Peer, findings: &mut Vec<Finding>) -> Result<()> {
    let link = &peer.settings.link;
    let to = async |client: &Client, name: &str| -> Result<Vec<Document>> {
        let markers = client.database(names::DATABASE).collection::<Document>(names::MARKERS);
        let found = async { markers.find(doc! {"peer": name, "lane": 0}).await?.try_collect().await };
        bounded(found, Phase::Check).await
    };
    let node = |marker: &Document| marker.get_str("node").unwrap_or_default().to_owned();
    let at_peer: Vec<String> = to(peer.client().await?, &link.peer).await?.iter().map(node).collect();
    for marker in to(peer.origin.client().await?, &link.node).await? {
        let other = node(&marker);
        if other == link.peer {
            continue;
        }
        if peer.settings.forwards && !marker.contains_key("forward") {
            findings.push(Finding::warning(
                format!("what the link `{other}->{}` brings does not go on to {}: it does not say whose it is", link.node, link.peer),
                "set forward = \"all\" in the sinks of all links of a hub, ring or chain; if that is done, start the route of that link first",
            ));
        }
        if !peer.settings.forwards && !at_peer.contains(&other) {
            findings.push(Finding::warning(
                format!("what is written at {other} comes to {}, and not from there to {}", link.node, link.peer),
                "set forward = \"all\" in the sinks of all links, or give the two a link of their own",
            ));
        }
    }
    Ok(())
}

pub(super) fn same_deployment() -> Error {
    Error::operator("the source and the peer are the same deployment")
        .hint("correct the `uri` of one of them: a deployment cannot be replicated into itself")
}
