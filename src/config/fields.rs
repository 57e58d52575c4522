//! Checks a table against the list of its keys: names, types, words. Serves the options of plugins and oplogue's own
//! tables alike.

use std::collections::BTreeMap;
use std::time::Duration;

use oplogue_api::{ByteSize, Field, FieldType, Period, closest};
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue},
};

use super::report::{Report, Span};

/// The keys of a table that are right.
#[derive(Default)]
pub(super) struct Checked {
    found: BTreeMap<&'static str, Got>,
    fields: &'static [Field],
}

/// A value that is right.
pub(super) struct Got {
    /// With variables put in.
    pub value: Value,
    pub span: Span,
    /// The texts of a list with their places, or the text itself.
    pub texts: Vec<Text>,
}

/// A text of the file.
#[derive(Clone)]
pub(super) struct Text {
    /// With variables put in.
    pub value: String,
    /// As the file has it: what messages quote.
    pub written: String,
    pub span: Span,
}

impl Checked {
    /// A table that is absent.
    pub fn defaults(fields: &'static [Field]) -> Checked {
        Checked { found: BTreeMap::new(), fields }
    }
    pub fn get(&self, name: &str) -> Option<&Got> {
        self.found.get(name)
    }
    /// The single text of a key.
    pub fn text(&self, name: &str) -> Option<&Text> {
        self.get(name)?.texts.first()
    }
    /// The texts of a list.
    pub fn texts(&self, name: &str) -> &[Text] {
        self.get(name).map_or(&[], |got| &got.texts)
    }
    /// The place of a key's value.
    pub fn span(&self, name: &str) -> Option<&Span> {
        self.get(name).map(|got| &got.span)
    }
    /// The value of a key, or its default.
    fn value(&self, name: &str) -> Option<Value> {
        self.get(name).map(|got| got.value.clone()).or_else(|| {
            let field = self.fields.iter().find(|f| f.name == name)?;
            default_value(field)
        })
    }
    /// A duration, or its default.
    pub fn period(&self, name: &str) -> Duration {
        let value = self.value(name).and_then(|v| v.as_str()?.parse::<Period>().ok());
        value.map_or(Duration::ZERO, |p| p.0)
    }
    /// A size in bytes, or its default.
    pub fn size(&self, name: &str) -> u64 {
        self.value(name).and_then(|v| v.as_str()?.parse::<ByteSize>().ok()).map_or(0, |s| s.0)
    }
    /// A number, or its default.
    pub fn integer(&self, name: &str) -> i64 {
        self.value(name).and_then(|v| v.as_integer()).unwrap_or(0)
    }
    /// A yes or no, or its default.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).and_then(|v| v.as_bool()).unwrap_or(false)
    }
    /// A text, or its default.
    pub fn string(&self, name: &str) -> Option<String> {
        self.value(name)?.as_str().map(str::to_owned)
    }
    /// All values, for a plugin.
    pub fn into_table(self) -> toml::Table {
        self.found.into_iter().map(|(name, got)| (name.to_owned(), got.value)).collect()
    }
}

/// The value of a field's default.
pub(super) fn default_value(field: &Field) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("v = {}", field.default?)).ok()?;
    table.get("v").cloned()
}

/// Checks `table`, which is `what` (`sink "meteor"`), whose head stands at `head`. `beside` are keys that are read elsewhere.
pub(super) fn check(
    report: &mut Report<'_>,
    table: &DeTable<'_>,
    fields: &'static [Field],
    beside: &[&str],
    what: &str,
    head: &Span,
) -> Checked {
    let mut checked = Checked { found: BTreeMap::new(), fields };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if let Some(field) = fields.iter().find(|f| f.name == name) {
            if field.secret {
                report.hide(value);
            }
            if let Some(got) = check_value(report, field, value) {
                checked.found.insert(field.name, got);
            }
        } else if !beside.contains(&name) {
            // What a mistyped key holds may be a secret.
            report.hide(value);
            let known = fields.iter().map(|f| f.name).chain(beside.iter().copied());
            let help = did_you_mean(name, known.clone()).or_else(|| Some(listing("known keys", known)));
            report.error(&key.span(), format!("unknown key `{name}` in {what}"), help);
        }
    }
    for field in fields.iter().filter(|f| f.required) {
        if !table.contains_key(field.name) && !report.is_broken() {
            let help = format!("add `{} = {}`: {}", field.name, sample(field), field.help);
            report.error(head, format!("{what} needs the key `{}`", field.name), Some(help));
        }
    }
    checked
}

