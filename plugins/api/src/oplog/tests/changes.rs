//! Tables for the three ways to describe an update, and for applying a diff.

use bson::{
    Bson, Document, RawDocumentBuf, doc,
    raw::{RawBsonRef, cstr},
};

use super::{raw, to_doc};
use crate::{Change, ErrorKind, Path, PathPart, oplog::apply};

/// A path as `a/0/"b.c"`: steps divided by slashes, names quoted where they are not plain, dotted paths after a `~`.
fn show(path: &Path<'_>) -> String {
    match path {
        Path::Dotted(path) => format!("~{path}"),
        Path::Exact(parts) => {
            let step = |part: &PathPart<'_>| match part {
                PathPart::Index(n) => n.to_string(),
                PathPart::Field(name) if name.bytes().all(|b| b.is_ascii_lowercase()) && !name.is_empty() => {
                    (*name).to_owned()
                }
                PathPart::Field(name) => format!("{name:?}"),
            };
            parts.iter().map(step).collect::<Vec<_>>().join("/")
        }
    }
}

/// `set path=value`, `unset path`, `truncate path=length`, in the order of the update's lists.
fn decode(change: &Change) -> Result<Vec<String>, ErrorKind> {
    let update = change.decode().map_err(|e| e.kind())?;
    let value = |v: RawBsonRef<'_>| Bson::try_from(v).unwrap().into_relaxed_extjson().to_string();
    let set = update.set.iter().map(|(p, v)| format!("set {}={}", show(p), value(*v)));
    let unset = update.unset.iter().map(|p| format!("unset {}", show(p)));
    let truncate = update.truncate.iter().map(|(p, n)| format!("truncate {}={n}", show(p)));
    Ok(set.chain(unset).chain(truncate).collect())
}

fn diff(d: Document) -> Result<Vec<String>, ErrorKind> {
    decode(&Change::OplogV2(to_doc(d)))
}

