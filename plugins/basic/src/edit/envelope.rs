//! The `envelope` transform: an event as one document, as consumers of Debezium or of CloudEvents expect it.

use bson::{DateTime, RawArrayBuf, RawBson, RawDocumentBuf, cstr, rawdoc};
use oplogue_api::{
    Batch, Context, Doc, Event, Field, FieldType, Op, Registry, Result, Transform, Update, raw::elements,
};
use serde::Deserialize;

use super::{
    event, legacy,
    scope::{NAMESPACES, Scope},
};

const FIELDS: &[Field] = &[
    Field::new("format", FieldType::OneOf(&["debezium", "cloudevents"]), "Whose envelope it is")
        .default("\"debezium\""),
    Field::new("name", FieldType::String, "What the envelope calls the deployment; by default as the source is called"),
    NAMESPACES,
];

pub(super) fn register(r: &mut Registry) {
    r.transform("envelope", "Puts events into the envelopes of Debezium or CloudEvents", FIELDS, |context, options| {
        Ok(Box::new(Envelope::new(context, options.parse()?)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    format: Format,
    name: Option<String>,
    namespaces: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Debezium,
    Cloudevents,
}

struct Envelope {
    format: Format,
    name: String,
    scope: Scope,
}

impl Envelope {
    fn new(context: &Context, options: Options) -> Result<Envelope> {
        let name = options.name.or_else(|| context.source.clone()).unwrap_or_default();
        Ok(Envelope { format: options.format, name, scope: Scope::new(options.namespaces.as_deref())? })
    }

    /// `{before, after, updateDescription, source, op, ts_ms, transaction}`
    fn payload(&self, event: &Event) -> Result<RawDocumentBuf> {
        let mut out = RawDocumentBuf::new();
        for (name, doc) in [(cstr!("before"), &event.before), (cstr!("after"), &event.after)] {
            out.append(name, json(doc.as_ref())?);
        }
        match &event.change {
            Some(change) => out.append(cstr!("updateDescription"), description(&change.decode()?)?),
            None => out.append(cstr!("updateDescription"), RawBson::Null),
        }
        out.append(cstr!("source"), source(&self.name, event)?);
        out.append(cstr!("op"), letter(event.op));
        // When oplogue saw it would not be the same a second time.
        out.append(cstr!("ts_ms"), millis(event));
        out.append(cstr!("transaction"), RawBson::Null);
        Ok(out)
    }

    /// CloudEvents 1.0, structured.
    fn cloud_event(&self, event: &Event) -> Result<RawDocumentBuf> {
        let time = DateTime::from_millis(millis(event)).try_to_rfc3339_string().unwrap_or_default();
        let mut data = RawDocumentBuf::new();
        data.append(cstr!("op"), event.op.name());
        for (name, doc) in
            [(cstr!("key"), &event.key), (cstr!("before"), &event.before), (cstr!("after"), &event.after)]
        {
            if let Some(doc) = doc {
                data.append(name, &**doc);
            }
        }
        if let Some(change) = &event.change {
            let Update { set, unset, truncate } = change.decode()?;
            let (mut updated, mut removed, mut truncated) =
                (RawDocumentBuf::new(), RawArrayBuf::new(), RawArrayBuf::new());
            for (path, value) in set {
                updated.append(name(&path.to_string())?, value);
            }
            unset.iter().for_each(|path| removed.push(path.to_string()));
            for (path, size) in truncate {
                truncated.push(rawdoc! {"field": path.to_string(), "newSize": i64::from(size)});
            }
            let all = rawdoc! {"updatedFields": updated, "removedFields": removed, "truncatedArrays": truncated};
            data.append(cstr!("updateDescription"), all);
        }
        let mut out = rawdoc! {
            "specversion": "1.0",
            "id": event.id().to_string(),
            "source": format!("/oplogue/{}", self.name),
            "type": format!("oplogue.{}", event.op.name()),
            "time": time,
            "subject": event.ns.as_str(),
            "datacontenttype": "application/json",
        };
        out.append(cstr!("data"), data);
        Ok(out)
    }
}

/// When the primary wrote it, in milliseconds since 1970; to the second where the server does not say.
pub(super) fn millis(event: &Event) -> i64 {
    event.wall.unwrap_or(i64::from(event.time.time) * 1000)
}

/// The members of Debezium's `source`, those that oplogue has.
pub(super) const SOURCE: &[&str] =
    &["version", "connector", "name", "ts_ms", "snapshot", "db", "collection", "ord", "lsid", "txnNumber"];

/// Debezium's `source`. `name` is what it calls the deployment.
pub(super) fn source(name: &str, event: &Event) -> Result<RawDocumentBuf> {
    let mut source = rawdoc! {
        "version": env!("CARGO_PKG_VERSION"), "connector": "mongodb", "name": name, "ts_ms": millis(event), "snapshot": "false",
        "db": event.ns.db(), "collection": event.ns.coll(), "ord": i64::from(event.time.increment),
    };
    match &event.txn {
        Some(txn) => {
            source.append(cstr!("lsid"), json(Some(&txn.lsid))?);
            source.append(cstr!("txnNumber"), txn.number);
        }
        None => {
            source.append(cstr!("lsid"), RawBson::Null);
            source.append(cstr!("txnNumber"), RawBson::Null);
        }
    }
    Ok(source)
}

pub(super) fn name(path: &str) -> Result<bson::raw::CString> {
    bson::raw::CString::try_from(path).map_err(|_| oplogue_api::Error::data("a path holds a zero byte"))
}

/// The letter that Debezium has for an operation; a replacement is an update there.
pub(super) fn letter(op: Op) -> &'static str {
    match op {
        Op::Insert => "c",
        Op::Delete => "d",
        _ => "u",
    }
}

fn json(doc: Option<&Doc>) -> Result<RawBson> {
    let Some(doc) = doc else { return Ok(RawBson::Null) };
    let mut text = String::with_capacity(doc.as_bytes().len() * 2);
    legacy::document(&mut text, elements(doc))?;
    Ok(RawBson::String(text))
}

/// `{removedFields: [path], updatedFields: JSON, truncatedArrays: [{field, size}]}`, null for what is empty.
fn description(update: &Update<'_>) -> Result<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    if update.unset.is_empty() {
        out.append(cstr!("removedFields"), RawBson::Null);
    } else {
        out.append(cstr!("removedFields"), update.unset.iter().map(ToString::to_string).collect::<RawArrayBuf>());
    }
    if update.set.is_empty() {
        out.append(cstr!("updatedFields"), RawBson::Null);
    } else {
        let mut updated = RawDocumentBuf::new();
        for (path, value) in &update.set {
            updated.append(name(&path.to_string())?, *value);
        }
        out.append(cstr!("updatedFields"), json(Some(&updated.into()))?);
    }
    if update.truncate.is_empty() {
        out.append(cstr!("truncatedArrays"), RawBson::Null);
    } else {
        let all = update.truncate.iter().map(|(path, n)| rawdoc! {"field": path.to_string(), "size": i64::from(*n)});
        out.append(cstr!("truncatedArrays"), all.collect::<RawArrayBuf>());
    }
    Ok(out)
}

impl Transform for Envelope {
    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        event::each(batch, false, |event| {
            if event.op.is_barrier() || !self.scope.has(&event.ns) {
                return Ok(true);
            }
            let envelope = match self.format {
                Format::Debezium => self.payload(event)?,
                Format::Cloudevents => self.cloud_event(event)?,
            };
            event.after = Some(envelope.into());
            // They are in the envelope.
            (event.before, event.change) = (None, None);
            Ok(true)
        });
        Ok(())
    }
}
