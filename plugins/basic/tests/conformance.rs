//! The plugin contract, held by every plugin of this crate.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc};
use oplogue_api::{
    Change, CheckpointStore, Context, Doc, Event, Interest, Namespace, Options, Path, PathPart, Position, Registry,
    Sink, Source, StartAt, Transform, async_trait,
};
use oplogue_basic::{FileStore, Format, Stdout};
use oplogue_testkit::{
    conformance::{self, Seen, SinkHarness, SourceHarness, StoreHarness},
    generate::{Step, Work},
    sample,
};
use serde_json::Value;

fn registry() -> Registry {
    let mut registry = Registry::default();
    oplogue_basic::register(&mut registry);
    registry
}

fn options(toml: &str) -> Options {
    Options::new(toml.parse().unwrap())
}

#[test]
fn the_filter_conforms() {
    // The bad entries of the kit's batches are in `kit.b`; a filter drops those of namespaces that it does not let pass.
    for toml in [
        "namespaces = ['kit.*', '!kit.a']",
        "namespaces = ['/kit\\..*/', '!/.*\\.a/']\noperations = ['insert', 'update', 'ddl']",
        "operations = ['delete', 'replace']",
        "after = { n = { '$mod' = [2, 0] } }",
        "after = { n = { '$gt' = 5 } }\nmissing = 'drop'",
        "after = '{\"n\": {\"$mod\": [3, 1]}}'\nmissing = 'error'",
        "changed = ['b', '!b.*']\nkey = { _id = { '$not' = { '$type' = 'string' } } }",
        "before = { n = 1 }\nmissing = 'error'",
    ] {
        let make = || -> Box<dyn Transform> {
            (registry().transforms["filter"].build)(&Context::default(), &options(toml)).unwrap()
        };
        assert_eq!(conformance::transform(&make).skipped_clauses(), [""; 0], "{toml}");
    }
}

#[test]
fn transforms_that_edit_conform() {
    for (kind, toml) in [
        ("redact", "fields = ['n', 'deep.a', '0.b']"),
        ("redact", "fields = ['n', '_id', 'a', 'b.0']\nmode = 'hash'\nkey = '0123456789abcdef'"),
        ("redact", "fields = ['n', 'b', 'a']\nmode = 'mask'\nnamespaces = ['kit.a']"),
        ("redact", "fields = ['n', 'b']\nempty_updates = 'drop'"),
        ("project", "include = ['b', 'deep.a']"),
        ("project", "exclude = ['n', 'b']"),
        ("project", "exclude = ['n', 'b']\nempty_updates = 'keep'"),
        ("rename", "collections = [{ from = 'kit.*', to = 'other.*_x' }]\nfields = [{ from = 'n', to = 'number' }]"),
        ("rename", "fields = [{ from = 'a', to = 'b' }]"),
        ("set", "fields = [{ field = 'a.x', value = 1 }, { field = '_meta', from = 'event' }]"),
        ("dedupe", ""),
        ("sample", "rate = 0.3"),
        ("envelope", "format = 'debezium'"),
        ("envelope", "format = 'cloudevents'\nnamespaces = ['kit.a']"),
        ("unwrap", ""),
        (
            "unwrap",
            "delete_tombstone_handling_mode = 'rewrite'\nadd_fields = ['op', 'source.ts_ms']\nflatten_struct = true",
        ),
        ("unwrap", "delete_tombstone_handling_mode = 'drop'\nmissing = 'error'"),
        ("rename", "collections = [{ from = 'kit.a', to = 'local.a' }]"),
    ] {
        let make = || -> Box<dyn Transform> {
            (registry().transforms[kind].build)(&Context::default(), &options(toml)).unwrap()
        };
        assert_eq!(conformance::transform(&make).skipped_clauses(), [""; 0], "{kind} {toml}");
    }
}

struct Folder(tempfile::TempDir);

#[async_trait]
impl StoreHarness for Folder {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(FileStore::new(self.0.path().join("state")))
    }
    async fn damage(&self, route: &str) -> bool {
        let path = self.0.path().join("state").join(format!("{route}.checkpoint.json"));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        true
    }
}

#[tokio::test]
async fn the_file_store_conforms() {
    let report = conformance::store(&Folder(tempfile::tempdir().unwrap())).await;
    // A folder is there or is not: what is wrong with it does not pass by waiting.
    assert_eq!(report.skipped_clauses(), ["C14"]);
}

/// What was printed; a full disk for as long as it is told to be.
#[derive(Clone, Default)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The changes that an update lists, in one order, wherever in the line they stand.
fn changes(update: &Value) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (path, new) in update["set"].as_object().into_iter().flatten() {
        all.push(format!("{} {new}", Value::from(path.as_str())));
    }
    for entry in update["paths"].as_array().into_iter().flatten() {
        all.push(format!("{} {}", entry["path"], entry["set"]));
    }
    all.sort();
    all
}

