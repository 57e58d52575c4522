//! The options of the plugins.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use oplogue_api::{Error, Field, FieldType, Op, Options, Period, Result};
use serde::{Deserialize, de::IgnoredAny};

use crate::{changed::Detail, collections::Rules, render::Rendering};

use crate::link::Link;

const URL: Field = Field::new(
    "url",
    FieldType::String,
    "redis://user:password@host:6379/0, rediss:// for TLS, or redis-sentinel://host:26379/0?sentinelMasterId=name",
)
.secret()
.usual();
const ENDPOINT: Field = Field::new(
    "endpoint",
    FieldType::Any,
    "Instead of url: a table with type static, sentinel or cluster, and the addresses",
)
.secret();
const USER: Field = Field::new("user", FieldType::String, "With endpoint: the ACL user on the Redis");
const PASSWORD: Field = Field::new("password", FieldType::String, "With endpoint: the password on the Redis").secret();
const DATABASE: Field = Field::new("database", FieldType::Integer, "With endpoint: the number of the database");
const TLS: Field = Field::new("tls", FieldType::Bool, "With endpoint: whether the Redis speaks TLS");
const CA_FILE: Field = Field::new(
    "ca_file",
    FieldType::String,
    "A PEM file with the authorities to trust for TLS, instead of the public ones",
);
const CERT_FILE: Field =
    Field::new("cert_file", FieldType::String, "A PEM file with the client's certificate, for a TLS that demands one");
const KEY_FILE: Field = Field::new("key_file", FieldType::String, "A PEM file with the key of cert_file");
const METADATA_PREFIX: Field =
    Field::new("metadata_prefix", FieldType::String, "What the names of oplogue's own keys in Redis begin with")
        .default("\"oplogue::\"");

/// The options of `redis-oplog`.
pub const SINK: &[Field] = &[
    URL,
    ENDPOINT,
    USER,
    PASSWORD,
    DATABASE,
    TLS,
    CA_FILE,
    CERT_FILE,
    KEY_FILE,
    Field::new(
        "prefix",
        FieldType::String,
        "What channel names begin with, instead of the database's name and a dot: Meteor's globalRedisPrefix",
    ),
    Field::new(
        "prefixes",
        FieldType::Any,
        "A prefix for each of several databases: { shop = \"shop.\", crm = \"\" }; others have that of `prefix`",
    ),
    METADATA_PREFIX,
    Field::new(
        "dedupe",
        FieldType::OneOf(&["watermark", "keys", "off"]),
        "How what was published before, by this instance or a twin, is left out; with \"keys\" also by oplogtoredis",
    )
    .default("\"watermark\""),
    Field::new(
        "dedupe_ttl",
        FieldType::Duration,
        "For dedupe = \"keys\": how long it is remembered that an event was published, in whole seconds",
    )
    .default("\"150s\""),
    Field::new(
        "ordinals",
        FieldType::Integer,
        "For dedupe = \"keys\": how many resume keys there are, OTR_WRITE_PARALLELISM of oplogtoredis",
    )
    .default("1"),
    Field::new(
        "on_refused",
        FieldType::OneOf(&["retry", "bad-event"]),
        "What happens when Redis refuses a message (the user may not publish there): tried again, or on_bad_event",
    )
    .default("\"retry\""),
    Field::new(
        "resync",
        FieldType::Strings,
        "What makes all subscribers load their data again: \"gap\", \"drop\", \"rename\"",
    )
    .default("[]"),
    Field::new(
        "resync_user",
        FieldType::String,
        "The Redis user of the subscribers that `resync` concerns, instead of all that subscribe to anything",
    ),
    Field::new(
        "fields",
        FieldType::OneOf(&["top-level", "logged", "deep"]),
        "How exactly `f` tells what an update changed: top-level names, the paths that are logged, or paths to the leaves",
    )
    .default("\"top-level\""),
    Field::new(
        "coalesce",
        FieldType::Bool,
        "Whether changes of one document that wait for the same call of Redis become one message",
    )
    .default("false"),
    Field::new(
        "collections",
        FieldType::Any,
        "Tables with settings for some collections: match, publish, document, namespaces, channels, object_ids, skip_if_only",
    ),
];

/// The options of the `redis` checkpoint store.
pub const STORE: &[Field] =
    &[URL, ENDPOINT, USER, PASSWORD, DATABASE, TLS, CA_FILE, CERT_FILE, KEY_FILE, METADATA_PREFIX];

/// Those options that say where the Redis is; see [`connection`].
const CONNECTION: &[Field] = &[URL, ENDPOINT, USER, PASSWORD, DATABASE, TLS, CA_FILE, CERT_FILE, KEY_FILE];

fn metadata_prefix() -> String {
    "oplogue::".to_owned()
}

/// The options that say where the Redis is, but for `endpoint`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    pub url: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<i64>,
    pub tls: Option<bool>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// The option `endpoint`.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Endpoint {
    /// Several Redis, of which one is the master.
    Static { nodes: Vec<String> },
    /// A master that Sentinel knows. User, password and TLS are those of the sentinels.
    Sentinel {
        name: String,
        nodes: Vec<String>,
        user: Option<String>,
        password: Option<String>,
        #[serde(default)]
        tls: bool,
    },
    /// A Redis Cluster.
    Cluster { nodes: Vec<String> },
}

