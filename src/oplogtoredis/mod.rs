//! The drop-in for oplogtoredis: its environment becomes the text of a configuration, which is then read as any other.
//!
//! That text is what `oplogue import oplogtoredis` prints and what `oplogue oplogtoredis` runs.

pub mod env;
pub(crate) mod go;
mod text;

pub use text::render;

use env::Settings;

/// The name by which the binary is called to be the drop-in.
pub const NAME: &str = "oplogtoredis";

/// The variable that holds a Redis URL: `OTR_REDIS_URL` itself where there is one, otherwise one that only
/// [`lookup`] knows.
fn url_variable(index: usize, count: usize) -> String {
    if count == 1 { "OTR_REDIS_URL".into() } else { format!("OTR_REDIS_URL_{}", index + 1) }
}

/// Looks up the variables of the text: those of the process, and one for each Redis URL.
pub fn lookup<'a>(
    settings: &'a Settings,
    process: &'a dyn Fn(&str) -> Option<String>,
) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| {
        let count = settings.redis_urls.len();
        let url = (0..count).find(|i| url_variable(*i, count) == name).map(|i| settings.redis_urls[i].clone());
        url.or_else(|| process(name))
    }
}

/// Where Go looks for the authorities of the system on Linux, in that order.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file with the authorities that this machine trusts, a private one among them maybe: oplogtoredis knows no others.
pub fn authorities(process: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let named = process("SSL_CERT_FILE").filter(|file| !file.is_empty());
    named.or_else(|| BUNDLES.iter().find(|file| std::path::Path::new(file).is_file()).map(|file| (*file).to_owned()))
}

/// What the environment asks for and oplogue does not do, each with what to do instead.
pub fn unsupported(settings: &Settings) -> Vec<&'static str> {
    let mut all = Vec::new();
    if settings.sentry {
        all.push(
            "OTR_SENTRY_ENABLED has no effect: oplogue has no Sentry client. Alarm on its metrics, or have the log, which is \
             JSON, collected",
        );
    }
    if settings.postgres {
        all.push(
            "OTR_PG_PERSISTENCE_URL has no effect: the denylist is kept in Redis. Put the entries that PostgreSQL holds once \
             more, or name them in OPLOGUE_DENYLIST_SEED",
        );
    }
    all
}
