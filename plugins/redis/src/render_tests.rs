use super::*;

use bson::{Binary, Bson, DateTime, Decimal128, RawDocumentBuf, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};
use oplogue_api::{Change, Doc, ErrorKind, Namespace};

fn renderer(prefix: Option<&str>) -> Renderer {
    Renderer::new(Ids::Position, Rendering { prefix: prefix.map(|p| p.as_bytes().to_vec()), ..Rendering::default() })
}

fn raw(d: bson::Document) -> Doc {
    RawDocumentBuf::try_from(&d).unwrap().into()
}

fn event(op: Op, ns: &str, id: impl Into<Bson>) -> Event {
    let time = Timestamp { time: 1700000000, increment: 7 };
    let key = Some(raw(doc! {"_id": id.into()}));
    Event { key, index: 3, ..Event::new(op, Namespace::new(ns), time, Doc::empty()) }
}

fn insert(ns: &str, document: bson::Document) -> Event {
    let id = document.get("_id").cloned().unwrap_or(Bson::Null);
    Event { after: Some(raw(document)), ..event(Op::Insert, ns, id) }
}

fn update(id: impl Into<Bson>, change: Change) -> Event {
    Event { change: Some(change), ..event(Op::Update, "app.tasks", id) }
}

fn v2(diff: bson::Document) -> Change {
    Change::OplogV2(raw(diff))
}

/// The fields of a pack, read back by MessagePack's rules.
fn unpack(pack: &mut Pack) -> Vec<Vec<u8>> {
    let bytes = pack.finish().to_vec();
    let mut rest = &bytes[5..];
    let mut out = Vec::new();
    while let Some((&head, tail)) = rest.split_first() {
        let (size, tail) = if head == 0xdb {
            (u32::from_be_bytes(tail[..4].try_into().unwrap()) as usize, &tail[4..])
        } else {
            ((head & 0x1f) as usize, tail)
        };
        out.push(tail[..size].to_vec());
        rest = &tail[size..];
    }
    assert_eq!(out.len(), u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize);
    out
}

