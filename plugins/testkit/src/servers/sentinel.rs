use std::{fs, path::Path};

use super::{
    Redis, RedisOptions, fetch,
    process::{Home, Process, StartError, free_port},
};
use crate::wait_for;

/// How a group is started. The default: a master, two replicas and three sentinels with quorum 2, no passwords.
#[derive(Clone, Debug)]
pub struct SentinelsOptions {
    /// How many replicas beside the master.
    pub replicas: usize,
    /// How many sentinels.
    pub sentinels: usize,
    /// How many sentinels must agree that the master is down.
    pub quorum: usize,
    /// `requirepass` and `masterauth` of every Redis.
    pub password: Option<String>,
    /// ACL users of every Redis, as in [`RedisOptions::users`].
    pub users: Vec<String>,
    /// `requirepass` of the sentinels.
    pub sentinel_password: Option<String>,
    /// More lines for every redis.conf.
    pub lines: Vec<String>,
}

impl Default for SentinelsOptions {
    fn default() -> SentinelsOptions {
        SentinelsOptions {
            replicas: 2,
            sentinels: 3,
            quorum: 2,
            password: None,
            users: Vec::new(),
            sentinel_password: None,
            lines: Vec::new(),
        }
    }
}

/// A Redis master with replicas, and the sentinels that watch over it under the name `mymaster`. A master that does not
/// answer for a second is replaced. Stopped on drop.
pub struct Sentinels {
    sentinels: Vec<(Process, u16)>,
    redis: Vec<Redis>,
    options: SentinelsOptions,
    /// Where the sentinels and the replicas see the first Redis.
    master: String,
    // Behind the processes: its drop removes their folder.
    _home: Home,
}

impl Sentinels {
    /// The name of the master.
    pub const NAME: &str = "mymaster";

    /// Starts a group, and waits until every sentinel knows all others and all replicas.
    ///
    /// # Panics
    /// When it does not get there.
    pub async fn start(options: SentinelsOptions) -> Sentinels {
        let master = Redis::start(node(&options, None)).await;
        let at = master.addr();
        Sentinels::around(master, at, options).await
    }

    /// Like [`Sentinels::start`], where replicas and sentinels see the master at `at(address)`: that of a proxy.
    pub async fn start_behind<F: Future<Output = String>>(
        options: SentinelsOptions,
        at: impl FnOnce(String) -> F,
    ) -> Sentinels {
        let master = Redis::start(node(&options, None)).await;
        let at = at(master.addr()).await;
        Sentinels::around(master, at, options).await
    }

    async fn around(master: Redis, at: String, options: SentinelsOptions) -> Sentinels {
        let home = Home::new();
        let port = at.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port");
        let mut redis = vec![master];
        for _ in 0..options.replicas {
            redis.push(Redis::start(node(&options, Some(port))).await);
        }
        // What the master does not list yet, the sentinels would learn ten seconds later.
        wait_for("the replicas to be in step", || async {
            let role: redis::RedisResult<(String, i64, Vec<Vec<String>>)> =
                ask(&redis[0].url(), redis::cmd("ROLE")).await;
            role.is_ok_and(|(_, _, replicas)| replicas.len() == options.replicas)
        })
        .await;
        let program = fetch::program("redis".into(), "redis-server").await;
        let mut sentinels = Vec::new();
        for n in 0..options.sentinels {
            sentinels.push(sentinel(&home, &program, n, port, &options).await);
        }
        let group = Sentinels { sentinels, redis, options, master: at, _home: home };
        group.settle().await;
        group
    }

