use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId,
    rawdoc, spec::BinarySubtype,
};
use oplogue_api::{Event, Op};
use oplogue_testkit::generate::{Rng, document};

use super::{assert_same, event, insert, run, script};
use crate::tests::{doc as shared, one};

/// Reads all there is.
const WALK: &str = "
    function walk(value) {
      if (value === null || typeof value !== 'object') return;
      if (value instanceof Binary) return void value.buffer;
      for (const name of Object.keys(value)) walk(value[name]);
    }";

/// A document with a value of every type, and of those that JavaScript finds hard.
fn hard() -> RawDocumentBuf {
    let regex = Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() };
    let document = doc! {
        "_id": 1, "z": 1, "7": "whole numbers", "3": "go to the front", "__proto__": {"a": 1}, "constructor": 1, "": "no name",
        "double": 1.0, "negative zero": -0.0, "nan": f64::NAN, "long": 1i64, "large": i64::MAX, "edge": 1i64 << 53,
        "least": i64::MIN, "string": "größer 😀\0", "array": [1, 1i64, 1.0, {"a": 1i64}, [2.0]], "undefined": Bson::Undefined,
        "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 255] },
        "old binary": Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1, 2] },
        "oid": ObjectId::from_bytes([7; 12]), "bool": true, "null": Bson::Null, "regex": regex,
        "date": DateTime::from_millis(-5), "no Date": DateTime::from_millis(i64::MAX), "code": Bson::JavaScriptCode("f()".into()),
        "symbol": Bson::Symbol("s".into()), "scope": JavaScriptCodeWithScope { code: "g()".into(), scope: doc! {"x": 1} },
        "timestamp": Timestamp { time: 4_000_000_000, increment: 4_000_000_001 },
        "decimal": Decimal128::from_bytes([1; 16]), "min": Bson::MinKey, "max": Bson::MaxKey,
        "nested": {"b": 1i64, "2": 1.0, "a": {"x": 1.5}},
    };
    let mut bytes = RawDocumentBuf::try_from(&document).unwrap().into_bytes();
    bytes.pop();
    // What the crate lets nobody make: a name twice, a text and a NaN of other bits, an array with other names, a pointer.
    bytes.extend(b"\x03twice\0\x13\0\0\0\x10a\0\x01\0\0\0\x10a\0\x02\0\0\0\0");
    bytes.extend(b"\x02latin\0\x02\0\0\0\xe9\0");
    bytes.extend(b"\x01payload\0\x01\0\0\0\0\0\xf8\x7f");
    bytes.extend(b"\x04odd\0\x13\0\0\0\x105\0\x01\0\0\0\x109\0\x02\0\0\0\0");
    bytes.extend(b"\x0cpointer\0\x04\0\0\0a.b\0twelve bytes\0");
    let length = bytes.len() as i32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

#[tokio::test]
async fn what_is_read_and_not_changed_stays_to_the_byte() {
    let returns = "return event; }";
    for code in [
        format!("function transform(event) {{ {returns}"),
        format!("{WALK} function transform(event) {{ walk(event.after); walk(event.key); walk(event.raw); {returns}"),
        format!("function transform(event) {{ event.after = {{...event.after}}; {returns}"),
        format!(
            "function transform(event) {{ event.after = Object.fromEntries(Object.entries(event.after).reverse()); {returns}"
        ),
        format!(
            "function transform(event) {{ event.after.nested = {{...event.after.nested}}; event.after.array = [...event.after.array]; {returns}"
        ),
    ] {
        let event = insert(hard());
        let same = run(&code, event.clone()).await.unwrap_or_else(|e| panic!("{e}\n{code}")).unwrap();
        assert_same(&same, &event);
    }
}

#[tokio::test]
async fn any_document_goes_through_a_script_that_reads_all_of_it_and_writes_one_field() {
    let mut untouched = script(&format!("{WALK} function transform(event) {{ walk(event.after); return event; }}"));
    let mut edited = script(&format!(
        "{WALK} function transform(event) {{ walk(event.after); event.after.seen = 'yes'; event.raw; return event; }}"
    ));
    let mut rng = Rng::new(7);
    for _ in 0..300 {
        let mut document = document(&mut rng, 4);
        document.insert("_id", 1);
        let event = insert(RawDocumentBuf::try_from(&document).unwrap());
        let same = one(&mut untouched, event.clone()).await.unwrap().unwrap();
        assert_same(&same, &event);
        document.insert("seen", "yes");
        let out = one(&mut edited, event).await.unwrap().unwrap();
        assert_eq!(*out.after.unwrap(), *RawDocumentBuf::try_from(&document).unwrap());
    }
}