/// A help line, if there is a word that is close.
pub(super) fn did_you_mean<'n>(word: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    closest(word, known).map(|meant| format!("did you mean `{meant}`?"))
}

/// `known sinks: a, b`.
pub(super) fn listing<'n>(of: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<_> = known.into_iter().collect();
    if known.is_empty() { format!("{of}: none") } else { format!("{of}: {}", known.join(", ")) }
}

/// What a value of this type looks like in TOML.
pub(crate) fn sample(field: &Field) -> String {
    if let Some(text) = field.example.or(field.default) {
        return text.to_owned();
    }
    match field.kind {
        FieldType::String if field.secret => {
            format!("\"${{{}}}\"", field.name.to_uppercase().replace('-', "_"))
        }
        FieldType::String | FieldType::Any => "\"...\"".into(),
        FieldType::Integer => "1".into(),
        FieldType::Bool => "true".into(),
        FieldType::Duration => "\"30s\"".into(),
        FieldType::Size => "\"64MiB\"".into(),
        FieldType::Strings => "[\"...\"]".into(),
        FieldType::OneOf(words) => format!("\"{}\"", words.first().unwrap_or(&"")),
    }
}

/// The type in words.
pub(crate) fn type_name(kind: FieldType) -> String {
    match kind {
        FieldType::String => "a text in quotes".into(),
        FieldType::Integer => "a whole number".into(),
        FieldType::Bool => "`true` or `false`".into(),
        FieldType::Duration => "a duration such as \"30s\"".into(),
        FieldType::Size => "a size such as \"64MiB\"".into(),
        FieldType::Strings => "a list of texts".into(),
        FieldType::OneOf(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
        FieldType::Any => "a value".into(),
    }
}

fn check_value(report: &mut Report<'_>, field: &Field, value: &Spanned<DeValue<'_>>) -> Option<Got> {
    let span = value.span();
    let wrong_type = |report: &mut Report<'_>, found: &Spanned<DeValue<'_>>, wanted: &str| {
        let help = match (found.get_ref(), field.kind) {
            (DeValue::String(text), FieldType::Integer) if text.parse::<i64>().is_ok() => Some("leave out the quotes"),
            (DeValue::String(text), FieldType::Bool) if matches!(&**text, "true" | "false") => {
                Some("leave out the quotes")
            }
            (DeValue::Integer(_), FieldType::Duration) => Some("add a unit, in quotes: \"500ms\", \"30s\", \"2m\""),
            (DeValue::Integer(_), FieldType::Size) => Some("add a unit, in quotes: \"512KiB\", \"64MiB\""),
            (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_), FieldType::String) => {
                Some("put it in quotes")
            }
            _ => None,
        };
        let found = kind_name(found.get_ref());
        report.error(&span, format!("`{}` must be {wanted}, not {found}", field.name), help.map(str::to_owned));
    };
    let wanted = type_name(field.kind);
    let text = match (field.kind, value.get_ref()) {
        (FieldType::Any, _) => {
            let value = convert(report, value, field.secret)?;
            return Some(Got { value, span, texts: Vec::new() });
        }
        (FieldType::Integer, DeValue::Integer(_)) | (FieldType::Bool, DeValue::Boolean(_)) => {
            let value = convert(report, value, field.secret)?;
            return Some(Got { value, span, texts: Vec::new() });
        }
        (FieldType::Strings, DeValue::Array(array)) => {
            let mut texts = Some(Vec::new());
            for element in array.iter() {
                match element.get_ref() {
                    DeValue::String(_) => match (read_text(report, element, field.secret), &mut texts) {
                        (Some(text), Some(texts)) => texts.push(text),
                        _ => texts = None,
                    },
                    other => {
                        let found = kind_name(other);
                        let message = format!("`{}` is a list of texts: {found} has no place in it", field.name);
                        report.error(&element.span(), message, None);
                        texts = None;
                    }
                }
            }
            let texts = texts?;
            let value = Value::Array(texts.iter().map(|t| Value::String(t.value.clone())).collect());
            return Some(Got { value, span, texts });
        }
        (FieldType::Integer | FieldType::Bool, _) => {
            wrong_type(report, value, &wanted);
            return None;
        }
        (_, DeValue::String(_)) => read_text(report, value, field.secret)?,
        _ => {
            wrong_type(report, value, &wanted);
            return None;
        }
    };
    let quoted = if field.secret { String::new() } else { format!(", not \"{}\"", text.written) };
    let is_right = match field.kind {
        FieldType::Duration => text.value.parse::<Period>().is_ok(),
        FieldType::Size => text.value.parse::<ByteSize>().is_ok(),
        FieldType::OneOf(words) => words.contains(&text.value.as_str()),
        _ => true,
    };
    if !is_right {
        let help = match field.kind {
            FieldType::OneOf(words) => did_you_mean(&text.written, words.iter().copied()),
            FieldType::Duration => Some("a number with a unit: ms, s, m, h or d".into()),
            _ => Some("a number with a unit: B, KiB, MiB, GiB, KB, MB or GB".into()),
        };
        report.error(&span, format!("`{}` must be {wanted}{quoted}", field.name), help);
        return None;
    }
    let value = match field.kind {
        // A lone text is a list of one.
        FieldType::Strings => Value::Array(vec![Value::String(text.value.clone())]),
        _ => Value::String(text.value.clone()),
    };
    Some(Got { value, span, texts: vec![text] })
}

