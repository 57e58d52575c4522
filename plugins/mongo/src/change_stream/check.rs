//! `oplogue check --connect` for this source.

use std::future::IntoFuture;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::{
    Begin, ChangeStream,
    options::{BeforeChange, FullDocument, Settings},
};
use crate::{
    check,
    client::{answered, bounded},
    errors::{Phase, classify},
    start::Start,
};

pub(super) async fn check(source: &mut ChangeStream) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(e) = look(source, &mut findings).await {
        findings.push(e.into());
    }
    findings
}

async fn look(source: &mut ChangeStream, findings: &mut Vec<Finding>) -> Result<()> {
    let client = source.client().await?;
    check::server(&client, findings).await?;
    source.features = super::Features::wanted(&source.settings);
    // Opens at the end of the stream and lets go of the cursor at once: nothing changes on the server.
    let scope = match source.settings.scope().as_str() {
        "" => "the deployment".to_owned(),
        scope => format!("`{scope}`"),
    };
    source.begin(&Begin::Now).await.map_err(|e| e.at(format!("a change stream on {scope}")))?;
    let f = source.features;
    let list: Vec<&str> = [
        (f.expanded, "expanded events"),
        (f.raw_updates, "exact updates"),
        (f.system, "system events"),
        (f.split, "split of large events"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect();
    findings.push(Finding::ok(match list.as_slice() {
        [] => format!("a change stream on {scope} can be opened"),
        list => format!("a change stream on {scope} can be opened, with {}", list.join(", ")),
    }));
    if !f.split && source.settings.full_document != FullDocument::Default {
        findings.push(Finding::warning(
            "the server cannot split large events: an update of a document of more than about 8 MB stops the route",
            "use full_document = \"default\", or MongoDB 6.0.9 or later",
        ));
    }
    if source.settings.include_system && !f.system {
        findings.push(Finding::warning(
            "include_system: the server shows no events of system collections",
            "MongoDB 6.0 or later does, and the mongo-oplog source",
        ));
    }
    if source.settings.start == Start::Oldest {
        source.oldest().await?;
    }
    images(&client, &source.settings, findings).await
}

/// Which collections in scope do not store the images that the source asks for.
async fn images(client: &Client, settings: &Settings, findings: &mut Vec<Finding>) -> Result<()> {
    let required = settings.full_document == FullDocument::Required
        || settings.full_document_before_change == BeforeChange::Required;
    let stored = required
        || settings.full_document == FullDocument::WhenAvailable
        || settings.full_document_before_change == BeforeChange::WhenAvailable;
    if !stored {
        return Ok(());
    }
    let databases = match &settings.database {
        Some(db) => vec![db.clone()],
        None => bounded(client.list_database_names().into_future(), Phase::Check).await?,
    };
    let (mut all, mut without) = (0, Vec::new());
    for db in databases.iter().filter(|db| !matches!(db.as_str(), "admin" | "local" | "config")) {
        let mut filter = doc! {"type": "collection"};
        if let Some(coll) = &settings.collection {
            filter.insert("name", coll);
        }
        let listed = async {
            let cursor = client
                .database(db)
                .run_cursor_command(doc! {"listCollections": 1, "filter": filter})
                .into_future()
                .await?;
            cursor.try_collect::<Vec<Document>>().await
        };
        for coll in answered(listed).await?.map_err(|e| classify(e, Phase::Check))? {
            let name = coll.get_str("name").unwrap_or_default();
            let options = coll.get_document("options").ok();
            let images = options.is_some_and(|o| {
                o.get_document("changeStreamPreAndPostImages").is_ok_and(|i| i.get_bool("enabled").unwrap_or(false))
                    || o.get_bool("recordPreImages").unwrap_or(false)
            });
            if name.starts_with("system.") {
                continue;
            }
            all += 1;
            if !images {
                without.push(format!("{db}.{name}"));
            }
        }
    }
    if all == 0 {
        findings.push(Finding::warning(
            "there is no collection in scope yet",
            "create it with {changeStreamPreAndPostImages: {enabled: true}}, so that images are stored from the start",
        ));
        return Ok(());
    }
    if without.is_empty() {
        findings.push(Finding::ok("images are stored for every collection in scope"));
        return Ok(());
    }
    let shown = without.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match without.len().saturating_sub(10) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let what = format!("no images are stored for {shown}{more}");
    let hint = "run collMod with {changeStreamPreAndPostImages: {enabled: true}} on them (4.4 and 5.0: {recordPreImages: true}), or use \"when-available\"";
    findings.push(if required { Error::operator(what).hint(hint).into() } else { Finding::warning(what, hint) });
    Ok(())
}
