//! The options of the sink.

use oplogue_api::{ByteSize, Error, Field, FieldType, Namespace, Options, Period, Result};
use serde::Deserialize;

use super::{
    copy::{self, Initial},
    ddl::{Ddl, DdlPolicy},
    marker::Link,
    stamp::Stamp,
};
use crate::{client::check_uri, globs::Globs};

pub(super) const FIELDS: &[Field] = &[
    Field::new("uri", FieldType::String, "The deployment that is written to, as a MongoDB connection string")
        .required()
        .secret(),
    Field::new("node", FieldType::String, "The name of the deployment that the route reads")
        .required()
        .example("\"factory\""),
    Field::new("peer", FieldType::String, "The name of the deployment that is written to")
        .required()
        .example("\"cloud\""),
    Field::new(
        "namespaces",
        FieldType::Strings,
        "What is replicated: globs of `database.collection` such as \"app.*\"; everything when absent",
    ),
    Field::new(
        "conflicts",
        FieldType::OneOf(&["last-write", "priority", "merge", "stop", "origin"]),
        "Which of two concurrent writes of a document stays",
    )
    .default("\"last-write\""),
    Field::new(
        "deletes",
        FieldType::OneOf(&["rank", "win", "lose"]),
        "What a delete is worth against a concurrent write: like any write, always more, always less",
    )
    .default("\"rank\""),
    Field::new(
        "priority",
        FieldType::Strings,
        "The nodes, the one whose writes stay first; breaks ties too, and says which node merges",
    ),
    Field::new(
        "collections",
        FieldType::Any,
        "Other policies for some namespaces: a list of { namespaces, conflicts, deletes }; the first that matches holds",
    ),
    Field::new(
        "ddl",
        FieldType::OneOf(&["apply", "ignore", "stop"]),
        "What happens with new collections, indexes, collMod and views",
    )
    .default("\"apply\""),
    Field::new(
        "ddl_drops",
        FieldType::OneOf(&["apply", "ignore", "stop"]),
        "What happens with drop, dropDatabase and renames over a collection",
    )
    .default("\"apply\""),
    Field::new(
        "forward",
        FieldType::OneOf(&["none", "all"]),
        "Whether what came to the node from others goes on to the peer: in hubs, rings and chains, in all of their sinks",
    )
    .default("\"none\""),
    Field::new(
        "initial",
        FieldType::OneOf(&["none", "copy", "merge"]),
        "What happens before the first change: nothing, a copy into an empty peer, or a union of both sides",
    )
    .default("\"none\""),
    Field::new(
        "stamp",
        FieldType::OneOf(&["none", "document"]),
        "Whether documents at the peer get a field `__mmm` with origin and clock",
    )
    .default("\"none\""),
    Field::new("stamp_id", FieldType::String, "The UUID of the node for MongoMultiMaster: the field is that UUID then"),
    Field::new("tombstones", FieldType::Duration, "How long deletes are remembered: longer than the longest partition")
        .default("\"30d\""),
    Field::new(
        "window",
        FieldType::Size,
        "How much memory the writes of the peer may take that conflicts are looked for in",
    )
    .default("\"256MiB\""),
];

/// See `conflicts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Conflicts {
    #[default]
    LastWrite,
    Priority,
    Merge,
    Stop,
    Origin,
}

/// See `deletes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deletes {
    #[default]
    Rank,
    Win,
    Lose,
}

/// See `stamp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stamping {
    #[default]
    None,
    Document,
}

/// See `forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Forwarding {
    #[default]
    None,
    All,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    uri: String,
    node: String,
    peer: String,
    namespaces: Option<Vec<String>>,
    #[serde(default)]
    conflicts: Conflicts,
    #[serde(default)]
    deletes: Deletes,
    #[serde(default)]
    priority: Vec<String>,
    #[serde(default)]
    collections: Vec<Exception>,
    #[serde(default)]
    ddl: Ddl,
    #[serde(default)]
    ddl_drops: Ddl,
    #[serde(default)]
    forward: Forwarding,
    #[serde(default)]
    initial: Initial,
    #[serde(default)]
    stamp: Stamping,
    stamp_id: Option<String>,
    #[serde(default = "month")]
    tombstones: Period,
    #[serde(default = "window")]
    window: ByteSize,
}

