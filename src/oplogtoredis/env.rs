//! The environment of oplogtoredis, read. `docs/oplogtoredis.md` lists every variable.

use std::time::Duration;

use super::go;

/// A variable, and the name that is also accepted.
type Names = (&'static str, Option<&'static str>);

const REDIS_URL: Names = ("OTR_REDIS_URL", None);
const MONGO_URL: Names = ("OTR_MONGO_URL", None);
const HTTP_SERVER_ADDR: Names = ("OTR_HTTP_SERVER_ADDR", Some("HTTP_SERVER_ADDR"));
const EXTRACT_SUBFIELDS: Names = ("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", Some("OPLOG_V2_EXTRACT_SUBFIELD_CHANGES"));
const PG_URL: Names = ("OTR_PG_PERSISTENCE_URL", Some("PG_PERSISTENCE_URL"));
const SENTRY_DSN: Names = ("OTR_SENTRY_DSN", Some("SENTRY_DSN"));
/// Not one of oplogtoredis.
const DENYLIST_SEED: Names = ("OPLOGUE_DENYLIST_SEED", None);
/// Not one of oplogtoredis.
const RESYNC: Names = ("OPLOGUE_RESYNC", None);

/// Every variable that is read: for documentation and its tests.
pub const VARIABLES: [&str; 26] = [
    REDIS_URL.0,
    MONGO_URL.0,
    HTTP_SERVER_ADDR.0,
    "OTR_BUFFER_SIZE",
    "OTR_TIMESTAMP_FLUSH_INTERVAL",
    "OTR_MAX_CATCH_UP",
    "OTR_REDIS_DEDUPE_EXPIRATION",
    "OTR_REDIS_METADATA_PREFIX",
    "OTR_MONGO_CONNECT_TIMEOUT",
    "OTR_MONGO_QUERY_TIMEOUT",
    EXTRACT_SUBFIELDS.0,
    "OTR_WRITE_PARALLELISM",
    "OTR_READ_PARALLELISM",
    PG_URL.0,
    "OTR_RESUME_TS_READ_RETRIES",
    "OTR_RESUME_TS_READ_RETRY_DELAY",
    "OTR_RESUME_FROM_END_ON_FAILURE",
    "OTR_REDIS_BATCH_SIZE",
    "OTR_SENTRY_ENABLED",
    SENTRY_DSN.0,
    "OTR_SENTRY_ENVIRONMENT",
    "OTR_SENTRY_RELEASE",
    "OTR_LOG_DEBUG",
    "OTR_LOG_QUIET",
    DENYLIST_SEED.0,
    RESYNC.0,
];

/// What is wrong with a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub variable: &'static str,
    /// What is wrong, as a sentence that begins with the name is continued. Holds no value of a secret.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// What the environment says.
#[derive(Clone)]
pub struct Settings {
    /// `OTR_REDIS_URL`, split. Secrets.
    pub redis_urls: Vec<String>,
    /// `OTR_MONGO_URL`. A secret.
    pub mongo_url: String,
    /// `OTR_HTTP_SERVER_ADDR`, as an IP address with a port.
    pub http: String,
    /// `OTR_TIMESTAMP_FLUSH_INTERVAL`.
    pub flush_interval: Duration,
    /// `OTR_MAX_CATCH_UP`.
    pub max_catch_up: Duration,
    /// `OTR_REDIS_DEDUPE_EXPIRATION`.
    pub dedupe_expiration: Duration,
    /// `OTR_REDIS_METADATA_PREFIX`.
    pub metadata_prefix: String,
    /// `OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES`.
    pub deep_fields: bool,
    /// `OTR_WRITE_PARALLELISM`.
    pub write_parallelism: i64,
    /// `OTR_REDIS_BATCH_SIZE`, when it is set.
    pub batch_size: Option<i64>,
    /// `OTR_PG_PERSISTENCE_URL` is set.
    pub postgres: bool,
    /// `OTR_SENTRY_ENABLED`.
    pub sentry: bool,
    /// `OTR_LOG_DEBUG` is set to something.
    pub debug: bool,
    /// `OTR_LOG_QUIET` is set to something.
    pub quiet: bool,
    /// `OPLOGUE_DENYLIST_SEED`, split at commas.
    pub seeds: Vec<String>,
    /// `OPLOGUE_RESYNC`, split at commas: words of the sink's option `resync`.
    pub resync: Vec<String>,
    /// The file with the authorities that this machine trusts: not read from the environment alone, so `None` here.
    pub authorities: Option<String>,
}

