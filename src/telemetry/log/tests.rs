use std::sync::{Arc, Mutex};

use oplogue_api::ErrorKind;
use tracing::{debug, error, info, warn};

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged by `f` under a level and a format.
fn logged(level: &str, json: bool, f: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = format(json, false, move || writer.clone()).with_filter(filter(level).unwrap());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn say_all() {
    debug!(target: "oplogue::engine", "own debug");
    info!(target: "oplogue::engine", "own info");
    info!(target: "somebody_elses_plugin", "plugin info");
    info!(target: "mongodb::topology", "driver info");
    warn!(target: "mongodb::topology", "driver warn");
    error!(target: "redis", "driver error");
}

fn heard(level: &str) -> Vec<&'static str> {
    let text = logged(level, false, say_all);
    ["own debug", "own info", "plugin info", "driver info", "driver warn", "driver error"]
        .into_iter()
        .filter(|line| text.contains(line))
        .collect()
}

#[test]
fn a_level_is_for_oplogue_and_plugins_and_the_libraries_only_warn() {
    assert_eq!(heard("info"), ["own info", "plugin info", "driver warn", "driver error"]);
    assert_eq!(heard("DEBUG"), ["own debug", "own info", "plugin info", "driver warn", "driver error"]);
    assert_eq!(heard("warn"), ["driver warn", "driver error"]);
    assert_eq!(heard(" error "), ["driver error"]);
    assert_eq!(heard("off"), [""; 0]);
}

#[test]
fn a_filter_may_name_a_library() {
    assert_eq!(heard("error,mongodb=info"), ["driver info", "driver warn", "driver error"]);
    assert_eq!(heard("warn,oplogue=debug"), ["own debug", "own info", "driver warn", "driver error"]);
}

#[test]
fn what_is_no_level_is_refused_instead_of_silencing_everything() {
    for bad in ["inof", "", "info,,", "oplogue=loud", "verbose,oplogue=debug", "3"] {
        let e = check_level(bad).expect_err(bad);
        assert_eq!(e.kind(), ErrorKind::Operator, "{bad}");
        assert!(e.get_hint().is_some_and(|hint| hint.contains("debug")), "{bad}");
    }
    check_level("info,oplogue_mongo=debug").unwrap();
}

#[test]
fn json_is_one_object_a_line_with_the_fields_at_the_top() {
    let text = logged("info", true, || {
        info!(route = "a->b", tries = 3, "the source\nis open");
        warn!(error = "x\"y", "again");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["route"], &lines[0]["tries"]), (&"a->b".into(), &3.into()));
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"the source\nis open".into()));
    assert!(lines[0]["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')));
    assert_eq!(lines[1]["error"], "x\"y");
}

#[test]
fn text_holds_no_colours_unless_it_is_for_a_terminal() {
    let text = logged("info", false, || info!(route = "a", "running"));
    assert!(text.contains("INFO") && text.contains("running") && text.contains("route=\"a\""), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_panic_is_a_line_with_its_place_and_no_data() {
    // The hook is the process's: other tests that panic on purpose meanwhile only log, to their own subscribers.
    log_panics();
    let secret = String::from("zür-secret");
    let text = logged("info", true, || {
        let _ = panic::catch_unwind(|| panic!("a literal"));
        let _ = panic::catch_unwind(|| secret[..2].len());
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["message_of_panic"], "a literal");
    for line in &lines {
        assert!(line["place"].as_str().is_some_and(|place| place.contains("log/tests.rs:")), "{line}");
        assert_eq!(line["level"], "ERROR");
    }
    assert!(!text.contains("secret"), "{text}");
}