fn month() -> Period {
    Period(std::time::Duration::from_secs(30 * 24 * 3600))
}

fn window() -> ByteSize {
    ByteSize(256 << 20)
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    namespaces: Vec<String>,
    #[serde(default)]
    conflicts: Option<Conflicts>,
    #[serde(default)]
    deletes: Option<Deletes>,
}

/// How conflicts in a namespace are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub conflicts: Conflicts,
    pub deletes: Deletes,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub uri: String,
    pub link: Link,
    pub namespaces: Option<Globs>,
    policy: Policy,
    exceptions: Vec<(Globs, Policy)>,
    /// The nodes, the one whose writes stay first.
    pub priority: Vec<String>,
    pub ddl: DdlPolicy,
    /// Whether what came to the node from others goes on to the peer.
    pub forwards: bool,
    pub initial: Initial,
    pub stamp: Option<Stamp>,
    pub tombstones: Period,
    pub window: usize,
}

impl Settings {
    pub fn new(options: &Options) -> Result<Settings> {
        let table: Table = options.parse()?;
        check_uri(&table.uri)?;
        for (field, name) in [("node", &table.node), ("peer", &table.peer)] {
            named(field, name)?;
        }
        if table.node == table.peer {
            return Err(Error::option("peer", "`node` and `peer` are the same")
                .hint("`node` names the deployment that the route reads, `peer` the one that `uri` leads to"));
        }
        for name in &table.priority {
            named("priority", name)?;
        }
        let policy = Policy { conflicts: table.conflicts, deletes: table.deletes };
        if policy.conflicts == Conflicts::Priority && table.priority.is_empty() {
            return Err(Error::option("priority", "conflicts = \"priority\" needs a list `priority`").hint(format!(
                "write priority = [\"{}\", \"{}\"], the node whose writes stay first",
                table.peer, table.node
            )));
        }
        let exceptions = table.collections.iter().map(|exception| {
            let globs = Globs::new("collections", &exception.namespaces)?;
            let conflicts = exception.conflicts.unwrap_or(policy.conflicts);
            Ok((globs, Policy { conflicts, deletes: exception.deletes.unwrap_or(policy.deletes) }))
        });
        let exceptions = exceptions.collect::<Result<_>>()?;
        let namespaces = table.namespaces.as_deref().map(|n| Globs::new("namespaces", n)).transpose()?;
        let stamp = match (table.stamp, &table.stamp_id) {
            (Stamping::Document, Some(id)) => Some(Stamp::id(id)?),
            (Stamping::Document, None) => Some(Stamp::Node(table.node.clone())),
            (Stamping::None, None) => None,
            (Stamping::None, Some(_)) => {
                return Err(Error::option("stamp_id", "`stamp_id` without stamp = \"document\" would change nothing"));
            }
        };
        let settings = Settings {
            stamp,
            uri: table.uri,
            link: Link { node: table.node, peer: table.peer },
            namespaces,
            policy,
            exceptions,
            priority: table.priority,
            ddl: DdlPolicy { changes: table.ddl, drops: table.ddl_drops },
            forwards: table.forward == Forwarding::All,
            initial: table.initial,
            tombstones: table.tombstones,
            window: usize::try_from(table.window.0).unwrap_or(usize::MAX),
        };
        settings.check_forwarding()?;
        Ok(settings)
    }

