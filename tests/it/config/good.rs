//! Sound configurations, and the plans that they come to; no text makes the reading panic, and no secret is told.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use oplogue::config::{CheckpointPlan, Level, LogPlan, OnBadEvent, OnPositionLost, examine, load};
use proptest::prelude::*;

use super::{SOUND, env, plan, registry, told};

#[test]
fn the_least_has_all_defaults() {
    let plan = plan(SOUND);
    assert_eq!((plan.http, plan.log.clone()), (None, LogPlan::default()));
    assert!(plan.denylist.is_none());
    assert_eq!(plan.shutdown_grace, Duration::from_secs(10));
    assert_eq!(plan.sources.keys().collect::<Vec<_>>(), ["a"]);
    let [route] = &plan.routes[..] else { panic!("{} routes", plan.routes.len()) };
    assert_eq!((route.name.as_str(), route.source.kind, route.sink.kind), ("a->b", "db", "print"));
    assert_eq!(route.source.options.table()["uri"].as_str(), Some("db://user:hunter2@host"));
    assert_eq!(route.source.options.table().len(), 1, "`type` is no option");
    assert!(matches!(&route.checkpoint, CheckpointPlan::Sink(store) if store.kind == "file"));
    assert_eq!((route.on_position_lost, route.max_catch_up), (OnPositionLost::Stop, None));
    assert!(matches!(route.on_bad_event, OnBadEvent::Stop));
    assert_eq!((route.max_in_flight, route.lanes, route.max_batch), (4 << 20, 4, 1000));
    assert_eq!(route.checkpoint_interval, Duration::from_secs(1));
    assert_eq!(route.state_dir, Path::new("./oplogue-state"));
    assert_eq!(told(SOUND), "");
}

#[test]
fn everything_can_be_set() {
    let plan = plan(
        r#"
        [sources.a]
        type = "db"
        uri = "${NONE:-db://h}/$${x}"
        start = { at = 2026-11-21T10:00:00Z }
        wait = "2m"
        [sources.b]
        type = "db"
        uri = "db://h"
        [transforms.t]
        type = "pick"
        namespaces = "app.*"
        [transforms.u]
        type = "pick"
        [sinks.x]
        type = "print"
        [sinks.y]
        type = "queue"
        url = "queue://h"
        [sinks.dead]
        type = "print"

        [[routes]]
        name = "all"
        from = ["a", "b"]
        via = ["u", "t"]
        to = ["x", "y"]
        checkpoint = "remote"
        on_position_lost = "from-now"
        max_catch_up = "2m"
        on_bad_event = "dead-letter"
        dead_letter = "dead"
        max_in_flight = "64MiB"
        lanes = 8
        [[routes]]
        name = "one"
        from = "a"
        to = "x"
        checkpoint = "file"
        on_bad_event = "skip"

        [http]
        listen = "[::1]:9200"
        [state]
        dir = "/var/lib/oplogue"
        [state.remote]
        url = "remote://h"
        [log]
        level = "info,oplogue=debug"
        format = "json"
        [engine]
        shutdown_grace = "1m"
        max_batch = 50
        checkpoint_interval = "100ms"
        "#,
    );
    assert_eq!(plan.http.map(|h| (h.listen, h.like_oplogtoredis)), Some(("[::1]:9200".parse().unwrap(), false)));
    assert_eq!(plan.log, LogPlan { level: Some("info,oplogue=debug".into()), json: Some(true) });
    assert_eq!(plan.shutdown_grace, Duration::from_secs(60));
    let names: Vec<_> = plan.routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["all/a->x", "all/a->y", "all/b->x", "all/b->y", "one"]);
    let route = &plan.routes[0];
    assert_eq!(route.via.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["u", "t"]);
    assert_eq!(route.via[1].options.table()["namespaces"], toml::Value::from(vec!["app.*"]), "a lone text is a list");
    assert_eq!(route.source.options.table()["uri"].as_str(), Some("db://h/${x}"));
    assert!(route.source.options.table()["start"]["at"].is_datetime());
    let CheckpointPlan::Store(store) = &route.checkpoint else { panic!("with the sink") };
    assert_eq!((store.kind, store.options.table()["url"].as_str()), ("remote", Some("remote://h")));
    assert_eq!(route.on_position_lost, OnPositionLost::FromNow);
    assert_eq!(route.max_catch_up, Some(Duration::from_secs(120)));
    assert!(matches!(&route.on_bad_event, OnBadEvent::DeadLetter(sink) if sink.name == "dead"));
    assert_eq!((route.max_in_flight, route.lanes, route.max_batch), (64 << 20, 8, 50));
    assert_eq!(route.checkpoint_interval, Duration::from_millis(100));
    assert_eq!(route.state_dir, Path::new("/var/lib/oplogue"));
    assert!(matches!(plan.routes[4].on_bad_event, OnBadEvent::Skip));
    assert!(matches!(&plan.routes[4].checkpoint, CheckpointPlan::Store(store) if store.kind == "file"));
}

