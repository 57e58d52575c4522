//! oplogue's own tables: `[http]`, `[state]`, `[log]`, `[engine]`, `[denylist]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use oplogue_api::{Field, FieldType};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    HttpPlan, LogPlan,
    fields::{Checked, check, kind_name},
    report::{Report, Span},
};
use crate::telemetry::log::check_level;

pub(super) static HTTP: [Field; 2] = [
    Field::new(
        "listen",
        FieldType::String,
        "Address and port for /metrics, /healthz, /readyz and /api/v1/routes. The table alone switches them on.",
    )
    .default("\"127.0.0.1:9100\""),
    Field::new(
        "style",
        FieldType::OneOf(&["oplogue", "oplogtoredis"]),
        "\"oplogtoredis\": /healthz answers as oplogtoredis does, and /metrics has its metrics beside oplogue's own.",
    )
    .default("\"oplogue\""),
];

pub(super) static DENYLIST: [Field; 2] = [
    Field::new("databases", FieldType::Strings, "The databases whose events are dropped, put back at every start.")
        .default("[\"admin\"]"),
    Field::new("store", FieldType::String, "Where changes of the list are kept: the type of a checkpoint store.")
        .default("\"file\""),
];

pub(super) static STATE: [Field; 1] =
    [Field::new("dir", FieldType::String, "Folder of the file checkpoints.").default("\"./oplogue-state\"")];

pub(super) static LOG: [Field; 2] = [
    Field::new(
        "level",
        FieldType::String,
        "error, warn, info, debug, trace or off; or a filter such as \"info,oplogue=debug\".",
    )
    .default("\"info\""),
    Field::new("format", FieldType::OneOf(&["text", "json"]), "Text on a terminal and JSON otherwise, when absent."),
];

pub(super) static ENGINE: [Field; 3] = [
    Field::new("shutdown_grace", FieldType::Duration, "How long events in flight may take to be delivered at the end.")
        .default("\"10s\""),
    Field::new("max_batch", FieldType::Integer, "The most events in one write of a sink.").default("1000"),
    Field::new(
        "checkpoint_interval",
        FieldType::Duration,
        "How often a checkpoint is saved, at the most; 100ms or more.",
    )
    .default("\"1s\""),
];

/// The longest `shutdown_grace` and `checkpoint_interval`.
const LONGEST: Duration = Duration::from_secs(3600);

/// What these tables come to.
pub(super) struct Settings {
    pub http: Option<HttpPlan>,
    /// `[denylist]`, and whether there is such a table.
    pub denylist: Option<Checked>,
    pub log: LogPlan,
    pub shutdown_grace: Duration,
    pub max_batch: usize,
    pub checkpoint_interval: Duration,
    pub state_dir: PathBuf,
    pub config_dir: PathBuf,
}

/// A table of the top level, and the place of its head.
pub(super) fn table<'t, 'i>(
    report: &mut Report<'_>,
    root: &'t DeTable<'i>,
    name: &str,
) -> Option<(&'t DeTable<'i>, Span)> {
    let (key, value) = root.get_key_value(name)?;
    let help = match name {
        "sources" | "transforms" | "sinks" => format!("write `[{name}.NAME]`"),
        _ => format!("write `[{name}]`"),
    };
    as_table(report, value, &key.span(), &format!("`{name}` must be a table"), &help)
}

/// A value that must be a table, and the place of its head.
pub(super) fn as_table<'t, 'i>(
    report: &mut Report<'_>,
    value: &'t Spanned<DeValue<'i>>,
    key: &Span,
    message: &str,
    help: &str,
) -> Option<(&'t DeTable<'i>, Span)> {
    match value.get_ref() {
        // An inline table has its braces for a span, a table under a head the head.
        DeValue::Table(table) => {
            let span = value.span();
            let is_inline = report.text.get(span.clone()).is_some_and(|s| s.starts_with('{'));
            Some((table, if is_inline { key.clone() } else { span }))
        }
        other => {
            report.hide(value);
            report.error(key, format!("{message}, not {}", kind_name(other)), Some(help.to_owned()));
            None
        }
    }
}

pub(super) fn read(report: &mut Report<'_>, root: &DeTable<'_>, stores: &[&str]) -> Settings {
    let section = |report: &mut Report<'_>, name: &str, fields: &'static [Field], beside: &[&str]| match table(
        report, root, name,
    ) {
        Some((found, head)) => check(report, found, fields, beside, &format!("`[{name}]`"), &head),
        None => Checked::defaults(fields),
    };
    let http = section(report, "http", &HTTP, &[]);
    let state = section(report, "state", &STATE, stores);
    let log = section(report, "log", &LOG, &[]);
    let engine = section(report, "engine", &ENGINE, &[]);
    let denylist = root.contains_key("denylist").then(|| section(report, "denylist", &DENYLIST, &[]));

    within(report, &engine, "shutdown_grace", Duration::ZERO, LONGEST);
    within(report, &engine, "checkpoint_interval", Duration::from_millis(100), LONGEST);
    between(report, &engine, "max_batch", 1, 1_000_000);
    if let Some(dir) = state.text("dir")
        && dir.value.trim().is_empty()
    {
        report.error(&dir.span, "`dir` must not be empty", Some("write `.` for the current folder".into()));
    }
    Settings {
        http: root.contains_key("http").then(|| listen(report, &http)).flatten().map(|listen| HttpPlan {
            listen,
            like_oplogtoredis: http.string("style").as_deref() == Some("oplogtoredis"),
        }),
        denylist,
        log: LogPlan { level: level(report, &log), json: log.text("format").map(|f| f.value == "json") },
        shutdown_grace: engine.period("shutdown_grace"),
        max_batch: engine.integer("max_batch").max(1) as usize,
        checkpoint_interval: engine.period("checkpoint_interval"),
        state_dir: PathBuf::from(state.string("dir").unwrap_or_default()),
        config_dir: report.config_dir.clone(),
    }
}

/// Checks the range of a number.
pub(super) fn between(report: &mut Report<'_>, checked: &Checked, name: &str, least: i64, most: i64) {
    if let Some(span) = checked.span(name)
        && !(least..=most).contains(&checked.integer(name))
    {
        report.error(span, format!("`{name}` must be from {least} to {most}"), None);
    }
}

fn within(report: &mut Report<'_>, checked: &Checked, name: &str, least: Duration, most: Duration) {
    if let Some(span) = checked.span(name)
        && !(least..=most).contains(&checked.period(name))
    {
        let range = match least {
            Duration::ZERO => format!("at most {}h", most.as_secs() / 3600),
            _ => format!("from {least:?} to {}h", most.as_secs() / 3600),
        };
        report.error(span, format!("`{name}` must be {range}"), None);
    }
}

fn listen(report: &mut Report<'_>, http: &Checked) -> Option<SocketAddr> {
    let text = http.string("listen")?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            if let Some(wrong) = http.text("listen") {
                let help = match text.strip_prefix(':').map(str::parse::<u16>) {
                    Some(Ok(port)) => format!("write \"0.0.0.0:{port}\" for all addresses of this machine"),
                    _ => "write an IP address and a port, such as \"127.0.0.1:9100\" or \"[::1]:9100\"".into(),
                };
                report.error(&wrong.span, "`listen` must be an IP address with a port", Some(help));
            }
            None
        }
    }
}

fn level(report: &mut Report<'_>, log: &Checked) -> Option<String> {
    let level = log.text("level")?;
    if let Err(e) = check_level(&level.value) {
        report.plugin_error(&level.span, "`level`", &e);
    }
    Some(level.value.clone())
}
