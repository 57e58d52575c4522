use bson::Bson;

use super::*;

fn diff(change: Document) -> Change {
    Change::OplogV2(raw(&change))
}

#[test]
fn paths_reach_into_arrays_and_elements() {
    let doc = doc! {"_id": 1, "items": [{"price": 1, "n": 1}, 5, [{"price": 2}], {"price": 3}], "price": 4};
    let all = edited("project", "exclude = ['items.price']", doc.clone());
    assert_eq!(all, doc! {"_id": 1, "items": [{"n": 1}, 5, [{}], {}], "price": 4});
    let first = edited("project", "exclude = ['items.0.price', 'items.3']", doc.clone());
    assert_eq!(first, doc! {"_id": 1, "items": [{"n": 1}, 5, [{}], Bson::Null], "price": 4});
    let only = edited("project", "include = ['items.price']", doc);
    assert_eq!(only, doc! {"_id": 1, "items": [{"price": 1}, Bson::Null, [{"price": 2}], {"price": 3}]});
}

#[test]
fn names_with_dots_are_the_paths_that_they_look_like() {
    let doc = doc! {"_id": 1, "a.b": 1, "a": {"b": 2, "c": 3}, "a.c": 4};
    assert_eq!(edited("project", "exclude = ['a.b']", doc), doc! {"_id": 1, "a": {"c": 3}, "a.c": 4});
    let change = diff(doc! {"u": {"a.b": 1, "a.c": 2}, "d": {"a.b": false}});
    assert_eq!(changed("project", "exclude = ['a.b']", change), Some(diff(doc! {"u": {"a.c": 2}})));
}

#[test]
fn an_element_that_is_taken_out_is_null_and_stays_so() {
    let options = "exclude = ['a.0']";
    let set = |path: &str| Change::OplogV1(raw(&doc! {"$v": 1, "$set": {path: "x", "b": 1}}));
    let wanted = Some(Change::OplogV1(raw(&doc! {"$v": 1, "$set": {"a.0": Bson::Null, "b": 1}})));
    assert_eq!(changed("project", options, set("a.0")), wanted);
    assert_eq!(changed("project", options, set("a.0.x.y")), wanted);
    let change = diff(doc! {"sa": {"a": true, "u0": "x", "u1": "y"}});
    assert_eq!(changed("project", options, change), Some(diff(doc! {"sa": {"a": true, "u0": Bson::Null, "u1": "y"}})));
    let change = Change::ChangeStream(raw(&doc! {
        "updatedFields": {"a.0.x": 1, "a.0.y": 2, "a.1": 3}, "removedFields": [], "truncatedArrays": [],
        "disambiguatedPaths": {"a.0.x": ["a", 0, "x"], "a.0.y": ["a", 0, "y"], "a.1": ["a", 1]},
    }));
    let wanted = Change::ChangeStream(raw(&doc! {
        "updatedFields": {"a.0": Bson::Null, "a.1": 3}, "removedFields": [],
        "disambiguatedPaths": {"a.0": ["a", 0], "a.1": ["a", 1]},
    }));
    assert_eq!(changed("project", options, change), Some(wanted));
}

#[test]
fn elements_go_by_their_place_whatever_they_are_called() {
    // Servers take arrays with any names.
    let mut bytes = bson::rawdoc! {"_id": 1, "a": {"x": {"b": 1}, "y": {"b": 2}}}.into_bytes();
    let at = bytes.windows(3).position(|w| w == b"\x03a\0").unwrap();
    bytes[at] = 4;
    let after = Doc::new(bytes.into()).unwrap();
    let mut transform = make("project", "exclude = ['a.1.b']").unwrap();
    let out = one(&mut *transform, Event { after: Some(after), ..event(Op::Insert) }).unwrap();
    assert_eq!(decoded(&out.after.unwrap()), doc! {"_id": 1, "a": [{"b": 1}, {}]});
}

#[test]
fn wrong_paths_are_refused_with_a_remedy() {
    for (kind, options, field, what) in [
        ("project", "", None, "needs `include` or `exclude`"),
        ("project", "include = ['a']\nexclude = ['b']", Some("exclude"), "both there"),
        ("project", "include = []", Some("include"), "empty"),
        ("project", "exclude = ['_id']", Some("exclude"), "document key"),
        ("project", "include = ['_id.a']", Some("include"), "document key"),
        ("project", "exclude = ['a..b']", Some("exclude"), "no path"),
        ("project", "exclude = ['']", Some("exclude"), "no path"),
        ("project", "exclude = ['items.*.price']", Some("exclude"), "no path"),
        ("project", "exclude = ['$.a']", Some("exclude"), "no path"),
        ("project", "exclude = ['a.b', 'a']", Some("exclude"), "holds another"),
        ("project", "include = ['a', 'a.b']", Some("include"), "lies inside"),
        ("project", "include = ['a', 'a']", Some("include"), "twice"),
        ("project", "include = ['a']\nnamespaces = ['app']", Some("namespaces"), "names no collection"),
        ("redact", "fields = []", Some("fields"), "empty"),
        ("redact", "fields = ['_id']", Some("fields"), "document key"),
        ("redact", "fields = [{ field = '_id', mode = 'mask' }]", Some("fields"), "document key"),
        ("redact", "fields = ['a']\nmode = 'hush'", Some("mode"), "no mode `hush`"),
        ("redact", "fields = [{ field = 'a', mode = 'hush' }]", Some("fields"), "no mode `hush`"),
        ("redact", "fields = ['a']\nmode = 'hash'", Some("key"), "needs a key"),
        ("redact", "fields = ['a']\nmode = 'hash'\nkey = 'short'", Some("key"), "less than 16"),
        ("redact", "fields = ['a']\nkey = '0123456789abcdef'", Some("key"), "no field is hashed"),
        ("redact", "fields = ['a']\nmode = 'truncate'", Some("fields"), "`length` is missing"),
        ("redact", "fields = [{ field = 'a', length = 1 }]", Some("fields"), "means nothing"),
        ("redact", "fields = [{ field = 'a', mode = 'mask', with = [1] }]", Some("fields"), "no text, number"),
    ] {
        let e = make(kind, options).err().unwrap_or_else(|| panic!("{kind} {options:?} is taken"));
        assert_eq!(e.field(), field, "{options}: {e}");
        assert!(e.message().contains(what), "{options}: {e}");
        assert!(e.get_hint().is_some(), "{options}: {e}");
    }
    for options in ["fields = [{ field = 'a', mod = 'mask' }]", "fields = [1]", "fields = ['a']\nempty_updates = 'x'"] {
        assert!(make("redact", options).is_err(), "{options}");
    }
}
