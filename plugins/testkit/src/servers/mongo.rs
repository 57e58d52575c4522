use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bson::{Document, doc};
use mongodb::{Client, options::ClientOptions};

use super::{
    DEFAULT_VERSION, fetch,
    process::{Home, Process, StartError, free_port},
    tls::Certificates,
};

/// How long a replica set may take to have a primary.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user, in the database `admin`.
    pub user: String,
    /// The password, any characters.
    pub password: String,
}

impl Credentials {
    /// Both as given.
    pub fn new(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: password.into() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// How MongoDB is started. The default: a replica set of one, version 6.0.5, an oplog of 64 MB, no authentication.
#[derive(Clone, Debug)]
pub struct MongoOptions {
    /// One of [`VERSIONS`](super::VERSIONS).
    pub version: &'static str,
    /// 1 or 3.
    pub members: usize,
    /// The size of the oplog in megabytes. mongod takes less than the 990 that it wants of a resize.
    pub oplog_mb: u32,
    /// Demand authentication, and make this user with the role `root`.
    pub auth: Option<Credentials>,
    /// TLS only, with a certificate signed by [`Mongo::ca_file`].
    pub tls: bool,
    /// A mongod that belongs to no replica set and so has no oplog; `members` must be 1.
    pub standalone: bool,
    /// More arguments for every mongod, such as `--setParameter=enableTestCommands=1`.
    pub args: Vec<String>,
}

impl Default for MongoOptions {
    fn default() -> MongoOptions {
        MongoOptions {
            version: DEFAULT_VERSION,
            members: 1,
            oplog_mb: 64,
            auth: None,
            tls: false,
            standalone: false,
            args: Vec::new(),
        }
    }
}

/// A running MongoDB deployment, stopped on drop. Members are counted from 0.
pub struct Mongo {
    // Before `home`, whose drop removes the folder.
    members: Vec<Member>,
    options: MongoOptions,
    certificates: Option<Certificates>,
    home: Home,
}

struct Member {
    process: Process,
    port: u16,
}

impl Mongo {
    /// Starts a deployment and waits until it has a primary.
    ///
    /// # Panics
    /// When that does not come about.
    pub async fn start(options: MongoOptions) -> Mongo {
        let program = fetch::program(format!("mongod-{}", options.version), "mongod").await;
        let home = Home::new();
        let certificates = options.tls.then(|| Certificates::make(home.dir()));
        let key_file = home.dir().join("keyfile");
        fs::write(&key_file, "b3Bsb2d1ZSB0ZXN0cw").expect("a file can be written in a temporary folder");
        restrict(&key_file);
        let mut members = Vec::new();
        for i in 0..options.members {
            let process = Process::new(&home, &format!("mongod-{i}"), "Waiting for connections");
            members.push(start_first(process, &program, &options, &key_file, certificates.as_ref()).await);
        }
        let mongo = Mongo { members, options, certificates, home };
        mongo.initiate().await;
        mongo
    }

    async fn initiate(&self) {
        let client = self.connect(&self.bare_uri(&self.addr(0))).await;
        let admin = client.database("admin");
        if !self.options.standalone {
            let members: Vec<_> =
                (0..self.members.len()).map(|i| doc! {"_id": i as i32, "host": self.addr(i)}).collect();
            let settings = doc! {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500};
            let config = doc! {"_id": "rs0", "members": members, "settings": settings};
            admin.run_command(doc! {"replSetInitiate": config}).await.expect("the replica set can be initiated");
            self.wait_for_primary().await;
        }
        if let Some(root) = &self.options.auth {
            // mongod lets a client on the same machine make the first user, on the primary only.
            let primary = if self.options.standalone { 0 } else { self.wait_for_primary().await };
            let client = self.connect(&self.bare_uri(&self.addr(primary))).await;
            let command = doc! {"createUser": &root.user, "pwd": &root.password, "roles": ["root"],
            "writeConcern": {"w": "majority"}};
            client.database("admin").run_command(command).await.expect("the first user can be made");
        }
    }

    /// The connection string: all members, with the credentials of the options and what TLS needs.
    pub fn uri(&self) -> String {
        self.uri_of(self.options.auth.as_ref())
    }

    /// [`Mongo::uri`] as another user, or as none.
    pub fn uri_of(&self, user: Option<&Credentials>) -> String {
        let hosts: Vec<String> = (0..self.members.len()).map(|i| self.addr(i)).collect();
        let topology = if self.options.standalone { "directConnection=true" } else { "replicaSet=rs0" };
        self.uri_with(user, &hosts.join(","), topology)
    }

    /// A connection string for one address alone: a member's, or that of a proxy in front of it.
    pub fn direct_uri(&self, addr: &str) -> String {
        self.uri_with(self.options.auth.as_ref(), addr, "directConnection=true")
    }

    fn bare_uri(&self, addr: &str) -> String {
        self.uri_with(None, addr, "directConnection=true")
    }

    fn uri_with(&self, user: Option<&Credentials>, hosts: &str, topology: &str) -> String {
        let login = user.map(|c| format!("{}:{}@", encode(&c.user), encode(&c.password))).unwrap_or_default();
        let source = if user.is_some() { "&authSource=admin" } else { "" };
        let tls = match self.ca_file() {
            Some(ca) => format!("&tls=true&tlsCAFile={}", encode(&ca.display().to_string())),
            None => String::new(),
        };
        format!("mongodb://{login}{hosts}/?{topology}{source}{tls}")
    }

    /// `127.0.0.1:port` of a member, as [`Proxy::start`](crate::proxy::Proxy::start) wants it.
    pub fn addr(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].port)
    }

