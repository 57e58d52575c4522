//! The `set` transform: adds constants and facts of the event to full documents.

use bson::{Bson, RawDocumentBuf, cstr, rawdoc};
use oplogue_api::{
    Batch, Doc, Error, Event, Field, FieldType, Footprint, Registry, Result, Transform,
    bson::spec::ElementType,
    closest,
    raw::{Elements, elements},
};
use serde::Deserialize;

use super::{
    document::{DOCUMENT, close, finished, header, open, patch_length},
    event,
    scope::{NAMESPACES, Scope},
    tree::is_index,
};

const FIELDS: &[Field] = &[
    Field::new(
        "fields",
        FieldType::Any,
        "What is set: a list of { field = PATH, value = CONSTANT } and { field = PATH, from = FACT }, where a fact is op, ns, db, coll, \
         time, wall, id, key, key.FIELD, or event for all of them in a document",
    )
    .required()
    .example("[{ field = \"_meta\", from = \"event\" }]"),
    NAMESPACES,
];

pub(super) fn register(r: &mut Registry) {
    r.transform("set", "Adds constants and facts of the event to full documents", FIELDS, |_, options| {
        Ok(Box::new(Set::new(options.parse()?)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    fields: Vec<Entry>,
    namespaces: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    field: String,
    value: Option<toml::Value>,
    from: Option<String>,
}

enum What {
    /// Type and bytes.
    Constant(u8, Vec<u8>),
    Fact(Fact),
}

enum Fact {
    Op,
    Ns,
    Db,
    Coll,
    Time,
    Wall,
    Id,
    Key(Option<String>),
    Event,
}

const FACTS: &[&str] = &["op", "ns", "db", "coll", "time", "wall", "id", "key", "event"];

/// What is set in a document, by name: itself, or fields inside.
#[derive(Default)]
struct Node {
    what: Option<What>,
    children: Vec<(Box<[u8]>, Node)>,
}

struct Set {
    root: Node,
    scope: Scope,
    /// The paths that are set.
    paths: Vec<String>,
    scratch: Vec<u8>,
}

fn wrong(what: String, hint: &str) -> Error {
    Error::option("fields", what).hint(hint)
}

impl Set {
    fn new(options: Options) -> Result<Set> {
        if options.fields.is_empty() {
            return Err(wrong("the list of fields is empty: nothing would be set".to_owned(), "name some fields"));
        }
        let mut root = Node::default();
        let mut paths = Vec::new();
        for Entry { field, value, from } in options.fields {
            let what = match (value, from) {
                (Some(value), None) => constant(&field, value)?,
                (None, Some(from)) => What::Fact(fact(&field, &from)?),
                _ => {
                    let hint =
                        "write { field = \"region\", value = \"eu\" } or { field = \"_meta.op\", from = \"op\" }";
                    return Err(wrong(format!("`{field}` needs `value` or `from`, one of them"), hint));
                }
            };
            root.add(&field, what)?;
            paths.push(field);
        }
        Ok(Set { root, scope: Scope::new(options.namespaces.as_deref())?, paths, scratch: Vec::new() })
    }
}

fn constant(field: &str, value: toml::Value) -> Result<What> {
    let unfit = || {
        wrong(
            format!("the value of `{field}` cannot be a part of a document"),
            "write a TOML value, or one of extended JSON such as { \"$date\" = \"2026-11-21T10:00:00Z\" }",
        )
    };
    // As extended JSON, so that values of types that TOML has not can be written.
    let value = serde_json::to_value(value).map_err(|_| unfit())?;
    let value = Bson::try_from(value).map_err(|_| unfit())?;
    let doc = RawDocumentBuf::try_from(&bson::doc! {"": value}).map_err(|_| unfit())?;
    // Length, type, an empty name; then the value, and the end.
    let bytes = doc.as_bytes();
    Ok(What::Constant(bytes[4], bytes[6..bytes.len() - 1].to_vec()))
}

fn fact(field: &str, from: &str) -> Result<Fact> {
    Ok(match from {
        "op" => Fact::Op,
        "ns" => Fact::Ns,
        "db" => Fact::Db,
        "coll" => Fact::Coll,
        "time" => Fact::Time,
        "wall" => Fact::Wall,
        "id" => Fact::Id,
        "key" => Fact::Key(None),
        "event" => Fact::Event,
        _ => match from.strip_prefix("key.") {
            Some(name) if !name.is_empty() => Fact::Key(Some(name.to_owned())),
            _ => {
                let hint = match closest(from, FACTS.iter().copied()) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("it is one of {}, or key.FIELD", FACTS.join(", ")),
                };
                return Err(wrong(format!("`{field}` cannot come from `{from}`"), &hint));
            }
        },
    })
}

impl Node {
    fn add(&mut self, path: &str, what: What) -> Result<()> {
        if path.split('.').any(|name| name.is_empty() || name.contains(['\0', '*']) || name.starts_with('$')) {
            return Err(wrong(
                format!("`{path}` is no path of a field"),
                "write names with dots between, such as \"_meta.op\"",
            ));
        }
        if path == "_id" || path.starts_with("_id.") {
            let what = format!("`{path}` is a part of the document key, which tells documents apart");
            return Err(wrong(what, "set another field"));
        }
        if path.split('.').skip(1).any(|name| is_index(name.as_bytes())) {
            return Err(wrong(format!("`{path}` names an element of an array"), "set a field of a document"));
        }
        let mut node = self;
        for name in path.split('.') {
            if node.what.is_some() {
                return Err(wrong(format!("`{path}` lies inside another field that is set"), "leave one of them out"));
            }
            let name = name.as_bytes();
            let at = node.children.iter().position(|(n, _)| **n == *name).unwrap_or_else(|| {
                node.children.push((name.into(), Node::default()));
                node.children.len() - 1
            });
            node = &mut node.children[at].1;
        }
        if node.what.is_some() || !node.children.is_empty() {
            return Err(wrong(format!("`{path}` is set twice"), "leave one of them out"));
        }
        node.what = Some(what);
        Ok(())
    }

    /// Writes a document with these elements and what is set, behind its length.
    fn write(&self, elements: Option<Elements<'_>>, event: &Event, out: &mut Vec<u8>) -> Result<()> {
        let mut done = vec![false; self.children.len()];
        for element in elements.into_iter().flatten() {
            let element = element?;
            let Some(at) = self.children.iter().position(|(name, _)| **name == *element.name) else {
                super::document::element(out, element.name, element.value);
                continue;
            };
            done[at] = true;
            let node = &self.children[at].1;
            match (&node.what, element.value.kind()) {
                // Where the event does not know it, what is there stays.
                (Some(what), _) => {
                    if !what.write(element.name, event, out)? {
                        super::document::element(out, element.name, element.value);
                    }
                }
                (None, Some(ElementType::EmbeddedDocument)) => {
                    let start = open(out, DOCUMENT, element.name);
                    node.write(element.value.elements(), event, out)?;
                    close(out, start)?;
                }
                (None, Some(ElementType::Null)) => node.write_new(element.name, event, out)?,
                (None, _) => {
                    return Err(Error::data("a field would be set inside a value that is no document")
                        .hint("set a field of another name"));
                }
            }
        }
        for ((name, node), _) in self.children.iter().zip(done).filter(|(_, done)| !done) {
            node.write_new(name, event, out)?;
        }
        Ok(())
    }

    fn write_new(&self, name: &[u8], event: &Event, out: &mut Vec<u8>) -> Result<()> {
        if let Some(what) = &self.what {
            what.write(name, event, out)?;
            return Ok(());
        }
        let start = open(out, DOCUMENT, name);
        self.write(None, event, out)?;
        close(out, start)
    }
}

impl What {
    /// Writes the value under a name; `false` where the event does not know it.
    fn write(&self, name: &[u8], event: &Event, out: &mut Vec<u8>) -> Result<bool> {
        let fact = match self {
            What::Constant(kind, bytes) => {
                header(out, *kind, name);
                out.extend_from_slice(bytes);
                return Ok(true);
            }
            What::Fact(fact) => fact,
        };
        let mut doc = RawDocumentBuf::new();
        match fact {
            Fact::Op => doc.append(cstr!(""), event.op.name()),
            Fact::Ns => doc.append(cstr!(""), event.ns.as_str()),
            Fact::Db => doc.append(cstr!(""), event.ns.db()),
            Fact::Coll => doc.append(cstr!(""), event.ns.coll()),
            Fact::Time => doc.append(cstr!(""), event.time),
            Fact::Wall => match event.wall {
                Some(wall) => doc.append(cstr!(""), bson::DateTime::from_millis(wall)),
                None => return Ok(false),
            },
            Fact::Id => doc.append(cstr!(""), event.id().to_string()),
            Fact::Key(path) => return key(name, event.key.as_ref(), path.as_deref(), out),
            Fact::Event => doc.append(cstr!(""), all(event)),
        }
        let bytes = doc.as_bytes();
        header(out, bytes[4], name);
        out.extend_from_slice(&bytes[6..bytes.len() - 1]);
        Ok(true)
    }
}

/// `{op, ns, time, wall?, id, key?}`
fn all(event: &Event) -> RawDocumentBuf {
    let mut doc = rawdoc! {"op": event.op.name(), "ns": event.ns.as_str(), "time": event.time};
    if let Some(wall) = event.wall {
        doc.append(cstr!("wall"), bson::DateTime::from_millis(wall));
    }
    doc.append(cstr!("id"), event.id().to_string());
    if let Some(key) = &event.key {
        doc.append(cstr!("key"), &**key);
    }
    doc
}

fn key(name: &[u8], key: Option<&Doc>, path: Option<&str>, out: &mut Vec<u8>) -> Result<bool> {
    let Some(key) = key else { return Ok(false) };
    let Some(path) = path else {
        header(out, DOCUMENT, name);
        out.extend_from_slice(key.as_bytes());
        return Ok(true);
    };
    for element in elements(key) {
        let element = element?;
        if element.name == path.as_bytes() {
            super::document::element(out, name, element.value);
            return Ok(true);
        }
    }
    Ok(false)
}

impl Transform for Set {
    fn footprint(&self) -> Footprint {
        Footprint { namespaces: self.scope.patterns(), sets: self.paths.clone(), ..Footprint::default() }
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let Set { root, scope, scratch, .. } = self;
        event::each(batch, false, |event| {
            let Some(after) = event.after.clone().filter(|_| !event.op.is_barrier() && scope.has(&event.ns)) else {
                return Ok(true);
            };
            scratch.clear();
            scratch.extend_from_slice(&[0; 4]);
            root.write(Some(elements(&after)), event, scratch)?;
            scratch.push(0);
            patch_length(scratch, 0)?;
            event.after = Some(finished(scratch)?);
            Ok(true)
        });
        Ok(())
    }
}