    /// Waits until every running sentinel knows all others and all replicas, and holds nobody for down.
    pub async fn settle(&self) {
        wait_for("the sentinels to know each other and all replicas", || async {
            for n in 0..self.sentinels.len() {
                if self.sentinels[n].0.pid().is_none() {
                    continue;
                }
                let Some(master) = self.master_fields(n).await else { return false };
                let field = |name: &str| master.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str());
                if field("flags") != "master"
                    // A test may add replicas of its own.
                    || field("num-slaves").parse::<usize>().is_ok_and(|n| n < self.options.replicas)
                    || field("num-other-sentinels") != (self.options.sentinels - 1).to_string()
                {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// What a sentinel says about the master, as names and values; `None` when it does not answer.
    pub async fn master_fields(&self, n: usize) -> Option<Vec<(String, String)>> {
        let mut cmd = redis::cmd("SENTINEL");
        cmd.arg("MASTER").arg(Sentinels::NAME);
        ask(&self.sentinel_url(n), cmd).await.ok()
    }

    /// Sends a command to a sentinel.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn sentinel_command(&self, n: usize, args: &[&str]) {
        let mut cmd = redis::cmd("SENTINEL");
        cmd.arg(args);
        ask::<redis::Value>(&self.sentinel_url(n), cmd).await.expect("the sentinel obeys");
    }

    /// How many connections a sentinel has.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn sentinel_connections(&self, n: usize) -> usize {
        let mut cmd = redis::cmd("CLIENT");
        cmd.arg("LIST");
        ask::<String>(&self.sentinel_url(n), cmd).await.expect("the sentinel answers").lines().count()
    }

    /// The index of the Redis that a running sentinel names as the master.
    pub async fn master(&self) -> Option<usize> {
        for n in 0..self.sentinels.len() {
            if self.sentinels[n].0.pid().is_none() {
                continue;
            }
            let mut cmd = redis::cmd("SENTINEL");
            cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(Sentinels::NAME);
            if let Ok((_, port)) = ask::<(String, u16)>(&self.sentinel_url(n), cmd).await {
                let proxied = self.master.ends_with(&format!(":{port}"));
                return if proxied { Some(0) } else { self.redis.iter().position(|r| r.port() == port) };
            }
        }
        None
    }

    /// Waits until all running sentinels name another master than `old`, and returns its index.
    pub async fn switched_from(&self, old: usize) -> usize {
        wait_for("another master", || async { self.master().await.is_some_and(|m| m != old) }).await;
        self.master().await.expect("a sentinel that answers")
    }

    /// A Redis: 0 is the first master.
    pub fn redis(&self, n: usize) -> &Redis {
        &self.redis[n]
    }

    /// The address of a sentinel.
    pub fn sentinel_addr(&self, n: usize) -> String {
        format!("127.0.0.1:{}", self.sentinels[n].1)
    }

    fn sentinel_url(&self, n: usize) -> String {
        match &self.options.sentinel_password {
            Some(password) => format!("redis://:{password}@{}", self.sentinel_addr(n)),
            None => format!("redis://{}", self.sentinel_addr(n)),
        }
    }

    /// `redis-sentinel://…` with all sentinels and the password of the Redis.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = (0..self.sentinels.len()).map(|n| self.sentinel_addr(n)).collect();
        let password = self.options.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        format!("redis-sentinel://{password}{}?sentinelMasterId={}", hosts.join(","), Sentinels::NAME)
    }

    /// `kill -9` of a sentinel.
    pub fn kill_sentinel(&self, n: usize) {
        self.sentinels[n].0.kill();
    }

    /// Starts it again.
    pub async fn start_sentinel(&self, n: usize) {
        self.sentinels[n].0.start_again().await;
    }

    /// `SIGSTOP` of a sentinel.
    pub fn pause_sentinel(&self, n: usize) {
        self.sentinels[n].0.signal("STOP");
    }

    /// `SIGCONT` of a sentinel.
    pub fn resume_sentinel(&self, n: usize) {
        self.sentinels[n].0.signal("CONT");
    }

    /// Everything a sentinel has logged.
    pub fn sentinel_log(&self, n: usize) -> String {
        self.sentinels[n].0.log()
    }
}

fn node(options: &SentinelsOptions, replica_of: Option<u16>) -> RedisOptions {
    let mut lines = options.lines.clone();
    lines.extend(options.password.iter().map(|p| format!("masterauth {p}")));
    RedisOptions {
        password: options.password.clone(),
        users: options.users.clone(),
        replica_of,
        lines,
        ..Default::default()
    }
}

async fn sentinel(home: &Home, program: &Path, n: usize, port: u16, options: &SentinelsOptions) -> (Process, u16) {
    let mut process = Process::new(home, &format!("sentinel-{n}"), "+monitor master");
    loop {
        let own = free_port();
        let name = Sentinels::NAME;
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {own}"),
            format!("dir {}", process.dir().display()),
            format!("sentinel monitor {name} 127.0.0.1 {port} {}", options.quorum),
            format!("sentinel down-after-milliseconds {name} 1000"),
            format!("sentinel failover-timeout {name} 10000"),
        ];
        lines.extend(options.password.iter().map(|p| format!("sentinel auth-pass {name} {p}")));
        lines.extend(options.sentinel_password.iter().map(|p| format!("requirepass {p}\nsentinel sentinel-pass {p}")));
        let file = process.dir().join("sentinel.conf");
        fs::write(&file, lines.join("\n") + "\n").expect("a file can be written in a temporary folder");
        process.set_command(program, [file.display().to_string(), "--sentinel".into()]);
        match process.start().await {
            Ok(()) => return (process, own),
            Err(StartError::PortTaken) => {}
            Err(StartError::Other(why)) => panic!("{why}"),
        }
    }
}

async fn ask<T: redis::FromRedisValue>(url: &str, cmd: redis::Cmd) -> redis::RedisResult<T> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    cmd.query_async(&mut connection).await
}
