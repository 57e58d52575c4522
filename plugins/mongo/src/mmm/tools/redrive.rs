//! `oplogue conflicts redrive`: a version of the document as an ordinary write at the peer, so that it replicates from there as any
//! write of an operator does. The record says so in the same transaction.

use std::future::IntoFuture;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use oplogue_api::{Error, Namespace, Outcome, Result, ToolContext};

use super::{
    super::{names, origin::raw},
    conflicts::{Filter, find},
    links::{LinkRoute, current},
    write::{Step, Undone, transact},
};
use crate::{
    client::bounded,
    errors::{Phase, classify},
};

pub(super) async fn redrive(context: &mut ToolContext<'_>, links: &[LinkRoute], filter: &Filter) -> Result<Outcome> {
    let given = context.arguments.get("id").map(str::to_owned);
    let winner = context.arguments.get("winner").map(str::to_owned);
    match (given, context.arguments.has("all")) {
        (Some(given), false) => {
            let (link, record) = find(links, &given).await?;
            let done = one(link, &record, winner.as_deref()).await;
            tell(context, &record, done)
        }
        (None, true) => all(context, links, filter, winner.as_deref()).await,
        _ => Err(Error::option("id", "name one conflict, or say --all")),
    }
}

async fn all(
    context: &mut ToolContext<'_>,
    links: &[LinkRoute],
    filter: &Filter,
    winner: Option<&str>,
) -> Result<Outcome> {
    let mut outcome = Outcome::Well;
    let mut count = 0;
    for link in links {
        let mut query = filter.query(link);
        if !filter.has_status() {
            query.insert("status", "parked");
        }
        // In the order in which they came. The ids first: the work on each takes its time.
        let coll = link.metadata(names::CONFLICTS).await?;
        let find = coll.find(query).projection(doc! {"ns": 1}).sort(doc! {"at": 1, "_id": 1});
        let cursor = bounded(find.into_future(), Phase::Lookup).await?;
        let ids: Vec<Document> = cursor.try_collect().await.map_err(|e| classify(e, Phase::Lookup))?;
        for id in ids.iter().filter(|record| filter.lets(record)).filter_map(|record| record.get("_id")) {
            let found = coll.find_one(doc! {"_id": id});
            let Some(record) = bounded(found.into_future(), Phase::Lookup).await? else { continue };
            let done = one(link, &record, winner).await;
            count += 1;
            if tell(context, &record, done)? == Outcome::Unwell {
                outcome = Outcome::Unwell;
            }
        }
    }
    if count == 0 {
        context.note("no conflict matches\n");
    }
    Ok(outcome)
}

fn tell(context: &mut ToolContext<'_>, record: &Document, done: Result<String>) -> Result<Outcome> {
    let id = match record.get("_id") {
        Some(Bson::ObjectId(id)) => id.to_hex(),
        Some(Bson::String(id)) => id.clone(),
        _ => "a record without an id".to_owned(),
    };
    match done {
        Ok(what) => {
            context.print(&format!("{id}: {what}\n"))?;
            Ok(Outcome::Well)
        }
        Err(e) if e.field().is_some() => Err(e),
        Err(e) => {
            context.note(&format!("{id}: not done: {e}\n"));
            if let Some(hint) = e.get_hint() {
                context.note(&format!("  hint: {hint}\n"));
            }
            Ok(Outcome::Unwell)
        }
    }
}

/// Redrives one; what was done, without contents of the document.
async fn one(link: &LinkRoute, record: &Document, winner: Option<&str>) -> Result<String> {
    let status = record.get_str("status").unwrap_or_default();
    let winner = match winner {
        Some(winner) => winner,
        None if status == "parked" => "remote",
        None => {
            return Err(Error::option("winner", "this conflict was resolved: say which version to write")
                .hint("--winner local is what the peer had, --winner remote what came over the link"));
        }
    };
    let (Ok(ns), Some(id), Some(key)) = (record.get_str("ns"), record.get("_id"), record.get("key")) else {
        return Err(Error::operator("the record does not name a document: it was made by hand, or is damaged"));
    };
    let ns = Namespace::new(ns);
    // Two documents that met over a unique value: the local one has a key of its own.
    let other = record.get_document("local").ok().and_then(|local| local.get("key")).filter(|other| *other != key);
    let (key, other) = match other {
        Some(other) if winner == "local" => (other, Some(key)),
        other => (key, other),
    };
    let document = version(link, record, winner, &ns, key).await?;
    let what = match &document {
        Some(_) => format!("the {winner} version was written"),
        None => format!("deleted, as in the {winner} version"),
    };
    let conflicts = Namespace::of(names::DATABASE, names::CONFLICTS);
    let said = doc! {"status": "redriven", "redriven": {"at": DateTime::now(), "winner": winner}};
    let put = Step::Put { ns: ns.clone(), id: key.clone(), document };
    // The status as it was read: of two that redrive one record at the same time, one does.
    let done = Step::Update { ns: conflicts, q: doc! {"_id": id, "status": status}, u: doc! {"$set": said} };
    let client = link.peer.client().await?;
    let tried = transact(client, &[put.clone(), done.clone()]).await;
    match (tried, other) {
        // The other one still has the value.
        (Err(Undone::Refused(11000)), Some(other)) => {
            let away = Step::Put { ns, id: other.clone(), document: None };
            let tried = transact(client, &[away, put, done]).await;
            tried.map(|()| format!("{what}, and the document that had its unique value deleted"))
        }
        (tried, _) => tried.map(|()| what),
    }
    .map_err(|undone| Error::operator(undone.reason()).hint("nothing was written; mend that and try again"))
}

/// The chosen version; `None`: the document does not exist in it.
async fn version(
    link: &LinkRoute,
    record: &Document,
    winner: &str,
    ns: &Namespace,
    key: &Bson,
) -> Result<Option<RawDocumentBuf>> {
    let side = record.get_document(winner).ok();
    let op = side.and_then(|side| side.get_str("op").ok());
    match side.and_then(|side| side.get("doc")) {
        Some(Bson::Document(document)) => raw(document).map(Some),
        // A parked update whose document was not at hand: null says no more than that the record has none.
        Some(Bson::Null) if winner == "local" || op == Some("delete") => Ok(None),
        None if op == Some("delete") => Ok(None),
        _ if winner == "remote" => current(link.peer.origin.client().await?, ns, key).await,
        // What came was refused: the peer has still what it had.
        None if record.get_str("status").is_ok_and(|status| status == "parked") => {
            current(link.peer.client().await?, ns, key).await
        }
        _ => Err(Error::operator("the record does not hold the local version: it was too large, or not known").hint(
            "the peer has it unless it was overwritten: write it there by hand, which replicates as any write does",
        )),
    }
}
