//! `applyOps` in all its roles.

use bson::{Bson, Document, doc};

use super::{Seen, at, entry, raw, to_doc};
use crate::{Doc, ErrorKind};

pub(super) fn insert(id: i32) -> Document {
    doc! {"op": "i", "ns": "a.b", "o": {"_id": id}, "o2": {"_id": id}}
}

pub(super) fn line(index: u32, id: i32) -> String {
    format!("{index} insert a.b {{_id: {id}}} after {{_id: {id}}}")
}

/// An entry of a session: `previous` is 0 for the first of a chain.
pub(super) fn of_session(n: u32, session: i32, previous: u32, o: Document) -> Doc {
    let previous = match previous {
        0 => doc! {"ts": bson::Timestamp { time: 0, increment: 0 }, "t": -1_i64},
        n => doc! {"ts": at(n), "t": 4_i64},
    };
    entry(
        n,
        doc! {"op": "c", "ns": "admin.$cmd", "lsid": {"id": session}, "txnNumber": 7_i64, "prevOpTime": previous, "o": o},
    )
}

pub(super) fn operations(ids: &[i32]) -> Vec<Bson> {
    ids.iter().map(|id| Bson::Document(insert(*id))).collect()
}

#[test]
fn a_transaction_of_one_entry() {
    let ops = vec![
        insert(1),
        doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "new"}},
        doc! {"op": "i", "ns": "local.x", "o": {"_id": 2}},
        doc! {"op": "n", "ns": "a.b", "o": {}},
        doc! {"op": "i", "ns": "a.b", "o": {"_id": 8}, "fromMigrate": true},
        doc! {"op": "u", "ns": "c.d", "o": {"$v": 2, "diff": {"u": {"x": 1}}}, "o2": {"_id": 3}},
        doc! {"op": "d", "ns": "c.d", "o": {"_id": 3}},
    ];
    let seen = Seen::of(&[of_session(5, 1, 0, doc! {"applyOps": ops.clone()})]);
    // What is left out counts too.
    let expected = [
        line(0, 1),
        "1 create a.new".into(),
        "5 update c.d {_id: 3} v2 {u: {x: 1}}".into(),
        "6 delete c.d {_id: 3}".into(),
    ];
    assert_eq!(seen.lines(), expected);
    for event in &seen.events {
        let txn = event.txn.as_ref().unwrap();
        assert_eq!((txn.number, &*txn.lsid), (7, &*raw(&doc! {"id": 1})));
        assert_eq!((event.time, event.wall), (at(5), Some(1_700_000_000_123)));
        assert_eq!(event.raw, to_doc(ops[event.index as usize].clone()), "the operation itself");
    }
}

/// `increment::index` of each event, as a reader numbers them that takes every entry by itself.
fn by_entry(seen: &Seen) -> Vec<String> {
    seen.events.iter().map(|e| format!("{}::{}", e.entry_id().time.increment, e.entry_id().index)).collect()
}

#[test]
fn the_writes_of_each_entry_are_numbered_by_themselves() {
    let ops = vec![
        insert(1),
        doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "new"}},
        doc! {"op": "i", "ns": "local.x", "o": {"_id": 2}},
        doc! {"op": "n", "ns": "a.b", "o": {}},
        doc! {"op": "d", "ns": "c.d", "o": {"_id": 3}},
        doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": operations(&[4])}},
    ];
    let seen = Seen::of(&[
        of_session(1, 1, 0, doc! {"applyOps": operations(&[1, 2]), "partialTxn": true}),
        of_session(2, 1, 1, doc! {"applyOps": operations(&[3]), "partialTxn": true}),
        of_session(4, 1, 2, doc! {"applyOps": ops, "count": 9_i64}),
    ]);
    assert_eq!(by_entry(&seen), ["1::0", "1::1", "2::0", "4::0", "4::1", "4::2", "4::3"]);
    // A prepared one: in the entry that holds the operations, not that of the commit.
    let seen = Seen::of(&[
        of_session(1, 1, 0, doc! {"applyOps": operations(&[1, 2]), "prepare": true}),
        of_session(3, 1, 1, doc! {"commitTransaction": 1, "commitTimestamp": at(1)}),
    ]);
    assert_eq!(by_entry(&seen), ["1::0", "1::1"]);
    assert!(seen.events.iter().all(|e| e.time == at(3)));
}

