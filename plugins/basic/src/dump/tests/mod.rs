mod damage;

use std::{fs, io::Write, path::Path};

use bson::{RawDocumentBuf, Timestamp, doc, rawdoc};
use flate2::{Compression, write::GzEncoder};
use oplogue_api::{ErrorKind, Event, Op, Replicated, Severity};

use super::*;

fn ts(n: u32) -> Timestamp {
    Timestamp { time: 1000 + n, increment: 1 }
}

fn insert(n: u32) -> RawDocumentBuf {
    rawdoc! {"op": "i", "ns": "app.a", "o": {"_id": n as i32}, "o2": {"_id": n as i32}, "ts": ts(n), "t": 1_i64, "v": 2_i64}
}

fn noop(n: u32) -> RawDocumentBuf {
    rawdoc! {"op": "n", "ns": "", "o": {"msg": "periodic noop"}, "ts": ts(n), "t": 1_i64, "v": 2_i64}
}

/// An entry of transaction `number` with one insert for each of `ids`.
fn applied(n: u32, number: i64, previous: u32, ids: &[i32], extra: bson::Document) -> RawDocumentBuf {
    let operations: Vec<_> = ids.iter().map(|id| doc! {"op": "i", "ns": "app.a", "o": {"_id": *id}}).collect();
    let previous = if previous == 0 {
        doc! {"ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64}
    } else {
        doc! {"ts": ts(previous), "t": 1_i64}
    };
    let mut o = doc! {"applyOps": operations};
    o.extend(extra);
    let entry = doc! {
        "op": "c", "ns": "admin.$cmd", "o": o, "lsid": {"id": "session"}, "txnNumber": number, "prevOpTime": previous,
        "ts": ts(n), "t": 1_i64, "v": 2_i64,
    };
    RawDocumentBuf::try_from(&entry).unwrap()
}

fn write(path: &Path, entries: &[RawDocumentBuf]) {
    fs::write(path, entries.iter().flat_map(|e| e.as_bytes()).copied().collect::<Vec<u8>>()).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn source(path: &Path, batch_size: usize) -> BsonDump {
    BsonDump { settings: Settings { path: path.to_owned(), include_system: false, batch_size }, state: State::Closed }
}

async fn open(source: &mut BsonDump, from: StartAt<'_>) -> Result<Position> {
    source.open(from, &Interest::default()).await
}

/// What is left of it, up to its end or an error.
async fn drain(source: &mut BsonDump) -> (Vec<Batch>, Option<Error>) {
    let mut all = Vec::new();
    loop {
        match source.next().await {
            Ok(Some(batch)) => all.push(batch),
            Ok(None) => return (all, None),
            Err(e) => return (all, Some(e)),
        }
    }
}

async fn replay(path: &Path, batch_size: usize, from: StartAt<'_>) -> (Vec<Batch>, Option<Error>) {
    let mut source = source(path, batch_size);
    open(&mut source, from).await.unwrap();
    drain(&mut source).await
}

fn id(event: &Event) -> i32 {
    event.after.as_ref().unwrap().get_i32("_id").unwrap()
}

fn ids(batches: &[Batch]) -> Vec<i32> {
    batches.iter().flat_map(|b| &b.events).map(id).collect()
}

/// Plain entries, and two transactions that lie inside each other: 100 to 105 and 200 to 203.
fn mixed() -> Vec<RawDocumentBuf> {
    vec![
        insert(1),
        applied(2, 1, 0, &[100, 101], doc! {"partialTxn": true}),
        insert(3),
        applied(4, 2, 0, &[200, 201], doc! {"prepare": true}),
        applied(5, 1, 2, &[102, 103], doc! {"partialTxn": true}),
        noop(6),
        applied(7, 1, 5, &[104, 105], doc! {"count": 6_i64}),
        insert(8),
        applied(9, 3, 0, &[300], doc! {"prepare": true}),
        {
            let mut commit = bson::Document::try_from(&applied(10, 2, 4, &[], doc! {})).unwrap();
            commit.insert("o", doc! {"commitTransaction": 1, "commitTimestamp": ts(4)});
            RawDocumentBuf::try_from(&commit).unwrap()
        },
        {
            let mut abort = bson::Document::try_from(&applied(11, 3, 9, &[], doc! {})).unwrap();
            abort.insert("o", doc! {"abortTransaction": 1});
            RawDocumentBuf::try_from(&abort).unwrap()
        },
        insert(12),
    ]
}
const MIXED: [i32; 12] = [1, 3, 100, 101, 102, 103, 104, 105, 8, 200, 201, 12];

#[tokio::test]
async fn entries_and_transactions_come_in_order_plain_and_packed() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("oplog.bson");
    write(&plain, &mixed());
    let packed = dir.path().join("oplog.bson.gz");
    // Several gzip members behind each other are one file.
    let bytes = fs::read(&plain).unwrap();
    fs::write(&packed, [gzip(&bytes[..700]), gzip(&bytes[700..])].concat()).unwrap();
    for path in [plain, packed] {
        for batch_size in [1, 2, 3, 1000] {
            let (batches, error) = replay(&path, batch_size, StartAt::Configured).await;
            assert!(error.is_none(), "{error:?}");
            assert_eq!(ids(&batches), MIXED, "{batch_size}");
            assert!(batches.iter().all(|b| b.bad.is_empty()));
            let whole = batches.iter().map(|b| b.bytes).sum::<usize>();
            assert!(whole >= bytes.len(), "{whole}");
            // Index and time of a transaction are those of its last entry.
            let in_txn: Vec<_> = batches.iter().flat_map(|b| &b.events).filter(|e| id(e) / 100 == 1).collect();
            assert!(in_txn.iter().enumerate().all(|(i, e)| e.index == i as u32 && e.time == ts(7)));
        }
    }
}

#[tokio::test]
async fn every_end_is_a_place_to_go_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &mixed());
    let packed = dir.path().join("oplog.bson.gz");
    fs::write(&packed, gzip(&fs::read(&path).unwrap())).unwrap();
    for batch_size in [1, 3] {
        let (batches, _) = replay(&path, batch_size, StartAt::Configured).await;
        let (mut seen, mut before) = (0, ts(0));
        for batch in &batches {
            seen += batch.events.len();
            assert!(batch.end.time >= before && batch.head >= batch.end.time);
            before = batch.end.time;
            // Inside a transaction, its events so far come again; behind its last event they may, until its last entry is read.
            let txn = |n: usize| MIXED.get(n).map_or(0, |id| id / 100);
            let last = if seen > 0 { txn(seen - 1) } else { 0 };
            let inside = last != 0 && txn(seen) == last;
            let start = if last == 0 { seen } else { MIXED.iter().position(|id| id / 100 == last).unwrap() };
            for path in [&path, &packed] {
                let (rest, error) = replay(path, 1000, StartAt::Position(&batch.end)).await;
                assert!(error.is_none());
                let rest = ids(&rest);
                assert!(
                    rest == MIXED[start..] || (!inside && rest == MIXED[seen..]),
                    "behind {seen} with batches of {batch_size}: {rest:?}"
                );
            }
        }
        assert_eq!(seen, MIXED.len());
    }
}