/// Reads the environment through `lookup`. What is wrong is listed, all of it; in its place stands the default.
pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> (Settings, Vec<Problem>) {
    let mut r = Reader { lookup, problems: Vec::new() };
    let redis = r.required(REDIS_URL, "redis://host:6379; several are separated by commas");
    let mongo = r.required(MONGO_URL, "mongodb://host:27017/?replicaSet=rs0");
    let settings = Settings {
        redis_urls: redis.as_deref().map(split_urls).unwrap_or_default(),
        mongo_url: mongo.unwrap_or_default(),
        http: r.address(HTTP_SERVER_ADDR, "0.0.0.0:9000"),
        flush_interval: r.duration("OTR_TIMESTAMP_FLUSH_INTERVAL", Duration::from_secs(1)),
        max_catch_up: r.duration("OTR_MAX_CATCH_UP", Duration::from_secs(120)),
        dedupe_expiration: r.time_to_live("OTR_REDIS_DEDUPE_EXPIRATION", Duration::from_secs(150)),
        metadata_prefix: r.text("OTR_REDIS_METADATA_PREFIX").unwrap_or_else(|| "oplogtoredis::".into()),
        deep_fields: r.boolean(EXTRACT_SUBFIELDS),
        write_parallelism: r.integer("OTR_WRITE_PARALLELISM", 1..=256).unwrap_or(1),
        batch_size: r.integer("OTR_REDIS_BATCH_SIZE", 1..=1_000_000),
        postgres: r.get(PG_URL).is_some_and(|url| !url.is_empty()),
        sentry: r.boolean(("OTR_SENTRY_ENABLED", None)),
        debug: r.is_set("OTR_LOG_DEBUG"),
        quiet: r.is_set("OTR_LOG_QUIET"),
        seeds: r.text(DENYLIST_SEED.0).map_or_else(|| vec!["admin".into()], |list| words(&list)),
        resync: r.resync(),
        authorities: None,
    };
    // Without effect here, and yet a mistake in them is told, as it was before.
    r.integer("OTR_BUFFER_SIZE", 0..=i64::MAX);
    r.integer("OTR_READ_PARALLELISM", 1..=i64::MAX);
    r.integer("OTR_RESUME_TS_READ_RETRIES", 0..=i64::MAX);
    r.duration("OTR_RESUME_TS_READ_RETRY_DELAY", Duration::ZERO);
    r.boolean(("OTR_RESUME_FROM_END_ON_FAILURE", None));
    r.duration("OTR_MONGO_CONNECT_TIMEOUT", Duration::ZERO);
    r.duration("OTR_MONGO_QUERY_TIMEOUT", Duration::ZERO);
    (settings, r.problems)
}

