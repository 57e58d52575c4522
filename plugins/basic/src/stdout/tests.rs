use std::{
    io::ErrorKind::{BrokenPipe, StorageFull},
    sync::{Condvar, atomic},
};

use bson::{Binary, RawDocumentBuf, Timestamp, doc, rawdoc, spec::BinarySubtype};
use oplogue_api::{Change, Doc, ErrorKind, Namespace, Op, Txn};
use serde_json::{Value, json};

use super::*;

fn event(op: Op, ns: &str) -> Event {
    let time = Timestamp { time: 1_700_000_000, increment: 3 };
    Event { index: 2, ..Event::new(op, Namespace::new(ns), time, Doc::empty()) }
}

fn keyed(op: Op, n: i32) -> Event {
    Event { key: Some(rawdoc! {"_id": n}.into()), ..event(op, "app.orders") }
}

/// What was written, call by call.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().concat()).unwrap()
    }
}

async fn print(format: Format, events: &[Event]) -> String {
    let paper = Paper::default();
    let sink = Stdout::to(Box::new(paper.clone()), format, Some("factory".to_owned()));
    let written = sink.write(events, None).await.unwrap();
    assert!(written.failed.is_empty(), "{:?}", written.failed);
    paper.text()
}

async fn json_of(event: Event) -> Value {
    let text = print(Format::Json, &[event]).await;
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn v2(diff: bson::Document) -> Option<Change> {
    Some(Change::OplogV2(RawDocumentBuf::try_from(&diff).unwrap().into()))
}

#[tokio::test]
async fn a_line_has_its_keys_in_order_and_leaves_out_what_is_absent() {
    let lsid = Binary { subtype: BinarySubtype::Uuid, bytes: (0..16).collect() };
    let full = Event {
        after: Some(rawdoc! {"_id": 1, "n": 1.0}.into()),
        before: Some(rawdoc! {"_id": 1}.into()),
        change: v2(doc! {"u": {"n": 1.0}}),
        wall: Some(1_700_000_000_123),
        txn: Some(Arc::new(Txn { lsid: rawdoc! {"id": lsid, "uid": "x"}.into(), number: 7, replicated: false })),
        ..keyed(Op::Update, 1)
    };
    assert_eq!(
        print(Format::Json, &[full, keyed(Op::Delete, 2)]).await,
        concat!(
            r#"{"op":"update","ns":"app.orders","key":{"_id":1},"after":{"_id":1,"n":1.0},"before":{"_id":1},"#,
            r#""update":{"set":{"n":1.0}},"time":{"$timestamp":{"t":1700000000,"i":3}},"#,
            r#""wall":{"$date":"2023-11-14T22:13:20.123Z"},"#,
            r#""txn":{"lsid":"00010203-0405-0607-0809-0a0b0c0d0e0f","number":7},"id":"1700000000.3.2","source":"factory"}"#,
            "\n",
            r#"{"op":"delete","ns":"app.orders","key":{"_id":2},"#,
            r#""time":{"$timestamp":{"t":1700000000,"i":3}},"id":"1700000000.3.2","source":"factory"}"#,
            "\n"
        )
    );
    let paper = Paper::default();
    let sink = Stdout::to(Box::new(paper.clone()), Format::Json, None);
    sink.write(&[keyed(Op::Delete, 2)], None).await.unwrap();
    assert!(!paper.text().contains("source"));
}

#[tokio::test]
async fn an_update_tells_each_change_once_and_without_ambiguity() {
    let diff = doc! {
        "d": {"old": false, "x.y": false, "7": false},
        "u": {"a.b": 5, "plain": "v"},
        "sa": {"u": {"b": 6}},
        "slist": {"a": true, "l": 2, "u0": "first", "s1": {"u": {"k": 1}}},
        "s$d": {"a": true, "l": 1},
    };
    let update = json_of(Event { change: v2(diff), ..keyed(Op::Update, 1) }).await["update"].clone();
    let mut update = update;
    let mut paths = update["paths"].take();
    paths.as_array_mut().unwrap().sort_by_key(|p| p.to_string());
    assert_eq!(
        update,
        json!({
            "set": {"plain": "v", "a.b": 6, "list.0": "first", "list.1.k": 1},
            "unset": ["old"],
            "truncate": {"list": 2},
            "paths": null,
        })
    );
    assert_eq!(
        paths,
        json!([
            {"path": ["$d"], "truncate": 1},
            {"path": ["7"], "unset": true},
            {"path": ["a.b"], "set": 5},
            {"path": ["x.y"], "unset": true},
        ])
    );
}

#[tokio::test]
async fn a_dotted_name_that_repeats_is_kept_apart_as_the_server_wrote_it() {
    // Both the field `a.b` and `b` inside `a`: the server sends two members of one name.
    let mut fields = RawDocumentBuf::new();
    for (name, value) in [("a.b", 1), ("c", 2), ("a.b", 3)] {
        fields.append(bson::raw::CString::try_from(name).unwrap(), value);
    }
    let description = rawdoc! {"updatedFields": fields, "removedFields": ["gone"], "truncatedArrays": []};
    let change = Some(Change::ChangeStream(description.into()));
    assert_eq!(
        json_of(Event { change, ..keyed(Op::Update, 1) }).await["update"],
        json!({
            "set": {"c": 2},
            "unset": ["gone"],
            "paths": [{"path": "a.b", "set": 1}, {"path": "a.b", "set": 3}],
        })
    );
}

#[tokio::test]
async fn an_update_of_nothing_shows_as_such() {
    let event = Event { change: v2(doc! {}), ..keyed(Op::Update, 1) };
    assert_eq!(json_of(event).await["update"], json!({}));
}

#[tokio::test]
async fn barriers_show_their_command() {
    let of = async |op, raw: RawDocumentBuf| json_of(Event { raw: raw.into(), ..event(op, "app.orders") }).await;
    let created = of(Op::Create, rawdoc! {"op": "c", "o": {"create": "orders", "capped": true}}).await;
    assert_eq!((&created["op"], &created["detail"]), (&json!("create"), &json!({"create": "orders", "capped": true})));
    let index = rawdoc! {"operationType": "createIndexes", "o": {"wrong": 1}, "operationDescription": {"indexes": []}};
    assert_eq!(of(Op::Index, index).await["detail"], json!({"indexes": []}));
    assert_eq!(of(Op::Drop, rawdoc! {"operationType": "drop"}).await.get("detail"), None);
    let gap =
        rawdoc! {"from": Timestamp { time: 1, increment: 2 }, "to": Timestamp { time: 3, increment: 4 }, "reason": "r"};
    assert_eq!(
        of(Op::Gap, gap).await["detail"],
        json!({"from": {"$timestamp": {"t": 1, "i": 2}}, "to": {"$timestamp": {"t": 3, "i": 4}}, "reason": "r"})
    );
    assert_eq!(of(Op::DeadLetter, rawdoc! {"route": "r", "error": "e"}).await["detail"]["error"], json!("e"));
    let rename = Event {
        to: Some(Namespace::new("app.new")),
        raw: rawdoc! {"o": {"x": 1}}.into(),
        ..event(Op::Rename, "app.old")
    };
    let rename = json_of(rename).await;
    assert_eq!((&rename["to"], rename.get("detail")), (&json!("app.new"), None));
    // Documents of users may well have a field called `o`.
    let insert = Event { raw: rawdoc! {"op": "i", "o": {"_id": 1}}.into(), ..keyed(Op::Insert, 1) };
    assert_eq!(json_of(insert).await.get("detail"), None);
}

#[tokio::test]
async fn what_cannot_be_decoded_fails_alone_with_what_follows_of_its_document() {
    let paper = Paper::default();
    let sink = Stdout::to(Box::new(paper.clone()), Format::Json, None);
    let broken = Event { change: v2(doc! {"u": 5}), ..keyed(Op::Update, 1) };
    let mut bytes = rawdoc! {"_id": 3, "b": true}.into_bytes();
    let last = bytes.len() - 2;
    bytes[last] = 9;
    let damaged = Event { after: Some(Doc::new(bytes.into()).unwrap()), ..keyed(Op::Insert, 3) };
    let same_key = Event { key: Some(rawdoc! {"_id": 1.0}.into()), ..keyed(Op::Delete, 1) };
    let elsewhere = Event { ns: Namespace::new("app.others"), ..keyed(Op::Delete, 1) };
    let events = [broken, keyed(Op::Delete, 2), same_key, damaged, elsewhere, event(Op::Drop, "app.orders")];
    let failed = sink.write(&events, None).await.unwrap().failed;
    let kinds: Vec<(usize, ErrorKind)> = failed.iter().map(|f| (f.index, f.error.kind())).collect();
    assert_eq!(kinds, [(0, ErrorKind::Data), (2, ErrorKind::Transient), (3, ErrorKind::Data)]);
    let lines: Vec<Value> = paper.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let ops: Vec<_> = lines.iter().map(|l| (l["op"].as_str().unwrap(), l["ns"].as_str().unwrap())).collect();
    assert_eq!(ops, [("delete", "app.orders"), ("delete", "app.others"), ("drop", "app.orders")]);
}

#[tokio::test]
async fn a_batch_is_one_write_and_the_buffer_is_used_again() {
    let paper = Paper::default();
    let sink = Stdout::to(Box::new(paper.clone()), Format::Json, None);
    let events: Vec<Event> = (0..500).map(|n| keyed(Op::Delete, n)).collect();
    for _ in 0..3 {
        sink.write(&events, None).await.unwrap();
        assert!(sink.spare.lock().unwrap().capacity() > 500);
    }
    sink.write(&[], None).await.unwrap();
    assert_eq!(paper.0.lock().unwrap().len(), 3);
    assert_eq!(paper.text().lines().count(), 1500);
}

/// Fails after some bytes, with an error of this kind, until it is mended.
struct Breaking {
    paper: Paper,
    left: usize,
    error: io::ErrorKind,
    mended: Arc<atomic::AtomicBool>,
}

impl Write for Breaking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.mended.load(Relaxed) {
            return self.paper.write(bytes);
        }
        let n = self.left.min(bytes.len());
        self.left -= n;
        if n == 0 { Err(self.error.into()) } else { self.paper.write(&bytes[..n]) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn breaking(left: usize, error: io::ErrorKind) -> (Stdout, Paper, Arc<atomic::AtomicBool>) {
    let (paper, mended) = (Paper::default(), Arc::<atomic::AtomicBool>::default());
    let writer = Breaking { paper: paper.clone(), left, error, mended: mended.clone() };
    (Stdout::to(Box::new(writer), Format::Json, Some("factory".to_owned())), paper, mended)
}

#[tokio::test]
async fn a_closed_pipe_is_the_end_and_no_failure() {
    let (sink, _, mended) = breaking(10, BrokenPipe);
    let e = sink.write(&[keyed(Op::Delete, 1)], None).await.unwrap_err();
    assert!(e.is_ended());
    // It stays so: a reader that has gone does not come back.
    mended.store(true, Relaxed);
    assert!(sink.ping().await.unwrap_err().is_ended());
    assert!(sink.open().await.unwrap_err().is_ended());
    assert!(sink.write(&[keyed(Op::Delete, 1)], None).await.unwrap_err().is_ended());
}

#[tokio::test]
async fn a_line_that_broke_off_is_completed_before_anything_else() {
    let events: Vec<Event> = (0..20).map(|n| keyed(Op::Delete, n)).collect();
    let whole = print(Format::Json, &events).await.len();
    for left in (0..whole).step_by(7) {
        let (sink, paper, mended) = breaking(left, StorageFull);
        let e = sink.write(&events, None).await.unwrap_err();
        assert_eq!((e.kind(), e.is_ended()), (ErrorKind::Transient, false));
        assert!(sink.write(&events, None).await.is_err(), "still no room");
        mended.store(true, Relaxed);
        sink.write(&events, None).await.unwrap();
        let text = paper.text();
        let ids: Vec<i64> = text
            .lines()
            .map(|l| {
                serde_json::from_str::<Value>(l).unwrap_or_else(|e| panic!("{e}: {l}"))["key"]["_id"].as_i64().unwrap()
            })
            .collect();
        assert_eq!(ids[ids.len() - 20..], (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_a_killed_process_left_in_the_middle_of_a_line_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    for (text, expected) in [("", false), ("{}\n", false), ("{}\n{\"op\":", true), ("\n", false)] {
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        assert_eq!(output::breaks_off(&file, &path), expected, "{text:?}");
    }
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    assert!(!output::breaks_off(&null, std::path::Path::new("/dev/null")));
}

/// A pipe whose reader sleeps.
#[derive(Clone, Default)]
struct Blocked(Arc<(Mutex<bool>, Condvar)>, Paper);

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let guard = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(guard, |open| !*open).unwrap());
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_sleeps_holds_up_neither_runtime_nor_memory() {
    let pipe = Blocked::default();
    let sink = Arc::new(Stdout::to(Box::new(pipe.clone()), Format::Json, None));
    // A single-threaded runtime: were the write done on it, this test would never get to its next line. Every one is given up.
    for n in 0..10 {
        let events = [keyed(Op::Delete, n)];
        let write = sink.write(&events, None);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), write).await.is_err());
    }
    *pipe.0.0.lock().unwrap() = true;
    pipe.0.1.notify_all();
    sink.write(&[keyed(Op::Delete, 99)], None).await.unwrap();
    let text = pipe.1.text();
    // Of the ten, one was being written and one waited for its turn; the others were not kept for later.
    assert!(text.lines().count() <= 3, "{text}");
    assert!(text.lines().last().unwrap().contains("99"));
}

#[tokio::test]
async fn people_get_a_headline_and_what_changed() {
    let update = Event {
        change: v2(doc! {"d": {"note": false}, "u": {"status": "paid", "a.b": 1}, "sitems": {"a": true, "l": 3}}),
        wall: Some(1_700_000_000_120),
        ..keyed(Op::Update, 5)
    };
    let insert = Event { after: Some(rawdoc! {"_id": 6, "n": {"x": [1, "two"]}}.into()), ..keyed(Op::Insert, 6) };
    let rename = Event { to: Some(Namespace::new("app.b")), ..event(Op::Rename, "app.a") };
    assert_eq!(
        print(Format::Pretty { colour: false }, &[update, insert, rename]).await,
        r#"2023-11-14 22:13:20.120 update  app.orders {"_id":5}
  = status: "paid"
  = ["a.b"]: 1
  - note
  < items: cut to 3
2023-11-14 22:13:20.000 insert  app.orders {"_id":6}
    _id: 6
    n: {"x":[1,"two"]}
2023-11-14 22:13:20.000 rename  app.a -> app.b
"#
    );
}

#[tokio::test]
async fn colour_only_when_asked_and_no_control_characters_from_documents_ever() {
    let hostile = "\u{1b}[31m\u{9b}2J\u{7}\r";
    let insert = Event {
        after: Some(RawDocumentBuf::try_from(&doc! {hostile: hostile}).unwrap().into()),
        ns: Namespace::new(&format!("app.{hostile}")),
        ..keyed(Op::Insert, 1)
    };
    let plain = print(Format::Pretty { colour: false }, std::slice::from_ref(&insert)).await;
    assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{plain:?}");
    let coloured = print(Format::Pretty { colour: true }, &[insert]).await;
    assert!(coloured.contains("\u{1b}[32minsert"));
    let bare = ["2", "0", "32", "1"].iter().fold(coloured, |t, code| t.replace(&format!("\u{1b}[{code}m"), ""));
    assert_eq!(bare, plain);
}

#[test]
fn options() {
    let mut registry = Registry::default();
    register(&mut registry);
    let build = |text: &str| {
        let options = oplogue_api::Options::new(text.parse().unwrap());
        (registry.sinks["stdout"].build)(&oplogue_api::Context::default(), &options).map(|s| s.ordering())
    };
    assert_eq!(build("").unwrap(), Ordering::Total);
    assert!(build("format = 'pretty'").is_ok());
    assert_eq!(build("format = 'xml'").unwrap_err().kind(), ErrorKind::Operator);
    assert_eq!(build("formt = 'json'").unwrap_err().kind(), ErrorKind::Operator);
}
