//! The configurations that people copy: the example, the documentation, and what `oplogue plugins TYPE` prints.

#[path = "../../../fuzz/checks/config.rs"]
mod fuzzed;

use std::{
    fs,
    path::{Path, PathBuf},
};

use oplogue::{
    api::Registry,
    builtin,
    config::{Level, Loaded, examine},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads with the bundled plugins, and no variables set.
fn read(text: &str, file: &str) -> Loaded {
    examine(text, file, &|_| None, &builtin::registry())
}

#[test]
fn the_example_comes_to_the_plan_that_it_describes() {
    let file = root().join("config.example.toml");
    let loaded = read(&fs::read_to_string(file).unwrap(), "config.example.toml");
    assert!(loaded.diagnostics.is_empty(), "{}", loaded.diagnostics);
    let plan = loaded.plan.unwrap();
    let routes: Vec<_> = plan.routes.iter().map(|r| (r.name.as_str(), r.source.kind, r.sink.kind)).collect();
    assert_eq!(routes, [("mongo->meteor", "mongo-oplog", "redis-oplog"), ("mongo->terminal", "mongo-oplog", "stdout")]);
    assert!(plan.routes.iter().all(|r| r.via.len() == 1));
    assert!(plan.http.is_some());
}

/// Every block marked `toml` in the documentation, with its file and line. One that is wrong on purpose is no `toml`.
fn blocks() -> Vec<(PathBuf, usize, String)> {
    let mut files = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
    }
    let mut blocks = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut block: Option<(usize, String)> = None;
        for (index, line) in text.lines().enumerate() {
            match &mut block {
                None if line.trim() == "```toml" => block = Some((index + 1, String::new())),
                None => {}
                Some(_) if line.trim() == "```" => {
                    blocks.extend(block.take().map(|(line, text)| (file.clone(), line, text)));
                }
                Some((_, text)) => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        assert!(block.is_none(), "{}: a block without its end", file.display());
    }
    blocks
}

#[test]
fn every_configuration_of_the_documentation_is_sound() {
    let blocks = blocks();
    assert!(blocks.iter().any(|(file, ..)| file.ends_with("docs/configuration.md")));
    let mut wholes = 0;
    for (file, line, text) in blocks {
        // Cases for `oplogue test`, which lie beside a configuration.
        if text.contains("[[case]]") {
            continue;
        }
        let env =
            |name: &str| Some(if name.contains("REDIS") { "redis://h:6379" } else { "mongodb://h:27017" }.to_owned());
        let name = format!("{}, block of line {line}", file.display());
        let loaded = examine(&text, &name, &env, &builtin::registry());
        // A part of a configuration may refer to what is not in it, and nothing else may be wrong.
        let is_whole = ["[sources.", "[sinks.", "[[routes]]"].iter().all(|part| text.contains(part));
        wholes += usize::from(is_whole);
        let is_sound = loaded.diagnostics.iter().all(|d| {
            d.level == Level::Warning
                || (!is_whole && d.message.starts_with("there is no s"))
                || (!is_whole && d.message.starts_with("there is no transform"))
        });
        assert!(is_sound, "{}", loaded.diagnostics);
    }
    assert!(wholes >= 3, "only {wholes} whole configurations");
}

/// The names of the keys of all of oplogue's own tables are in the documentation, with their defaults.
#[test]
fn the_documentation_knows_every_key() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let fields = oplogue::config::own_fields();
    assert!(fields.len() > 10);
    for (table, field) in fields {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}`", field.name)));
        let row = row.unwrap_or_else(|| panic!("`{}` of {table} is not in docs/configuration.md", field.name));
        if let Some(default) = field.default {
            assert!(
                row.contains(default),
                "the default of `{}` is {default}, but the documentation says\n{row}",
                field.name
            );
        }
    }
}

/// The plugins whose names are promised, each where it belongs.
#[test]
fn all_bundled_plugins_are_registered() {
    let Registry { sources, transforms, sinks, stores, tools } = builtin::registry();
    assert_eq!(
        sources.into_keys().collect::<Vec<_>>(),
        ["bson-dump", "external", "mongo-change-stream", "mongo-oplog"]
    );
    assert_eq!(
        transforms.into_keys().collect::<Vec<_>>(),
        [
            "dedupe", "enrich", "envelope", "external", "filter", "project", "redact", "rename", "sample", "script",
            "set", "unwrap"
        ]
    );
    assert_eq!(
        sinks.into_keys().collect::<Vec<_>>(),
        ["external", "file", "mongo-mmm", "null", "redis-oplog", "stdout"]
    );
    assert_eq!(stores.into_keys().collect::<Vec<_>>(), ["file", "mongo", "redis"]);
    assert_eq!(tools.into_keys().collect::<Vec<_>>(), ["conflicts", "verify"]);
}

/// The defaults that plugins tell of are values of the type they tell of: with all of them written out, a table is sound.
#[test]
fn the_defaults_of_all_plugins_are_what_they_say() {
    let registry = builtin::registry();
    let tables = (registry.sources.values().map(|p| ("sources.x", p.name, p.fields)))
        .chain(registry.transforms.values().map(|p| ("transforms.x", p.name, p.fields)))
        .chain(registry.sinks.values().map(|p| ("sinks.x", p.name, p.fields)));
    for (head, name, fields) in tables {
        let mut text = format!("[{head}]\ntype = \"{name}\"\n");
        for field in fields {
            if let Some(default) = field.default {
                text.push_str(&format!("{} = {default}\n", field.name));
            }
        }
        let loaded = read(&text, name);
        // What is required is missing, which is told at the head; nothing else may be wrong.
        let wrong: Vec<_> = loaded
            .diagnostics
            .iter()
            .filter(|d| d.level == Level::Error && d.place.as_ref().is_none_or(|p| p.line != 1))
            .map(|d| &d.message)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
    }
}

/// What the fuzzer keeps is read in every run of the tests, without the nightly compiler that the fuzzer needs.
#[test]
fn texts_of_the_corpus_come_to_a_plan_or_to_errors_that_tell_no_secret() {
    let files: Vec<_> = fs::read_dir(root().join("fuzz/corpus/config")).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 10, "{}", files.len());
    for file in files {
        fuzzed::check(&fs::read_to_string(file).unwrap());
    }
}

/// The example of docs/filter.md: the place is inside of the query.
#[test]
fn what_is_wrong_with_a_query_is_shown_where_it_is() {
    let text = r#"[transforms.paid]
type       = "filter"
namespaces = ["shop.orders"]
after      = { "$or" = [{ price = { "$gtt" = 100 } }, { status = "paid" }] }
"#;
    let told = read(text, "oplogue.toml").diagnostics.to_string();
    let expected = told.split("\n\n").next().unwrap();
    let page = fs::read_to_string(root().join("docs/filter.md")).unwrap();
    assert!(page.contains(expected), "docs/filter.md does not show\n{expected}");
    assert!(expected.contains("did you mean `$gt`?"), "{expected}");
}

/// The example of docs/cli.md, and what is not warned of.
#[test]
fn a_chain_that_cannot_do_what_it_says_is_told() {
    let page = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let section = page.split("### Chains that cannot do what they say").nth(1).unwrap();
    let block = |kind: &str| section.split(&format!("```{kind}\n")).nth(1).and_then(|b| b.split("```").next()).unwrap();
    let told = read(block(""), "oplogue.toml").diagnostics.to_string();
    assert_eq!(told.trim_end(), block("text").trim_end(), "--- told\n{told}");

    let warned = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let loaded = read(&text.replace(from, to), "oplogue.toml");
        assert!(loaded.plan.is_some(), "warnings are no errors: {}", loaded.diagnostics);
        loaded.diagnostics.to_string().matches("warning:").count()
    };
    let text = block("");
    let all = warned(text, "", "");
    assert_eq!(all, 4);
    // Each mended.
    for (from, to) in [
        ("fields = [\"mail\"]", "fields = [\"email\"]"),
        ("before = { total", "after = { total"),
        ("include = [\"total\"]", "include = [\"total\", \"state\"]"),
        ("namespaces = [\"crm.*\"]", "namespaces = [\"*.orders\"]"),
        ("namespaces = [\"crm.*\"]", "namespaces = ['/c.*/']"),
    ] {
        assert_eq!(warned(text, from, to), all - 1, "{to}");
    }
    // Only some collections were edited before, or nobody knows which.
    assert_eq!(warned(text, "type   = \"rename\"", "type   = \"rename\"\nnamespaces = [\"shop.x\"]"), all - 1);
    let renamed = "type   = \"rename\"\ncollections = [{ from = \"shop.*\", to = \"crm.*\" }]";
    assert_eq!(warned(text, "type   = \"rename\"", renamed), all - 1, "they may have these names now");
}
