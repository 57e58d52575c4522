//! Entries of one operation, row by row.

use bson::{Bson, Document, doc};

use super::{Seen, at, entry};
use crate::{ErrorKind, oplog::Decoder};

/// The only line, or the outcome where there is none.
fn line(fields: Document) -> String {
    let seen = Seen::of(&[entry(1, fields)]);
    match (seen.lines().as_slice(), seen.bad.as_slice()) {
        ([line], []) => line.clone(),
        ([], []) => seen.outcomes[0].to_owned(),
        ([], [bad]) => {
            assert_eq!(bad.error.kind(), ErrorKind::Data);
            "bad".to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn writes() {
    let rows = [
        // From 6.0 on the key is logged; before it is taken from the document.
        (
            doc! {"op": "i", "ns": "a.b", "o": {"_id": 1, "x": 2}, "o2": {"_id": 1}},
            "0 insert a.b {_id: 1} after {_id: 1, x: 2}",
        ),
        (
            doc! {"op": "i", "ns": "a.b", "o": {"_id": 1, "s": 3}, "o2": {"s": 3, "_id": 1}},
            "0 insert a.b {s: 3, _id: 1} after {_id: 1, s: 3}",
        ),
        (doc! {"op": "i", "ns": "a.b.c", "o": {"x": 2, "_id": "k"}}, "0 insert a.b.c {_id: k} after {x: 2, _id: k}"),
        (doc! {"op": "i", "ns": "a.b", "o": {"_id": 1}, "o2": Bson::Null}, "0 insert a.b {_id: 1} after {_id: 1}"),
        (doc! {"op": "d", "ns": "a.b", "o": {"_id": 1}}, "0 delete a.b {_id: 1}"),
        (doc! {"op": "d", "ns": "a.b", "o": {"s": 1, "_id": 2}}, "0 delete a.b {s: 1, _id: 2}"),
        (
            doc! {"op": "u", "ns": "a.b", "o": {"$v": 2, "diff": {"u": {"x": 2}}}, "o2": {"_id": 1}},
            "0 update a.b {_id: 1} v2 {u: {x: 2}}",
        ),
        (
            doc! {"op": "u", "ns": "a.b", "o": {"$v": 1, "$set": {"x.y": 2}}, "o2": {"_id": 1}},
            "0 update a.b {_id: 1} v1 {$v: 1, $set: {x.y: 2}}",
        ),
        (
            doc! {"op": "u", "ns": "a.b", "o": {"$set": {"x": 2}}, "o2": {"_id": 1}},
            "0 update a.b {_id: 1} v1 {$set: {x: 2}}",
        ),
        (
            doc! {"op": "u", "ns": "a.b", "o": {"_id": 1, "x": 2}, "o2": {"_id": 1}},
            "0 replace a.b {_id: 1} after {_id: 1, x: 2}",
        ),
        // From 5.0 on a replacement may have fields that look like operators.
        (
            doc! {"op": "u", "ns": "a.b", "o": {"$v": 2, "diff": {}, "$set": {}, "_id": 1}, "o2": {"_id": 1}},
            "0 replace a.b {_id: 1} after {$v: 2, diff: {}, $set: {}, _id: 1}",
        ),
        // Session data of retryable writes makes no transaction, and findAndModify's notes change nothing.
        (
            doc! {"lsid": {"id": 1}, "txnNumber": 5_i64, "op": "d", "ns": "a.b", "o": {"_id": 1}, "stmtId": [0, 1],
            "prevOpTime": {"ts": at(0), "t": 1_i64}, "needsRetryImage": "preImage"},
            "0 delete a.b {_id: 1}",
        ),
    ];
    for (fields, expected) in rows {
        assert_eq!(line(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn every_event_carries_time_wall_and_raw() {
    let raw = entry(
        9,
        doc! {"op": "d", "ns": "a.b", "o": {"_id": 1}, "lsid": {"id": 1}, "txnNumber": 5_i64,
        "prevOpTime": {"ts": at(0), "t": -1_i64}},
    );
    let seen = Seen::of(std::slice::from_ref(&raw));
    let event = &seen.events[0];
    assert_eq!((event.time, event.index, event.wall), (at(9), 0, Some(1_700_000_000_123)));
    assert_eq!(event.id().to_string(), "1000.9.0");
    assert_eq!(event.raw, raw);
    assert!(event.txn.is_none());
    // Keys and documents are slices of the entry.
    let range = raw.as_bytes().as_ptr_range();
    assert!(range.contains(&event.key.as_ref().unwrap().as_bytes().as_ptr()));
}

#[test]
fn what_is_no_change() {
    let image = doc! {"_id": 1, "secret": "x"};
    let rows = [
        (doc! {"op": "n", "ns": "", "o": {"msg": "periodic noop"}}, "heartbeat"),
        // An image for findAndModify or recordPreImages looks like a write to the collection.
        (doc! {"op": "n", "ns": "a.b", "o": image, "lsid": {"id": 1}, "txnNumber": 5_i64, "stmtId": 0}, "heartbeat"),
        (doc! {"op": "i", "ns": "a.b", "o": {"_id": 1}, "fromMigrate": true}, "skipped"),
        (doc! {"op": "d", "ns": "a.b", "o": {"_id": 1}, "fromMigrate": true}, "skipped"),
        (doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "b"}, "fromMigrate": true}, "skipped"),
        (doc! {"op": "i", "ns": "a.b", "o": {"_id": 1}, "fromMigrate": false}, "0 insert a.b {_id: 1} after {_id: 1}"),
    ];
    for (fields, expected) in rows {
        assert_eq!(line(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn internal_namespaces_are_left_out_unless_asked_for() {
    for ns in [
        "local.x",
        "config.transactions",
        "admin.system.users",
        "a.system.views",
        "a.system.buckets.weather",
        "a.tmpAbC12.renameCollection",
        "a.tmpxYz.convertToCapped.logs",
        "a.tmp.agg_out.1-2",
    ] {
        let entry = entry(1, doc! {"op": "i", "ns": ns, "o": {"_id": 1}, "o2": {"_id": 1}});
        let seen = Seen::of(std::slice::from_ref(&entry));
        assert_eq!((seen.outcomes.as_slice(), seen.events.len()), (&["skipped"][..], 0), "{ns}");
        let seen = Seen::with(Decoder::new(true), &[entry]);
        assert_eq!(seen.lines(), [format!("0 insert {ns} {{_id: 1}} after {{_id: 1}}")]);
    }
    // The memory of the last namespace does not mix them up.
    let mixed = ["a.b", "local.x", "a.b", "local.x", "a.c"];
    let entries: Vec<_> =
        mixed.iter().zip(1..).map(|(ns, n)| entry(n, doc! {"op": "d", "ns": *ns, "o": {"_id": 1}})).collect();
    assert_eq!(Seen::of(&entries).lines(), ["0 delete a.b {_id: 1}", "0 delete a.b {_id: 1}", "0 delete a.c {_id: 1}"]);
}

#[test]
fn what_cannot_be_decoded_is_kept_and_the_rest_is_sound() {
    let rows = [
        doc! {"op": "x", "ns": "a.b", "o": {}},
        doc! {"op": 1, "ns": "a.b", "o": {}},
        doc! {"op": "i", "ns": 5, "o": {"_id": 1}},
        doc! {"op": "i", "ns": "a.b"},
        doc! {"op": "i", "ns": "a.b", "o": 1},
        doc! {"op": "i", "ns": "a.b", "o": {"x": 1}},
        doc! {"op": "i", "ns": "", "o": {"_id": 1}},
        doc! {"op": "i", "ns": "a", "o": {"_id": 1}},
        doc! {"op": "d", "ns": "a.b", "o": {"x": 1}},
        doc! {"op": "u", "ns": "a.b", "o": {"_id": 1}},
        doc! {"op": "u", "ns": "a.b", "o": {"_id": 1}, "o2": {"x": 1}},
        doc! {"op": "u", "ns": "a.b", "o": {"$v": 3, "diff": {}}, "o2": {"_id": 1}},
        doc! {"op": "u", "ns": "a.b", "o": {"$v": 2, "$set": {}}, "o2": {"_id": 1}},
        doc! {"op": "u", "ns": "a.b", "o": {"x": 1}, "o2": {"_id": 1}},
        doc! {"op": "c", "ns": "a.$cmd", "o": {}},
        doc! {"op": "c", "ns": "a.$cmd", "o": {"create": 1}},
        doc! {"op": "c", "ns": "a.$cmd", "o": {"renameCollection": "a.b"}},
        doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": 1}},
        doc! {"op": "c", "ns": "admin.$cmd", "o": {"commitTransaction": 1}},
    ];
    for fields in rows {
        let good = |n| entry(n, doc! {"op": "d", "ns": "a.b", "o": {"_id": 1}});
        let bad = entry(2, fields.clone());
        let seen = Seen::of(&[good(1), bad.clone(), good(3)]);
        assert_eq!((seen.events.len(), seen.bad.len()), (2, 1), "{fields}");
        let found = &seen.bad[0];
        assert_eq!((found.before, found.time, &found.raw), (1, at(2), &bad), "{fields}");
        assert_eq!(found.error.kind(), ErrorKind::Data, "{fields}");
        assert!(!found.error.to_string().contains('1'), "no contents in messages: {}", found.error);
    }
    let headless = super::to_doc(doc! {"op": "d", "ns": "a.b", "o": {"_id": 1}});
    assert_eq!(Seen::of(&[headless]).bad.len(), 1, "an entry without a time");
}
