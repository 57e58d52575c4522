//! Children that do what they must not: contained, and told for what it is.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bson::{Timestamp, doc, rawdoc};
use oplogue_api::{
    Batch, Context, Error, ErrorKind, Event, Interest, Op, Options, Ordering, Position, Registry, Replicated, Sink,
    Source, StartAt, Transform,
};
use oplogue_testkit::{sample, wait_for};

const TRANSIENT: ErrorKind = ErrorKind::Transient;
const OPERATOR: ErrorKind = ErrorKind::Operator;
const BUG: ErrorKind = ErrorKind::Bug;

fn registry() -> Registry {
    let mut registry = Registry::default();
    oplogue_external::register(&mut registry);
    registry
}

fn options(role: &str, what: &str, file: Option<&Path>, more: &str) -> Options {
    let child = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/children/child.py");
    let file = file.map_or(String::new(), |file| format!(", {file:?}"));
    let toml = format!("command = [\"python3\", {child:?}, {role:?}, {what:?}{file}]\n{more}");
    Options::new(toml.parse().unwrap())
}

fn context() -> Context {
    Context { name: "mine".into(), ..Context::default() }
}

fn transform(what: &str, file: Option<&Path>, more: &str) -> Box<dyn Transform> {
    (registry().transforms["external"].build)(&context(), &options("transform", what, file, more)).unwrap()
}

fn sink(what: &str, file: Option<&Path>, more: &str) -> Arc<dyn Sink> {
    (registry().sinks["external"].build)(&context(), &options("sink", what, file, more)).unwrap()
}

fn source(what: &str, file: Option<&Path>, more: &str) -> Box<dyn Source> {
    (registry().sources["external"].build)(&context(), &options("source", what, file, more)).unwrap()
}

fn time(n: u32) -> Timestamp {
    Timestamp { time: n, increment: 1 }
}

/// Inserts, the n-th with the time n + 1, as the child makes them.
fn events(n: u32) -> Vec<Event> {
    (0..n).map(|i| Event { time: time(i + 1), ..sample::insert("a.b", doc! {"_id": i}) }).collect()
}

fn batch(events: Vec<Event>) -> Batch {
    let end = Position { token: rawdoc! {}.into(), time: time(1000) };
    Batch { events, bad: Vec::new(), head: end.time, end, bytes: 0 }
}

async fn transformed(what: &str, events: Vec<Event>) -> Result<Batch, Error> {
    let mut transform = transform(what, None, "timeout = '20s'");
    let mut batch = batch(events);
    transform.prepare(&batch).await?;
    transform.apply(&mut batch)?;
    Ok(batch)
}

/// A path for notes, in a folder that is gone with the first.
fn notes() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes");
    (dir, path)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn runs(pid: &str) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn what_a_transform_says_of_each_event_is_done() {
    let ids = |batch: &Batch| batch.events.iter().map(|e| e.time.time).collect::<Vec<_>>();
    assert_eq!(ids(&transformed("keep", events(3)).await.unwrap()), [1, 2, 3]);
    assert_eq!(ids(&transformed("drop-odd", events(5)).await.unwrap()), [1, 3, 5]);
    let bad = transformed("bad-third", events(7)).await.unwrap();
    assert_eq!(ids(&bad), [1, 2, 4, 5, 7]);
    let told: Vec<_> = bad.bad.iter().map(|b| (b.before, b.time.time, b.error.to_string())).collect();
    assert_eq!(told, [(2, 3, "not this one".into()), (4, 6, "not this one".into())]);
    assert_eq!(bad.bad[0].error.get_hint(), Some("leave it"));
    // What stands in the history is not the child's to say, and `raw` is gone unless it gave it.
    let mut before = events(2);
    before[1].wall = Some(7);
    for (what, raw) in [("replace", false), ("raw", true)] {
        let after = transformed(what, before.clone()).await.unwrap();
        assert_eq!((after.events[1].wall, after.events[1].after.clone()), (Some(7), before[1].after.clone()));
        assert_eq!(after.events[1].raw == before[1].raw, raw, "{what}");
    }
}

