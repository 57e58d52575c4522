use super::*;

use bson::{RawDocumentBuf, doc};
use oplogue_api::{Change, Doc, Op};
use oplogue_testkit::sample;

fn rules(text: &str) -> Result<Rules> {
    Rules::new(&Options::new(toml::from_str(text).unwrap()))
}

fn rule(table: &str) -> Rule {
    let mut rules = rules(&format!("[[collections]]\nmatch = 'app.tasks'\n{table}")).unwrap();
    rules.of(&Namespace::new("app.tasks"));
    rules.rules.remove(0)
}

#[test]
fn the_first_table_that_matches_holds() {
    let mut rules = rules(
        "[[collections]]\nmatch = 'app.a'\npublish = false\n[[collections]]\nmatch = ['app.*', '!app.z']\ndocument = 'full'",
    )
    .unwrap();
    let mut look = |ns: &str| rules.of(&Namespace::new(ns)).map(|rule| (rule.publish, rule.document));
    for _ in 0..2 {
        assert_eq!(look("app.a"), Some((false, Document::Id)));
        assert_eq!(look("app.b"), Some((true, Document::Full)));
        assert_eq!(look("app.z"), None);
        assert_eq!(look("other.a"), None);
    }
    for n in 0..20_000 {
        assert!(look(&format!("app.x{n}")).is_some());
    }
    assert!(rules.decided.len() <= MOST_REMEMBERED);
}

#[test]
fn what_is_wrong_is_named() {
    let table: &[(&str, &[&str])] = &[
        ("collections = 5", &["array of tables"]),
        ("collections = [5]", &["table 1"]),
        ("[[collections]]\ndocument = 'full'", &["table 1", "match"]),
        ("[[collections]]\nmatch = 5", &["table 1", "match"]),
        ("[[collections]]\nmatch = []", &["table 1", "match"]),
        ("[[collections]]\nmatch = 'app'", &["table 1", "match", "`app.*`"]),
        ("[[collections]]\nmatch = '/(/'", &["match", "`/(/`"]),
        ("[[collections]]\nmatch = 'a.b'\ndocument = 'whole'", &["table 1", "whole"]),
        ("[[collections]]\nmatch = 'a.b'\nchanels = ['x']", &["table 1", "chanels"]),
        (
            "[[collections]]\nmatch = 'a.b'\n[[collections]]\nmatch = 'a.c'\nnamespaces = ['{x']",
            &["table 2", "namespaces", "`{x`"],
        ),
        ("[[collections]]\nmatch = 'a.b'\nnamespaces = []", &["namespaces", "empty"]),
        ("[[collections]]\nmatch = 'a.b'\nchannels = ['']", &["channels", "empty"]),
        ("[[collections]]\nmatch = 'a.*'\nchannels = ['x']", &["channels", "two collections"]),
        ("[[collections]]\nmatch = ['a.b', 'a.c']\nchannels = ['{x}']", &["channels", "two collections"]),
        (
            "[[collections]]\nmatch = 'a.b'\nchannels = ['{x}']\n[[collections]]\nmatch = 'a.c'\nchannels = ['{x}']",
            &["table 2", "channels", "`{x}`", "`b`"],
        ),
        ("[[collections]]\nmatch = 'a.b'\npublish = false\nskip_if_only = ['x']", &["skip_if_only", "publish"]),
        ("[[collections]]\nmatch = 'a.b'\nskip_if_only = []", &["skip_if_only", "empty"]),
        ("[[collections]]\nmatch = 'a.b'\nskip_if_only = ['x.y']", &["skip_if_only", "`x.y`"]),
        ("[[collections]]\nmatch = 'a.b'\nskip_if_only = ['x']\nnamespaces = ['{x.y}']", &["skip_if_only", "`x`"]),
        ("[[collections]]\nmatch = 'a.b'\nobject_ids = 'hex'", &["object_ids"]),
        ("[[collections]]\nmatch = 'a.b'\n[[collections]]\nmatch = 'a.b'", &["table 2", "match", "first"]),
    ];
    for (text, words) in table {
        let error = rules(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(error.field(), Some("collections"), "{text}");
        assert!(words.iter().all(|word| error.message().contains(word)), "{text}: {error}");
    }
    for good in [
        "x = 1",
        "[[collections]]\nmatch = ['a.b', 'c.b']\nchannels = ['{x}', 'y']\nnamespaces = ['n']\nobject_ids = 'call'",
        "[[collections]]\nmatch = 'a.b'\nchannels = ['{x}']\n[[collections]]\nmatch = 'c.b'\nchannels = ['{x}']",
    ] {
        assert!(rules(good).is_ok(), "{good}");
    }
}

fn update(change: Change) -> Event {
    Event { change: Some(change), ..sample::update("app.tasks", 1, doc! {}) }
}

fn raw(d: bson::Document) -> Doc {
    RawDocumentBuf::try_from(&d).unwrap().into()
}

#[test]
fn updates_of_nothing_but_some_fields_are_known() {
    let rule = rule("skip_if_only = ['lastSeen', 'ip']\nnamespaces = ['{companyId}']");
    let v2 = |diff| update(Change::OplogV2(raw(diff)));
    let table = [
        (v2(doc! {"u": {"lastSeen": 1}}), true, false),
        (v2(doc! {"slastSeen": {"u": {"at": 1}}, "d": {"ip": false}}), true, false),
        (v2(doc! {"u": {"lastSeen": 1, "name": 2}}), false, false),
        (v2(doc! {"u": {"name": 1, "companyId": 2}}), false, true),
        (v2(doc! {"scompanyId": {"a": true, "u1": 2}}), false, true),
        // Says nothing: who knows.
        (v2(doc! {}), false, false),
        (Event { op: Op::Update, change: None, ..sample::update("app.tasks", 1, doc! {}) }, false, true),
        (
            update(Change::ChangeStream(raw(doc! {"updatedFields": {"lastSeen.x": 1}, "removedFields": ["ip"]}))),
            true,
            false,
        ),
        (
            update(Change::ChangeStream(raw(doc! {
                "updatedFields": {"lastSeen.x": 1}, "removedFields": ["a.b"], "disambiguatedPaths": {"a.b": ["a.b"]},
            }))),
            false,
            false,
        ),
        (update(Change::OplogV1(raw(doc! {"$set": {"lastSeen.x": 1}}))), true, false),
    ];
    for (event, skips, moves) in table {
        assert_eq!((rule.skips(&event).unwrap(), rule.may_move(&event).unwrap()), (skips, moves), "{:?}", event.change);
    }
}
