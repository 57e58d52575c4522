use bson::{Document, RawDocumentBuf, Timestamp, doc};
use oplogue_api::{Change, Context, Doc, ErrorKind, Options, Position};

use super::*;

fn filter(toml: &str) -> Filter {
    Filter::from_options(&Options::new(toml.parse().unwrap()).parse().unwrap()).unwrap()
}

fn raw(document: Document) -> Doc {
    RawDocumentBuf::try_from(&document).unwrap().into()
}

/// An event with the documents that a source of full documents gives.
fn event(op: Op, after: Option<Document>, before: Option<Document>) -> Event {
    let change = (op == Op::Update).then(|| Change::OplogV1(raw(doc! {"$v": 1, "$set": {"price.net": 1, "seen": 2}})));
    let (after, before, key) = (after.map(raw), before.map(raw), Some(raw(doc! {"_id": "eu-1"})));
    let time = Timestamp { time: 1, increment: 1 };
    Event { after, before, key, change, ..Event::new(op, Namespace::new("a.b"), time, raw(doc! {"raw": true})) }
}

fn verdict(toml: &str, event: &Event) -> &'static str {
    match filter(toml).verdict(event) {
        Verdict::Keep => "keep",
        Verdict::Drop => "drop",
        Verdict::Bad(e) => {
            assert_eq!(e.kind(), ErrorKind::Data);
            "bad"
        }
    }
}

#[test]
fn documents_are_asked() {
    let paid = |op| event(op, Some(doc! {"status": "paid"}), Some(doc! {"status": "open"}));
    for (toml, expected) in [
        ("after = { status = 'paid' }", "keep"),
        ("after = { status = { '$ne' = 'paid' } }", "drop"),
        (r#"after = '{"status": {"$in": ["paid", "sent"]}}'"#, "keep"),
        ("before = { status = 'open' }\nafter = { status = 'paid' }", "keep"),
        ("before = { status = 'paid' }\nafter = { status = 'paid' }", "drop"),
        ("key = { _id = { '$regex' = '^eu-' } }", "keep"),
        ("key = { _id = { '$regex' = '^us-' } }", "drop"),
        ("changed = ['price']", "keep"),
        ("changed = ['name']", "drop"),
        ("changed = ['!price', '!seen']", "drop"),
        ("after = { status = 'paid' }\nnamespaces = ['c.*']", "drop"),
        ("after = { status = 'paid' }\noperations = ['insert']", "drop"),
    ] {
        assert_eq!(verdict(toml, &paid(Op::Update)), expected, "{toml}");
    }
    assert_eq!(verdict("changed = ['name']", &paid(Op::Replace)), "keep", "all of it was put in place");
    let barrier = Event { key: None, after: None, ..event(Op::Drop, None, None) };
    assert_eq!(verdict("after = { a = 1 }\nmissing = 'drop'", &barrier), "keep", "a barrier has no documents");
}

/// By default nothing is lost, and with `error` only what can never be there is let through.
#[test]
fn missing_documents_are_decided_on_by_the_option() {
    let bare = |op| event(op, None, None);
    for (op, predicate, [keep, drop, error]) in [
        (Op::Update, "after", ["keep", "drop", "bad"]),
        (Op::Delete, "after", ["keep", "drop", "keep"]),
        (Op::Insert, "before", ["keep", "drop", "keep"]),
        (Op::Update, "before", ["keep", "drop", "bad"]),
        (Op::Delete, "before", ["keep", "drop", "bad"]),
    ] {
        let options = format!("{predicate} = {{ a = 1 }}");
        assert_eq!(verdict(&options, &bare(op)), "keep", "{op:?} {predicate}");
        for (missing, expected) in [("keep", keep), ("drop", drop), ("error", error)] {
            let options = format!("{options}\nmissing = '{missing}'");
            assert_eq!(verdict(&options, &bare(op)), expected, "{op:?} {options}");
        }
    }
    // What another predicate leaves out is no trouble.
    let options = "after = { a = 1 }\nkey = { _id = 1 }\nmissing = 'error'";
    assert_eq!(verdict(options, &bare(Op::Update)), "drop");
}

#[test]
fn bad_ones_stand_where_they_were_among_those_of_the_source() {
    let time = Timestamp { time: 1, increment: 1 };
    let known = |after: Document| event(Op::Update, Some(after), None);
    let events = vec![
        known(doc! {"a": 1}),
        event(Op::Update, None, None),
        known(doc! {"a": 2}),
        event(Op::Update, None, None),
        known(doc! {"a": 1}),
    ];
    let old = |before| BadEvent::undecodable(before, time, None, Doc::empty(), Error::data("old"));
    for had in [vec![], vec![0, 2, 5]] {
        let bad = had.iter().copied().map(old).collect();
        let end = Position { token: Doc::empty(), time };
        let mut batch = Batch { events: events.clone(), bad, end, head: time, bytes: 0 };
        filter("after = { a = 1 }\nmissing = 'error'").apply(&mut batch).unwrap();
        assert_eq!(batch.events.len(), 2);
        let left: Vec<_> = batch.bad.iter().map(|b| (b.before, b.event.is_some())).collect();
        match had.is_empty() {
            true => assert_eq!(left, [(1, true), (1, true)]),
            false => assert_eq!(left, [(0, false), (1, true), (1, false), (1, true), (2, false)]),
        }
    }
}

#[test]
fn a_damaged_document_or_change_is_a_bad_event() {
    let mut broken = event(Op::Update, Some(doc! {"a": 1}), None);
    broken.change = Some(Change::OplogV2(raw(doc! {"u": 1})));
    assert_eq!(verdict("changed = ['a']", &broken), "bad");
}

#[test]
fn wrong_predicates_name_the_option_and_the_place() {
    let mut registry = Registry::default();
    register(&mut registry);
    for (text, field, part) in [
        ("after = { price = { '$gtt' = 1 } }", Some("after.price.$gtt"), "no operator"),
        ("before = '{'", Some("before"), "extended JSON"),
        ("key = 1", Some("key"), "a table"),
        ("changed = []", Some("changed"), "empty"),
        ("changed = ['a..b']", Some("changed"), "`a..b`"),
        ("missing = 'drop'", Some("missing"), "says nothing"),
    ] {
        let options = Options::new(text.parse().unwrap());
        let e = (registry.transforms["filter"].build)(&Context::default(), &options).map(drop).unwrap_err();
        assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, field), "{text}: {e}");
        assert!(e.to_string().contains(part) && e.get_hint().is_some(), "{text}: {e}");
    }
}
