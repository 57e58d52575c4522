//! The kit against plugins that keep the contract, and against plugins broken in one way each: a clause that cannot fail
//! proves nothing.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;

/// For each clause a test that its conformance test notices every one of these harnesses.
macro_rules! mutants {
    ($($name:ident: $clause:literal $test:path => [$($harness:expr),+ $(,)?];)+) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            $({
                let h: Memory = $harness;
                violates($clause, &format!("{:?}", h.wrong), $test(&h)).await;
            })+
        }
    )+};
}

mod sink;
mod source;
mod store;
mod transform;

/// Asserts that `test` panics, and with a violation of `clause`.
async fn violates<T>(clause: &str, how: &str, test: impl Future<Output = T>) {
    let Err(panic) = AssertUnwindSafe(test).catch_unwind().await else {
        panic!("{how} was not noticed by {clause}");
    };
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    assert!(message.starts_with(&format!("{clause}: ")), "{how} should violate {clause}, but: {message}");
}

/// Every clause of the contract names a test that there is, and every test is named.
#[test]
fn the_contract_and_the_kit_name_the_same_clauses() {
    fn names(text: &str, mark: &str) -> std::collections::BTreeSet<String> {
        let starts = text.match_indices(mark).map(|(at, _)| &text[at + mark.len()..]);
        let name = |rest: &str| {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        };
        let clause = |name: &String| {
            let digits = name.get(1..).unwrap_or("").find('_').unwrap_or(0);
            name.starts_with(['s', 'p', 't', 'k', 'c'])
                && digits > 0
                && name[1..=digits].bytes().all(|b| b.is_ascii_digit())
        };
        starts.map(name).filter(clause).collect()
    }
    let contract = include_str!("../../../../../docs/plugin-contract.md");
    let kit = [
        include_str!("../source/open.rs"),
        include_str!("../source/read.rs"),
        include_str!("../source/shape.rs"),
        include_str!("../transform.rs"),
        include_str!("../sink/basic.rs"),
        include_str!("../sink/order.rs"),
        include_str!("../sink/trouble.rs"),
        include_str!("../store.rs"),
    ];
    let tests = kit.iter().flat_map(|text| names(text, "pub async fn ").into_iter().chain(names(text, "pub fn ")));
    let tests: std::collections::BTreeSet<String> = tests.collect();
    assert_eq!(tests.len(), 19 + 8 + 14 + 14);
    assert_eq!(names(contract, "| `"), tests);
}
