use oplogue_api::{
    ErrorKind,
    bson::{Bson, Document, doc, rawdoc},
};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn query(json: &str) -> Query {
    Query::from_json("after", json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn matches(json: &str, document: Document) -> bool {
    query(json).matches(&RawDocumentBuf::try_from(&document).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Options {
    after: Tree,
}

fn from_toml(text: &str) -> Result<Query> {
    let options: Options = toml::from_str(text).unwrap();
    Query::from_tree("after", &options.after)
}

/// What everybody knows; all else is compared with mongod.
#[test]
fn queries_mean_what_the_manual_says() {
    for (json, document, expected) in [
        (r#"{}"#, doc! {}, true),
        (r#"{"a": 1}"#, doc! {"a": 1.0}, true),
        (r#"{"a": null}"#, doc! {"b": 1}, true),
        (r#"{"a": 1}"#, doc! {"a": [2, 1]}, true),
        (r#"{"a": {"$ne": 1}}"#, doc! {"a": [2, 1]}, false),
        (r#"{"a.b": 1}"#, doc! {"a": [{"b": 1}, {"b": 2}]}, true),
        (r#"{"a.1.b": 1}"#, doc! {"a": [{"b": 1}, {"b": 2}]}, false),
        (r#"{"a": {"$gt": 1, "$lt": 3}}"#, doc! {"a": [0, 4]}, true),
        (r#"{"a": {"$elemMatch": {"$gt": 1, "$lt": 3}}}"#, doc! {"a": [0, 4]}, false),
        (r#"{"a": {"$elemMatch": {"b": 1, "c": 2}}}"#, doc! {"a": [{"b": 1}, {"c": 2}]}, false),
        (r#"{"a": {"b": 1, "c": 2}}"#, doc! {"a": {"c": 2, "b": 1}}, false),
        (r#"{"a": {"$gt": 1}}"#, doc! {"a": "x"}, false),
        (r#"{"a": {"$in": [1, null]}}"#, doc! {}, true),
        (r#"{"a": {"$exists": false}}"#, doc! {"a": Bson::Null}, false),
        (r#"{"a": {"$type": "number"}}"#, doc! {"a": 1i64}, true),
        (r#"{"a": {"$all": [1, 2]}}"#, doc! {"a": [2, 1, 0]}, true),
        (r#"{"a": {"$size": 2}}"#, doc! {"a": [2, 1]}, true),
        (r#"{"a": {"$regex": "^B", "$options": "i"}}"#, doc! {"a": "bc"}, true),
        (r#"{"a": {"$bitsAllSet": [0, 2]}}"#, doc! {"a": 5}, true),
        (r#"{"$or": [{"a": 1}, {"b": 1}], "$nor": [{"c": 1}]}"#, doc! {"b": 1}, true),
        (r#"{"$comment": "why"}"#, doc! {}, true),
    ] {
        assert_eq!(matches(json, document.clone()), expected, "{json} {document}");
    }
}

#[test]
fn toml_and_extended_json_say_the_same() {
    for (toml, json) in [
        ("after = { a = 1, b.c = 'x' }", r#"{"a": 1, "b": {"c": "x"}}"#),
        ("after = { a = { '$gte' = 1.5 } }", r#"{"a": {"$gte": 1.5}}"#),
        ("after = { at = { '$lt' = 2024-05-01T12:00:00Z } }", r#"{"at": {"$lt": {"$date": "2024-05-01T12:00:00Z"}}}"#),
        ("after = { at = 2024-05-01 14:00:00+02:00 }", r#"{"at": {"$date": "2024-05-01T12:00:00Z"}}"#),
        ("after = { id = { '$oid' = '65a1b2c3d4e5f60718293a4b' } }", r#"{"id": {"$oid": "65a1b2c3d4e5f60718293a4b"}}"#),
        ("[after]\nz = 1\n[after.'a.b']\n'$in' = [true, 'x']", r#"{"z": 1, "a.b": {"$in": [true, "x"]}}"#),
        // The order of the fields counts where a whole document is compared.
        ("after = { a = { z = 1, b = 2 } }", r#"{"a": {"z": 1, "b": 2}}"#),
        (r#"after = '{"a": {"$numberLong": "1"}}'"#, r#"{"a": {"$numberLong": "1"}}"#),
    ] {
        assert_eq!(from_toml(toml).unwrap().document(), query(json).document(), "{toml}");
    }
    let of_types = query(
        r#"{"a": {"$in": [{"$numberDecimal": "1.5"}, {"$uuid": "c8edabc3-f738-4ca3-b68d-ab92a91478a3"}, {"$minKey": 1},
        {"$timestamp": {"t": 1, "i": 2}}, {"$regularExpression": {"pattern": "^a", "options": "i"}}, {"$symbol": "s"},
        {"$binary": {"base64": "AQ==", "subType": "80"}}, {"$date": {"$numberLong": "5"}}]}}"#,
    );
    let list = of_types.document().get_document("a").unwrap().get_array("$in").unwrap();
    let kinds: Vec<_> = list.iter_elements().map(|e| e.unwrap().element_type() as u8).collect();
    assert_eq!(kinds, [0x13, 5, 0xff, 0x11, 0x0b, 0x0e, 5, 9]);
}

#[test]
fn what_occurs_twice_counts_twice() {
    assert!(!matches(r#"{"a": {"$gt": 1}, "a": {"$lt": 3}}"#, doc! {"a": 5}));
}

#[test]
fn errors_name_the_place_and_the_remedy() {
    for (json, place, what, hint) in [
        (r#"{"$or": [{"a": 1}, {"price": {"$gtt": 1}}]}"#, "after.$or[1].price.$gtt", "no operator `$gtt`", "`$gt`"),
        (r#"{"$an": []}"#, "after.$an", "no operator `$an`", "`$and`"),
        (r#"{"$gt": 1}"#, "after.$gt", "stands below a field", "price"),
        (r#"{"$not": {"a": 1}}"#, "after.$not", "below a field", "$nor"),
        (r#"{"a": {"$or": [{"b": 1}]}}"#, "after.a.$or", "whole queries", "$or"),
        (r#"{"a": {"$in": "x"}}"#, "after.a.$in", "a list", "[\"a\", \"b\"]"),
        (r#"{"a": {"$in": [{"$gt": 1}]}}"#, "after.a.$in[0]", "values, not operators", "$or"),
        (r#"{"a": {"$gt": 1, "b": 2}}"#, "after.a.b", "no operator", "a.b"),
        (r#"{"a": {"$type": "strng"}}"#, "after.a.$type", "no type `strng`", "`string`"),
        (r#"{"a": {"$type": ["string", 99]}}"#, "after.a.$type[1]", "99", "types are"),
        (r#"{"a": {"$mod": [0, 1]}}"#, "after.a.$mod[0]", "divisor is 0", "[4, 0]"),
        (r#"{"a": {"$size": 1.5}}"#, "after.a.$size", "whole number", "2"),
        (r#"{"a": {"$not": 1}}"#, "after.a.$not", "`$not` takes", "$ne"),
        (r#"{"a": {"$options": "i"}}"#, "after.a.$options", "needs a `$regex`", "$regex"),
        (r#"{"a": {"$regex": "a", "$options": "g"}}"#, "after.a.$regex", "no option `g`", "i, m, s and x"),
        (r#"{"a": {"$regex": "a(?=b)"}}"#, "after.a.$regex", "look-around is not supported", "$and"),
        (r#"{"a": {"$regex": "(a)\\1"}}"#, "after.a.$regex", "back-references are not supported", "write out"),
        (r#"{"a": {"$regex": "(?>a)"}}"#, "after.a.$regex", "atomic groups", "leave out"),
        (r#"{"a": {"$regex": "a("}}"#, "after.a.$regex", "`(` without", "\\("),
        (r#"{"a": {"$eq": {"$undefined": true}}}"#, "after.a.$eq", "`undefined`", "null"),
        (r#"{"a": {"$oid": "12"}}"#, "after.a", "`$oid`", "24 hexadecimal"),
        (r#"{"$where": "1"}"#, "after.$where", "not supported", "JavaScript"),
        (r#"{"$expr": {}}"#, "after.$expr", "not supported", "aggregation"),
        (r#"{"$text": {}}"#, "after.$text", "not supported", "index"),
        (r#"{"$jsonSchema": {}}"#, "after.$jsonSchema", "not supported", "language"),
        (r#"{"a": {"$near": [1, 2]}}"#, "after.a.$near", "not supported", "geometry"),
        (r#"{"$and": []}"#, "after.$and", "empty", "$and"),
        (r#"{"a": "#, "after", "line 1 column 6", "double quotes"),
        ("{a: 1}", "after", "column 2", "double quotes"),
        ("[1]", "after", "a table", "{ status"),
    ] {
        let e = Query::from_json("after", json).unwrap_err();
        assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some(place)), "{json}: {e}");
        assert!(e.to_string().starts_with(&format!("`{place}`: ")) && e.to_string().contains(what), "{json}: {e}");
        assert!(e.get_hint().is_some_and(|h| h.contains(hint)), "{json}: {:?}", e.get_hint());
    }
    for (toml, what) in [
        ("after = { at = 2024-05-01 }", "offset from UTC"),
        ("after = 1", "a table"),
        ("after = { a = { '$gtt' = 1 } }", "`$gtt`"),
    ] {
        let e = from_toml(toml).unwrap_err();
        assert!(e.to_string().contains(what) && e.get_hint().is_some(), "{toml}: {e}");
    }
}

#[test]
fn queries_without_end_are_refused() {
    let deep = |n: usize| (0..n).fold(doc! {"a": 1}, |inner, _| doc! {"$or": [inner]});
    let new = |document: Document| Query::new("after", RawDocumentBuf::try_from(&document).unwrap());
    assert!(new(deep(30)).is_ok());
    for wrong in
        [deep(40), (0..80).fold(doc! {"$gt": 1}, |inner, _| doc! {"$not": inner}), doc! {vec!["a"; 300].join("."): 1}]
    {
        let wrong = if wrong.contains_key("$not") {
            doc! {"a": wrong}
        } else {
            wrong
        };
        let e = new(wrong).unwrap_err();
        assert!(e.to_string().len() < 200, "{e}");
    }
    let huge = r#"{"a": {"$regex": "(?:a{1000}){1000}"}}"#;
    assert!(Query::from_json("after", huge).unwrap_err().to_string().contains("too large"));
}

/// What is behind the damage is not looked at, and what is before it is found.
#[test]
fn a_damaged_document_is_an_error_of_its_own() {
    let mut bytes = RawDocumentBuf::try_from(&doc! {"a": 1, "b": "x"}).unwrap().into_bytes();
    let at = bytes.iter().position(|b| *b == b'b').unwrap();
    bytes[at + 2] = 200;
    let damaged = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert!(query(r#"{"a": 1}"#).matches(&damaged).unwrap());
    let e = query(r#"{"b": 1}"#).matches(&damaged).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
}

#[test]
fn text_that_is_not_utf8_is_compared_by_its_bytes() {
    let mut bytes = rawdoc! {"a": "xy"}.into_bytes();
    let at = bytes.iter().position(|b| *b == b'y').unwrap();
    bytes[at] = 0xff;
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert!(query(r#"{"a": {"$gt": "x"}}"#).matches(&document).unwrap());
    assert!(!query(r#"{"a": {"$regex": "x"}}"#).matches(&document).unwrap());
}

#[test]
fn a_query_tells_nothing_by_its_debug_form() {
    assert!(!format!("{:?}", query(r#"{"secret": "hunter2"}"#)).contains("hunter2"));
}

proptest! {
    /// No pattern makes the translation panic, and what is taken can be asked.
    #[test]
    fn any_pattern_is_taken_or_refused(
        parts in proptest::collection::vec(
            prop_oneof![
                any::<char>().prop_map(String::from),
                "[\\\\\\[\\](){}*+?|^$.:=!<>#\\-&,PQE0-9a-zé ]{1,3}",
                Just("[[:alpha:]".to_owned()), Just("\\\\x{".to_owned()), Just("(?i".to_owned()), Just("\\\\p{L".to_owned()),
            ],
            0..12,
        ),
        options in "[imsx]{0,2}",
    ) {
        let document = rawdoc! {"a": {"$regex": parts.concat(), "$options": options}};
        if let Ok(query) = Query::new("after", document) {
            query.matches(&rawdoc! {"a": parts.concat()}).unwrap();
        }
    }

    /// Nor does any text as a whole.
    #[test]
    fn any_text_is_a_query_or_refused(text in "[{}\\[\\]:,\"a-c$0-9.eE\\- ]{0,40}") {
        let _ = Query::from_json("after", &text);
    }
}
