use super::*;

use bson::{Bson, RawDocumentBuf, doc};
use oplogue_api::{ErrorKind, Namespace};
use oplogue_testkit::sample;
use proptest::prelude::*;

fn raw(d: bson::Document) -> Doc {
    RawDocumentBuf::try_from(&d).unwrap().into()
}

fn v1(o: bson::Document) -> Change {
    Change::OplogV1(raw(o))
}

fn v2(diff: bson::Document) -> Change {
    Change::OplogV2(raw(diff))
}

fn stream(description: bson::Document) -> Change {
    Change::ChangeStream(raw(description))
}

fn list(detail: Detail, event: &Event) -> Result<String> {
    let mut out = Vec::new();
    FieldList::new(detail).write(&mut out, &[], event)?;
    let text = String::from_utf8(out).unwrap();
    Ok(text.trim_start_matches('[').trim_end_matches(']').replace('"', ""))
}

fn update(change: Change) -> Event {
    Event { change: Some(change), ..sample::update("a.b", 1, doc! {}) }
}

const ALL: [Detail; 3] = [Detail::TopLevel, Detail::Logged, Detail::Deep];

/// Mistakes of other publishers (tests/redis/meteor/mod.rs), rows 7 (an update always tells what it changed) and 8 (deep paths lose nothing);
/// the cases are those of oplogtoredis' own tables, with more in `f` where it told too little.
#[test]
fn what_an_update_changed() {
    let table: Vec<(Change, [&str; 3])> = vec![
        (v1(doc! {"$v": 1, "$set": {"a": 1, "b.c": 2}, "$unset": {"d": true}}), ["a,b,d", "a,b.c,d", "a,b.c,d"]),
        (v1(doc! {"$v": 1, "$set": {"b.c": 2, "b.d": 3}}), ["b", "b.c,b.d", "b.c,b.d"]),
        (v1(doc! {"$v": 1, "$set": {}}), ["", "", ""]),
        (v1(doc! {"$set": {"a": {"b": 1}}}), ["a", "a", "a"]),
        (
            v2(doc! {"d": {"x": false}, "u": {"n": 1}, "i": {"z": 1}, "sa": {"u": {"b": 1}}}),
            ["x,n,z,a", "x,n,z,a", "x,n,z,a.b"],
        ),
        (v2(doc! {"i": {"o": {"b": {"z": 1}}, "e": {}}}), ["o,e", "o,e", "o,o.b,o.b.z,e"]),
        (v2(doc! {"u": {"o": {"b": 1, "c": [1, {"d": 1}]}}}), ["o", "o", "o,o.b,o.c"]),
        (v2(doc! {"slist": {"a": true, "u3": "i", "u4": "h"}}), ["list", "list", "list.3,list.4"]),
        (v2(doc! {"sarr": {"a": true, "u2": {"x": 1}}}), ["arr", "arr", "arr.2"]),
        (v2(doc! {"sobjs": {"a": true, "s0": {"u": {"v": 1}}}}), ["objs", "objs", "objs.0.v"]),
        (v2(doc! {"sobjs": {"a": true, "s0": {"u": {"v": 1}}, "u1": 5}}), ["objs", "objs", "objs.0.v,objs.1"]),
        (v2(doc! {"slist": {"a": true, "l": 10}}), ["list", "list", "list"]),
        (v2(doc! {"slist": {"a": true, "l": 10, "u9": 1}}), ["list", "list", "list,list.9"]),
        (
            v2(doc! {"so": {"slist": {"a": true, "s0": {"a": true, "l": 1, "s0": {"d": {"x": false}}}}}}),
            ["o", "o", "o.list.0,o.list.0.0.x"],
        ),
        (v2(doc! {"shello": {"a": true, "s1": {"u": {"value": 21}}}}), ["hello", "hello", "hello.1.value"]),
        (v2(doc! {"sg": 10}), ["g", "g", "g"]),
        (v2(doc! {"u": {"a.b": 1, "": 2}}), ["a.b,", "a.b,", "a.b,"]),
        (v2(doc! {}), ["", "", ""]),
        (
            stream(doc! {
                "updatedFields": {"a.b": {"x": 1}, "c": 2, "a.d": 3}, "removedFields": ["e.f", "c"],
                "truncatedArrays": [{"field": "g.h", "newSize": 2}],
            }),
            ["a,c,e,g", "a,c,e,g", "a.b,a.b.x,c,a.d,e.f,g.h"],
        ),
        (
            stream(
                doc! {"updatedFields": {"a.0": 1, "x.y": 1}, "disambiguatedPaths": {"a.0": ["a", "0"], "x.y": ["x.y"]}},
            ),
            ["a,x.y", "a,x.y", "a.0,x.y"],
        ),
    ];
    for (change, expected) in table {
        let event = update(change);
        for (detail, expected) in ALL.into_iter().zip(expected) {
            assert_eq!(list(detail, &event).unwrap(), expected, "{detail:?} of {:?}", event.change);
        }
    }
}

