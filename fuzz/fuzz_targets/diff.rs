#![no_main]

#[path = "../checks/diff.rs"]
mod diff;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| diff::check(bytes));
