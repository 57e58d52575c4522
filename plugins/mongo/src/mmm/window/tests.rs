use bson::Bson;

use super::*;

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
    let word = Word { ns: Namespace::new("a.b"), id: Bson::Int32(1), base: time(5) };
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
