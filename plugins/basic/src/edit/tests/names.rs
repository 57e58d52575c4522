use super::*;

fn rename(collections: &str, ns: &str) -> String {
    let mut transform = make("rename", &format!("collections = [{collections}]")).unwrap();
    let event = Event { ns: Namespace::new(ns), ..insert(doc! {"_id": 1}) };
    one(&mut *transform, event).unwrap().ns.to_string()
}

#[test]
fn collections_get_other_names() {
    let all = "{ from = 'app.orders', to = 'shop.bestellungen' }, { from = 'app.*', to = 'staging.*' }, \
               { from = '*_old.?x*', to = 'old.*_?*' }, { from = '/t(\\d+)\\.(\\w+)/', to = 'tenants.$2_of_$1' }";
    for (old, new) in [
        ("app.orders", "shop.bestellungen"),
        ("app.orders2", "staging.orders2"),
        ("app.fs.chunks", "staging.fs.chunks"),
        ("apps.x", "apps.x"),
        ("a_old.yxz", "old.a_yz"),
        ("t17.users", "tenants.users_of_17"),
        ("t17.users.x", "t17.users.x"),
    ] {
        assert_eq!(rename(all, old), new);
    }
}

#[test]
fn a_new_name_that_is_none_is_a_bad_event() {
    for (collections, ns) in [
        ("{ from = '/a(.*)/', to = '$1.x' }", "a.b"),
        ("{ from = 'a.*', to = 'local.*' }", "a.b"),
        ("{ from = 'a.*', to = '__mmm.*' }", "a.b"),
        ("{ from = 'a.*', to = 'b.system.*' }", "a.b"),
    ] {
        let mut transform = make("rename", &format!("collections = [{collections}]")).unwrap();
        for _ in 0..2 {
            let mut batch = batch(vec![Event { ns: Namespace::new(ns), ..insert(doc! {"_id": 1}) }]);
            transform.apply(&mut batch).unwrap();
            if collections.starts_with("{ from = '/") {
                // ".b.x": no database.
                assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "{collections}");
            }
            assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "{collections}");
            assert_eq!(batch.bad[0].ns.as_ref().unwrap().as_str(), ns);
        }
    }
}

fn barrier(op: Op, ns: &str, to: Option<&str>, sent: Document) -> Event {
    let event = Event { key: None, ns: Namespace::new(ns), to: to.map(Namespace::new), ..event(op) };
    Event { raw: raw(&sent), ..event }
}

#[test]
fn barriers_are_renamed_with_what_the_server_sent() {
    let options = "collections = [{ from = 'a.x', to = 'b.y' }, { from = 'c.*', to = 'd.*' }]";
    let renamed = |event: Event| {
        let out = one(&mut *make("rename", options).unwrap(), event).unwrap();
        (out.ns.to_string(), out.to.as_ref().map(ToString::to_string), decoded(&out.raw))
    };
    let names = |ns: &str, to: Option<&str>| (ns.to_owned(), to.map(str::to_owned));
    for (event, (ns, to), sent) in [
        (
            barrier(Op::Create, "a.x", None, doc! {"op": "c", "ns": "a.$cmd", "o": {"create": "x", "capped": true}}),
            names("b.y", None),
            doc! {"op": "c", "ns": "b.$cmd", "o": {"create": "y", "capped": true}},
        ),
        (
            barrier(
                Op::Create,
                "c.v",
                None,
                doc! {"op": "i", "ns": "c.system.views", "o": {"_id": "c.v", "viewOn": "x", "pipeline": []}},
            ),
            names("d.v", None),
            doc! {"op": "i", "ns": "d.system.views", "o": {"_id": "d.v", "viewOn": "x", "pipeline": []}},
        ),
        (
            barrier(
                Op::Rename,
                "a.x",
                Some("c.z"),
                doc! {"op": "c", "ns": "a.$cmd", "o": {"renameCollection": "a.x", "to": "c.z", "stayTemp": false}},
            ),
            names("b.y", Some("d.z")),
            doc! {"op": "c", "ns": "b.$cmd", "o": {"renameCollection": "b.y", "to": "d.z", "stayTemp": false}},
        ),
        (
            barrier(
                Op::Rename,
                "a.q",
                Some("a.x"),
                doc! {"operationType": "rename", "ns": {"db": "a", "coll": "q"}, "to": {"db": "a", "coll": "x"}, "operationDescription": {"to": {"db": "a", "coll": "x"}}},
            ),
            names("a.q", Some("b.y")),
            doc! {"operationType": "rename", "ns": {"db": "a", "coll": "q"}, "to": {"db": "b", "coll": "y"}, "operationDescription": {"to": {"db": "b", "coll": "y"}}},
        ),
        (
            barrier(
                Op::Index,
                "a.x",
                None,
                doc! {"operationType": "createIndexes", "ns": {"db": "a", "coll": "x"}, "operationDescription": {"indexes": [{"name": "x"}]}},
            ),
            names("b.y", None),
            doc! {"operationType": "createIndexes", "ns": {"db": "b", "coll": "y"}, "operationDescription": {"indexes": [{"name": "x"}]}},
        ),
        (
            barrier(
                Op::Index,
                "a.x",
                None,
                doc! {"op": "c", "ns": "a.$cmd", "o": {"createIndexes": "x", "v": 2, "name": "x", "ns": "a.x"}},
            ),
            names("b.y", None),
            doc! {"op": "c", "ns": "b.$cmd", "o": {"createIndexes": "y", "v": 2, "name": "x", "ns": "b.y"}},
        ),
        (
            barrier(Op::DropDatabase, "c", None, doc! {"op": "c", "ns": "c.$cmd", "o": {"dropDatabase": 1}}),
            names("d", None),
            doc! {"op": "c", "ns": "d.$cmd", "o": {"dropDatabase": 1}},
        ),
        (
            barrier(Op::DropDatabase, "a", None, doc! {"op": "c", "ns": "a.$cmd", "o": {"dropDatabase": 1}}),
            names("a", None),
            doc! {"op": "c", "ns": "a.$cmd", "o": {"dropDatabase": 1}},
        ),
    ] {
        assert_eq!(renamed(event), (ns, to, sent));
    }
    // Two databases in one: a drop of one of them is none of the other.
    let merged = "collections = [{ from = 'a.*', to = 'm.a_*' }, { from = 'c.*', to = 'm.*' }]";
    let drop = barrier(Op::DropDatabase, "c", None, doc! {"op": "c", "ns": "c.$cmd", "o": {"dropDatabase": 1}});
    assert_eq!(one(&mut *make("rename", merged).unwrap(), drop).unwrap().ns.as_str(), "c");
}

