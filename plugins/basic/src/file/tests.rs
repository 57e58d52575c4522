use std::{fs, path::Path};

use bson::{Timestamp, rawdoc};
use oplogue_api::{ErrorKind, Event, Namespace, Op};

use super::appender::{Appender, check};

fn document(n: i32) -> Vec<u8> {
    let time = Timestamp { time: 1, increment: 1 };
    Event::new(Op::Insert, Namespace::new("a.b"), time, rawdoc! {"n": n}.into()).to_document().into_bytes()
}

fn size(path: &Path) -> usize {
    fs::metadata(path).unwrap().len() as usize
}

#[test]
fn what_a_killed_process_left_of_a_document_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.bson");
    let (first, second) = (document(1), document(2));
    for left in [1, 4, 5, second.len() - 1] {
        fs::write(&path, [&first, &second[..left]].concat()).unwrap();
        let appender = Appender::open(&path).unwrap();
        assert_eq!(size(&path), first.len(), "{left}");
        appender.append(&second).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [&first[..], &second[..]].concat());
    }
    fs::write(&path, &second[..10]).unwrap();
    Appender::open(&path).unwrap();
    assert_eq!(size(&path), 0);
}

#[test]
fn a_file_with_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let lines = "{\"op\":\"insert\"}\n".repeat(100);
    for text in [lines.as_bytes(), b"\x00\x00\x00\x00\x00\x00", b"\x06\x00\x00\x00\x00\x01"] {
        fs::write(&path, text).unwrap();
        let e = Appender::open(&path).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Operator);
        assert!(e.get_hint().unwrap().contains("`path`"));
        assert_eq!(fs::read(&path).unwrap(), text);
    }
}

#[test]
fn sinks_of_one_path_share_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.bson");
    let one = Appender::open(&path).unwrap();
    let two = Appender::open(&dir.path().join(".").join("events.bson")).unwrap();
    one.append(&document(1)).unwrap();
    two.append(&document(2)).unwrap();
    one.append(&document(3)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [document(1), document(2), document(3)].concat());
    drop((one, two));
    // Nobody has it any more.
    assert!(fs::File::open(&path).unwrap().try_lock().is_ok());
}

#[test]
fn another_process_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.bson");
    let other = fs::File::create(&path).unwrap();
    other.lock().unwrap();
    let e = Appender::open(&path).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.message().contains("another process"), "{e}");
}

#[test]
fn a_check_says_what_is_there_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.bson");
    assert!(check(&path).unwrap().contains("is made at the first start"));
    assert!(!path.exists());
    assert_eq!(check(&dir.path().join("no/events.bson")).unwrap_err().kind(), ErrorKind::Operator);
    assert_eq!(check(dir.path()).unwrap_err().kind(), ErrorKind::Operator);
    fs::write(&path, document(1)).unwrap();
    assert!(check(&path).unwrap().contains("is there"));
}
