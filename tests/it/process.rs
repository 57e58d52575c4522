//! The real binary as a child process.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take before the test fails; generous, since the machine is shared.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A configuration in a folder of its own, and at most one process that runs it.
pub struct Oplogue {
    pub dir: TempDir,
    http: SocketAddr,
    child: Option<Child>,
}

impl Oplogue {
    /// Writes `config`, to which `[http]`, `[state]` and `[log]` are added.
    pub fn new(config: &str) -> Oplogue {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let http = free_port();
        let state = dir.path().join("state");
        let text = format!(
            "{config}\n[http]\nlisten = \"{http}\"\n[state]\ndir = {state:?}\n[log]\nformat = \"text\"\nlevel = \"info\"\n"
        );
        std::fs::write(dir.path().join("oplogue.toml"), text).expect("the configuration");
        Oplogue { dir, http, child: None }
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("oplogue.toml")
    }

    /// What the process has written to stdout, over all its runs.
    pub fn stdout(&self) -> PathBuf {
        self.dir.path().join("stdout")
    }

    /// What it has logged, over all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let append = |name: &str| {
            File::options().create(true).append(true).open(self.dir.path().join(name)).expect("an output file")
        };
        let child = Command::new(env!("CARGO_BIN_EXE_oplogue"))
            .arg("run")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(append("stdout"))
            .stderr(append("stderr"))
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// Starts the process and waits until `/readyz` says yes.
    pub fn start(&mut self) {
        self.spawn();
        self.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    }

    /// Waits for a condition on the running process; fails with the log when it exits or time is up.
    pub fn wait(&mut self, what: &str, condition: impl Fn(&Oplogue) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if let Some(status) = self.exited() {
                panic!("oplogue ended ({status}) before it was {what}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not {what} in time:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|c| c.try_wait().expect("the child can be waited for"))
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: a minimal Debian has no program of that name.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid())).status().expect("a shell");
        assert!(sent.success());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("the child can be waited for");
        }
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit()
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// GET over HTTP: status code and body; `None` when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.http, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: oplogue\r\nconnection: close\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let code = reply.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = reply.split_once("\r\n\r\n")?;
        Some((code, body.to_owned()))
    }

    /// The value of a metric with exactly these labels, as Prometheus prints them: `name{route="x"}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        body.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The cluster time of the one checkpoint in the state folder.
    pub fn checkpoint(&self) -> Option<(u64, u64)> {
        let files = std::fs::read_dir(self.dir.path().join("state")).ok()?;
        let file = files.flatten().find(|f| f.file_name().to_string_lossy().ends_with(".checkpoint.json"))?;
        let checkpoint: Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
        Some(cluster_time(&checkpoint["time"]))
    }

    /// The complete lines on stdout, as JSON.
    pub fn events(&self) -> Vec<Value> {
        read_events(&self.stdout())
    }
}

impl Drop for Oplogue {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of oplogue ---\n{}", self.log());
        }
    }
}

/// The complete JSON lines of a file. A process that was killed may leave a torn line, which the next one continues; such
/// a line is no event.
pub fn read_events(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    let complete = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    text[..complete]
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// `{"$timestamp": {"t": …, "i": …}}` as something to compare.
pub fn cluster_time(value: &Value) -> (u64, u64) {
    let part = |name: &str| value["$timestamp"][name].as_u64().expect("a timestamp");
    (part("t"), part("i"))
}

pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}
