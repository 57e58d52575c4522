use std::{
    fs,
    process::{Command, Stdio},
};

use bson::{Bson, Timestamp, doc, rawdoc};
use oplogue_api::{Checkpoint, CheckpointStore, Doc, ErrorKind, Position, Saved, Severity};
use proptest::prelude::*;

use super::{FileStore, file::file_name};

fn checkpoint(generation: u64, token: Doc) -> Checkpoint {
    Checkpoint {
        position: Position { token, time: Timestamp { time: 1_700_000_000, increment: generation as u32 } },
        generation,
    }
}

fn numbered(generation: u64) -> Checkpoint {
    checkpoint(generation, rawdoc! {"ts": Timestamp { time: 5, increment: 1 }, "n": generation as i64}.into())
}

#[tokio::test]
async fn what_is_saved_is_loaded_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/on/demand");
    let store = FileStore::new(&dir);
    assert_eq!(store.load("a->b").await.unwrap(), None);
    assert_eq!(store.save("a->b", &numbered(1)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("a->b", &numbered(2)).await.unwrap(), Saved::Stored);
    assert_eq!(store.save("a->b", &numbered(2)).await.unwrap(), Saved::Stored, "a repetition does no harm");
    assert_eq!(store.save("a->b", &numbered(2 + 2)).await.unwrap(), Saved::Superseded(numbered(2)));
    let other = checkpoint(2, rawdoc! {"other": 1}.into());
    assert_eq!(store.save("a->b", &other).await.unwrap(), Saved::Superseded(numbered(2)));
    drop(store);
    assert_eq!(FileStore::new(&dir).load("a->b").await.unwrap(), Some(numbered(2)));
    assert_eq!(FileStore::new(&dir).load("b->a").await.unwrap(), None);
}

#[tokio::test]
async fn people_can_read_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    let token = rawdoc! {"rs": "rs0", "ts": Timestamp { time: 7, increment: 8 }, "t": 3_i64, "n": 1, "x": 1.0};
    store.save("orders", &checkpoint(1, token.into())).await.unwrap();
    let text = fs::read_to_string(dir.path().join("orders.checkpoint.json")).unwrap();
    let without_saved: Vec<&str> = text.lines().filter(|l| !l.contains("\"saved\"")).collect();
    assert_eq!(
        without_saved.join("\n"),
        r#"{
  "version": 1,
  "route": "orders",
  "generation": 1,
  "time": {"$timestamp":{"t":1700000000,"i":1}},
  "token": {"rs": "rs0", "ts": {"$timestamp":{"t":7,"i":8}}, "t": {"$numberLong":"3"}, "n": {"$numberInt":"1"}, "x": {"$numberDouble":"1.0"}}
}"#
    );
    assert!(!dir.path().join("orders.checkpoint.json.tmp").exists());
}

#[tokio::test]
async fn a_damaged_file_is_an_error_with_its_name_and_a_remedy_never_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    store.save("r", &numbered(1)).await.unwrap();
    let path = dir.path().join("r.checkpoint.json");
    let sound = fs::read(&path).unwrap();
    let text = String::from_utf8(sound.clone()).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..sound.len() - 2).map(|n| sound[..n].to_vec()).collect();
    damaged.push(b"null".to_vec());
    damaged.push(vec![0; 100]);
    damaged.push(text.replace("\"version\": 1", "\"version\": 2").into_bytes());
    damaged.push(text.replace("\"route\": \"r\"", "\"route\": \"s\"").into_bytes());
    damaged.push(text.replace("\"generation\": 1", "\"generation\": 0").into_bytes());
    damaged.push(text.replace("\"generation\": 1", "\"generation\": -1").into_bytes());
    damaged.push(text.replace("\"token\"", "\"tokem\"").into_bytes());
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let e = store.load("r").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Operator);
        assert!(e.to_string().contains(path.to_str().unwrap()), "{e}");
        assert!(e.get_hint().unwrap().contains("oplogue position reset"));
        assert_eq!(store.save("r", &numbered(2)).await.unwrap_err().kind(), ErrorKind::Operator);
    }
    // The remedy works.
    store.reset("r", Some(&numbered(9).position)).await.unwrap();
    assert_eq!(store.load("r").await.unwrap().unwrap().position, numbered(9).position);
    store.reset("r", None).await.unwrap();
    assert_eq!(store.load("r").await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_was_taken_away_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path());
    store.save("r", &numbered(1)).await.unwrap();
    fs::remove_file(dir.path().join("r.checkpoint.json")).unwrap();
    let e = store.save("r", &numbered(2)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.to_string().contains("r.checkpoint.json is gone"), "{e}");
}

