use bson::{Timestamp, rawdoc};
use oplogue_api::{BadEvent, Context, Doc, ErrorKind, Options, Position, Txn};
use proptest::prelude::*;

use super::*;

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

fn filter(namespaces: &[&str]) -> Filter {
    Filter::from_options(&FilterOptions { namespaces: Some(strings(namespaces)), ..Default::default() }).unwrap()
}

fn passes(patterns: &[&str], ns: &str) -> bool {
    filter(patterns).passes_namespace(&Namespace::new(ns))
}

fn passes_event(filter: &mut Filter, event: &Event) -> bool {
    matches!(filter.verdict(event), Verdict::Keep)
}

fn event(op: Op, ns: &str) -> Event {
    Event::new(op, Namespace::new(ns), Timestamp { time: 1, increment: 1 }, Doc::empty())
}

fn batch(events: Vec<Event>, bad: Vec<BadEvent>) -> Batch {
    let time = Timestamp { time: 1, increment: 1 };
    Batch { events, bad, end: Position { token: rawdoc! {"n": 1}.into(), time }, head: time, bytes: 0 }
}

fn names(batch: &Batch) -> Vec<String> {
    batch.events.iter().map(|e| format!("{} {}", e.op.name(), e.ns)).collect()
}

#[test]
fn globs_and_negation() {
    let app = ["app.*", "!app.audit_*"];
    for (ns, expected) in [
        ("app.orders", true),
        ("app.fs.chunks", true),
        ("app.audit_2024", false),
        ("app.not_audit_2024", true),
        ("application.orders", false),
        ("other.app.orders", false),
        ("App.orders", false),
    ] {
        assert_eq!(passes(&app, ns), expected, "{ns}");
    }
    assert!(passes(&["*.orders"], "shop.orders") && passes(&["*.orders"], "shop.old.orders"));
    assert!(passes(&["app.audit_?"], "app.audit_é") && !passes(&["app.audit_?"], "app.audit_12"));
    assert!(!passes(&["a.b"], "a.bc") && !passes(&["a.b"], "a-b"), "a dot is a dot");
    assert!(passes(&["a.[x]+(y)$"], "a.[x]+(y)$"), "others are themselves");
    assert!(passes(&["!app.audit_*"], "x.y") && !passes(&["!app.audit_*"], "app.audit_1"), "only negatives");
    assert!(!passes(&["!app.a", "app.*"], "app.a"), "the order does not matter");
}

#[test]
fn regular_expressions_match_the_whole_name() {
    assert!(passes(&[r"/app\.(a|b)/"], "app.a") && !passes(&[r"/app\.(a|b)/"], "app.ab"));
    assert!(!passes(&[r"/a|b/"], "xb"), "the anchors hold for every alternative");
    assert!(passes(&[r"/.*/", r"!/.*\.tmp\d+/"], "a.tmpx") && !passes(&[r"/.*/", r"!/.*\.tmp\d+/"], "a.tmp1"));
    assert!(passes(&[r"/(?i)APP\..*/"], "app.x"));
}

#[test]
fn events_of_a_database_pass_when_some_collection_could() {
    for (patterns, db, expected) in [
        (&["app.*"][..], "app", true),
        (&["app.*"], "apps", false),
        (&["app.orders"], "app", true),
        (&["app.*", "!app.*"], "app", false),
        (&["app.*", "!app.audit_*"], "app", true),
        (&["*", "!app.?*"], "app", false),
        (&["*", "!app.??*"], "app", true),
        (&["!app.*"], "app", false),
        (&["!app.*"], "other", true),
        (&["*.orders"], "anything", true),
        (&["*.orders", "!app.*"], "app", false),
        (&[r"/shop\..*/"], "app", false),
        (&[r"/shop\.\w+/"], "shop", true),
        (&[r"/shop\..*/", r"!/shop\.[a-z].*/", "!shop.*"], "shop", false),
        (&["app.?", "!app.[", r"!/app\.[^\[]/"], "app", false),
        (&["app."], "app", false),
        (&["app.é"], "app", false),
    ] {
        assert_eq!(passes(patterns, db), expected, "{patterns:?} {db}");
    }
    assert!(passes(&["app.*"], ""), "an event of the deployment");
}

#[test]
fn a_rename_passes_by_either_name() {
    let mut rename = event(Op::Rename, "a.x");
    rename.to = Some(Namespace::new("b.x"));
    assert!(passes_event(&mut filter(&["a.*"]), &rename) && passes_event(&mut filter(&["b.*"]), &rename));
    assert!(!passes_event(&mut filter(&["c.*"]), &rename));
}

