//! How clauses are asserted: every failure, a hang included, names its clause.

use std::{fmt, future::Future, time::Duration};

use oplogue_api::{Error, ErrorKind, Result};

/// `must!("S1", condition, "what is wrong {}", detail)`.
macro_rules! must {
    ($clause:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            panic!("{}: {}", $clause, format_args!($($message)+));
        }
    };
}
pub(super) use must;

/// No call of a plugin may take longer than this, whatever it waits for.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Awaits a call of the plugin; a hang is a violation.
pub(super) async fn within<T>(clause: &str, what: impl fmt::Display, limit: Duration, f: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, f).await {
        Ok(out) => out,
        Err(_) => panic!("{clause}: {what} did not return within {limit:?}"),
    }
}

/// Awaits a call that has to work.
pub(super) async fn works<T>(clause: &str, what: &str, f: impl Future<Output = Result<T>>) -> T {
    ok(clause, what, within(clause, what, LIMIT, f).await)
}

/// The value of a call that has to have worked.
pub(super) fn ok<T>(clause: &str, what: &str, result: Result<T>) -> T {
    match result {
        Ok(out) => out,
        Err(e) => panic!("{clause}: {what} failed ({}): {e}", e.kind().name()),
    }
}

/// The error of a call that has to fail, of one of these kinds. Of the kinds that wait for a person it has a hint (E2).
pub(super) fn refused<T>(clause: &str, what: &str, result: Result<T>, kinds: &[ErrorKind]) -> Error {
    let Err(e) = result else { panic!("{clause}: {what} was accepted") };
    let names: Vec<_> = kinds.iter().map(|k| k.name()).collect();
    must!(
        clause,
        kinds.contains(&e.kind()),
        "{what} failed as {} instead of {}: {e}",
        e.kind().name(),
        names.join("/")
    );
    if matches!(e.kind(), ErrorKind::Operator | ErrorKind::PositionLost) {
        must!("E2", e.get_hint().is_some_and(|h| !h.trim().is_empty()), "the error has no hint for the operator: {e}");
    }
    e
}