const FIELDS: &str = "fields = [{ from = 'mail', to = 'email' }, { from = 'items.n', to = 'items.count' }, { from = 'x', to = 'y' }, \
                      { from = 'y', to = 'x' }, { from = 'a', to = 'b' }, { from = 'a.c', to = 'd' }]";

#[test]
fn fields_get_other_names() {
    let after = doc! {"_id": 1, "mail": "m", "items": [{"n": 1}, {"k": 2}], "x": 1, "y": 2, "a": {"c": 1}};
    let wanted = doc! {"_id": 1, "email": "m", "items": [{"count": 1}, {"k": 2}], "y": 1, "x": 2, "b": {"d": 1}};
    assert_eq!(edited("rename", FIELDS, after), wanted);
    let changed = |change| shown(&changed("rename", FIELDS, change).unwrap());
    let diff = Change::OplogV2(raw(&doc! {
        "d": {"x": false}, "u": {"mail": 1}, "i": {"y": 3}, "sitems": {"a": true, "s0": {"u": {"n": 1}}, "u1": {"n": 2}}, "sa": {"i": {"c": 1}},
    }));
    let wanted = doc! {
        "d": {"y": false}, "u": {"email": 1}, "i": {"x": 3}, "sitems": {"a": true, "s0": {"u": {"count": 1}}, "u1": {"count": 2}},
        "sb": {"i": {"d": 1}},
    };
    assert_eq!(changed(diff), wanted);
    let description = Change::ChangeStream(raw(&doc! {
        "updatedFields": {"items.1.n": 1, "a.c.0.z": 2}, "removedFields": ["mail"], "truncatedArrays": [{"field": "a.c", "newSize": 3}],
        "disambiguatedPaths": {"items.1.n": ["items", 1, "n"], "a.c.0.z": ["a", "c", "0", "z"]},
    }));
    let wanted = doc! {
        "updatedFields": {"items.1.count": 1, "b.d.0.z": 2}, "removedFields": ["email"], "truncatedArrays": [{"field": "b.d", "newSize": 3}],
        "disambiguatedPaths": {"items.1.count": ["items", 1, "count"], "b.d.0.z": ["b", "d", "0", "z"]},
    };
    assert_eq!(changed(description), wanted);
}

fn shown(change: &Change) -> Document {
    match change {
        Change::ChangeStream(doc) | Change::OplogV1(doc) | Change::OplogV2(doc) => decoded(doc),
    }
}