#[tokio::test]
async fn a_longer_dump_of_the_same_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &[]);
    let empty = open(&mut source(&path, 10), StartAt::Configured).await.unwrap();
    write(&path, &[insert(1), insert(2)]);
    assert_eq!(ids(&replay(&path, 10, StartAt::Position(&empty)).await.0), [1, 2]);
    let (batches, _) = replay(&path, 10, StartAt::Configured).await;
    write(&path, &[insert(1), insert(2), insert(3)]);
    assert_eq!(ids(&replay(&path, 10, StartAt::Position(&batches[0].end)).await.0), [3]);
    assert_eq!(ids(&replay(&path, 10, StartAt::Now).await.0), [] as [i32; 0]);
}

#[tokio::test]
async fn a_position_that_is_not_in_the_dump_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &[insert(1), insert(2), insert(3)]);
    let end = replay(&path, 2, StartAt::Configured).await.0.pop().unwrap().end;
    let refused = async |path: &Path, position: &Position| {
        let e = open(&mut source(path, 10), StartAt::Position(position)).await.unwrap_err();
        assert!(e.get_hint().is_some());
        e.kind()
    };
    // Shorter; of another content; not at an entry's end.
    let other = dir.path().join("other.bson");
    write(&other, &[insert(1), insert(2)]);
    assert_eq!(refused(&other, &end).await, ErrorKind::PositionLost);
    write(&other, &[insert(1), insert(2), insert(4)]);
    assert_eq!(refused(&other, &end).await, ErrorKind::PositionLost);
    let shifted = |n: i64| {
        let mut token = bson::Document::try_from(&*end.token).unwrap();
        token.insert("offset", token.get_i64("offset").unwrap() + n);
        Position { token: RawDocumentBuf::try_from(&token).unwrap().into(), time: end.time }
    };
    for n in [-1, 1, -20, 1000] {
        assert_eq!(refused(&path, &shifted(n)).await, ErrorKind::PositionLost);
    }
    // Of another dump, or of another kind of source.
    write(&other, &[insert(2), insert(3)]);
    assert_eq!(refused(&other, &end).await, ErrorKind::Operator);
    let foreign = Position { token: rawdoc! {"ts": ts(1)}.into(), time: ts(1) };
    assert_eq!(refused(&path, &foreign).await, ErrorKind::Operator);
}