/// What an earlier transform refused is edited all the same, or a dead letter would hold what the child takes out.
#[tokio::test]
async fn bad_events_are_the_childs_too() {
    let refused = |before, event| oplogue_api::BadEvent::refused(before, event, Error::data("refused before"));
    let mut all = events(5);
    let late = all.split_off(2);
    let mut it = late.into_iter();
    let (a, b, c) = (it.next().unwrap(), it.next().unwrap(), it.next().unwrap());
    let mut batch = batch(all);
    batch.bad = vec![refused(0, a), refused(1, b), refused(2, c)];
    let mut dropping = transform("drop-odd", None, "");
    dropping.prepare(&batch).await.unwrap();
    dropping.apply(&mut batch).unwrap();
    // Of 1, 2 and then, bad, 3, 4, 5 every second is dropped.
    assert_eq!(batch.events.iter().map(|e| e.time.time).collect::<Vec<_>>(), [1]);
    assert_eq!(batch.bad.iter().map(|b| (b.before, b.time.time)).collect::<Vec<_>>(), [(0, 3), (1, 5)]);
    let mut replacing = transform("replace", None, "");
    replacing.prepare(&batch).await.unwrap();
    replacing.apply(&mut batch).unwrap();
    assert!(batch.bad.iter().all(|bad| bad.event.as_ref().is_some_and(|event| event.raw.is_empty())));
}

#[tokio::test]
async fn the_child_sees_neither_gaps_nor_nothing() {
    let mut transform = transform("drop-odd", None, "");
    let mut all = batch(vec![sample::barrier(Op::Gap, ""), sample::barrier(Op::DeadLetter, "")]);
    transform.prepare(&all).await.unwrap();
    transform.apply(&mut all).unwrap();
    assert_eq!(all.events.len(), 2);
    let mut none = batch(Vec::new());
    transform.apply(&mut none).unwrap();
    let e = transform.apply(&mut batch(events(1))).unwrap_err();
    assert_eq!(e.kind(), BUG);
}

#[tokio::test]
async fn what_no_transform_may_say_is_its_fault() {
    for (what, words) in [
        ("swap", "with the event 2.1.0, but it is 1.1.0"),
        ("foreign-id", "with the event 1000.1.0"),
        ("no-event", "an event that is none"),
        ("barrier", "by making drop of insert"),
        ("neither", "neither `event` nor `bad`, or both"),
        ("number", "neither true, false nor a document"),
        ("more", "more events than the 2"),
        ("fewer", "about 1 of the 2"),
        ("empty", "without an array `events`"),
    ] {
        let e = transformed(what, events(2)).await.unwrap_err();
        assert_eq!(e.kind(), BUG, "{what}: {e}");
        assert!(e.to_string().contains(words) && e.get_hint().is_some(), "{what}: {e}");
    }
}

