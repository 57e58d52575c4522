//! How long a change takes from one deployment to the other while many come: from the time in the log of the source to the time of the
//! transaction in the log of the target. Both logs are read afterwards, so that nothing disturbs.

use std::{collections::HashMap, time::Duration};

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::{CollectionOptions, InsertManyOptions, WriteConcern};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    Failure, Plan,
    mixed::{COLLECTIONS, document},
    replicate::{Site, equal, link},
    route::Router,
};

/// A command is sent at each, whether those before it are answered or not.
const TICK: Duration = Duration::from_millis(5);
const WARM_UP: Duration = Duration::from_secs(2);
const COUNTED: Duration = Duration::from_secs(15);
/// What is aimed at for 99 of 100, in milliseconds.
const AIM: i64 = 100;
const QUIET: Duration = Duration::from_secs(5);

pub async fn run(plan: &Plan, factory: &Site, cloud: &Site, rate: f64) -> Result<(), Failure> {
    println!(
        "\n{:<40}{:>8}{:>10}{:>10}{:>10}{:>11}{:>10}",
        "mongo-mmm: lag", "ops/s", "p50", "p99", "most", "entries", "CPU"
    );
    for (n, w) in ["majority", "1"].into_iter().enumerate() {
        measure(plan, factory, cloud, rate, w, &format!("bench_lag_{n}")).await?;
    }
    println!(
        "From the wall clock of the source's entry to that of the target's; both links run. Entries: at both, per operation."
    );
    Ok(())
}

async fn measure(plan: &Plan, factory: &Site, cloud: &Site, rate: f64, w: &str, db: &str) -> Result<(), Failure> {
    for site in [factory, cloud] {
        site.prepare(db).await?;
    }
    let (at_factory, at_cloud) = (factory.now().await?, cloud.now().await?);
    let tables = link(factory, cloud, at_factory, db) + &link(cloud, factory, at_cloud, db);
    let mut router = Router::start_with(plan, &tables)?;
    router.running()?;
    let before = router.used(plan)?.0;
    let (from, to) = (factory.now().await?, cloud.now().await?);

    let each = ((rate * TICK.as_secs_f64()).round() as usize).max(1);
    let ticks = ((WARM_UP + COUNTED).as_secs_f64() / TICK.as_secs_f64()) as usize;
    let began = std::time::Instant::now();
    write(factory, db, w, each, ticks).await?;
    let took = began.elapsed();
    let end = factory.now().await?;
    router.wait_until_delivered(&[end])?;
    let cpu = (router.used(plan)?.0 - before).as_secs_f64() / took.as_secs_f64();
    equal(factory, cloud, db).await?;

    let operations = (each * ticks) as f64;
    let entries = (factory.entries(from).await? + cloud.entries(to).await?) as f64 / operations;
    let (sent, arrived) = (walls(factory, db, from).await?, walls(cloud, db, to).await?);
    let first = sent.values().min().copied().unwrap_or(0) + WARM_UP.as_millis() as i64;
    let counted = sent.iter().filter(|(_, at)| **at >= first);
    let mut lags: Vec<i64> = counted.filter_map(|(id, at)| Some(arrived.get(id)? - at)).collect();
    lags.sort();
    let at = |share: f64| lags.get(((lags.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(i64::MAX);
    println!(
        "{:<40}{:>8.0}{:>7} ms{:>7} ms{:>7} ms{entries:>11.3}{:>8.0} %   p99 under {AIM} ms: {}",
        format!("writers with w: {w}"),
        operations / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        cpu * 100.0,
        if at(0.99) < AIM { "met" } else { "MISSED" }
    );

    // What is saved last comes within a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (quiet_factory, quiet_cloud) = (factory.now().await?, cloud.now().await?);
    tokio::time::sleep(QUIET).await;
    let idle = factory.entries(quiet_factory).await? + cloud.entries(quiet_cloud).await?;
    println!("{:<40}{idle:>8} entries at both in {} s", "  idle after that", QUIET.as_secs());
    router.stop()?;
    for site in [factory, cloud] {
        site.client.database(db).drop().await?;
    }
    Ok(())
}

async fn write(site: &Site, db: &str, w: &str, each: usize, ticks: usize) -> Result<(), Failure> {
    let mut options = CollectionOptions::default();
    options.write_concern = Some(if w == "majority" { WriteConcern::majority() } else { WriteConcern::nodes(1) });
    let db = site.client.database(db);
    let insert = InsertManyOptions::builder().ordered(false).build();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = JoinSet::new();
    for n in 0..ticks {
        tick.tick().await;
        let coll = db.collection_with_options::<RawDocumentBuf>(COLLECTIONS[n % COLLECTIONS.len()], options.clone());
        let insert = insert.clone();
        let documents: Vec<_> = (n * each..(n + 1) * each).map(|id| document(id as i64, id as u64)).collect();
        writes.spawn(async move { coll.insert_many(documents).with_options(insert).await });
        while let Some(written) = writes.try_join_next() {
            written??;
        }
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    Ok(())
}

/// When each document was inserted, in milliseconds, by the log.
async fn walls(site: &Site, db: &str, from: Timestamp) -> Result<HashMap<i64, i64>, Failure> {
    let log = site.client.database("local").collection::<Document>("oplog.rs");
    let mut entries = log.find(doc! {"ts": {"$gt": from}, "op": {"$in": ["i", "c"]}}).await?;
    let mut walls = HashMap::new();
    while let Some(entry) = entries.try_next().await? {
        let at = entry.get_datetime("wall")?.timestamp_millis();
        let mut note = |write: &Document| {
            let ours = write.get_str("ns").is_ok_and(|ns| ns.split_once('.').is_some_and(|(name, _)| name == db));
            if ours
                && write.get_str("op").is_ok_and(|op| op == "i")
                && let Ok(Ok(id)) = write.get_document("o").map(|o| o.get_i64("_id"))
            {
                walls.insert(id, at);
            }
        };
        note(&entry);
        if let Ok(o) = entry.get_document("o")
            && let Ok(writes) = o.get_array("applyOps")
        {
            writes.iter().filter_map(Bson::as_document).for_each(note);
        }
    }
    Ok(walls)
}