#[tokio::test]
async fn a_transaction_that_began_before_the_dump_is_a_bad_event() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &[insert(1), applied(7, 1, 5, &[104, 105], doc! {"count": 6_i64}), insert(8)]);
    let (batches, error) = replay(&path, 10, StartAt::Configured).await;
    assert!(error.is_none());
    assert_eq!(ids(&batches), [1, 8]);
    let bad: Vec<_> = batches.iter().flat_map(|b| &b.bad).collect();
    assert_eq!((bad.len(), bad[0].before, bad[0].error.kind()), (1, 1, ErrorKind::Data));
}

#[tokio::test]
async fn of_a_replicators_transactions_the_marker_alone_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    // Transaction 1 of `mixed` begins with the marker.
    let mut entries = mixed();
    let mut first = bson::Document::try_from(&entries[1]).unwrap();
    let marker = doc! {"op": "u", "ns": "__mmm.markers", "o": {"_id": 1000}, "o2": {"_id": 1000}};
    first.get_document_mut("o").unwrap().get_array_mut("applyOps").unwrap().insert(0, marker.into());
    entries[1] = RawDocumentBuf::try_from(&first).unwrap();
    write(&path, &entries);
    for (replicated, expected) in [
        (Replicated::AsWrites, MIXED.to_vec()),
        (Replicated::Markers, vec![1, 3, 1000, 8, 200, 201, 12]),
        (Replicated::MarkersAndWrites, vec![1, 3, 1000, 100, 101, 102, 103, 104, 105, 8, 200, 201, 12]),
    ] {
        let read = async |from: StartAt<'_>| {
            let mut source = source(&path, 2);
            source.open(from, &Interest { replicated, ..Interest::default() }).await.unwrap();
            drain(&mut source).await.0
        };
        let batches = read(StartAt::Configured).await;
        assert_eq!(ids(&batches), expected);
        for n in 0..batches.len() {
            let end = &batches[n].end;
            let behind: Vec<_> = batches.iter().flat_map(|b| &b.events).filter(|e| e.time > end.time).map(id).collect();
            assert_eq!(ids(&read(StartAt::Position(end)).await), behind);
        }
    }
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    write(&path, &(1..=200).map(insert).collect::<Vec<_>>());
    let mut source = source(&path, 3);
    open(&mut source, StartAt::Configured).await.unwrap();
    let mut batches = Vec::new();
    for n in 0.. {
        // Polled once, so that the read is under way, and dropped; n grows so that it is done now and then.
        let next = tokio::time::timeout(std::time::Duration::from_micros(n % 7), source.next()).await;
        match next {
            Ok(Ok(Some(batch))) => batches.push(batch),
            Ok(Ok(None)) => break,
            Ok(Err(e)) => panic!("{e}"),
            Err(_) => {}
        }
    }
    assert_eq!(ids(&batches), (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn checks_tell_what_is_wrong_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    let look = async |path: &Path| {
        let finding = source(path, 10).check().await.remove(0);
        (finding.severity, finding.what)
    };
    assert_eq!(look(&path).await.0, Severity::Error);
    assert_eq!(look(dir.path()).await.0, Severity::Error);
    fs::write(&path, "").unwrap();
    assert_eq!(look(&path).await.0, Severity::Warning);
    write(&path, &[rawdoc! {"_id": 1}]);
    let (severity, what) = look(&path).await;
    assert!(severity == Severity::Error && what.contains("not of an oplog"), "{what}");
    fs::write(&path, [0x6d, 0xe2, 0x99, 0x81, 0, 0, 0, 0, 0, 0]).unwrap();
    let (severity, what) = look(&path).await;
    assert!(severity == Severity::Error && what.contains("archive"), "{what}");
    write(&path, &[insert(1)]);
    assert_eq!(look(&path).await.0, Severity::Ok);
}

#[tokio::test]
async fn an_entry_whose_length_looks_like_gzip_is_read_as_an_entry() {
    // 0x00088b1f bytes: the file begins with 1f 8b 08 00.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oplog.bson");
    let with =
        |n: usize| rawdoc! {"op": "i", "ns": "app.a", "o": {"_id": 1, "x": "x".repeat(n)}, "ts": ts(1), "t": 1_i64};
    let entry = with(0x0008_8b1f - with(0).as_bytes().len());
    write(&path, &[entry, insert(2)]);
    assert_eq!(fs::read(&path).unwrap()[..4], [0x1f, 0x8b, 8, 0]);
    let (batches, error) = replay(&path, 10, StartAt::Configured).await;
    assert!(error.is_none());
    assert_eq!(ids(&batches), [1, 2]);
}

/// `tests/oplog.sample.bson` holds entries of a mongod 6.0.5, as `find` on `local.oplog.rs` returns them, which is what
/// `mongodump -d local -c oplog.rs` writes. The test `a_dump_of_a_real_server` in `tests/dump.rs` makes it: run it with
/// `OPLOGUE_SAMPLE=plugins/basic/tests/oplog.sample.bson`.
#[tokio::test]
async fn the_sample_of_a_real_server() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oplog.sample.bson");
    let (batches, error) = replay(&path, 4, StartAt::Configured).await;
    assert!(error.is_none());
    assert!(batches.iter().all(|b| b.bad.is_empty()));
    let events: Vec<&Event> = batches.iter().flat_map(|b| &b.events).collect();
    let ops: Vec<Op> = events.iter().map(|e| e.op).collect();
    use Op::{Create, Delete, Drop, DropDatabase, Index, Insert, Rename, Replace, Update};
    assert_eq!(
        ops,
        [Create, Insert, Insert, Update, Replace, Delete, Index, Insert, Update, Rename, Drop, DropDatabase]
    );
    let in_txn: Vec<bool> = events.iter().map(|e| e.txn.is_some()).collect();
    assert_eq!(in_txn, [false, false, false, false, false, false, false, true, true, false, false, false]);
    assert_eq!(events[9].to.as_ref().unwrap().as_str(), "shop.old");
}
