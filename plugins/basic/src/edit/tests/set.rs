use bson::{Bson, DateTime};

use super::*;

#[test]
fn constants_and_facts_are_set() {
    let options = "fields = [
        { field = 'region', value = 'eu' }, { field = 'n', value = 5000000000 }, { field = 'list', value = [1, 2.5, true] },
        { field = 'since', value = { '$date' = '2026-11-21T10:00:00Z' } }, { field = 'a.b.op', from = 'op' }, { field = 'a.b.db', from = 'db' },
        { field = 'a.coll', from = 'coll' }, { field = 'time', from = 'time' }, { field = 'wall', from = 'wall' },
        { field = 'who', from = 'key._id' }, { field = 'none', from = 'key.none' }, { field = 'key', from = 'key' },
        { field = 'meta', from = 'event' },
    ]";
    let mut event = insert(doc! {"_id": 1, "n": 1, "a": {"x": 1, "b": null}, "wall": "old", "z": 1});
    let mut transform = make("set", options).unwrap();
    let common = |wall: Bson| {
        doc! {
            "_id": 1, "n": 5_000_000_000_i64, "a": {"x": 1, "b": {"op": "insert", "db": "app"}, "coll": "users"}, "wall": wall, "z": 1,
            "region": "eu", "list": [1, 2.5, true], "since": DateTime::parse_rfc3339_str("2026-11-21T10:00:00Z").unwrap(),
            "time": time(), "who": 1, "key": {"_id": 1},
        }
    };
    let mut wanted = common("old".into());
    wanted.insert("meta", doc! {"op": "insert", "ns": "app.users", "time": time(), "id": "1.1.0", "key": {"_id": 1}});
    assert_eq!(decoded(&one(&mut *transform, event.clone()).unwrap().after.unwrap()), wanted);
    event.wall = Some(7);
    let wall = DateTime::from_millis(7);
    let mut wanted = common(wall.into());
    wanted.insert(
        "meta",
        doc! {"op": "insert", "ns": "app.users", "time": time(), "wall": wall, "id": "1.1.0", "key": {"_id": 1}},
    );
    assert_eq!(decoded(&one(&mut *transform, event).unwrap().after.unwrap()), wanted);
}

#[test]
fn only_full_documents_are_set() {
    let mut transform = make("set", "fields = [{ field = 'a.b', value = 1 }]").unwrap();
    let event = Event { before: Some(raw(&doc! {"_id": 1})), ..update(Change::OplogV2(raw(&doc! {"u": {"x": 1}}))) };
    assert_eq!(one(&mut *transform, event.clone()).unwrap().to_document(), event.to_document());
    let mut batch = batch(vec![insert(doc! {"_id": 1, "a": [1]}), insert(doc! {"_id": 1, "a": 1})]);
    transform.apply(&mut batch).unwrap();
    assert_eq!((batch.events.len(), batch.bad.len()), (0, 2));
    for (options, what) in [
        ("fields = []", "empty"),
        ("fields = [{ field = 'a' }]", "needs `value` or `from`"),
        ("fields = [{ field = 'a', value = 1, from = 'op' }]", "needs `value` or `from`"),
        ("fields = [{ field = 'a', from = 'ops' }]", "cannot come from"),
        ("fields = [{ field = 'a', from = 'key.' }]", "cannot come from"),
        ("fields = [{ field = '_id', value = 1 }]", "document key"),
        ("fields = [{ field = 'a..b', value = 1 }]", "no path"),
        ("fields = [{ field = 'a.0', value = 1 }]", "element"),
        ("fields = [{ field = 'a', value = 1 }, { field = 'a', value = 1 }]", "twice"),
        ("fields = [{ field = 'a', value = 1 }, { field = 'a.b', value = 1 }]", "inside another"),
        ("fields = [{ field = 'a.b', value = 1 }, { field = 'a', value = 1 }]", "twice"),
        ("fields = [{ field = 'a', value = { '$oid' = 'x' } }]", "cannot be a part"),
    ] {
        let e = make("set", options).err().unwrap_or_else(|| panic!("{options:?} is taken"));
        assert!(e.field() == Some("fields") && e.message().contains(what) && e.get_hint().is_some(), "{options}: {e}");
    }
}

#[test]
fn updates_that_change_nothing_are_left_out() {
    let doc = || Some(raw(&doc! {"_id": 1, "a": 1}));
    let diff = |change: Document| Some(Change::OplogV2(raw(&change)));
    let update = || event(Op::Update);
    for (event, stays) in [
        (Event { change: diff(doc! {}), ..update() }, false),
        (Event { change: diff(doc! {"u": {"a": 1}}), ..update() }, true),
        (Event { change: diff(doc! {"u": {"a": 1}}), before: doc(), ..update() }, false),
        (Event { change: diff(doc! {"u": {"a": 2}}), before: doc(), ..update() }, true),
        (Event { change: diff(doc! {"u": {"a": 1}}), before: doc(), after: doc(), ..update() }, false),
        (Event { change: diff(doc! {"u": {"a": 1}}), after: doc(), ..update() }, true),
        (Event { after: doc(), before: doc(), ..event(Op::Replace) }, false),
        (Event { after: doc(), ..event(Op::Replace) }, true),
        (Event { after: doc(), before: doc(), ..event(Op::Insert) }, true),
        (event(Op::Delete), true),
    ] {
        assert_eq!(one(&mut *make("dedupe", "").unwrap(), event.clone()).is_some(), stays, "{event:?}");
        assert!(one(&mut *make("dedupe", "namespaces = ['other.*']").unwrap(), event).is_some());
    }
}

#[test]
fn a_sample_is_a_part_of_the_documents_and_always_the_same() {
    let mut tenth = make("sample", "rate = 0.1").unwrap();
    let mut half = make("sample", "rate = 0.5").unwrap();
    let keyed = |id: Bson| Event { key: Some(raw(&doc! {"_id": id})), ..event(Op::Delete) };
    let mut kept = [0, 0];
    for i in 0..10_000 {
        let (small, large) = (one(&mut *tenth, keyed(i.into())).is_some(), one(&mut *half, keyed(i.into())).is_some());
        assert!(large || !small, "a larger sample holds the smaller");
        assert_eq!(large, one(&mut *half, keyed(f64::from(i).into())).is_some());
        kept[0] += usize::from(small);
        kept[1] += usize::from(large);
    }
    assert!((800..1200).contains(&kept[0]) && (4700..5300).contains(&kept[1]), "{kept:?}");
    // The very same in every process and version.
    let these: Vec<i32> = (0..40).filter(|i| one(&mut *tenth, keyed((*i).into())).is_some()).collect();
    assert_eq!(these, SAMPLED);
    for rate in ["0", "-1", "1.5", "nan", "'x'"] {
        let e = make("sample", &format!("rate = {rate}")).err().unwrap();
        assert!(e.field() == Some("rate") && e.get_hint().is_some());
    }
}
const SAMPLED: [i32; 4] = [10, 14, 26, 33];
