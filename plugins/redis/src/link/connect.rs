//! One connection to one server: TLS, credentials, and what it says it is.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use oplogue_api::{Error, Result};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsCertificates, Value, aio::MultiplexedConnection,
};

use super::address::Address;
use crate::reply;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than any batch needs, short enough that a frozen server is noticed.
const ANSWER: Duration = Duration::from_secs(20);

/// How to get into a server.
#[derive(Clone, Default)]
pub struct Access {
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: i64,
    /// `None`: no TLS.
    pub tls: Option<Tls>,
}

/// PEM files.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities to trust; `None`: the public ones.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The URL says `#insecure`.
    pub insecure: bool,
}

/// What a server says it is.
pub enum Role {
    Master,
    Replica {
        /// Address of its master, and the state of the link to it.
        of: String,
        link: String,
    },
    Sentinel,
    /// The user may not ask, or a proxy does not know the question.
    Hidden,
}

/// A PEM file, as the option `option` names it. `within` is what must be in it.
async fn pem(option: &str, path: &Path, within: &[u8]) -> Result<Vec<u8>> {
    let text = tokio::fs::read(path).await.map_err(|e| unreadable(option, path, &e.to_string()))?;
    if !text.windows(within.len()).any(|w| w == within) {
        return Err(unreadable(option, path, "there is none in the file"));
    }
    Ok(text)
}

fn unreadable(option: &str, path: &Path, what: &str) -> Error {
    let (is, hint) = match option {
        "ca_file" => ("certificates", "the certificate of the authority that signed that of Redis"),
        "cert_file" => ("certificate", "the client's certificate"),
        _ => ("key", "the key of the client's certificate, without a passphrase"),
    };
    Error::operator(format!("the {is} in `{option}` {}: {what}", path.display()))
        .hint(format!("give the path of a PEM file with {hint}"))
}

/// The client library's idea of where to connect to. `credentials`: for a connection whose first command cannot be AUTH.
pub async fn client(access: &Access, address: &Address, credentials: bool) -> Result<Client> {
    let addr = match (address, &access.tls) {
        (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
        (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
        (Address::Tcp(host, port), Some(tls)) => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: tls.insecure, tls_params: None }
        }
    };
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if credentials && let Some(password) = &access.password {
        settings = settings.set_password(password);
        if let Some(user) = &access.user {
            settings = settings.set_username(user);
        }
    }
    let info: ConnectionInfo = addr
        .into_connection_info()
        .map_err(|e| reply::from_redis(&e, &address.to_string()))?
        .set_redis_settings(settings);
    let Some(tls) = &access.tls else {
        return Client::open(info).map_err(|e| reply::from_redis(&e, &address.to_string()));
    };
    let root_cert = match &tls.ca {
        Some(path) => Some(pem("ca_file", path, b"BEGIN CERTIFICATE").await?),
        None => None,
    };
    let trusting = TlsCertificates { client_tls: None, root_cert: root_cert.clone() };
    let trusting = Client::build_with_tls(info.clone(), trusting).map_err(|e| match &tls.ca {
        Some(path) => unreadable("ca_file", path, "the file cannot be understood"),
        None => reply::from_redis(&e, &address.to_string()),
    })?;
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(trusting) };
    let client_cert = pem("cert_file", cert, b"BEGIN CERTIFICATE").await?;
    let client_key = pem("key_file", key, b"PRIVATE KEY").await?;
    let client_tls = Some(redis::ClientTlsConfig { client_cert, client_key });
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        .map_err(|_| unreadable("cert_file", cert, "certificate and key cannot be understood"))
}

/// A connection on which the user is in and the database selected.
pub async fn open(access: &Access, address: &Address) -> Result<MultiplexedConnection> {
    let place = address.to_string();
    let failed = |e: &RedisError| reply::from_redis(e, &place);
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
    // Credentials and database are sent here, because the client library takes every refusal, also that of a full server, for a
    // wrong password.
    let client = client(access, address, false).await?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(|e| failed(&e))?;
    if let Some(password) = &access.password {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &access.user {
            auth.arg(user);
        }
        auth.arg(password);
        if let Err(e) = send(&mut connection, &auth).await {
            // Before version 6 a wrong password is a plain ERR, as is the refusal of a full server, which hangs up then.
            let alive = send(&mut connection, &redis::cmd("PING")).await;
            let hung_up = alive.is_err_and(|e| e.code().is_none());
            return Err(match e.code() {
                Some("ERR") if !hung_up => reply::from_code("WRONGPASS").at(&place),
                _ => failed(&e),
            });
        }
    }
    if access.database != 0
        && let Err(e) = send(&mut connection, redis::cmd("SELECT").arg(access.database)).await
    {
        return Err(match e.code() {
            Some("ERR") => Error::operator(format!("{place}: Redis has no database {}", access.database))
                .hint("correct the number at the end of the URL, or `database`"),
            _ => failed(&e),
        });
    }
    Ok(connection)
}

/// Asks a server what it is.
pub async fn role(connection: &mut MultiplexedConnection, place: &str) -> Result<Role> {
    let reply = match send(connection, &redis::cmd("ROLE")).await {
        Ok(reply) => reply,
        Err(e) if matches!(e.code(), Some("NOPERM" | "ERR")) => return Ok(Role::Hidden),
        Err(e) => return Err(reply::from_redis(&e, place)),
    };
    let Value::Array(parts) = &reply else { return Ok(Role::Hidden) };
    let part = |n: usize| parts.get(n).and_then(text).unwrap_or_default();
    Ok(match part(0).as_str() {
        "master" => Role::Master,
        "slave" => {
            let port = match parts.get(2) {
                Some(Value::Int(port)) => port.to_string(),
                _ => part(2),
            };
            Role::Replica { of: format!("{}:{port}", part(1)), link: part(3) }
        }
        "sentinel" => Role::Sentinel,
        _ => Role::Hidden,
    })
}

/// Why a server that is not a master is not used; `None`: it may be one.
pub fn not_a_master(role: &Role, place: &str) -> Option<Error> {
    match role {
        Role::Master | Role::Hidden => None,
        Role::Replica { of, link } => Some(
            Error::transient(format!(
                "{place}: this Redis is a replica of {of} (link {link}) and takes no writes (READONLY)"
            ))
            .hint("if it lasts, give the address of the master, or follow it: endpoint = { type = \"sentinel\", … }"),
        ),
        Role::Sentinel => Some(
            Error::operator(format!("{place}: this is a Redis Sentinel, not a Redis"))
                .hint("give the address of the master, or write redis-sentinel://host:26379?sentinelMasterId=mymaster"),
        ),
    }
}

/// The reply, with an error reply as an error.
pub async fn send(connection: &mut MultiplexedConnection, cmd: &Cmd) -> Result<Value, RedisError> {
    match connection.send_packed_command(cmd).await? {
        Value::ServerError(e) => Err(e.into()),
        value => Ok(value),
    }
}

/// The text of a reply that is one.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}
