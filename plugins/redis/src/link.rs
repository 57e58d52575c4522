//! The connection to one Redis: opened when it is needed, dropped after every failure of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use oplogue_api::{Error, Result};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    TlsCertificates, Value, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use crate::reply;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than any batch needs, short enough that a frozen server is noticed.
const ANSWER: Duration = Duration::from_secs(20);

/// A Lua script and its name within Redis.
pub struct Script {
    text: &'static str,
    sha: String,
}

impl Script {
    /// The script with this text.
    pub fn new(text: &'static str) -> Script {
        Script { text, sha: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// See the module.
pub struct Link {
    info: ConnectionInfo,
    ca_file: Option<PathBuf>,
    auth: Option<Cmd>,
    database: i64,
    place: String,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Link {
    /// A link to the Redis of this URL. No I/O.
    ///
    /// # Errors
    /// Naming the option `url`, which is never repeated, or `ca_file`.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Link> {
        let wrong = |what: &str| {
            Error::option("url", format!("`url` is not the URL of a Redis: {what}"))
                .hint("write redis://user:password@host:6379/0, or rediss:// for TLS; escape `/`, `@`, `:`, `#` and `%` in a password as %2F, %40, %3A, %23 and %25")
        };
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("redis" | "rediss" | "unix" | "redis+unix") => {}
            Some("redis-sentinel" | "redis+sentinel") => {
                return Err(wrong("Redis Sentinel is not supported yet; give the address of the master"));
            }
            Some(_) => return Err(wrong("it begins neither with redis:// nor with rediss://")),
            None => return Err(wrong("it has no scheme such as redis://")),
        }
        let info = url.into_connection_info().map_err(|e| wrong(fixed_text(&e)))?;
        let settings = info.redis_settings();
        // Credentials and database are sent by `connect`, because the client library takes every refusal, also that of a
        // full server, for a wrong password.
        let auth = settings.password().map(|password| {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            auth.arg(password);
            auth
        });
        let database = settings.db();
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => format!("{host}:{port}"),
            ConnectionAddr::Unix(path) => path.display().to_string(),
            _ => "redis".to_owned(),
        };
        let bare = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        if ca_file.is_some() && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(Error::option("ca_file", "`ca_file` is for TLS, and the URL asks for none")
                .hint("write rediss:// in the URL, or remove `ca_file`"));
        }
        let info = info.set_redis_settings(bare);
        let ca_file = ca_file.map(Path::to_owned);
        Ok(Link { info, ca_file, auth, database, place, connection: Mutex::new(None) })
    }

    /// The client library's idea of where to connect to.
    async fn client(&self) -> Result<Client> {
        let info = self.info.clone();
        let Some(path) = &self.ca_file else {
            return Client::open(info).map_err(|e| reply::from_redis(&e, &self.place));
        };
        let unreadable = |what: &str| {
            Error::operator(format!("the certificates in `ca_file` {}: {what}", path.display()))
                .hint("give the path of a PEM file with the certificate of the authority that signed that of Redis")
        };
        let pem = tokio::fs::read(path).await.map_err(|e| unreadable(&e.to_string()))?;
        if !pem.windows(17).any(|w| w == b"BEGIN CERTIFICATE") {
            return Err(unreadable("there is none in the file"));
        }
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
        Client::build_with_tls(info, certificates).map_err(|_| unreadable("the file cannot be understood"))
    }

    /// Host and port.
    pub fn place(&self) -> &str {
        &self.place
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let failed = |e: &RedisError| reply::from_redis(e, &self.place);
        let client = self.client().await?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connecting.await.map_err(|e| failed(&e))?;
        if let Some(auth) = &self.auth
            && let Err(e) = send(&mut connection, auth).await
        {
            // Before version 6 a wrong password is a plain ERR, as is the refusal of a full server, which hangs up then.
            let alive = send(&mut connection, &redis::cmd("PING")).await;
            let hung_up = alive.is_err_and(|e| e.code().is_none());
            return Err(match e.code() {
                Some("ERR") if !hung_up => reply::from_code("WRONGPASS").at(&self.place),
                _ => failed(&e),
            });
        }
        if self.database != 0
            && let Err(e) = send(&mut connection, redis::cmd("SELECT").arg(self.database)).await
        {
            return Err(match e.code() {
                Some("ERR") => Error::operator(format!("{}: Redis has no database {}", self.place, self.database))
                    .hint("correct the number at the end of the URL"),
                _ => failed(&e),
            });
        }
        Ok(connection)
    }

    /// The open connection, or a new one.
    async fn connection(&self) -> Result<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = &*connection {
            return Ok(open.clone());
        }
        let new = self.connect().await?;
        *connection = Some(new.clone());
        Ok(new)
    }

    /// Hangs up; the next call connects again.
    pub async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    /// Sends a command; an error reply is the inner `Err`.
    ///
    /// # Errors
    /// The outer one says that there was no reply, so that nothing is known about the command.
    pub async fn call(&self, cmd: &Cmd) -> Result<Result<Value, RedisError>> {
        let mut connection = self.connection().await?;
        match send(&mut connection, cmd).await {
            Ok(value) => Ok(Ok(value)),
            Err(e) if e.code().is_some() => Ok(Err(e)),
            Err(e) => {
                // A reply may still come: nothing else may take it for its own.
                self.disconnect().await;
                Err(reply::from_redis(&e, &self.place))
            }
        }
    }

    /// Sends a command; an error reply is an error.
    pub async fn ask(&self, cmd: &Cmd) -> Result<Value> {
        self.call(cmd).await?.map_err(|e| reply::from_redis(&e, &self.place))
    }

    /// Runs a script on one key.
    pub async fn run(&self, script: &Script, key: &[u8], args: &[&[u8]]) -> Result<Value> {
        let size = key.len() + args.iter().map(|a| a.len()).sum::<usize>() + script.text.len();
        let command = |name: &str, script: &str| {
            let mut cmd = Cmd::with_capacity(args.len() + 4, size + 64);
            cmd.arg(name).arg(script).arg(1).arg(key);
            for arg in args {
                cmd.arg(*arg);
            }
            cmd
        };
        match self.call(&command("EVALSHA", &script.sha)).await? {
            Ok(value) => Ok(value),
            // Nothing ran. EVAL loads it, and needs no right that the script would not need otherwise.
            Err(e) if e.code() == Some("NOSCRIPT") => self.ask(&command("EVAL", script.text)).await,
            Err(e) => Err(reply::from_redis(&e, &self.place)),
        }
    }
}

/// The reply, with an error reply as an error.
async fn send(connection: &mut MultiplexedConnection, cmd: &Cmd) -> Result<Value, RedisError> {
    match connection.send_packed_command(cmd).await? {
        Value::ServerError(e) => Err(e.into()),
        value => Ok(value),
    }
}

/// What the client library says about a URL, as far as it is not part of the URL.
fn fixed_text(e: &RedisError) -> &'static str {
    match e.kind() {
        ErrorKind::InvalidClientConfig => "host, port or database number cannot be read",
        _ => "it cannot be read",
    }
}