/// The link that the options ask for, and the options that are not about it. No I/O.
///
/// # Errors
/// Naming the option that is wrong.
pub fn connection(options: &Options) -> Result<(Link, Options)> {
    let is_ours = |key: &str| CONNECTION.iter().any(|f| f.name == key);
    let part = |ours: bool| {
        let entries = options.table().iter().filter(|(key, _)| is_ours(key) == ours && *key != ENDPOINT.name);
        Options::new(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    let endpoint = options.table().get(ENDPOINT.name).cloned();
    let endpoint = endpoint.map(|value| {
        Endpoint::deserialize(value).map_err(|e| {
            // A value of the wrong type would be quoted, and may be the password.
            let told = ["missing field", "unknown field", "unknown variant"].iter().any(|t| e.message().starts_with(t));
            let what = if told { e.message() } else { "a value is of the wrong type" };
            oplogue_api::Error::option("endpoint", format!("`endpoint` cannot be read: {what}")).hint(
                "write endpoint = { type = \"sentinel\", name = \"mymaster\", nodes = [\"host:26379\"] }, or type \
                 \"static\" or \"cluster\" with nodes",
            )
        })
    });
    let link = Link::new(part(true).parse::<Connection>()?, endpoint.transpose()?)?;
    Ok((link, part(false)))
}

/// The options of `redis-oplog`, read; without those of [`connection`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkOptions {
    pub prefix: Option<String>,
    #[serde(default = "metadata_prefix")]
    pub metadata_prefix: String,
    #[serde(default)]
    pub dedupe: Dedupe,
    pub dedupe_ttl: Option<Period>,
    pub ordinals: Option<u32>,
    #[serde(default)]
    pub on_refused: OnRefused,
    #[serde(default)]
    pub resync: Vec<Resync>,
    pub resync_user: Option<String>,
    #[serde(default)]
    pub fields: Detail,
    #[serde(default)]
    pub coalesce: bool,
    #[serde(rename = "prefixes")]
    _prefixes: Option<IgnoredAny>,
    #[serde(rename = "collections")]
    _collections: Option<IgnoredAny>,
    /// What of them concerns messages and channels.
    #[serde(skip)]
    pub rendering: Rendering,
}

impl SinkOptions {
    /// Reads and checks the options.
    ///
    /// # Errors
    /// Naming the option that is wrong.
    pub fn new(options: &Options) -> Result<SinkOptions> {
        let mut read: SinkOptions = options.parse()?;
        read.rendering = Rendering {
            prefix: read.prefix.as_ref().map(|p| p.as_bytes().to_vec()),
            prefixes: prefixes(options)?,
            detail: read.fields,
            rules: Rules::new(options)?,
        };
        Ok(read)
    }
}

fn prefixes(options: &Options) -> Result<HashMap<String, Vec<u8>>> {
    let Some(value) = options.table().get("prefixes") else { return Ok(HashMap::new()) };
    let wrong = |what: String| {
        Error::option("prefixes", what).hint("write databases and their prefixes: prefixes = { shop = \"shop.\" }")
    };
    let table = value.as_table().ok_or_else(|| wrong("`prefixes` must be a table".to_owned()))?;
    let mut prefixes = HashMap::new();
    for (database, prefix) in table {
        let prefix = prefix.as_str().ok_or_else(|| wrong(format!("the prefix of `{database}` must be a text")))?;
        if database.is_empty() || database.contains('.') {
            return Err(wrong(format!("`{database}` is no name of a database")));
        }
        prefixes.insert(database.clone(), prefix.as_bytes().to_vec());
    }
    Ok(prefixes)
}

/// The option `dedupe`.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Dedupe {
    #[default]
    Watermark,
    Keys,
    Off,
}

/// The option `on_refused`.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefused {
    #[default]
    Retry,
    BadEvent,
}

/// A word of the option `resync`.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Resync {
    /// The route lost its position.
    Gap,
    /// A collection or database was dropped.
    Drop,
    /// A collection was renamed.
    Rename,
}

impl Resync {
    /// The word for a barrier.
    pub fn of(op: Op) -> Option<Resync> {
        match op {
            Op::Gap => Some(Resync::Gap),
            Op::Drop | Op::DropDatabase => Some(Resync::Drop),
            Op::Rename => Some(Resync::Rename),
            _ => None,
        }
    }
}

impl SinkOptions {
    /// How long a claim lasts, and how many resume keys there are.
    ///
    /// # Errors
    /// Naming the option that is wrong, or has no meaning with this `dedupe`.
    pub fn keys(&self) -> Result<(Duration, u32)> {
        if self.dedupe != Dedupe::Keys {
            for (name, is_set) in [("dedupe_ttl", self.dedupe_ttl.is_some()), ("ordinals", self.ordinals.is_some())] {
                if is_set {
                    return Err(Error::option(name, format!("`{name}` has a meaning with dedupe = \"keys\" only"))
                        .hint("remove it, or set `dedupe`"));
                }
            }
        }
        if self.coalesce && self.dedupe == Dedupe::Keys {
            return Err(Error::option(
                "coalesce",
                "`coalesce` cannot be had with dedupe = \"keys\": the keys are those of single events",
            )
            .hint("remove it, or use dedupe = \"watermark\""));
        }
        let ttl = self.dedupe_ttl.map_or(Duration::from_secs(150), |p| p.0);
        if ttl < Duration::from_secs(1) || ttl > Duration::from_secs(365 * 24 * 3600) {
            return Err(Error::option("dedupe_ttl", "`dedupe_ttl` must be from 1s to a year"));
        }
        let ordinals = self.ordinals.unwrap_or(1);
        if !(1..=256).contains(&ordinals) {
            return Err(Error::option("ordinals", "`ordinals` must be from 1 to 256"));
        }
        Ok((ttl, ordinals))
    }
}

/// The options of the store, read; without those of [`connection`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreOptions {
    #[serde(default = "metadata_prefix")]
    pub metadata_prefix: String,
}