#[test]
fn http_without_an_address_listens_on_the_loopback() {
    assert_eq!(plan(&format!("{SOUND}[http]\n")).http.map(|h| h.listen), Some("127.0.0.1:9100".parse().unwrap()));
}

#[test]
fn the_denylist_has_its_databases_and_its_store() {
    let denylist = |text: &str| plan(&format!("{SOUND}{text}")).denylist.expect("the table is there");
    let default = denylist("[denylist]\n");
    assert_eq!((default.databases, default.store.kind), (vec!["admin".to_owned()], "file"));
    let own = denylist("[denylist]\ndatabases = []\nstore = \"remote\"\n[state.remote]\nurl = \"remote://h\"\n");
    assert_eq!((own.databases, own.store.kind), (Vec::new(), "remote"));
    let wrong = examine(&format!("{SOUND}[denylist]\nstore = \"remote\"\n"), "test.toml", &env, &registry());
    assert!(wrong.plan.is_none() && wrong.diagnostics.to_string().contains("[state.remote]"), "{}", wrong.diagnostics);
    let style = plan(&format!("{SOUND}[http]\nstyle = \"oplogtoredis\"\n")).http.unwrap();
    assert!(style.like_oplogtoredis);
}

#[test]
fn warnings_alone_leave_the_plan() {
    let text = format!("{SOUND}[sinks.c]\ntype = \"print\"\n");
    let loaded = examine(&text, "test.toml", &env, &registry());
    assert!(loaded.plan.is_some());
    assert_eq!((loaded.diagnostics.count(Level::Error), loaded.diagnostics.count(Level::Warning)), (0, 1));
    assert!(load(&text, "test.toml", &env, &registry()).is_ok());
}

/// Every way in which a line with a secret can come to be shown.
#[test]
fn no_secret_is_told() {
    let secret = "hunter2";
    let texts = [
        "[sources.a]\ntype = \"db\"\nuri = \"http://u:hunter2@h\"\n",
        "[sources.a]\ntype = \"db\"\nuri = [\"hunter2\"]\n",
        "[sources.a]\ntype = \"db\"\nuri = \"${HUNTER\" # hunter2 is not in a comment\n".split(" #").next().unwrap(),
        "[sources.a]\ntype = \"db\"\nuri = \"db://u:hunter2@${NONE}\"\n",
        "[sources.a]\ntype = \"db\"\nuri = \"${NONE:-hunter2}\"\nuri = \"hunter2\"\n",
        "[sources.a]\ntype = \"db\"\nurl = \"hunter2\"\n",
        "[sources.a]\ntype = \"bd\"\nuri = \"hunter2\"\nbatch = \"hunter2\"\n",
        "[sources.a]\nuri = \"hunter2\"\n",
        "[sources]\na = \"hunter2\"\n",
        "[sources.a]\ntype = \"db\"\nuri = \"hunter2\n",
        "[sources.a]\ntype = \"db\"\nuri = \"hunter2\\q\"\n",
        "[sources.a]\ntype = \"db\"\nuri = \"\"\"\nhunter2\\q\"\"\"\n",
        "[sources.a]\ntype = \"db\"\nuri = '''\nhunter2\n",
        "[sources.a]\ntype = \"db\"\nuri = hunter2\n",
        "[sources.a]\ntype = \"db\"\nuri == \"hunter2\"\n",
        "[sources.a]\ntype = \"db\"\nuri \"hunter2\"\n",
        "[sources.a]\ntype = \"db\"\nuri: \"hunter2\"\n",
        "[sources.a]\ntype = \"db\"\nbatch = \"x\" uri = \"hunter2\"\n",
        "[sources.a]\ntype = \"db\" \"mongodb://u:hunter2@h\"\n",
        "sources.a = { type = \"db\", uri = \"hunter2\", }}\n",
        "sources.a = { type = \"db\", uri = \"hunter2\"\n",
        "[sources]\na = { type = \"db\", batch = 0, uri = \"db://u:hunter2@h\" }\n",
        "[sources.a]\ntype = \"db\"\nuri = \"${SECRET}\"\n",
        "[sources.a]\ntype = \"db\"\nuri = \"db://h\"\nmode = \"${SECRET}\"\nbatch = \"${SECRET}\"\n",
        "[sources.a]\ntype = \"${SECRET}\"\n",
        "[[routes]]\nfrom = \"${SECRET}\"\nto = [\"${SECRET}\"]\ncheckpoint = \"${SECRET}\"\nname = \"${SECRET}!\"\n",
        "[http]\nlisten = \"${SECRET}\"\n[log]\nlevel = \"${SECRET}\"\n[engine]\nshutdown_grace = \"${SECRET}\"\n",
        "[state.remote]\nurl = { a = \"hunter2\" }\nulr = \"hunter2\"\n[state.romete]\nurl = \"hunter2\"\n",
        "password = \"hunter2\"\n[passwords]\na = \"hunter2\"\n",
        "routes = \"hunter2\"\n",
        "[[routes]]\nname = \"${SECRET}\"\nfrom = \"a\"\nto = \"b\"\n[[routes]]\nname = \"${SECRET}\"\nfrom = \"a\"\nto = \"b\"\n",
        "[[routes]]\nfrom = \"${SECRET}\"\nto = \"b\"\n[[routes]]\nname = \"x\"\nfrom = \"${SECRET}\"\nto = \"b\"\n",
        "routes = [\"hunter2\"]\n",
    ];
    let env = |name: &str| (name == "SECRET").then(|| secret.to_owned());
    for text in texts {
        let diagnostics = examine(text, "test.toml", &env, &registry()).diagnostics;
        assert!(!diagnostics.is_empty(), "nothing is told of\n{text}");
        let told = format!("{diagnostics}{diagnostics:?}");
        assert!(!told.contains(secret), "--- text\n{text}\n--- told\n{diagnostics}");
    }
}

