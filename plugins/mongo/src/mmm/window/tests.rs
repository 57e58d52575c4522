use bson::{Bson, RawDocumentBuf, doc};
use oplogue_api::{Change, Doc, EventId, Position, Txn};

use super::*;
use crate::mmm::{
    marker::LogState,
    touched::Touched,
    word::{Audience, NOTHING, Word},
};

fn time(n: u32) -> Timestamp {
    Timestamp { time: n, increment: 0 }
}

/// What there is of a document for whoever has seen the log of the peer up to `upto`.
fn unheard(window: &Window, hash: u64, upto: u32, said: Option<u32>) -> Vec<u32> {
    window.unheard(hash, &Seen::new(&[("b".into(), time(upto))]), said.map(time)).map(|write| write.time.time).collect()
}

#[test]
fn who_has_not_heard_a_word_has_not_seen_what_it_was_about() {
    let link = Link { node: "a".into(), peer: "b".into() };
    let mut window = Window::new(link, time(1), 0, 1 << 20);
    let word = Word { ns: Namespace::new("a.b"), id: Bson::Int32(1), base: time(5), audience: Audience::All };
    let hash = word.hash().unwrap();
    for n in [3, 5, 6] {
        let at = time(n);
        let write = Write {
            time: at,
            node: 0,
            origin_time: at,
            clock: 0,
            op: Op::Update,
            saw_us: None,
            paths: None,
            again: None,
            is_told: false,
        };
        window.enter_write(hash, write);
    }
    // The word is not in the log yet: it is known from the same transaction.
    assert!(unheard(&window, hash, 6, None).is_empty());
    assert_eq!(unheard(&window, hash, 6, Some(5)), [5, 6]);
    window.enter_word(&word, time(8)).unwrap();
    for (upto, expected) in [(8, &[][..]), (7, &[5, 6, 8]), (4, &[5, 6, 8]), (2, &[3, 5, 6, 8])] {
        assert_eq!(unheard(&window, hash, upto, None), expected, "{upto}");
    }
    // It is kept for as long as somebody has not heard the word, and no longer.
    window.forget(&Seen::new(&[("b".into(), time(7))]));
    assert_eq!(unheard(&window, hash, 7, None), [5, 6, 8]);
    window.forget(&Seen::new(&[("b".into(), time(8))]));
    assert!(window.writes.is_empty() && window.order.is_empty());
}

fn marker(node: &str, peer: &str) -> Marker {
    Marker {
        link: Link { node: node.into(), peer: peer.into() },
        lane: 0,
        route: String::new(),
        generation: 1,
        session: None,
        seq: 1,
        origin: node.into(),
        position: Position { token: Doc::empty(), time: time(5) },
        done: EventId { time: time(5), index: 0 },
        clock: 5000,
        seen: vec![],
        saw: vec![],
        writes: vec![],
        fields: Touched::default(),
        again: vec![],
        waits: vec![],
        unsettled: Unsettled::default(),
        log: LogState { clock: 0, since: time(0), since_clock: 0 },
        forward: None,
    }
}

/// A transaction: the marker, and what else is in it.
fn transaction(marker: &Marker, others: Vec<Event>) -> Vec<Event> {
    let txn: Arc<Txn> = Arc::new(Txn { lsid: Doc::empty(), number: 1, replicated: false });
    let after = RawDocumentBuf::try_from(&marker.encode()).unwrap();
    let first = Event {
        after: Some(after.into()),
        ..Event::new(Op::Replace, Namespace::new(oplogue_api::MARKERS), time(9), Doc::empty())
    };
    let all = std::iter::once(first).chain(others);
    all.map(|event| Event { txn: Some(Arc::clone(&txn)), ..event }).collect()
}

fn on(op: Op, ns: &str) -> Event {
    let key = RawDocumentBuf::try_from(&doc! {"_id": 1}).unwrap();
    Event { key: Some(key.into()), ..Event::new(op, Namespace::new(ns), time(9), Doc::empty()) }
}

