//! `make bench`: how fast the router is, as a ratio to reading the oplog with the bare driver. Started by run.sh, which
//! provides the servers and the release build.

mod chain;
mod latency;
mod load;
mod measure;
mod mixed;
mod raw;
mod replicate;
mod replicate_lag;
mod report;
mod route;

use std::{env, path::PathBuf, process::exit};

use bson::Timestamp;

/// The router's, so that the raw reader has the same advantage.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What to measure, and against what.
struct Plan {
    mongo: String,
    /// The other deployment, which is replicated with.
    peer: String,
    redis: String,
    /// The release build of the router.
    oplogue: PathBuf,
    /// For state and logs; removed by run.sh.
    dir: PathBuf,
    events: u64,
    /// How many are replicated, from each side.
    operations: u64,
    rounds: usize,
    /// Clock ticks a second, the unit of CPU time in `/proc`.
    ticks: f64,
}

/// What is measured in each round, in this order.
const RUNS: [&str; 5] =
    ["raw read (driver)", "oplog -> null", "oplog -> stdout", "oplog -> redis, watermark", "oplog -> redis, keys"];

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["raw", uri, seconds, increment] => match (seconds.parse(), increment.parse()) {
            (Ok(time), Ok(increment)) => raw::read_until(uri, Timestamp { time, increment }).await,
            _ => Err("raw URI SECONDS INCREMENT".into()),
        },
        [] => run().await,
        _ => Err("start it with tests/bench/run.sh".into()),
    };
    if let Err(e) = result {
        eprintln!("bench: error: {e}");
        exit(1);
    }
}

async fn run() -> Result<(), Failure> {
    let var = |name: &str| env::var(name).map_err(|_| format!("{name} is not set: start it with tests/bench/run.sh"));
    let plan = Plan {
        mongo: var("BENCH_MONGO")?,
        peer: var("BENCH_PEER")?,
        redis: var("BENCH_REDIS")?,
        oplogue: var("BENCH_OPLOGUE")?.into(),
        dir: var("BENCH_DIR")?.into(),
        events: var("BENCH_EVENTS")?.parse()?,
        operations: var("BENCH_OPERATIONS")?.parse()?,
        rounds: var("BENCH_ROUNDS")?.parse()?,
        ticks: var("BENCH_TICKS")?.parse()?,
    };
    let parts = var("BENCH_PARTS")?;
    if parts.contains("reading") {
        reading(&plan).await?;
    }
    if parts.contains("chain") {
        chain::run(&oplogue::builtin::registry(), plan.events);
    }
    if parts.contains("replication") {
        replicate::run(&plan).await?;
    }
    Ok(())
}

/// From the oplog to sinks that copy nothing.
async fn reading(plan: &Plan) -> Result<(), Failure> {
    load::initiate(&plan.mongo).await?;
    eprintln!("bench: inserting {} documents", plan.events);
    let newest = load::insert(&plan.mongo, plan.events).await?;
    let mut runs: [Vec<measure::Run>; RUNS.len()] = Default::default();
    // Interleaved, so that a slow minute of the machine hits all of them.
    for round in 1..=plan.rounds {
        for (i, name) in RUNS.into_iter().enumerate() {
            let run = match i {
                0 => raw::measure(plan, newest)?,
                1 => route::measure(plan, newest, "type = \"null\"")?,
                2 => route::measure(plan, newest, "type = \"stdout\"")?,
                3 => route::measure_redis(plan, newest, "watermark")?,
                _ => route::measure_redis(plan, newest, "keys")?,
            };
            eprintln!("bench: round {round} of {}: {name}: {run}", plan.rounds);
            runs[i].push(run);
        }
    }
    print!("{}", report::table(&runs));
    println!("\n{:<33}{:>10}{:>13}{:>13}{:>11}", "oplog -> redis: latency", "p50", "p99", "most", "CPU");
    for run in latency::RUNS {
        print!("{}", latency::measure(plan, run).await?.line(run));
    }
    println!("From the acknowledgement of a write (w: 1) to its message at a subscriber.");
    Ok(())
}
