//! What an event says was done, the same whichever source it came from.

use bson::{Binary, Bson, Document};
use oplogue_api::{Error, Event, Namespace, Op, Result};

/// A change of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Described {
    /// Options as `create` takes them: those of a collection, or `viewOn` and `pipeline`.
    Create(Document),
    /// `view`: `None` where the source does not tell.
    Drop {
        view: Option<bool>,
    },
    DropDatabase,
    Rename {
        to: Namespace,
        target: Target,
    },
    /// A temporary collection took the place of `ns` (`$out`, `convertToCapped`, a rename from another database).
    Replaced {
        converted: bool,
    },
    /// Index specifications.
    CreateIndexes(Vec<Document>),
    DropIndexes(Vec<DroppedIndex>),
    /// Options as `collMod` takes them.
    Modify(Document),
    /// The view has another definition; which one is at the origin.
    ModifyView,
    /// Something that is not known here: the name of the operation.
    Unknown(String),
}

/// What became of the collection that had the name before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// There was none.
    Free,
    /// It was dropped.
    Dropped(Binary),
    /// The source does not say: change streams before 6.0.
    Untold,
}

/// An index that was dropped, with its specification where the source gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DroppedIndex {
    pub name: String,
    pub spec: Option<Document>,
}

/// An event read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub what: Described,
    /// The namespace that it is about: of a temporary collection renamed, the one that it became.
    pub ns: Namespace,
    /// The collection at the origin.
    pub uuid: Option<Binary>,
    /// The collection at the node where it was made first, where that is another one.
    pub made_from: Option<Binary>,
}

impl Read {
    /// # Errors
    /// [`ErrorKind::Data`](oplogue_api::ErrorKind::Data) when the event has not the shape that its kind has.
    pub fn new(event: &Event) -> Result<Read> {
        let raw = Document::try_from(&*event.raw).map_err(|_| Error::data("a DDL event is no valid BSON"))?;
        let mut ns = event.ns.clone();
        let uuid = ["ui", "collectionUUID"].into_iter().find_map(|name| uuid(raw.get(name)));
        let what = match (event.op, raw.get_str("operationType").is_ok()) {
            (Op::DropDatabase, _) => Described::DropDatabase,
            (Op::Rename, _) => {
                let to = event.to.clone().ok_or_else(|| Error::data("a rename without the new name"))?;
                if ns.is_system() {
                    let converted = ns.coll().contains(".convertToCapped.");
                    ns = to;
                    Described::Replaced { converted }
                } else {
                    Described::Rename { to, target: target(&raw) }
                }
            }
            (op, true) => streamed(op, &raw)?,
            (op, false) => logged(op, &raw)?,
        };
        Ok(Read { what, ns, uuid, made_from: None })
    }

    /// What it does, in a form that is the same for the command that a replicator runs and the events that the command leads to:
    /// each event has some of them.
    pub fn marks(&self) -> Vec<String> {
        let ns = &self.ns;
        let of = |what: &str| vec![format!("{what} {ns}")];
        match &self.what {
            Described::Create(_) => of("create"),
            Described::Drop { .. } => of("drop"),
            Described::DropDatabase => of("dropDatabase"),
            Described::Rename { to, .. } => vec![format!("rename {ns} {to}")],
            Described::Replaced { .. } => of("replace"),
            Described::CreateIndexes(specs) => specs.iter().map(|s| format!("index {ns} {}", name_of(s))).collect(),
            Described::DropIndexes(dropped) => dropped.iter().map(|d| format!("dropIndex {ns} {}", d.name)).collect(),
            Described::Modify(_) | Described::ModifyView => of("collMod"),
            Described::Unknown(name) => of(name),
        }
    }

    /// Whether a collection came to be by it.
    pub fn makes_collection(&self) -> bool {
        matches!(self.what, Described::Create(_) | Described::Replaced { .. })
    }

    /// Whether it takes data away, or may.
    pub fn drops(&self) -> bool {
        match &self.what {
            Described::Drop { .. } | Described::DropDatabase | Described::Replaced { .. } => true,
            Described::Rename { target, .. } => *target != Target::Free,
            _ => false,
        }
    }
}

