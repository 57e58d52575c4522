//! Reads the files of MongoMultiMaster.

use yaml_rust2::{Yaml, YamlLoader};

use super::{Pair, Server};

/// The servers, in the order of the file.
pub(super) fn servers(yaml: &str) -> Result<Vec<Server>, Vec<String>> {
    let documents = YamlLoader::load_from_str(yaml).map_err(|e| {
        let at = e.marker();
        vec![format!("line {}, column {}: this is no YAML", at.line(), at.col() + 1)]
    })?;
    let Some(all) = documents.first().and_then(Yaml::as_hash).filter(|all| !all.is_empty()) else {
        return Err(vec!["the file names no servers: it must hold `name: {id: …, uri: …}` for each of them".into()]);
    };
    let mut servers: Vec<Server> = Vec::new();
    let mut problems = Vec::new();
    for (name, server) in all {
        let Some(name) = name.as_str().filter(|name| is_name(name)) else {
            problems.push("the name of a server must be letters, digits, `-` and `_`, at most 64: rename it".into());
            continue;
        };
        let text = |field: &str| server[field].as_str().unwrap_or_default().trim().to_owned();
        let (id, uri) = (text("id"), text("uri"));
        if !is_uuid(&id) {
            problems.push(format!("server `{name}`: `id` is no UUID such as '2c88ae84-7cb9-40f7-835d-c05e981f564d'"));
        }
        if uri.is_empty() {
            problems.push(format!("server `{name}` has no `uri`"));
        }
        if let Some(twin) = servers.iter().find(|other| other.id == id.to_lowercase()) {
            problems.push(format!("the servers `{}` and `{name}` have the same `id`", twin.name));
        }
        servers.push(Server { name: name.to_owned(), id: id.to_lowercase(), uri });
    }
    if problems.is_empty() { Ok(servers) } else { Err(problems) }
}

/// What a node may be called.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

fn is_uuid(id: &str) -> bool {
    id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && id.chars().filter(|c| *c != '-').count() == 32
}

/// The output of `mmm dump-config`:
///
/// ```text
/// === server_b Replication Config
///      - test.foo <= server_a/test.foo
/// ```
pub(super) fn dump(text: &str, servers: &[Server], pairs: &mut Vec<Pair>, problems: &mut Vec<String>) {
    let mut to = None;
    let before = pairs.len();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |what: &str| format!("line {} of the output of dump-config: {what}", index + 1);
        if let Some(head) = line.strip_prefix("===") {
            to = head.split_once("Replication Config").map(|(name, _)| name.trim().to_owned());
            if let Some(name) = &to
                && !servers.iter().any(|server| server.name == *name)
            {
                problems.push(wrong(&format!("the configuration has no server `{name}`")));
            }
            continue;
        }
        let Some((to, pair)) = to.as_ref().zip(line.strip_prefix("- ")) else { continue };
        let parts = pair.split_once("<=").and_then(|(dst, source)| {
            let (from, src) = source.trim().split_once('/')?;
            Some((dst.trim(), from, src))
        });
        match parts {
            Some((dst, from, src)) if servers.iter().any(|server| server.name == from) => {
                // What this output does not say. The command line of MongoMultiMaster cannot set anything else.
                let ops = "iud".to_owned();
                pairs.push(Pair { from: from.into(), to: to.clone(), src: src.into(), dst: dst.into(), ops });
            }
            Some((_, from, _)) => problems.push(wrong(&format!("the configuration has no server `{from}`"))),
            None => problems.push(wrong("this is not `destination <= server/source`")),
        }
    }
    if pairs.len() == before && problems.is_empty() {
        problems.push("the output of dump-config holds no links".into());
    }
}

/// The documents `{_id: <id of a server>, replication: [{dst, src, ops}]}` of the collection `local.mmm` of a server.
pub(super) fn export(to: &str, text: &str, servers: &[Server], pairs: &mut Vec<Pair>, problems: &mut Vec<String>) {
    if !servers.iter().any(|server| server.name == to) {
        return problems.push(format!("--links {to}=…: the configuration has no server `{to}`"));
    }
    // JSON is YAML.
    let whole = || YamlLoader::load_from_str(text).ok().filter(|all| all.len() == 1);
    let lines = || -> Option<Vec<Yaml>> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| YamlLoader::load_from_str(line).ok()?.into_iter().next()).collect()
    };
    let documents = match text.trim_start().starts_with('[') {
        true => whole().and_then(|all| all.into_iter().next()?.into_vec()),
        false => lines(),
    };
    let Some(documents) = documents else {
        return problems.push(format!("--links {to}=…: the file is not what mongoexport writes"));
    };
    for document in &documents {
        let id = document["_id"].as_str().or_else(|| document["_id"]["$uuid"].as_str()).unwrap_or_default();
        let Some(from) = servers.iter().find(|server| server.id == id.to_lowercase()) else {
            problems.push(format!(
                "--links {to}=…: a document is about a server that the configuration does not name (with it, mmm itself fails)"
            ));
            continue;
        };
        for pair in document["replication"].as_vec().map(Vec::as_slice).unwrap_or_default() {
            let (Some(src), Some(dst)) = (pair["src"].as_str(), pair["dst"].as_str()) else {
                problems.push(format!("--links {to}=…: an entry of `replication` has no `src` and `dst`"));
                continue;
            };
            let ops = pair["ops"].as_str().unwrap_or("iud").to_owned();
            let (from, to) = (from.name.clone(), to.to_owned());
            pairs.push(Pair { from, to, src: src.into(), dst: dst.into(), ops });
        }
    }
}
