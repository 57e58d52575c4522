//! The documentation of the plugins and the plugins themselves say the same.
//!
//! A plugin is described below a heading that names its kind and its type, such as "The sink `stdout`", with an example and,
//! if it has options, a table `| option | default | meaning |`.

use std::{collections::BTreeMap, fs, path::Path};

use oplogue::{
    api::{Field, FieldType},
    builtin,
};

/// What is below one heading, sub-headings included.
struct Section {
    place: String,
    text: String,
}

fn sections() -> Vec<(String, Section)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut files: Vec<_> = fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "md"));
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut open: Vec<(usize, String, Section)> = Vec::new();
        let mut in_block = false;
        for (index, line) in text.lines().enumerate() {
            in_block ^= line.starts_with("```");
            let level = line.len() - line.trim_start_matches('#').len();
            if level > 0 && !in_block {
                while open.last().is_some_and(|(upper, ..)| *upper >= level) {
                    found.extend(open.pop().map(|(_, heading, section)| (heading, section)));
                }
                let place = format!("{}:{}", file.display(), index + 1);
                open.push((level, line.to_lowercase(), Section { place, text: String::new() }));
            }
            for (_, _, section) in &mut open {
                section.text.push_str(line);
                section.text.push('\n');
            }
        }
        found.extend(open.into_iter().map(|(_, heading, section)| (heading, section)));
    }
    found
}

/// The rows of the tables of options: by name, the cells behind it.
fn options(text: &str) -> BTreeMap<String, (String, String)> {
    let mut rows = BTreeMap::new();
    let mut in_table = false;
    for line in text.lines() {
        if !line.starts_with('|') {
            in_table = false;
        } else if line.starts_with("| option |") {
            assert_eq!(line, "| option | default | meaning |");
            in_table = true;
        } else if in_table && !line.starts_with("|--") {
            let cells: Vec<_> = line.trim_matches('|').splitn(3, '|').map(str::trim).collect();
            let [names, default, meaning] = cells[..] else { panic!("not three cells: {line}") };
            for name in names.split(", ") {
                let name = name.trim_matches('`').to_owned();
                assert!(rows.insert(name, (default.into(), meaning.into())).is_none(), "twice: {line}");
            }
        }
    }
    rows
}

#[test]
fn every_plugin_is_documented_with_all_its_options() {
    let registry = builtin::registry();
    let of = |kind: &'static str, name: &'static str, fields: &'static [Field]| (kind, name, fields);
    let plugins = (registry.sources.values().map(|p| of("source", p.name, p.fields)))
        .chain(registry.transforms.values().map(|p| of("transform", p.name, p.fields)))
        .chain(registry.sinks.values().map(|p| of("sink", p.name, p.fields)))
        .chain(registry.stores.values().map(|p| of("checkpoint store", p.name, p.fields)));
    let sections = sections();
    let mut wrong = Vec::new();
    for (kind, name, fields) in plugins {
        let title = format!("{kind} `{name}`");
        let Some((_, section)) = sections.iter().find(|(heading, _)| heading.contains(&title)) else {
            wrong.push(format!("no heading in docs/ names the {title}"));
            continue;
        };
        let mut tell = |what: String| wrong.push(format!("{}, {title}: {what}", section.place));
        let example = if kind == "checkpoint store" { "checkpoint" } else { "type" };
        let shown = section.text.lines().any(|l| {
            l.split_once('=').is_some_and(|(key, value)| key.trim() == example && value.trim() == format!("\"{name}\""))
        });
        if !shown && name != "null" {
            tell(format!("there is no example with {example} = \"{name}\""));
        }
        let mut rows = options(&section.text);
        for field in fields {
            let Some((default, meaning)) = rows.remove(field.name) else {
                tell(format!("the option `{}` is missing", field.name));
                continue;
            };
            match (field.required, field.default) {
                (true, _) if default != "required" => tell(format!("`{}` is required", field.name)),
                (false, Some(value)) if default != format!("`{value}`") => {
                    tell(format!("the default of `{}` is `{value}`, not {default}", field.name));
                }
                (false, None) if default.is_empty() || default == "required" => {
                    tell(format!("what holds without `{}` is not told", field.name));
                }
                _ => {}
            }
            if let FieldType::OneOf(words) = field.kind {
                for word in
                    words.iter().filter(|word| !format!("{default} {meaning}").contains(&format!("`\"{word}\"`")))
                {
                    tell(format!("`{}` may be `\"{word}\"`, which is not explained", field.name));
                }
            }
            if meaning.is_empty() {
                tell(format!("`{}` is not explained", field.name));
            }
        }
        for name in rows.keys() {
            tell(format!("there is no option `{name}`"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Links between pages lead somewhere.
#[test]
fn no_link_of_the_documentation_is_dead() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md"), root.join("tests/README.md")];
    for folder in ["docs", "docs/decisions"] {
        files.extend(fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut dead = Vec::new();
    let mut links = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let aim = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let is_there = aim.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(&aim).is_ok_and(|text| text.lines().any(|l| anchor_of(l) == anchor)));
            if !is_there {
                dead.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(links > 20, "only {links} links were found");
    assert!(dead.is_empty(), "\n{}", dead.join("\n"));
}

/// The anchor that GitHub makes of a heading; nothing for other lines.
fn anchor_of(line: &str) -> String {
    if !line.starts_with('#') {
        return String::new();
    }
    let text = line.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Files, folders and tests that docs/architecture.md names in the table of invariants and behind it are there.
#[test]
fn the_architecture_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, tables) = page.split_once("## The invariants").unwrap();
    let mut code = Vec::new();
    let mut folders = vec![root.join("src"), root.join("plugins"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                code.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut gone = Vec::new();
    let mut names = 0;
    for word in tables.split('`').skip(1).step_by(2) {
        let is_test = word.matches('_').count() > 2
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
        let is_there = if is_test {
            code.iter().any(|(_, text)| text.contains(&format!("fn {word}(")))
        } else if word.ends_with(".rs") {
            code.iter().any(|(path, _)| {
                path.ends_with(&format!("/{}", word.trim_start_matches("…/").replace("api/", "api/src/")))
            })
        } else {
            continue;
        };
        names += 1;
        if !is_there {
            gone.push(word);
        }
    }
    assert!(names > 40, "only {names} names");
    assert!(gone.is_empty(), "{gone:?}");
}
