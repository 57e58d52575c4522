//! The transform `script`, from a real MongoDB to a terminal: what it edits, and what happens when it runs wild.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{servers, unique};
use serde_json::json;

use crate::{process::Oplogue, support::source};

const SECRET: &str = "s3cr3t-m4rk";

const SCRIPT: &str = "
function transform(event) {
  const { after } = event;
  console.log(after);
  if (after?.kind === 'loop') for (;;);
  if (after?.kind === 'memory') new Uint8Array(2 ** 30);
  if (after?.kind === 'throw') throw new Error('not this one: ' + after.secret);
  if (after?.kind === 'out') return null;
  if (after) { after.n++; after.by = event.op; delete after.secret; }
  if (event.update) { event.update.set.seen = true; delete event.update.set.secret; }
  return event;
}
";

async fn runs(kind: &str, more: &str) {
    let mongo = servers::mongo().await;
    let db = unique("script");
    let mut oplogue = Oplogue::new(&format!(
        r#"
        {}
        {more}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.*"]
        [transforms.edit]
        type = "script"
        file = "edit.js"
        [sinks.out]
        type = "stdout"
        [[routes]]
        from = ["a"]
        via = ["mine", "edit"]
        to = ["out"]
        on_bad_event = "skip"
        "#,
        source(kind, &mongo.uri())
    ));
    // Beside the configuration, and not where the process runs.
    std::fs::write(oplogue.config().with_file_name("edit.js"), SCRIPT).unwrap();
    oplogue.start();

    let orders = mongo.client().await.database(&db).collection::<Document>("orders");
    let of = |id: i32, kind: &str| doc! {"_id": id, "kind": kind, "n": 5i64, "price": 2.0, "secret": SECRET};
    for (id, kind) in ["", "loop", "throw", "out", "memory", "last"].into_iter().enumerate() {
        orders.insert_one(of(id as i32, kind)).await.unwrap();
    }
    orders.update_one(doc! {"_id": 5}, doc! {"$set": {"price": 3.0, "secret": SECRET.repeat(2)}}).await.unwrap();
    // Before it is looked up, it must not be gone.
    oplogue.wait("the update", |o| o.events().iter().any(|e| e["op"] == "update"));
    orders.delete_one(doc! {"_id": 5}).await.unwrap();
    oplogue.wait("the deletion", |o| o.events().iter().any(|e| e["op"] == "delete"));

    // The first says that the collection was created.
    let events: Vec<_> = oplogue.events().into_iter().filter(|e| !e["key"].is_null()).collect();
    let ids: Vec<_> = events.iter().map(|e| (e["op"].as_str().unwrap(), e["key"]["_id"].as_i64().unwrap())).collect();
    assert_eq!(ids, [("insert", 0), ("insert", 5), ("update", 5), ("delete", 5)], "{events:?}");
    assert_eq!(events[0]["after"], json!({"_id": 0, "kind": "", "n": 6, "price": 2.0, "by": "insert"}));
    let printed = std::fs::read_to_string(oplogue.stdout()).unwrap();
    assert_eq!(events[2]["update"], json!({"set": {"price": 3.0, "seen": true}}), "{printed}");
    if !more.is_empty() {
        assert_eq!(
            (&events[2]["after"]["price"], &events[2]["after"]["by"]),
            (&json!(3.0), &json!("update")),
            "{printed}"
        );
    }
    let count = |outcome: &str| {
        let series = format!("oplogue_events_total{{outcome=\"{outcome}\",route=\"a->out\"}}");
        oplogue.metric(&series).unwrap_or_else(|| panic!("no {series}"))
    };
    assert_eq!(count("bad"), 3.0);
    assert!(oplogue.terminate().success());
    let log = oplogue.log();
    for words in
        ["longer than 100ms of CPU time", "more memory for the event than 64 MiB", "edit.js:7:", "not this one: …"]
    {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains(SECRET) && !printed.contains(SECRET), "{log}\n{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_edits_events_of_the_oplog_and_is_contained() {
    runs("mongo-oplog", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_edits_events_of_a_change_stream_and_is_contained() {
    runs("mongo-change-stream", "full_document = \"update-lookup\"").await;
}

#[test]
fn what_is_wrong_with_a_script_is_shown_in_its_file() {
    let oplogue = Oplogue::new("");
    let folder = oplogue.config().parent().unwrap().to_owned();
    let config = folder.join("wrong.toml");
    let text = "[sources.d]\ntype = \"bson-dump\"\npath = \"x\"\n[transforms.s]\ntype = \"script\"\nfile = \"wrong.js\"\n\
        [sinks.out]\ntype = \"stdout\"\n[[routes]]\nfrom = [\"d\"]\nvia = [\"s\"]\nto = [\"out\"]\n";
    std::fs::write(&config, text).unwrap();
    std::fs::write(folder.join("wrong.js"), "function transform(event) {\n  return event.;\n}\n").unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_oplogue")).arg("check").arg(&config).output().unwrap();
    let told = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{told}");
    for words in ["error: transform `s` (script): wrong.js:2:", " 2 |   return event.;\n", "wrong.toml:6:8"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}
