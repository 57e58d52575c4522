//! The configuration: what is told of bad ones, word by word, and what good ones come to.

mod bad_keys;
mod bad_routes;
mod bad_syntax;
mod bad_values;
mod documents;
mod good;
mod groups;
mod plugin_docs;

use std::sync::Arc;

use oplogue::{
    api::{
        Batch, Checkpoint, CheckpointStore, Context, Error, Event, Field, FieldType, Finding, Interest, Options,
        Position, Registry, Result, Saved, Sink, Source, StartAt, Transform, Written, async_trait,
    },
    config::{Plan, examine},
};

struct Nothing;

#[async_trait]
impl Source for Nothing {
    async fn open(&mut self, _: StartAt<'_>, _: &Interest) -> Result<Position> {
        Err(Error::bug("not made to be opened"))
    }
    async fn next(&mut self) -> Result<Option<Batch>> {
        Ok(None)
    }
    async fn check(&mut self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Transform for Nothing {
    fn apply(&mut self, _: &mut Batch) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Sink for Nothing {
    async fn write(&self, _: &[Event], _: Option<&Position>) -> Result<Written> {
        Ok(Written::default())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl CheckpointStore for Nothing {
    async fn load(&self, _: &str) -> Result<Option<Checkpoint>> {
        Ok(None)
    }
    async fn save(&self, _: &str, _: &Checkpoint) -> Result<Saved> {
        Ok(Saved::Stored)
    }
    async fn reset(&self, _: &str, _: Option<&Position>) -> Result<()> {
        Ok(())
    }
    async fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}

const DB: &[Field] = &[
    Field::new("uri", FieldType::String, "Where the server is.").required().secret(),
    Field::new("start", FieldType::Any, "Where to begin.").default("\"now\""),
    Field::new("wait", FieldType::Duration, "How long to wait.").default("\"1s\""),
    Field::new("buffer", FieldType::Size, "How much to keep."),
    Field::new("batch", FieldType::Integer, "How many at once."),
    Field::new("mode", FieldType::OneOf(&["majority", "local"]), "What to read."),
    Field::new("tls", FieldType::Bool, "Whether to encrypt."),
];
const PICK: &[Field] = &[Field::new("namespaces", FieldType::Strings, "Which to keep.")];
const QUEUE: &[Field] = &[
    Field::new("url", FieldType::String, "Where the queue is.").required().secret(),
    Field::new("prefix", FieldType::String, "What names begin with."),
];
const REMOTE: &[Field] = &[Field::new("url", FieldType::String, "Where the store is.").required().secret()];

/// Plugins that do nothing, and a source that repeats its options in an error, as no plugin should.
fn registry() -> Registry {
    let mut r = Registry::default();
    r.source("db", "A database.", DB, |_: &Context, options: &Options| {
        let table = options.table();
        if table.get("batch").and_then(|b| b.as_integer()).is_some_and(|b| b < 1) {
            return Err(Error::option("batch", "at least one must be read at a time"));
        }
        match table.get("uri").and_then(|u| u.as_str()) {
            Some(uri) if uri.starts_with("db://") => Ok(Box::new(Nothing) as Box<dyn Source>),
            uri => Err(Error::option("uri", format!("`{}` does not begin with db://", uri.unwrap_or("")))
                .hint(format!("write db://, not {}", uri.unwrap_or("")))),
        }
    });
    r.transform("pick", "Keeps some.", PICK, |_, _| Ok(Box::new(Nothing)));
    r.transform("filter", "Keeps some.", PICK, |_, _| Ok(Box::new(Nothing)));
    r.sink("queue", "A queue.", QUEUE, |_, _| Ok(Arc::new(Nothing)));
    r.sink("print", "The terminal.", &[], |_, _| Ok(Arc::new(Nothing)));
    r.store("file", "Files.", &[], |_, _| Ok(Arc::new(Nothing)));
    r.store("remote", "A server.", REMOTE, |_, _| Ok(Arc::new(Nothing)));
    r
}

fn env(name: &str) -> Option<String> {
    match name {
        "DB" => Some("db://user:hunter2@host".into()),
        "BAD_DB" => Some("http://user:hunter2@host".into()),
        "MODE" => Some("sesame".into()),
        _ => None,
    }
}

fn plan(text: &str) -> Plan {
    let loaded = examine(text, "test.toml", &env, &registry());
    loaded.plan.unwrap_or_else(|| panic!("{}", loaded.diagnostics))
}

fn told(text: &str) -> String {
    examine(text, "test.toml", &env, &registry()).diagnostics.render(false)
}

/// A sound configuration, to which bad parts are added.
const SOUND: &str = r#"
[sources.a]
type = "db"
uri = "${DB}"
[sinks.b]
type = "print"
[[routes]]
from = ["a"]
to = ["b"]
"#;

/// Asserts what is told of a text, in full.
#[track_caller]
fn expect(text: &str, diagnostics: &str) {
    let text = text.trim_start_matches('\n');
    let told = told(text);
    assert!(
        told.trim() == diagnostics.trim(),
        "--- told\n{told}\n--- expected\n{}\n",
        diagnostics.trim_start_matches('\n')
    );
}
