//! Random workloads, and mistakes that they must find.

use std::sync::Arc;

use bson::Bson;
use oplogue_api::{Event, Sink};
use oplogue_testkit::{generate::Rng, servers};

use super::{
    client::Client,
    mongo::{Condition, Mongo, Query},
    workload::{Workload, all_ids, readable_ids},
};
use crate::support::{Place, Subscriber, at, write};

/// How the sink and the app are set up.
#[derive(Clone, Copy)]
struct Setup {
    /// Options of the sink.
    options: &'static str,
    /// The app reads for itself.
    protect: bool,
    /// Cursors with namespaces and channels.
    custom: bool,
    /// Cursors that sort on a field of the elements of an array.
    sort_in_arrays: bool,
}

const PLAIN: Setup = Setup { options: "", protect: true, custom: false, sort_in_arrays: true };
const CUSTOM: &str = "
    [[collections]]
    match = 'DB.tasks.x'
    namespaces = ['company::{companyId}']
    channels = ['chat-{companyId}']";
const FULL: &str = "
    [[collections]]
    match = 'DB.tasks.x'
    document = 'full'
    namespaces = ['company::{companyId}']
    channels = ['chat-{companyId}']";

/// The collection: its name has a dot.
const COLL: &str = "tasks.x";

fn queries(setup: Setup, ids: &[Bson]) -> Vec<Query> {
    let sorted = |path, descending, limit, skip| Query {
        sort: vec![(path, descending)],
        limit: Some(limit),
        skip,
        ..Query::default()
    };
    let company = |name: &str| vec![Condition::Is("companyId", name.into())];
    let mut all = vec![
        Query::default(),
        Query { conditions: vec![Condition::Above("n", 50.0)], ..Query::default() },
        Query { conditions: vec![Condition::Is("s", "a".into())], fields: Some(vec!["n"]), ..Query::default() },
        Query { conditions: vec![Condition::Above("o.n", 30.0), Condition::Above("list", 20.0)], ..Query::default() },
        Query { ids: Some(ids[..4].to_vec()), ..Query::default() },
        Query { ids: Some(ids[3..8].to_vec()), conditions: vec![Condition::Above("n", 30.0)], ..Query::default() },
        Query { limit: Some(3), ..Query::default() },
        sorted("n", false, 3, 0),
        sorted("n", true, 2, 1),
        sorted("o.n", true, 3, 0),
        sorted("list", false, 3, 0),
        Query { conditions: vec![Condition::Above("n", 20.0)], fields: Some(vec!["s"]), ..sorted("s", false, 4, 0) },
    ];
    all.extend(ids.iter().map(|id| Query { ids: Some(vec![id.clone()]), ..Query::default() }));
    if setup.sort_in_arrays {
        all.push(sorted("objs.v", true, 3, 0));
    }
    if setup.custom {
        for name in ["c0", "c1", "c2"] {
            let at_company = Query { conditions: company(name), ..Query::default() };
            let namespaces = vec![format!("company::{name}")];
            all.push(Query { namespaces: namespaces.clone(), ..at_company.clone() });
            all.push(Query { channels: vec![format!("chat-{name}")], ..at_company.clone() });
            all.push(Query { conditions: company(name), namespaces, ..sorted("n", false, 2, 0) });
        }
    }
    all
}

/// Runs a workload. `spoil` may change messages on their way. `Err`: what is wrong first.
async fn run(setup: Setup, seed: u64, spoil: impl Fn(&str) -> String) -> Result<usize, String> {
    let redis = servers::redis().await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::of(&place, redis.client()).await;
    let sink: Arc<dyn Sink> = place.sink_of(setup.options);
    let ids = if setup.protect { readable_ids() } else { all_ids() };
    let mut work = Workload {
        rng: Rng::new(seed),
        ids: ids.clone(),
        coll: COLL.to_owned(),
        moved_stay: setup.protect && setup.custom,
    };
    let (mut mongo, mut client) = (Mongo::default(), Client::new(&place.ns(""), setup.protect));
    for query in queries(setup, &ids) {
        client.observe(&mongo, COLL, query);
    }
    let (mut heard, mut n) = (0, 0);
    for batch in 0..25 {
        let size = 1 + work.rng.below(20);
        let mut events: Vec<Event> = work.batch(&mut mongo, &place.db, size);
        for event in &mut events {
            *event = at(n, event.clone());
            n += 1;
        }
        write(&sink, &events, n - 1).await;
        let messages = subscriber.all().await;
        for (channel, text) in &messages[heard..] {
            let died = |e| format!("batch {batch}: the app died of {text}: {e:?}");
            client.receive(&mongo, channel, &spoil(text)).map_err(died)?;
        }
        heard = messages.len();
        for observer in &client.observers {
            let (mut has, mut should) = (observer.docs(), mongo.find(COLL, &observer.query));
            has.sort_by_key(|doc| format!("{:?}", doc["_id"]));
            should.sort_by_key(|doc| format!("{:?}", doc["_id"]));
            if has != should {
                return Err(format!("batch {batch}: {:?}\nhas    {has:?}\nshould {should:?}", observer.query));
            }
        }
        if !client.thrown.is_empty() {
            return Err(format!("batch {batch}: thrown {:?}", client.thrown));
        }
    }
    assert!(client.observers.iter().map(|o| o.said.len()).sum::<usize>() > 300, "hardly anything happened");
    assert_eq!(client.reads > 0, setup.protect);
    Ok(heard)
}