fn trace(line: &Value) -> Seen {
    Seen {
        key: format!("{} {}", line["ns"], line["key"]),
        what: format!("{} {} {:?}", line["op"], line["after"], changes(&line["update"])),
    }
}

fn json(doc: &RawDocument) -> Value {
    Bson::Document(Document::try_from(doc).unwrap()).into_relaxed_extjson()
}

fn json_path(path: &Path<'_>) -> Value {
    let part = |part: &PathPart<'_>| match part {
        PathPart::Field(name) => Value::from(*name),
        PathPart::Index(n) => Value::from(*n),
    };
    match path {
        Path::Exact(parts) if path.is_ambiguous() => parts.iter().map(part).collect(),
        path => Value::from(path.to_string()),
    }
}

#[async_trait]
impl SinkHarness for Paper {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Stdout::to(Box::new(self.clone()), Format::Json, None))
    }
    async fn delivered(&self) -> Vec<Seen> {
        let text = self.text.lock().unwrap().clone();
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        lines.map(|line| trace(&line.expect("every line is JSON"))).collect()
    }
    fn seen(&self, event: &Event) -> Option<Seen> {
        let mut line = serde_json::json!({"ns": event.ns.as_str(), "op": event.op.name()});
        for (name, doc) in [("key", &event.key), ("after", &event.after)] {
            if let Some(doc) = doc {
                line[name] = json(doc);
            }
        }
        if let Some(change) = &event.change {
            let update = change.decode().ok()?;
            let entry = |(path, new): &(Path<'_>, RawBsonRef<'_>)| {
                let new = Bson::try_from(*new).unwrap().into_relaxed_extjson();
                serde_json::json!({"path": json_path(path), "set": new})
            };
            line["update"] = serde_json::json!({"paths": update.set.iter().map(entry).collect::<Value>()});
        }
        Some(trace(&line))
    }
    fn undeliverable(&self, id: &Bson) -> Option<Event> {
        let change = RawDocumentBuf::try_from(&doc! {"u": 5}).unwrap();
        let event = sample::update(&self.ns(), id.clone(), doc! {"a": 1});
        Some(Event { change: Some(Change::OplogV2(change.into())), ..event })
    }
    async fn disrupt(&self) -> bool {
        self.full.store(true, Relaxed);
        true
    }
    async fn mend(&self) {
        self.full.store(false, Relaxed);
    }
}

#[tokio::test]
async fn the_stdout_sink_conforms() {
    let report = conformance::sink(&Paper::default()).await;
    // One lane, and no position of its own.
    assert_eq!(report.skipped_clauses(), ["K9", "K12"]);
}

/// A file of events.
struct Capture(tempfile::TempDir);

impl Capture {
    fn path(&self) -> PathBuf {
        self.0.path().join("events.bson")
    }
}

fn captured(event: &Event) -> Seen {
    let key = event.key.as_ref().map(|key| json(key).to_string());
    let change = event.change.as_ref().map(|change| format!("{:?}", change.decode().unwrap()));
    Seen {
        key: format!("{} {key:?}", event.ns),
        what: format!("{} {:?} {change:?}", event.op.name(), event.after.as_ref().map(|after| json(after))),
    }
}

#[async_trait]
impl SinkHarness for Capture {
    async fn sink(&self) -> Arc<dyn Sink> {
        let toml = format!("path = {:?}", self.path());
        (registry().sinks["file"].build)(&Context::default(), &options(&toml)).unwrap()
    }
    async fn delivered(&self) -> Vec<Seen> {
        let bytes = fs::read(self.path()).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while !rest.is_empty() {
            let size = i32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            let document = Doc::new(rest[..size].to_vec().into()).unwrap();
            all.push(captured(&Event::from_document(&document).unwrap()));
            rest = &rest[size..];
        }
        all
    }
    fn seen(&self, event: &Event) -> Option<Seen> {
        Some(captured(event))
    }
}

#[tokio::test]
async fn the_file_sink_conforms() {
    let report = conformance::sink(&Capture(tempfile::tempdir().unwrap())).await;
    // It refuses nothing, has one lane and no position of its own; and a disk does not fail when it is told to.
    assert_eq!(report.skipped_clauses(), ["K4", "K9", "K12", "K8"]);
}

struct Void;

#[async_trait]
impl SinkHarness for Void {
    async fn sink(&self) -> Arc<dyn Sink> {
        (registry().sinks["null"].build)(&Context::default(), &options("")).unwrap()
    }
    async fn delivered(&self) -> Vec<Seen> {
        Vec::new()
    }
    fn seen(&self, _event: &Event) -> Option<Seen> {
        None
    }
}

#[tokio::test]
async fn the_null_sink_conforms() {
    // Nothing can be seen of what it accepted, so only what it says can be tested.
    let clauses = conformance::sink::k6_an_empty_write_is_fine(&Void).await;
    assert_eq!(clauses, conformance::Tested::Holds);
    let clauses = conformance::sink::k13_ping_and_check_change_nothing(&Void).await;
    assert_eq!(clauses, conformance::Tested::Holds);
}

