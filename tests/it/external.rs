//! Children in Python and Node on a real route, killed under load; and the kit from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use oplogue_testkit::{servers, unique};
use serde_json::Value;

use crate::{process::Oplogue, support::source, writer::Writer};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/plugins").join(name)
}

/// The processes that run this example for this test, by the folder in their environment.
fn children(example: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let has = |bytes: Vec<u8>, text: &str| String::from_utf8_lossy(&bytes).contains(text);
        if has(read("cmdline"), example) && has(read("environ"), mark) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

fn delivered(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line of a child that was killed may be half there.
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The number of a change, which is in the name of the field that it sets.
fn number(event: &Value) -> Option<u64> {
    let diff = &event["change"]["diff"];
    [&event["after"], &diff["i"], &diff["u"]]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|fields| fields.keys())
        .find_map(|name| name.strip_prefix('n')?.parse().ok())
}

/// kill -9 of the transform's child and of the sink's, again and again while a writer writes: nothing is lost, and the first
/// sight of each number is in order per key.
#[tokio::test(flavor = "multi_thread")]
async fn children_killed_under_load_lose_nothing() {
    let db = unique("external");
    let mongo = servers::mongo().await;
    let mut oplogue = Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.c"]
        operations = ["insert", "update", "replace"]
        [transforms.redact]
        type = "external"
        command = ["python3", {:?}]
        encoding = "json"
        restarts = 0
        options = {{ fields = ["nothing"] }}
        env = {{ MARK = "{db}" }}
        [sinks.append]
        type = "external"
        command = ["node", {:?}]
        encoding = "json"
        restarts = 0
        options = {{ path = "@OUT@" }}
        env = {{ MARK = "{db}" }}
        [[routes]]
        name = "children"
        from = ["a"]
        via = ["mine", "redact"]
        to = ["append"]
        checkpoint = "file"
        [engine]
        checkpoint_interval = "100ms"
        "#,
        source("mongo-oplog", &mongo.uri()),
        example("redact.py"),
        example("append.mjs"),
    ));
    let out = oplogue.dir.path().join("out.jsonl");
    let config = fs::read_to_string(oplogue.config()).unwrap().replace("@OUT@", &out.display().to_string());
    fs::write(oplogue.config(), config).unwrap();
    oplogue.start();
    let writer = Writer::start(mongo.client().await, &db).await;
    let mut killed = 0;
    for round in 0..6 {
        let program = ["redact.py", "append.mjs"][round % 2];
        let mark = format!("MARK={db}");
        let before = delivered(&out).len();
        oplogue.wait("delivering", |_| delivered(&out).len() > before && !children(program, &mark).is_empty());
        for pid in children(program, &mark) {
            killed +=
                usize::from(Command::new("sh").arg("-c").arg(format!("kill -9 {pid}")).status().unwrap().success());
        }
    }
    assert!(killed >= 6, "{killed} children were killed");
    let written = writer.finish().await.acknowledged;
    oplogue.wait("caught up", |_| {
        let seen: BTreeSet<u64> = delivered(&out).iter().filter_map(number).collect();
        written.iter().all(|(_, n)| seen.contains(n))
    });
    assert!(oplogue.log().contains("the child failed"), "{}", oplogue.log());
    assert!(oplogue.terminate().success());
    assert!(children("append.mjs", &format!("MARK={db}")).is_empty(), "a child was left behind");

    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in delivered(&out) {
        let of_key = seen.entry(event["key"].to_string()).or_default();
        if let Some(n) = number(&event)
            && !of_key.contains(&n)
        {
            of_key.push(n);
        }
    }
    assert!(seen.values().all(|numbers| numbers.is_sorted()), "out of order: {seen:?}");
}