#[test]
fn operations_by_name_and_group() {
    let mut filter =
        Filter::from_options(&FilterOptions { operations: Some(strings(&["insert", "ddl"])), ..Default::default() })
            .unwrap();
    let mut all = batch(Op::ALL.iter().map(|op| event(*op, "a.b")).collect(), vec![]);
    filter.apply(&mut all).unwrap();
    let ops: Vec<&str> = all.events.iter().map(|e| e.op.name()).collect();
    let wanted = ["insert", "create", "drop", "dropDatabase", "rename", "index", "other", "gap", "deadLetter"];
    assert_eq!(ops, wanted);
}

#[test]
fn writes_of_replicators_are_told_from_others() {
    let written = |op, replicated| {
        let txn = Txn { lsid: Doc::empty(), number: 1, replicated };
        Event { txn: Some(txn.into()), ..event(op, "a.b") }
    };
    let all = [
        event(Op::Insert, "a.plain"),
        written(Op::Update, false),
        written(Op::Delete, true),
        event(Op::Drop, "a.b"),
        event(Op::Gap, ""),
    ];
    for (origin, expected) in [
        (Origin::Local, &["insert a.plain", "update a.b", "drop a.b", "gap "][..]),
        (Origin::Replicated, &["delete a.b", "drop a.b", "gap "]),
    ] {
        let mut filter = Filter::from_options(&FilterOptions { origin: Some(origin), ..Default::default() }).unwrap();
        assert!(filter.asks_origin());
        let mut batch = batch(all.to_vec(), vec![]);
        filter.apply(&mut batch).unwrap();
        assert_eq!(names(&batch), expected, "{origin:?}");
    }
}

#[test]
fn what_is_selected_is_what_passes() {
    let build = |text: &str| Filter::from_options(&toml::from_str::<FilterOptions>(text).unwrap()).unwrap();
    let selection =
        build("namespaces = ['app.*', '!/x/']\nmissing = 'drop'\nafter = { a = 1 }\nbefore = { a = 2 }").selection();
    let selection = selection.unwrap();
    assert_eq!(selection.namespaces.len(), 2);
    assert!(selection.namespaces[1].negated && selection.namespaces[1].is_regex && selection.namespaces[1].text == "x");
    assert!(
        !selection.has(Op::Delete)
            && !selection.has(Op::Insert)
            && selection.has(Op::Replace)
            && selection.has(Op::Drop)
    );
    assert_eq!(selection.parts(), ["namespaces", "operations", "after", "before"]);
    assert!(!selection.refuses && build("after = { a = 1 }\nmissing = 'error'").selection().unwrap().refuses);
    let all = build("operations = ['insert', 'update', 'replace', 'delete', 'ddl']").selection().unwrap();
    assert_eq!(all.operations, None, "nothing is left out");
    assert!(!format!("{:?}", build("after = { a = 'secret' }").selection()).contains("secret"), "I8");
}

#[test]
fn trouble_always_passes() {
    let mut filter = Filter::from_options(&FilterOptions {
        namespaces: Some(strings(&["a.*"])),
        operations: Some(strings(&["insert"])),
        ..Default::default()
    })
    .unwrap();
    let mut b = batch(vec![event(Op::Gap, ""), event(Op::DeadLetter, "x.y"), event(Op::Insert, "x.y")], vec![]);
    filter.apply(&mut b).unwrap();
    assert_eq!(names(&b), ["gap ", "deadLetter x.y"]);
}

#[test]
fn bad_events_keep_their_places_among_the_kept() {
    let bad = |before, ns: Option<&str>| BadEvent {
        before,
        time: Timestamp { time: 1, increment: 1 },
        ns: ns.map(Namespace::new),
        raw: Doc::empty(),
        event: None,
        by: None,
        error: Error::data("x"),
    };
    let events = ["a.1", "b.2", "a.3", "b.4", "b.5", "a.6"].map(|ns| event(Op::Insert, ns)).to_vec();
    let bads = vec![bad(0, Some("a.x")), bad(2, None), bad(3, Some("b.x")), bad(5, Some("a.y")), bad(6, None)];
    let mut b = batch(events, bads);
    let end = b.end.clone();
    filter(&["a.*"]).apply(&mut b).unwrap();
    assert_eq!(names(&b), ["insert a.1", "insert a.3", "insert a.6"]);
    let left: Vec<(usize, Option<String>)> =
        b.bad.iter().map(|bad| (bad.before, bad.ns.as_ref().map(|ns| ns.to_string()))).collect();
    assert_eq!(left, [(0, Some("a.x".into())), (1, None), (2, Some("a.y".into())), (3, None)]);
    assert_eq!(b.end, end);
}

