//! Where a link leads, as the options say it. No I/O.

use std::{fmt, path::PathBuf};

use oplogue_api::{Error, Result};
use redis::{ConnectionAddr, ErrorKind, IntoConnectionInfo};

use super::connect::{Access, Tls};
use crate::options::{Connection, Endpoint};

/// The port of a Redis, and that of a Sentinel.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Host and port. An IPv6 address is without brackets.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// `host`, `host:port`, `[::1]:port`; `None` when it is none of these.
    pub fn parse(text: &str, default_port: u16) -> Option<Address> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#,[]".contains(c));
        let port = port.map_or(Some(default_port), |p| p.parse().ok().filter(|p| *p != 0))?;
        is_host.then(|| Address::Tcp(host.to_owned(), port))
    }
}

/// The master that Sentinel is to be asked for.
pub struct Group {
    /// Its name within Sentinel.
    pub name: String,
    /// The sentinels that the options name; they know the others.
    pub sentinels: Vec<Address>,
    /// How to get into the sentinels.
    pub access: Access,
}

/// Where a link leads.
pub enum Way {
    /// One server, or nodes of a Redis Cluster.
    Direct { seeds: Vec<Address>, must_be_cluster: bool },
    /// Several, of which one is the master.
    Static(Vec<Address>),
    /// Whoever Sentinel says.
    Sentinel(Group),
}

fn wrong_url(what: &str) -> Error {
    Error::option("url", format!("`url` is not the URL of a Redis: {what}")).hint(
        "write redis://user:password@host:6379/0, rediss:// for TLS, or \
         redis-sentinel://user:password@host:26379/0?sentinelMasterId=name; escape `/`, `@`, `:`, `#` and `%` in a password as \
         %2F, %40, %3A, %23 and %25",
    )
}

/// Where the options lead to, and how to get into the Redis there.
///
/// # Errors
/// Naming the option that is wrong. The URL, which may hold a password, is never repeated.
pub fn resolve(options: Connection, endpoint: Option<Endpoint>) -> Result<(Way, Access)> {
    let mut tls = Tls { ca: options.ca_file, cert: options.cert_file, key: options.key_file, insecure: false };
    match (&tls.cert, &tls.key) {
        (Some(_), None) => {
            return Err(Error::option("cert_file", "`cert_file` needs `key_file`").hint("name the file with its key"));
        }
        (None, Some(_)) => {
            return Err(Error::option("key_file", "`key_file` needs `cert_file`").hint("name its certificate"));
        }
        _ => {}
    }
    let (way, access, some_tls) = match (options.url, endpoint) {
        (Some(_), Some(_)) => {
            return Err(Error::option("endpoint", "`url` and `endpoint` both say where the Redis is")
                .hint("remove one of them"));
        }
        (None, None) => {
            return Err(Error::option("url", "neither `url` nor `endpoint` says where the Redis is")
                .hint("write url = \"redis://host:6379\", or endpoint = { type = \"sentinel\", … }"));
        }
        (Some(url), None) => {
            for (name, is_there) in [
                ("user", options.user.is_some()),
                ("password", options.password.is_some()),
                ("database", options.database.is_some()),
                ("tls", options.tls.is_some()),
            ] {
                if is_there {
                    return Err(Error::option(name, format!("`{name}` goes with `endpoint`; `url` says it itself"))
                        .hint("redis://user:password@host:6379/0; rediss:// for TLS"));
                }
            }
            from_url(&url, &mut tls)?
        }
        (None, Some(endpoint)) => {
            let is_tls = options.tls.unwrap_or(false);
            if options.user.is_some() && options.password.is_none() {
                return Err(Error::option("user", "`user` needs `password`").hint("add the password of that user"));
            }
            let database = options.database.unwrap_or(0);
            if database < 0 {
                return Err(Error::option("database", "`database` is a number from 0 on").hint("mostly 0"));
            }
            let access =
                Access { user: options.user, password: options.password, database, tls: is_tls.then(|| tls.clone()) };
            from_endpoint(endpoint, access, &tls)?
        }
    };
    for (name, file) in [("ca_file", &tls.ca), ("cert_file", &tls.cert), ("key_file", &tls.key)] {
        if file.is_some() && !some_tls {
            return Err(Error::option(name, format!("`{name}` is for TLS, and nothing asks for TLS"))
                .hint(format!("write rediss:// in the URL or `tls = true`, or remove `{name}`")));
        }
    }
    Ok((way, access))
}