#[tokio::test]
async fn what_moves_keeps_its_types() {
    let code = "function transform(event) {
        const { _id, ...rest } = event.after;
        event.after = { _id, moved: rest.nested, list: [rest.array, rest.oid, rest.decimal, rest.binary, rest.twice, rest.scope] };
        return event;
    }";
    let out = run(code, insert(hard())).await.unwrap().unwrap().after.unwrap();
    let was = hard();
    let list = out.get_array("list").unwrap();
    assert_eq!(out.get_document("moved").unwrap(), was.get_document("nested").unwrap());
    for (i, name) in ["array", "oid", "decimal", "binary", "twice", "scope"].into_iter().enumerate() {
        assert_eq!(list.get(i).unwrap(), was.get(name).unwrap(), "{name}");
    }
}

/// The event that a script makes of this document, as a text of its `after`.
async fn made(code: &str, after: RawDocumentBuf) -> String {
    let code = format!("function transform(event) {{ const d = event.after; {code}; return event; }}");
    match run(&code, insert(after)).await {
        Ok(event) => format!("{:?}", bson::Document::try_from(&**event.unwrap().after.as_ref().unwrap()).unwrap()),
        Err(e) => e,
    }
}

#[tokio::test]
async fn numbers_keep_their_type_where_that_holds_them() {
    let numbers = || rawdoc! {"_id": 1, "i": 1, "l": 1i64, "d": 1.0};
    for (code, expected) in [
        ("d.i++; d.l++; d.d++", doc! {"_id": 1, "i": 2, "l": 2i64, "d": 2.0}),
        ("d.i = 1.5; d.l = 0.5; d.d = 0.5", doc! {"_id": 1, "i": 1.5, "l": 0.5, "d": 0.5}),
        (
            "d.i = 2**40; d.l = 2**40; d.d = 2**60",
            doc! {"_id": 1, "i": 2f64.powi(40), "l": 1i64 << 40, "d": 2f64.powi(60)},
        ),
        ("d.l = 2n ** 62n", doc! {"_id": 1, "i": 1, "l": 1i64 << 62, "d": 1.0}),
        (
            "d.a = 1; d.b = 2**31; d.c = -0",
            doc! {"_id": 1, "i": 1, "l": 1i64, "d": 1.0, "a": 1, "b": 2f64.powi(31), "c": -0.0},
        ),
        (
            "d.i = Long(5); d.l = Int32(6); d.d = new Long(7); d.x = Double(8)"
                .replace("= L", "= new L")
                .replace("= I", "= new I")
                .replace("= D", "= new D")
                .leak(),
            doc! {"_id": 1, "i": 5i64, "l": 6, "d": 7i64, "x": 8.0},
        ),
    ] {
        assert_eq!(made(code, numbers()).await, format!("{expected:?}"), "{code}");
    }
}

#[tokio::test]
async fn values_can_be_read_and_made() {
    let checks = "
        const check = (is, what) => { if (!is) throw new Error(what); };
        const d = event.after;
        check(d.large === 9223372036854775807n && d.least === -9223372036854775808n && d.long === 1, 'long');
        check(d.oid instanceof ObjectId && d.oid.toString() === '07'.repeat(12) && d.oid.equals(new ObjectId(String(d.oid))), 'oid');
        check(d.date instanceof Date && d.date.getTime() === -5, 'date');
        check(d.timestamp.t === 4000000000 && d.timestamp.i === 4000000001, 'timestamp');
        check(d.binary.subtype === 0 && d.binary.buffer[2] === 255 && d.binary.toHex() === '0102ff', 'binary');
        check(d.regex.pattern === '^a' && d.regex.options === 'i', 'regex');
        check(d.min._bsontype === 'MinKey' && d.code._bsontype === 'Code', 'others');
        check(Object.hasOwn(d, '__proto__') && Object.getPrototypeOf(d) === Object.prototype, 'proto');
        check(event.op === 'insert' && event.ns === 'app.orders' && event.key._id === 1 && event.before === undefined, 'event');
        check(event.id === '100.7.0' && event.time.t === 100 && event.wall.toISOString() === '2026-11-21T10:00:00.000Z', 'time');
        check(event.raw.raw === 'of the server' && event.txn.number === 5 && event.txn.lsid.id === 1, 'raw');
        check(JSON.parse(JSON.stringify({ oid: d.oid })).oid === '07'.repeat(12), 'json');
        event.after = { _id: 1, oid: new ObjectId('00ff'.repeat(6)), dec: new Decimal128('1.50'), text: String(new Decimal128('1.50')),
          ts: new Timestamp({ t: 1, i: 2 }), bin: new Binary(new Uint8Array([1, 2]), 4), bytes: new Uint8Array([3]), re: new BSONRegExp('a', 'i'),
          date: new Date(5), min: new MinKey(), max: new MaxKey(), no: undefined, list: [undefined] };
        return event;";
    let txn = oplogue_api::Txn { lsid: shared(rawdoc! {"id": 1}), number: 5 };
    let event = Event { wall: Some(1_795_255_200_000), txn: Some(txn.into()), ..insert(hard()) };
    let out = run(&format!("function transform(event) {{ {checks} }}"), event).await.unwrap().unwrap();
    let regex = Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() };
    let expected = doc! {
        "_id": 1, "oid": ObjectId::parse_str("00ff00ff00ff00ff00ff00ff").unwrap(), "dec": "1.50".parse::<Decimal128>().unwrap(),
        "text": "1.50", "ts": Timestamp { time: 1, increment: 2 },
        "bin": Binary { subtype: BinarySubtype::Uuid, bytes: vec![1, 2] },
        "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![3] }, "re": regex,
        "date": DateTime::from_millis(5), "min": Bson::MinKey, "max": Bson::MaxKey, "list": [Bson::Null],
    };
    assert_eq!(bson::Document::try_from(&**out.after.as_ref().unwrap()).unwrap(), expected);
    assert!(out.txn.is_some() && *out.raw == *RawDocumentBuf::new());
}

