//! What the fuzzer keeps is decoded in every run of the tests, without the nightly compiler that the fuzzer needs.

#[path = "../../../fuzz/checks/diff.rs"]
mod diff;
#[path = "../../../fuzz/checks/entry.rs"]
mod entry;

use std::{fs, path::Path};

/// Gives every file of a corpus to its check.
fn replay(corpus: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let files: Vec<_> = fs::read_dir(&folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
    assert!(files.len() >= 10, "{} files in {}", files.len(), folder.display());
    for file in files {
        check(&fs::read(&file).expect("a readable file"));
    }
}

#[test]
fn entries_of_the_corpus_are_decoded_or_refused() {
    replay("entry", entry::check);
}

#[test]
fn changes_of_the_corpus_are_decoded_or_refused() {
    replay("diff", diff::check);
}