/// A string value; `None` when it is none, or a variable in it is missing (which is told).
pub(super) fn read_text(report: &mut Report<'_>, value: &Spanned<DeValue<'_>>, secret: bool) -> Option<Text> {
    let DeValue::String(raw) = value.get_ref() else { return None };
    let expanded = report.expanded(raw, &value.span(), secret)?;
    Some(Text { value: expanded, written: raw.to_string(), span: value.span() })
}

/// Tells of what is wrong with values whatever they are for: the options of a plugin whose type is not known.
pub(super) fn check_unread(report: &mut Report<'_>, table: &DeTable<'_>) {
    for (key, value) in table {
        if key.get_ref() != "type" {
            convert(report, value, true);
        }
    }
}

/// Any value, with the variables put in.
fn convert(report: &mut Report<'_>, value: &Spanned<DeValue<'_>>, secret: bool) -> Option<Value> {
    Some(match value.get_ref() {
        DeValue::String(raw) => Value::String(report.expanded(raw, &value.span(), secret)?),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                report.error(&value.span(), "this number is too large", Some(format!("the largest is {}", i64::MAX)));
                return None;
            }
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                report.error(&value.span(), "this number cannot be read", None);
                return None;
            }
        },
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(array) => {
            let all: Vec<_> = array.iter().map(|v| convert(report, v, secret)).collect();
            Value::Array(all.into_iter().collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let all: Vec<_> =
                table.iter().map(|(k, v)| Some((k.get_ref().to_string(), convert(report, v, secret)?))).collect();
            Value::Table(all.into_iter().collect::<Option<_>>()?)
        }
    })
}

/// The type of a value, with its article.
pub(super) fn kind_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