/// Whatever the role: these come from below it.
#[tokio::test]
async fn every_way_to_fail_is_told_for_what_it_is() {
    for (what, kind, words) in [
        ("crash", TRANSIENT, "ended (exit status: 3)"),
        ("killed", TRANSIENT, "signal: 9"),
        ("no-stdout", TRANSIENT, "closed its stdin or stdout"),
        ("text", BUG, "more than `max_frame`"),
        ("negative", BUG, "began a message of -1 bytes"),
        ("huge", BUG, "began a message of 100000000 bytes, which is more than `max_frame` = 67108864"),
        ("half", BUG, "inside a message"),
        ("no-bson", BUG, "no BSON document"),
        ("other-id", BUG, "which was not asked"),
        ("no-id", BUG, "without the `id`"),
        ("protocol-2", OPERATOR, "version 2 of the protocol"),
        ("no-protocol", BUG, "which `protocol`"),
        ("no-hello", TRANSIENT, "ended (exit status: 7)"),
        ("error-data", ErrorKind::Data, "as told"),
        ("error-transient", TRANSIENT, "as told"),
        ("error-operator", OPERATOR, "as told"),
        ("error-other", BUG, "no known kind"),
    ] {
        let started = Instant::now();
        let sink = sink(what, None, "timeout = '100s'");
        let e = sink.write(&events(2), None).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{what}: {e}");
        assert!(e.to_string().contains(words), "{what}: {e}");
        assert!(!e.to_string().contains("secret"), "{what}: {e}");
        assert!(e.get_hint().is_some() || what.starts_with("error-"), "{what}: {e}");
        assert!(started.elapsed() < Duration::from_secs(90), "{what} was waited for");
        let e = transformed(what, events(2)).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{what}: {e}");
    }
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_when_its_time_is_up() {
    for what in ["hang", "no-stdin"] {
        let sink = sink(what, None, "timeout = '2s'");
        // Once it is asked anything, since it may take longer to start.
        let e = loop {
            let e = sink.write(&events(2), None).await.unwrap_err();
            assert_eq!(e.kind(), TRANSIENT, "{e}");
            if e.to_string().contains("write") {
                break e;
            }
        };
        assert!(what == "no-stdin" || e.to_string().contains("did not answer within 2s"), "{e}");
    }
}

#[tokio::test]
async fn one_that_talks_without_being_asked_is_found_out() {
    let sink = sink("unasked", None, "");
    // Noticed with the next question, or between two.
    let e = loop {
        if let Err(e) = sink.ping().await {
            break e;
        }
    };
    assert_eq!(e.kind(), BUG, "{e}");
    assert!(e.to_string().contains("without being asked") || e.to_string().contains("which was not asked"), "{e}");
}

#[tokio::test]
async fn accounts_that_cannot_be_are_a_fault() {
    for (what, words) in [
        ("beyond", "named event 2, which it was not sent"),
        ("before", "named event -1, which it was not sent"),
        ("twice", "not ascending"),
        ("kind", "neither transient nor data"),
        ("too-many", "accounted for more events than the 2"),
        ("negative-count", "no number of events"),
        ("empty", "without an array `failed`"),
    ] {
        let e = sink(what, None, "").write(&events(2), None).await.unwrap_err();
        assert_eq!(e.kind(), BUG, "{what}: {e}");
        assert!(e.to_string().contains(words), "{what}: {e}");
    }
}

#[tokio::test]
async fn a_child_that_failed_is_started_again() {
    for what in ["crash-once", "hang-once"] {
        let (_dir, file) = notes();
        let sink = sink(what, Some(&file), "timeout = '10s'");
        assert_eq!(sink.write(&events(2), None).await.unwrap_err().kind(), TRANSIENT);
        wait_for("the sink to work", || async { sink.write(&events(2), None).await.is_ok() }).await;
        let (_dir, file) = notes();
        let mut transform = transform(what, Some(&file), "timeout = '10s'");
        let batch = batch(events(2));
        assert_eq!(transform.prepare(&batch).await.unwrap_err().kind(), TRANSIENT);
        while transform.prepare(&batch).await.is_err() {}
    }
}

#[tokio::test]
async fn one_that_fails_again_and_again_is_given_up() {
    let sink = sink("crash", None, "restarts = 3");
    for _ in 0..3 {
        sink.ping().await.unwrap();
        assert_eq!(sink.write(&events(1), None).await.unwrap_err().kind(), TRANSIENT);
    }
    let e = sink.ping().await.unwrap_err();
    assert_eq!(e.kind(), OPERATOR);
    assert!(e.to_string().contains("failed 3 times") && e.get_hint().is_some(), "{e}");
    // Asked for once more, it is tried once more.
    sink.ping().await.unwrap();
}

#[tokio::test]
async fn no_program_is_the_operators_matter() {
    for (toml, field, words) in [
        ("command = ['/no/such/program']", "command", "No such file"),
        ("command = ['no-such-program']", "command", "No such file"),
        ("command = ['/etc/passwd']", "command", "denied"),
        ("command = ['true']\ndir = '/no/such/folder'", "dir", "no folder"),
    ] {
        let options = Options::new(toml.parse().unwrap());
        let sink = (registry().sinks["external"].build)(&context(), &options).unwrap();
        let e = sink.open().await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (OPERATOR, Some(field)), "{e}");
        assert!(e.to_string().contains(words) && e.get_hint().is_some(), "{e}");
    }
}