/// A dump that grows.
struct Dump {
    dir: tempfile::TempDir,
    time: AtomicU32,
}

impl Dump {
    fn new() -> Dump {
        let dump = Dump { dir: tempfile::tempdir().unwrap(), time: AtomicU32::new(1_700_000_000) };
        dump.append(&doc! {"op": "n", "ns": "", "o": {"msg": "new primary"}}, None);
        dump
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("oplog.bson")
    }

    /// Appends an entry, with the session of a transaction and what precedes in it, and says where it is.
    fn append(&self, entry: &Document, txn: Option<(i64, Option<&Document>)>) -> Document {
        let ts = Timestamp { time: self.time.fetch_add(1, Relaxed), increment: 1 };
        let at = doc! {"ts": ts, "t": 1_i64};
        let mut entry = entry.clone();
        entry.extend(at.clone());
        entry.insert("v", 2_i64);
        entry.insert("wall", bson::DateTime::from_millis(i64::from(ts.time) * 1000));
        if let Some((number, previous)) = txn {
            let none = doc! {"ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64};
            entry.insert("lsid", doc! {"id": "session"});
            entry.insert("txnNumber", number);
            entry.insert("prevOpTime", previous.cloned().unwrap_or(none));
        }
        let mut file = File::options().create(true).append(true).open(self.path()).unwrap();
        file.write_all(RawDocumentBuf::try_from(&entry).unwrap().as_bytes()).unwrap();
        at
    }

    fn entry(&self, step: &Step) -> Document {
        let ns = self.ns().to_string();
        let key = doc! {"_id": step.id()};
        match step {
            Step::Insert(doc) => doc! {"op": "i", "ns": ns, "o": doc, "o2": key},
            Step::Update(_, set) => doc! {"op": "u", "ns": ns, "o": {"$v": 2, "diff": {"u": set}}, "o2": key},
            Step::Replace(doc) => doc! {"op": "u", "ns": ns, "o": doc, "o2": key},
            Step::Delete(_) => doc! {"op": "d", "ns": ns, "o": key},
        }
    }
}

fn source(path: &std::path::Path) -> Box<dyn Source> {
    let toml = format!("path = {path:?}\nbatch_size = 3");
    (registry().sources["bson-dump"].build)(&Context::default(), &options(&toml)).unwrap()
}

#[async_trait]
impl SourceHarness for Dump {
    async fn source(&self) -> Box<dyn Source> {
        source(&self.path())
    }

    async fn produce(&self, work: &[Work]) {
        for (n, work) in work.iter().enumerate() {
            let steps = match work {
                Work::One(step) => {
                    self.append(&self.entry(step), None);
                    continue;
                }
                Work::Txn(steps) => steps,
            };
            // One entry for the small ones; two or three, with other entries between, for the others.
            let number = i64::from(self.time.load(Relaxed));
            let parts: Vec<&[Step]> = steps.chunks(if n % 2 == 0 { 2 } else { 100 }).collect();
            let mut previous = None;
            for (i, part) in parts.iter().enumerate() {
                let operations: Vec<Document> = part.iter().map(|step| self.entry(step)).collect();
                let o = if i + 1 == parts.len() {
                    doc! {"applyOps": operations}
                } else {
                    doc! {"applyOps": operations, "partialTxn": true}
                };
                let entry = doc! {"op": "c", "ns": "admin.$cmd", "o": o};
                previous = Some(self.append(&entry, Some((number, previous.as_ref()))));
                self.append(&doc! {"op": "n", "ns": "", "o": {"msg": "periodic noop"}}, None);
            }
        }
    }

    fn ns(&self) -> Namespace {
        Namespace::new("kit.items")
    }
    fn is_finite(&self) -> bool {
        true
    }
    async fn foreign_position(&self) -> Option<Position> {
        let other = Dump::new();
        other.append(&doc! {"op": "n", "ns": "", "o": {}}, None);
        let bytes = fs::read(other.path()).unwrap();
        // Without the first entry it is another log.
        let first = i32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        fs::write(other.path(), &bytes[first..]).unwrap();
        Some(source(&other.path()).open(StartAt::Now, &Interest::default()).await.unwrap())
    }
    async fn lost_position(&self) -> Option<Position> {
        let end = self.source().await.open(StartAt::Now, &Interest::default()).await.unwrap();
        let mut token = Document::try_from(&*end.token).unwrap();
        token.insert("offset", token.get_i64("offset").unwrap() + 1);
        Some(Position { token: RawDocumentBuf::try_from(&token).unwrap().into(), time: end.time })
    }
    async fn spoil(&self) -> bool {
        self.append(&doc! {"op": "x", "ns": self.ns().to_string(), "o": {}}, None);
        true
    }
}

#[tokio::test]
async fn the_dump_conforms() {
    let report = conformance::source(&Dump::new()).await;
    // There are no news in a file, and no connection to cut.
    assert_eq!(report.skipped_clauses(), ["S5", "S6", "S11"]);
}
