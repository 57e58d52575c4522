//! What the configuration says about a child.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bson::{Bson, Document, RawDocumentBuf};
use oplogue_api::{ByteSize, Context, Error, Field, FieldType, Options, Period, Result};
use serde::Deserialize;

use crate::encoding::Encoding;

pub const FIELDS: &[Field] = &[
    Field::new("command", FieldType::Strings, "The program and its arguments; no shell reads them")
        .required()
        .example("[\"python3\", \"plugin.py\"]"),
    Field::new("options", FieldType::Any, "A table that the child is given as it is").secret().example("{ limit = 10 }"),
    Field::new(
        "encoding",
        FieldType::OneOf(&["bson", "json"]),
        "How messages are written: bson, whole and fast; json, a line of canonical extended JSON each",
    )
    .default("\"bson\""),
    Field::new("dir", FieldType::String, "The folder that the child runs in").example("\"/opt/plugin\""),
    Field::new(
        "env",
        FieldType::Any,
        "Variables of the child's environment, which has PATH, HOME, LANG, LC_ALL, TZ and TMPDIR of oplogue's and nothing else",
    )
    .secret()
    .example("{ TOKEN = \"${TOKEN}\" }"),
    Field::new("stderr", FieldType::OneOf(&["log", "drop"]), "What becomes of the lines that the child writes to stderr")
        .default("\"log\""),
    Field::new("timeout", FieldType::Duration, "How long the child may take for an answer").default("\"30s\""),
    Field::new("grace", FieldType::Duration, "How long it may take to end, once its stdin is closed and again behind SIGTERM")
        .default("\"2s\""),
    Field::new("max_frame", FieldType::Size, "The largest message that it may send").default("\"64MiB\""),
    Field::new(
        "restarts",
        FieldType::Integer,
        "After so many failures without an answer between them the route stops; 0: never",
    )
    .default("10"),
];

/// What is passed on of oplogue's own environment, which may hold secrets.
const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    command: Vec<String>,
    #[serde(default)]
    options: toml::Table,
    #[serde(default)]
    encoding: Encoding,
    dir: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    stderr: Stderr,
    timeout: Option<Period>,
    grace: Option<Period>,
    max_frame: Option<ByteSize>,
    restarts: Option<u32>,
}

/// What becomes of the child's stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stderr {
    #[default]
    Log,
    Drop,
}

/// How to start a child, and what to expect of it.
pub struct Spec {
    /// `source`, `transform` or `sink`.
    pub role: &'static str,
    /// The name of the table in the configuration.
    pub name: String,
    pub route: Option<String>,
    pub source: Option<String>,
    pub program: String,
    pub arguments: Vec<String>,
    pub options: RawDocumentBuf,
    pub encoding: Encoding,
    pub dir: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub stderr: Stderr,
    pub timeout: Duration,
    pub grace: Duration,
    pub max_frame: usize,
    pub restarts: u32,
}