/// Collection channel, document channel and message.
fn message(prefix: Option<&str>, event: &Event) -> (String, String, String) {
    let mut pack = Pack::new();
    assert_eq!(renderer(prefix).render(&mut pack, &[], event).unwrap(), Rendered::Message);
    let mut fields = unpack(&mut pack).into_iter().map(|f| String::from_utf8(f).unwrap());
    assert_eq!(fields.next().unwrap(), "170000000000000000070000000003");
    (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
}

fn payload(event: &Event) -> String {
    message(None, event).2
}

#[test]
fn the_examples_of_the_protocol_to_the_byte() {
    let oid = ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap();
    let table: Vec<(Event, &str, &str)> = vec![
        (
            insert("app.tasks", doc! {"_id": "t1", "title": "a", "done": false}),
            "app.tasks::t1",
            r#"{"e":"i","d":{"_id":"t1"},"f":["_id","title","done"]}"#,
        ),
        (
            update(oid, v2(doc! {"u": {"title": "b"}})),
            "app.tasks::5ae7d0042b2acc1f1796c0b6",
            r#"{"e":"u","d":{"_id":{"$type":"oid","$value":"5ae7d0042b2acc1f1796c0b6"}},"f":["title"]}"#,
        ),
        (
            Event { after: Some(raw(doc! {"_id": "t1", "title": "c"})), ..event(Op::Replace, "app.tasks", "t1") },
            "app.tasks::t1",
            r#"{"e":"u","d":{"_id":"t1"},"f":["_id","title"]}"#,
        ),
        (event(Op::Delete, "app.tasks", "t1"), "app.tasks::t1", r#"{"e":"r","d":{"_id":"t1"},"f":[]}"#),
        (
            update("aaaaaaaaaaaaaaaaaaaaaaaa", v2(doc! {"u": {"n": 1}})),
            "app.tasks::-aaaaaaaaaaaaaaaaaaaaaaaa",
            r#"{"e":"u","d":{"_id":"aaaaaaaaaaaaaaaaaaaaaaaa"},"f":["n"]}"#,
        ),
        (update(5, v2(doc! {"i": {"n": 1}})), "app.tasks::~5", r#"{"e":"u","d":{"_id":5},"f":["n"]}"#),
        (
            event(Op::Delete, "app.tasks", "price$100"),
            "app.tasks::price$100",
            r#"{"e":"r","d":{"_id":"price$100"},"f":[]}"#,
        ),
    ];
    for (event, channel, text) in table {
        assert_eq!(message(None, &event), ("app.tasks".into(), channel.into(), text.into()));
    }
}

#[test]
fn every_type_of_id() {
    let table: Vec<(Bson, &str, &str)> = vec![
        ("abc".into(), "abc", r#""abc""#),
        ("-x".into(), "--x", r#""-x""#),
        ("~x".into(), "-~x", r#""~x""#),
        ("{x".into(), "-{x", r#""{x""#),
        ("AAAAAAAAAAAAAAAAAAAAAAAA".into(), "AAAAAAAAAAAAAAAAAAAAAAAA", r#""AAAAAAAAAAAAAAAAAAAAAAAA""#),
        ("0123456789abcdef01234567".into(), "-0123456789abcdef01234567", r#""0123456789abcdef01234567""#),
        ("0123456789abcdef0123456".into(), "0123456789abcdef0123456", r#""0123456789abcdef0123456""#),
        ("".into(), "", r#""""#),
        ("a<b>\"\n".into(), "a<b>\"\n", r#""a\u003cb\u003e\"\n""#),
        ("a::b,c$d".into(), "a::b,c$d", r#""a::b,c$d""#),
        (
            ObjectId::from_bytes([0xab; 12]).into(),
            "abababababababababababab",
            r#"{"$type":"oid","$value":"abababababababababababab"}"#,
        ),
        (5.into(), "~5", "5"),
        (5i64.into(), "~5", "5"),
        (5.0.into(), "~5", "5"),
        ((-3).into(), "~-3", "-3"),
        (1.5.into(), "~1.5", "1.5"),
        ((-0.0).into(), "~0", "0"),
        (1e21.into(), "~1e+21", "1e+21"),
        (i64::MAX.into(), "~9223372036854776000", "9223372036854776000"),
        (f64::NAN.into(), "~null", r#"{"$InfNaN":0}"#),
        (f64::INFINITY.into(), "~null", r#"{"$InfNaN":1}"#),
        (f64::NEG_INFINITY.into(), "~null", r#"{"$InfNaN":-1}"#),
        (true.into(), "~true", "true"),
        (false.into(), "~false", "false"),
        (Bson::Null, "~null", "null"),
    ];
    for (id, suffix, text) in table {
        let (_, channel, message) = message(None, &event(Op::Delete, "app.tasks", id.clone()));
        assert_eq!(channel, format!("app.tasks::{suffix}"), "{id:?}");
        assert_eq!(message, format!(r#"{{"e":"r","d":{{"_id":{text}}},"f":[]}}"#), "{id:?}");
    }
}

#[test]
fn ids_that_no_subscriber_can_have_are_reported() {
    let ids: Vec<Bson> = vec![
        DateTime::from_millis(5).into(),
        Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] }.into(),
        "1.5".parse::<Decimal128>().unwrap().into(),
        doc! {"a": 1}.into(),
        Timestamp { time: 1, increment: 2 }.into(),
        Bson::MinKey,
    ];
    for id in ids {
        let mut pack = Pack::new();
        let mut renderer = renderer(None);
        assert_eq!(
            renderer.render(&mut pack, &[], &insert("app.tasks", doc! {"_id": id})).unwrap(),
            Rendered::NoChannel
        );
        assert!(unpack(&mut pack).is_empty());
        // The next event says its channel again.
        renderer.render(&mut pack, &[], &insert("app.tasks", doc! {"_id": 1})).unwrap();
        assert_eq!(unpack(&mut pack)[1], b"app.tasks");
    }
}

#[test]
fn the_prefix_stands_for_the_database() {
    let event = insert("app.fs.chunks", doc! {"_id": "t1"});
    assert_eq!(message(None, &event).0, "app.fs.chunks");
    assert_eq!(message(Some("x."), &event).0, "x.fs.chunks");
    assert_eq!(message(Some("x."), &event).1, "x.fs.chunks::t1");
    assert_eq!(message(Some(""), &event).0, "fs.chunks");
}

#[test]
fn a_channel_is_said_once_in_a_row() {
    let mut pack = Pack::new();
    let mut renderer = renderer(Some("x."));
    for ns in ["a.b", "a.b", "a.c", "z.c", "a.b"] {
        renderer.render(&mut pack, &[], &event(Op::Delete, ns, 1)).unwrap();
    }
    let channels: Vec<_> = unpack(&mut pack).into_iter().skip(1).step_by(4).collect();
    assert_eq!(channels, [&b"x.b"[..], b"", b"x.c", b"", b"x.b"]);
}

#[test]
fn fields_of_updates() {
    let big: bson::Document = (0..40).map(|i| (format!("f{}.x", i % 25), Bson::Int32(i))).collect();
    let twenty_five: Vec<String> = (0..25).map(|i| format!("\"f{i}\"")).collect();
    let twenty_five = twenty_five.join(",");
    let table: Vec<(Change, &str)> = vec![
        (v2(doc! {"d": {"x": false}, "u": {"n": 1}, "i": {"z": 1}, "sa": {"u": {"b": 1}}}), r#""x","n","z","a""#),
        (v2(doc! {"i": {"o": {"b": {"z": 1}}, "e": {}}}), r#""o","e""#),
        (v2(doc! {"slist": {"a": true, "l": 10}}), r#""list""#),
        (v2(doc! {"u": {"a.b": 1, "<": 2}}), r#""a.b","\u003c""#),
        (v2(doc! {}), ""),
        (
            Change::OplogV1(raw(doc! {"$v": 1, "$set": {"a": 1, "b.c": 2, "b.d": 3}, "$unset": {"d": true}})),
            r#""a","b","d""#,
        ),
        (Change::OplogV1(raw(doc! {"$v": 1, "$set": {}})), ""),
        (Change::OplogV1(raw(big)), "not modifiers"),
        (
            Change::ChangeStream(raw(doc! {
                "updatedFields": {"a.b": 1, "c": 2, "a.d": 3}, "removedFields": ["e.f", "c"],
                "truncatedArrays": [{"field": "g.h", "newSize": 2}],
            })),
            r#""a","c","e","g""#,
        ),
        (
            Change::OplogV1(raw(
                doc! {"$set": (0..40).map(|i| (format!("f{}.{i}", i % 25), Bson::Int32(i))).collect::<bson::Document>()},
            )),
            twenty_five.as_str(),
        ),
    ];
    for (change, fields) in table {
        let event = update("t", change);
        let mut pack = Pack::new();
        match renderer(None).render(&mut pack, &[], &event) {
            Ok(Rendered::Message) => {
                assert_eq!(payload(&event), format!(r#"{{"e":"u","d":{{"_id":"t"}},"f":[{fields}]}}"#));
            }
            other => {
                assert_eq!(fields, "not modifiers", "{other:?}");
                assert!(unpack(&mut pack).is_empty());
            }
        }
    }
    // Without a description, the document's keys are a superset.
    let looked_up = Event { after: Some(raw(doc! {"_id": "t", "a": 1})), ..event(Op::Update, "app.tasks", "t") };
    assert_eq!(payload(&looked_up), r#"{"e":"u","d":{"_id":"t"},"f":["_id","a"]}"#);
}

#[test]
fn what_cannot_be_said_is_a_data_error_and_leaves_the_pack_alone() {
    let mut damaged = raw(doc! {"_id": 1, "a": 2}).bytes().to_vec();
    damaged[13] = 0x42;
    let damaged = Doc::new(damaged.into()).unwrap();
    for event in [
        Event { key: None, ..event(Op::Insert, "app.tasks", 1) },
        Event { key: Some(raw(doc! {"shard": 1})), ..event(Op::Insert, "app.tasks", 1) },
        event(Op::Insert, "app.tasks", 1),
        event(Op::Replace, "app.tasks", 1),
        event(Op::Update, "app.tasks", 1),
        Event { after: Some(damaged), ..event(Op::Insert, "app.tasks", 1) },
    ] {
        let mut pack = Pack::new();
        let error = renderer(None).render(&mut pack, &[], &event).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(unpack(&mut pack).is_empty());
    }
}

#[test]
fn barriers_have_no_message_and_a_gap_lowers_the_watermark() {
    for op in Op::ALL.iter().copied().filter(|op| op.is_barrier() && *op != Op::Gap) {
        let mut pack = Pack::new();
        let barrier = Event { key: None, ..event(op, "app.tasks", 1) };
        assert_eq!(renderer(None).render(&mut pack, &[], &barrier).unwrap(), Rendered::Barrier);
        assert!(unpack(&mut pack).is_empty());
    }
    let mut pack = Pack::new();
    assert_eq!(
        renderer(None).render(&mut pack, &[], &event(Op::Gap, "", 1)).unwrap(),
        Rendered::Gap { is_packed: true }
    );
    assert_eq!(unpack(&mut pack), [&b"17000000000000000007"[..], b"", b"", b""]);
}

#[test]
fn the_order_of_event_ids_is_that_of_their_digits() {
    let at = |time, increment, index| {
        let e = Event { time: Timestamp { time, increment }, index, ..event(Op::Insert, "a.b", 1) };
        (e.id(), event_id(&e))
    };
    let all = [at(1, 2, 3), at(1, 2, 10), at(1, 10, 0), at(2, 0, 0), at(u32::MAX, u32::MAX, u32::MAX)];
    for pair in all.windows(2) {
        assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
    }
    assert_eq!(parse_time(&time_digits(all[4].0.time)), Some(all[4].0.time));
    assert_eq!(parse_time(b"1"), None);
    assert_eq!(parse_time(b"0000000001-000000001"), None);
}

/// A renderer with tables of `collections`.
fn with_tables(text: &str) -> Renderer {
    let rules = Rules::new(&oplogue_api::Options::new(toml::from_str(text).unwrap())).unwrap();
    Renderer::new(Ids::Position, Rendering { rules, ..Rendering::default() })
}

#[test]
fn an_image_that_a_template_needs_is_asked_for_once_a_collection() {
    let doc_a = || Some(raw(doc! {"_id": 1, "a": 1}));
    let changed = |name: &str| update(1, v2(doc! {"u": {name: 1}}));
    let table: Vec<(Event, &[Missing])> = vec![
        (insert("app.tasks", doc! {"_id": 1, "a": 1}), &[]),
        (Event { after: doc_a(), ..changed("x") }, &[]),
        (Event { before: doc_a(), ..changed("x") }, &[]),
        (Event { before: doc_a(), after: doc_a(), ..changed("a") }, &[]),
        (Event { after: doc_a(), ..changed("a") }, &[Missing::PreImage]),
        (Event { before: doc_a(), ..changed("a") }, &[Missing::Image]),
        (changed("x"), &[Missing::Image]),
        (Event { before: doc_a(), ..event(Op::Delete, "app.tasks", 1) }, &[]),
        (event(Op::Delete, "app.tasks", 1), &[Missing::PreImage]),
        (Event { after: doc_a(), ..event(Op::Replace, "app.tasks", 1) }, &[Missing::PreImage]),
        (insert("app.tasks", doc! {"_id": 1, "a": DateTime::from_millis(1)}), &[Missing::Text]),
    ];
    for (event, notices) in table {
        let mut renderer = with_tables("collections = [{ match = 'app.*', namespaces = ['{a}'] }]");
        let mut pack = Pack::new();
        assert_eq!(renderer.render(&mut pack, &[], &event).unwrap(), Rendered::Message);
        for notice in [Missing::Document, Missing::Image, Missing::PreImage, Missing::Text] {
            assert_eq!(renderer.notices.has("app.tasks", notice), notices.contains(&notice), "{notice:?}: {event:?}");
        }
    }
    let mut renderer = with_tables("collections = [{ match = 'app.*', document = 'full' }]");
    let mut pack = Pack::new();
    assert_eq!(renderer.render(&mut pack, &[], &changed("x")).unwrap(), Rendered::LeftOut);
    assert!(renderer.notices.has("app.tasks", Missing::Document) && unpack(&mut pack).is_empty());
    renderer.render(&mut pack, &[], &insert("app.tasks", doc! {"_id": 1})).unwrap();
    assert_eq!(unpack(&mut pack)[1], b"app.tasks");
}
