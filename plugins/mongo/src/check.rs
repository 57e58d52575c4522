//! What both sources look at in `oplogue check --connect`.

use bson::doc;
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use crate::{
    client::{self, Hello, hello, run},
    errors::Phase,
    identity::identity,
};

/// Looks at reachability, topology, version and identity; what was found is added to `findings`.
///
/// # Errors
/// What makes looking further pointless.
pub(crate) async fn server(client: &Client, findings: &mut Vec<Finding>) -> Result<Hello> {
    let hello = hello(client, Phase::Check).await?;
    let info = run(&client.database("admin"), doc! {"buildInfo": 1}, Phase::Check).await?;
    let text = info.get_str("version").unwrap_or("").to_owned();
    let mut numbers = text.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (4, 4) {
        return Err(Error::operator(format!("the server runs MongoDB {text}"))
            .hint("oplogue reads MongoDB 4.4 and later: upgrade the server"));
    }
    if hello.is_standalone() {
        return Err(client::standalone());
    }
    findings.push(Finding::ok(match &hello.set_name {
        Some(name) => format!("MongoDB {text}, replica set `{name}`"),
        None => format!("MongoDB {text}, sharded cluster"),
    }));
    if identity(client).await?.is_none() {
        findings.push(Finding::warning(
            "the identity of the deployment cannot be read, so a checkpoint of another one would not be noticed",
            "grant the user the role `clusterMonitor`, or `read` on `local`",
        ));
    }
    Ok(hello)
}