/// The words of a list.
fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// The URLs of a list. A comma ends one only where a scheme follows: the hosts of one URL are separated by commas too.
fn split_urls(list: &str) -> Vec<String> {
    let begins_url = |text: &str| {
        let text = text.trim_start();
        text.split_once("://").is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        })
    };
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in list.match_indices(',') {
        if begins_url(&list[comma + 1..]) {
            urls.push(list[start..comma].trim().to_owned());
            start = comma + 1;
        }
    }
    urls.push(list[start..].trim().to_owned());
    urls
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn get(&self, (name, alias): Names) -> Option<String> {
        (self.lookup)(name).or_else(|| alias.and_then(|alias| (self.lookup)(alias)))
    }

    /// A text, which may be empty on purpose.
    fn text(&self, name: &'static str) -> Option<String> {
        (self.lookup)(name)
    }

    fn is_set(&self, name: &'static str) -> bool {
        self.text(name).is_some_and(|value| !value.is_empty())
    }

    fn problem(&mut self, variable: &'static str, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { variable, message: message.into(), help: help.into() });
    }

    fn required(&mut self, names: Names, example: &str) -> Option<String> {
        let value = self.get(names).filter(|value| !value.trim().is_empty());
        if value.is_none() {
            self.problem(names.0, "is required and not set", format!("set it: {example}"));
        }
        value
    }

    /// A value that is read by `parse`; empty is as good as not set.
    fn parsed<T>(&mut self, names: Names, parse: impl FnOnce(&str) -> Result<T, String>, help: &str) -> Option<T> {
        let value = self.get(names).filter(|value| !value.is_empty())?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                self.problem(names.0, format!("`{value}` {wrong}"), help);
                None
            }
        }
    }

    fn duration(&mut self, name: &'static str, default: Duration) -> Duration {
        let help = "write a number with a unit, such as 500ms, 90s, 2m30s or 1h";
        self.parsed((name, None), |v| go::duration(v).map_err(str::to_owned), help).unwrap_or(default)
    }

    /// How long Redis keeps a mark: in whole seconds, for a year at most.
    fn time_to_live(&mut self, name: &'static str, default: Duration) -> Duration {
        let duration = self.duration(name, default);
        if (1..=365 * 24 * 3600).contains(&duration.as_secs()) {
            return duration;
        }
        self.problem(name, "is less than a second or more than a year", "write something between, such as 150s");
        default
    }

    fn integer(&mut self, name: &'static str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (least, most) = (*range.start(), *range.end());
        let help = if most == i64::MAX {
            format!("write a number from {least}")
        } else {
            format!("write a number from {least} to {most}")
        };
        let parse = |v: &str| match go::integer(v) {
            None => Err("is not a whole number".to_owned()),
            Some(n) if !range.contains(&n) => Err(format!("is not {}", help.trim_start_matches("write "))),
            Some(n) => Ok(n),
        };
        self.parsed((name, None), parse, &help)
    }

    fn resync(&mut self) -> Vec<String> {
        const KNOWN: [&str; 3] = ["gap", "drop", "rename"];
        let parse = |v: &str| match words(v).into_iter().all(|word| KNOWN.contains(&word.as_str())) {
            true => Ok(words(v)),
            false => Err("is no list of words that are known".to_owned()),
        };
        self.parsed(RESYNC, parse, "write any of gap, drop and rename, separated by commas").unwrap_or_default()
    }

    fn boolean(&mut self, names: Names) -> bool {
        let parse = |v: &str| go::boolean(v).ok_or("is neither true nor false".to_owned());
        self.parsed(names, parse, "write true or false").unwrap_or(false)
    }

    /// An address as Go listens on it: without a host it is all addresses of the machine.
    fn address(&mut self, names: Names, default: &str) -> String {
        let parse = |v: &str| {
            let (host, port) = v.rsplit_once(':').ok_or_else(|| "has no port".to_owned())?;
            let host = match host {
                "" => "0.0.0.0",
                "localhost" => "127.0.0.1",
                host => host,
            };
            let address = format!("{host}:{port}");
            match address.parse::<std::net::SocketAddr>() {
                Ok(_) => Ok(address),
                Err(_) => Err("is not an IP address with a port".to_owned()),
            }
        };
        let help = "write 0.0.0.0:9000 for all addresses, or one address of this machine with a port";
        self.parsed(names, parse, help).unwrap_or_else(|| default.into())
    }
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
