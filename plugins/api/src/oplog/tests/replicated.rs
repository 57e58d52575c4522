//! Transactions that begin with the marker of a replicator.

use bson::{Bson, Document, doc};

use super::{
    Decoder, Seen, at, entry,
    transactions::{insert, line, of_session, operations},
};
use crate::{Doc, ErrorKind, Replicated};

const ALL: [Replicated; 3] = [Replicated::AsWrites, Replicated::Markers, Replicated::MarkersAndWrites];

fn marker(seq: i32) -> Document {
    doc! {"op": "u", "ns": "__mmm.markers", "o": {"_id": "a->b", "seq": seq}, "o2": {"_id": "a->b"}}
}

fn marker_line(index: u32, seq: i32) -> String {
    format!("{index} replace __mmm.markers {{_id: a->b}} after {{_id: a->b, seq: {seq}}}")
}

/// A marker, and behind it the inserts of documents.
fn marked(seq: i32, ids: &[i32]) -> Vec<Bson> {
    [Bson::Document(marker(seq))].into_iter().chain(operations(ids)).collect()
}

fn seen(replicated: Replicated, entries: &[Doc]) -> Seen {
    Seen::with(Decoder::default().replicated(replicated), entries)
}

/// What each interest gives.
fn lines(entries: &[Doc]) -> [Vec<String>; 3] {
    ALL.map(|replicated| {
        let seen = seen(replicated, entries);
        assert!(seen.bad.is_empty());
        assert!(seen.events.iter().all(|e| e.time == seen.events[0].time && e.txn == seen.events[0].txn));
        seen.lines()
    })
}

#[test]
fn a_marked_transaction_is_an_echo() {
    let mut ops = marked(1, &[1, 2]);
    // What the replicator keeps for itself, and a collection that it made.
    ops.push(Bson::Document(doc! {"op": "i", "ns": "__mmm.conflicts", "o": {"_id": 9}}));
    ops.push(Bson::Document(doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "new"}}));
    ops.push(Bson::Document(doc! {"op": "d", "ns": "a.b", "o": {"_id": 3}}));
    let entry = of_session(5, 1, 0, doc! {"applyOps": ops});
    let writes = [line(1, 1), line(2, 2), "4 create a.new".into(), "5 delete a.b {_id: 3}".into()];
    let [as_writes, markers, both] = lines(std::slice::from_ref(&entry));
    assert_eq!(as_writes, writes);
    assert_eq!(markers, [marker_line(0, 1)]);
    assert_eq!(both, [&[marker_line(0, 1)], &writes[..]].concat());
    let seen = seen(Replicated::Markers, &[entry]);
    assert!(seen.events[0].txn.is_some());
    assert_eq!(seen.outcomes, ["events"]);
}

#[test]
fn the_first_marker_of_a_link_is_an_insert() {
    let first = doc! {"op": "i", "ns": "__mmm.markers", "o": {"_id": "a->b", "seq": 1}};
    let ops = [Bson::Document(first)].into_iter().chain(operations(&[1])).collect::<Vec<_>>();
    let [_, markers, _] = lines(&[of_session(1, 1, 0, doc! {"applyOps": ops})]);
    assert_eq!(markers, ["0 insert __mmm.markers {_id: a->b} after {_id: a->b, seq: 1}"]);
}

#[test]
fn only_a_marker_in_front_makes_an_echo() {
    let behind: Vec<Bson> = operations(&[1]).into_iter().chain([Bson::Document(marker(1))]).collect();
    let neighbour =
        vec![Bson::Document(doc! {"op": "i", "ns": "__mmm.markers2", "o": {"_id": 1}}), Bson::Document(insert(2))];
    let removed =
        vec![Bson::Document(doc! {"op": "d", "ns": "__mmm.markers", "o": {"_id": "a->b"}}), Bson::Document(insert(2))];
    for (ops, want) in [(behind, line(0, 1)), (neighbour, line(1, 2)), (removed, line(1, 2))] {
        for lines in lines(&[of_session(1, 1, 0, doc! {"applyOps": ops})]) {
            assert_eq!(lines.concat(), want, "not the marker, and all of the rest");
        }
    }
}