    /// Whatever way a write takes, the same one of two has to stay. That holds where a write which follows from another always has the
    /// greater rank.
    fn check_forwarding(&self) -> Result<()> {
        if !self.forwards {
            return Ok(());
        }
        let hub = "give each pair of nodes two links of their own, without `forward` (a mesh), or";
        for policy in self.exceptions.iter().map(|(_, policy)| policy).chain([&self.policy]) {
            if matches!(policy.conflicts, Conflicts::Merge | Conflicts::Priority) {
                let name = if policy.conflicts == Conflicts::Merge { "merge" } else { "priority" };
                return Err(Error::option(
                    "forward",
                    format!("forward = \"all\" and conflicts = \"{name}\" do not go together"),
                )
                .hint(format!("{hub} set conflicts = \"last-write\" (`priority` still breaks its ties)")));
            }
            if policy.deletes != Deletes::Rank {
                return Err(Error::option("forward", "forward = \"all\" needs deletes = \"rank\"")
                    .hint(format!("{hub} leave out `deletes`")));
            }
        }
        if self.stamp.is_some() {
            return Err(Error::option("forward", "forward = \"all\" and stamp = \"document\" do not go together")
                .hint("leave out `stamp`: each node would hand on the stamps of another"));
        }
        Ok(())
    }

    /// Whether a namespace is replicated; of one without a collection, whether anything of the database is.
    pub fn wants(&self, ns: &Namespace) -> bool {
        !ns.is_system() && self.namespaces.as_ref().is_none_or(|globs| globs.wants(ns))
    }

    /// Whether the node that is read wins where nothing else tells versions apart. The link back says the opposite.
    pub fn is_preferred(&self) -> bool {
        let place = |name: &str| self.priority.iter().position(|node| node == name).unwrap_or(usize::MAX);
        match place(&self.link.node).cmp(&place(&self.link.peer)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => copy::fixed_winner(&self.link),
        }
    }

    /// Whether the link leads from one to another of those who take the word of a third: it carries nothing of the namespace.
    pub fn is_between_others(&self, ns: &Namespace) -> bool {
        self.third().is_some() && self.policy(ns).conflicts == Conflicts::Merge
    }

    /// The node that merges, where it is at neither end of the link.
    pub fn third(&self) -> Option<&str> {
        let is_third = |first: &&String| **first != self.link.node && **first != self.link.peer;
        self.priority.first().filter(is_third).map(String::as_str)
    }

    /// Whether what comes always stays, everywhere.
    pub fn is_one_way(&self) -> bool {
        let is_one_way = |policy: &Policy| policy.conflicts == Conflicts::Origin;
        is_one_way(&self.policy) && self.exceptions.iter().all(|(_, policy)| is_one_way(policy))
    }

    /// Whether fields are merged anywhere.
    pub fn merges(&self) -> bool {
        let mut all = self.exceptions.iter().map(|(_, policy)| policy).chain([&self.policy]);
        all.any(|policy| policy.conflicts == Conflicts::Merge)
    }

    pub fn policy(&self, ns: &Namespace) -> Policy {
        let found = self.exceptions.iter().find(|(globs, _)| globs.matches(ns.as_str()));
        found.map_or(self.policy, |(_, policy)| *policy)
    }
}

/// Names become a part of the markers' ids and field names.
fn named(field: &str, name: &str) -> Result<()> {
    let fine =
        !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if fine {
        return Ok(());
    }
    Err(Error::option(field, format!("`{name}` cannot be the name of a node"))
        .hint("letters, digits, `-` and `_`, at most 64 of them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(more: &str) -> String {
        let options = format!("uri = \"mongodb://localhost\"\nnode = \"a\"\npeer = \"b\"\nforward = \"all\"\n{more}");
        match Settings::new(&Options::new(options.parse().unwrap())) {
            Ok(_) => String::new(),
            Err(e) => format!("{e} {:?}", e.get_hint()),
        }
    }

    #[test]
    fn what_does_not_go_with_forwarding_is_refused() {
        for more in ["", "conflicts = \"origin\"", "conflicts = \"stop\"", "priority = [\"a\"]"] {
            assert_eq!(refused(more), "", "{more}");
        }
        for (more, name) in [
            ("conflicts = \"merge\"", "merge"),
            ("conflicts = \"priority\"\npriority = [\"a\"]", "priority"),
            ("collections = [{ namespaces = [\"x.*\"], conflicts = \"merge\" }]", "merge"),
            ("deletes = \"win\"", "deletes = \"rank\""),
            ("stamp = \"document\"", "stamp"),
        ] {
            assert!(refused(more).contains(name), "{more}: {}", refused(more));
        }
    }
}