#[tokio::test]
async fn the_order_that_a_child_asks_for_is_kept_with_every_start() {
    let sink_total = sink("total", None, "");
    sink_total.open().await.unwrap();
    assert_eq!(sink_total.ordering(), Ordering::Total);
    let (_dir, file) = notes();
    let fickle = sink("fickle", Some(&file), "");
    fickle.open().await.unwrap();
    fickle.close().await.unwrap();
    assert!(fickle.open().await.unwrap_err().to_string().contains("another `ordering`"));
}

#[tokio::test]
async fn a_large_write_is_several_requests_in_which_a_failed_key_waits() {
    let (_dir, file) = notes();
    let large = |n: u32, key: i32| {
        let document = doc! {"_id": key, "x": "x".repeat(5 << 20)};
        Event { time: time(n + 1), ..sample::insert("a.b", document) }
    };
    let events = vec![large(0, 1), large(1, 2), large(2, 1), large(3, 3)];
    let position = Position { token: rawdoc! {}.into(), time: time(9) };
    let sink_first = sink("fail-first", Some(&file), "");
    sink_first.open().await.unwrap();
    let written = sink_first.write(&events, Some(&position)).await.unwrap();
    // Each request holds one, and each fails; the third is not sent at all, and no position goes with any.
    assert_eq!(written.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(lines(&file), ["1 False", "1 False", "1 False"]);
    fs::remove_file(&file).unwrap();
    let sink = sink("well", Some(&file), "");
    sink.write(&events, Some(&position)).await.unwrap();
    assert_eq!(lines(&file), ["1 False", "1 False", "1 False", "1 True"]);
}

#[tokio::test]
async fn a_dropped_write_is_over_before_the_next_begins() {
    let (_dir, file) = notes();
    let sink = sink("slow", Some(&file), "");
    sink.open().await.unwrap();
    for n in 1..4 {
        let _ = tokio::time::timeout(Duration::from_millis(1), sink.write(&events(n), None)).await;
    }
    sink.write(&events(9), None).await.unwrap();
    assert_eq!(lines(&file), ["1 False", "2 False", "3 False", "9 False"]);
}

#[tokio::test]
async fn the_environment_is_what_is_listed() {
    let (_dir, file) = notes();
    let sink = sink("environment", Some(&file), "env = {TOKEN = 'x'}\nstderr = 'drop'");
    sink.open().await.unwrap();
    let names = lines(&file);
    assert!(names.contains(&"TOKEN".into()) && names.contains(&"PATH".into()), "{names:?}");
    let known = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "TOKEN", "LC_CTYPE"];
    // Python and its launchers set some of their own; of ours there is nothing.
    assert!(names.iter().all(|n| known.contains(&n.as_str()) || !n.starts_with("CARGO")), "{names:?}");
}

#[tokio::test]
async fn close_ends_the_child_and_all_it_started() {
    for what in ["term", "stubborn", "orphan"] {
        let (_dir, file) = notes();
        let sink = sink(what, Some(&file), "grace = '300ms'");
        sink.open().await.unwrap();
        let pid = lines(&file)[0].clone();
        assert!(runs(&pid), "{what}");
        sink.close().await.unwrap();
        wait_for("the process to end", || async { !runs(&pid) }).await;
        assert_eq!(lines(&file).contains(&"term".into()), what == "term", "{what}");
        sink.close().await.unwrap();
    }
}

/// A transform has no `close`: it ends with its value.
#[tokio::test]
async fn a_dropped_plugin_leaves_no_process() {
    let (_dir, file) = notes();
    let mut transform = transform("orphan", Some(&file), "");
    transform.prepare(&batch(events(1))).await.unwrap();
    let pid = lines(&file)[0].clone();
    assert!(runs(&pid));
    drop(transform);
    wait_for("the process to end", || async { !runs(&pid) }).await;
}