type Resolved = (Way, Access, bool);

fn from_endpoint(endpoint: Endpoint, access: Access, tls: &Tls) -> Result<Resolved> {
    let addresses = |nodes: Vec<String>, port: u16| {
        let wrong = |what: &str| {
            Error::option("endpoint", format!("`nodes` of `endpoint`: {what}"))
                .hint(format!("write nodes = [\"host:{port}\", …]"))
        };
        if nodes.is_empty() {
            return Err(wrong("the list is empty"));
        }
        let read = |n: &String| Address::parse(n.trim(), port).ok_or_else(|| wrong("an element is not host:port"));
        nodes.iter().map(read).collect::<Result<Vec<_>>>()
    };
    let is_tls = access.tls.is_some();
    Ok(match endpoint {
        Endpoint::Static { nodes } => (Way::Static(addresses(nodes, PORT)?), access, is_tls),
        Endpoint::Cluster { nodes } => {
            if access.database != 0 {
                return Err(Error::option("database", "a Redis Cluster has the database 0 only").hint("remove it"));
            }
            (Way::Direct { seeds: addresses(nodes, PORT)?, must_be_cluster: true }, access, is_tls)
        }
        Endpoint::Sentinel { name, nodes, user, password, tls: sentinel_tls } => {
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Error::option("endpoint", "`name` of `endpoint` is not the name of a master")
                    .hint("it is the name behind `sentinel monitor` in sentinel.conf, such as mymaster"));
            }
            if user.is_some() && password.is_none() {
                return Err(Error::option("endpoint", "`user` of `endpoint` needs `password`")
                    .hint("add the password of that user on the sentinels"));
            }
            let of_sentinels = Access { user, password, database: 0, tls: sentinel_tls.then(|| tls.clone()) };
            let sentinels = addresses(nodes, SENTINEL_PORT)?;
            (Way::Sentinel(Group { name, sentinels, access: of_sentinels }), access, is_tls || sentinel_tls)
        }
    })
}

fn from_url(url: &str, tls: &mut Tls) -> Result<Resolved> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("redis" | "rediss" | "unix" | "redis+unix") => {}
        Some("redis-sentinel" | "redis+sentinel") => return sentinel_url(url, None),
        Some("rediss-sentinel" | "rediss+sentinel") => return sentinel_url(url, Some(tls.clone())),
        Some(_) => return Err(wrong_url("it begins neither with redis:// nor with rediss:// or redis-sentinel://")),
        None => return Err(wrong_url("it has no scheme such as redis://")),
    }
    let info = url.into_connection_info().map_err(|e| {
        wrong_url(match e.kind() {
            ErrorKind::InvalidClientConfig => "host, port or database number cannot be read",
            _ => "it cannot be read",
        })
    })?;
    let (address, is_tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (Address::Tcp(host.clone(), *port), false),
        ConnectionAddr::TcpTls { host, port, insecure, .. } => {
            tls.insecure = *insecure;
            (Address::Tcp(host.clone(), *port), true)
        }
        ConnectionAddr::Unix(path) => (Address::Unix(path.clone()), false),
        _ => return Err(wrong_url("it is of a kind that is not known")),
    };
    let settings = info.redis_settings();
    let access = Access {
        user: settings.username().map(str::to_owned),
        password: settings.password().map(str::to_owned),
        database: settings.db(),
        tls: is_tls.then(|| tls.clone()),
    };
    Ok((Way::Direct { seeds: vec![address], must_be_cluster: false }, access, is_tls))
}

