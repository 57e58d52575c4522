use std::sync::Arc;

use bson::{Binary, Bson, DateTime, JavaScriptCodeWithScope, Regex, oid::ObjectId, spec::BinarySubtype};
use oplogue_api::Txn;

use super::*;

#[test]
fn documents_are_texts_in_the_strict_form() {
    let binary =
        |n: usize| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: b"\xff\xee\xdd\xcc"[..n].to_vec() });
    let after = doc! {
        "_id": 1004_i64, "name": "An\"ne", "n": 7, "d": 1.0, "big": 1e300, "inf": f64::INFINITY, "dec": Bson::Decimal128("1.5".parse().unwrap()),
        "ok": true, "no": null, "at": DateTime::from_millis(-5), "oid": ObjectId::from_bytes([0xab; 12]), "b0": binary(0), "b1": binary(1),
        "b2": binary(2), "b3": binary(3), "b4": binary(4), "ts": Timestamp { time: 7, increment: 1 }, "list": [1, [], {"x": {}}],
        "re": Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() }, "code": Bson::JavaScriptCode("f()".into()),
        "sym": Bson::Symbol("s".into()), "min": Bson::MinKey, "max": Bson::MaxKey, "und": Bson::Undefined,
    };
    let wanted = r#"{"_id": {"$numberLong": "1004"}, "name": "An\"ne", "n": 7, "d": 1.0, "big": 1e300, "inf": {"$numberDouble": "Infinity"}, "dec": {"$numberDecimal": "1.5"}, "ok": true, "no": null, "at": {"$date": -5}, "oid": {"$oid": "abababababababababababab"}, "b0": {"$binary": "", "$type": "04"}, "b1": {"$binary": "/w==", "$type": "04"}, "b2": {"$binary": "/+4=", "$type": "04"}, "b3": {"$binary": "/+7d", "$type": "04"}, "b4": {"$binary": "/+7dzA==", "$type": "04"}, "ts": {"$timestamp": {"t": 7, "i": 1}}, "list": [1, [], {"x": {}}], "re": {"$regex": "^a", "$options": "i"}, "code": {"$code": "f()"}, "sym": {"$symbol": "s"}, "min": {"$minKey": 1}, "max": {"$maxKey": 1}, "und": {"$undefined": true}}"#;
    let out = edited("envelope", "", after);
    assert_eq!(out.get_str("after").unwrap(), wanted);
    serde_json::from_str::<serde_json::Value>(wanted).unwrap();
    let scoped = Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {} });
    let mut batch = batch(vec![insert(doc! {"_id": 1, "f": scoped})]);
    make("envelope", "").unwrap().apply(&mut batch).unwrap();
    assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "nothing is left out in silence");
}

#[test]
fn every_operation_has_its_envelope() {
    let change = Change::ChangeStream(raw(&doc! {
        "updatedFields": {"a.0": 1}, "removedFields": ["b"], "truncatedArrays": [{"field": "c", "newSize": 2}],
    }));
    let txn = Some(Arc::new(Txn { lsid: raw(&doc! {"id": 1}), number: 3, replicated: false }));
    let full = Event { before: Some(raw(&doc! {"_id": 1})), wall: Some(1234), txn, ..update(change) };
    let out = one(&mut *make("envelope", "name = 'main'").unwrap(), full.clone()).unwrap();
    assert!(out.before.is_none() && out.change.is_none() && out.op == Op::Update && out.id() == full.id());
    let wanted = doc! {
        "before": "{\"_id\": 1}", "after": null,
        "updateDescription": {"removedFields": ["b"], "updatedFields": "{\"a.0\": 1}", "truncatedArrays": [{"field": "c", "size": 2_i64}]},
        "source": {
            "version": env!("CARGO_PKG_VERSION"), "connector": "mongodb", "name": "main", "ts_ms": 1234_i64, "snapshot": "false", "db": "app",
            "collection": "users", "ord": 1_i64, "lsid": "{\"id\": 1}", "txnNumber": 3_i64,
        },
        "op": "u", "ts_ms": 1234_i64, "transaction": null,
    };
    assert_eq!(decoded(&out.after.unwrap()), wanted);
    let out = one(&mut *make("envelope", "format = 'cloudevents'\nname = 'main'").unwrap(), full).unwrap();
    let wanted = doc! {
        "specversion": "1.0", "id": "1.1.0", "source": "/oplogue/main", "type": "oplogue.update", "time": "1970-01-01T00:00:01.234Z",
        "subject": "app.users", "datacontenttype": "application/json",
        "data": {
            "op": "update", "key": {"_id": 1}, "before": {"_id": 1},
            "updateDescription": {"updatedFields": {"a.0": 1}, "removedFields": ["b"], "truncatedArrays": [{"field": "c", "newSize": 2_i64}]},
        },
    };
    assert_eq!(decoded(&out.after.unwrap()), wanted);
    for (op, letter) in [(Op::Insert, "c"), (Op::Replace, "u"), (Op::Delete, "d")] {
        let out = one(&mut *make("envelope", "").unwrap(), event(op)).unwrap();
        assert_eq!((decoded(&out.after.unwrap()).get_str("op").unwrap(), out.op), (letter, op));
    }
}
