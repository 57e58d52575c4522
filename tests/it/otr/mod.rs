//! In the place of oplogtoredis: its own acceptance and fault cases, restated as facts, and fleets of both programs.

mod acceptance;
mod faults;
mod fleet;
mod model;
mod weaknesses;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use oplogue_testkit::wait_for;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PATIENCE, free_port};

/// `oplogue oplogtoredis` with an environment that has nothing but what the original is given.
pub struct Otr {
    dir: TempDir,
    http: SocketAddr,
    vars: Vec<(String, String)>,
    child: Option<Child>,
}

impl Otr {
    pub fn new(mongo: &str, redis: &str) -> Otr {
        let http = free_port();
        let vars = [
            ("OTR_MONGO_URL", mongo.to_owned()),
            ("OTR_REDIS_URL", redis.to_owned()),
            ("OTR_LOG_DEBUG", "true".into()),
            // The original's suite sets it, and it must not be honoured: two processes get different values.
            ("OTR_METADATA_PREFIX", oplogue_testkit::unique("random")),
            ("OTR_HTTP_SERVER_ADDR", http.to_string()),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Otr { dir: tempfile::tempdir().expect("a temporary folder"), http, vars, child: None }
    }

    pub fn var(mut self, name: &str, value: &str) -> Otr {
        self.vars.push((name.into(), value.into()));
        self
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts the process, and waits until its port takes connections: from then on it misses nothing.
    pub async fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_oplogue"))
            .arg("oplogtoredis")
            .env_clear()
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the binary starts"));
        let begun = Instant::now();
        while TcpStream::connect(self.http).is_err() {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child")) {
                panic!("it ended ({status}) before it listened:\n{}", self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not listen:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("a child");
        }
    }

    /// SIGTERM, and the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status().expect("a shell");
        assert!(sent.success());
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Status code and body.
    pub fn request(&self, method: &str, path: &str) -> (u16, String) {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.http)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            write!(stream, "{method} {path} HTTP/1.1\r\nhost: otr\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let reply = ask().unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()));
        let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let (_, body) = reply.split_once("\r\n\r\n").expect("a body");
        (code, body.to_owned())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path)
    }

    /// The value of the series with exactly these labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics");
        body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// How many entries of a database were published by this process.
    pub fn entries(&self, db: &str) -> f64 {
        self.metric(&format!("otr_oplog_entries_received{{database=\"{db}\",status=\"processed\"}}")).unwrap_or(0.0)
    }

    pub fn sent(&self) -> f64 {
        self.metric("otr_redispub_processed_messages{status=\"sent\"}").unwrap_or(-1.0)
    }

    pub fn failed(&self) -> f64 {
        self.metric("otr_redispub_processed_messages{status=\"failed\"}").unwrap_or(-1.0)
    }
}

impl Drop for Otr {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of oplogue oplogtoredis ---\n{}", self.log());
        }
    }
}

/// Hears all channels of one database on one Redis, and connects again when Redis was away, as a Meteor process does.
pub struct Ear {
    heard: Arc<Mutex<Vec<(String, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Ear {
    pub async fn open(url: &str, db: &str) -> Ear {
        let client = redis::Client::open(url).expect("a Redis URL");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (list, pattern) = (Arc::clone(&heard), format!("{db}.*"));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                if let Ok(mut subscription) = client.get_async_pubsub().await
                    && subscription.psubscribe(&pattern).await.is_ok()
                {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(());
                    }
                    let mut messages = subscription.into_on_message();
                    while let Some(message) = messages.next().await {
                        let text = String::from_utf8(message.get_payload_bytes().to_vec()).expect("UTF-8");
                        list.lock().expect("the list").push((message.get_channel_name().to_owned(), text));
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        is_ready.await.expect("a subscription");
        Ear { heard, task }
    }

    pub fn all(&self) -> Vec<(String, String)> {
        self.heard.lock().expect("the list").clone()
    }

    /// The messages on one channel.
    pub fn on(&self, channel: &str) -> Vec<String> {
        self.all().into_iter().filter(|(c, _)| c == channel).map(|(_, text)| text).collect()
    }

    /// The ids of the messages on one channel.
    pub fn ids(&self, channel: &str) -> Vec<String> {
        self.on(channel).iter().map(|text| id_of(text)).collect()
    }

    /// Waits until a channel has brought this many messages.
    pub async fn wait_count(&self, channel: &str, n: usize) {
        wait_for(format!("{n} messages on {channel}"), || async { self.on(channel).len() >= n }).await;
    }

    /// Waits for an id on a channel.
    pub async fn wait_id(&self, channel: &str, id: &str) {
        wait_for(format!("{id} on {channel}"), || async { self.ids(channel).iter().any(|i| i == id) }).await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn id_of(message: &str) -> String {
    let message: Value = serde_json::from_str(message).expect("JSON");
    message["d"]["_id"].as_str().expect("a text for an id").to_owned()
}

/// A message as the original's suite compares it: `e`, the id, and `f` as a set.
pub fn parts(message: &str) -> (String, String, BTreeSet<String>) {
    let value: Value = serde_json::from_str(message).expect("JSON");
    let fields = value["f"].as_array().expect("f is an array");
    assert_eq!(value.as_object().map(|o| o.len()), Some(3), "{message}");
    let names = fields.iter().map(|f| f.as_str().expect("a name").to_owned()).collect();
    (value["e"].as_str().expect("e").to_owned(), value["d"]["_id"].to_string(), names)
}