impl Spec {
    /// # Errors
    /// `Operator`, naming the option that is wrong.
    pub fn new(role: &'static str, context: &Context, options: &Options) -> Result<Spec> {
        // serde's own message would quote a value of `env`, which may be a secret.
        if options.table().get("env").is_some_and(|env| {
            env.as_table().is_none_or(|table| {
                table.iter().any(|(name, value)| !value.is_str() || name.is_empty() || name.contains(['=', '\0']))
            })
        }) {
            return Err(Error::option("env", "`env` must be a table of names and texts")
                .hint("write it as env = { TOKEN = \"${TOKEN}\" }"));
        }
        if options.table().get("options").is_some_and(|options| !options.is_table()) {
            return Err(Error::option("options", "`options` must be a table"));
        }
        let table: Table = options.parse()?;
        let [program, arguments @ ..] = table.command.as_slice() else {
            return Err(Error::option("command", "`command` is empty").hint("name a program, and its arguments"));
        };
        if program.is_empty() || table.command.iter().any(|word| word.contains('\0')) {
            return Err(Error::option("command", "`command` names no program"));
        }
        let timeout = table.timeout.map_or(Duration::from_secs(30), |p| p.0);
        // E5: a call that takes longer is taken for one that hangs.
        if timeout.is_zero() || timeout > Duration::from_secs(110) {
            return Err(Error::option("timeout", "`timeout` must be more than 0 and at most 110 s"));
        }
        let max_frame = table.max_frame.map_or(64 << 20, |size| size.0);
        if !(1024..=1 << 30).contains(&max_frame) {
            return Err(Error::option("max_frame", "`max_frame` must be from 1KiB to 1GiB"));
        }
        let mut env: BTreeMap<String, String> =
            PASSED.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
        env.extend(table.env);
        let options = RawDocumentBuf::try_from(&document(table.options))
            .map_err(|_| Error::option("options", "a key of `options` holds a NUL"))?;
        Ok(Spec {
            role,
            name: context.name.clone(),
            route: context.route.clone(),
            source: context.source.clone(),
            program: program.clone(),
            arguments: arguments.to_vec(),
            options,
            encoding: table.encoding,
            dir: table.dir,
            env,
            stderr: table.stderr,
            timeout,
            grace: table.grace.map_or(Duration::from_secs(2), |p| p.0),
            max_frame: max_frame as usize,
            restarts: table.restarts.unwrap_or(10),
        })
    }
}

fn document(table: toml::Table) -> Document {
    table.into_iter().map(|(name, value)| (name, bson(value))).collect()
}

fn bson(value: toml::Value) -> Bson {
    match value {
        toml::Value::String(text) => Bson::String(text),
        toml::Value::Integer(n) => i32::try_from(n).map_or(Bson::Int64(n), Bson::Int32),
        toml::Value::Float(n) => Bson::Double(n),
        toml::Value::Boolean(b) => Bson::Boolean(b),
        toml::Value::Datetime(time) => Bson::String(time.to_string()),
        toml::Value::Array(all) => Bson::Array(all.into_iter().map(bson).collect()),
        toml::Value::Table(table) => Bson::Document(document(table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(toml: &str) -> Result<Spec> {
        Spec::new("sink", &Context::default(), &Options::new(toml.parse().unwrap()))
    }

    #[test]
    fn what_is_wrong_is_named_without_its_value() {
        for (toml, field) in [
            ("command = []", "command"),
            ("command = ['']", "command"),
            ("command = ['x']\ntimeout = '0'", "timeout"),
            ("command = ['x']\ntimeout = '1h'", "timeout"),
            ("command = ['x']\nmax_frame = '1B'", "max_frame"),
            ("command = ['x']\nmax_frame = '2GiB'", "max_frame"),
            ("command = ['x']\nenv = 'secret'", "env"),
            ("command = ['x']\nenv = {A = 31337}", "env"),
            ("command = ['x']\nenv = {'A=B' = 'secret'}", "env"),
            ("command = ['x']\noptions = 'secret'", "options"),
        ] {
            let Err(e) = spec(toml) else { panic!("{toml} was taken") };
            assert_eq!(e.field(), Some(field), "{toml}: {e}");
            assert!(!e.to_string().contains("secret") && !e.to_string().contains("31337"), "{e}");
        }
    }

    #[test]
    fn options_go_on_as_they_are() {
        let spec =
            spec("command = ['x', 'y']\n[options]\na = 1\nb = [true, 1.5, {c = 'd'}]\nlarge = 5000000000").unwrap();
        let expected = bson::doc! {"a": 1, "b": [true, 1.5, {"c": "d"}], "large": 5_000_000_000i64};
        assert_eq!(Document::try_from(spec.options.as_ref()).unwrap(), expected);
        assert_eq!((spec.program.as_str(), spec.arguments.as_slice()), ("x", &["y".to_owned()][..]));
    }

    #[test]
    fn only_what_is_harmless_is_passed_on_of_the_environment() {
        let spec = spec("command = ['x']\nenv = {TOKEN = 't'}").unwrap();
        assert!(spec.env.keys().all(|name| name == "TOKEN" || PASSED.contains(&name.as_str())));
        assert_eq!(spec.env["TOKEN"], "t");
        assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "the environment has more to pass on");
    }
}
