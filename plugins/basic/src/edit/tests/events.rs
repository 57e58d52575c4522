use bson::{Binary, Bson, DateTime, Decimal128, oid::ObjectId, spec::BinarySubtype};
use oplogue_api::{BadEvent, Error, ErrorKind};

use super::*;

fn all_types() -> Document {
    doc! {
        "_id": 1, "text": "secret", "int": 7, "long": 7_i64, "double": 7.5, "decimal": "7.5".parse::<Decimal128>().unwrap(),
        "bool": true, "date": DateTime::from_millis(7), "oid": ObjectId::from_bytes([7; 12]),
        "binary": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }, "null": null,
        "time": Timestamp { time: 7, increment: 7 }, "code": Bson::JavaScriptCode("secret".into()),
        "array": ["secret", [7], {"x": "secret"}], "document": {"x": {"y": 7}}, "min": Bson::MinKey,
    }
}

fn all_fields() -> String {
    let names = all_types().keys().filter(|k| *k != "_id").map(|k| format!("{k:?}")).collect::<Vec<_>>();
    format!("fields = [{}]", names.join(", "))
}

#[test]
fn a_mask_keeps_types_and_shape() {
    let masked = edited("redact", &format!("{}\nmode = 'mask'", all_fields()), all_types());
    let wanted = doc! {
        "_id": 1, "text": "***", "int": 0, "long": 0_i64, "double": 0.0, "decimal": "0".parse::<Decimal128>().unwrap(),
        "bool": false, "date": DateTime::from_millis(0), "oid": ObjectId::from_bytes([0; 12]),
        "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![] }, "null": null,
        "time": Timestamp { time: 0, increment: 0 }, "code": "***",
        "array": ["***", [0], {"x": "***"}], "document": {"x": {"y": 0}}, "min": Bson::MinKey,
    };
    assert_eq!(masked, wanted);
    let with = |with: &str| {
        edited("redact", &format!("fields = [{{ field = 'a', mode = 'mask', {with} }}]"), doc! {"a": ["x", 1, null]})
    };
    assert_eq!(with("with = 'gone'"), doc! {"a": ["gone", "gone", null]});
    assert_eq!(with("with = -1"), doc! {"a": [-1, -1, null]});
    assert_eq!(with("with = 5000000000"), doc! {"a": [5_000_000_000_i64, 5_000_000_000_i64, null]});
    assert_eq!(with("with = true"), doc! {"a": [true, true, null]});
}

#[test]
fn a_mask_that_keeps_the_end_never_keeps_most() {
    let keep = |n: usize, text: &str| {
        let options = format!("fields = [{{ field = 'a', mode = 'mask', keep_last = {n} }}]");
        edited("redact", &options, doc! {"a": text}).get_str("a").unwrap().to_owned()
    };
    assert_eq!(keep(4, "4111 1111 1111 1234"), "***1234");
    assert_eq!(keep(4, "12345678"), "***5678");
    assert_eq!(
        (keep(4, "1234567"), keep(4, "1234"), keep(4, ""), keep(0, "1234")),
        ("***".into(), "***".into(), "***".into(), "***".into())
    );
    assert_eq!(keep(2, "größé😀"), "***é😀");
}

#[test]
fn truncation_leaves_nothing_of_what_is_no_text() {
    let options = "fields = [{ field = 'a', mode = 'truncate', length = 2 }]";
    let cut = |value: Bson| edited("redact", options, doc! {"a": value}).remove("a").unwrap();
    assert_eq!(cut("12345".into()), "12".into());
    assert_eq!(cut("ß€😀".into()), "ß€".into());
    assert_eq!((cut("12".into()), cut("".into())), ("12".into(), "".into()));
    assert_eq!(cut(12345.into()), 0.into());
    assert_eq!(cut(Bson::Array(vec!["12345".into()])), Bson::Array(vec!["12".into()]));
    let binary = |bytes: &[u8]| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() });
    assert_eq!((cut(binary(b"123")), cut(binary(b"1"))), (binary(b"12"), binary(b"1")));
}

const HASH: &str = "mode = 'hash'\nkey = '0123456789abcdef'\nfields = ";

