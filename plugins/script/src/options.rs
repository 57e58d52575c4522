//! What the configuration says about a script.

use std::{path::Path, time::Duration};

use oplogue_api::{ByteSize, Context, Error, Field, FieldType, Options, Period, Result};
use serde::Deserialize;

pub const FIELDS: &[Field] = &[
    Field::new("file", FieldType::String, "The script, relative to the folder of the configuration file")
        .example("\"orders.js\""),
    Field::new("code", FieldType::String, "The script itself, in place of `file`; `${` in it is written `$${`")
        .usual()
        .example("\"function transform(event) { return event; }\""),
    Field::new("time", FieldType::Duration, "How much CPU time the script may take for an event").default("\"100ms\""),
    Field::new("memory", FieldType::Size, "How much memory the script may use").default("\"64MiB\""),
    Field::new(
        "log",
        FieldType::Bool,
        "Whether console.log and the whole messages of errors go to the log; they may hold parts of documents",
    )
    .default("false"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    file: Option<String>,
    code: Option<String>,
    time: Option<Period>,
    memory: Option<ByteSize>,
    #[serde(default)]
    log: bool,
}

/// A script and its limits.
#[derive(Clone, Debug)]
pub struct Script {
    /// The name of the table in the configuration.
    pub name: String,
    /// The option that it stands in: `file` or `code`.
    pub option: &'static str,
    /// What it is called in messages.
    pub title: String,
    pub source: String,
    /// CPU time for an event.
    pub time: Duration,
    /// Bytes.
    pub memory: usize,
    /// Whether its texts may be logged.
    pub log: bool,
}

/// The largest script, in bytes.
const LARGEST: usize = 1 << 20;

impl Script {
    /// Reads the options, and the file.
    ///
    /// # Errors
    /// `Operator`, naming the option that is wrong.
    pub fn new(context: &Context, options: &Options) -> Result<Script> {
        let table: Table = options.parse()?;
        let (option, title, source) = match (table.file, table.code) {
            (Some(file), None) => {
                let path = context.config_dir.join(&file);
                ("file", file, read(&path)?)
            }
            (None, Some(code)) => ("code", "code".to_owned(), code),
            (Some(_), Some(_)) => {
                return Err(Error::option("code", "`file` and `code` are both given").hint("leave one of them out"));
            }
            (None, None) => {
                return Err(
                    Error::operator("a script is missing").hint("give `file = \"NAME.js\"`, or `code = '''…'''`")
                );
            }
        };
        if source.len() > LARGEST {
            return Err(Error::option(option, "the script is larger than 1 MiB"));
        }
        let time = table.time.map_or(Duration::from_millis(100), |p| p.0);
        if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&time) {
            return Err(Error::option("time", "`time` must be from 1ms to 10s"));
        }
        let memory = table.memory.map_or(64 << 20, |size| size.0);
        if !(1 << 20..=1 << 30).contains(&memory) {
            return Err(Error::option("memory", "`memory` must be from 1MiB to 1GiB"));
        }
        Ok(Script { name: context.name.clone(), option, title, source, time, memory: memory as usize, log: table.log })
    }
}

fn read(path: &Path) -> Result<String> {
    let cannot = |what: &dyn std::fmt::Display| {
        Error::option("file", format!("cannot read {}: {what}", path.display()))
            .hint("`file` is relative to the folder of the configuration file")
    };
    // A pipe or a device might have no end, or nothing to say.
    let metadata = std::fs::metadata(path).map_err(|e| cannot(&e))?;
    if !metadata.is_file() {
        return Err(cannot(&"it is no file"));
    }
    if metadata.len() > LARGEST as u64 {
        return Err(cannot(&"a script may have 1 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|e| cannot(&e))?;
    String::from_utf8(bytes).map_err(|_| cannot(&"it is not UTF-8 text"))
}