#[test]
fn plain_writes_of_markers_are_given_where_asked_for() {
    let entries = [
        entry(1, marker(4)),
        entry(2, doc! {"op": "d", "ns": "__mmm.markers", "o": {"_id": "a->b"}}),
        entry(3, doc! {"op": "i", "ns": "__mmm.conflicts", "o": {"_id": 1}}),
        entry(4, doc! {"op": "c", "ns": "__mmm.$cmd", "o": {"drop": "markers"}}),
    ];
    for replicated in [Replicated::Markers, Replicated::MarkersAndWrites] {
        let seen = seen(replicated, &entries);
        assert_eq!(seen.lines(), [marker_line(0, 4), "0 delete __mmm.markers {_id: a->b}".into()]);
    }
    assert!(seen(Replicated::AsWrites, &entries).events.is_empty());
    // What is grouped, by the server or by a user, is no transaction.
    let ops = vec![Bson::Document(marker(1)), Bson::Document(insert(1))];
    let grouped = entry(5, doc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": ops}});
    let [as_writes, markers, both] = lines(&[grouped]);
    assert_eq!(as_writes, [line(1, 1)]);
    assert_eq!(markers, [marker_line(0, 1), line(1, 1)]);
    assert_eq!(both, markers);
}

#[test]
fn the_first_entry_of_a_chain_decides() {
    let entries = [
        of_session(1, 1, 0, doc! {"applyOps": marked(1, &[1]), "partialTxn": true}),
        entry(2, insert(90)),
        of_session(3, 1, 1, doc! {"applyOps": operations(&[2]), "partialTxn": true}),
        of_session(4, 1, 3, doc! {"applyOps": operations(&[3]), "count": 4_i64}),
    ];
    for (replicated, want) in ALL.into_iter().zip([
        vec![line(0, 90), line(1, 1), line(2, 2), line(3, 3)],
        vec![line(0, 90), marker_line(0, 1)],
        vec![line(0, 90), marker_line(0, 1), line(1, 1), line(2, 2), line(3, 3)],
    ]) {
        assert_eq!(seen(replicated, &entries).lines(), want);
    }
    // A later entry of somebody else's that begins so.
    let entries = [
        of_session(1, 1, 0, doc! {"applyOps": operations(&[1]), "partialTxn": true}),
        of_session(2, 1, 1, doc! {"applyOps": marked(1, &[2]), "count": 3_i64}),
    ];
    for lines in lines(&entries) {
        assert_eq!(lines, [line(0, 1), line(2, 2)]);
    }
    // A prepared one.
    let entries = [
        of_session(1, 1, 0, doc! {"applyOps": marked(1, &[1]), "prepare": true}),
        of_session(3, 1, 1, doc! {"commitTransaction": 1, "commitTimestamp": at(1)}),
    ];
    assert_eq!(lines(&entries)[1], [marker_line(0, 1)]);
}

#[test]
fn a_damaged_marker_is_a_bad_event_and_its_transaction_an_echo_still() {
    let damaged = doc! {"op": "u", "ns": "__mmm.markers", "o": {"_id": "a->b"}};
    let ops = vec![Bson::Document(damaged), Bson::Document(insert(1))];
    let seen = seen(Replicated::Markers, &[of_session(1, 1, 0, doc! {"applyOps": ops})]);
    assert!(seen.events.is_empty(), "I7");
    assert_eq!((seen.bad.len(), seen.bad[0].error.kind()), (1, ErrorKind::Data));
}

#[test]
fn with_internal_namespaces_an_echo_stays_one() {
    let ops = marked(1, &[1]);
    let decoder = Decoder::new(true).replicated(Replicated::Markers);
    let seen = Seen::with(decoder, &[of_session(1, 1, 0, doc! {"applyOps": ops})]);
    assert_eq!(seen.lines(), [marker_line(0, 1)]);
}
