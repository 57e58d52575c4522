//! The `unwrap` transform: an event as the new state of its document, as consumers of Debezium's `ExtractNewDocumentState` expect it.

use std::collections::HashSet;

use bson::RawDocumentBuf;
use oplogue_api::{
    Batch, Change, Context, Doc, Error, Event, Field, FieldType, Op, Registry, Result, Transform,
    bson::spec::ElementType,
    closest,
    raw::{Elements, elements},
};
use serde::Deserialize;

use super::{
    document::{NULL, element, finished, header, patch_length},
    envelope::{SOURCE, letter, millis, name, source},
    event,
    scope::{NAMESPACES, Scope},
    tree::DEEPEST,
};

const FIELDS: &[Field] = &[
    Field::new(
        "delete_tombstone_handling_mode",
        FieldType::OneOf(&["tombstone", "drop", "rewrite"]),
        "What a delete becomes: an event without a document, nothing, or what is known of the document with `__deleted: true`",
    )
    .default("\"tombstone\""),
    Field::new(
        "add_fields",
        FieldType::Strings,
        "Facts that are added: op, ts_ms, and those of Debezium's `source`, such as source.ts_ms or db; behind a colon another name",
    )
    .example("[\"op\", \"source.ts_ms\"]"),
    Field::new("add_fields_prefix", FieldType::String, "What the names of added fields begin with").default("\"__\""),
    Field::new("flatten_struct", FieldType::Bool, "Whether fields of documents within become fields of the document itself")
        .default("false"),
    Field::new("flatten_struct_delimiter", FieldType::String, "What stands between the names of a flattened field")
        .default("\"_\""),
    Field::new(
        "missing",
        FieldType::OneOf(&["patch", "drop", "error"]),
        "What an update without its document becomes: the fields that it changed, nothing, or a bad event",
    )
    .default("\"patch\""),
    Field::new("name", FieldType::String, "What `source.name` is; by default as the source is called"),
    NAMESPACES,
];

