use bson::{RawDocumentBuf, rawdoc};
use oplogue_api::{EventId, Namespace, Options};
use proptest::prelude::*;

use super::*;
use crate::{builtin, config};

/// The chains of the routes of a group with these `when`s (TOML tables); with a default, which stands in front of the `default`th.
fn group(whens: &[&str], default: Option<usize>) -> Vec<Choice> {
    let mut text = "[sources.a]\ntype = \"bson-dump\"\npath = \"x\"\n".to_owned();
    let mut routes: Vec<String> = whens.iter().map(|when| format!("when = {when}")).collect();
    if let Some(place) = default {
        routes.insert(place.min(routes.len()), "default = true".to_owned());
    }
    for (n, says) in routes.iter().enumerate() {
        text += &format!("[sinks.s{n}]\ntype = \"null\"\n");
        text += &format!("[[routes]]\ngroup = \"g\"\nfrom = \"a\"\nto = \"s{n}\"\n{says}\n");
    }
    let plan =
        config::load(&text, "test.toml", &|_| None, &builtin::registry()).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let context = Context::default();
    plan.routes.iter().map(|route| Choice::new(route.choice.as_ref().unwrap(), &context).unwrap()).collect()
}

/// The filter of one `when`, alone.
fn alone(when: &str) -> When {
    let table: toml::Table = format!("when = {when}").parse().unwrap();
    let options = Options::new(table["when"].as_table().unwrap().clone());
    let build = std::sync::Arc::clone(&builtin::registry().transforms["filter"].build);
    When::new(&Node { name: WHEN.into(), kind: "filter", options, build }, &Context::default()).unwrap()
}

fn at(n: u32) -> Timestamp {
    Timestamp { time: n, increment: 1 }
}

fn event(op: Op, ns: &str, n: u32) -> Event {
    let mut event = Event::new(op, Namespace::new(ns), at(n), Doc::empty());
    event.key = (!op.is_barrier()).then(|| rawdoc! {"_id": n as i32}.into());
    event
}

fn batch(events: Vec<Event>, bad: Vec<BadEvent>) -> Batch {
    let end = Position { token: Doc::empty(), time: at(u32::MAX) };
    Batch { events, bad, end, head: at(u32::MAX), bytes: 0 }
}

fn undecodable(before: usize, ns: Option<&str>, n: u32) -> BadEvent {
    let error = Error::data("damaged");
    BadEvent::undecodable(before, at(n), ns.map(Namespace::new), Doc::empty(), error)
}

/// The places of the routes that let an event pass, or take it as a bad one.
fn takers(group: &mut [Choice], event: &Event) -> Vec<usize> {
    let mut all = Vec::new();
    for (n, choice) in group.iter_mut().enumerate() {
        let mut batch = batch(vec![event.clone()], vec![]);
        choice.apply(&mut batch).unwrap();
        if !batch.events.is_empty() || !batch.bad.is_empty() {
            all.push(n);
        }
    }
    all
}

const LARGE: &str = r#"{ namespaces = ["app.*"], after = { n = { "$gt" = 10 } } }"#;

fn with_n(n: i32) -> Event {
    Event { after: Some(rawdoc! {"_id": 1, "n": n}.into()), ..event(Op::Insert, "app.a", 1) }
}

