//! The options of the plugins.

use std::path::PathBuf;

use oplogue_api::{Field, FieldType};
use serde::Deserialize;

use crate::changed::Detail;

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