/// The name of an index.
pub(crate) fn name_of(spec: &Document) -> &str {
    spec.get_str("name").unwrap_or_default()
}

fn uuid(value: Option<&Bson>) -> Option<Binary> {
    match value {
        Some(Bson::Binary(uuid)) => Some(uuid.clone()),
        _ => None,
    }
}

fn target(raw: &Document) -> Target {
    let (described, is_stream) = match raw.get_document("operationDescription") {
        Ok(described) => (Some(described), true),
        Err(_) => (raw.get_document("o").ok(), raw.get_str("operationType").is_ok()),
    };
    match described.and_then(|d| d.get("dropTarget")) {
        Some(Bson::Binary(uuid)) => Target::Dropped(uuid.clone()),
        Some(Bson::Boolean(true)) => Target::Untold,
        _ if is_stream && described.is_none() => Target::Untold,
        _ => Target::Free,
    }
}

/// An event of a change stream with `operationDescription`.
fn streamed(op: Op, raw: &Document) -> Result<Described> {
    let described = || {
        let described = raw.get_document("operationDescription").cloned();
        described.map_err(|_| Error::data("a DDL event without operationDescription"))
    };
    let name = raw.get_str("operationType").unwrap_or_default();
    Ok(match (op, name) {
        // A drop of a database says nothing else.
        (Op::Drop, _) => Described::Drop { view: None },
        (Op::Create, _) => Described::Create(described()?),
        (_, "createIndexes") => Described::CreateIndexes(specs(&described()?)?),
        (_, "dropIndexes") => {
            let dropped = specs(&described()?)?;
            Described::DropIndexes(
                dropped.into_iter().map(|s| DroppedIndex { name: name_of(&s).to_owned(), spec: Some(s) }).collect(),
            )
        }
        (_, "modify") => {
            let described = described()?;
            if described.contains_key("viewOn") { Described::ModifyView } else { Described::Modify(described) }
        }
        (_, name) => Described::Unknown(name.to_owned()),
    })
}

/// An entry of the oplog, or an operation inside one.
fn logged(op: Op, raw: &Document) -> Result<Described> {
    let o = raw.get_document("o").map_err(|_| Error::data("a DDL event without `o`"))?;
    let mut rest = o.clone();
    if !raw.get_str("op").is_ok_and(|is| is == "c") {
        // A write in `system.views`.
        rest.remove("_id");
        return Ok(match op {
            Op::Create => Described::Create(rest),
            Op::Drop => Described::Drop { view: Some(true) },
            Op::Other => Described::ModifyView,
            _ => Described::Unknown(op.name().to_owned()),
        });
    }
    let name = o.keys().next().cloned().unwrap_or_default();
    rest.remove(&name);
    Ok(match &*name {
        "create" => Described::Create(rest),
        "drop" => Described::Drop { view: Some(false) },
        "createIndexes" => {
            rest.remove("commitQuorum");
            Described::CreateIndexes(vec![named(rest)?])
        }
        "commitIndexBuild" => Described::CreateIndexes(specs(&rest)?),
        "dropIndexes" | "deleteIndexes" => {
            let name = rest.get_str("index").map_err(|_| Error::data("a dropIndexes that names no index"))?;
            Described::DropIndexes(vec![DroppedIndex {
                name: name.to_owned(),
                spec: raw.get_document("o2").ok().cloned(),
            }])
        }
        "collMod" => Described::Modify(rest),
        _ => Described::Unknown(name),
    })
}

fn specs(described: &Document) -> Result<Vec<Document>> {
    let specs = described.get_array("indexes").map_err(|_| Error::data("a DDL event without indexes"))?;
    specs
        .iter()
        .map(|spec| match spec {
            Bson::Document(spec) => named(spec.clone()),
            _ => Err(Error::data("an index specification is no document")),
        })
        .collect()
}

fn named(spec: Document) -> Result<Document> {
    match spec.get_str("name") {
        Ok(_) => Ok(spec),
        Err(_) => Err(Error::data("an index specification without a name")),
    }
}
