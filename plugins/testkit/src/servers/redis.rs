use std::{fs, path::Path};

use super::{
    fetch,
    process::{Home, Process, StartError, free_port},
    tls::Certificates,
};

/// How a Redis is started. The default: no password, nothing written to disk.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// `requirepass`.
    pub password: Option<String>,
    /// ACL users, each as it stands behind `user` in redis.conf: `"app on >secret ~* &* +@all"`.
    pub users: Vec<String>,
    /// TLS only, with a certificate signed by [`Redis::ca_file`].
    pub tls: bool,
    /// With `tls`: only clients with a certificate signed by the same authority, such as [`Redis::cert_file`], are let in.
    pub client_certificates: bool,
    /// Keep the data over a restart, even after `kill`.
    pub appendonly: bool,
    /// A limit such as `"4mb"`, with the policy `noeviction`: writes beyond it are refused.
    pub maxmemory: Option<String>,
    /// The port of another Redis on this machine to be a replica of.
    pub replica_of: Option<u16>,
    /// More lines for redis.conf.
    pub lines: Vec<String>,
}

/// A running Redis, stopped on drop.
pub struct Redis {
    // Before `home`, whose drop removes the folder.
    process: Process,
    port: u16,
    options: RedisOptions,
    certificates: Option<Certificates>,
    home: Home,
}

impl Redis {
    /// Starts a Redis.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(options: RedisOptions) -> Redis {
        let program = fetch::program("redis".into(), "redis-server").await;
        let home = Home::new();
        let certificates = options.tls.then(|| Certificates::make(home.dir()));
        let mut process = Process::new(&home, "redis", "Ready to accept connections");
        let mut tries = 0;
        loop {
            let port = free_port();
            let file = process.dir().join("redis.conf");
            fs::write(&file, conf(&options, port, process.dir(), certificates.as_ref()))
                .expect("a file can be written in a temporary folder");
            process.set_command(&program, [file.display().to_string()]);
            match process.start().await {
                Ok(()) => return Redis { process, port, options, certificates, home },
                Err(StartError::PortTaken) if tries < 20 => tries += 1,
                Err(StartError::PortTaken) => panic!("no free port for Redis"),
                Err(StartError::Other(why)) => panic!("{why}"),
            }
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`, as [`Proxy::start`](crate::proxy::Proxy::start) wants it.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of this Redis, with the password if there is one.
    pub fn url(&self) -> String {
        self.url_at(&self.addr())
    }

    /// [`Redis::url`] with another address: that of a proxy.
    pub fn url_at(&self, addr: &str) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        match &self.options.password {
            Some(password) => format!("{scheme}://:{password}@{addr}"),
            None => format!("{scheme}://{addr}"),
        }
    }

    /// The certificate of the authority to trust, with `tls`.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|c| c.ca.as_path())
    }

    /// A certificate for clients, with `tls`.
    pub fn cert_file(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|c| c.cert.as_path())
    }

    /// The key of [`Redis::cert_file`].
    pub fn key_file(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|c| c.key.as_path())
    }

    /// A client for this Redis; no connection is made yet.
    pub fn client(&self) -> redis::Client {
        match &self.certificates {
            None => redis::Client::open(self.url()),
            Some(c) => {
                let read = |file: &Path| fs::read(file).expect("a certificate that was made is there");
                let client_tls = redis::ClientTlsConfig { client_cert: read(&c.cert), client_key: read(&c.key) };
                let tls = redis::TlsCertificates { client_tls: Some(client_tls), root_cert: Some(read(&c.ca)) };
                redis::Client::build_with_tls(self.url(), tls)
            }
        }
        .expect("the URL of a test server is right")
    }

    /// A connection to this Redis.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        self.client().get_multiplexed_async_connection().await.expect("Redis takes connections")
    }

    /// The answer to a command, on a connection of its own.
    ///
    /// # Errors
    /// Those of the connection and of the server.
    pub async fn ask<T: redis::FromRedisValue>(&self, cmd: &redis::Cmd) -> redis::RedisResult<T> {
        let mut connection = self.client().get_multiplexed_async_connection().await?;
        cmd.query_async(&mut connection).await
    }

    /// The temporary folder that holds its files, logs among them.
    pub fn folder(&self) -> &Path {
        self.home.dir()
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        self.process.kill();
    }

    /// Ends it as an operator would, and waits for its end.
    pub async fn stop(&self) {
        self.process.stop().await;
    }

    /// Starts it again after [`Redis::kill`] or [`Redis::stop`], on the same port and folder. Without `appendonly` it
    /// comes back empty.
    pub async fn start_again(&self) {
        self.process.start_again().await;
    }

    /// Stops it, if it runs, and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// `SIGSTOP`: connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn conf(options: &RedisOptions, port: u16, dir: &Path, certificates: Option<&Certificates>) -> String {
    let mut lines = vec![
        "bind 127.0.0.1".to_string(),
        format!("dir {}", dir.display()),
        "save \"\"".into(),
        "daemonize no".into(),
        "enable-debug-command local".into(),
        "repl-diskless-sync-delay 0".into(),
        format!("appendonly {}", if options.appendonly { "yes" } else { "no" }),
    ];
    match certificates {
        None => lines.push(format!("port {port}")),
        Some(c) => lines.extend([
            "port 0".into(),
            format!("tls-port {port}"),
            format!("tls-cert-file {}", c.cert.display()),
            format!("tls-key-file {}", c.key.display()),
            format!("tls-ca-cert-file {}", c.ca.display()),
            format!("tls-auth-clients {}", if options.client_certificates { "yes" } else { "no" }),
        ]),
    }
    lines.extend(options.password.iter().map(|p| format!("requirepass {p}")));
    lines.extend(options.users.iter().map(|u| format!("user {u}")));
    lines.extend(options.maxmemory.iter().map(|m| format!("maxmemory {m}\nmaxmemory-policy noeviction")));
    lines.extend(options.replica_of.iter().map(|p| format!("replicaof 127.0.0.1 {p}")));
    lines.extend(options.lines.iter().cloned());
    lines.join("\n") + "\n"
}
