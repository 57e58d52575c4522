use std::collections::HashSet;

use bson::{Bson, RawDocumentBuf, doc};
use oplogue_api::{Op, same_key};

use super::*;

#[test]
fn the_same_seed_gives_the_same() {
    let draw = |seed| {
        let mut rng = Rng::new(seed);
        (0..100).map(|_| document(&mut rng, 3)).map(|d| RawDocumentBuf::try_from(&d).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let mut rng = Rng::new(1);
    assert!(!rng.chance(0.0) && rng.chance(1.0));
    let half = (0..10_000).filter(|_| rng.chance(0.5)).count();
    assert!((4_500..5_500).contains(&half), "{half}");
}

#[test]
fn ids_are_of_many_types_and_never_meet() {
    let all: Vec<Bson> = (1..50).flat_map(ids).collect();
    let types: HashSet<_> = all.iter().map(|id| id.element_type() as u8).collect();
    assert!(types.len() >= 13, "{types:?}");
    let keys: Vec<_> = all.iter().map(|id| crate::sample::key_of(id.clone())).collect();
    for (i, a) in keys.iter().enumerate() {
        for (j, b) in keys.iter().enumerate().skip(i + 1) {
            assert!(!same_key(a, b), "{:?} {:?}", all[i], all[j]);
        }
    }
}

#[test]
fn work_fits_the_state_it_finds() {
    for seed in 0..20 {
        let mut workload = Workload::new(seed);
        let work = workload.take(300);
        assert_eq!(work.iter().map(|w| w.steps().len()).sum::<usize>(), 300);
        assert!(work.iter().any(|w| matches!(w, Work::Txn(_))));
        let mut alive: Vec<Bson> = Vec::new();
        let mut seen = HashSet::new();
        for step in work.iter().flat_map(Work::steps) {
            let id = step.id();
            seen.insert(step.op());
            let found = alive.iter().position(|a| *a == id);
            match step.op() {
                Op::Insert => {
                    assert!(found.is_none());
                    alive.push(id);
                }
                Op::Delete => {
                    alive.swap_remove(found.unwrap());
                }
                _ => assert!(found.is_some()),
            }
        }
        assert_eq!(seen.len(), 4);
    }
}

#[test]
fn stamped_events_are_all_different_and_in_order() {
    let mut events: Vec<_> = (0..10).map(|i| event_of("a.b", &Step::Insert(doc! {"_id": i}))).collect();
    stamp(&mut events);
    assert!(events.windows(2).all(|w| w[0].id() < w[1].id()));
    let last = events[9].id();
    stamp(&mut events);
    assert!(events[0].id() > last);
}
