use oplogue_api::{
    BadEvent, CheckpointStore, Doc, Error, ErrorKind, Position,
    bson::{Timestamp, rawdoc},
};
use oplogue_testkit::{
    faults::{Fault, FaultyStore, Schedule},
    sample::MemoryStore,
    wait_for,
};

use super::*;

fn event(op: Op, ns: &str) -> Event {
    Event::new(op, Namespace::new(ns), Timestamp { time: 1, increment: 1 }, rawdoc! {}.into())
}

fn batch(events: Vec<Event>) -> Batch {
    let end = Position { token: Doc::empty(), time: Timestamp { time: 1, increment: 1 } };
    Batch { events, bad: Vec::new(), head: end.time, end, bytes: 100 }
}

fn left(batch: &Batch) -> Vec<&str> {
    batch.events.iter().map(|e| e.ns.as_str()).collect()
}

fn start(list: &Arc<Denylist>, store: Arc<dyn CheckpointStore>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Keeper::new(Arc::clone(list), store).run())
}

#[test]
fn exact_names_are_dropped_from_the_next_batch_on() {
    let list = Denylist::new(&["admin".into()]);
    let mut denied = Denied::new(Arc::clone(&list));
    let all = || batch(["admin.a", "administration.a", "app.a", "app.b"].map(|ns| event(Op::Insert, ns)).to_vec());
    let mut b = all();
    assert_eq!(denied.apply(&mut b, |_| ()), 1);
    assert_eq!(left(&b), ["administration.a", "app.a", "app.b"]);
    list.change("app", true).unwrap();
    list.change("admin", false).unwrap();
    let mut seen = Vec::new();
    let mut b = all();
    assert_eq!(denied.apply(&mut b, |e| seen.push(e.ns.as_str().to_owned())), 2);
    assert_eq!((left(&b), seen), (vec!["admin.a", "administration.a"], vec!["app.a".into(), "app.b".into()]));
}

#[test]
fn what_is_bad_keeps_its_place_and_what_tells_of_trouble_always_passes() {
    let list = Denylist::new(&["x".into(), String::new()]);
    let mut denied = Denied::new(list);
    let mut b = batch(vec![
        event(Op::Insert, "x.a"),
        event(Op::Insert, "y.a"),
        event(Op::Insert, "x.a"),
        event(Op::Gap, ""),
        Event { to: Some(Namespace::new("y.b")), ..event(Op::Rename, "x.a") },
        Event { to: Some(Namespace::new("x.b")), ..event(Op::Rename, "x.a") },
    ]);
    let bad = |before, ns: Option<&str>| BadEvent {
        time: Timestamp { time: 1, increment: 1 },
        ns: ns.map(Namespace::new),
        raw: Doc::empty(),
        event: None,
        by: None,
        error: Error::data("bad"),
        before,
    };
    b.bad = vec![bad(1, Some("x.a")), bad(3, Some("y.a")), bad(6, None)];
    assert_eq!(denied.apply(&mut b, |_| ()), 4);
    assert_eq!(left(&b), ["y.a", "", "x.a"]);
    assert_eq!(b.bad.iter().map(|bad| bad.before).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn changes_are_kept_and_seen_by_others_and_the_seeds_come_back() {
    let store = MemoryStore::new();
    let of = || Arc::new(store.clone()) as Arc<dyn CheckpointStore>;
    let one = Denylist::new(&["admin".into()]);
    let two = Denylist::new(&["admin".into()]);
    let tasks = [start(&one, of()), start(&two, of())];
    assert!(store.get("(denylist)").is_none(), "nothing has changed");
    assert_eq!(one.set("abc", true).await, Changed::Kept);
    assert_eq!(one.set("abc", true).await, Changed::Nothing);
    wait_for("the other one", || async { two.contains("abc") }).await;
    // Both know the same generation now, or not: each change ends up in the other's list.
    let (a, b) = tokio::join!(one.set("def", true), two.set("admin", false));
    assert_eq!([a, b], [Changed::Kept; 2]);
    let both = ["abc", "def"].map(str::to_owned).to_vec();
    wait_for("the same list", || async { one.names() == both && two.names() == both }).await;
    assert_eq!(one.all().get("admin"), Some(&false));
    tasks.iter().for_each(tokio::task::JoinHandle::abort);

    let again = Denylist::new(&["admin".into()]);
    Keeper::new(Arc::clone(&again), of()).load().await;
    assert_eq!(again.names(), ["abc", "admin", "def"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_not_kept_holds_and_is_kept_later() {
    let store = MemoryStore::new();
    let schedule = Schedule::new(1).then(3, Fault::Reject(ErrorKind::Transient));
    let list = Denylist::new(&[]);
    let task = start(&list, Arc::new(FaultyStore::new(Arc::new(store.clone()), schedule)));
    assert_eq!(list.set("abc", true).await, Changed::NotKept);
    assert!(list.contains("abc"));
    wait_for("it to be kept", || async { store.get("(denylist)").is_some() }).await;
    assert_eq!(list.set("abc", false).await, Changed::Kept);
    task.abort();
}

#[tokio::test]
async fn the_list_is_bounded() {
    let list = Denylist::new(&[]);
    assert_eq!(list.set(&"x".repeat(256), true).await, Changed::Refused);
    for n in 0..MOST_NAMES {
        assert!(list.change(&format!("n{n}"), true).is_some_and(|number| number > 0));
    }
    assert_eq!(list.set("one too many", true).await, Changed::Refused);
    assert!(list.change("n5", false).is_some());
}