#[tokio::test]
async fn reset_goes_on_from_the_generation_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new(dir.path().join("none yet"));
    store.reset("r", None).await.unwrap();
    store.reset("r", Some(&numbered(1).position)).await.unwrap();
    store.reset("r", Some(&numbered(7).position)).await.unwrap();
    let now = store.load("r").await.unwrap().unwrap();
    assert_eq!((now.generation, now.position), (2, numbered(7).position));
    assert_eq!(store.save("r", &numbered(3)).await.unwrap(), Saved::Stored);
}

#[tokio::test]
async fn two_processes_on_one_folder_notice_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("r.lock");
    // flock(1) is of util-linux, which every Debian has. It says when it holds the lock, and holds it until its input ends.
    let mut other = Command::new("flock")
        .args([lock.to_str().unwrap(), "sh", "-c", "echo locked; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 7];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut said).unwrap();

    let store = FileStore::new(dir.path());
    assert_eq!(store.load("r").await.unwrap(), None, "looking is allowed");
    let e = store.save("r", &numbered(1)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.to_string().contains("r.lock"), "{e}");
    assert_eq!(store.reset("r", None).await.unwrap_err().kind(), ErrorKind::Operator);
    assert_eq!(store.save("s", &numbered(1)).await.unwrap(), Saved::Stored, "another route is another lock");

    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(store.save("r", &numbered(1)).await.unwrap(), Saved::Stored);
    // And now we are the ones who keep others out, from loading on.
    drop(store);
    let store = FileStore::new(dir.path());
    store.load("r").await.unwrap();
    let refused = Command::new("flock").args(["--nonblock", lock.to_str().unwrap(), "true"]).status().unwrap();
    assert!(!refused.success());
    drop(store);
    let granted = Command::new("flock").args(["--nonblock", lock.to_str().unwrap(), "true"]).status().unwrap();
    assert!(granted.success());
}

#[tokio::test]
async fn check_tells_whether_the_folder_will_do_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let severity = async |path: &std::path::Path| FileStore::new(path).check().await[0].severity;
    assert_eq!(severity(dir.path()).await, Severity::Ok);
    let missing = dir.path().join("a/b");
    assert_eq!(severity(&missing).await, Severity::Ok);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(severity(&file).await, Severity::Error);
    assert_eq!(severity(&file.join("below")).await, Severity::Error);
    assert_eq!(severity(std::path::Path::new("/proc/oplogue")).await, Severity::Error);
}

#[test]
fn names_of_files_are_safe_and_distinct() {
    let long = "é".repeat(500);
    let names = ["", ".", "..", "../x", "/etc/passwd", "a", "A%2F", "a/", "a\0", "a b", "a->b", "%", long.as_str()];
    let mut seen = std::collections::HashSet::new();
    for name in names {
        let file = file_name(name);
        assert!(!file.contains(['/', '\0']) && !file.starts_with('.') && file.len() <= 120, "{file}");
        assert!(seen.insert(file), "{name}");
    }
    assert_ne!(file_name(&long), file_name(&format!("{long}x")));
    assert_eq!(file_name("factory-meteor_2.x"), "factory-meteor_2.x");
}

fn token() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<f64>().prop_map(Bson::Double),
        any::<String>().prop_map(Bson::String),
        any::<i64>().prop_map(|ms| Bson::DateTime(bson::DateTime::from_millis(ms))),
        Just(Bson::Null),
        Just(Bson::MinKey),
        any::<(u32, u32)>().prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
    ];
    let name = prop_oneof!["[a-z]{0,3}", Just("$date".to_owned()), Just("$oid".to_owned()), "[^\0]{0,4}"];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            proptest::collection::vec((name.clone(), inner), 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_token_comes_back_byte_by_byte(value in token(), route in any::<String>()) {
        let dir = tempfile::tempdir().unwrap();
        let token = bson::RawDocumentBuf::try_from(&doc! {"a": value.clone(), "$date": value}).unwrap();
        let wanted = checkpoint(1, token.into());
        let folder = FileStore::new(dir.path()).0;
        folder.save(&route, &wanted).unwrap();
        prop_assert_eq!(folder.load(&route).unwrap(), Some(wanted));
    }
}
