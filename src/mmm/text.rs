//! The configuration as TOML text.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Imported, Pair, Server};

/// `pairs` is `None` where nobody said what is replicated.
pub(super) fn render(servers: &[Server], pairs: Option<&Vec<Pair>>) -> Imported {
    let mut warnings = Vec::new();
    let mut out = String::from(
        "# The configuration that a configuration of MongoMultiMaster comes to (oplogue import mmm).\n\
         #\n\
         # oplogue copies deletes without echoes, whole transactions, and resolves conflicts, where MongoMultiMaster did not. It begins\n\
         # with the changes from now on, whatever MongoMultiMaster had not copied yet: stop that, compare both ends with\n\
         # `oplogue verify FILE`, and let `oplogue verify FILE --repair` make them equal.\n",
    );
    let secrets: Vec<_> = servers.iter().map(uri).collect();
    for (_, remark) in &secrets {
        if let Some(remark) = remark {
            let _ = writeln!(out, "#\n# {remark}");
        }
    }
    for (server, (uri, _)) in servers.iter().zip(&secrets) {
        let _ = write!(out, "\n[sources.{}]\ntype = \"mongo-oplog\"\nuri = {uri}\n", server.name);
    }
    if pairs.is_none() {
        warnings.push(
            "the file names the servers, but not what is replicated: that stands in local.mmm at the servers. The routes below are \
             commented out; give the output of `mmm -c FILE dump-config` with --links, or set `namespaces` and take the # away"
                .to_owned(),
        );
    }
    for (from, source) in servers.iter().enumerate() {
        for (to, peer) in servers.iter().enumerate() {
            if from == to {
                continue;
            }
            let of_link = pairs
                .map(|pairs| pairs.iter().filter(|p| p.from == source.name && p.to == peer.name).collect::<Vec<_>>());
            link(&mut out, source, peer, &secrets[to].0, of_link, &mut warnings);
        }
    }
    for warning in warnings.iter().rev() {
        out.insert_str(0, &format!("# WARNING: {warning}\n"));
    }
    Imported { text: out, warnings }
}

fn link(
    out: &mut String,
    source: &Server,
    peer: &Server,
    uri: &str,
    pairs: Option<Vec<&Pair>>,
    warnings: &mut Vec<String>,
) {
    let name = format!("{}-to-{}", source.name, peer.name);
    let mut namespaces = BTreeSet::new();
    for pair in pairs.iter().flatten() {
        let Pair { src, dst, ops, .. } = pair;
        let place = format!("{}/{src} -> {}/{dst}", source.name, peer.name);
        let all = ['i', 'u', 'd'].iter().all(|op| ops.contains(*op));
        if src != dst {
            warnings.push(format!("{place} is left out: oplogue replicates a collection under its own name only"));
        } else if !all {
            warnings.push(format!(
                "{place} is left out: of its operations only `{ops}` were replicated, and oplogue replicates all of them"
            ));
        } else if src.contains(['*', '?']) || !src.contains('.') {
            warnings.push(format!("{place} is left out: `{src}` cannot be said as a namespace"));
        } else {
            namespaces.insert(src.as_str());
        }
    }
    // Nothing of it is left, or it never was.
    if pairs.is_some() && namespaces.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "\n[sinks.{name}]\n\
         type = \"mongo-mmm\"\n\
         uri = {uri}\n\
         node = \"{}\"\n\
         peer = \"{}\"\n",
        source.name, peer.name
    );
    match pairs {
        Some(_) => {
            let all: Vec<_> = namespaces.into_iter().map(quoted).collect();
            let _ = writeln!(out, "namespaces = [{}]", all.join(", "));
        }
        None => out.push_str("# namespaces = [\"app.tasks\"]  # as they were replicated; everything without it\n"),
    }
    let mark = if pairs.is_some() { "" } else { "# " };
    let _ = write!(
        out,
        "conflicts = \"last-write\"\n\
         # The field `__mmm` in documents, as MongoMultiMaster writes it; leave both out if nothing looks at it.\n\
         stamp = \"document\"\n\
         stamp_id = \"{}\"\n\
         # MongoMultiMaster replicates no indexes, drops and renames; \"apply\" does.\n\
         ddl = \"ignore\"\n\
         ddl_drops = \"ignore\"\n\
         \n\
         {mark}[[routes]]\n\
         {mark}from = [\"{}\"]\n\
         {mark}to = [\"{name}\"]\n",
        source.id, source.name
    );
}

/// The URI as a TOML text, with a variable in the place of the password; and what to set that to.
fn uri(server: &Server) -> (String, Option<String>) {
    let Server { name, uri, .. } = server;
    // pymongo takes a host alone as well.
    let (scheme, rest) = uri.split_once("://").unwrap_or(("mongodb", uri));
    let prefix = name.to_uppercase().replace('-', "_");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else {
        if rest.contains('@') {
            // Perhaps of a password with a `/` in it, that was not percent-encoded: nobody knows where it ends.
            let whole = toml::Value::String(format!("${{{prefix}_URI}}")).to_string();
            return (whole, Some(format!("Set the variable {prefix}_URI to the URI of {name}.")));
        }
        return (quoted(&format!("{scheme}://{rest}")), None);
    };
    let (credentials, hosts) = rest.split_at(at);
    let Some((user, _)) = credentials.split_once(':') else { return (quoted(&format!("{scheme}://{rest}")), None) };
    let escaped = |text: &str| text.replace("${", "$${");
    let whole = format!("{}://{}:${{{prefix}_PASSWORD}}{}", escaped(scheme), escaped(user), escaped(hosts));
    let remark =
        format!("Set the variable {prefix}_PASSWORD to the password in the URI of {name}, percent-encoded as there.");
    (toml::Value::String(whole).to_string(), Some(remark))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}
