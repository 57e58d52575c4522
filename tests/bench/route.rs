//! A run of the router itself: the release build, a configuration file, its own HTTP interface.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use bson::Timestamp;
use serde_json::Value;

use crate::{
    Failure, Plan,
    measure::{Run, used},
};

/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(25);
/// No run takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The router, running one route.
pub struct Router {
    child: Child,
    http: SocketAddr,
    log: PathBuf,
}

impl Router {
    /// Starts it with the given options of source and sink.
    pub fn start(plan: &Plan, source: &str, sink: &str) -> Result<Router, Failure> {
        Router::start_with(
            plan,
            &format!(
                "[sources.factory]\ntype = \"mongo-oplog\"\nuri = \"{}\"\n{source}\n\n\
                 [sinks.out]\n{sink}\n\n[[routes]]\nname = \"bench\"\nfrom = [\"factory\"]\nto = [\"out\"]\n",
                plan.mongo
            ),
        )
    }

    /// Starts it with the given sources, sinks and routes.
    pub fn start_with(plan: &Plan, tables: &str) -> Result<Router, Failure> {
        let state = plan.dir.join("state");
        let _ = fs::remove_dir_all(&state);
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = plan.dir.join("bench.toml");
        let log = plan.dir.join("oplogue.log");
        let text = format!("[http]\nlisten = \"{http}\"\n\n[state]\ndir = \"{}\"\n\n{tables}", state.display());
        fs::write(&config, text)?;
        let child = Command::new(&plan.oplogue)
            .arg("run")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Router { child, http, log })
    }

    /// Waits until each route, in the order of the file, has delivered up to a time.
    pub fn wait_until_delivered(&mut self, upto: &[Timestamp]) -> Result<(), Failure> {
        for (n, upto) in upto.iter().enumerate() {
            self.wait_for_routes(|routes| delivered(&routes[n]).is_some_and(|at| at >= *upto))?;
        }
        Ok(())
    }

    /// The sum of a counter over all routes.
    pub fn counted(&self, outcome: &str) -> Result<u64, Failure> {
        let series = format!("oplogue_events_total{{outcome=\"{outcome}\",");
        let metrics = get(self.http, "/metrics")?;
        let counts = metrics.lines().filter(|line| line.starts_with(&series));
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// Waits until what the HTTP interface says about the route is as wanted.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        self.wait_for_routes(|routes| wanted(&routes[0]))
    }

    fn wait_for_routes(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            // It may not listen yet; then the connection is refused.
            let body = get(self.http, "/api/v1/routes").ok();
            let view = body.and_then(|body| serde_json::from_str::<Value>(&body).ok());
            if view.is_some_and(|view| wanted(&view["routes"])) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the router ended with {status} before it was done").into());
            }
            if started.elapsed() > PATIENCE {
                return Err("the router is not done after 5 minutes".into());
            }
            sleep(LOOK);
        }
    }

    /// Waits until the route has begun to read.
    pub fn running(&mut self) -> Result<(), Failure> {
        self.wait_for_routes(|routes| {
            routes.as_array().is_some_and(|routes| routes.iter().all(|route| route["state"] == "running"))
        })
    }

    /// CPU time and peak memory so far.
    pub fn used(&self, plan: &Plan) -> Result<(Duration, u64), Failure> {
        used(self.child.id(), plan.ticks)
    }

    /// Asks it to end, and makes sure that it does so in good order.
    pub fn stop(mut self) -> Result<(), Failure> {
        Command::new("sh").arg("-c").arg(format!("kill {}", self.child.id())).status()?;
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the router ended with {status} when it was asked to stop").into())
    }
}

impl Drop for Router {
    /// One that still runs has not done what it was started for: its log says why.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(status)) if status.success()) {
            eprint!("{}", fs::read_to_string(&self.log).unwrap_or_default());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Measures one route from the oldest oplog entry to the newest.
pub fn measure(plan: &Plan, newest: Timestamp, sink: &str) -> Result<Run, Failure> {
    let started = Instant::now();
    let mut router = Router::start(plan, "start = \"oldest\"", sink)?;
    router.wait_for(|route| delivered(route).is_some_and(|at| at >= newest))?;
    let wall = started.elapsed();
    let (cpu, peak_rss) = router.used(plan)?;
    let metrics = get(router.http, "/metrics")?;
    let events = count(&metrics, "delivered");
    if events < plan.events || count(&metrics, "duplicate") > 0 {
        return Err(format!("{events} of {} events were delivered", plan.events).into());
    }
    router.stop()?;
    Ok(Run { events: plan.events, wall, cpu, peak_rss, redis: None })
}

fn get(address: SocketAddr, path: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    Ok(body.to_owned())
}

fn delivered(route: &Value) -> Option<Timestamp> {
    let (time, increment) = route["delivered"].as_str()?.split_once('.')?;
    Some(Timestamp { time: time.parse().ok()?, increment: increment.parse().ok()? })
}

fn count(metrics: &str, outcome: &str) -> u64 {
    let series = format!("oplogue_events_total{{outcome=\"{outcome}\",route=\"bench\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

/// Measures a route to Redis, and makes sure that all was published.
pub fn measure_redis(plan: &Plan, newest: Timestamp, dedupe: &str) -> Result<Run, Failure> {
    // What earlier runs have published would be left out as a duplicate.
    ask_redis(&plan.redis, "FLUSHALL")?;
    ask_redis(&plan.redis, "CONFIG RESETSTAT")?;
    let server = ask_redis(&plan.redis, "INFO server")?;
    let pid = server.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
    let pid = pid.ok_or("Redis does not tell its process id")?;
    let before = used(pid, plan.ticks)?.0;
    let sink = format!("type = \"redis-oplog\"\nurl = \"{}\"\ndedupe = \"{dedupe}\"", plan.redis);
    let run = measure(plan, newest, &sink)?;
    let redis = Some(used(pid, plan.ticks)?.0 - before);
    let stats = ask_redis(&plan.redis, "INFO commandstats")?;
    let published = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_publish:calls=")?.split(',').next()?.parse().ok())
        .unwrap_or(0u64);
    // Each on the channel of its collection and on its own.
    if published < 2 * plan.events {
        return Err(format!("Redis has seen {published} messages for {} events", plan.events).into());
    }
    Ok(Run { redis, ..run })
}

/// One command, and what Redis answers until it has closed the connection.
fn ask_redis(url: &str, command: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(url.trim_start_matches("redis://").trim_end_matches('/'))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "{command}\r\nQUIT\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with('-') { Err(answer.into()) } else { Ok(answer) }
}