#[test]
fn a_field_of_the_new_name_is_an_error_or_gives_way() {
    let v1 = |change: Document| {
        let mut all = doc! {"$v": 1};
        all.extend(change);
        update(Change::OplogV1(raw(&all)))
    };
    let v2 = |change: Document| update(Change::OplogV2(raw(&change)));
    for (event, wanted) in [
        (insert(doc! {"_id": 1, "email": 1, "mail": 2}), doc! {"_id": 1, "email": 2}),
        (insert(doc! {"_id": 1, "mail": 2, "email": 1}), doc! {"_id": 1, "email": 2}),
        (v2(doc! {"u": {"email": 1, "mail": 2}}), doc! {"u": {"email": 2}}),
        (v2(doc! {"u": {"mail": 2}, "semail": {"u": {"x": 1}}}), doc! {"u": {"email": 2}}),
        (v1(doc! {"$set": {"email.x": 1, "mail": 2}}), doc! {"$v": 1, "$set": {"email": 2}}),
        (v1(doc! {"$unset": {"email.x": true}, "$set": {"mail.y": 2}}), doc! {"$v": 1, "$set": {"email.y": 2}}),
    ] {
        let mut batch = batch(vec![event.clone()]);
        make("rename", FIELDS).unwrap().apply(&mut batch).unwrap();
        assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "{wanted}");
        let out = one(&mut *make("rename", &format!("{FIELDS}\nexisting = 'replace'")).unwrap(), event).unwrap();
        assert_eq!(out.after.as_ref().map(decoded).or(out.change.as_ref().map(shown)), Some(wanted));
    }
    // As the database's own $rename has it, one goes as the other comes.
    for (event, wanted) in [
        (v2(doc! {"d": {"email": false}, "i": {"mail": 2}}), doc! {"i": {"email": 2}}),
        (v2(doc! {"d": {"mail": false}, "i": {"email": 2}}), doc! {"i": {"email": 2}}),
        (v2(doc! {"d": {"mail": false, "email": false}}), doc! {"d": {"email": false}}),
        (v1(doc! {"$unset": {"email": true}, "$set": {"mail": 2}}), doc! {"$v": 1, "$set": {"email": 2}}),
        (v1(doc! {"$unset": {"mail": true}, "$set": {"email": 2}}), doc! {"$v": 1, "$set": {"email": 2}}),
        (v2(doc! {"u": {"email": 1}}), doc! {"u": {"email": 1}}),
    ] {
        let out = one(&mut *make("rename", FIELDS).unwrap(), event).unwrap();
        assert_eq!(shown(out.change.as_ref().unwrap()), wanted);
    }
}

#[test]
fn wrong_renamings_are_refused_with_a_remedy() {
    for (options, field, what) in [
        ("", None, "needs `collections`"),
        ("collections = []", Some("collections"), "empty"),
        ("collections = [{ from = 'app', to = 'b.*' }]", Some("collections"), "names no collection"),
        ("collections = [{ from = 'app.*', to = 'b' }]", Some("collections"), "names no collection"),
        ("collections = [{ from = 'app.x', to = 'b.*' }]", Some("collections"), "has a `*`"),
        ("collections = [{ from = '/a(/', to = 'b.x' }]", Some("collections"), "no regular expression"),
        ("collections = [{ from = '/a.b', to = 'b.x' }]", Some("collections"), "no regular expression"),
        ("collections = [{ from = '/a.(b)/', to = 'b.$2' }]", Some("collections"), "has only 1"),
        ("collections = [{ from = '/a.(b)/', to = 'b.$x' }]", Some("collections"), "without the number"),
        ("collections = [{ from = ' a.b', to = 'b.x' }]", Some("collections"), "no name"),
        ("fields = []", Some("fields"), "empty"),
        ("fields = [{ from = 'a', to = 'b.c' }]", Some("fields"), "stays where it is"),
        ("fields = [{ from = 'a.b', to = 'b.c' }]", Some("fields"), "stays where it is"),
        ("fields = [{ from = 'a', to = 'a' }]", Some("fields"), "no new name"),
        ("fields = [{ from = 'a', to = '$a' }]", Some("fields"), "no new name"),
        ("fields = [{ from = 'a', to = '0' }]", Some("fields"), "no name"),
        ("fields = [{ from = 'a.0', to = 'b' }]", Some("fields"), "no name"),
        ("fields = [{ from = '_id', to = 'b' }]", Some("fields"), "document key"),
        ("fields = [{ from = 'b', to = '_id' }]", Some("fields"), "document key"),
        ("fields = [{ from = '_id.a', to = 'b' }]", Some("fields"), "document key"),
        ("fields = [{ from = 'a', to = 'c' }, { from = 'b', to = 'c' }]", Some("fields"), "two fields"),
        ("fields = [{ from = 'a', to = 'c' }, { from = 'a', to = 'd' }]", Some("fields"), "twice"),
    ] {
        let e = make("rename", options).err().unwrap_or_else(|| panic!("{options:?} is taken"));
        assert_eq!(e.field(), field, "{options}: {e}");
        assert!(e.message().contains(what), "{options}: {e}");
        assert!(e.get_hint().is_some(), "{options}: {e}");
    }
}
