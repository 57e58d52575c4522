//! The binary in the place of oplogtoredis.

mod acceptance;
mod denylist;
pub mod ear;
mod faults;
mod fleet;
mod health;
mod metrics;
mod model;
mod start;
mod weaknesses;

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::PATIENCE;

/// The binary under the name `oplogtoredis`, with nothing but the given variables in its environment.
pub struct DropIn {
    dir: TempDir,
    http: SocketAddr,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

impl DropIn {
    /// `prefix` is that of its keys in Redis.
    pub fn new(mongo: &str, redis: &str, prefix: &str, more: &[(&str, &str)]) -> DropIn {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_oplogue"), dir.path().join("oplogtoredis")).expect("a link");
        let http = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let own = [
            ("OTR_MONGO_URL", mongo),
            ("OTR_REDIS_URL", redis),
            ("OTR_REDIS_METADATA_PREFIX", prefix),
            ("OTR_HTTP_SERVER_ADDR", &http.to_string()),
            ("OTR_LOG_DEBUG", "true"),
        ];
        let env = own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        DropIn { dir, http, env, child: None }
    }

    /// With what the suites of the original give it, and the keys that have its names.
    pub fn of(mongo: &str, redis: &str) -> DropIn {
        // They set this one too, and it must not be honoured: two processes get different values.
        DropIn::new(mongo, redis, "oplogtoredis::", &[("OTR_METADATA_PREFIX", &oplogue_testkit::unique("random"))])
    }

    /// One more variable.
    pub fn var(mut self, name: &str, value: &str) -> DropIn {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The command line in the environment, without PATH and HOME.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let program = if program == "oplogtoredis" { self.dir.path().join(program) } else { PathBuf::from(program) };
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.env.iter().cloned()).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    pub fn spawn(&mut self) {
        self.spawn_as("oplogtoredis", &[]);
    }

    pub fn spawn_as(&mut self, program: &str, args: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.dir.path().join("stderr")).expect("a file");
        let child = self.command(program, args).stdout(log.try_clone().expect("a handle")).stderr(log).spawn();
        self.child = Some(child.expect("the binary starts"));
    }

    /// Starts it, and waits until its port takes connections.
    pub fn start(&mut self) {
        self.spawn();
        self.wait("listening", |o| o.is_open());
    }

    /// The same for tests that do something else meanwhile.
    pub async fn started(&mut self) {
        self.spawn();
        while !self.is_open() {
            self.wait("still there", |_| true);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn is_open(&self) -> bool {
        TcpStream::connect(self.http).is_ok()
    }

    /// Waits for a condition on the running process; fails with the log when it exits or time is up.
    pub fn wait(&mut self, what: &str, condition: impl Fn(&DropIn) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child")) {
                panic!("it ended ({status}) before it was {what}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not {what} in time:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Code and body, and the head in lower case.
    pub fn ask(&self, method: &str, path: &str) -> Option<(u16, String, String)> {
        let mut stream = TcpStream::connect_timeout(&self.http, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned(), head.to_lowercase()))
    }

    /// Code and body of an answer that must come.
    pub fn http(&self, method: &str, path: &str) -> (u16, String) {
        let (code, body, _) = self.ask(method, path).unwrap_or_else(|| panic!("no answer:\n{}", self.log()));
        (code, body)
    }

    /// The value of a series.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, body, _) = self.ask("GET", "/metrics")?;
        body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// How many entries of a database this process has published.
    pub fn entries(&self, db: &str) -> f64 {
        self.metric(&format!("otr_oplog_entries_received{{database=\"{db}\",status=\"processed\"}}")).unwrap_or(0.0)
    }

    pub fn sent(&self) -> f64 {
        self.metric("otr_redispub_processed_messages{status=\"sent\"}").expect("there from the start")
    }

    pub fn failed(&self) -> f64 {
        self.metric("otr_redispub_processed_messages{status=\"failed\"}").expect("there from the start")
    }

    /// SIGTERM and the exit status, with the time that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status().expect("a shell");
        assert!(sent.success());
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return (status, began.elapsed());
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it does not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("the child can be waited for");
        }
    }
}

impl Drop for DropIn {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the drop-in ---\n{}", self.log());
        }
    }
}

/// The `_id`s that messages tell, in order.
pub fn ids(messages: &[String]) -> Vec<String> {
    let id = |text: &String| {
        let message: serde_json::Value = serde_json::from_str(text).expect("a message is JSON");
        message["d"]["_id"].as_str().expect("a text").to_owned()
    };
    messages.iter().map(id).collect()
}