/// What another link has merged, or taken whole, is logged as a replacement, and what was there already not at all: it has changed no
/// more than its marker tells.
#[test]
fn the_marker_tells_the_fields_of_what_is_logged_as_a_whole() {
    let change = RawDocumentBuf::try_from(&doc! {"i": {"x": 1}}).unwrap();
    let update = Event { change: Some(Change::OplogV2(change.into())), ..on(Op::Update, "a.b") };
    let hash = Window::hash(&update.ns, update.key.as_deref().unwrap());
    let mut told = marker("c", "b");
    encode_write(&mut told.writes, hash, &update, 5000);
    told.fields.note(hash, &update).unwrap();
    for others in [vec![on(Op::Replace, "a.b")], vec![]] {
        let link = Link { node: "a".into(), peer: "b".into() };
        let mut window = Window::new(link, time(1), 0, 1 << 20).of(|_| Some(true));
        window.enter(&transaction(&told, others), time(9)).unwrap();
        let all: Vec<_> = window.concurrent(hash, &Seen::default()).collect();
        assert_eq!(all.len(), 1);
        let paths = all[0].paths.as_deref().expect("not all of them");
        assert_eq!(paths.iter().map(FieldPath::text).collect::<Vec<_>>(), ["x"]);
    }
}

/// Two replications with names and namespaces of their own share a deployment.
#[test]
fn what_others_replicate_beside_is_no_concern() {
    let mut other = marker("x", "y");
    other.again = vec![Word { ns: Namespace::new("a.b"), id: Bson::Int32(1), base: time(5), audience: Audience::All }];
    let mut window = Window::new(Link { node: "a".into(), peer: "b".into() }, time(1), 0, 1 << 20)
        .of(|ns| (ns.db() == "a").then_some(true));
    window.enter(&transaction(&other, vec![on(Op::Replace, "o.p")]), time(9)).unwrap();
    assert_eq!((window.clock, window.order.len()), (0, 0));
    other.link.peer = "b".into();
    window.enter(&transaction(&other, vec![on(Op::Replace, "o.p")]), time(9)).unwrap();
    assert_eq!((window.clock, window.order.len()), (5000, 1));
}

/// In a mesh that merges, what a third node wrote is known to whoever has heard the word on it: that says so by the log of the peer, in which
/// it came, while of the log of the third node nothing is known there.
#[test]
fn what_a_word_tells_of_is_known_by_the_log_of_the_peer() {
    let update = on(Op::Update, "a.b");
    let hash = Window::hash(&update.ns, update.key.as_deref().unwrap());
    let mut other = marker("c", "b");
    encode_write(&mut other.writes, hash, &update, 5000);
    let word = |audience| Word { ns: update.ns.clone(), id: Bson::Int32(1), base: NOTHING, audience };
    let known = |audience, node: &str, upto| {
        let marker = Marker { again: vec![word(audience)], ..other.clone() };
        let mut window = Window::new(Link { node: "a".into(), peer: "b".into() }, time(1), 0, 1 << 20);
        window.enter(&transaction(&marker, vec![on(Op::Replace, "a.b")]), time(9)).unwrap();
        window.concurrent(hash, &Seen::new(&[(node.to_owned(), time(upto))])).next().is_none()
    };
    assert_eq!([known(Audience::Others, "b", 8), known(Audience::Others, "b", 9)], [false, true]);
    assert!(!known(Audience::Others, "c", 9), "the other node tells nothing of it");
    // The word is for another one: this node hears of the write from where it was made.
    assert_eq!([known(Audience::Node, "b", 9), known(Audience::Node, "c", 9)], [false, true]);
}

#[test]
fn who_leaves_a_word_out_leaves_out_what_it_was_about() {
    let mut window = Window::new(Link { node: "a".into(), peer: "b".into() }, time(1), 0, 1 << 20);
    let word = |base| Word { ns: Namespace::new("a.b"), id: Bson::Int32(1), base: time(base), audience: Audience::All };
    let hash = word(0).hash().unwrap();
    for (base, at) in [(3, 5), (5, 7), (2, 12)] {
        window.enter_word(&word(base), time(at)).unwrap();
    }
    let begins = |first, upto| window.begins(hash, time(first), &Seen::new(&[("b".into(), time(upto))])).time;
    // The one at 7 was about what is from 5 on, and there is one that was about what is from 3 on.
    assert_eq!([begins(7, 9), begins(6, 9), begins(8, 9), begins(5, 9)], [3, 3, 8, 3]);
    // One that nobody there has heard was not left out.
    assert_eq!([begins(7, 11), begins(7, 12)], [3, 2]);
}
