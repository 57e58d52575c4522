//! `oplogue test`: cases of a configuration.

use std::{fs, path::Path};

use crate::cli::{Done, run};

const CONFIG: &str = r#"
[sources.main]
type = "mongo-oplog"
uri = "mongodb://nowhere.invalid"
[transforms.app]
type = "filter"
namespaces = ["app.*", "!app.audit_*"]
[sinks.meteor]
type = "redis-oplog"
url = "redis://nowhere.invalid"
[sinks.out]
type = "stdout"
[[routes]]
from = ["main"]
via = ["app"]
to = ["meteor"]
[[routes]]
name = "all"
from = ["main"]
to = ["out"]
[[routes]]
name = "all-too"
from = ["main"]
to = ["out"]
"#;

/// `oplogue test` for these cases.
async fn test(cases: &str) -> Done {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("oplogue.toml");
    fs::write(&config, CONFIG).unwrap();
    fs::write(dir.path().join("oplogue.test.toml"), cases).unwrap();
    run(&["test", config.to_str().unwrap()]).await
}

/// The cases of the documentation.
#[tokio::test]
async fn the_example_of_the_documentation_holds() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/testing.md")).unwrap();
    let cases = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let done = test(cases).await.expect(0);
    assert_eq!(done.stdout, "✓ audits stay at home\n1 of 1 cases hold\n");
}

#[tokio::test]
async fn values_of_all_kinds_are_compared_as_mongodb_means_them() {
    test(r#"
[[case]]
name = "types"
input = [{ ns = "app.x", after = '{"_id": {"$oid": "6b06a05fb88643f1b21e0c78"}, "d": {"$date": "2026-01-31T10:00:00Z"}, "n": {"$numberDouble": "1.0"}, "x": {"$numberDecimal": "1.50"}}' }]
[[case.expect]]
sink = "meteor"
events = [{ op = "insert", key = '{"_id": {"$oid": "6b06a05fb88643f1b21e0c78"}}', after = '{"n": 1, "_id": {"$oid": "6b06a05fb88643f1b21e0c78"}, "d": {"$date": "2026-01-31T10:00:00Z"}, "x": {"$numberDecimal": "1.50"}}' }]
[[case]]
name = "dates of toml"
input = [{ ns = "app.x", after = { _id = 1, at = 2026-01-31T10:00:00Z }, wall = 2026-01-31T10:00:01Z }]
[[case.expect]]
sink = "meteor"
events = [{ after = '{"_id": 1, "at": {"$date": "2026-01-31T10:00:00Z"}}', wall = 2026-01-31T10:00:01Z }]
[[case]]
name = "barriers"
input = [{ op = "rename", ns = "app.x", to = "app.y" }, { op = "drop", ns = "app.audit_x" }]
expect = [{ sink = "meteor", events = [{ op = "rename", to = "app.y" }] }, { sink = "out", route = "all", events = [{ op = "rename" }, { op = "drop" }] }]
"#)
    .await
    .expect(0);
}

#[tokio::test]
async fn differences_and_wrong_cases_are_told() {
    let out = test(
        r#"
[[case]]
name = "other fields"
input = [{ ns = "app.x", after = { _id = 1, a = { b = [1, 2] } } }]
expect = [{ sink = "meteor", events = [{ ns = "app.y", after = { _id = 1, a = { b = [1] } } }, { op = "delete" }] }]
[[case]]
name = "nothing expected"
input = [{ ns = "app.x", after = { _id = 1 } }]
[[case]]
name = "no such sink"
input = [{ ns = "app.x", after = { _id = 1 } }]
expect = [{ sink = "metoer" }]
[[case]]
name = "two routes"
input = [{ ns = "app.x", after = { _id = 1 } }]
expect = [{ sink = "out" }]
[[case]]
name = "no namespace"
input = [{ after = { _id = 1 } }]
[[case]]
name = "no key"
input = [{ ns = "app.x", op = "delete" }]
[[case]]
name = "no update"
input = [{ ns = "app.x", op = "update", key = { _id = 1 } }]
[[case]]
name = "no operation"
input = [{ ns = "app.x", op = "upsert" }]
[[case]]
name = "no member"
input = [{ ns = "app.x", doc = {} }]
[[case]]
name = "no json"
input = [{ ns = "app.x", after = '{"_id": }' }]
[[case]]
name = "refused"
input = []
expect = [{ sink = "meteor", refused = 2 }]
"#,
    )
    .await
    .expect(1)
    .stdout;
    for told in [
        "✗ other fields\n    meteor, event 1: ns: expected \"app.y\", came \"app.x\"\n    meteor, event 1: after.a.b[1]: expected nothing, came 2\n    meteor, event 2: expected {\"op\":\"delete\"}, nothing came\n",
        "meteor: expected no event, 1 came",
        "no route leads to the sink `metoer`",
        "several routes lead to the sink `out`: all, all-too",
        "input 1: `ns` of an event is missing",
        "input 1: `key` of an event is missing",
        "input 1: `update` of an event is missing",
        "input 1: `op` of an event is no operation: it is one of insert, update",
        "input 1: `doc` of an event is no member",
        "input 1: `after` of an event is no Extended JSON: line 1, column 9",
        "meteor: expected 2 refused events, 0 were",
        "0 of 11 cases hold",
    ] {
        assert!(out.contains(told), "{told}\n--- in\n{out}");
    }
}

#[tokio::test]
async fn a_wrong_file_is_told_with_its_place() {
    for (cases, told) in [
        ("", "there are no cases"),
        ("[[case]]\nname = \"x\"\n", "missing field `input`"),
        ("[[case]]\nname = \"x\"\ninput = []\nexpct = []\n", "unknown field `expct`"),
        ("[[case]\n", "TOML parse error at line 1"),
    ] {
        let err = test(cases).await.expect(2).stderr;
        assert!(err.contains(told), "{told}: {err}");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("oplogue.toml");
    fs::write(&config, CONFIG).unwrap();
    let err = run(&["test", config.to_str().unwrap()]).await.expect(2).stderr;
    assert!(err.contains("oplogue.test.toml"), "{err}");
}