async fn read(source: &mut dyn Source, batches: usize) -> Vec<u32> {
    let mut out = Vec::new();
    for _ in 0..batches {
        out.extend(source.next().await.unwrap().unwrap().events.iter().map(|e| e.time.time));
    }
    out
}

#[tokio::test]
async fn a_source_reads_goes_on_and_ends() {
    let mut source = source("finish", None, "");
    assert!(source.next().await.is_err(), "it is not open");
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    assert_eq!(read(&mut *source, 1).await, [1, 2]);
    let end = source.next().await.unwrap().unwrap().end;
    assert_eq!(read(&mut *source, 1).await, [5, 6]);
    assert!(source.next().await.unwrap().is_none() && source.next().await.unwrap().is_none());
    source.open(StartAt::Position(&end), &Interest::default()).await.unwrap();
    assert_eq!(read(&mut *source, 1).await, [5, 6]);
    source.close().await;
    assert!(source.next().await.is_err());
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let mut source = source("slow", None, "");
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 20 {
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(20), source.next()).await {
            got.extend(batch.unwrap().unwrap().events.iter().map(|e| e.time.time));
        }
    }
    assert_eq!(got[..20], (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_source_that_fails_is_opened_again() {
    let (_dir, file) = notes();
    let mut source = source("crash-once", Some(&file), "");
    let start = source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    assert_eq!(source.next().await.unwrap_err().kind(), TRANSIENT);
    assert!(source.next().await.is_err(), "it begins anew of its own accord");
    source.open(StartAt::Position(&start), &Interest::default()).await.unwrap();
    assert_eq!(read(&mut *source, 2).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn what_no_source_may_say_is_its_fault() {
    for (what, words) in [
        ("backward", "an `end` before"),
        ("repeat", "behind a later one or itself"),
        ("no-end", "no `end` of the form"),
        ("no-events", "without an array `events`"),
    ] {
        let mut source = source(what, None, "");
        source.open(StartAt::Configured, &Interest::default()).await.unwrap();
        let mut failed = None;
        for _ in 0..3 {
            failed = source.next().await.err();
            if failed.is_some() {
                break;
            }
        }
        let e = failed.unwrap_or_else(|| panic!("{what} was taken"));
        assert!(e.kind() == BUG && e.to_string().contains(words), "{what}: {e}");
    }
}

#[tokio::test]
async fn events_that_lack_something_are_bad_one_by_one() {
    let mut source = source("incomplete", None, "");
    source.open(StartAt::Configured, &Interest::default()).await.unwrap();
    let batch = source.next().await.unwrap().unwrap();
    assert_eq!(batch.events.iter().map(|e| e.time.time).collect::<Vec<_>>(), [1, 3]);
    assert!(batch.events.iter().all(|e| !e.raw.is_empty()));
    let told: Vec<_> = batch.bad.iter().map(|b| (b.before, b.error.to_string())).collect();
    assert_eq!(told[0], (1, "cannot read it".into()));
    assert!(told[1].0 == 1 && told[1].1.contains("`key._id`"), "{told:?}");
    assert!(told[2].0 == 2 && told[2].1.contains("`after`"), "{told:?}");
    assert!(batch.bad.iter().all(|b| b.error.kind() == ErrorKind::Data));
}

#[tokio::test]
async fn markers_need_a_source_that_knows_them() {
    let mut source = source("well", None, "");
    let e = source
        .open(StartAt::Now, &Interest { replicated: Replicated::Markers, ..Interest::default() })
        .await
        .unwrap_err();
    assert!(e.kind() == OPERATOR && e.get_hint().is_some(), "{e}");
}

#[tokio::test]
async fn check_starts_a_child_and_leaves_none() {
    let (_dir, file) = notes();
    let findings = sink("orphan", Some(&file), "").check().await;
    assert!(findings[0].what.contains("child answers, protocol 1"), "{findings:?}");
    let pid = lines(&file)[0].clone();
    wait_for("the process to end", || async { !runs(&pid) }).await;
    let findings = source("protocol-2", None, "").check().await;
    assert!(findings[0].what.contains("version 2") && findings[0].hint.is_some(), "{findings:?}");
}