/// `redis-sentinel://[[user]:password@]host[:port][,host[:port]…][/database]?sentinelMasterId=name`. The credentials are those
/// of the Redis, as oplogtoredis has it; without a colon they are the password.
fn sentinel_url(url: &str, tls: Option<Tls>) -> Result<Resolved> {
    let (_, rest) = url.split_once("://").ok_or_else(|| wrong_url("it has no scheme"))?;
    if rest.contains('#') {
        return Err(wrong_url("there is a # in it"));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    let plain = |text: &str| unescape(text).ok_or_else(|| wrong_url("an escape with % cannot be read"));
    let (user, password) = match credentials.map(|c| c.split_once(':').unwrap_or(("", c))) {
        Some((user, password)) => (plain(user)?, plain(password)?),
        None => (String::new(), String::new()),
    };
    if !user.is_empty() && password.is_empty() {
        return Err(wrong_url("there is a user without a password"));
    }
    let read = |h: &str| Address::parse(h, SENTINEL_PORT).ok_or_else(|| wrong_url("a sentinel is not host:port"));
    let sentinels = hosts.split(',').map(read).collect::<Result<Vec<_>>>()?;
    let database = match path {
        "" => 0,
        number => number.parse().ok().filter(|n| *n >= 0).ok_or_else(|| wrong_url("the database is not a number"))?,
    };
    let mut name = String::new();
    for (key, value) in query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, ""))) {
        if key != "sentinelMasterId" {
            return Err(wrong_url("it has a parameter other than sentinelMasterId"));
        }
        name = plain(value)?;
    }
    if name.is_empty() || name.contains(char::is_whitespace) {
        // oplogtoredis takes the sentinel itself for the Redis then.
        return Err(wrong_url("a Sentinel URL needs the name of the master: ?sentinelMasterId=mymaster"));
    }
    let some = |text: String| Some(text).filter(|t| !t.is_empty());
    let is_tls = tls.is_some();
    let group = Group { name, sentinels, access: Access { tls: tls.clone(), ..Access::default() } };
    Ok((Way::Sentinel(group), Access { user: some(user), password: some(password), database, tls }, is_tls))
}

/// Undoes `%XX`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.into(), port)
    }

    fn url(url: &str) -> Result<(Way, Access)> {
        resolve(Connection { url: Some(url.into()), ..Default::default() }, None)
    }

    #[test]
    fn addresses() {
        assert_eq!(Address::parse("h", 1), Some(tcp("h", 1)));
        assert_eq!(Address::parse("10.0.0.1:7", 1), Some(tcp("10.0.0.1", 7)));
        assert_eq!(Address::parse("[::1]:7", 1), Some(tcp("::1", 7)));
        assert_eq!(Address::parse("[::1]", 1), Some(tcp("::1", 1)));
        assert_eq!(tcp("::1", 7).to_string(), "[::1]:7");
        for bad in ["", ":1", "h:", "h:0", "h:70000", "h:x", "[::1", "[::1]7", "::1", "a b", "u@h", "h:1/2"] {
            assert_eq!(Address::parse(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn sentinel_urls() {
        for (text, user, password, hosts, database) in [
            ("redis-sentinel://s1?sentinelMasterId=m", None, None, vec![tcp("s1", 26379)], 0),
            ("redis-sentinel://pw@s1:1/2?sentinelMasterId=m", None, Some("pw"), vec![tcp("s1", 1)], 2),
            (
                "redis-sentinel://:p%40w@s1:1,s2,[::1]:3/?sentinelMasterId=m",
                None,
                Some("p@w"),
                vec![tcp("s1", 1), tcp("s2", 26379), tcp("::1", 3)],
                0,
            ),
            ("redis+sentinel://u:pw@s1/0?sentinelMasterId=%6d", Some("u"), Some("pw"), vec![tcp("s1", 26379)], 0),
        ] {
            let (way, access) = url(text).unwrap();
            let Way::Sentinel(group) = way else { panic!("{text}") };
            assert_eq!((group.name.as_str(), group.sentinels), ("m", hosts), "{text}");
            assert!(group.access.password.is_none(), "the password is that of the Redis");
            assert_eq!((access.user.as_deref(), access.password.as_deref()), (user, password), "{text}");
            assert_eq!(access.database, database);
            assert!(access.tls.is_none());
        }
        let (_, access) = url("rediss-sentinel://s1?sentinelMasterId=m").unwrap();
        assert!(access.tls.is_some());
    }

    #[test]
    fn wrong_urls_name_the_option_and_nothing_of_the_url() {
        for text in [
            "redis-sentinel://u:s3cret@s1",
            "redis-sentinel://u:s3cret@s1?sentinelMasterId=",
            "redis-sentinel://u:s3cret@s1?master=m",
            "redis-sentinel://u:s3cret@s1:x?sentinelMasterId=m",
            "redis-sentinel://u:s3cret@?sentinelMasterId=m",
            "redis-sentinel://u:s3cret@s1,?sentinelMasterId=m",
            "redis-sentinel://u:s3cret@s1/x?sentinelMasterId=m",
            "redis-sentinel://u:s3cret%4@s1?sentinelMasterId=m",
            "redis-sentinel://u@:s3cret",
            "redis-sentinel://",
        ] {
            let error = url(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert_eq!(error.field(), Some("url"), "{text}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error}");
        }
    }
}
