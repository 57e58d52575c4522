//! DDL, row by row.

use bson::{Document, doc};

use super::{Seen, at, entry};
use crate::oplog::Decoder;

fn lines(fields: Document) -> Vec<String> {
    Seen::of(&[entry(1, fields)]).lines()
}

#[test]
fn commands_become_barriers_about_what_they_concern() {
    let build = doc! {"v": 2, "key": {"x": 1}, "name": "x_1"};
    let rows: [(Document, &[&str]); 18] = [
        (doc! {"create": "x", "idIndex": {"v": 2}}, &["0 create a.x"]),
        (doc! {"create": "x.y.z"}, &["0 create a.x.y.z"]),
        (doc! {"drop": "x"}, &["0 drop a.x"]),
        (doc! {"dropDatabase": 1}, &["0 dropDatabase a"]),
        (doc! {"renameCollection": "a.x", "to": "c.y.z", "stayTemp": false}, &["0 rename a.x -> c.y.z"]),
        (doc! {"createIndexes": "x", "v": 2, "key": {"k": 1}, "name": "k_1"}, &["0 index a.x"]),
        (doc! {"startIndexBuild": "x", "indexes": [build.clone()]}, &[]),
        (doc! {"commitIndexBuild": "x", "indexes": [build.clone()]}, &["0 index a.x"]),
        (doc! {"abortIndexBuild": "x", "indexes": [build], "cause": {"code": 11000}}, &[]),
        (doc! {"dropIndexes": "x", "index": "k_1"}, &["0 index a.x"]),
        (doc! {"deleteIndexes": "x", "index": "k_1"}, &["0 index a.x"]),
        (doc! {"collMod": "x", "validationLevel": "off"}, &["0 other a.x"]),
        (doc! {"dbCheck": "a.x", "type": "batch"}, &[]),
        (doc! {"someNewCommand": "x"}, &["0 other a.x"]),
        (doc! {"someNewCommand": 1}, &["0 other a"]),
        // Views, time-series buckets and temporary collections are the server's own affair …
        (doc! {"create": "system.views"}, &[]),
        (doc! {"create": "tmp.agg_out.1", "temp": true}, &[]),
        // … until one of them becomes a user's collection.
        (
            doc! {"renameCollection": "a.tmp.agg_out.1", "to": "a.x", "dropTarget": true},
            &["0 rename a.tmp.agg_out.1 -> a.x"],
        ),
    ];
    for (o, expected) in rows {
        assert_eq!(lines(doc! {"op": "c", "ns": "a.$cmd", "o": o.clone()}), expected, "{o}");
    }
    let o = doc! {"renameCollection": "a.tmp1.renameCollection", "to": "a.tmp2.renameCollection"};
    assert!(lines(doc! {"op": "c", "ns": "a.$cmd", "o": o}).is_empty());
    let create = entry(1, doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "system.views"}});
    assert_eq!(Seen::with(Decoder::new(true), &[create]).lines(), ["0 create a.system.views"]);
}

#[test]
fn writes_about_views_are_barriers() {
    let ns = "a.system.views";
    let view = doc! {"_id": "a.v.w", "viewOn": "x", "pipeline": []};
    let rows: Vec<(Document, &[&str])> = vec![
        (doc! {"op": "i", "ns": ns, "o": view.clone()}, &["0 create a.v.w"]),
        (doc! {"op": "u", "ns": ns, "o": view.clone(), "o2": {"_id": "a.v.w"}}, &["0 other a.v.w"]),
        (doc! {"op": "d", "ns": ns, "o": {"_id": "a.v.w"}}, &["0 drop a.v.w"]),
        // Of time series the view is seen as well, and the buckets are not.
        (doc! {"op": "i", "ns": ns, "o": {"_id": "a.t", "viewOn": "system.buckets.t"}}, &["0 create a.t"]),
        (doc! {"op": "i", "ns": "a.system.buckets.t", "o": {"_id": 1}}, &[]),
        // What is no view.
        (doc! {"op": "i", "ns": ns, "o": {"_id": 5}}, &[]),
        (doc! {"op": "i", "ns": ns, "o": {"_id": "b.v"}}, &[]),
        (doc! {"op": "i", "ns": ns, "o": {"_id": "a."}}, &[]),
        (doc! {"op": "i", "ns": ns, "o": {"_id": "a.system.js"}}, &[]),
        (doc! {"op": "d", "ns": ns, "o": {}}, &[]),
    ];
    for (o, expected) in rows {
        assert_eq!(lines(o.clone()), expected, "{o}");
    }
    let insert = entry(1, doc! {"op": "i", "ns": ns, "o": view});
    assert_eq!(Seen::with(Decoder::new(true), &[insert]).lines()[0][..8], *"0 insert");
}

#[test]
fn a_barrier_has_no_key_and_keeps_its_entry() {
    let drop = entry(3, doc! {"op": "c", "ns": "a.$cmd", "o": {"drop": "x"}, "o2": {"numRecords": 5}});
    let seen = Seen::of(std::slice::from_ref(&drop));
    let event = &seen.events[0];
    assert!(event.op.is_barrier() && event.key.is_none() && event.txn.is_none());
    assert_eq!((&event.raw, event.time, event.ns.db(), event.ns.coll()), (&drop, at(3), "a", "x"));
}