#[test]
fn digests_are_hmac_sha_256_and_one_for_equal_values() {
    let digest = |value: Bson| edited("redact", &format!("{HASH}['a']"), doc! {"a": value}).remove("a").unwrap();
    // printf '\x02joe@example.com' | openssl dgst -sha256 -hmac 0123456789abcdef
    assert_eq!(digest("joe@example.com".into()), OPENSSL.into());
    let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
    for equal in [
        vec![Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0), decimal("1"), decimal("1.000"), decimal("10E-1")],
        vec![Bson::Double(0.5), decimal("0.5"), decimal("0.50")],
        vec![Bson::Double(0.0), Bson::Double(-0.0), Bson::Int32(0), decimal("-0E+3")],
        vec![decimal("0.1"), decimal("0.10")],
        vec![decimal("1E+100"), decimal("10E+99")],
        vec![Bson::Double(f64::NAN), decimal("NaN")],
        vec![Bson::from("a"), Bson::Symbol("a".into())],
    ] {
        for other in &equal[1..] {
            assert_eq!(digest(equal[0].clone()), digest(other.clone()), "{} {other}", equal[0]);
        }
    }
    let different = [
        Bson::from("1"),
        1.into(),
        2.into(),
        (-1).into(),
        0.5.into(),
        0.1.into(),
        decimal("0.1"),
        true.into(),
        false.into(),
        Bson::DateTime(DateTime::from_millis(1)),
        Bson::JavaScriptCode("1".into()),
        decimal("0.10000000000000001"),
        decimal("0.100000000000000012"),
        f64::INFINITY.into(),
        Bson::Int64(i64::MAX),
        Bson::Double(i64::MAX as f64),
    ];
    for (i, a) in different.iter().enumerate() {
        for b in &different[i + 1..] {
            assert_ne!(digest(a.clone()), digest(b.clone()), "{a} {b}");
        }
    }
    assert_eq!((digest(Bson::Null), digest(Bson::MaxKey)), (Bson::Null, Bson::MaxKey));
}
const OPENSSL: &str = "e630fdfd0f8f8c6615704977c713e916095a5ff232dffe59b39ef10085c4723a";

#[test]
fn a_hashed_key_is_the_same_everywhere() {
    let mut transform = make("redact", &format!("{HASH}['_id', 'who']")).unwrap();
    let id = |doc: &Option<Doc>| decoded(doc.as_ref().unwrap()).get("_id").unwrap().clone();
    let document = raw(&doc! {"_id": 1.0, "who": "joe"});
    let mut event = Event { after: Some(document.clone()), before: Some(document), ..event(Op::Replace) };
    event.key = Some(raw(&doc! {"who": "joe", "_id": 1_i64}));
    let out = one(&mut *transform, event).unwrap();
    assert!(id(&out.key).as_str().unwrap().len() == 64);
    assert_eq!((id(&out.key), id(&out.key)), (id(&out.after), id(&out.before)));
    let who = decoded(&out.after.unwrap()).get("who").unwrap().clone();
    assert_eq!(decoded(&out.key.unwrap()).get("who"), Some(&who));
    let change = changed("redact", &format!("{HASH}['_id', 'who']"), Change::OplogV2(raw(&doc! {"u": {"who": "joe"}})));
    assert_eq!(change, Some(Change::OplogV2(raw(&doc! {"u": {"who": who}}))));
}

#[test]
fn what_is_not_touched_is_handed_on_as_it_came() {
    for (kind, options) in [
        ("redact", "fields = ['nothing', 'address.street.x', 'list.x']"),
        ("project", "exclude = ['nothing', 'address.street.x', 'list.x']"),
        ("project", "include = ['name', 'address', 'list', 'n']"),
        ("redact", "fields = ['name']\nnamespaces = ['other.*']"),
    ] {
        let after = raw(&doc! {"_id": 1, "name": "x", "address": {"street": "y"}, "list": [1, {"y": 2}]});
        let change = Change::OplogV2(raw(&doc! {"u": {"n": 1}, "saddress": {"u": {"street": "z"}}}));
        let event = Event { after: Some(after), ..update(change) };
        let out = one(&mut *make(kind, options).unwrap(), event.clone()).unwrap();
        let at = |doc: &Option<Doc>| doc.as_ref().unwrap().as_bytes().as_ptr();
        assert_eq!((at(&out.key), at(&out.after)), (at(&event.key), at(&event.after)), "{kind} {options}");
        assert_eq!(out.raw.as_bytes().as_ptr(), event.raw.as_bytes().as_ptr());
        let (Some(Change::OplogV2(before)), Some(Change::OplogV2(after))) = (event.change, out.change) else {
            panic!()
        };
        assert_eq!(before.as_bytes().as_ptr(), after.as_bytes().as_ptr(), "{kind} {options}");
    }
}