#[test]
fn what_no_server_writes_is_reported_and_not_guessed() {
    for change in [
        v1(doc! {"$v": 1, "weird": "x", "$set": {"a": 1}}),
        v2(doc! {"weird": 1}),
        v2(doc! {"u": 1}),
        v2(doc! {"u": {"a": 1}, "o": {"b": 1}}),
        stream(doc! {"updatedFields": 1}),
        stream(doc! {"removedFields": [1]}),
    ] {
        for detail in ALL {
            assert_eq!(list(detail, &update(change.clone())).unwrap_err().kind(), ErrorKind::Data, "{change:?}");
        }
    }
    for change in [v2(doc! {"sl": {"a": true, "x": 1}}), v2(doc! {"sl": {"a": true, "uz": 1}})] {
        assert_eq!(list(Detail::Deep, &update(change)).unwrap_err().kind(), ErrorKind::Data);
    }
    let mut deep = doc! {"u": {"x": 1}};
    for _ in 0..300 {
        deep = doc! {"sa": deep};
    }
    assert_eq!(list(Detail::Deep, &update(v2(deep))).unwrap_err().kind(), ErrorKind::Data);
}

/// Mistake 10: fields that a replacement drops.
#[test]
fn a_replacement_names_what_it_dropped_when_that_is_known() {
    let replace = sample::replace("a.b", doc! {"_id": 1, "x": 1, "y": 2});
    let known = Event { before: Some(raw(doc! {"_id": 1, "z": 1, "y": 0})), ..replace.clone() };
    for detail in ALL {
        assert_eq!(list(detail, &replace).unwrap(), "_id,x,y");
        assert_eq!(list(detail, &known).unwrap(), "_id,x,y,z");
    }
}

#[test]
fn several_events_of_a_document_have_one_list() {
    let events = [
        sample::insert("a.b", doc! {"_id": 1, "x": 1}),
        sample::update("a.b", 1, doc! {"y": 1, "x": 2}),
        sample::replace("a.b", doc! {"_id": 1, "z": 1}),
    ];
    let mut out = Vec::new();
    FieldList::default().write(&mut out, &[&events[0], &events[1]], &events[2]).unwrap();
    assert_eq!(out, br#"["_id","x","y","z"]"#);
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![Just(Bson::Null), any::<i32>().prop_map(Bson::from), "[a-c]{0,2}".prop_map(Bson::from)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
            prop::collection::vec(("[a-c]", inner), 0..3)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever the full decoder finds changed is covered by a deep path: by itself, or by a path above or below it.
    #[test]
    fn deep_paths_cover_all_that_changed(
        set in prop::collection::vec(("[a-c]", value()), 0..4),
        nested in prop::collection::vec((0u32..4, value()), 0..4),
        cut in prop::option::of(0i32..5),
    ) {
        let mut array = doc! {"a": true};
        if let Some(length) = cut {
            array.insert("l", length);
        }
        for (index, value) in nested {
            match value {
                Bson::Document(d) => array.insert(format!("s{index}"), doc! {"u": d}),
                other => array.insert(format!("u{index}"), other),
            };
        }
        let set: bson::Document = set.into_iter().collect();
        let change = v2(doc! {"u": set, "sl": array});
        let Ok(update) = change.decode() else { return Ok(()) };
        let event = Event { change: Some(change.clone()), ..Event::new(Op::Update, Namespace::new("a.b"), sample::delete("a.b", 1).time, Doc::empty()) };
        let listed = list(Detail::Deep, &event).unwrap();
        let listed: Vec<&str> = listed.split(',').collect();
        let decoded = update.set.iter().map(|(p, _)| p).chain(&update.unset).chain(update.truncate.iter().map(|(p, _)| p));
        for path in decoded {
            prop_assert!(listed.contains(&path.to_string().as_str()), "{} in {:?}", path, listed);
        }
    }
}
