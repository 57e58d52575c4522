//! What `oplogue check --connect` says about an oplog source.

use std::time::{Duration, SystemTime};

use bson::doc;
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::{
    log::Log,
    mongos,
    options::{NAMESPACES, Settings, Wanted},
    readable::readable,
    rfc3339,
};
use crate::{
    check::server,
    client::run,
    errors::{Phase, code},
};

/// An oplog that reaches back less than this is soon overtaken by a stop for maintenance.
const SHORT_WINDOW_HOURS: f64 = 24.0;
/// Clocks further apart than this make lag and `start = { at = … }` misleading.
const CLOCKS_APART: Duration = Duration::from_secs(5);

pub(super) async fn look(client: &Client, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(e) = look_into(client, settings, &mut findings).await {
        findings.push(e.into());
    }
    findings
}

async fn look_into(client: &Client, settings: &Settings, findings: &mut Vec<Finding>) -> Result<()> {
    let phase = Phase::Check;
    let admin = client.database("admin");
    if server(client, findings).await?.mongos {
        return Err(mongos());
    }

    match client.database("local").run_command(doc! {"find": "oplog.rs", "limit": 1, "singleBatch": true}).await {
        Ok(_) => findings.push(Finding::ok("local.oplog.rs can be read")),
        Err(e) if code(&e) == Some(13) => {
            return Err(Error::operator("the user may not read local.oplog.rs").hint(
                "grant it: db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{role: \"read\", db: \"local\"}])",
            ));
        }
        Err(e) => return Err(crate::errors::classify(e, phase)),
    }
    let log = Log::new(client, settings.read_concern);
    if let (Some(oldest), Some(newest)) = (log.oldest(phase).await?, log.newest(phase).await?) {
        let hours = f64::from(newest.ts.time.saturating_sub(oldest.at.ts.time)) / 3600.0;
        let window = format!("the oplog reaches back {hours:.1} hours, to {}", rfc3339(oldest.at.ts));
        findings.push(if hours >= SHORT_WINDOW_HOURS || oldest.is_genesis {
            Finding::ok(window)
        } else {
            Finding::warning(window, "a longer stop loses the position: enlarge the oplog with replSetResizeOplog")
        });
    }
    let status = run(&admin, doc! {"isMaster": 1}, phase).await?;
    if let Ok(theirs) = status.get_datetime("localTime") {
        let theirs = theirs.to_system_time();
        let ours = SystemTime::now();
        let apart = ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default();
        if apart > CLOCKS_APART {
            findings.push(Finding::warning(
                format!("the clock of the server and that of this machine are {} s apart", apart.as_secs()),
                "set both with NTP: `start = { at = … }` and the wall times of events follow the server's clock",
            ));
        } else {
            findings.push(Finding::ok("the clocks agree"));
        }
    }
    let option = NAMESPACES;
    match settings.wanted()? {
        Wanted::Nowhere => Ok(()),
        Wanted::Everywhere => readable(client, None, option, findings).await,
        Wanted::In(globs) => readable(client, Some(&globs), option, findings).await,
    }
}
