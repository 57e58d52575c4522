//! The kit against plugins that keep the contract, and against plugins broken in one way each: a clause that cannot fail
//! proves nothing.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;

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
