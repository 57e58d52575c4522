use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    panic::Location,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a condition may take to come true. Generous: the machine may be busy, and only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` is true, asking again every few milliseconds.
///
/// ```
/// # tokio_test(async {
/// let mut asked = 0;
/// oplogue_testkit::wait_for("the third answer", || {
///     asked += 1;
///     let answer = asked == 3;
///     async move { answer }
/// })
/// .await;
/// assert_eq!(asked, 3);
/// # });
/// # fn tokio_test(f: impl Future<Output = ()>) {
/// #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
/// # }
/// ```
///
/// # Panics
/// After 60 seconds (of the real clock, whatever tokio's says), naming `what` and the caller.
#[track_caller]
pub fn wait_for<C, F>(what: impl Into<String>, mut condition: C) -> impl Future<Output = ()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let caller = Location::caller();
    let what = what.into();
    async move {
        let since = Instant::now();
        while !condition().await {
            assert!(since.elapsed() < DEADLINE, "{caller}: waited {DEADLINE:?} in vain for {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A name that nothing else has: not another test, nor another run on the same server. `prefix`, `_`, then 12 or more
/// lower-case letters and digits; fit for a database, a collection or a key.
pub fn unique(prefix: &str) -> String {
    static RUN: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let run = RUN.get_or_init(|| RandomState::new().hash_one(std::process::id())) & 0xffff_ffff;
    format!("{prefix}_{run:08x}{:04x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<String> = (0..1000).map(|_| unique("db")).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| n.starts_with("db_") && n.len() < 20), "{names:?}");
    }
}
