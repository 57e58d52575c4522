//! The options of the source.

use std::time::Duration;

use oplogue_api::{Error, Field, FieldType, Options, Period, Result};
use serde::Deserialize;

use crate::{client::check_uri, start::Start};

pub(super) const FIELDS: &[Field] = &[
    Field::new("uri", FieldType::String, "MongoDB connection string of the replica set or the mongos")
        .required()
        .secret(),
    Field::new("database", FieldType::String, "Reads this database only; the whole deployment when absent"),
    Field::new("collection", FieldType::String, "Reads this collection of `database` only"),
    Field::new(
        "start",
        FieldType::Any,
        "Where a route without a checkpoint begins: \"now\", \"oldest\" or { at = TIME }",
    )
    .default("\"now\""),
    Field::new(
        "full_document",
        FieldType::OneOf(&["default", "update-lookup", "when-available", "required"]),
        "Full documents for updates: none, as they are now, or as they were (stored images, MongoDB 6.0)",
    )
    .default("\"default\""),
    Field::new(
        "full_document_before_change",
        FieldType::OneOf(&["off", "when-available", "required"]),
        "Documents as they were before the change; needs images to be stored per collection",
    )
    .default("\"off\""),
    Field::new(
        "update_description",
        FieldType::OneOf(&["auto", "raw", "classic"]),
        "Updates as the exact diff (raw, MongoDB 6.0), as flattened paths (classic), or as the server can (auto)",
    )
    .default("\"auto\""),
    Field::new(
        "include_system",
        FieldType::Bool,
        "Also system collections, and internal events where the server shows them",
    )
    .default("false"),
    Field::new(
        "push_down",
        FieldType::Bool,
        "Whether the server evaluates what it can of the filters at the head of the route, so that the rest never comes",
    )
    .default("true"),
    Field::new("batch_size", FieldType::Integer, "The most events in one reply of the server").default("1000"),
    Field::new("await", FieldType::Duration, "How long the server waits for events before it sends an empty reply")
        .default("\"1s\""),
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FullDocument {
    #[default]
    Default,
    UpdateLookup,
    WhenAvailable,
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BeforeChange {
    #[default]
    Off,
    WhenAvailable,
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UpdateDescription {
    #[default]
    Auto,
    Raw,
    Classic,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub uri: String,
    pub database: Option<String>,
    pub collection: Option<String>,
    #[serde(default)]
    pub start: Start,
    #[serde(default)]
    pub full_document: FullDocument,
    #[serde(default)]
    pub full_document_before_change: BeforeChange,
    #[serde(default)]
    pub update_description: UpdateDescription,
    #[serde(default)]
    pub include_system: bool,
    #[serde(default = "yes")]
    pub push_down: bool,
    #[serde(default = "batch_size")]
    pub batch_size: u32,
    #[serde(default = "wait", rename = "await")]
    pub wait: Period,
}

fn yes() -> bool {
    true
}

fn batch_size() -> u32 {
    1000
}

fn wait() -> Period {
    Period(Duration::from_secs(1))
}

impl Settings {
    pub fn new(options: &Options) -> Result<Settings> {
        let s: Settings = options.parse()?;
        check_uri(&s.uri)?;
        if s.database.as_deref().is_some_and(|db| db.is_empty() || db.contains(['.', '/', '\\', ' ', '"', '$', '\0'])) {
            return Err(Error::option("database", "this cannot be the name of a database"));
        }
        match (&s.database, &s.collection) {
            (None, Some(_)) => {
                return Err(Error::option("collection", "`collection` without `database`")
                    .hint("name the database that the collection is in"));
            }
            (_, Some(coll)) if coll.is_empty() || coll.contains(['$', '\0']) => {
                return Err(Error::option("collection", "this cannot be the name of a collection"));
            }
            _ => {}
        }
        if !(1..=100_000).contains(&s.batch_size) {
            return Err(Error::option("batch_size", "`batch_size` must be between 1 and 100000"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&s.wait.0) {
            return Err(Error::option("await", "`await` must be between 10ms and 10s"));
        }
        Ok(s)
    }

    /// `database.collection`, `database`, or empty for the whole deployment.
    pub fn scope(&self) -> String {
        match (&self.database, &self.collection) {
            (Some(db), Some(coll)) => format!("{db}.{coll}"),
            (Some(db), None) => db.clone(),
            (None, _) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Result<Settings> {
        let mut all = "uri = \"mongodb://h/\"\n".to_owned();
        all.push_str(toml);
        Settings::new(&options(&all))
    }

    fn options(text: &str) -> Options {
        Options::new(text.parse().expect("TOML"))
    }

    #[test]
    fn defaults_are_those_of_the_fields() {
        let s = settings("").unwrap();
        assert_eq!((s.batch_size, s.wait.0, s.include_system), (1000, Duration::from_secs(1), false));
        assert_eq!(s.start, Start::Now);
        assert_eq!(s.scope(), "");
        assert_eq!(s.full_document, FullDocument::Default);
    }

    #[test]
    fn scopes() {
        assert_eq!(settings("database = \"a\"").unwrap().scope(), "a");
        assert_eq!(settings("database = \"a\"\ncollection = \"b.c\"").unwrap().scope(), "a.b.c");
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (toml, field) in [
            ("collection = \"b\"", "collection"),
            ("database = \"\"", "database"),
            ("database = \"a.b\"", "database"),
            ("database = \"a\"\ncollection = \"$x\"", "collection"),
            ("batch_size = 0", "batch_size"),
            ("await = \"1m\"", "await"),
            ("await = \"0\"", "await"),
        ] {
            let e = settings(toml).map(|_| ()).expect_err(toml);
            assert_eq!(e.field(), Some(field), "{toml}");
        }
        for toml in
            ["nonsense = 1", "full_document = \"x\"", "start = \"yesterday\"", "start = 5", "start = { at = \"noon\" }"]
        {
            assert!(settings(toml).is_err(), "{toml}");
        }
    }

    #[test]
    fn start_in_all_its_forms() {
        let at = |time, increment| Start::At(bson::Timestamp { time, increment });
        for (toml, want) in [
            ("\"now\"", Start::Now),
            ("\"oldest\"", Start::Oldest),
            ("{ at = 1970-01-02T00:00:00Z }", at(86400, 0)),
            ("{ at = \"1970-01-02T01:00:00.9+01:00\" }", at(86400, 0)),
            ("{ at = 86400 }", at(86400, 0)),
            ("{ at = \"86400.7\" }", at(86400, 7)),
        ] {
            assert_eq!(settings(&format!("start = {toml}")).unwrap().start, want, "{toml}");
        }
        for toml in [
            "{ at = 1970-01-02 }",
            "{ at = 1970-01-02T00:00:00 }",
            "{ at = -1 }",
            "{ from = 1 }",
            "{ at = 1, to = 2 }",
            "{}",
        ] {
            assert!(settings(&format!("start = {toml}")).is_err(), "{toml}");
        }
    }
}
