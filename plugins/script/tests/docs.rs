//! The examples of docs/script.md: a script, and events before and after it; and the configuration that is shown.

use std::path::Path;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, rawdoc};
use oplogue_api::{Batch, Context, Doc, Event, Options, Position, Registry, Transform};

const TIME: Timestamp = Timestamp { time: 1_764_000_000, increment: 7 };

/// The blocks of code: line, language, text.
fn blocks() -> Vec<(usize, String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/script.md");
    let mut found = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for (i, line) in std::fs::read_to_string(page).unwrap().lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(kind), None) => open = Some((i + 1, kind.to_owned(), String::new())),
            (None, Some((.., block))) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    found
}

fn build(table: toml::Table, dir: &Path) -> oplogue_api::Result<Box<dyn Transform>> {
    let mut registry = Registry::default();
    oplogue_script::register(&mut registry);
    let context = Context { name: "prices".into(), config_dir: dir.to_owned(), ..Context::default() };
    (registry.transforms["script"].build)(&context, &Options::new(table))
}

fn document(line: &str) -> Option<Document> {
    match Bson::try_from(serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"))) {
        Ok(Bson::Document(document)) => Some(document),
        _ => None,
    }
}

async fn pass(script: &mut dyn Transform, line: &str) -> Option<Document> {
    let mut event = document(line).unwrap();
    event.insert("time", TIME);
    let event = Event::from_document(&Doc::from(RawDocumentBuf::try_from(&event).unwrap())).unwrap();
    let end = Position { token: rawdoc! {"n": 1}.into(), time: TIME };
    let mut batch = Batch { events: vec![event], bad: vec![], end, head: TIME, bytes: 0 };
    script.prepare(&batch).await.unwrap();
    script.apply(&mut batch).unwrap();
    if let Some(bad) = batch.bad.first() {
        return Some(bson::doc! {"bad": bad.error.to_string()});
    }
    let mut out = Document::try_from(&batch.events.first()?.to_document()).unwrap();
    out.remove("time");
    Some(out)
}

#[tokio::test]
async fn the_examples_do_what_they_show() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks();
    let (_, _, config) = blocks.iter().find(|(_, kind, text)| kind.is_empty() && text.contains("type   =")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let mut table = config["transforms"]["prices"].as_table().unwrap().clone();
    table.remove("type");
    let mut shown = 0;
    for (i, (line, kind, code)) in blocks.iter().enumerate() {
        if kind != "js" {
            continue;
        }
        std::fs::write(folder.path().join("prices.js"), code).unwrap();
        let mut script = build(table.clone(), folder.path()).unwrap_or_else(|e| panic!("line {line}: {e}"));
        let (_, kind, events) = &blocks[i + 1];
        assert_eq!(kind, "json", "line {line} has no events");
        let lines: Vec<_> = events.lines().collect();
        for pair in lines.chunks(2) {
            let out = pass(&mut *script, pair[0]).await;
            assert_eq!(out, document(pair[1]), "line {line}: {}", pair[0]);
            shown += 1;
        }
    }
    assert!(shown >= 8, "{shown}");
}

/// What `oplogue check` shows begins with what the plugin says.
#[test]
fn the_error_is_the_one_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prices.js"), "function transform(event) {\n  let x = {;\n}\n").unwrap();
    let table = "file = 'prices.js'".parse().unwrap();
    let Err(e) = build(table, folder.path()) else { panic!("it was taken") };
    let (_, _, shown) = blocks().into_iter().find(|(.., text)| text.starts_with("error: ")).unwrap();
    assert!(shown.contains(&format!("error: transform `prices` (script): {e}\n --> ")), "{e}");
}
