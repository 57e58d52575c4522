//! The examples of `examples/plugins` keep the contract.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bson::{Bson, Document, doc};
use oplogue_api::{Context, Event, Options, Registry, Sink, Source, Transform, async_trait};
use oplogue_testkit::{
    conformance::{self, Seen, SinkHarness, outside},
    sample,
};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/plugins").join(name)
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    oplogue_external::register(&mut registry);
    registry
}

fn options(program: &str, name: &str, options: &str) -> Options {
    let toml = format!("command = [{program:?}, {:?}]\nencoding = 'json'\noptions = {{ {options} }}", example(name));
    Options::new(toml.parse().unwrap())
}

fn context() -> Context {
    Context { name: "example".into(), ..Context::default() }
}

#[test]
fn they_are_short() {
    let mut names = 0;
    for entry in fs::read_dir(example("")).unwrap() {
        let path = entry.unwrap().path();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 40, "{} has {lines} lines", path.display());
        names += 1;
    }
    assert_eq!(names, 3);
}

#[tokio::test]
async fn the_transform_in_python_conforms_and_does_its_work() {
    let make = || -> Box<dyn Transform> {
        (registry().transforms["external"].build)(&context(), &options("python3", "redact.py", "fields = ['a']"))
            .unwrap()
    };
    assert_eq!(conformance::transform(&make).skipped_clauses(), [""; 0]);

    let time = bson::Timestamp { time: 1, increment: 1 };
    let at = |event: Event| Event { time, ..event };
    let events = vec![
        at(sample::insert("x.y", doc! {"_id": 1, "a": "secret", "b": 2})),
        at(sample::insert("x.audit", doc! {"_id": 1})),
        at(sample::update("x.y", 1, doc! {"a": "secret"})),
        at(sample::update("x.y", 1, doc! {"b": 1})),
    ];
    let end = oplogue_api::Position { token: bson::rawdoc! {}.into(), time };
    let mut batch = oplogue_api::Batch { events, bad: Vec::new(), head: time, end, bytes: 0 };
    let mut transform = make();
    transform.prepare(&batch).await.unwrap();
    transform.apply(&mut batch).unwrap();
    let after = Document::try_from(&**batch.events[0].after.as_ref().unwrap()).unwrap();
    assert_eq!(after, doc! {"_id": 1, "a": "***", "b": 2});
    assert!(batch.events[0].raw.is_empty(), "what was masked is still in `raw`");
    assert_eq!((batch.events.len(), batch.bad.len(), batch.bad[0].before), (2, 1, 1));
}

struct Append(tempfile::TempDir);

impl Append {
    fn path(&self) -> PathBuf {
        self.0.path().join("out.jsonl")
    }
}

#[async_trait]
impl SinkHarness for Append {
    async fn sink(&self) -> Arc<dyn Sink> {
        let options = options("node", "append.mjs", &format!("path = {:?}", self.path()));
        (registry().sinks["external"].build)(&context(), &options).unwrap()
    }
    async fn delivered(&self) -> Vec<Seen> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        text.lines().map(|line| seen(&line.parse::<serde_json::Value>().unwrap())).collect()
    }
    fn seen(&self, event: &Event) -> Option<Seen> {
        let event = Event { raw: oplogue_api::Doc::empty(), ..event.clone() };
        let document = Document::try_from(event.to_document().as_ref()).unwrap();
        Some(seen(&Bson::Document(document).into_canonical_extjson()))
    }
}

fn seen(event: &serde_json::Value) -> Seen {
    Seen { key: format!("{}{}", event["ns"], sorted(&event["key"])), what: sorted(event).to_string() }
}

/// JavaScript moves names that are whole numbers to the front.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(members) => {
            let mut all: Vec<_> = members.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(all.into_iter().collect())
        }
        serde_json::Value::Array(all) => all.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_in_node_conforms() {
    let report = conformance::sink(&Append(tempfile::tempdir().unwrap())).await;
    assert_eq!(report.skipped_clauses(), ["K4", "K9", "K12", "K8"]);
}

#[tokio::test]
async fn the_source_in_python_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    fs::write(&path, (0..3000).map(|i| format!("line {i} with ä\n")).collect::<String>() + "not ended").unwrap();
    let make = || -> Box<dyn Source> {
        let options = options("python3", "lines.py", &format!("path = {path:?}"));
        (registry().sources["external"].build)(&context(), &options).unwrap()
    };
    let clauses = outside::source(make).await;
    let violated: Vec<_> = clauses.iter().filter(|c| matches!(c.found, outside::Found::Violated(_))).collect();
    assert!(violated.is_empty(), "{violated:?}");
    let held: Vec<_> = clauses.iter().filter(|c| c.found == outside::Found::Holds).map(|c| c.number).collect();
    for number in ["S2", "S3", "S4", "S8", "S9", "S13", "S14", "S15", "P2", "P3"] {
        assert!(held.contains(&number), "{number}: {clauses:?}");
    }
}