#[test]
fn the_first_that_wants_an_event_takes_it() {
    let mut routes = group(&[LARGE, r#"{ namespaces = ["app.a"] }"#], Some(1));
    assert_eq!(takers(&mut routes, &with_n(11)), [0]);
    assert_eq!(takers(&mut routes, &with_n(1)), [2], "the default is asked last, wherever it stands");
    assert_eq!(takers(&mut routes, &event(Op::Insert, "other.a", 1)), [1]);
    let mut none = group(&[LARGE, r#"{ operations = ["delete"] }"#], None);
    assert_eq!(takers(&mut none, &with_n(1)), [0; 0]);
}

#[test]
fn a_document_that_is_missing_is_treated_as_the_filter_does() {
    let update = event(Op::Update, "app.a", 1);
    let delete = event(Op::Delete, "app.a", 1);
    let mut keep = group(&[LARGE], Some(1));
    let mut drop = group(&[r#"{ after = { n = 1 }, missing = "drop" }"#], Some(1));
    let mut error = group(&[r#"{ operations = ["insert"] }"#, r#"{ after = { n = 1 }, missing = "error" }"#], Some(2));
    for (group, expected) in [(&mut keep, [0, 0]), (&mut drop, [1, 1]), (&mut error, [1, 1])] {
        assert_eq!([takers(group, &update), takers(group, &delete)], expected.map(|n| vec![n]));
    }
    let mut batch = batch(vec![update], vec![]);
    error[1].apply(&mut batch).unwrap();
    assert_eq!((batch.events.len(), batch.bad.len()), (0, 1), "it is the trouble of the route that cannot tell");
    assert!(batch.bad[0].event.is_some() && batch.bad[0].by.is_none());
}

#[test]
fn barriers_go_where_documents_of_the_collection_may_be() {
    let orders = r#"{ namespaces = ["app.orders*"] }"#;
    let mut routes = group(&[orders, LARGE, r#"{ operations = ["insert"] }"#], Some(3));
    assert_eq!(takers(&mut routes, &event(Op::Drop, "app.orders", 1)), [0], "all of them are there");
    assert_eq!(takers(&mut routes, &event(Op::Drop, "app.users", 1)), [1, 3]);
    assert_eq!(takers(&mut routes, &event(Op::Index, "shop.users", 1)), [3]);
    assert_eq!(takers(&mut routes, &event(Op::DropDatabase, "app", 1)), [0, 1, 3], "of other collections too");
    let rename = |to| Event { to: Some(Namespace::new(to)), ..event(Op::Rename, "app.orders", 1) };
    assert_eq!(takers(&mut routes, &rename("app.orders_old")), [0]);
    assert_eq!(takers(&mut routes, &rename("app.users")), [0, 1, 3]);
    for op in [Op::Gap, Op::DeadLetter] {
        assert_eq!(takers(&mut routes, &event(op, "", 1)), [0, 1, 2, 3]);
    }
    let marker = event(Op::Insert, MARKERS, 1);
    assert_eq!(takers(&mut routes, &marker), [0, 1, 2, 3], "whose sink asks for them needs them all");
}

#[test]
fn bad_entries_keep_their_places_and_have_one_route() {
    let mut routes = group(&[r#"{ namespaces = ["app.*"] }"#], Some(1));
    let events = || ["app.a", "b.b", "app.c"].iter().zip(1..).map(|(ns, n)| event(Op::Insert, ns, n)).collect();
    let bad = || {
        vec![
            undecodable(0, Some("app.x"), 10),
            undecodable(2, Some("b.x"), 11),
            undecodable(2, None, 12),
            undecodable(3, Some("app.y"), 13),
        ]
    };
    let left = |choice: &mut Choice| {
        let mut batch = batch(events(), bad());
        choice.apply(&mut batch).unwrap();
        batch.bad.iter().map(|bad| (bad.before, bad.time.time)).collect::<Vec<_>>()
    };
    assert_eq!(left(&mut routes[0]), [(0, 10), (1, 12), (2, 13)], "an unknown one is the first route's");
    assert_eq!(left(&mut routes[1]), [(1, 11)]);
}

const WHENS: &[&str] = &[
    r#"{ namespaces = ["app.*"] }"#,
    r#"{ namespaces = ["app.a", "b.*"], operations = ["insert", "update", "ddl"] }"#,
    r#"{ operations = ["delete", "drop"] }"#,
    r#"{ after = { n = { "$gt" = 3 } } }"#,
    r#"{ after = { n = { "$lt" = 3 } }, missing = "drop" }"#,
    r#"{ namespaces = ["!b.*"], after = { n = 3 }, missing = "error" }"#,
    r#"{ before = { n = 1 }, missing = "error", operations = ["update"] }"#,
    r#"{ key = { _id = { "$mod" = [3, 0] } } }"#,
    r#"{ changed = ["n"], missing = "drop" }"#,
];
const NAMES: &[&str] = &["app.a", "app.b", "b.a", "c.c"];

const OPS: &[Op] =
    &[Op::Insert, Op::Update, Op::Replace, Op::Delete, Op::Create, Op::Drop, Op::DropDatabase, Op::Rename, Op::Index];

fn some_event() -> impl Strategy<Value = Event> {
    let document = proptest::option::of(0..6_i32);
    (proptest::sample::select(OPS), proptest::sample::select(NAMES), document.clone(), document, any::<bool>())
        .prop_map(|(op, ns, after, before, is_damaged)| {
            let ns = if op == Op::DropDatabase { ns.split('.').next().unwrap() } else { ns };
            let mut event = event(op, ns, 1);
            if op == Op::Rename {
                event.to = Some(Namespace::new("app.z"));
            }
            if !op.is_barrier() {
                let doc = |n| Doc::from(rawdoc! {"_id": n, "n": n});
                (event.after, event.before) = (after.map(doc), before.map(doc));
                event.key = after.or(before).map(|n| rawdoc! {"_id": n}.into());
            }
            if op == Op::Update {
                // What is no diff cannot be read: a `when` that asks about it fails.
                let diff: RawDocumentBuf = if is_damaged {
                    rawdoc! {"u": 1}
                } else {
                    rawdoc! {"u": {"n": 1}}
                };
                event.change = Some(oplogue_api::Change::OplogV2(diff.into()));
            }
            event
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever the routes, their order and the place of the default; however events are cut into batches.
    #[test]
    fn exactly_one_route_takes_each_event_and_it_is_the_first(
        whens in proptest::sample::subsequence(WHENS, 1..5).prop_shuffle(),
        default in proptest::option::of(0..5_usize),
        mut events in proptest::collection::vec(some_event(), 1..30),
        cuts in proptest::collection::vec(1..9_usize, 4),
    ) {
        prop_assume!(whens.len() + usize::from(default.is_some()) > 1);
        for (n, event) in events.iter_mut().enumerate() {
            event.time = at(n as u32);
        }
        let mut routes = group(&whens, default);
        let place = default.map(|place| place.min(whens.len()));
        // By event: the routes that let it pass, and those whose bad event it is.
        let mut taken: Vec<(Vec<usize>, Vec<usize>)> = vec![Default::default(); events.len()];
        for (n, choice) in routes.iter_mut().enumerate() {
            let mut rest = events.as_slice();
            // Each route reads at its own pace.
            while !rest.is_empty() {
                let size = cuts[n % cuts.len()].min(rest.len());
                let mut batch = batch(rest[..size].to_vec(), vec![]);
                choice.apply(&mut batch).unwrap();
                let ids: Vec<EventId> = batch.events.iter().map(Event::id).collect();
                prop_assert!(ids.is_sorted());
                batch.events.iter().for_each(|event| taken[event.time.time as usize].0.push(n));
                batch.bad.iter().for_each(|bad| taken[bad.time.time as usize].1.push(n));
                rest = &rest[size..];
            }
        }
        let mut filters: Vec<When> = whens.iter().map(|when| alone(when)).collect();
        for (event, (passed, bad)) in events.iter().zip(&taken) {
            // Routes are numbered as in the file, where the default has a place among the others.
            let number = |n: usize| n + usize::from(place.is_some_and(|place| place <= n));
            let verdicts: Vec<_> = filters.iter_mut().map(|filter| filter.verdict(event).unwrap()).collect();
            if event.op.is_barrier() {
                prop_assert!(bad.is_empty());
                prop_assert!(place.is_none() || !passed.is_empty(), "lost: {} {}", event.op.name(), event.ns);
                let whole = whens.iter().position(|when| *when == WHENS[0]);
                for (n, verdict) in verdicts.iter().enumerate().filter(|(n, _)| whole.is_none_or(|whole| *n <= whole)) {
                    prop_assert_eq!(passed.contains(&number(n)), matches!(verdict, Verdict::Takes));
                }
                continue;
            }
            let first = verdicts.iter().position(|verdict| !matches!(verdict, Verdict::Leaves));
            let (expected, expected_bad) = match first {
                Some(n) if matches!(verdicts[n], Verdict::Fails(_)) => (None, Some(number(n))),
                Some(n) => (Some(number(n)), None),
                None => (place, None),
            };
            prop_assert_eq!(passed, &Vec::from_iter(expected));
            prop_assert_eq!(bad, &Vec::from_iter(expected_bad));
        }
    }
}
