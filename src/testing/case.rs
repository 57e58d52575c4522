//! Cases of a test file, and events as they are written in TOML.

use oplogue_api::{
    Change, Doc, Error, Event, Namespace, Op, Result,
    bson::{Bson, Document, RawDocumentBuf, Timestamp, doc},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The file: `[[case]]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    #[serde(default)]
    pub case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The source that the events come from; all routes of other sources are left alone. Absent: all routes.
    pub source: Option<String>,
    pub input: Vec<toml::Table>,
    #[serde(default)]
    pub expect: Vec<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub sink: String,
    /// Where several routes lead to the sink.
    pub route: Option<String>,
    #[serde(default)]
    pub events: Vec<toml::Table>,
    /// How many events a transform refuses.
    #[serde(default)]
    pub refused: u64,
}

const MEMBERS: &[&str] = &["op", "ns", "key", "after", "before", "update", "to", "wall"];

/// The `n`-th event of a case.
///
/// # Errors
/// `Operator`, naming the member.
pub fn event(table: &toml::Table, n: usize) -> Result<Event> {
    let mut members = members(table)?;
    let mut text = |name: &str| match members.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(name, "must be a text")),
    };
    let op = text("op")?.unwrap_or_else(|| "insert".into());
    let op =
        Op::named(&op).map_err(|e| wrong("op", &format!("is no operation: {}", e.get_hint().unwrap_or_default())))?;
    let ns = text("ns")?.ok_or_else(|| wrong("ns", "is missing: the namespace, such as \"app.orders\""))?;
    let to = text("to")?;
    let time = Timestamp { time: 1_700_000_000 + n as u32, increment: 1 };
    let mut event = Event::new(op, Namespace::new(&ns), time, Doc::empty());
    event.to = to.as_deref().map(Namespace::new);
    event.after = document(members.remove("after"), "after")?;
    event.before = document(members.remove("before"), "before")?;
    event.key = document(members.remove("key"), "key")?;
    if let Some(update) = document(members.remove("update"), "update")? {
        event.change = Some(change(&update)?);
    }
    event.wall = match members.remove("wall").map(Bson::try_from) {
        None => Some(i64::from(time.time) * 1000),
        Some(Ok(Bson::DateTime(at))) => Some(at.timestamp_millis()),
        Some(_) => return Err(wrong("wall", "must be a date, such as 2026-01-31T10:00:00Z")),
    };
    if event.key.is_none() && !op.is_barrier() {
        let from = event.after.as_ref().or(event.before.as_ref());
        let id = from.and_then(|document| document.get("_id").ok().flatten()).and_then(|id| Bson::try_from(id).ok());
        let id = id.ok_or_else(|| wrong("key", "is missing: {_id = …}, unless `after` or `before` has an _id"))?;
        event.key = Some(raw(&doc! {"_id": id})?);
    }
    if op == Op::Update && event.change.is_none() {
        return Err(wrong("update", "is missing: what changes, such as {set = {status = \"paid\"}}"));
    }
    Ok(event)
}

fn members(table: &toml::Table) -> Result<Map<String, Value>> {
    if let Some(unknown) = table.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(wrong(unknown, &format!("is no member of an event: {}", MEMBERS.join(", "))));
    }
    Ok(table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect())
}

fn wrong(name: &str, what: &str) -> Error {
    Error::operator(format!("`{name}` of an event {what}"))
}

fn raw(document: &Document) -> Result<Doc> {
    Ok(RawDocumentBuf::try_from(document).map_err(|e| Error::operator(format!("no BSON: {e}")))?.into())
}

/// A document, as a table or as a text in Extended JSON.
fn document(value: Option<Value>, name: &str) -> Result<Option<Doc>> {
    let value = match value {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|e| wrong(name, &format!("is no Extended JSON: line {}, column {}", e.line(), e.column())))?,
        Some(value) => value,
    };
    match Bson::try_from(value) {
        Ok(Bson::Document(document)) => raw(&document).map(Some),
        _ => Err(wrong(name, "must be a table, or a document in Extended JSON")),
    }
}

/// `{set, unset, truncate}` as a change stream says it.
fn change(update: &Doc) -> Result<Change> {
    let update = Document::try_from(&**update).map_err(|e| wrong("update", &e.to_string()))?;
    if let Some(unknown) = update.keys().find(|key| !["set", "unset", "truncate"].contains(&key.as_str())) {
        return Err(wrong("update", &format!("has no member `{unknown}`: set, unset, truncate")));
    }
    let table = |name| match update.get(name) {
        None => Ok(Document::new()),
        Some(Bson::Document(table)) => Ok(table.clone()),
        Some(_) => Err(wrong("update", &format!("needs a table as `{name}`"))),
    };
    let unset = match update.get("unset") {
        None => Vec::new(),
        Some(Bson::Array(paths)) => paths.clone(),
        Some(_) => return Err(wrong("update", "needs a list of paths as `unset`")),
    };
    let truncate: Vec<Bson> =
        table("truncate")?.into_iter().map(|(field, size)| doc! {"field": field, "newSize": size}.into()).collect();
    let description = doc! {"updatedFields": table("set")?, "removedFields": unset, "truncatedArrays": truncate};
    raw(&description).map(Change::ChangeStream)
}

/// TOML as Extended JSON: dates become dates.
pub fn json_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text.as_str()),
        toml::Value::Integer(n) => Value::from(*n),
        toml::Value::Float(x) => {
            serde_json::Number::from_f64(*x).map_or_else(|| json!({"$numberDouble": x.to_string()}), Value::Number)
        }
        toml::Value::Boolean(is) => Value::from(*is),
        toml::Value::Datetime(at) => json!({"$date": at.to_string()}),
        toml::Value::Array(all) => all.iter().map(json_of).collect(),
        toml::Value::Table(table) => table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect(),
    }
}

/// What is expected of an event, in the form of [`shown`].
///
/// # Errors
/// As [`event`].
pub fn expected(table: &toml::Table) -> Result<Value> {
    let mut members = members(table)?;
    for name in ["key", "after", "before", "update"] {
        if let Some(value) = members.remove(name) {
            // Through BSON and back, so that both sides write a value alike.
            let document = document(Some(value), name)?;
            members.insert(name.to_owned(), document.map_or(Value::Null, |d| relaxed(&d)));
        }
    }
    Ok(Value::Object(members))
}

fn relaxed(document: &Doc) -> Value {
    Document::try_from(&**document).map_or(Value::Null, |d| Bson::Document(d).into_relaxed_extjson())
}

/// An event as a test sees it: relaxed Extended JSON of the members that may be expected.
pub fn shown(event: &Event) -> Result<Value> {
    let mut all = Map::new();
    all.insert("op".into(), event.op.name().into());
    all.insert("ns".into(), event.ns.as_str().into());
    for (name, part) in [("key", &event.key), ("after", &event.after), ("before", &event.before)] {
        if let Some(part) = part {
            all.insert(name.into(), relaxed(part));
        }
    }
    if let Some(change) = &event.change {
        let update = change.decode()?;
        let mut of = Map::new();
        if !update.set.is_empty() {
            let set = update.set.iter().map(|(path, value)| {
                (path.to_string(), Bson::try_from(*value).map_or(Value::Null, Bson::into_relaxed_extjson))
            });
            of.insert("set".into(), Value::Object(set.collect()));
        }
        if !update.unset.is_empty() {
            of.insert("unset".into(), update.unset.iter().map(|path| Value::from(path.to_string())).collect());
        }
        if !update.truncate.is_empty() {
            let cut = update.truncate.iter().map(|(path, size)| (path.to_string(), Value::from(*size)));
            of.insert("truncate".into(), Value::Object(cut.collect()));
        }
        all.insert("update".into(), Value::Object(of));
    }
    if let Some(to) = &event.to {
        all.insert("to".into(), to.as_str().into());
    }
    if let Some(wall) = event.wall {
        all.insert(
            "wall".into(),
            Bson::DateTime(oplogue_api::bson::DateTime::from_millis(wall)).into_relaxed_extjson(),
        );
    }
    Ok(Value::Object(all))
}