#[test]
fn diffs_are_decoded_with_exact_paths() {
    let rows: Vec<(Document, &[&str])> = vec![
        (doc! {}, &[]),
        (doc! {"u": {"x": 2}}, &["set x=2"]),
        (doc! {"sn": {"u": {"a": 5}}}, &["set n/a=5"]),
        (doc! {"i": {"p": {"q": 5}}}, &[r#"set p={"q":5}"#]),
        (doc! {"d": {"p": false}}, &["unset p"]),
        (doc! {"sarr": {"a": true, "u2": {"k": 3}}}, &[r#"set arr/2={"k":3}"#]),
        (doc! {"sarr": {"a": true, "s0": {"u": {"k": 9}}}}, &["set arr/0/k=9"]),
        (doc! {"u": {"arr": [1, 2]}}, &["set arr=[1,2]"]),
        (doc! {"sarr": {"a": true, "l": 2}}, &["truncate arr=2"]),
        (doc! {"sarr": {"a": true, "l": 2_i64, "u1": 0}}, &["set arr/1=0", "truncate arr=2"]),
        (
            doc! {"d": {"arr": false}, "u": {"x": 9}, "i": {"new": 1}, "sn": {"sb": {"a": true, "u0": 7}}},
            &["set x=9", "set new=1", "set n/b/0=7", "unset arr"],
        ),
        // Names are literal.
        (
            doc! {"u": {"a.b": 5, "$x": 6, "": 7, "0": 8}},
            &[r#"set "a.b"=5"#, r#"set "$x"=6"#, r#"set ""=7"#, r#"set "0"=8"#],
        ),
        (doc! {"sa": {"u": {"b": 5}}}, &["set a/b=5"]),
        (doc! {"ss": {"u": {"s": 1}}, "s": {"u": {"d": 2}}}, &["set s/s=1", r#"set ""/d=2"#]),
        (doc! {"ssu": {"u": {"x": 1}}}, &["set su/x=1"]),
        // A field that is called as an index, and an index.
        (doc! {"sa": {"s0": {"u": {"1": 1}}}}, &[r#"set a/"0"/"1"=1"#]),
        (doc! {"sa": {"a": true, "s0": {"a": true, "u1": 1}}}, &["set a/0/1=1"]),
        // A diff of a document whose only edit is of the field `a` is none of an array.
        (doc! {"sx": {"u": {"a": true}}}, &["set x/a=true"]),
        (doc! {"sx": {"sa": {"u": {"y": 1}}}}, &["set x/a/y=1"]),
    ];
    for (input, expected) in rows {
        assert_eq!(diff(input.clone()).unwrap(), expected, "{input}");
    }
}

#[test]
fn diffs_outside_the_grammar_are_refused() {
    let rows = [
        doc! {"x": {"y": 1}},
        doc! {"v": {}},
        doc! {"u": 1},
        doc! {"a": true, "u0": 1},
        doc! {"sx": 1},
        doc! {"sx": {"a": false, "u0": 1}},
        doc! {"sx": {"a": 1}},
        doc! {"sx": {"a": true, "q0": 1}},
        doc! {"sx": {"a": true, "a": true, "u": 1}},
        doc! {"sx": {"a": true, "u": 1}},
        doc! {"sx": {"a": true, "u-1": 1}},
        doc! {"sx": {"a": true, "u01": 1}},
        doc! {"sx": {"a": true, "u+1": 1}},
        doc! {"sx": {"a": true, "u2000000": 1}},
        doc! {"sx": {"a": true, "u99999999999999999999": 1}},
        doc! {"sx": {"a": true, "s4294967296": {"u": {"x": 1}}}},
        doc! {"sx": {"a": true, "l": -1}},
        doc! {"sx": {"a": true, "l": 2_000_001}},
        doc! {"sx": {"a": true, "l": "2"}},
        doc! {"sx": {"a": true, "u0": 1, "s0": {"u": {"x": 1}}}},
        doc! {"u": {"x": 1}, "i": {"x": 2}},
        doc! {"d": {"x": false}, "sx": {"u": {"y": 1}}},
        // Not sayable as an update.
        doc! {"b": {"x": {"o": 0, "d": bson::Binary { subtype: 0.into(), bytes: vec![1] }}}},
    ];
    for input in rows {
        assert_eq!(diff(input.clone()), Err(ErrorKind::Data), "{input}");
    }
}

#[test]
fn a_section_may_not_occur_twice() {
    let mut twice = RawDocumentBuf::new();
    twice.append(cstr!("u"), raw(&doc! {"x": 1}));
    twice.append(cstr!("u"), raw(&doc! {"y": 1}));
    assert_eq!(decode(&Change::OplogV2(twice.into())), Err(ErrorKind::Data));
}

#[test]
fn a_diff_may_nest_as_deep_as_a_document_and_no_deeper() {
    let nested = |levels| {
        let mut d = raw(&doc! {"u": {"x": 1}});
        for _ in 0..levels {
            let mut outer = RawDocumentBuf::new();
            outer.append(cstr!("sx"), d);
            d = outer;
        }
        d
    };
    let fields = |levels| decode(&Change::OplogV2(nested(levels).into())).map(|fields| fields.len());
    assert_eq!(fields(199), Ok(1));
    assert_eq!(fields(2000), Err(ErrorKind::Data));
    let mut deep = raw(&doc! {"x": 1});
    for _ in 0..2000 {
        let mut outer = RawDocumentBuf::new();
        outer.append(cstr!("x"), deep);
        deep = outer;
    }
    assert_eq!(apply(&nested(2000), &deep).unwrap_err().kind(), ErrorKind::Data);
    assert!(apply(&nested(2000), &raw(&doc! {"x": 1})).is_ok(), "goes no deeper than the document");
}

#[test]
fn modifiers_are_decoded_with_dotted_paths() {
    let rows: Vec<(Document, Result<&[&str], ErrorKind>)> = vec![
        (doc! {"$v": 1, "$set": {"x": 2, "n.a": 5, "arr.0.k": 9}}, Ok(&["set ~x=2", "set ~n.a=5", "set ~arr.0.k=9"])),
        (doc! {"$v": 1, "$unset": {"p": true}, "$set": {"x": 1}}, Ok(&["set ~x=1", "unset ~p"])),
        (doc! {"$set": {"x": 1}}, Ok(&["set ~x=1"])),
        (doc! {"$v": 2, "$set": {"x": 1}}, Err(ErrorKind::Data)),
        (doc! {"$inc": {"x": 1}}, Err(ErrorKind::Data)),
        (doc! {"$set": 1}, Err(ErrorKind::Data)),
    ];
    for (input, expected) in rows {
        let got = decode(&Change::OplogV1(to_doc(input.clone())));
        assert_eq!(got, expected.map(|rows| rows.iter().map(|s| (*s).to_owned()).collect()), "{input}");
    }
}

#[test]
fn descriptions_are_decoded() {
    let rows: Vec<(Document, Result<&[&str], ErrorKind>)> = vec![
        (
            doc! {"updatedFields": {"a.b": 1}, "removedFields": ["c.0"], "truncatedArrays": [{"field": "d", "newSize": 2}]},
            Ok(&["set ~a.b=1", "unset ~c.0", "truncate ~d=2"]),
        ),
        (doc! {"updatedFields": {}, "removedFields": []}, Ok(&[])),
        (doc! {"updatedFields": Bson::Null, "someNews": 1}, Ok(&[])),
        (
            doc! {
                "updatedFields": {"a.b": 1, "c.d": 2, "e.0": 3, "f.1": 4}, "removedFields": ["g.h"],
                "truncatedArrays": [{"field": "i.j", "newSize": 2}],
                "disambiguatedPaths": {"a.b": ["a.b"], "e.0": ["e", 0], "g.h": ["g.h"], "i.j": ["i.j"]},
            },
            // `f.1` should have been listed; it is not guessed.
            Ok(&[r#"set "a.b"=1"#, "set c/d=2", "set e/0=3", "set ~f.1=4", r#"unset "g.h""#, r#"truncate "i.j"=2"#]),
        ),
        (doc! {"updatedFields": []}, Err(ErrorKind::Data)),
        (doc! {"removedFields": [1]}, Err(ErrorKind::Data)),
        (doc! {"truncatedArrays": [{"field": "x"}]}, Err(ErrorKind::Data)),
        (doc! {"truncatedArrays": [{"field": "x", "newSize": -1}]}, Err(ErrorKind::Data)),
        (doc! {"disambiguatedPaths": {"x": [true]}}, Err(ErrorKind::Data)),
    ];
    for (input, expected) in rows {
        let got = decode(&Change::ChangeStream(to_doc(input.clone())));
        assert_eq!(got, expected.map(|rows| rows.iter().map(|s| (*s).to_owned()).collect()), "{input}");
    }
}

#[test]
fn diffs_are_applied_as_the_server_does() {
    let before = doc! {"_id": 1, "x": 1, "n": {"a": 1, "b": [1, 2]}, "arr": [{"k": 1}, {"k": 2}]};
    let binary = |bytes: &[u8]| bson::Binary { subtype: 0.into(), bytes: bytes.to_vec() };
    let rows: Vec<(Document, Document, Document)> = vec![
        (
            before.clone(),
            doc! {"u": {"x": 2}},
            doc! {"_id": 1, "x": 2, "n": {"a": 1, "b": [1, 2]}, "arr": [{"k": 1}, {"k": 2}]},
        ),
        (doc! {"x": 1, "y": 2}, doc! {"i": {"x": 3}}, doc! {"y": 2, "x": 3}),
        (doc! {"y": 2}, doc! {"u": {"x": 3}, "i": {"z": 4}}, doc! {"y": 2, "x": 3, "z": 4}),
        (doc! {"y": 2}, doc! {"d": {"x": false}}, doc! {"y": 2}),
        (doc! {"y": 2}, doc! {"sx": {"u": {"a": 1}}}, doc! {"y": 2}),
        (doc! {"arr": 1}, doc! {"sarr": {"a": true, "u0": 1}}, doc! {"arr": Bson::Null}),
        (doc! {"arr": [1]}, doc! {"sarr": {"u": {"x": 1}}}, doc! {"arr": Bson::Null}),
        (doc! {"arr": [1, 2, 3]}, doc! {"sarr": {"a": true, "l": 2}}, doc! {"arr": [1, 2]}),
        (doc! {"arr": [1]}, doc! {"sarr": {"a": true, "l": 3}}, doc! {"arr": [1, Bson::Null, Bson::Null]}),
        (doc! {"arr": [1]}, doc! {"sarr": {"a": true, "u2": 5}}, doc! {"arr": [1, Bson::Null, 5]}),
        (doc! {"arr": [1]}, doc! {"sarr": {"a": true, "s1": {"u": {"x": 1}}}}, doc! {"arr": [1, Bson::Null]}),
        (doc! {"arr": [{"x": 1}]}, doc! {"sarr": {"a": true, "s0": {"a": true, "u0": 1}}}, doc! {"arr": [Bson::Null]}),
        (doc! {"a": {"b": 1}, "a.b": 1}, doc! {"u": {"a.b": 2}}, doc! {"a": {"b": 1}, "a.b": 2}),
        (
            doc! {"x": binary(&[1, 2, 3])},
            doc! {"b": {"x": {"o": 1, "d": binary(&[9, 9, 9])}}},
            doc! {"x": binary(&[1, 9, 9, 9])},
        ),
    ];
    for (before, diff, after) in rows {
        let got = apply(&raw(&diff), &raw(&before)).unwrap();
        assert_eq!(Document::try_from(got).unwrap(), after, "{before} {diff}");
    }
}

#[test]
fn ambiguous_paths_are_known() {
    for (name, ambiguous) in [("a", false), ("a.b", true), ("$a", true), ("", true), ("0", true), ("a0", false)] {
        let path = Path::Exact(vec![PathPart::Field("x"), PathPart::Field(name)]);
        assert_eq!(path.is_ambiguous(), ambiguous, "{name}");
        assert_eq!((path.top(), path.to_string()), ("x", format!("x.{name}")));
    }
    let index = Path::Exact(vec![PathPart::Field("x"), PathPart::Index(0)]);
    assert!(!index.is_ambiguous());
    assert_eq!(Path::Dotted("a.b").top(), "a");
}