async fn check(setup: Setup) {
    for _ in 0..2 {
        let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh_seed);
        // Shown when the test fails.
        println!("SEED={seed}");
        if let Err(e) = run(setup, seed, str::to_owned).await {
            panic!("SEED={seed}: {e}");
        }
    }
}

fn fresh_seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1
}

/// With all ids that a subscriber can read; those that it can only name are in `observers_that_read_nothing_see_it`.
#[tokio::test]
async fn observers_see_what_a_query_gives() {
    check(PLAIN).await;
}

#[tokio::test]
async fn observers_see_it_with_deep_paths() {
    check(Setup { options: "fields = 'deep'", sort_in_arrays: false, ..PLAIN }).await;
    check(Setup { options: "fields = 'logged'", ..PLAIN }).await;
}

#[tokio::test]
async fn observers_of_namespaces_and_channels_see_it() {
    check(Setup { options: CUSTOM, custom: true, ..PLAIN }).await;
}

#[tokio::test]
async fn observers_that_read_nothing_see_it() {
    check(Setup { options: FULL, custom: true, protect: false, ..PLAIN }).await;
}

#[tokio::test]
async fn observers_see_it_when_messages_are_put_together() {
    check(Setup { options: "coalesce = true", ..PLAIN }).await;
    let both = [("coalesce = true", CUSTOM, true), ("coalesce = true", FULL, false)];
    for (coalesce, collections, protect) in both {
        let options: &'static str = Box::leak(format!("{coalesce}\n{collections}").into_boxed_str());
        check(Setup { options, custom: true, protect, ..PLAIN }).await;
    }
}

/// What happens to a message on its way.
type Spoil = Box<dyn Fn(&str) -> String>;

/// The tests above can fail.
#[tokio::test]
async fn mistakes_of_a_publisher_are_found() {
    let cut = |text: &str| match text.find(r#","f":["#) {
        Some(at) => format!(r#"{},"f":[]}}"#, &text[..at]),
        None => text.to_owned(),
    };
    let rename = |text: &str| text.replace("$InfNaN", "$InfNan");
    let wrong: Vec<(&str, Setup, Spoil)> = vec![
        ("f: [] on every update", PLAIN, Box::new(cut)),
        ("no f", PLAIN, Box::new(|t| t.replace(r#","f":["#, r#","g":["#))),
        ("an id alone where the app does not read", Setup { protect: false, ..PLAIN }, Box::new(str::to_owned)),
        ("$InfNan", Setup { options: FULL, protect: false, ..PLAIN }, Box::new(rename)),
        (
            "no $escape",
            Setup { options: FULL, protect: false, ..PLAIN },
            Box::new(|t| t.replace("\"$escape\"", "\"x\"")),
        ),
        (
            "a type that no app has",
            Setup { options: FULL, protect: false, ..PLAIN },
            Box::new(|t| t.replace("Money", "M")),
        ),
        ("removals only", PLAIN, Box::new(|t| t.replace(r#""e":"u""#, r#""e":"x""#))),
        ("no namespaces", Setup { custom: true, ..PLAIN }, Box::new(str::to_owned)),
    ];
    for (what, setup, spoil) in wrong {
        let mut found = false;
        for seed in 1..10 {
            found |= run(setup, seed, &spoil).await.is_err();
            if found {
                break;
            }
        }
        assert!(found, "not found: {what}");
    }
}
