//! `oplogue conflicts`: what the collection `__mmm.conflicts` at each peer holds.

use bson::{Bson, Document, doc, oid::ObjectId};
use oplogue_api::{Error, Outcome, Result, RunTool, ToolArguments, ToolContext, async_trait};

use super::{
    super::names,
    links::{LinkRoute, links},
    list, redrive, show, text,
};
use crate::{
    client::{bounded, run},
    errors::Phase,
    globs::Globs,
};

pub(super) struct Conflicts;

#[async_trait]
impl RunTool for Conflicts {
    async fn run(&self, context: &mut ToolContext<'_>) -> Result<Outcome> {
        let filter = Filter::new(&context.arguments)?;
        let links = links(&context.routes, context.arguments.all("route"))?;
        let result = match context.action {
            "list" => list::list(context, &links, &filter).await,
            "show" => show::show(context, &links).await,
            "redrive" => redrive::redrive(context, &links, &filter).await,
            _ => purge(context, &links).await,
        };
        for link in &links {
            link.peer.close().await;
        }
        result
    }
}

/// Which conflicts are meant.
pub(super) struct Filter {
    query: Document,
    namespaces: Option<Globs>,
}

impl Filter {
    fn new(given: &ToolArguments) -> Result<Filter> {
        let mut query = doc! {};
        for field in ["kind", "status"] {
            if given.has(field) {
                query.insert(field, doc! {"$in": given.all(field)});
            }
        }
        if let Some(since) = given.get("since") {
            query.insert("at", doc! {"$gte": text::since(since)?});
        }
        let namespaces = match given.has("ns") {
            true => Some(Globs::new("ns", given.all("ns"))?),
            false => None,
        };
        Ok(Filter { query, namespaces })
    }

    /// The query at the peer of a link; namespaces are matched here.
    pub fn query(&self, link: &LinkRoute) -> Document {
        let mut query = self.query.clone();
        query.insert("link", link.id());
        query
    }

    pub fn lets(&self, record: &Document) -> bool {
        let ns = record.get_str("ns").unwrap_or_default();
        self.namespaces.as_ref().is_none_or(|globs| globs.matches(ns))
    }

    pub fn has_status(&self) -> bool {
        self.query.contains_key("status")
    }
}

/// The `_id` of a record, as it was typed.
pub(super) fn id(given: &str) -> Bson {
    match ObjectId::parse_str(given) {
        Ok(id) => Bson::ObjectId(id),
        Err(_) => Bson::String(given.to_owned()),
    }
}

/// The record with an id, and the link that it came over.
pub(super) async fn find<'l>(links: &'l [LinkRoute], given: &str) -> Result<(&'l LinkRoute, Document)> {
    for link in links {
        let records = link.metadata(names::CONFLICTS).await?;
        let found = records.find_one(doc! {"_id": id(given), "link": link.id()});
        if let Some(record) = bounded(std::future::IntoFuture::into_future(found), Phase::Lookup).await? {
            return Ok((link, record));
        }
    }
    let all: Vec<_> = links.iter().map(LinkRoute::id).collect();
    Err(Error::option("id", format!("no conflict `{given}` at any peer"))
        .hint(format!("the links of this file are {}; `oplogue conflicts list FILE` shows the ids", all.join(", "))))
}

async fn purge(context: &mut ToolContext<'_>, links: &[LinkRoute]) -> Result<Outcome> {
    let text = context.arguments.get("older-than").unwrap_or_default();
    let before = text::ago(text::period("older-than", text)?);
    let status = match context.arguments.all("status") {
        [] => vec!["resolved".to_owned(), "redriven".to_owned()],
        given => given.to_vec(),
    };
    for link in links {
        let db = link.peer.client().await?.database(names::DATABASE);
        let q = doc! {"link": link.id(), "at": {"$lt": before}, "status": {"$in": &status}};
        let delete = doc! {"delete": names::CONFLICTS, "deletes": [{"q": q, "limit": 0}],
        "writeConcern": {"w": "majority"}};
        let reply = run(&db, delete, Phase::Store).await?;
        let n = reply.get_i32("n").map(i64::from).or_else(|_| reply.get_i64("n")).unwrap_or(0);
        context.print(&format!("{}: {n} removed\n", link.id()))?;
    }
    Ok(Outcome::Well)
}
