//! The query language against mongod itself: generated queries on generated documents must find the same documents, and what
//! mongod refuses must be refused.
//!
//! `OPLOGUE_QUERY_SEED` and `OPLOGUE_QUERY_PAIRS` repeat a run or make a longer one.

mod generate;
mod patterns;
mod queries;

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Client, error::ErrorKind};
use oplogue_basic::query::Query;
use oplogue_testkit::{generate::Rng, servers, unique};

use queries::Queries;

const DOCUMENTS: usize = 60;
const QUERIES: usize = 60;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[derive(Default)]
struct Tally {
    pairs: usize,
    matches: usize,
    queries: usize,
    selective: usize,
    refused: usize,
    unsupported: BTreeMap<String, usize>,
}

/// What mongod answers: the ids it found, or the message of its refusal.
async fn answer(client: &Client, db: &str, filter: &Document) -> Result<BTreeSet<i32>, String> {
    let command = doc! {"find": "c", "filter": filter, "projection": {"_id": 1}, "batchSize": DOCUMENTS as i32 + 1};
    match client.database(db).run_command(command).await {
        Ok(reply) => {
            let found = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
            Ok(found.iter().map(|d| d.as_document().unwrap().get_i32("_id").unwrap()).collect())
        }
        Err(e) => match &*e.kind {
            ErrorKind::Command(e) => Err(e.message.clone()),
            _ => panic!("{e}"),
        },
    }
}

/// What is refused here although a server would take it, by the words of the refusal.
const UNSUPPORTED: &[&str] = &["not supported", "takes values, not operators"];

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Queries,
    /// Regular expressions on texts.
    Patterns,
}

impl Subject {
    fn documents(self, rng: &mut Rng) -> Vec<Document> {
        let one = |n: usize| match self {
            Subject::Queries => generate::document(rng, n as i32),
            Subject::Patterns => doc! {"_id": n as i32, "a": patterns::text(rng)},
        };
        (0..DOCUMENTS).map(one).collect()
    }

    fn query(self, queries: &mut Queries<'_>) -> Document {
        match self {
            Subject::Queries => queries.query(3),
            Subject::Patterns => {
                let (pattern, options) = patterns::with_options(&mut queries.rng);
                doc! {"a": {"$regex": pattern, "$options": options}}
            }
        }
    }
}

async fn compare(subject: Subject, version: &str, seed: u64, pairs: usize) -> Tally {
    let client = servers::mongo_version(version).await.client().await;
    let db = unique("query");
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    while tally.pairs < pairs && wrong.len() < 20 {
        let documents = subject.documents(&mut rng);
        let raw: Vec<RawDocumentBuf> = documents.iter().map(|d| RawDocumentBuf::try_from(d).unwrap()).collect();
        let collection = client.database(&db).collection::<RawDocumentBuf>("c");
        collection.drop().await.unwrap();
        collection.insert_many(&raw).await.unwrap();
        let mut queries = Queries {
            rng: Rng::new(rng.next_u64()),
            documents: &documents,
            wrong: 0.02,
            old: version < "6",
            hint: Bson::Null,
        };
        for _ in 0..QUERIES {
            let filter = subject.query(&mut queries);
            let theirs = answer(&client, &db, &filter).await;
            let ours = Query::new("after", RawDocumentBuf::try_from(&filter).unwrap());
            tally.queries += 1;
            match (&ours, &theirs) {
                (Ok(query), Ok(theirs)) => {
                    let found: BTreeSet<i32> =
                        (0..raw.len()).filter(|n| query.matches(&raw[*n]).unwrap()).map(|n| n as i32).collect();
                    tally.pairs += raw.len();
                    tally.matches += found.len();
                    tally.selective += usize::from(!found.is_empty() && found.len() < raw.len());
                    if let Some(id) = found.symmetric_difference(theirs).next() {
                        let who = if found.contains(id) { "we alone" } else { "mongod alone" };
                        wrong.push(format!("{who}: {filter}\n      {}", documents[*id as usize]));
                    }
                }
                (Err(_), Err(_)) => tally.refused += 1,
                (Err(ours), Ok(_)) => {
                    let message = ours.to_string();
                    match UNSUPPORTED.iter().find(|words| message.contains(*words)) {
                        Some(_) => *tally.unsupported.entry(reason(&message)).or_default() += 1,
                        None => wrong.push(format!("we refuse ({message}): {filter}")),
                    }
                }
                (Ok(_), Err(theirs)) => wrong.push(format!("mongod refuses ({theirs}): {filter}")),
            }
        }
    }
    client.database(&db).drop().await.unwrap();
    assert!(
        wrong.is_empty(),
        "{subject:?}, mongod {version}, OPLOGUE_QUERY_SEED={seed}: {} differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    tally
}

/// The message without the place.
fn reason(message: &str) -> String {
    message.rsplit_once("`: ").map_or(message, |(_, reason)| reason).to_owned()
}

async fn agree(subject: Subject, version: &str) {
    let seed =
        setting("OPLOGUE_QUERY_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64);
    let pairs = setting("OPLOGUE_QUERY_PAIRS").unwrap_or(20_000) as usize;
    println!("{subject:?}, mongod {version}: OPLOGUE_QUERY_SEED={seed}");
    let tally = compare(subject, version, seed, pairs).await;
    println!(
        "{subject:?}, mongod {version}: {} pairs, {} match; {} queries, {} find some but not all, {} refused by both; not supported: {:#?}",
        tally.pairs, tally.matches, tally.queries, tally.selective, tally.refused, tally.unsupported
    );
    // Without these shares nothing would have been compared.
    assert!(tally.matches * 10 > tally.pairs, "only {} of {} match", tally.matches, tally.pairs);
    assert!(tally.selective * 4 > tally.queries, "only {} of {} queries find some", tally.selective, tally.queries);
    assert!(tally.refused * 100 > tally.queries, "only {} are refused", tally.refused);
    let unsupported: usize = tally.unsupported.values().sum();
    let share = if subject == Subject::Patterns { 4 } else { 10 };
    assert!(unsupported * share < tally.queries, "{unsupported} of {} are not supported", tally.queries);
}

#[tokio::test]
async fn queries_find_what_mongod_6_finds() {
    agree(Subject::Queries, "6.0.27").await;
}

#[tokio::test]
async fn queries_find_what_mongod_5_finds() {
    agree(Subject::Queries, "5.0.4").await;
}

#[tokio::test]
async fn regular_expressions_match_what_mongod_matches() {
    agree(Subject::Patterns, "6.0.27").await;
}

/// So that a failure of the comparison is known to be one.
#[tokio::test]
async fn an_unlike_answer_would_be_seen() {
    let client = servers::mongo_version("6.0.27").await.client().await;
    let db = unique("query");
    let documents = vec![doc! {"_id": 0, "a": [1, 2]}, doc! {"_id": 1, "a": Bson::Null}, doc! {"_id": 2}];
    client.database(&db).collection("c").insert_many(documents).await.unwrap();
    assert_eq!(answer(&client, &db, &doc! {"a": 1}).await.unwrap(), [0].into());
    assert_eq!(answer(&client, &db, &doc! {"a": Bson::Null}).await.unwrap(), [1, 2].into());
    assert!(answer(&client, &db, &doc! {"a": {"$gtt": 1}}).await.is_err());
    client.database(&db).drop().await.unwrap();
}
