//! What has to be run at the peer so that it is as an event describes: nothing where it is already, and nothing that would overrule
//! what was made there.

use bson::{Binary, Bson, Document, doc};
use oplogue_api::{Namespace, Result};

use super::{
    Applier, Command,
    canonical::same,
    described::{Described, DroppedIndex, Read, Target, name_of},
    state::{Existing, collection, collections, indexes},
};

/// See [`Applier::decide`].
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    AlreadySo,
    Run { commands: Vec<Command>, marks: Vec<String> },
    Refuse(&'static str),
    Resync(&'static str),
}

const OTHER_BY_NOW: &str = "another collection has that name at the target";

impl Applier {
    pub(super) async fn decide(&self, read: &Read) -> Result<Decision> {
        let ns = &read.ns;
        match &read.what {
            Described::Create(options) => self.create(read, options).await,
            Described::Drop { view } => self.drop_collection(read, *view).await,
            Described::DropDatabase => self.drop_database(ns).await,
            Described::Rename { to, target } => self.rename(read, to, target).await,
            Described::Replaced { converted: true } => self.convert(read).await,
            Described::Replaced { converted: false } => {
                Ok(Decision::Resync("it was written by $out, or renamed from another database"))
            }
            Described::CreateIndexes(specs) => self.create_indexes(ns, specs).await,
            Described::DropIndexes(dropped) => self.drop_indexes(read, dropped).await,
            Described::Modify(change) => self.modify(read, change).await,
            Described::ModifyView => self.modify_view(read).await,
            Described::Unknown(_) => Ok(Decision::Refuse("an operation that is not known")),
        }
    }

    async fn create(&self, read: &Read, options: &Document) -> Result<Decision> {
        let ns = &read.ns;
        let mut options = options.clone();
        if options.get_str("viewOn").is_ok_and(|on| on.starts_with("system.buckets.")) {
            // Of a time series the events show the view only.
            match collection(&self.origin, ns).await? {
                Some(found) if found.kind == "timeseries" => options = found.options,
                _ => return Ok(Decision::AlreadySo),
            }
            options.remove("clusteredIndex");
        }
        if let Some(found) = collection(&self.peer, ns).await? {
            let mut theirs = found.options;
            if found.kind == "timeseries" {
                theirs.remove("clusteredIndex");
            }
            return Ok(if same(&theirs, &options) {
                Decision::AlreadySo
            } else {
                Decision::Refuse("the target has it with other options")
            });
        }
        let mut command = doc! {"create": ns.coll()};
        for (name, value) in options {
            match (&*name, value) {
                ("temp" | "autoIndexId" | "flags" | "uuid", _) => {}
                ("idIndex", Bson::Document(mut spec)) => {
                    spec.remove("ns");
                    command.insert(name, spec);
                }
                (_, value) => {
                    command.insert(name, value);
                }
            }
        }
        // The server makes the index of `_id` by these, and takes none beside them.
        if command.contains_key("clusteredIndex") || command.contains_key("viewOn") {
            command.remove("idIndex");
        }
        Ok(one(read, command))
    }

    async fn drop_collection(&self, read: &Read, view: Option<bool>) -> Result<Decision> {
        let Some(found) = collection(&self.peer, &read.ns).await? else { return Ok(Decision::AlreadySo) };
        if view.is_some_and(|view| view == found.is_plain())
            || !self.is_counterpart(read, read.uuid.as_ref(), &found).await?
        {
            return Ok(Decision::Refuse(OTHER_BY_NOW));
        }
        Ok(one(read, doc! {"drop": read.ns.coll()}))
    }

    /// Every collection was dropped by an event of its own. Views and time series were not; and whatever else is here was made here, and is
    /// on its way to the origin.
    async fn drop_database(&self, ns: &Namespace) -> Result<Decision> {
        let left: Vec<Existing> =
            collections(&self.peer, ns.db()).await?.into_iter().filter(|c| !c.name.starts_with("system.")).collect();
        if left.iter().any(Existing::is_plain) {
            return Ok(Decision::Refuse("the database has collections at the target that the origin did not drop"));
        }
        if left.is_empty() {
            return Ok(Decision::AlreadySo);
        }
        let marks = left.iter().map(|c| format!("drop {}.{}", ns.db(), c.name)).collect();
        let commands = left.iter().map(|c| Command { command: doc! {"drop": &c.name}, admin: false }).collect();
        Ok(Decision::Run { commands, marks })
    }

    async fn rename(&self, read: &Read, to: &Namespace, target: &Target) -> Result<Decision> {
        let there = collection(&self.peer, to).await?;
        let Some(found) = collection(&self.peer, &read.ns).await? else {
            return Ok(match there {
                Some(there) if self.is_known_counterpart(read, &there).await? => Decision::AlreadySo,
                _ => Decision::Resync("it was renamed, and the target does not have the collection that it was"),
            });
        };
        if !self.is_counterpart(read, read.uuid.as_ref(), &found).await? {
            return Ok(Decision::Refuse(OTHER_BY_NOW));
        }
        let drop_target = match (&there, target) {
            (None, _) => false,
            (Some(_), Target::Free) => return Ok(Decision::Refuse("the target has a collection with the new name")),
            (Some(there), Target::Dropped(uuid)) => {
                if !self.is_counterpart(read, Some(uuid), there).await? {
                    return Ok(Decision::Refuse("another collection has the new name at the target"));
                }
                true
            }
            (Some(_), Target::Untold) => true,
        };
        let command = doc! {"renameCollection": read.ns.as_str(), "to": to.as_str(), "dropTarget": drop_target};
        Ok(Decision::Run { commands: vec![Command { command, admin: true }], marks: read.marks() })
    }

    /// The server copies a collection that is converted, and the copy is in no event. The target converts its own.
    async fn convert(&self, read: &Read) -> Result<Decision> {
        let Some(wanted) = collection(&self.origin, &read.ns).await? else { return Ok(Decision::AlreadySo) };
        if !wanted.options.get_bool("capped").is_ok_and(|is| is) {
            return Ok(Decision::AlreadySo);
        }
        let Some(found) = collection(&self.peer, &read.ns).await? else {
            return Ok(Decision::Resync("it was converted to a capped collection, and the target does not have it"));
        };
        if same(&wanted.options, &found.options) {
            return Ok(Decision::AlreadySo);
        }
        let size = wanted.options.get("size").cloned().unwrap_or(Bson::Null);
        Ok(one(read, doc! {"convertToCapped": read.ns.coll(), "size": size}))
    }

    async fn create_indexes(&self, ns: &Namespace, specs: &[Document]) -> Result<Decision> {
        if collection(&self.peer, ns).await?.is_none() {
            return Ok(Decision::Refuse("the target does not have the collection"));
        }
        let there = indexes(&self.peer, ns).await?;
        let mut missing = Vec::new();
        for spec in specs.iter().filter(|spec| name_of(spec) != "_id_" && !spec.contains_key("clustered")) {
            match there.iter().find(|i| name_of(i) == name_of(spec)) {
                Some(found) if same(found, spec) => {}
                Some(_) => return Ok(Decision::Refuse("the target has an index of that name with other options")),
                None => {
                    let mut spec = spec.clone();
                    spec.remove("ns");
                    spec.remove("buildUUID");
                    missing.push(spec);
                }
            }
        }
        if missing.is_empty() {
            return Ok(Decision::AlreadySo);
        }
        let marks = missing.iter().map(|spec| format!("index {ns} {}", name_of(spec))).collect();
        let command = doc! {"createIndexes": ns.coll(), "indexes": missing};
        Ok(Decision::Run { commands: vec![Command { command, admin: false }], marks })
    }

    async fn drop_indexes(&self, read: &Read, dropped: &[DroppedIndex]) -> Result<Decision> {
        let ns = &read.ns;
        let there = indexes(&self.peer, ns).await?;
        let mut names = Vec::new();
        for index in dropped {
            let Some(found) = there.iter().find(|i| name_of(i) == index.name) else { continue };
            let key = |spec: &Document| spec.get("key").map(|key| doc! {"key": key.clone()}).unwrap_or_default();
            if index.spec.as_ref().is_some_and(|spec| !same(&key(spec), &key(found))) {
                return Ok(Decision::Refuse("another index has that name at the target"));
            }
            names.push(index.name.clone());
        }
        if names.is_empty() {
            return Ok(Decision::AlreadySo);
        }
        let marks = names.iter().map(|name| format!("dropIndex {ns} {name}")).collect();
        let command = doc! {"dropIndexes": ns.coll(), "index": names};
        Ok(Decision::Run { commands: vec![Command { command, admin: false }], marks })
    }

    async fn modify(&self, read: &Read, change: &Document) -> Result<Decision> {
        let ns = &read.ns;
        let Some(found) = collection(&self.peer, ns).await? else {
            return Ok(Decision::Refuse("the target does not have the collection"));
        };
        let mut unchanged = true;
        for (name, value) in change {
            unchanged &= match (&**name, value) {
                ("index", Bson::Document(index)) => {
                    let there = indexes(&self.peer, ns).await?;
                    let Some(found) = there.iter().find(|i| name_of(i) == name_of(index)) else {
                        return Ok(Decision::Refuse("the target does not have the index"));
                    };
                    index.iter().filter(|(name, _)| *name != "keyPattern").all(|(name, v)| is_set(found, name, v))
                }
                _ => is_set(&found.options, name, value),
            };
        }
        if unchanged {
            return Ok(Decision::AlreadySo);
        }
        let mut command = doc! {"collMod": ns.coll()};
        command.extend(change.clone());
        Ok(one(read, command))
    }

    async fn modify_view(&self, read: &Read) -> Result<Decision> {
        // The event may hold a part of the definition only. A later one is as good: the events up to it change nothing then.
        let view = |found: Option<Existing>| found.filter(|f| f.kind == "view");
        let Some(wanted) = view(collection(&self.origin, &read.ns).await?) else { return Ok(Decision::AlreadySo) };
        let Some(found) = view(collection(&self.peer, &read.ns).await?) else {
            return Ok(Decision::Refuse("the target does not have the view"));
        };
        if same(&wanted.options, &found.options) {
            return Ok(Decision::AlreadySo);
        }
        let mut command = doc! {"collMod": read.ns.coll()};
        command.extend(wanted.options.into_iter().filter(|(name, _)| matches!(&**name, "viewOn" | "pipeline")));
        Ok(one(read, command))
    }

    /// Whether the collection at the peer is the one that the origin knows by `uuid`; also where that is not known, because it was there
    /// before the link.
    async fn is_counterpart(&self, read: &Read, uuid: Option<&Binary>, there: &Existing) -> Result<bool> {
        Ok(match self.counterparts(read, uuid).await? {
            Some(known) => there.uuid.as_ref().is_none_or(|uuid| known.contains(uuid)),
            None => true,
        })
    }

    async fn is_known_counterpart(&self, read: &Read, there: &Existing) -> Result<bool> {
        let known = self.counterparts(read, read.uuid.as_ref()).await?.unwrap_or_default();
        Ok(there.uuid.as_ref().is_some_and(|uuid| known.contains(uuid)))
    }

    /// What the collection can be at the peer: what was made from it there, what it was made from, or what both were made from.
    async fn counterparts(&self, read: &Read, uuid: Option<&Binary>) -> Result<Option<Vec<Binary>>> {
        let Some(uuid) = uuid else { return Ok(None) };
        let mut known = Vec::new();
        let source = match read.uuid.as_ref() == Some(uuid) {
            true => read.made_from.clone(),
            false => self.known.counterpart("peer_uuid", uuid).await?,
        };
        for uuid in source.iter().chain([uuid]) {
            known.extend(self.ledger.counterpart("uuid", uuid).await?);
        }
        known.extend(source);
        Ok((!known.is_empty()).then_some(known))
    }
}

/// One command, which leads to what the event shows.
fn one(read: &Read, command: Document) -> Decision {
    Decision::Run { commands: vec![Command { command, admin: false }], marks: read.marks() }
}

fn is_set(options: &Document, name: &str, value: &Bson) -> bool {
    let found = options.get(name).map(|value| doc! {name: value.clone()}).unwrap_or_default();
    same(&doc! {name: value.clone()}, &found)
}
