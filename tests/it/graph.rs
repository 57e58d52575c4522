//! The rules of the dependency graph (docs/architecture.md), over what cargo itself says.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DRIVERS: [&str; 2] = ["mongodb", "redis"];

#[derive(Clone, Debug, Default)]
struct Crate {
    manifest: String,
    /// Names of ordinary and build dependencies.
    normal: BTreeSet<String>,
    /// Those of them that are taken with their default features.
    whole: BTreeSet<String>,
    /// Names of dev-dependencies.
    dev: BTreeSet<String>,
}

type Graph = BTreeMap<String, Crate>;

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(Path::new(ROOT).join("Cargo.toml"))
        .output()
        .expect("cargo can be run");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

fn graph(metadata: &Value) -> Graph {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let mut graph = Graph::new();
    for package in list(&metadata["packages"]) {
        let mut found = Crate { manifest: text(&package["manifest_path"]), ..Crate::default() };
        for dependency in list(&package["dependencies"]) {
            let is_dev = dependency["kind"] == "dev";
            if !is_dev && dependency["uses_default_features"] == true {
                found.whole.insert(text(&dependency["name"]));
            }
            let kind = if is_dev { &mut found.dev } else { &mut found.normal };
            kind.insert(text(&dependency["name"]));
        }
        graph.insert(text(&package["name"]), found);
    }
    graph
}

/// Everything that is against the rules, in words.
fn violations(graph: &Graph) -> Vec<String> {
    let mut out = Vec::new();
    let siblings = |names: &BTreeSet<String>| -> BTreeSet<String> {
        names.iter().filter(|name| graph.contains_key(*name)).cloned().collect()
    };
    for (name, found) in graph {
        let (normal, dev) = (siblings(&found.normal), siblings(&found.dev));
        let mut rule = |broken: bool, what: String| {
            if broken {
                out.push(what);
            }
        };
        let only = |allowed: &[&str], names: &BTreeSet<String>| names.iter().all(|n| allowed.contains(&n.as_str()));
        match name.as_str() {
            "oplogue" => {
                // The conformance kit is a part of the program; the servers of the tests are not.
                rule(
                    found.whole.contains("oplogue-testkit"),
                    "the router needs the testkit with its servers to run".into(),
                );
                for driver in DRIVERS {
                    rule(found.normal.contains(driver), format!("the router names the driver {driver}"));
                }
            }
            "oplogue-api" => {
                rule(
                    !normal.is_empty() || !dev.is_empty(),
                    format!("the contract depends on siblings: {normal:?}{dev:?}"),
                );
                for heavy in DRIVERS.into_iter().chain(["tokio"]) {
                    rule(found.normal.contains(heavy), format!("the contract depends on {heavy}"));
                }
            }
            "oplogue-testkit" => {
                rule(!only(&["oplogue-api"], &normal), format!("the testkit depends on {normal:?}"));
                rule(!dev.is_empty(), format!("the testkit depends, for its tests, on {dev:?}"));
            }
            plugin => {
                rule(!only(&["oplogue-api"], &normal), format!("{plugin} depends on {normal:?}"));
                rule(!only(&["oplogue-testkit"], &dev), format!("{plugin} depends, for its tests, on {dev:?}"));
                for (driver, owner) in [("mongodb", "oplogue-mongo"), ("redis", "oplogue-redis")] {
                    let takes = found.normal.contains(driver) && plugin != owner;
                    rule(takes, format!("{plugin} depends on the driver {driver}"));
                }
            }
        }
    }
    out.extend(cycle(graph).map(|path| format!("a cycle: {}", path.join(" -> "))));
    out
}

/// A cycle of ordinary dependencies within the workspace, if there is one.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    fn walk<'a>(graph: &'a Graph, at: &'a str, path: &mut Vec<String>) -> bool {
        let seen = path.iter().any(|p| p == at);
        path.push(at.to_owned());
        if seen {
            return true;
        }
        let next = graph.get(at).map(|c| &c.normal);
        if next.into_iter().flatten().filter(|n| graph.contains_key(*n)).any(|n| walk(graph, n, path)) {
            return true;
        }
        path.pop();
        false
    }
    graph.keys().find_map(|start| {
        let mut path = Vec::new();
        walk(graph, start, &mut path).then_some(path)
    })
}