#[test]
fn an_apply_ops_that_is_no_transaction() {
    let user = doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": operations(&[1, 2]), "alwaysUpsert": false, "partialTxn": true}};
    let vectored = doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": operations(&[1, 2])}, "lsid": {"id": 1},
    "txnNumber": 7_i64, "prevOpTime": {"ts": at(1), "t": 4_i64}, "multiOpType": 1};
    for fields in [user, vectored] {
        let seen = Seen::of(&[entry(2, fields.clone())]);
        assert_eq!(seen.lines(), [line(0, 1), line(1, 2)], "{fields}");
        assert!(seen.events.iter().all(|e| e.txn.is_none()));
    }
    let seen = Seen::of(&[entry(1, doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": []}})]);
    assert_eq!((seen.outcomes, seen.bad.len()), (vec!["skipped"], 0));
}

#[test]
fn apply_ops_nests_and_is_counted_flat() {
    let nested = |ops: Vec<Bson>| Bson::Document(doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": ops}});
    let ops = vec![
        Bson::Document(insert(1)),
        nested(vec![Bson::Document(insert(2)), nested(operations(&[3])), Bson::Document(insert(4))]),
        Bson::Document(insert(5)),
    ];
    let seen = Seen::of(&[entry(1, doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": ops}})]);
    assert_eq!(seen.lines(), [line(0, 1), line(1, 2), line(2, 3), line(3, 4), line(4, 5)]);

    let mut deep = operations(&[1]);
    for _ in 0..100 {
        deep = vec![nested(deep)];
    }
    deep.push(Bson::Document(insert(2)));
    let seen = Seen::of(&[entry(1, doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": deep}})]);
    assert_eq!((seen.lines(), seen.bad.len()), (vec![line(1, 2)], 1));
}

#[test]
fn a_transaction_of_many_entries_among_other_writers() {
    let other = |n, id: i32| entry(n, insert(id));
    let entries = [
        of_session(1, 1, 0, doc! {"applyOps": operations(&[1, 2]), "partialTxn": true}),
        other(2, 90),
        of_session(3, 2, 0, doc! {"applyOps": operations(&[50]), "partialTxn": true}),
        of_session(4, 1, 1, doc! {"applyOps": operations(&[3]), "partialTxn": true}),
        of_session(5, 2, 3, doc! {"applyOps": operations(&[51]), "count": 2_i64}),
        other(6, 91),
        of_session(7, 1, 4, doc! {"applyOps": operations(&[4, 5]), "count": 5_i64}),
    ];
    let seen = Seen::of(&entries);
    assert_eq!(seen.outcomes, ["partial", "events", "partial", "partial", "chain", "events", "chain"]);
    let lines = [
        line(0, 90),
        line(0, 50),
        line(1, 51),
        line(0, 91),
        line(0, 1),
        line(1, 2),
        line(2, 3),
        line(3, 4),
        line(4, 5),
    ];
    assert_eq!(seen.lines(), lines);
    let times: Vec<_> = seen.events.iter().map(|e| e.time.increment).collect();
    assert_eq!(times, [2, 5, 5, 6, 7, 7, 7, 7, 7], "the time of the last entry");
    assert!(seen.events.iter().all(|e| e.txn.is_some() == (e.time != at(2) && e.time != at(6))));
}

#[test]
fn a_prepared_transaction_is_delivered_at_its_commit_or_never() {
    let prepare = of_session(1, 1, 0, doc! {"applyOps": operations(&[1, 2]), "prepare": true});
    let commit = of_session(3, 1, 1, doc! {"commitTransaction": 1, "commitTimestamp": at(1)});
    let abort = of_session(3, 1, 1, doc! {"abortTransaction": 1});
    let between = entry(2, insert(9));

    let seen = Seen::of(&[prepare.clone(), between.clone(), commit]);
    assert_eq!(seen.outcomes, ["partial", "events", "chain"]);
    assert_eq!(seen.lines(), [line(0, 9), line(0, 1), line(1, 2)]);
    assert_eq!(seen.events[1].time, at(3));

    let seen = Seen::of(&[prepare, between, abort]);
    assert_eq!((seen.outcomes, seen.events.len()), (vec!["partial", "events", "partial"], 1));

    // Prepared, of several entries.
    let seen = Seen::of(&[
        of_session(1, 1, 0, doc! {"applyOps": operations(&[1]), "partialTxn": true}),
        of_session(2, 1, 1, doc! {"applyOps": operations(&[2]), "prepare": true, "count": 2_i64}),
        of_session(3, 1, 2, doc! {"commitTransaction": 1, "commitTimestamp": at(2)}),
    ]);
    assert_eq!(seen.lines(), [line(0, 1), line(1, 2)]);
}

#[test]
fn a_chain_without_a_session_is_gathered_but_no_transaction() {
    let delete = |id: i32| doc! {"op": "d", "ns": "a.b", "o": {"_id": id}};
    let chained = |n, previous: Document, o: Document| {
        entry(n, doc! {"op": "c", "ns": "admin.$cmd", "prevOpTime": previous, "o": o})
    };
    let seen = Seen::of(&[
        chained(
            1,
            doc! {"ts": bson::Timestamp { time: 0, increment: 0 }, "t": -1_i64},
            doc! {"applyOps": [delete(1)], "partialTxn": true},
        ),
        chained(2, doc! {"ts": at(1), "t": 4_i64}, doc! {"applyOps": [delete(2)], "count": 2_i64}),
    ]);
    assert_eq!(seen.lines(), ["0 delete a.b {_id: 1}", "1 delete a.b {_id: 2}"]);
    assert!(seen.events.iter().all(|e| e.txn.is_none() && e.time == at(2)));
}

#[test]
fn one_bad_operation_leaves_the_others_sound() {
    let ops = vec![insert(1), doc! {"op": "i", "ns": "a.b", "o": {"x": 1}}, insert(3)];
    let seen = Seen::of(&[of_session(1, 1, 0, doc! {"applyOps": ops.clone()})]);
    assert_eq!(seen.lines(), [line(0, 1), line(2, 3)]);
    let bad = &seen.bad[0];
    assert_eq!((bad.before, &bad.raw, bad.error.kind()), (1, &to_doc(ops[1].clone()), ErrorKind::Data));
    assert_eq!(bad.ns.as_ref().unwrap().as_str(), "a.b");
}

#[test]
fn a_chain_that_leads_elsewhere_is_refused_whole() {
    let first = of_session(1, 1, 0, doc! {"applyOps": operations(&[1]), "partialTxn": true});
    let foreign = of_session(2, 2, 1, doc! {"applyOps": operations(&[2]), "count": 2_i64});
    let seen = Seen::of(&[first, foreign.clone()]);
    assert_eq!((seen.events.len(), seen.bad.len()), (0, 1));
    assert_eq!((&seen.bad[0].raw, seen.bad[0].error.kind()), (&foreign, ErrorKind::Data));
    // One that leads to itself, or forwards, would never end.
    let seen = Seen::of(&[of_session(2, 1, 2, doc! {"applyOps": operations(&[2]), "count": 2_i64})]);
    assert_eq!((seen.events.len(), seen.bad.len()), (0, 1));
}
