//! What `oplogue check --connect` says about the sink.

use oplogue_api::{Error, Finding, Result};

use super::{links, state::Peer};
use crate::{
    check::{privileges, server},
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

pub(super) fn same_deployment() -> Error {
    Error::operator("the source and the peer are the same deployment")
        .hint("correct the `uri` of one of them: a deployment cannot be replicated into itself")
}
