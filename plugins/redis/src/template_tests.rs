use super::*;

use bson::{Bson, DateTime, RawDocumentBuf, doc, oid::ObjectId};
use oplogue_api::ErrorKind;

/// The channels, and whether all values could be written.
fn try_channels(template: &str, doc: bson::Document, object_ids: ObjectIds) -> Result<(Vec<String>, bool)> {
    let raw = RawDocumentBuf::try_from(&doc).unwrap();
    let mut out = Channels::default();
    let all = Template::new(template).unwrap().channels(raw.as_bytes(), object_ids, (b"app.", &[b"::x"]), &mut out)?;
    let strip = |c: &Vec<u8>| {
        let text = String::from_utf8(c.clone()).unwrap();
        text.strip_prefix("app.").unwrap().strip_suffix("::x").unwrap().to_owned()
    };
    Ok((out.list().iter().map(strip).collect(), all))
}

fn channels(template: &str, doc: bson::Document) -> Vec<String> {
    let (list, all) = try_channels(template, doc, ObjectIds::Hex).unwrap();
    assert!(all);
    list
}

#[test]
fn values_as_javascript_writes_them() {
    let oid = ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap();
    let table: Vec<(Bson, &[&str])> = vec![
        ("c9".into(), &["c9"]),
        ("".into(), &[""]),
        ("a::b,c$d|{e}".into(), &["a::b,c$d|{e}"]),
        (42.into(), &["42"]),
        (42i64.into(), &["42"]),
        (1.5.into(), &["1.5"]),
        (1e21.into(), &["1e+21"]),
        ((-0.0).into(), &["0"]),
        (f64::NAN.into(), &["NaN"]),
        (f64::NEG_INFINITY.into(), &["-Infinity"]),
        (true.into(), &["true"]),
        (oid.into(), &["5ae7d0042b2acc1f1796c0b6"]),
        (Bson::Null, &[]),
        (Bson::Undefined, &[]),
        (Bson::Array(vec!["a".into(), 1.into(), "a".into(), Bson::Null]), &["a", "1"]),
        (Bson::Array(vec![]), &[]),
        (doc! {"u1": true, "u2": 0}.into(), &["u1", "u2"]),
    ];
    for (value, expected) in table {
        assert_eq!(channels("{f}", doc! {"f": value.clone()}), expected, "{value:?}");
    }
    let call = try_channels("{f}", doc! {"f": oid}, ObjectIds::Call).unwrap().0;
    assert_eq!(call, [r#"ObjectID("5ae7d0042b2acc1f1796c0b6")"#]);
}

#[test]
fn paths_lead_through_documents_and_arrays() {
    let document = doc! {
        "companyId": "c9", "owner": {"id": 7, "tags": ["x", "y"]}, "n": 1,
        "members": [{"id": "a"}, {"id": "b"}, {"id": ["c", "a"]}, 5, {"other": 1}],
    };
    let table: &[(&str, &[&str])] = &[
        ("company::{companyId}", &["company::c9"]),
        ("plain", &["plain"]),
        ("{{{companyId}}}", &["{c9}"]),
        ("a{{b}}c", &["a{b}c"]),
        ("{owner.id}", &["7"]),
        ("{owner.tags}", &["x", "y"]),
        ("{owner.tags.1}", &["y"]),
        ("{owner}", &["id", "tags"]),
        ("m::{members.id}", &["m::a", "m::b", "m::c"]),
        ("{members.1.id}", &["b"]),
        ("{missing}", &[]),
        ("{n.x}", &[]),
        ("{companyId}::{missing}", &[]),
        ("{companyId}-{companyId}", &["c9-c9"]),
        ("{owner.tags}/{owner.id}/{members.id}", &["x/7/a", "x/7/b", "x/7/c", "y/7/a", "y/7/b", "y/7/c"]),
    ];
    for (template, expected) in table {
        assert_eq!(channels(template, document.clone()), *expected, "{template}");
    }
}

#[test]
fn values_without_a_text_are_told() {
    for value in [DateTime::from_millis(1).into(), Bson::Array(vec![doc! {"a": 1}.into(), "x".into()]), Bson::MinKey] {
        let (list, all) = try_channels("{f}", doc! {"f": value}, ObjectIds::Hex).unwrap();
        assert!(!all && list.len() <= 1);
    }
}

#[test]
fn combinations_are_bounded() {
    let list = |n: i32| Bson::Array((0..n).map(Bson::from).collect());
    let most = channels("{a}.{b}", doc! {"a": list(10), "b": list(100)});
    assert_eq!((most.len(), most[0].as_str(), most[999].as_str()), (1000, "0.0", "9.99"));
    for document in [
        doc! {"a": list(11), "b": list(100)},
        doc! {"a": list(100_000), "b": list(100_000)},
        doc! {"a": "x".repeat(15 << 20), "b": list(3)},
    ] {
        let error = try_channels("{a}.{b}", document, ObjectIds::Hex).unwrap_err();
        assert!(error.kind() == ErrorKind::Data && error.get_hint().is_some(), "{error}");
    }
}

#[test]
fn wrong_templates() {
    for text in ["", "{", "}", "a{b", "a}b", "{}", "{a..b}", "{.a}", "{a.}", "{a{b}}", "{ a}", "x{{y}", "{a}}"] {
        assert!(Template::new(text).is_err(), "{text}");
    }
    let template = Template::new("{a.b}::{c}::{a.d}").unwrap();
    assert_eq!(template.top_fields().collect::<Vec<_>>(), ["a", "c", "a"]);
}
