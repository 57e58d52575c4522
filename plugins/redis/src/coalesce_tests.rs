use super::*;

use bson::{Bson, RawDocumentBuf, Timestamp, doc};
use oplogue_api::Options;
use oplogue_testkit::sample;

use crate::{collections::Rules, pack::Pack, render::Rendering};

fn renderer(collections: &str) -> Renderer {
    let rules = Rules::new(&Options::new(toml::from_str(collections).unwrap())).unwrap();
    Renderer::new(crate::render::Ids::Position, Rendering { rules, ..Rendering::default() })
}

fn insert(id: impl Into<Bson>) -> Event {
    sample::insert("a.b", doc! {"_id": id.into(), "n": 1})
}

fn update(id: impl Into<Bson>, name: &str) -> Event {
    sample::update("a.b", id, doc! {name: 1})
}

/// For each event that is told, the places of all that it is told with.
fn runs(events: &[Event], collections: &str) -> Vec<Vec<usize>> {
    let mut runs = Runs::default();
    runs.plan(&mut renderer(collections), events, 0, events.len());
    let place = |event: &Event| events.iter().position(|e| std::ptr::eq(e, event)).unwrap();
    let of = |n: usize| runs.earlier(events, n).into_iter().map(place).chain([n]).collect();
    (0..events.len()).filter(|n| !runs.is_merged(*n)).map(of).collect()
}

#[test]
fn events_of_a_document_are_put_together_up_to_its_deletion() {
    let delete = |id: &str| sample::delete("a.b", id);
    let replace = sample::replace("a.b", doc! {"_id": "x", "m": 1});
    let barrier = sample::barrier(Op::Rename, "a.b");
    let table: Vec<(Vec<Event>, Vec<Vec<usize>>)> = vec![
        (vec![update("x", "p"), update("y", "p"), update("x", "q")], vec![vec![1], vec![0, 2]]),
        (vec![insert("x"), update("x", "q"), replace, update("x", "r")], vec![vec![0, 1, 2, 3]]),
        (vec![update("x", "p"), delete("x"), insert("x"), update("x", "q")], vec![vec![0], vec![1], vec![2, 3]]),
        (vec![update("x", "p"), insert("x")], vec![vec![0], vec![1]]),
        (vec![delete("x"), delete("x")], vec![vec![0], vec![1]]),
        (vec![update("x", "p"), barrier, update("x", "q")], vec![vec![0], vec![1], vec![2]]),
        (vec![update(1, "p"), update(1.0, "q"), update("1", "r")], vec![vec![0, 1], vec![2]]),
        (vec![update("x", "p"), sample::update("a.c", "x", doc! {"q": 1})], vec![vec![0], vec![1]]),
    ];
    for (events, expected) in table {
        assert_eq!(runs(&events, ""), expected);
    }
    // What is not told by itself is not told with others.
    let events = [update("x", "p"), update("x", "seen"), update("x", "q"), update("x", "seen")];
    assert_eq!(
        runs(&events, "collections = [{ match = 'a.b', skip_if_only = ['seen'] }]"),
        [vec![1], vec![0, 2], vec![3]]
    );
}

#[test]
fn what_was_put_together_with_an_unsent_event_is_untold() {
    let events =
        [update("x", "p"), update("y", "p"), update("z", "p"), update("y", "q"), update("x", "q"), insert("w")];
    let mut plan = Runs::default();
    plan.plan(&mut renderer(""), &events, 0, events.len());
    let untold: Vec<usize> = (0..=6).map(|at| plan.first_untold(at)).collect();
    assert_eq!(untold, [0, 0, 0, 0, 0, 5, 6]);
    // In the middle of a slice.
    plan.plan(&mut renderer(""), &events, 1, 4);
    assert_eq!((plan.first_untold(2), plan.first_untold(4), plan.is_merged(0), plan.is_merged(1)), (1, 4, false, true));
    assert_eq!((plan.any(), Runs::default().any()), (true, false));
    assert_eq!(Runs::default().first_untold(3), 3);
}

fn message(collections: &str, earlier: &[&Event], event: &Event) -> String {
    let mut pack = Pack::new();
    renderer(collections).render(&mut pack, earlier, event).unwrap();
    String::from_utf8_lossy(pack.finish()).into_owned()
}

#[test]
fn the_message_of_a_run_says_all_of_it() {
    let image = |event: Event, n: i32| {
        let doc = |n| RawDocumentBuf::try_from(&doc! {"_id": "x", "n": n}).unwrap().into();
        Event { after: Some(doc(n)), before: (event.op != Op::Insert).then(|| doc(n - 1)), ..event }
    };
    let (first, second, third) = (image(insert("x"), 1), image(update("x", "p"), 2), image(update("x", "q"), 3));
    for (document, earlier, d) in [
        ("id", vec![&first, &second], r#"{"e":"u","d":{"_id":"x"},"f":["_id","n","p","q"]}"#),
        ("full", vec![&first, &second], r#"{"e":"u","d":{"_id":"x","n":3},"f":["_id","n","p","q"]}"#),
        // There was none before the insert.
        ("previous", vec![&first, &second], r#"{"e":"u","d":{"_id":"x"},"f":["_id","n","p","q"]}"#),
        ("previous", vec![&second], r#"{"e":"u","d":{"_id":"x","n":1},"f":["p","q"]}"#),
    ] {
        let table = format!("collections = [{{ match = 'a.b', document = '{document}', namespaces = ['{{n}}'] }}]");
        let text = message(&table, &earlier, &third);
        assert!(text.contains(d), "{text}");
        let channels: Vec<bool> = (0..4).map(|n| text.contains(&format!("a.{n}::b"))).collect();
        assert_eq!(channels, [false, true, true, true]);
    }
}

#[test]
fn a_window_ends_between_ids_and_takes_one_event_at_least() {
    let at = |increment, event: Event| Event { time: Timestamp { time: 1, increment }, ..event };
    let events: Vec<Event> = [1, 2, 2, 2, 3, 4].into_iter().map(|n| at(n, insert("x"))).collect();
    let of = |start, most, bytes| window(&events, start, most, bytes);
    assert_eq!(
        [of(0, 2, 9999), of(0, 1, 9999), of(1, 1, 9999), of(0, 9, 1), of(4, 2, 9999), of(6, 2, 9999)],
        [4, 1, 4, 1, 6, 6]
    );
}