#[tokio::test]
async fn what_has_no_form_is_named() {
    for (code, words) in [
        ("d.a = { b: [1, () => 1] }", "`after.a.b.1`: a function, symbol, Map"),
        ("d.a = new Map()", "`after.a`: a function, symbol, Map"),
        ("d.a = 2n ** 64n", "`after.a`: a BigInt of more than 64 bits"),
        ("d.a = new Date(NaN)", "`after.a`: an invalid Date"),
        ("d.a = '\\ud800'", "`after.a`: a text with half of a surrogate pair"),
        ("d['a\\0b'] = 1", "a name with a zero byte"),
        ("d.a = d", "nested deeper than 200 levels, or holds itself"),
        ("event.after = 5", "`after`: must be a document"),
        ("event.after = [1]", "`after`: must be a document"),
        ("d.a = 'x'.repeat(9e6); d.b = d.a", "larger than 16 MiB"),
        ("d.a = []; d.a.length = 2 ** 32 - 1", "larger than 16 MiB"),
        ("d.a = Object.create(ObjectId.prototype)", "an object of a BSON type was damaged"),
        ("const b = new Uint8Array(3); b.buffer.transfer?.(); d.a = new Binary(b)", ""),
    ] {
        let said = made(code, rawdoc! {"_id": 1}).await;
        assert!(said.contains(words), "{code}: {said}");
    }
}

#[tokio::test]
async fn a_value_of_an_earlier_event_is_taken_for_none_of_this_one() {
    let mut script = script(
        "let kept; function transform(event) {
            const was = kept; kept = event.after;
            if (was) event.after = { _id: 1, doc: was.d, bin: was.b };
            return event;
        }",
    );
    let bin = || Binary { subtype: BinarySubtype::Generic, bytes: vec![1] };
    let first = insert(rawdoc! {"_id": 1, "d": {"x": 1i64}, "b": bin()});
    assert_same(&one(&mut script, first.clone()).await.unwrap().unwrap(), &first);
    let e = one(&mut script, insert(rawdoc! {"_id": 1, "d": {"y": 2.0}, "b": bin()})).await.unwrap_err();
    assert!(e.contains("`after.bin`: a value of a type that JavaScript has not was kept from an earlier event"), "{e}");
}

#[tokio::test]
async fn damaged_documents_are_bad_events_and_no_panics() {
    let sound = hard().into_bytes();
    let mut script =
        script(&format!("{WALK} function transform(event) {{ walk(event.after); event.after.x = 1; return event; }}"));
    let mut rng = Rng::new(3);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..500 {
        let mut bytes = sound.clone();
        let at = 4 + rng.below(bytes.len() - 5);
        bytes[at] = rng.below(256) as u8;
        let after = oplogue_api::Doc::new(bytes.into()).unwrap();
        match one(&mut script, Event { after: Some(after), ..event(Op::Insert, 0) }).await {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 50 && bad > 50, "{good} good, {bad} bad");
}