#[test]
fn wrong_options_name_the_key_and_the_entry() {
    let mut registry = Registry::default();
    register(&mut registry);
    let build = |text: &str| {
        let options = Options::new(text.parse().unwrap());
        (registry.transforms["filter"].build)(&Context::default(), &options).map(drop).unwrap_err()
    };
    for (text, field, part) in [
        ("namespaces = []", Some("namespaces"), "empty"),
        ("namespaces = ['a.*', 'app']", Some("namespaces"), "`app`"),
        ("namespaces = ['!']", Some("namespaces"), "`!`"),
        ("namespaces = ['']", Some("namespaces"), "no pattern"),
        ("namespaces = [' a.*']", Some("namespaces"), "blank"),
        ("namespaces = ['/a(/']", Some("namespaces"), "`/a(/`"),
        ("namespaces = ['/a.b']", Some("namespaces"), "`/a.b`"),
        ("namespaces = ['/']", Some("namespaces"), "`/`"),
        ("operations = ['inserts']", Some("operations"), "`inserts`"),
        ("operations = []", Some("operations"), "empty"),
        ("", None, "needs"),
        ("namespace = ['a.*']", None, "namespace"),
    ] {
        let e = build(text);
        assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, field), "{text}: {e}");
        assert!(e.to_string().contains(part), "{text}: {e}");
        assert!(e.get_hint().is_some() || e.field().is_none(), "{text}");
    }
}

#[test]
fn hostile_names_do_not_grow_the_memory() {
    let mut filter = filter(&["a.*"]);
    for n in 0..MOST_REMEMBERED * 2 + 5 {
        assert!(filter.passes_namespace(&Namespace::new(&format!("a.{n}"))));
        assert!(filter.decided.len() <= MOST_REMEMBERED);
    }
}

/// A glob by its definition.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
        Some(('?', rest)) => !text.is_empty() && naive(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && naive(rest, &text[1..]),
    }
}

fn naive_list(entries: &[String], ns: &str) -> bool {
    let chars = |s: &str| s.chars().collect::<Vec<_>>();
    let hit = |pattern: &str| naive(&chars(pattern), &chars(ns));
    let mut positives = entries.iter().filter(|e| !e.starts_with('!')).peekable();
    let included = positives.peek().is_none() || positives.any(|p| hit(p));
    included && !entries.iter().filter_map(|e| e.strip_prefix('!')).any(hit)
}

proptest! {
    #[test]
    fn decisions_are_those_of_a_naive_matcher(
        entries in proptest::collection::vec("!?[ab*?]{0,2}[.*][ab.*?é]{0,4}", 1..4),
        names in proptest::collection::vec("[ab]{1,2}\\.[abé.]{1,4}", 1..20),
    ) {
        let mut filter = Filter::from_options(&FilterOptions { namespaces: Some(entries.clone()), ..Default::default() }).unwrap();
        // Twice, so that remembered decisions are looked at too.
        for name in names.iter().chain(&names) {
            prop_assert_eq!(filter.passes_namespace(&Namespace::new(name)), naive_list(&entries, name), "{:?} {}", entries, name);
        }
    }

    #[test]
    fn a_database_passes_as_some_name_of_it_does(
        entries in proptest::collection::vec("!?[ab?*]{0,1}[.*][ab*?]{0,3}", 1..4),
        db in "[abc]",
    ) {
        // All collections of up to four letters; `x` stands for the letters that no pattern names. Longer patterns there are none.
        let mut names = vec![String::new()];
        let mut found = false;
        for _ in 0..5 {
            names = names.iter().flat_map(|n| ["a", "b", "x", "."].map(|c| format!("{n}{c}"))).collect();
            found |= names.iter().any(|n| naive_list(&entries, &format!("{db}.{n}")));
        }
        let mut filter = Filter::from_options(&FilterOptions { namespaces: Some(entries.clone()), ..Default::default() }).unwrap();
        prop_assert_eq!(filter.passes_namespace(&Namespace::new(&db)), found, "{:?} {}", entries, db);
    }
}
