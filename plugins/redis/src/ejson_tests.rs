use super::*;

use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId,
    spec::BinarySubtype,
};
use oplogue_api::ErrorKind;

fn ejson(document: bson::Document) -> Result<String> {
    let mut out = Vec::new();
    write_document(&mut out, RawDocumentBuf::try_from(&document).unwrap().as_bytes())?;
    Ok(String::from_utf8(out).unwrap())
}

fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(Regex { pattern: pattern.try_into().unwrap(), options: options.try_into().unwrap() })
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype, bytes: bytes.to_vec() })
}

/// Mistakes of other publishers (tests/redis/meteor/mod.rs), rows 11 (`$InfNaN`) and 12 (`$escape`, types of the app).
#[test]
fn every_type_that_meteor_knows() {
    let custom = |value: Bson| Bson::Document(doc! {"EJSON$type": "Money", "EJSON$value": value});
    let table: Vec<(Bson, &str)> = vec![
        ("a<\"é".into(), r#""a\u003c\"é""#),
        (1.into(), "1"),
        (i64::MAX.into(), "9223372036854776000"),
        (1.5.into(), "1.5"),
        (1e21.into(), "1e+21"),
        (f64::NAN.into(), r#"{"$InfNaN":0}"#),
        (f64::INFINITY.into(), r#"{"$InfNaN":1}"#),
        (f64::NEG_INFINITY.into(), r#"{"$InfNaN":-1}"#),
        (true.into(), "true"),
        (Bson::Null, "null"),
        (DateTime::from_millis(1_700_000_000_000).into(), r#"{"$date":1700000000000}"#),
        (DateTime::from_millis(-1).into(), r#"{"$date":-1}"#),
        (binary(BinarySubtype::Generic, &[1, 2, 3]), r#"{"$binary":"AQID"}"#),
        (binary(BinarySubtype::Generic, &[0xff, 0xfe]), r#"{"$binary":"//4="}"#),
        (binary(BinarySubtype::Generic, &[0xfb]), r#"{"$binary":"+w=="}"#),
        (binary(BinarySubtype::Generic, &[]), r#"{"$binary":""}"#),
        (
            ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap().into(),
            r#"{"$type":"oid","$value":"5ae7d0042b2acc1f1796c0b6"}"#,
        ),
        ("1.50".parse::<Decimal128>().unwrap().into(), r#"{"$type":"Decimal","$value":"1.50"}"#),
        (regex("^a.*<b>$", "imsx"), r#"{"$regexp":"^a.*\u003cb\u003e$","$flags":"img"}"#),
        (Bson::Array(vec![1.into(), doc! {"a": [DateTime::from_millis(5)]}.into()]), r#"[1,{"a":[{"$date":5}]}]"#),
        (doc! {}.into(), "{}"),
        // What looks like EJSON, and what does not.
        (doc! {"$date": 5}.into(), r#"{"$escape":{"$date":5}}"#),
        (doc! {"$date": DateTime::from_millis(5)}.into(), r#"{"$escape":{"$date":{"$date":5}}}"#),
        (doc! {"$InfNaN": 0}.into(), r#"{"$escape":{"$InfNaN":0}}"#),
        (doc! {"$binary": "x"}.into(), r#"{"$escape":{"$binary":"x"}}"#),
        (doc! {"$escape": {"$escape": 1}}.into(), r#"{"$escape":{"$escape":{"$escape":{"$escape":1}}}}"#),
        (doc! {"$regexp": "(", "$flags": ""}.into(), r#"{"$escape":{"$regexp":"(","$flags":""}}"#),
        (doc! {"$value": "x", "$type": "oid"}.into(), r#"{"$escape":{"$value":"x","$type":"oid"}}"#),
        (doc! {"$date": 5, "b": 1}.into(), r#"{"$date":5,"b":1}"#),
        (doc! {"$type": 1}.into(), r#"{"$type":1}"#),
        (doc! {"$type": 1, "$value": 2, "x": 3}.into(), r#"{"$type":1,"$value":2,"x":3}"#),
        // Types of the app.
        (custom("5 EUR".into()), r#"{"$type":"Money","$value":"5 EUR"}"#),
        (
            custom(doc! {"EJSONamount": 5, "EJSONat": {"EJSON$date": 7}, "EJSONl": [{"EJSONx": Bson::Null}]}.into()),
            r#"{"$type":"Money","$value":{"amount":5,"at":{"$date":7},"l":[{"x":null}]}}"#,
        ),
        (doc! {"EJSON$value": 1, "EJSON$type": "T"}.into(), r#"{"$type":"T","$value":1}"#),
        (custom(0.into()), r#"{"EJSON$type":"Money","EJSON$value":0}"#),
        (doc! {"EJSON$type": "Money"}.into(), r#"{"EJSON$type":"Money"}"#),
    ];
    for (value, expected) in table {
        assert_eq!(ejson(doc! {"_id": 1, "v": value}).unwrap(), format!(r#"{{"_id":1,"v":{expected}}}"#));
    }
}

#[test]
fn what_has_no_safe_form_is_an_error_that_names_the_type() {
    let custom = |value: Bson| Bson::Document(doc! {"EJSON$type": "Money", "EJSON$value": value});
    let mut deep = Bson::Null;
    for _ in 0..300 {
        deep = Bson::Array(vec![doc! {"a": deep}.into()]);
    }
    let table: Vec<(Bson, &str)> = vec![
        (binary(BinarySubtype::Uuid, &[1; 16]), "UUID"),
        (binary(BinarySubtype::BinaryOld, &[1; 16]), "binary"),
        (Bson::Timestamp(Timestamp { time: 1, increment: 2 }), "timestamps"),
        (Bson::MinKey, "MinKey"),
        (Bson::MaxKey, "MaxKey"),
        (Bson::Undefined, "undefined"),
        (Bson::Symbol("s3cret".into()), "symbols"),
        (Bson::JavaScriptCode("s3cret".into()), "code"),
        (JavaScriptCodeWithScope { code: "s3cret".into(), scope: doc! {} }.into(), "code"),
        (regex("(?i)s3cret", ""), "regular expressions"),
        (regex("s3cret(", ""), "regular expressions"),
        (doc! {"EJSON$type": 5, "EJSON$value": 1}.into(), "EJSON$type"),
        (custom(DateTime::from_millis(5).into()), "EJSON$type"),
        (custom(doc! {"plain": 1}.into()), "EJSON$type"),
        (custom(f64::INFINITY.into()), "EJSON$type"),
        (deep, "deep"),
    ];
    for (value, word) in table {
        for value in [value.clone(), doc! {"in": [value]}.into()] {
            let error = ejson(doc! {"_id": "s3cret", "v": value}).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.message().contains(word) && !error.message().contains("s3cret"), "{word}: {error}");
        }
    }
}