#[test]
fn updates_of_which_nothing_is_left() {
    let diff = |doc: Document| Change::OplogV2(raw(&doc));
    let all = [
        (diff(doc! {"u": {"a": 1}, "i": {"b": 1}, "d": {"a.x": false}}), diff(doc! {})),
        (diff(doc! {"sc": {"sd": {"u": {"a": 1}}}}), diff(doc! {})),
        (diff(doc! {"sc": {"a": true, "s0": {"u": {"x": 1}}}}), diff(doc! {})),
        (
            Change::OplogV1(raw(&doc! {"$v": 1, "$unset": {"b.c": true}, "$set": {"a": 1}})),
            Change::OplogV1(raw(&doc! {"$v": 1})),
        ),
        (
            Change::ChangeStream(raw(&doc! {
                "updatedFields": {"a.0": 1}, "removedFields": ["b"], "truncatedArrays": [{"field": "a", "newSize": 1}],
                "disambiguatedPaths": {"a.0": ["a", 0]},
            })),
            Change::ChangeStream(raw(&doc! {"updatedFields": {}, "removedFields": [], "disambiguatedPaths": {}})),
        ),
    ];
    let paths = "['a', 'b', 'c.x', 'c.d.a']";
    for (change, empty) in all {
        assert_eq!(changed("project", &format!("exclude = {paths}"), change.clone()), None);
        let options = format!("exclude = {paths}\nempty_updates = 'keep'");
        assert_eq!(changed("project", &options, change.clone()), Some(empty.clone()));
        assert_eq!(changed("redact", &format!("fields = {paths}"), change.clone()), Some(empty));
        assert_eq!(changed("redact", &format!("fields = {paths}\nempty_updates = 'drop'"), change), None);
    }
    let nothing = diff(doc! {});
    assert_eq!(changed("project", "exclude = ['a']", nothing.clone()), Some(nothing), "it was empty before");
}

#[test]
fn what_cannot_be_edited_is_bad_and_says_nothing() {
    let damaged = || Doc::new([12, 0, 0, 0, 2, b's', 0, b'e', b'c', b'r', b't', 0].to_vec().into()).unwrap();
    for (kind, options) in [("redact", "fields = ['x']"), ("project", "include = ['x']")] {
        let bad = |before| BadEvent {
            before,
            time: time(),
            ns: Some(Namespace::new("app.users")),
            raw: damaged(),
            error: Error::data("before"),
            event: None,
            by: None,
        };
        let event = || Event { raw: damaged(), after: Some(damaged()), ..event(Op::Insert) };
        let fine = insert(doc! {"_id": 1, "y": 1});
        let mut batch =
            batch(vec![fine.clone(), event(), fine.clone(), update(Change::OplogV2(raw(&doc! {"u": 1}))), fine]);
        batch.bad = vec![bad(0), bad(1), bad(2), bad(5)];
        make(kind, options).unwrap().apply(&mut batch).unwrap();
        assert_eq!(batch.events.len(), 3);
        let told: Vec<_> = batch.bad.iter().map(|b| (b.before, b.error.message() == "before")).collect();
        assert_eq!(told, [(0, true), (1, true), (1, false), (1, true), (2, false), (3, true)]);
        for bad in &batch.bad {
            assert_eq!(bad.error.kind(), ErrorKind::Data);
            assert!(!bad.raw.as_bytes().windows(4).any(|w| w == b"ecrt"), "{kind}");
            assert_eq!(bad.raw.get_timestamp("time").unwrap(), time());
        }
    }
}

#[test]
fn barriers_pass_as_they_are() {
    for op in Op::ALL.iter().filter(|op| op.is_barrier()) {
        let event = Event { key: None, ..event(*op) };
        let out = one(&mut *make("redact", "fields = ['raw']").unwrap(), event.clone()).unwrap();
        assert_eq!(out.to_document(), event.to_document());
    }
}

#[test]
fn events_that_are_bad_already_are_edited_too() {
    let options = "fields = ['x']";
    let refused = |event: Event| BadEvent::refused(0, event, Error::data("before"));
    let damaged = Doc::new([12, 0, 0, 0, 2, b's', 0, b'e', b'c', b'r', b't', 0].to_vec().into()).unwrap();
    let mut batch = batch(vec![]);
    batch.bad = vec![
        refused(insert(doc! {"_id": 1, "x": "secret", "y": 1})),
        refused(Event { after: Some(damaged.clone()), ..event(Op::Insert) }),
    ];
    make("redact", options).unwrap().apply(&mut batch).unwrap();
    let edited = batch.bad[0].event.as_ref().unwrap();
    assert_eq!((decoded(edited.after.as_ref().unwrap()), &edited.raw), (doc! {"_id": 1, "y": 1}, &Doc::empty()));
    assert!(batch.bad[1].event.is_none() && batch.bad[1].raw.get_timestamp("time").is_ok());
    // A transform that hides nothing keeps the whole event, as it was before.
    let both = Event { ns: Namespace::new("a.x"), ..insert(doc! {"_id": 1, "a": 1, "b": 2}) };
    let mut batch = super::batch(vec![both.clone()]);
    let options = "fields = [{ from = 'a', to = 'b' }]\ncollections = [{ from = 'a.*', to = 'c.*' }]";
    make("rename", options).unwrap().apply(&mut batch).unwrap();
    assert_eq!(batch.bad[0].event.as_ref().unwrap().to_document(), both.to_document());
}
