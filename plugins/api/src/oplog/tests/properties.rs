//! What holds for any diff, and for any bytes.

use bson::{Bson, Document, RawDocument};
use proptest::{collection::vec, prelude::*};

use super::{
    generate::{before_and_after, diff, document},
    raw,
};
use crate::{
    Change, Doc, ErrorKind, Path, PathPart, Update,
    oplog::{Decoder, apply},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_applied_to_the_old_document_gives_the_new((before, after) in before_and_after()) {
        let diff = raw(&diff(&before, &after));
        let got = apply(&diff, &raw(&before)).unwrap();
        prop_assert_eq!(Document::try_from(got.clone()).unwrap(), after.clone());
        prop_assert_eq!(&got, &raw(&after), "the order of fields too");
        // A second time it changes no value.
        let again = apply(&diff, &got).unwrap();
        prop_assert_eq!(sorted(&Document::try_from(again).unwrap()), sorted(&after));
    }

    #[test]
    fn what_is_decoded_says_the_same_as_the_diff((before, after) in before_and_after()) {
        let change = Change::OplogV2(Doc::from(raw(&diff(&before, &after))));
        let got = follow(&before, &change.decode().unwrap());
        prop_assert_eq!(sorted(&got), sorted(&after));
    }

    #[test]
    fn any_diff_applies_to_any_document_or_is_refused(edit in document(), before in document()) {
        let (edit, before) = (raw(&edit), raw(&before));
        let decoded = Change::OplogV2(Doc::from(edit.clone())).decode().map(|_| ()).map_err(|e| e.kind());
        prop_assert!(matches!(decoded, Ok(()) | Err(ErrorKind::Data)));
        if let Ok(after) = apply(&edit, &before) {
            prop_assert!(Document::try_from(after).is_ok());
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in vec(any::<u8>(), 0..200), (a, b) in before_and_after(), cuts in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        attack(&mut bytes);
        // A sound entry with some bytes changed reaches deeper than noise.
        let entry = bson::doc! {
            "ts": bson::Timestamp { time: 7, increment: 1 }, "t": 1_i64, "op": "c", "ns": "admin.$cmd",
            "o": {"applyOps": [
                {"op": "u", "ns": "a.b", "o": {"$v": 2, "diff": diff(&a, &b)}, "o2": {"_id": 1}},
                {"op": "i", "ns": "a.c", "o": a, "o2": {"_id": 1}},
            ]},
            "lsid": {"id": 1}, "txnNumber": 3_i64, "prevOpTime": {"ts": bson::Timestamp { time: 0, increment: 0 }, "t": -1_i64},
        };
        let mut bytes = raw(&entry).into_bytes();
        for (place, byte) in cuts {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        attack(&mut bytes);
    }
}

/// Everything that reads bytes of a server, with the frame mended so that the bytes are looked into.
fn attack(bytes: &mut [u8]) {
    if bytes.len() < 5 {
        assert!(Doc::new(bytes.to_vec().into()).is_err());
        return;
    }
    let length = (bytes.len() as u32).to_le_bytes();
    bytes[..4].copy_from_slice(&length);
    *bytes.last_mut().unwrap() = 0;
    let doc = Doc::new(bytes.to_vec().into()).unwrap();
    for change in [Change::ChangeStream(doc.clone()), Change::OplogV1(doc.clone()), Change::OplogV2(doc.clone())] {
        let _ = change.decode();
    }
    let _ = apply(&doc, RawDocument::from_bytes(b"\x05\0\0\0\0").unwrap());
    let (mut events, mut bad) = (Vec::new(), Vec::new());
    Decoder::new(true).entry(&doc, &mut events, &mut bad);
    for event in &events {
        if let Some(change) = &event.change {
            let _ = change.decode();
        }
    }
    assert!(bad.iter().all(|bad| bad.error.kind() == ErrorKind::Data));
}

/// Carries out a decoded update on a decoded document, step by step along its paths.
fn follow(before: &Document, update: &Update<'_>) -> Document {
    let mut after = Bson::Document(before.clone());
    let parts = |path: &Path<'_>| match path {
        Path::Exact(parts) => parts.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>(),
        Path::Dotted(_) => panic!("the paths of a diff are exact"),
    };
    assert!(update.set.iter().all(|(path, _)| !parts(path).is_empty()));
    for (path, length) in &update.truncate {
        place(&mut after, path).as_array_mut().unwrap().truncate(*length as usize);
    }
    for path in &update.unset {
        let (last, parent) = split(path);
        place(&mut after, &parent).as_document_mut().unwrap().remove(field(last));
    }
    for (path, value) in &update.set {
        let (last, parent) = split(path);
        let value = Bson::try_from(*value).unwrap();
        match (last, place(&mut after, &parent)) {
            (PathPart::Field(name), Bson::Document(d)) => drop(d.insert(name, value)),
            (PathPart::Index(i), Bson::Array(a)) if (i as usize) < a.len() => a[i as usize] = value,
            (PathPart::Index(i), Bson::Array(a)) if i as usize == a.len() => a.push(value),
            other => panic!("no place for {other:?}"),
        }
    }
    after.as_document().unwrap().clone()
}

fn split<'a>(path: &Path<'a>) -> (PathPart<'a>, Path<'a>) {
    let Path::Exact(parts) = path else { panic!("the paths of a diff are exact") };
    let (last, parent) = parts.split_last().unwrap();
    (*last, Path::Exact(parent.to_vec()))
}

fn field(part: PathPart<'_>) -> &str {
    match part {
        PathPart::Field(name) => name,
        PathPart::Index(_) => panic!("only fields are removed"),
    }
}

fn place<'b>(mut value: &'b mut Bson, path: &Path<'_>) -> &'b mut Bson {
    let Path::Exact(parts) = path else { panic!("the paths of a diff are exact") };
    for part in parts {
        value = match part {
            PathPart::Field(name) => value.as_document_mut().unwrap().get_mut(*name).unwrap(),
            PathPart::Index(i) => &mut value.as_array_mut().unwrap()[*i as usize],
        };
    }
    value
}

/// Documents as sets of fields: what is decoded does not say where a field goes.
fn sorted(doc: &Document) -> Document {
    fn value(v: &Bson) -> Bson {
        match v {
            Bson::Document(d) => Bson::Document(sorted(d)),
            Bson::Array(a) => Bson::Array(a.iter().map(value).collect()),
            other => other.clone(),
        }
    }
    let mut fields: Vec<_> = doc.iter().map(|(name, v)| (name.clone(), value(v))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().collect()
}

/// The corpora of the fuzz targets `entry` and `diff`, which the gate does not run.
#[test]
fn the_corpora_of_the_fuzz_targets_do_no_harm() {
    let mut files = 0;
    for target in ["entry", "diff"] {
        let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        for file in std::fs::read_dir(folder).unwrap() {
            let mut bytes = std::fs::read(file.unwrap().path()).unwrap();
            // A file of `diff` is a change, then the document that it is applied to.
            let length = u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let (change, before) = bytes.split_at_mut(length);
            if !before.is_empty() {
                let _ = apply(RawDocument::from_bytes(change).unwrap(), RawDocument::from_bytes(before).unwrap());
            }
            attack(change);
            files += 1;
        }
    }
    assert!(files >= 38, "{files}");
}