pub(super) fn register(r: &mut Registry) {
    r.transform(
        "unwrap",
        "Makes of events what their documents are now, as Debezium's ExtractNewDocumentState does",
        FIELDS,
        |context, options| Ok(Box::new(Unwrap::new(context, options.parse()?)?)),
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    delete_tombstone_handling_mode: Deletes,
    #[serde(default)]
    add_fields: Vec<String>,
    add_fields_prefix: Option<String>,
    #[serde(default)]
    flatten_struct: bool,
    flatten_struct_delimiter: Option<String>,
    #[serde(default)]
    missing: Missing,
    name: Option<String>,
    namespaces: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deletes {
    #[default]
    Tombstone,
    Drop,
    Rewrite,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    #[default]
    Patch,
    Drop,
    Error,
}

/// A field that is added.
struct Added {
    name: String,
    fact: Fact,
}

enum Fact {
    Op,
    Millis,
    Source(&'static str),
}

struct Unwrap {
    deletes: Deletes,
    missing: Missing,
    added: Vec<Added>,
    /// The names that the document must leave free.
    taken: Vec<String>,
    delimiter: Option<String>,
    name: String,
    scope: Scope,
    scratch: Vec<u8>,
}

impl Unwrap {
    fn new(context: &Context, options: Options) -> Result<Unwrap> {
        let prefix = options.add_fields_prefix.unwrap_or_else(|| "__".to_owned());
        let added = options.add_fields.iter().map(|text| Added::new(text, &prefix)).collect::<Result<Vec<_>>>()?;
        let mut taken: Vec<String> = added.iter().map(|added| added.name.clone()).collect();
        if options.delete_tombstone_handling_mode == Deletes::Rewrite {
            taken.push(DELETED.to_owned());
        }
        for (n, name) in taken.iter().enumerate() {
            if taken[..n].contains(name) {
                return Err(Error::option("add_fields", format!("`{name}` would be added twice"))
                    .hint("leave one out, or give it another name behind a colon, such as \"op:operation\""));
            }
            if name == "_id" || name.contains('\0') {
                return Err(Error::option("add_fields", format!("`{name}` cannot be the name of an added field"))
                    .hint("give it another name behind a colon, or another `add_fields_prefix`"));
            }
        }
        let delimiter = options.flatten_struct_delimiter.unwrap_or_else(|| "_".to_owned());
        if delimiter.contains('\0') {
            return Err(Error::option("flatten_struct_delimiter", "the delimiter holds a zero byte"));
        }
        Ok(Unwrap {
            deletes: options.delete_tombstone_handling_mode,
            missing: options.missing,
            added,
            taken,
            delimiter: options.flatten_struct.then_some(delimiter),
            name: options.name.or_else(|| context.source.clone()).unwrap_or_default(),
            scope: Scope::new(options.namespaces.as_deref())?,
            scratch: Vec::new(),
        })
    }

    /// Makes the document; `false`: the event is left out.
    fn unwrap(&mut self, event: &mut Event) -> Result<bool> {
        let document = match (event.op, &event.after) {
            (Op::Delete, _) => match self.deletes {
                Deletes::Drop => return Ok(false),
                Deletes::Tombstone => None,
                Deletes::Rewrite => event.before.clone().or(event.key.clone()),
            },
            (_, Some(after)) => Some(after.clone()),
            (_, None) => match self.missing {
                Missing::Drop => return Ok(false),
                Missing::Error => {
                    return Err(Error::data("the source does not give the document after the update")
                        .hint("let the source give it (docs/sources.md), look it up with `enrich`, or set `missing`"));
                }
                Missing::Patch => Some(patch(event.key.as_ref(), event.change.as_ref())?),
            },
        };
        let after = document.map(|document| self.write(&document, event)).transpose()?;
        event.after = after;
        // What is left of them is in the document.
        (event.before, event.change) = (None, None);
        Ok(true)
    }

    fn write(&mut self, document: &Doc, event: &Event) -> Result<Doc> {
        let Unwrap { added, taken, delimiter, name, scratch: out, .. } = self;
        out.clear();
        out.extend_from_slice(&[0; 4]);
        let is_taken = |name: &[u8]| taken.iter().any(|taken| taken.as_bytes() == name);
        let mut names = HashSet::new();
        each(elements(document), delimiter.as_deref(), &mut |name, value| {
            if is_taken(name) || delimiter.is_some() && !names.insert(name.to_vec()) {
                return Err(Error::data("two fields of an unwrapped document would have the same name")
                    .hint("set another `add_fields_prefix` or `flatten_struct_delimiter`"));
            }
            element(out, name, value);
            Ok(())
        })?;
        let mut facts = RawDocumentBuf::new();
        if self.deletes == Deletes::Rewrite {
            facts.append(bson::cstr!("__deleted"), event.op == Op::Delete);
        }
        let is_of_source = added.iter().any(|added| matches!(added.fact, Fact::Source(_)));
        let source = if is_of_source { Some(source(name, event)?) } else { None };
        for Added { name: to, fact } in added {
            let to = super::envelope::name(to)?;
            match fact {
                Fact::Op => facts.append(to, letter(event.op)),
                Fact::Millis => facts.append(to, millis(event)),
                Fact::Source(field) => {
                    if let Some(value) = source.as_ref().and_then(|source| source.get(field).ok().flatten()) {
                        facts.append(to, value);
                    }
                }
            }
        }
        for fact in elements(&facts) {
            let fact = fact?;
            element(out, fact.name, fact.value);
        }
        out.push(0);
        patch_length(out, 0)?;
        finished(out)
    }
}

const DELETED: &str = "__deleted";

impl Added {
    /// `FACT` or `FACT:NAME`.
    fn new(text: &str, prefix: &str) -> Result<Added> {
        let (path, to) = match text.split_once(':') {
            Some((path, to)) => (path.trim(), Some(to.trim())),
            None => (text.trim(), None),
        };
        let of_source = |field: &str| SOURCE.iter().copied().find(|known| *known == field);
        let fact = match (path, path.strip_prefix("source.")) {
            ("op", _) => Some(Fact::Op),
            ("ts_ms", _) => Some(Fact::Millis),
            (_, Some(field)) => of_source(field).map(Fact::Source),
            (field, None) => of_source(field).map(Fact::Source),
        };
        let Some(fact) = fact else {
            let known = || ["op", "ts_ms"].into_iter().chain(SOURCE.iter().copied());
            let hint = match closest(path.strip_prefix("source.").unwrap_or(path), known()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
            };
            return Err(Error::option("add_fields", format!("there is no fact `{path}`")).hint(hint));
        };
        let to = to.map_or_else(|| path.replace('.', "_"), str::to_owned);
        Ok(Added { name: format!("{prefix}{to}"), fact })
    }
}

/// `{_id, PATH: value, …}`: what an update set, by dotted paths, and null for what it removed.
fn patch(key: Option<&Doc>, change: Option<&Change>) -> Result<Doc> {
    let mut out = vec![0; 4];
    if let Some(key) = key {
        for id in elements(key) {
            let id = id?;
            if id.name == b"_id" {
                element(&mut out, id.name, id.value);
            }
        }
    }
    if let Some(change) = change {
        let update = change.decode()?;
        if !update.truncate.is_empty() {
            return Err(Error::data("an update shortened an array, which its changed fields cannot say")
                .hint("let the source give full documents, look them up with `enrich`, or set `missing` to \"drop\""));
        }
        let mut set = RawDocumentBuf::new();
        for (path, value) in &update.set {
            set.append(name(&path.to_string())?, *value);
        }
        for changed in elements(&set) {
            let changed = changed?;
            element(&mut out, changed.name, changed.value);
        }
        for path in &update.unset {
            header(&mut out, NULL, path.to_string().as_bytes());
        }
    }
    out.push(0);
    patch_length(&mut out, 0)?;
    finished(&out)
}

/// Gives each field to `write`; with a delimiter, the fields of documents within by their joined names.
fn each<'a>(
    all: Elements<'a>,
    delimiter: Option<&str>,
    write: &mut dyn FnMut(&[u8], oplogue_api::raw::Value<'a>) -> Result<()>,
) -> Result<()> {
    let Some(delimiter) = delimiter else {
        for one in all {
            let one = one?;
            write(one.name, one.value)?;
        }
        return Ok(());
    };
    fn inside<'a>(
        all: Elements<'a>,
        prefix: &[u8],
        delimiter: &str,
        depth: usize,
        write: &mut dyn FnMut(&[u8], oplogue_api::raw::Value<'a>) -> Result<()>,
    ) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::data("a document nests too deep to be flattened"));
        }
        for one in all {
            let one = one?;
            // Names of a patch are paths.
            let dotted = one.name.split(|byte| *byte == b'.').collect::<Vec<_>>().join(delimiter.as_bytes());
            let name = [prefix, &dotted].concat();
            let within = one.value.elements().filter(|_| one.value.kind() == Some(ElementType::EmbeddedDocument));
            match within {
                // An empty one has no field that could stand for it.
                Some(within) if within.clone().next().is_some() => {
                    let prefix = [&name[..], delimiter.as_bytes()].concat();
                    inside(within, &prefix, delimiter, depth + 1, write)?;
                }
                _ => write(&name, one.value)?,
            }
        }
        Ok(())
    }
    inside(all, b"", delimiter, 0, write)
}

impl Transform for Unwrap {
    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        event::each(batch, false, |event| {
            if event.op.is_barrier() || !self.scope.has(&event.ns) {
                return Ok(true);
            }
            self.unwrap(event)
        });
        Ok(())
    }
}