#[test]
fn the_graph_keeps_its_rules() {
    let graph = graph(&metadata());
    for name in [
        "oplogue",
        "oplogue-api",
        "oplogue-testkit",
        "oplogue-basic",
        "oplogue-external",
        "oplogue-mongo",
        "oplogue-redis",
        "oplogue-script",
    ] {
        assert!(graph.contains_key(name), "{name} is not in the workspace");
    }
    assert_eq!(violations(&graph), Vec::<String>::new());
}

#[test]
fn every_folder_of_plugins_is_a_crate_of_the_default_build() {
    let metadata = metadata();
    let graph = graph(&metadata);
    let ids = |key: &str| -> BTreeSet<String> {
        let list = metadata[key].as_array().unwrap_or_else(|| panic!("cargo metadata tells no {key}"));
        list.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ids("workspace_members").len(), graph.len());
    assert_eq!(ids("workspace_default_members"), ids("workspace_members"), "default-members leaves crates out");
    let listed = std::fs::read_dir(Path::new(ROOT).join("plugins")).expect("plugins/");
    for entry in listed {
        let folder = entry.expect("an entry of plugins/").path();
        let manifest = folder.join("Cargo.toml");
        if manifest.exists() {
            let known = graph.values().any(|c| Path::new(&c.manifest) == manifest);
            assert!(known, "{} is no member of the workspace", manifest.display());
        }
    }
}

#[test]
fn only_the_list_of_builtins_names_plugins() {
    fn visit(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("a folder of src") {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("src/builtin.rs") {
                let text = std::fs::read_to_string(&path).expect("source text");
                let names =
                    ["oplogue_basic::", "oplogue_external::", "oplogue_mongo::", "oplogue_redis::", "oplogue_script::"];
                let named = names.iter().filter(|name| text.contains(*name));
                found.extend(named.map(|name| format!("{} names {name}", path.display())));
            }
        }
    }
    let mut found = Vec::new();
    visit(&Path::new(ROOT).join("src"), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn broken_rules_are_noticed() {
    let good = graph(&metadata());
    let broken = |name: &str, dev: bool, dependency: &str| {
        let mut graph = good.clone();
        let found = graph.get_mut(name).expect("a crate of the workspace");
        let kind = if dev { &mut found.dev } else { &mut found.normal };
        kind.insert(dependency.to_owned());
        if !dev {
            found.whole.insert(dependency.to_owned());
        }
        violations(&graph).join("; ")
    };
    for (name, dev, dependency, words) in [
        ("oplogue-api", false, "tokio", "the contract depends on tokio"),
        ("oplogue-api", false, "mongodb", "the contract depends on mongodb"),
        ("oplogue-api", true, "oplogue-testkit", "the contract depends on siblings"),
        ("oplogue-api", false, "oplogue-basic", "a cycle"),
        ("oplogue-redis", false, "oplogue-mongo", "oplogue-redis depends on"),
        ("oplogue-redis", false, "oplogue-testkit", "oplogue-redis depends on"),
        ("oplogue-external", false, "oplogue-basic", "oplogue-external depends on"),
        ("oplogue-script", false, "oplogue-basic", "oplogue-script depends on"),
        ("oplogue-mongo", true, "oplogue-basic", "for its tests"),
        ("oplogue-basic", false, "mongodb", "depends on the driver mongodb"),
        ("oplogue-testkit", false, "oplogue-basic", "the testkit depends on"),
        ("oplogue", false, "redis", "the router names the driver redis"),
        ("oplogue", false, "oplogue-testkit", "the router needs the testkit with its servers"),
    ] {
        let said = broken(name, dev, dependency);
        assert!(said.contains(words), "{name} -> {dependency}: {said:?}");
    }
}
