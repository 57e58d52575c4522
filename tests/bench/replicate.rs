//! Replication between two deployments, against a plain loader that writes the same operations in the same batches.

use std::time::{Duration, Instant};

use bson::{Document, Timestamp, doc};
use mongodb::Client;

use crate::{
    Failure, Plan,
    measure::{Run, used},
    mixed::{COLLECTIONS, Workload},
    replicate_lag,
    report::median,
    route::Router,
};

/// The least ratio to the loader that is aimed at.
const AIM: f64 = 0.90;
/// The most entries at the target for each at the source.
const MOST_ENTRIES: f64 = 1.05;

/// A deployment.
pub struct Site {
    pub name: &'static str,
    pub uri: String,
    pub client: Client,
    pid: u32,
}

/// What is measured in each round, in this order.
const RUNS: [&str; 6] = [
    "loader, one way",
    "loader, one way, transactions",
    "mongo-mmm, one way",
    "loader, both ways",
    "loader, both ways, transactions",
    "mongo-mmm, both ways",
];

/// A run, with what it cost the deployment that was written to.
struct Measured {
    run: Run,
    target: Duration,
    amplification: f64,
}

pub async fn run(plan: &Plan) -> Result<(), Failure> {
    let factory = Site::new("factory", &plan.mongo).await?;
    let cloud = Site::new("cloud", &plan.peer).await?;
    let operations = plan.operations;
    let (ours, theirs) = (Workload::new(operations, 0), Workload::new(operations, 1 << 40));
    let mut runs: [Vec<Measured>; RUNS.len()] = Default::default();
    for round in 1..=plan.rounds {
        for (i, name) in RUNS.into_iter().enumerate() {
            let db = format!("bench_{round}_{i}");
            let both = i >= 3;
            let measured = match i % 3 {
                2 => replicated(plan, &factory, &cloud, &db, &ours, both.then_some(&theirs)).await?,
                style => loaded(&factory, &cloud, &db, &ours, both.then_some(&theirs), style == 1).await?,
            };
            eprintln!("bench: round {round} of {}: {name}: {measured}", plan.rounds);
            runs[i].push(measured);
            for site in [&factory, &cloud] {
                site.client.database(&db).drop().await?;
            }
        }
    }
    print!("{}", table(&runs));
    let rate = median(runs[2].iter().map(|m| m.run.rate()));
    replicate_lag::run(plan, &factory, &cloud, rate / 2.0).await
}

impl Site {
    async fn new(name: &'static str, uri: &str) -> Result<Site, Failure> {
        crate::load::initiate(uri).await?;
        let client = Client::with_uri_str(uri).await?;
        let status = client.database("admin").run_command(doc! {"serverStatus": 1}).await?;
        let pid =
            status.get_i64("pid").map(|pid| pid as u32).or_else(|_| status.get_i32("pid").map(|pid| pid as u32))?;
        Ok(Site { name, uri: uri.to_owned(), client, pid })
    }

    /// Has the server write what it holds in memory, so that no run pays for what was written before it.
    async fn settle(&self) -> Result<(), Failure> {
        self.client.database("admin").run_command(doc! {"fsync": 1}).await?;
        Ok(())
    }

    /// The newest entry of the log.
    pub async fn now(&self) -> Result<Timestamp, Failure> {
        let reply =
            self.client.database("admin").run_command(doc! {"appendOplogNote": 1, "data": {"bench": 1}}).await?;
        Ok(reply.get_timestamp("operationTime")?)
    }

    fn cpu(&self, plan_ticks: f64) -> Result<Duration, Failure> {
        Ok(used(self.pid, plan_ticks)?.0)
    }

    /// Entries of the log behind `from`, without those that change nothing and the server's list of sessions, which it writes itself
    /// every five minutes.
    pub async fn entries(&self, from: Timestamp) -> Result<u64, Failure> {
        let log = self.client.database("local").collection::<Document>("oplog.rs");
        let command = doc! {"ts": {"$gt": from}, "op": {"$ne": "n"}, "ns": {"$ne": "config.system.sessions"}};
        Ok(log.count_documents(command).await?)
    }

    /// Empty collections, and no trace of earlier links.
    pub async fn prepare(&self, db: &str) -> Result<(), Failure> {
        self.client.database("__mmm").drop().await?;
        let db = self.client.database(db);
        for name in COLLECTIONS {
            db.create_collection(name).await?;
        }
        Ok(())
    }
}

/// The loader, writing to one or to both.
async fn loaded(
    factory: &Site,
    cloud: &Site,
    db: &str,
    ours: &Workload,
    theirs: Option<&Workload>,
    in_transactions: bool,
) -> Result<Measured, Failure> {
    for site in [factory, cloud] {
        site.prepare(db).await?;
        site.settle().await?;
    }
    let from = cloud.now().await?;
    let ticks = ticks()?;
    let (me, target) = (used(std::process::id(), ticks)?.0, cloud.cpu(ticks)?);
    let started = Instant::now();
    match theirs {
        None => ours.load(&cloud.client, db, in_transactions).await?,
        Some(theirs) => {
            let (a, b) = tokio::join!(
                ours.load(&cloud.client, db, in_transactions),
                theirs.load(&factory.client, db, in_transactions)
            );
            a.and(b)?;
        }
    }
    let wall = started.elapsed();
    let events = ours.operations + theirs.map_or(0, |w| w.operations);
    let (now, peak_rss) = used(std::process::id(), ticks)?;
    let run = Run { events, wall, cpu: now - me, peak_rss, redis: None };
    let amplification = cloud.entries(from).await? as f64 / ours.operations as f64;
    Ok(Measured { run, target: per(cloud.cpu(ticks)? - target, ours.operations), amplification })
}

