//! The examples of docs/transforms.md: a configuration, and events before and after it.

use std::path::Path;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, rawdoc};
use oplogue_api::{Batch, Context, Doc, Event, Options, Position, Registry};

/// The blocks of code of a kind, with their place.
fn blocks(text: &str) -> Vec<(usize, &str, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, &str, String)> = None;
    for (i, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(kind), None) => open = Some((i + 1, kind, String::new())),
            (None, Some((.., block))) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    found
}

const TIME: Timestamp = Timestamp { time: 1_764_000_000, increment: 7 };

fn document(line: &str) -> Option<Document> {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    match Bson::try_from(value).unwrap() {
        Bson::Document(doc) => Some(doc),
        _ => None,
    }
}

#[test]
fn the_examples_do_what_they_show() {
    let mut registry = Registry::default();
    oplogue_basic::register(&mut registry);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/transforms.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = blocks(&text);
    let mut shown = Vec::new();
    for (i, (line, kind, config)) in blocks.iter().enumerate() {
        if *kind != "toml" {
            continue;
        }
        let config = config.replace("${REDACT_KEY}", "0123456789abcdef0123456789abcdef");
        let config: toml::Table = config.parse().unwrap_or_else(|e| panic!("line {line}: {e}"));
        for (name, table) in config["transforms"].as_table().unwrap() {
            let mut table = table.as_table().unwrap().clone();
            let toml::Value::String(kind) = table.remove("type").unwrap() else { panic!("{name} has no type") };
            let context = Context { name: name.clone(), source: Some("main".into()), ..Context::default() };
            let mut transform = (registry.transforms[&*kind].build)(&context, &Options::new(table))
                .unwrap_or_else(|e| panic!("line {line}: {e}"));
            let Some((at, "json", events)) = blocks.get(i + 1) else { panic!("line {line} has no events") };
            let lines: Vec<_> = events.lines().collect();
            for (n, pair) in lines.chunks(2).enumerate() {
                let mut event = document(pair[0]).unwrap();
                event.entry("time".to_owned()).or_insert(TIME.into());
                let event = Event::from_document(&Doc::from(RawDocumentBuf::try_from(&event).unwrap())).unwrap();
                let end = Position { token: rawdoc! {"n": 1}.into(), time: TIME };
                let mut batch = Batch { events: vec![event], bad: vec![], end, head: TIME, bytes: 0 };
                transform.apply(&mut batch).unwrap();
                assert!(batch.bad.is_empty(), "{}: {}", pair[0], batch.bad[0].error);
                let out = batch.events.pop().map(|event| Document::try_from(&*event.to_document()).unwrap());
                let mut wanted = document(pair[1]);
                if let Some(wanted) = &mut wanted {
                    wanted.entry("time".to_owned()).or_insert(TIME.into());
                }
                // Without the order of the event's own fields, which is no part of the format.
                let sorted = |doc: Option<Document>| {
                    let mut fields: Vec<_> = doc.unwrap_or_default().into_iter().collect();
                    fields.sort_by(|a, b| a.0.cmp(&b.0));
                    Bson::from(fields.into_iter().collect::<Document>())
                };
                let (out, wanted) = (sorted(out), sorted(wanted));
                assert_eq!(
                    out,
                    wanted,
                    "line {}\n{}\n{}",
                    at + 2 * n + 2,
                    out.clone().into_relaxed_extjson(),
                    wanted.clone().into_relaxed_extjson()
                );
            }
            assert!(lines.len() >= 4 && lines.len() % 2 == 0, "line {at} does not show two events before and after");
            shown.push(kind);
        }
    }
    let mut all: Vec<&str> = registry.transforms.keys().copied().filter(|kind| *kind != "filter").collect();
    all.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, all, "each transform has an example");
}
