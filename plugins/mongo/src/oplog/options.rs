//! The options of the source.

use std::time::Duration;

use oplogue_api::{Error, Field, FieldType, Options, Period, Result};
use serde::Deserialize;

use super::log::ReadConcern;
use crate::{client::check_uri, globs::Globs, start::Start};

pub(super) const NAMESPACES: &str = "full_document_namespaces";

pub(super) const FIELDS: &[Field] = &[
    Field::new("uri", FieldType::String, "The replica set, as a MongoDB connection string").required().secret(),
    Field::new(
        "start",
        FieldType::Any,
        "Where to begin without a checkpoint: \"now\", \"oldest\" or { at = 2026-11-21T10:00:00Z }",
    )
    .default("\"now\""),
    Field::new(
        "read_concern",
        FieldType::OneOf(&["majority", "local"]),
        "Deliver what a majority of the members has, or at once what the member read has: faster, but it may be rolled back",
    )
    .default("\"majority\""),
    Field::new("batch_size", FieldType::Integer, "How many oplog entries to ask for at a time").default("1000"),
    Field::new("await", FieldType::Duration, "How long the server waits for news before it answers with none")
        .default("\"1s\""),
    Field::new("include_system", FieldType::Bool, "Also deliver internal namespaces such as admin.system.users")
        .default("false"),
    Field::new(
        "full_document",
        FieldType::OneOf(&["default", "update-lookup"]),
        "Full documents for updates: none, or as they are now, looked up batch by batch",
    )
    .default("\"default\""),
    Field::new(
        "full_document_namespaces",
        FieldType::Strings,
        "Where full documents are looked up: globs of `database.collection` such as \"app.*\"",
    ),
    Field::new(
        "push_down",
        FieldType::Bool,
        "Whether the server evaluates what it can of the filters at the head of the route, so that the rest never comes",
    )
    .default("true"),
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FullDocument {
    #[default]
    Default,
    UpdateLookup,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub uri: String,
    #[serde(default)]
    pub start: Start,
    #[serde(default)]
    pub read_concern: ReadConcern,
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    #[serde(default = "default_await", rename = "await")]
    pub wait: Period,
    #[serde(default)]
    pub include_system: bool,
    #[serde(default)]
    pub full_document: FullDocument,
    full_document_namespaces: Option<Vec<String>>,
    #[serde(default = "yes")]
    pub push_down: bool,
}

/// Where full documents are looked up.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Nowhere,
    Everywhere,
    In(Globs),
}

impl Settings {
    pub fn new(options: &Options) -> Result<Settings> {
        let settings: Settings = options.parse()?;
        check_uri(&settings.uri)?;
        if !(1..=1_000_000).contains(&settings.batch_size) {
            return Err(Error::option("batch_size", "`batch_size` must be between 1 and 1000000"));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&settings.wait.0) {
            return Err(Error::option("await", "`await` must be between \"1ms\" and \"60s\""));
        }
        settings.wanted()?;
        Ok(settings)
    }

    /// # Errors
    /// [`Error::option`] for `full_document_namespaces`; none once [`Settings::new`] has given the value.
    pub fn wanted(&self) -> Result<Wanted> {
        match (self.full_document, &self.full_document_namespaces) {
            (FullDocument::Default, None) => Ok(Wanted::Nowhere),
            (FullDocument::Default, Some(_)) => Err(Error::option(
                NAMESPACES,
                "`full_document_namespaces` without full_document = \"update-lookup\" would change nothing",
            )
            .hint("add full_document = \"update-lookup\", or take the option out")),
            (FullDocument::UpdateLookup, None) => Ok(Wanted::Everywhere),
            (FullDocument::UpdateLookup, Some(patterns)) => Globs::new(NAMESPACES, patterns).map(Wanted::In),
        }
    }
}

fn yes() -> bool {
    true
}

fn default_batch_size() -> u32 {
    1000
}

fn default_await() -> Period {
    Period(Duration::from_secs(1))
}
