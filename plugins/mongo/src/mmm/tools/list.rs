//! `oplogue conflicts list`.

use std::future::IntoFuture;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use oplogue_api::{Error, Outcome, Result, ToolContext};

use super::{super::names, conflicts::Filter, links::LinkRoute, text};
use crate::{
    client::bounded,
    errors::{Phase, classify},
};

const LIMIT: usize = 50;

pub(super) async fn list(context: &mut ToolContext<'_>, links: &[LinkRoute], filter: &Filter) -> Result<Outcome> {
    let limit = match context.arguments.get("limit").map(str::parse::<usize>) {
        None => LIMIT,
        Some(Ok(n)) if n > 0 => n,
        Some(_) => return Err(Error::option("limit", "--limit takes a number above 0")),
    };
    let mut records = Vec::new();
    let mut more = false;
    for link in links {
        more |= gather(link, filter, limit, &mut records).await?;
    }
    records.sort_by_key(|record| {
        std::cmp::Reverse(record.get_datetime("at").map_or(i64::MIN, |at| at.timestamp_millis()))
    });
    more |= records.len() > limit;
    records.truncate(limit);
    if context.terminal && !context.arguments.has("json") {
        let head = ["ID", "AT", "LINK", "NAMESPACE", "KIND", "WINNER", "STATUS", "KEY"];
        let rows: Vec<_> = records.iter().map(row).collect();
        context.print(&if rows.is_empty() { "no conflicts\n".to_owned() } else { text::table(&head, &rows) })?;
    } else {
        for record in records {
            context.print(&format!("{}\n", text::json(&Bson::Document(record))))?;
        }
    }
    if more {
        context.note(&format!("there are more than these {limit}: --limit N shows more of them\n"));
    }
    Ok(Outcome::Well)
}

/// The newest conflicts of a link, without documents; whether there are more.
async fn gather(link: &LinkRoute, filter: &Filter, limit: usize, records: &mut Vec<Document>) -> Result<bool> {
    let coll = link.metadata(names::CONFLICTS).await?;
    let hidden = doc! {"local.doc": 0, "local.change": 0, "remote.doc": 0, "remote.change": 0, "fields": 0};
    let find = coll.find(filter.query(link)).projection(hidden).sort(doc! {"at": -1, "_id": -1});
    let mut cursor = bounded(find.into_future(), Phase::Lookup).await?;
    let mut found = 0;
    while let Some(record) = cursor.try_next().await.map_err(|e| classify(e, Phase::Lookup))? {
        if !filter.lets(&record) {
            continue;
        }
        if found == limit {
            return Ok(true);
        }
        found += 1;
        records.push(record);
    }
    Ok(false)
}

fn row(record: &Document) -> Vec<String> {
    let said = |field: &str| match record.get(field) {
        Some(Bson::String(text)) => text.clone(),
        Some(Bson::ObjectId(id)) => id.to_hex(),
        Some(Bson::DateTime(at)) => at.try_to_rfc3339_string().unwrap_or_default(),
        Some(Bson::Null) | None => "-".to_owned(),
        Some(other) => text::json(other),
    };
    let mut row: Vec<_> = ["_id", "at", "link", "ns", "kind", "winner", "status"].into_iter().map(said).collect();
    row.push(record.get("key").map_or_else(|| "-".to_owned(), text::json));
    row
}
