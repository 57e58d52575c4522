//! Servers as children, and the keeper that ends them when the test process is gone.

use std::{
    collections::HashSet,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{Read, Seek, SeekFrom},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until its standard input, a pipe from the test process, is closed: the kernel does that even for `kill -9`.
/// Then it kills what runs in the folder and removes the folder, again and again, because a server that was being
/// started at that moment may turn up late. The working folder tells a server from a stranger that was given its pid.
const KEEPER: &str = r#"
cat >/dev/null
tries=0
while [ -e "$1" ] && [ $tries -lt 100 ]; do
  for file in "$1"/*.pid; do
    [ -e "$file" ] || continue
    read -r pid <"$file"
    case $(readlink "/proc/$pid/cwd") in "$1" | "$1"/*) kill -9 "$pid" ;; esac
  done
  rm -rf "$1"
  [ ! -e "$1" ] || sleep 0.05
  tries=$((tries + 1))
done
"#;

/// A temporary folder for servers. What runs in it ends with this value, or with this process.
pub(super) struct Home {
    dir: PathBuf,
    keeper: Child,
}

impl Home {
    pub(super) fn new() -> Home {
        let made = tempfile::Builder::new().prefix("oplogue-test-").tempdir().expect("a temporary folder can be made");
        // The keeper compares it with what /proc says, where no links are left.
        let dir = made.keep().canonicalize().expect("a folder that is there has a path");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "oplogue-test-keeper"])
            .arg(&dir)
            .current_dir("/")
            // A group of its own: Ctrl-C on the terminal must not end the keeper before it has done its work.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Home { dir, keeper }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: a server that is down for a
/// moment finds its port free when it comes back.
pub(super) fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Default::default);
    let mut given = lock(&GIVEN);
    loop {
        let port = 20_000 + (RandomState::new().hash_one(0) % 12_000) as u16;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}

/// Why a server did not start.
pub(super) enum StartError {
    /// Another process took the port first.
    PortTaken,
    Other(String),
}

/// A server: a command line that can be started again and again, in a folder of its own below a [`Home`].
pub(super) struct Process {
    name: String,
    dir: PathBuf,
    home: PathBuf,
    command: Vec<String>,
    ready: &'static str,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// `ready` is what the server writes to its log when it takes connections.
    pub(super) fn new(home: &Home, name: &str, ready: &'static str) -> Process {
        let dir = home.dir().join(name);
        fs::create_dir_all(&dir).expect("a folder can be made in a temporary folder");
        Process { name: name.into(), dir, home: home.dir().into(), command: Vec::new(), ready, child: Mutex::new(None) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn set_command(&mut self, program: &Path, args: impl IntoIterator<Item = String>) {
        self.command = [program.display().to_string()].into_iter().chain(args).collect();
    }

    fn pid_file(&self) -> PathBuf {
        self.home.join(format!("{}.pid", self.name))
    }

    fn log_file(&self) -> PathBuf {
        self.home.join(format!("{}.log", self.name))
    }

    /// Starts the server and waits until it says that it takes connections.
    pub(super) async fn start(&self) -> Result<(), StartError> {
        assert!(!self.is_running(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log file can be made");
        let from = log.metadata().map_or(0, |m| m.len());
        // The shell writes its own pid, then becomes the server: the keeper knows it before it runs.
        let child = Command::new("sh")
            .args(["-c", r#"echo $$ >"$0"; exec "$@""#])
            .arg(self.pid_file())
            .args(&self.command)
            .current_dir(&self.dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("sh can be started");
        *lock(&self.child) = Some(child);
        let since = Instant::now();
        loop {
            let running = self.is_running();
            let said = self.log_since(from);
            if said.contains(self.ready) {
                return Ok(());
            }
            if !running {
                let taken = ["Address already in use", "SocketException", "Could not create server TCP"];
                return Err(if taken.iter().any(|t| said.contains(t)) {
                    StartError::PortTaken
                } else {
                    StartError::Other(format!("{} ended at once:\n{}", self.name, tail(&said)))
                });
            }
            if since.elapsed() > PATIENCE {
                self.kill();
                return Err(StartError::Other(format!("{} did not get ready:\n{}", self.name, tail(&said))));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts it again on the port it had. Whoever has just left the port may take a moment.
    pub(super) async fn start_again(&self) {
        let since = Instant::now();
        loop {
            match self.start().await {
                Ok(()) => return,
                Err(StartError::PortTaken) if since.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(StartError::PortTaken) => panic!("{}: the port stays taken", self.name),
                Err(StartError::Other(why)) => panic!("{why}"),
            }
        }
    }

    pub(super) fn is_running(&self) -> bool {
        let mut child = lock(&self.child);
        match child.as_mut().map(|c| c.try_wait()) {
            Some(Ok(None)) => true,
            Some(_) => {
                *child = None;
                let _ = fs::remove_file(self.pid_file());
                false
            }
            None => false,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        lock(&self.child).as_ref().map(Child::id)
    }

    /// `kill -9`, and the end of the process.
    pub(super) fn kill(&self) {
        if let Some(mut child) = lock(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(self.pid_file());
        }
    }

    /// Asks the server to end, and waits until it has.
    pub(super) async fn stop(&self) {
        self.signal("TERM");
        let since = Instant::now();
        while self.is_running() {
            assert!(since.elapsed() < PATIENCE, "{} does not stop:\n{}", self.name, tail(&self.log_since(0)));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a signal by name, if the server runs.
    pub(super) fn signal(&self, name: &str) {
        if let Some(child) = lock(&self.child).as_ref() {
            let done = Command::new("sh").args(["-c", r#"kill -"$0" "$1""#, name, &child.id().to_string()]).status();
            assert!(done.is_ok_and(|s| s.success()), "kill -{name} of {} failed", self.name);
        }
    }

    /// What the server has written to its log, from a byte on.
    fn log_since(&self, from: u64) -> String {
        let mut said = Vec::new();
        if let Ok(mut file) = File::open(self.log_file())
            && file.seek(SeekFrom::Start(from)).is_ok()
        {
            let _ = file.read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The whole log.
    pub(super) fn log(&self) -> String {
        self.log_since(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
