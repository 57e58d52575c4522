//! The options of the plugins.

use std::{collections::HashMap, path::PathBuf};

use oplogue_api::{Error, Field, FieldType, Options, Result};
use serde::{Deserialize, de::IgnoredAny};

use crate::{changed::Detail, collections::Rules, render::Rendering};

const URL: Field =
    Field::new("url", FieldType::String, "redis://user:password@host:6379/0, or rediss:// for TLS").required().secret();
const CA_FILE: Field = Field::new(
    "ca_file",
    FieldType::String,
    "A PEM file with the authorities to trust for rediss://, instead of the public ones",
);
const METADATA_PREFIX: Field =
    Field::new("metadata_prefix", FieldType::String, "What the names of oplogue's own keys in Redis begin with")
        .default("\"oplogue::\"");

/// The options of `redis-oplog`.
pub const SINK: &[Field] = &[
    URL,
    CA_FILE,
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
        FieldType::OneOf(&["watermark", "off"]),
        "Whether what was published before, by this instance or a twin, is left out",
    )
    .default("\"watermark\""),
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
pub const STORE: &[Field] = &[URL, CA_FILE, METADATA_PREFIX];

fn metadata_prefix() -> String {
    "oplogue::".to_owned()
}

/// The options of `redis-oplog`, read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkOptions {
    pub url: String,
    pub ca_file: Option<PathBuf>,
    pub prefix: Option<String>,
    #[serde(default = "metadata_prefix")]
    pub metadata_prefix: String,
    #[serde(default)]
    pub dedupe: Dedupe,
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
    Off,
}

impl Dedupe {
    pub fn is_on(self) -> bool {
        self == Dedupe::Watermark
    }
}

/// The options of the store, read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreOptions {
    pub url: String,
    pub ca_file: Option<PathBuf>,
    #[serde(default = "metadata_prefix")]
    pub metadata_prefix: String,
}