/// The router, from its start until it has caught up with what was written before.
async fn replicated(
    plan: &Plan,
    factory: &Site,
    cloud: &Site,
    db: &str,
    ours: &Workload,
    theirs: Option<&Workload>,
) -> Result<Measured, Failure> {
    for site in [factory, cloud] {
        site.prepare(db).await?;
    }
    let (at_factory, at_cloud) = (factory.now().await?, cloud.now().await?);
    ours.load(&factory.client, db, false).await?;
    if let Some(theirs) = theirs {
        theirs.load(&cloud.client, db, false).await?;
    }
    for site in [factory, cloud] {
        site.settle().await?;
    }
    let written = factory.entries(at_factory).await?;
    let (to_factory, from) = (factory.now().await?, cloud.now().await?);
    let mut tables = link(factory, cloud, at_factory, db);
    let mut upto = vec![to_factory];
    if theirs.is_some() {
        tables += &link(cloud, factory, at_cloud, db);
        upto.push(from);
    }
    let target = cloud.cpu(plan.ticks)?;
    let started = Instant::now();
    let mut router = Router::start_with(plan, &tables)?;
    router.wait_until_delivered(&upto)?;
    let wall = started.elapsed();
    let target = cloud.cpu(plan.ticks)? - target;
    let (cpu, peak_rss) = router.used(plan)?;
    let events = ours.operations + theirs.map_or(0, |w| w.operations);
    let delivered = router.counted("delivered")?;
    router.stop()?;
    if delivered < events {
        return Err(format!("{delivered} of {events} operations were delivered").into());
    }
    equal(factory, cloud, db).await?;
    let amplification = cloud.entries(from).await? as f64 / written as f64;
    let run = Run { events, wall, cpu, peak_rss, redis: None };
    Ok(Measured { run, target: per(target, ours.operations), amplification })
}

/// The tables of a route from one deployment to another.
pub fn link(from: &Site, to: &Site, start: Timestamp, db: &str) -> String {
    let (node, peer) = (from.name, to.name);
    format!(
        "[sources.{node}]\ntype = \"mongo-oplog\"\nuri = \"{}\"\nstart = {{ at = \"{}.{}\" }}\n\n\
         [sinks.to-{peer}]\ntype = \"mongo-mmm\"\nuri = \"{}\"\nnode = \"{node}\"\npeer = \"{peer}\"\nnamespaces = [\"{db}.*\"]\n\n\
         [[routes]]\nname = \"{node}-{peer}\"\nfrom = [\"{node}\"]\nto = [\"to-{peer}\"]\n\n",
        from.uri, start.time, start.increment, to.uri
    )
}

/// Makes sure that both have the same documents.
pub async fn equal(factory: &Site, cloud: &Site, db: &str) -> Result<(), Failure> {
    let (mut a, mut b) = (Document::new(), Document::new());
    for (site, hash) in [(factory, &mut a), (cloud, &mut b)] {
        *hash = site.client.database(db).run_command(doc! {"dbHash": 1}).await?.get_document("collections")?.clone();
    }
    if a == b { Ok(()) } else { Err("both ends are not equal".into()) }
}

fn per(cpu: Duration, operations: u64) -> Duration {
    cpu.mul_f64(1e6 / operations as f64)
}

fn ticks() -> Result<f64, Failure> {
    Ok(std::env::var("BENCH_TICKS")?.parse()?)
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (target, entries) = (self.target.as_secs_f64(), self.amplification);
        write!(f, "{}, target {target:.1} CPU-s/M, {entries:.3} entries an operation", self.run)
    }
}

fn table(runs: &[Vec<Measured>; RUNS.len()]) -> String {
    let of = |i: usize, value: fn(&Measured) -> f64| median(runs[i].iter().map(value));
    let rate = |i: usize| of(i, |m| m.run.rate());
    let mut out = format!(
        "\n{:<34}{:>10}{:>12}{:>11}{:>12}{:>10}{:>11}   aim\n",
        "", "ops/s", "of loader", "CPU-s/M", "of target", "entries", "peak RSS"
    );
    for (i, name) in RUNS.into_iter().enumerate() {
        let ratio = rate(i) / rate(i / 3 * 3);
        let entries = of(i, |m| m.amplification);
        let rss = runs[i].iter().map(|m| m.run.peak_rss).max().unwrap_or(0) as f64 / 1e6;
        let aims = if i % 3 == 2 {
            let verdict = |met| if met { "met" } else { "MISSED" };
            format!(
                "{:.0} % of loader: {}, entries {MOST_ENTRIES}: {}",
                AIM * 100.0,
                verdict(ratio >= AIM),
                verdict(entries <= MOST_ENTRIES)
            )
        } else {
            String::new()
        };
        out += &format!(
            "{name:<34}{:>10.0}{:>10.0} %{:>11.1}{:>12.1}{entries:>10.3}{rss:>8.0} MB   {aims}\n",
            rate(i),
            ratio * 100.0,
            of(i, |m| m.run.cpu_per_million()),
            of(i, |m| m.target.as_secs_f64()),
        );
    }
    out + "Both ways: operations of both sides a second. From the start of the process until both have all; dbHash compared.\n"
}