fn plugin_test(arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_oplogue")).args(["plugin", "test"]).args(arguments).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn the_kit_is_driven_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let (redact, append) = (example("redact.py"), example("append.mjs"));
    let (redact, append) = (redact.to_str().unwrap(), append.to_str().unwrap());
    let json = "encoding = \"json\"";
    let fields = "options = { fields = [\"a\"] }";
    let (code, said) = plugin_test(&["--role", "transform", "--set", json, "--set", fields, "python3", redact]);
    assert!(code == Some(0) && said.contains("✓ T7") && said.contains("7 hold, 0 violated, 0 not tested"), "{said}");

    let path = format!("options = {{ path = {:?} }}", dir.path().join("out"));
    let (code, said) = plugin_test(&["--role", "sink", "--set", json, "--set", &path, "node", append]);
    assert!(code == Some(0) && said.contains("✓ K14") && said.contains("- K1 "), "{said}");

    // One that counts: the same events give something else the second time.
    let counts = dir.path().join("counts.py");
    let text = "import json, sys\nn = 0\nfor line in sys.stdin:\n    ask = json.loads(line)\n    n += len(ask.get('events', []))\n    \
                answer = {'id': ask['id'], 'protocol': 1, 'events': [(n + i) % 2 == 0 for i, _ in enumerate(ask.get('events', []))]}\n    \
                print(json.dumps(answer), flush=True)\n";
    fs::write(&counts, text).unwrap();
    let (code, said) = plugin_test(&["--role", "transform", "--set", json, "python3", counts.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("✗ T5"), "{said}");

    let (code, said) = plugin_test(&["--role", "sink", "/no/such/program"]);
    assert!(code == Some(1) && said.contains("cannot start"), "{said}");
    let (code, said) = plugin_test(&["--role", "sink", "--set", "encoding", "python3"]);
    assert!(code == Some(2) && said.contains("--set is no TOML"), "{said}");
}

/// The blocks of a page in a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).unwrap();
    let begin = format!("\n```{language}\n");
    text.split(&begin).skip(1).map(|part| part.split("\n```").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// docs/writing-a-plugin.md, followed to the letter, as far as it goes without a server.
#[test]
fn the_page_for_newcomers_works() {
    const PAGE: &str = "writing-a-plugin.md";
    let dir = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_oplogue")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let python = blocks(PAGE, "python").remove(0);
    fs::write(dir.path().join("sink.py"), python).unwrap();
    fs::write(dir.path().join("oplogue.toml"), blocks(PAGE, "toml").remove(0)).unwrap();
    let shell = blocks(PAGE, "sh");
    let run = |script: &str| {
        let mut command = Command::new("sh");
        let out = command.arg("-ec").arg(script).current_dir(dir.path()).env("PATH", &path).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{script}\n{said}");
        said
    };
    let said = run(&shell[0]);
    assert!(said.contains("✓ K14") && said.contains(" 0 violated"), "{said}");
    assert!(fs::read_to_string(dir.path().join("test.txt")).unwrap().lines().count() > 100);
    // Without `--connect`, and without running it: that takes a server.
    let check: String = shell[1].lines().take(2).map(|line| line.replace(" --connect", "") + "\n").collect();
    assert!(check.contains("oplogue check oplogue.toml"), "{check}");
    run(&check);
    let own = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/own_plugin.rs")).unwrap();
    assert_eq!(blocks(PAGE, "rust"), [own]);
}

/// The dump of a frame in docs/external.md is that of the document beside it.
#[test]
fn the_frame_of_the_page_is_one() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/external.md")).unwrap();
    let dump = text.split("```\n12 00 00 00").nth(1).unwrap().split("```").next().unwrap();
    let bytes: Vec<u8> = format!("12 00 00 00{dump}")
        .lines()
        .flat_map(|line| line.split("  ").find(|part| !part.trim().is_empty()).unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let document = mongodb::bson::Document::from_reader(&mut bytes.as_slice()).unwrap();
    assert_eq!(document, mongodb::bson::doc! {"id": 1, "ok": true});
}
