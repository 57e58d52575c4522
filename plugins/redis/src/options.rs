//! The options of the plugins.

use std::path::PathBuf;

use oplogue_api::{Field, FieldType, Options, Result};
use serde::Deserialize;

use crate::link::Link;

const URL: Field = Field::new(
    "url",
    FieldType::String,
    "redis://user:password@host:6379/0, rediss:// for TLS, or redis-sentinel://host:26379/0?sentinelMasterId=name",
)
.secret();
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
    METADATA_PREFIX,
    Field::new(
        "dedupe",
        FieldType::OneOf(&["watermark", "off"]),
        "Whether what was published before, by this instance or a twin, is left out",
    )
    .default("\"watermark\""),
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
}

/// The option `dedupe`.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Dedupe {
    #[default]
    Watermark,
    Off,
}

impl Dedupe {
    pub fn is_on(self) -> bool {
        self == Dedupe::Watermark
    }
}

/// The options of the store, read; without those of [`connection`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreOptions {
    #[serde(default = "metadata_prefix")]
    pub metadata_prefix: String,
}