/// Pieces that configurations are made of, so that random texts come deep into the reading.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "#",
    " ",
    "\t",
    "é",
    "漢",
    "\u{0}",
    "sources",
    "sinks",
    "transforms",
    "routes",
    "state",
    "http",
    "log",
    "engine",
    "a",
    "b",
    "type",
    "db",
    "print",
    "uri",
    "from",
    "to",
    "via",
    "name",
    "lanes",
    "max_in_flight",
    "dead_letter",
    "on_bad_event",
    "checkpoint",
    "remote",
    "sink",
    "1",
    "-1",
    "1e400",
    "0x",
    "99999999999999999999",
    "true",
    "2026-11-21",
    "\"a\"",
    "\"b\"",
    "[\"a\"]",
    "${",
    "${X}",
    "\"${DB}\"",
    "$${",
    "\\q",
    "\\u00e9",
    "[sources.a]\n",
    "[sinks.b]\n",
    "[[routes]]\n",
    "type = \"db\"\n",
];

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        examine(&text, "test.toml", &env, &registry()).diagnostics.render(true);
    }

    #[test]
    fn no_heap_of_pieces_makes_it_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        examine(&pieces.concat(), "test.toml", &env, &registry()).diagnostics.render(true);
    }

    #[test]
    fn a_damaged_configuration_has_a_plan_or_an_error(at in 0usize..SOUND.len(), with in proptest::sample::select(PIECES)) {
        let text = format!("{}{with}{}", &SOUND[..at], &SOUND[at..]);
        let loaded = examine(&text, "test.toml", &env, &registry());
        prop_assert_eq!(loaded.plan.is_some(), loaded.diagnostics.count(Level::Error) == 0);
        for d in loaded.diagnostics.iter() {
            let Some(place) = &d.place else { continue };
            prop_assert!(place.line >= 1 && place.line <= text.lines().count() + 1);
            prop_assert!(!place.excerpt.contains('\n'));
        }
    }
}

/// No work that grows with the square of the text: each of these took minutes, or more, if there were any.
#[test]
fn a_large_text_is_read_in_time() {
    let n = 30_000;
    for text in [
        "x\n".repeat(n),
        "x = [\n".repeat(n),
        "x = {\n".repeat(n),
        (0..n).map(|i| format!("k{i} = \"value {i}\"\n")).collect(),
        (0..n).map(|i| format!("[sinks.s{i}]\ntype = \"print\"\nzebra = 1\n")).collect(),
        (0..n).map(|i| format!("[sinks.s{i}]\ntype = \"zebra\"\n")).collect(),
        format!("{SOUND}{}", "x = '${NONE}' ".repeat(n)),
        format!("a = '{}'", "${NONE}".repeat(n)),
    ] {
        let begun = Instant::now();
        assert!(examine(&text, "test.toml", &env, &registry()).plan.is_none());
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?} for {:.30}", begun.elapsed(), text);
    }
}

#[test]
fn deep_nesting_is_no_way_to_end_the_process() {
    for text in [
        format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
        format!("a = {}", "{ a = ".repeat(100_000)),
        "[[a.b]]\n".repeat(20_000),
    ] {
        assert!(examine(&text, "test.toml", &env, &registry()).plan.is_none());
    }
}
