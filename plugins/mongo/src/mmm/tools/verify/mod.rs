//! `oplogue verify`: reads both ends, range by range, and tells which documents are not the same.

mod ends;
mod repair;
mod report;
mod scan;
mod schema;
mod settle;

use std::collections::BTreeMap;

use oplogue_api::{ByteSize, Error, Namespace, Outcome, Result, RunTool, ToolArguments, ToolContext, async_trait};
use tokio::task::JoinSet;

use self::{
    ends::{Pair, pairs},
    repair::{Repair, prepare, repair},
    report::{Counts, Report},
    scan::{Candidate, Compared, compare, next_range},
    schema::collections,
    settle::{Patience, settle},
};
use super::{
    links::{collection, links},
    text,
};
use crate::{client::bounded, errors::Phase, globs::Globs};

/// Ranges that are compared at the same time.
const PARALLEL: usize = 6;
/// So many differing documents are held in memory.
const MOST: usize = 1_000_000;

pub(super) struct Verify;

#[async_trait]
impl RunTool for Verify {
    async fn run(&self, context: &mut ToolContext<'_>) -> Result<Outcome> {
        let asked = Asked::new(&context.arguments)?;
        let links = links(&context.routes, context.arguments.all("route"))?;
        let mut outcome = Outcome::Well;
        for pair in pairs(links, asked.rate).await? {
            let result = verify(context, &pair, &asked).await;
            pair.close().await;
            if result? == Outcome::Unwell {
                outcome = Outcome::Unwell;
            }
        }
        Ok(outcome)
    }
}

/// The arguments.
struct Asked {
    namespaces: Option<Globs>,
    rate: Option<u64>,
    patience: Patience,
    repair: bool,
}

impl Asked {
    fn new(given: &ToolArguments) -> Result<Asked> {
        let namespaces = match given.has("ns") {
            true => Some(Globs::new("ns", given.all("ns"))?),
            false => None,
        };
        let rate =
            given.get("rate").map(|text| match text.strip_suffix("/s").unwrap_or(text).parse::<ByteSize>() {
                Ok(ByteSize(bytes)) if bytes > 0 => Ok(bytes),
                _ => Err(Error::option("rate", format!("`{text}` is no rate"))
                    .hint("write a size per second, such as 20MB/s")),
            });
        let period = |name, otherwise| text::period(name, given.get(name).unwrap_or(otherwise));
        let patience = Patience { wait: period("wait", "5m")?, settle: period("settle", "10s")? };
        Ok(Asked { namespaces, rate: rate.transpose()?, patience, repair: given.has("repair") })
    }
}

async fn verify(context: &mut ToolContext<'_>, pair: &Pair, asked: &Asked) -> Result<Outcome> {
    let mut report = Report::new(context, pair.ends.names.clone());
    let wants = |ns: &Namespace| pair.wants(ns, asked.namespaces.as_ref());
    let [here, there] =
        [collections(&pair.ends.clients[0], &wants).await?, collections(&pair.ends.clients[1], &wants).await?];
    let mut all: Vec<_> = here.keys().chain(there.keys()).cloned().collect();
    all.sort();
    all.dedup();
    let mut counts: BTreeMap<Namespace, Counts> = BTreeMap::new();
    for ns in all {
        let described = [here.get(&ns), there.get(&ns)];
        for deviation in schema::compare(&pair.ends, &ns, described).await? {
            report.deviation(&ns, &deviation)?;
        }
        match described.into_iter().flatten().find(|d| d.kind != "collection") {
            Some(other) => report.note(&format!("{ns} is not compared: it is a {}\n", other.kind)),
            None => drop(counts.insert(ns, Counts::default())),
        }
    }

    let candidates = read(pair, &mut counts).await?;
    let settled = settle(pair, candidates, asked.patience).await?;
    for link in &settled.still {
        report.note(&format!("the link {link} did not move: it is idle, or not running\n"));
    }
    if asked.repair && !settled.differing.is_empty() {
        prepare(pair).await?;
    }
    let mut is_equal = true;
    for candidate in &settled.changing {
        is_equal = false;
        counts.entry(candidate.ns.clone()).or_default().changing += 1;
        report.document(candidate, "changing", None)?;
    }
    for candidate in &settled.differing {
        let count = counts.entry(candidate.ns.clone()).or_default();
        let what = report.state(candidate);
        if !asked.repair {
            is_equal = false;
            count.differing += 1;
            report.document(candidate, &what, None)?;
            continue;
        }
        let done = match repair(pair, candidate).await? {
            Repair::Equal => continue,
            Repair::Done { winner, deleted } => {
                count.repaired += 1;
                let verb = if deleted { "deleted" } else { "repaired" };
                format!("{verb}, as at {}", pair.ends.names[winner])
            }
            Repair::Left(why) => {
                is_equal = false;
                count.differing += 1;
                format!("not repaired: {why}")
            }
        };
        report.document(candidate, &what, Some(&done))?;
    }
    report.counts(&counts)?;
    Ok(if is_equal { Outcome::Well } else { Outcome::Unwell })
}

/// Compares all ranges of all collections, several at a time.
async fn read(pair: &Pair, counts: &mut BTreeMap<Namespace, Counts>) -> Result<Vec<Candidate>> {
    let mut running: JoinSet<(Namespace, Result<Compared>)> = JoinSet::new();
    let mut candidates = Vec::new();
    let all: Vec<_> = counts.keys().cloned().collect();
    for ns in all {
        let end = larger(pair, &ns).await?;
        let mut from = None;
        loop {
            let range = next_range(&pair.ends.clients[end], &ns, from.take()).await?;
            from = range.1.clone();
            while running.len() >= PARALLEL {
                gather(&mut running, counts, &mut candidates).await?;
            }
            let (ends, of) = (pair.ends.clone(), ns.clone());
            running.spawn(async move { (of.clone(), compare(ends, of, range).await) });
            if from.is_none() {
                break;
            }
        }
    }
    while !running.is_empty() {
        gather(&mut running, counts, &mut candidates).await?;
    }
    Ok(candidates)
}

/// The end with more documents cuts the ranges, so that none becomes much larger than the others.
async fn larger(pair: &Pair, ns: &Namespace) -> Result<usize> {
    let mut count = [0, 0];
    for (end, client) in pair.ends.clients.iter().enumerate() {
        let coll = collection::<bson::Document>(client, ns);
        let estimate = coll.estimated_document_count();
        count[end] = bounded(std::future::IntoFuture::into_future(estimate), Phase::Lookup).await?;
    }
    Ok(usize::from(count[1] > count[0]))
}

async fn gather(
    running: &mut JoinSet<(Namespace, Result<Compared>)>,
    counts: &mut BTreeMap<Namespace, Counts>,
    candidates: &mut Vec<Candidate>,
) -> Result<()> {
    let Some(joined) = running.join_next().await else { return Ok(()) };
    let (ns, compared) = joined.map_err(|e| Error::bug("a comparison has ended early").caused_by(e))?;
    let compared = compared.map_err(|e| e.at(&ns))?;
    let count = counts.entry(ns).or_default();
    for end in 0..2 {
        count.documents[end] += compared.documents[end];
    }
    candidates.extend(compared.candidates);
    if candidates.len() > MOST {
        return Err(Error::operator(format!("more than {MOST} documents differ")).hint(
            "the ends have little in common: narrow it down with --ns, or copy the collection anew (`initial` of the sink)",
        ));
    }
    Ok(())
}
