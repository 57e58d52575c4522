use oplogue_api::ErrorKind;

use super::*;

fn v2(diff: Document) -> Change {
    Change::OplogV2(raw(&diff))
}

/// The documents of an insert, an update with and without its document, and a delete.
fn all(options: &str) -> [Option<Option<Document>>; 4] {
    let mut unwrap = make("unwrap", options).unwrap_or_else(|e| panic!("{e}: {:?}", e.get_hint()));
    let change = || v2(doc! {"u": {"n": 2}, "d": {"gone": false}, "saddr": {"u": {"city": "B"}}});
    let after = raw(&doc! {"_id": 1, "n": 2, "addr": {"city": "B"}});
    let events = [
        insert(doc! {"_id": 1, "n": 1, "addr": {"city": "A", "geo": {"x": 1}}, "none": {}, "list": [{"a": 1}]}),
        Event { after: Some(after), before: Some(raw(&doc! {"_id": 1})), ..update(change()) },
        update(change()),
        event(Op::Delete),
    ];
    events.map(|event| {
        let (op, id) = (event.op, event.id());
        let out = one(&mut *unwrap, event)?;
        assert!(out.before.is_none() && out.change.is_none() && out.key.is_some());
        assert_eq!((out.op, out.id()), (op, id));
        Some(out.after.map(|after| decoded(&after)))
    })
}

#[test]
fn an_event_becomes_the_document_that_it_left() {
    let full = doc! {"_id": 1, "n": 1, "addr": {"city": "A", "geo": {"x": 1}}, "none": {}, "list": [{"a": 1}]};
    let patch = doc! {"_id": 1, "n": 2, "addr.city": "B", "gone": null};
    let now = doc! {"_id": 1, "n": 2, "addr": {"city": "B"}};
    assert_eq!(all(""), [Some(Some(full)), Some(Some(now)), Some(Some(patch)), Some(None)]);
    let [_, _, update, delete] = all("missing = 'drop'\ndelete_tombstone_handling_mode = 'drop'");
    assert_eq!((update, delete), (None, None));
}

#[test]
fn facts_are_added_and_deletes_rewritten() {
    let options = "delete_tombstone_handling_mode = 'rewrite'\nadd_fields = ['op', 'source.ts_ms', 'db:database', 'ord']\nname = 'x'";
    let facts = |op: &str, deleted: bool| doc! {"__deleted": deleted, "__op": op, "__source_ts_ms": 1000_i64, "__database": "app", "__ord": 1_i64};
    let [insert, _, _, delete] = all(options);
    let insert = insert.unwrap().unwrap();
    assert_eq!(insert.keys().last().unwrap(), "__ord");
    assert_eq!(insert.iter().skip(5).map(|(k, v)| (k.clone(), v.clone())).collect::<Document>(), facts("c", false));
    let mut wanted = doc! {"_id": 1};
    wanted.extend(facts("d", true));
    assert_eq!(delete, Some(Some(wanted)));
    // What was there before the delete, where the source has it.
    let deleted = Event { before: Some(raw(&doc! {"_id": 1, "n": 7})), ..event(Op::Delete) };
    let out = one(&mut *make("unwrap", "delete_tombstone_handling_mode = 'rewrite'").unwrap(), deleted).unwrap();
    assert_eq!(decoded(&out.after.unwrap()), doc! {"_id": 1, "n": 7, "__deleted": true});
}

#[test]
fn documents_within_are_flattened() {
    let [insert, _, update, _] = all("flatten_struct = true");
    let flat = doc! {"_id": 1, "n": 1, "addr_city": "A", "addr_geo_x": 1, "none": {}, "list": [{"a": 1}]};
    assert_eq!(insert, Some(Some(flat)));
    assert_eq!(update, Some(Some(doc! {"_id": 1, "n": 2, "addr_city": "B", "gone": null})));
    let [insert, ..] = all("flatten_struct = true\nflatten_struct_delimiter = '__'");
    assert!(insert.unwrap().unwrap().contains_key("addr__geo__x"));
}

#[test]
fn what_cannot_be_said_is_a_bad_event() {
    let shortened = update(Change::ChangeStream(raw(&doc! {
        "updatedFields": {}, "removedFields": [], "truncatedArrays": [{"field": "a", "newSize": 1}],
    })));
    for (options, event) in [
        ("", shortened),
        ("missing = 'error'", update(v2(doc! {"u": {"n": 2}}))),
        ("add_fields = ['op']", insert(doc! {"_id": 1, "__op": 5})),
        ("flatten_struct = true", insert(doc! {"_id": 1, "a": {"b": 1}, "a_b": 2})),
    ] {
        let mut batch = batch(vec![event]);
        make("unwrap", options).unwrap().apply(&mut batch).unwrap();
        assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "{options}");
        assert_eq!(batch.bad[0].error.kind(), ErrorKind::Data);
        assert!(batch.bad[0].error.get_hint().is_some());
    }
}

#[test]
fn wrong_options_are_named() {
    for (options, part) in [
        ("add_fields = ['opp']", "`opp`"),
        ("add_fields = ['source.tsms']", "`source.tsms`"),
        ("add_fields = ['op', 'op']", "twice"),
        ("add_fields = ['op:_id']\nadd_fields_prefix = ''", "`_id`"),
    ] {
        let e = make("unwrap", options).map(drop).unwrap_err();
        assert!(e.to_string().contains(part) && e.field() == Some("add_fields") && e.get_hint().is_some(), "{e}");
    }
}
