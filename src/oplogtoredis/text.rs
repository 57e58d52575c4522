//! The configuration that an environment of oplogtoredis comes to, as TOML text.

use std::{fmt::Write as _, time::Duration};

use super::{env::Settings, url_variable};

/// What `[engine] checkpoint_interval` takes.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// The complete configuration. Holds no secret: URLs are variables.
pub fn render(s: &Settings) -> String {
    let mut out = String::from(
        "# The configuration that oplogue runs in the place of oplogtoredis, from the variables OTR_*.\n\
         # What each of them means here is in docs/oplogtoredis.md.\n",
    );
    if s.redis_urls.len() > 1 {
        let _ = writeln!(
            out,
            "#\n# OTR_REDIS_URL holds several URLs. `oplogue oplogtoredis` splits it by itself; to run this text with\n\
             # `oplogue run FILE`, set one variable for each:"
        );
        for index in 0..s.redis_urls.len() {
            let _ = writeln!(
                out,
                "#   {}=the URL number {} of OTR_REDIS_URL",
                url_variable(index, s.redis_urls.len()),
                index + 1
            );
        }
    }
    http_log_engine(&mut out, s);
    denylist(&mut out, s);
    out.push_str(
        "\n# Reads what the server has as soon as it has it, as oplogtoredis does; \"majority\" never announces a write that\n\
         # is rolled back later, and is slower by the time that a majority takes. Databases `config` and `local` and\n\
         # collections `system.*` are left out by the source.\n\
         [sources.mongo]\n\
         type = \"mongo-oplog\"\n\
         uri = \"${OTR_MONGO_URL}\"\n\
         start = \"now\"\n\
         read_concern = \"local\"\n",
    );
    for index in 0..s.redis_urls.len() {
        route(&mut out, s, index);
    }
    out
}

fn http_log_engine(out: &mut String, s: &Settings) {
    let _ = write!(
        out,
        "\n[http]\n\
         listen = {}  # OTR_HTTP_SERVER_ADDR\n\
         # /healthz, /denylist and the metrics otr_* as those of oplogtoredis, beside oplogue's own pages.\n\
         style = \"oplogtoredis\"\n",
        quoted(&s.http)
    );
    let (level, format) = match (s.quiet, s.debug) {
        (true, debug) => ("error", debug),
        (false, true) => ("debug", true),
        (false, false) => ("info", false),
    };
    let format = if format { "text" } else { "json" };
    let _ = write!(out, "\n[log]\nlevel = \"{level}\"  # OTR_LOG_DEBUG, OTR_LOG_QUIET\nformat = \"{format}\"\n");
    let interval = s.flush_interval.clamp(INTERVAL.0, INTERVAL.1);
    out.push_str("\n[engine]\n");
    if interval != s.flush_interval {
        let _ = writeln!(
            out,
            "# OTR_TIMESTAMP_FLUSH_INTERVAL is {:?}, and 100ms to 1h are possible here.",
            s.flush_interval
        );
    }
    let _ = writeln!(out, "checkpoint_interval = {}  # OTR_TIMESTAMP_FLUSH_INTERVAL", period(interval));
    if let Some(most) = s.batch_size {
        let _ = writeln!(out, "max_batch = {most}  # OTR_REDIS_BATCH_SIZE");
    }
    out.push_str("shutdown_grace = \"10s\"\n");
}

fn denylist(out: &mut String, s: &Settings) {
    let seeds: Vec<String> = s.seeds.iter().map(|seed| quoted(seed)).collect();
    let _ = write!(
        out,
        "\n# Events of these databases are dropped; /denylist changes the list. It is kept in Redis (nothing is while nobody\n\
         # has changed it), where oplogtoredis has PostgreSQL.\n\
         [denylist]\n\
         databases = [{}]  # OPLOGUE_DENYLIST_SEED\n\
         store = \"redis\"\n\
         \n\
         [state.redis]\n\
         url = \"${{{}}}\"\n\
         {}metadata_prefix = {}\n",
        seeds.join(", "),
        url_variable(0, s.redis_urls.len()),
        ca_file(s, 0),
        quoted(&s.metadata_prefix)
    );
}

fn route(out: &mut String, s: &Settings, index: usize) {
    let count = s.redis_urls.len();
    let name = if count == 1 { "redis".to_owned() } else { format!("redis-{}", index + 1) };
    let _ = write!(
        out,
        "\n[sinks.{name}]\n\
         type = \"redis-oplog\"\n\
         url = \"${{{}}}\"  # OTR_REDIS_URL{}\n\
         {}metadata_prefix = {}  # OTR_REDIS_METADATA_PREFIX\n\
         # Marks and positions that oplogtoredis understands, and writes.\n\
         dedupe = \"keys\"\n\
         dedupe_ttl = \"{}s\"  # OTR_REDIS_DEDUPE_EXPIRATION\n\
         ordinals = {}  # OTR_WRITE_PARALLELISM: how many positions oplogtoredis keeps\n\
         fields = \"{}\"  # OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES\n\
         {}\n\
         # A route has a position of its own: a Redis that is down delays no other, and catches up when it is back.\n\
         [[routes]]\n\
         name = \"{name}\"\n\
         from = [\"mongo\"]\n\
         to = [\"{name}\"]\n\
         max_catch_up = {}  # OTR_MAX_CATCH_UP\n\
         # As oplogtoredis does, but seen: an error in the log, and oplogue_gaps_total, oplogue_events_total{{outcome=\"skipped\"}}.\n\
         on_position_lost = \"from-now\"\n\
         on_bad_event = \"skip\"\n",
        url_variable(index, count),
        if count == 1 { String::new() } else { format!(", number {}", index + 1) },
        ca_file(s, index),
        quoted(&s.metadata_prefix),
        s.dedupe_expiration.as_secs(),
        s.write_parallelism,
        if s.deep_fields { "deep" } else { "logged" },
        resync(s),
        period(s.max_catch_up)
    );
}

/// The line that says what makes subscribers load their data again.
fn resync(s: &Settings) -> String {
    if s.resync.is_empty() {
        return String::new();
    }
    let words: Vec<String> = s.resync.iter().map(|word| quoted(word)).collect();
    format!("resync = [{}]  # OPLOGUE_RESYNC\n", words.join(", "))
}

/// Whom a TLS connection trusts: the authorities of this machine, as oplogtoredis does.
fn ca_file(s: &Settings, index: usize) -> String {
    match &s.authorities {
        Some(file) if s.redis_urls[index].starts_with("rediss") => {
            format!("ca_file = {}  # SSL_CERT_FILE, or that of the system\n", quoted(file))
        }
        _ => String::new(),
    }
}

/// A duration as the configuration has it, in whole milliseconds.
fn period(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    if millis.is_multiple_of(1000) { format!("\"{}s\"", millis / 1000) } else { format!("\"{millis}ms\"") }
}

/// A text as TOML writes it, with what the configuration would take for a variable escaped.
fn quoted(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