    /// The certificate of the authority to trust, with `tls`.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|c| c.ca.as_path())
    }

    /// The options it was started with.
    pub fn options(&self) -> &MongoOptions {
        &self.options
    }

    /// A new client of the whole deployment. Clients belong to the runtime, so to the test, that made them.
    pub async fn client(&self) -> Client {
        self.connect(&self.uri()).await
    }

    /// A new client that talks to one member only.
    pub async fn direct_client(&self, member: usize) -> Client {
        self.connect(&self.direct_uri(&self.addr(member))).await
    }

    async fn connect(&self, uri: &str) -> Client {
        let mut options = ClientOptions::parse(uri).await.expect("the URI of a test server is right");
        options.server_selection_timeout = Some(PATIENCE);
        Client::with_options(options).expect("the options of a test server are right")
    }

    /// Runs a command on the database `admin` of the primary.
    ///
    /// # Panics
    /// When the server answers with an error.
    pub async fn admin(&self, command: Document) -> Document {
        let name = command.keys().next().cloned().unwrap_or_default();
        match self.client().await.database("admin").run_command(command).await {
            Ok(reply) => reply,
            Err(e) => panic!("{name}: {e}"),
        }
    }

    /// Makes a user with these roles: `doc! {"role": "read", "db": "local"}`.
    pub async fn add_user(&self, user: &Credentials, roles: Vec<Document>) {
        self.admin(doc! {"createUser": &user.user, "pwd": &user.password, "roles": roles,
        "writeConcern": {"w": "majority"}})
            .await;
    }

    /// The temporary folder that holds its files, logs among them.
    pub fn folder(&self) -> &Path {
        self.home.dir()
    }

    /// `kill -9` of a member.
    pub async fn kill(&self, member: usize) {
        self.members[member].process.kill();
    }

    /// Ends a member as an operator would (`SIGTERM`), and waits for its end.
    pub async fn stop(&self, member: usize) {
        self.members[member].process.stop().await;
    }

    /// Starts a member again after [`Mongo::kill`] or [`Mongo::stop`], on the same port and folder. Waits until it is
    /// primary or secondary and, if enough members run, until there is a primary.
    pub async fn start_member(&self, member: usize) {
        self.members[member].process.start_again().await;
        if self.options.standalone {
            return;
        }
        let since = Instant::now();
        while !self.hello(member).await.is_some_and(|h| is_true(&h, "isWritablePrimary") || is_true(&h, "secondary")) {
            assert!(since.elapsed() < PATIENCE, "member {member} does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.members.iter().filter(|m| m.process.is_running()).count() * 2 > self.members.len() {
            self.wait_for_primary().await;
        }
    }

    /// Stops a member, if it runs, and starts it again.
    pub async fn restart(&self, member: usize) {
        self.stop(member).await;
        self.start_member(member).await;
    }

    /// `SIGSTOP` of a member: connections stay open and nothing is answered.
    pub fn pause(&self, member: usize) {
        self.members[member].process.signal("STOP");
    }

    /// `SIGCONT` of a member.
    pub fn resume(&self, member: usize) {
        self.members[member].process.signal("CONT");
    }

    /// The process id of a member, while it runs.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.members[member].process.pid()
    }

    /// Everything a member has logged.
    pub fn log(&self, member: usize) -> String {
        self.members[member].process.log()
    }

    /// Makes the primary step down, and waits until there is a primary again: another one, in a set of three.
    pub async fn step_down(&self) {
        let before = self.wait_for_primary().await;
        let client = self.direct_client(before).await;
        let alone = self.members.len() == 1;
        let command = if alone {
            doc! {"replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": true}
        } else {
            doc! {"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5}
        };
        let since = Instant::now();
        // No electable secondary may have caught up just now: then it is refused, and asked for again.
        while client.database("admin").run_command(command.clone()).await.is_err()
            && self.hello(before).await.is_none_or(|h| is_true(&h, "isWritablePrimary"))
        {
            assert!(since.elapsed() < PATIENCE, "the primary does not step down");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while self.wait_for_primary().await == before && !alone {
            assert!(since.elapsed() < PATIENCE, "no other member becomes primary");
        }
    }

    /// The member that is primary; waits until there is one.
    ///
    /// # Panics
    /// After a minute without.
    pub async fn wait_for_primary(&self) -> usize {
        let since = Instant::now();
        loop {
            for member in 0..self.members.len() {
                if self.members[member].process.is_running()
                    && self.hello(member).await.is_some_and(|h| is_true(&h, "isWritablePrimary"))
                {
                    return member;
                }
            }
            assert!(since.elapsed() < PATIENCE, "no member becomes primary");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a member says to `hello`; nothing if it does not answer.
    async fn hello(&self, member: usize) -> Option<Document> {
        // 4.4.2 is the first to know `hello`.
        let client = self.connect(&self.bare_uri(&self.addr(member))).await;
        let admin = client.database("admin");
        tokio::time::timeout(Duration::from_secs(2), admin.run_command(doc! {"hello": 1})).await.ok()?.ok()
    }
}

fn is_true(reply: &Document, key: &str) -> bool {
    reply.get_bool(key).unwrap_or(false)
}

async fn start_first(
    mut process: Process,
    program: &Path,
    options: &MongoOptions,
    key_file: &Path,
    certificates: Option<&Certificates>,
) -> Member {
    for _ in 0..20 {
        let port = free_port();
        process.set_command(program, args(options, port, process.dir(), key_file, certificates));
        match process.start().await {
            Ok(()) => return Member { process, port },
            Err(StartError::PortTaken) => {}
            Err(StartError::Other(why)) => panic!("{why}"),
        }
    }
    panic!("no free port for mongod")
}

fn args(
    options: &MongoOptions,
    port: u16,
    dir: &Path,
    key_file: &Path,
    certificates: Option<&Certificates>,
) -> Vec<String> {
    let mut args = vec![
        format!("--port={port}"),
        "--bind_ip=127.0.0.1".into(),
        format!("--dbpath={}", dir.display()),
        "--wiredTigerCacheSizeGB=0.25".into(),
        "--nounixsocket".into(),
        "--setParameter=diagnosticDataCollectionEnabled=false".into(),
    ];
    if !options.standalone {
        args.extend(["--replSet=rs0".into(), format!("--oplogSize={}", options.oplog_mb)]);
    }
    match (&options.auth, options.standalone) {
        (Some(_), true) => args.push("--auth".into()),
        (Some(_), false) => args.push(format!("--keyFile={}", key_file.display())),
        (None, _) => {}
    }
    if let Some(c) = certificates {
        args.extend([
            "--tlsMode=requireTLS".into(),
            format!("--tlsCertificateKeyFile={}", c.both.display()),
            format!("--tlsCAFile={}", c.ca.display()),
            "--tlsAllowConnectionsWithoutCertificates".into(),
        ]);
    }
    args.extend(options.args.iter().cloned());
    args
}

/// mongod refuses a key file that others may read.
fn restrict(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("the mode of an own file can be set");
}

/// Percent-encodes everything that could mean something in a URI.
fn encode(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}
