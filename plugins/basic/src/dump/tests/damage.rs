//! Files that are damaged, cut or taken away.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_file_that_breaks_off_gives_what_is_before_and_then_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    let entries = [insert(1), insert(2), insert(3)];
    write(&path, &entries);
    let whole = fs::read(&path).unwrap();
    let size = entries[0].as_bytes().len();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        // The first entry is looked at when the dump is opened.
        let mut source = source(&path, 2);
        let (batches, error) = match open(&mut source, StartAt::Configured).await {
            Ok(_) => drain(&mut source).await,
            Err(e) => (vec![], Some(e)),
        };
        assert_eq!(ids(&batches), (1..=(cut / size) as i32).collect::<Vec<_>>(), "{cut}");
        match error {
            None => assert_eq!(cut % size, 0),
            Some(e) => {
                assert_eq!(e.kind(), ErrorKind::Operator);
                let place = format!("byte {}", cut / size * size);
                assert!(e.to_string().contains(&place) && e.to_string().contains(path.to_str().unwrap()), "{e}");
                assert!(e.get_hint().is_some_and(|h| h.contains("head -c")));
                if cut > size {
                    assert_eq!(source.next().await.unwrap_err().kind(), ErrorKind::Bug, "it stays an error");
                }
            }
        }
    }
}

#[tokio::test]
async fn damage_is_told_from_sound_entries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    let first = insert(1).into_bytes();
    let packed = gzip(&[&first[..], &insert(2).into_bytes()].concat());
    let damaged: Vec<Vec<u8>> = vec![
        [&first[..], &4_i32.to_le_bytes(), &[0; 100]].concat(),
        [&first[..], &(-1_i32).to_le_bytes(), &[0; 100]].concat(),
        [&first[..], &i32::MAX.to_le_bytes(), &[0; 100]].concat(),
        [&first[..], &(16_800_000_i32).to_le_bytes(), &[0; 100]].concat(),
        [&first[..], &8_i32.to_le_bytes(), &[1; 4]].concat(),
        [gzip(&first), vec![0x1f, 0x8b, 8, 0, 1, 2, 3]].concat(),
        packed[..packed.len() - 3].to_vec(),
    ];
    for (n, bytes) in damaged.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let (batches, error) = replay(&path, 1, StartAt::Configured).await;
        let e = error.unwrap_or_else(|| panic!("{n} was not noticed"));
        assert_eq!(e.kind(), ErrorKind::Operator, "{n}: {e}");
        assert!(e.to_string().contains("damaged at byte"), "{n}: {e}");
        assert_eq!(ids(&batches)[0], 1, "{n}");
    }
    // The frame is sound, what it holds is not: that is the route's affair.
    write(&path, &[insert(1), rawdoc! {"op": "x", "ts": ts(2), "ns": "app.a"}, insert(3)]);
    let (batches, error) = replay(&path, 10, StartAt::Configured).await;
    assert!(error.is_none());
    assert_eq!((ids(&batches), batches[0].bad.len(), batches[0].bad[0].before), (vec![1, 3], 1, 1));
}

#[tokio::test]
async fn after_an_error_nothing_is_read_until_the_dump_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &mixed());
    let mut source = source(&path, 1000);
    let begin = open(&mut source, StartAt::Configured).await.unwrap();
    // The first transaction is to be read again from its beginning, and the file has gone.
    let away = dir.path().join("away");
    fs::rename(&path, &away).unwrap();
    let e = source.next().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    fs::rename(&away, &path).unwrap();
    assert_eq!(source.next().await.unwrap_err().kind(), ErrorKind::Bug, "going on would leave out the transaction");
    open(&mut source, StartAt::Position(&begin)).await.unwrap();
    let (batches, error) = drain(&mut source).await;
    assert!(error.is_none());
    assert_eq!(ids(&batches), MIXED);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is wrong with a file: no panic, no loop without end, and nothing sound before the damage is left out.
    #[test]
    fn damaged_files_never_panic(
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        packed in any::<bool>(),
        batch_size in 1..5_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oplog.bson");
        let sound: Vec<u8> = mixed().iter().flat_map(|e| e.as_bytes()).copied().collect();
        let mut bytes = if packed { gzip(&sound) } else { sound };
        let mut first = bytes.len();
        for (at, byte) in hits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            first = first.min(at);
        }
        fs::write(&path, &bytes).unwrap();
        let settings = Settings { path, include_system: false, batch_size };
        let Ok(mut replay) = replay::Replay::open(&settings, &From::Begin, oplogue_api::Replicated::AsWrites) else { return Ok(()) };
        let (mut entries, mut seen) = (0, Vec::new());
        while let Ok(Some(batch)) = replay.next() {
            entries += 1;
            prop_assert!(entries < 1000);
            seen.extend(batch.events);
        }
        if !packed {
            // The plain inserts that end before the first hit.
            let (mut end, mut wanted) = (0, 0);
            for entry in mixed() {
                end += entry.as_bytes().len();
                wanted += usize::from(end <= first && entry.get_str("op").is_ok_and(|op| op == "i"));
            }
            prop_assert!(seen.iter().filter(|e| e.txn.is_none()).count() >= wanted);
        }
    }
}
