//! Clauses C (checkpoint stores).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use bson::{Binary, RawDocumentBuf, Timestamp, doc, spec::BinarySubtype};
use oplogue_api::{Checkpoint, CheckpointStore, ErrorKind, Position, Saved, Severity, async_trait};

use super::{
    Report, Tested,
    guard::{LIMIT, must, refused, within, works},
};
use crate::generate::{Rng, document};

/// What a store's test gives the kit.
#[async_trait]
pub trait StoreHarness: Sync {
    /// A new store over the same place: what one saved, another loads.
    async fn store(&self) -> Arc<dyn CheckpointStore>;

    /// A route name that nobody uses, neither a former run nor a former call.
    fn route(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("kit-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
    }

    /// Damages what is stored for the route, so that it cannot be read. `false`: cannot do that.
    async fn damage(&self, _route: &str) -> bool {
        false
    }

    /// Makes the place unreachable for stores made from now on. `false`: cannot do that.
    async fn disrupt(&self) -> bool {
        false
    }

    /// Makes it reachable again.
    async fn mend(&self) {}
}

/// Runs every clause for checkpoint stores.
///
/// # Panics
/// With the number of the first clause that does not hold.
pub async fn store<H: StoreHarness + ?Sized>(h: &H) -> Report {
    let mut report = Report::default();
    report.add("C1", c1_a_new_route_has_no_checkpoint(h).await);
    report.add("C2", c2_what_is_saved_is_loaded(h).await);
    report.add("C3", c3_a_save_compares_generations(h).await);
    report.add("C4", c4_saving_again_is_stored(h).await);
    report.add("C5", c5_a_missing_checkpoint_is_no_other_writer(h).await);
    report.add("C6", c6_reset_sets_whatever_is_stored(h).await);
    report.add("C7", c7_reset_removes(h).await);
    report.add("C8", c8_routes_do_not_meet(h).await);
    report.add("C9", c9_large_and_odd_tokens_come_back(h).await);
    report.add("C10", c10_of_two_writers_one_wins(h).await);
    report.add("C11", c11_positions_may_go_back_unless_shared(h).await);
    report.add("C12", c12_a_damaged_checkpoint_is_an_error(h).await);
    report.add("C13", c13_check_writes_nothing(h).await);
    report.add("C14", c14_an_unreachable_store_is_transient(h).await);
    report
}

fn position(n: u32) -> Position {
    let token = RawDocumentBuf::try_from(&doc! {"kit": i64::from(n)}).expect("a number can be encoded");
    Position { token: token.into(), time: Timestamp { time: 1_700_000_000 + n, increment: n + 1 } }
}

fn at(n: u32, generation: u64) -> Checkpoint {
    Checkpoint { position: position(n), generation }
}

async fn save(clause: &str, store: &dyn CheckpointStore, route: &str, checkpoint: &Checkpoint) -> Saved {
    works(clause, "save", store.save(route, checkpoint)).await
}

async fn load(clause: &str, store: &dyn CheckpointStore, route: &str) -> Option<Checkpoint> {
    works(clause, "load", store.load(route)).await
}

async fn stores(clause: &str, store: &dyn CheckpointStore, route: &str, checkpoint: &Checkpoint) {
    let saved = save(clause, store, route, checkpoint).await;
    must!(clause, saved == Saved::Stored, "generation {} was not stored", checkpoint.generation);
}

/// C1: a route that nothing was saved for has no checkpoint, and that is no error.
pub async fn c1_a_new_route_has_no_checkpoint<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let store = h.store().await;
    must!("C1", load("C1", &*store, &h.route()).await.is_none(), "a new route has a checkpoint");
    Tested::Holds
}

/// C2: what is saved is durable when `save` returns: a new store loads it, token to the byte, time and generation.
pub async fn c2_what_is_saved_is_loaded<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    for generation in 1..=3 {
        let checkpoint = at(generation as u32, generation);
        stores("C2", &*store, &route, &checkpoint).await;
        for store in [&store, &h.store().await] {
            let loaded = load("C2", &**store, &route).await;
            must!("C2", loaded.as_ref() == Some(&checkpoint), "what was saved was not loaded, but {loaded:?}");
        }
    }
    Tested::Holds
}

/// C3: a checkpoint is stored if the stored generation is one less (0 if nothing is stored). Otherwise `Superseded`
/// tells what is stored, and leaves it alone.
pub async fn c3_a_save_compares_generations<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    for generation in 1..=3 {
        stores("C3", &*store, &route, &at(generation as u32, generation)).await;
    }
    for generation in [1, 2, 3, 5, 100, u64::MAX >> 1] {
        let saved = save("C3", &*store, &route, &at(50, generation)).await;
        must!("C3", saved != Saved::Stored, "generation {generation} was stored over generation 3");
        must!("C3", saved == Saved::Superseded(at(3, 3)), "`Superseded` does not tell what is stored: {saved:?}");
        let loaded = load("C3", &*store, &route).await;
        must!("C3", loaded == Some(at(3, 3)), "a superseded save left {loaded:?}");
    }
    stores("C3", &*store, &route, &at(4, 4)).await;
    Tested::Holds
}

/// C4: saving once more what is stored is `Stored`, and changes nothing: the reply may have been lost.
pub async fn c4_saving_again_is_stored<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    for generation in 1..=2 {
        for store in [&store, &store, &h.store().await] {
            stores("C4", &**store, &route, &at(generation as u32, generation)).await;
        }
    }
    must!("C4", load("C4", &*store, &route).await == Some(at(2, 2)), "saving again changed what is stored");
    Tested::Holds
}

/// C5: where nothing is stored, a generation above 1 is stored or refused with `Operator`, but never `Superseded` (there
/// is no other writer to tell of), and a later `load` agrees with the answer.
pub async fn c5_a_missing_checkpoint_is_no_other_writer<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    let checkpoint = at(7, 7);
    let wanted = match within("C5", "save", LIMIT, store.save(&route, &checkpoint)).await {
        Ok(Saved::Stored) => Some(checkpoint),
        Ok(Saved::Superseded(_)) => panic!("C5: a checkpoint was made up that nobody has saved"),
        Ok(Saved::Held) => panic!("C5: the first checkpoint of a route is always worth a write"),
        failed => {
            refused("C5", "a generation above 1 where nothing is stored", failed, &[ErrorKind::Operator]);
            None
        }
    };
    let loaded = load("C5", &*store, &route).await;
    must!("C5", loaded == wanted, "`load` does not agree with what `save` answered");
    Tested::Holds
}

/// C6: `reset` with a position sets it whatever is stored; the next writer goes on from there, and one that still
/// believes in what was stored before is told (unless the store is shared).
pub async fn c6_reset_sets_whatever_is_stored<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, fresh, used) = (h.store().await, h.route(), h.route());
    for generation in 1..=5 {
        stores("C6", &*store, &used, &at(20 + generation as u32, generation)).await;
    }
    for route in [fresh, used.clone()] {
        works("C6", "reset", store.reset(&route, Some(&position(3)))).await;
        let Some(set) = load("C6", &*h.store().await, &route).await else {
            panic!("C6: nothing is stored after a reset to a position");
        };
        must!("C6", set.position == position(3), "`reset` did not set the position");
        if route == used && !store.is_shared() {
            let saved = save("C6", &*store, &route, &at(26, 6)).await;
            must!("C6", saved == Saved::Superseded(set.clone()), "a writer from before the reset was not told");
        }
        stores("C6", &*store, &route, &at(4, set.generation + 1)).await;
        must!(
            "C6",
            load("C6", &*store, &route).await == Some(at(4, set.generation + 1)),
            "saving after a reset is lost"
        );
    }
    Tested::Holds
}

/// C7: `reset` without a position removes the checkpoint; without one there, it works too. A new writer begins with 1.
pub async fn c7_reset_removes<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    works("C7", "reset", store.reset(&route, None)).await;
    stores("C7", &*store, &route, &at(9, 1)).await;
    stores("C7", &*store, &route, &at(10, 2)).await;
    works("C7", "reset", store.reset(&route, None)).await;
    must!("C7", load("C7", &*h.store().await, &route).await.is_none(), "a checkpoint is there after a reset");
    stores("C7", &*store, &route, &at(2, 1)).await;
    must!("C7", load("C7", &*store, &route).await == Some(at(2, 1)), "saving after a reset is lost");
    Tested::Holds
}

/// Route names as configuration can make them: unlike each other, but not to a careless store.
fn odd_names(route: &str) -> Vec<String> {
    let mut names: Vec<String> =
        ["A", "a", "a b", "a  b", "a/b", "a_b", "a%2Fb", "a%b", "a->b", "a:b", "a*b", "a\\b", "a.", "a.b"]
            .iter()
            .map(|name| format!("{route}{name}"))
            .collect();
    names.extend([
        format!("../{route}"),
        format!("../../{route}"),
        format!("./{route}"),
        format!("/{route}"),
        format!(" {route}"),
        format!("{route} "),
        format!("${route}"),
        format!(".{route}"),
        format!("{route}.tmp"),
        format!("{route}.json"),
        format!("{route}größe"),
        format!("{route}gro\u{308}ße"),
        format!("{route}😀\t\n\"'"),
        format!("{route}{{a}}"),
        format!("{route}{}x", "l".repeat(300)),
        format!("{route}{}y", "l".repeat(300)),
        format!("{route}{}x", "€".repeat(300)),
        format!("{route}{}y", "€".repeat(300)),
    ]);
    names
}

/// C8: each route name has a checkpoint of its own, whatever characters and however many it has.
pub async fn c8_routes_do_not_meet<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let store = h.store().await;
    let names = odd_names(&h.route());
    for (i, name) in names.iter().enumerate() {
        let before = load("C8", &*store, name).await;
        must!("C8", before.is_none(), "{name:?} has the checkpoint of another route");
        stores("C8", &*store, name, &at(i as u32, 1)).await;
    }
    let other = h.store().await;
    for (i, name) in names.iter().enumerate() {
        must!("C8", load("C8", &*other, name).await == Some(at(i as u32, 1)), "{name:?} lost its checkpoint");
        works("C8", "reset", other.reset(name, None)).await;
    }
    Tested::Holds
}

/// C9: tokens of 64 KiB and of every BSON type come back to the byte.
pub async fn c9_large_and_odd_tokens_come_back<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    let mut rng = Rng::new(9);
    let large = Binary { subtype: BinarySubtype::Generic, bytes: (0..65_536u32).map(|i| i as u8).collect() };
    let mut tokens = vec![doc! {}, doc! {"large": large}, doc! {"a.b": {"$c": 1, "": 2}}];
    tokens.extend((0..20).map(|_| document(&mut rng, 3)));
    for (i, token) in tokens.iter().enumerate() {
        let token = RawDocumentBuf::try_from(token).expect("a document of the kit can be encoded");
        let position = Position { token: token.into(), time: position(i as u32).time };
        let checkpoint = Checkpoint { position, generation: i as u64 + 1 };
        stores("C9", &*store, &route, &checkpoint).await;
        let loaded = load("C9", &*h.store().await, &route).await;
        must!("C9", loaded == Some(checkpoint), "token {i} came back changed");
    }
    Tested::Holds
}

/// C10: of two writers that save the same generation at the same time, exactly one is `Stored`, and its checkpoint stays.
pub async fn c10_of_two_writers_one_wins<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (a, b, route) = (h.store().await, h.store().await, h.route());
    for generation in 1..=30u64 {
        let (mine, yours) = (at(2 * generation as u32, generation), at(2 * generation as u32 + 1, generation));
        let saved =
            within("C10", "save", LIMIT, async { tokio::join!(a.save(&route, &mine), b.save(&route, &yours)) }).await;
        let kept = match saved {
            (Ok(Saved::Stored), Ok(Saved::Superseded(_))) => mine,
            (Ok(Saved::Superseded(_)), Ok(Saved::Stored)) => yours,
            (Ok(Saved::Stored), Ok(Saved::Stored)) => panic!("C10: both writers were told `Stored`"),
            // An error leaves open what is stored, but it must not be silent: the next round needs the generation.
            (Err(e), _) | (_, Err(e)) => panic!("C10: a save beside another failed ({}): {e}", e.kind().name()),
            _ => panic!("C10: neither writer was told `Stored`"),
        };
        let loaded = load("C10", &*a, &route).await;
        must!("C10", loaded == Some(kept), "the checkpoint of the writer that was told `Stored` is not there");
    }
    Tested::Holds
}

/// C11: a store for one writer takes an earlier position (a sink may be behind). A shared one keeps the furthest: an earlier
/// one is `Superseded`.
pub async fn c11_positions_may_go_back_unless_shared<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    stores("C11", &*store, &route, &at(10, 1)).await;
    let (back, kept) = (at(5, 2), at(10, 1));
    if store.is_shared() {
        let saved = save("C11", &*store, &route, &back).await;
        must!("C11", saved == Saved::Superseded(kept.clone()), "a shared store let the position go back");
        must!("C11", load("C11", &*store, &route).await == Some(kept), "a shared store let the position go back");
    } else {
        stores("C11", &*store, &route, &back).await;
        must!("C11", load("C11", &*store, &route).await == Some(back), "an earlier position is not there");
    }
    Tested::Holds
}

/// C12: a stored checkpoint that cannot be read is an `Operator` error of `load`, never "none"; and `reset` mends it.
pub async fn c12_a_damaged_checkpoint_is_an_error<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route) = (h.store().await, h.route());
    stores("C12", &*store, &route, &at(1, 1)).await;
    if !h.damage(&route).await {
        return Tested::Skipped("the harness cannot damage what is stored");
    }
    let store = h.store().await;
    let loaded = within("C12", "load", LIMIT, store.load(&route)).await;
    refused("C12", "a damaged checkpoint", loaded, &[ErrorKind::Operator]);
    works("C12", "reset", store.reset(&route, Some(&position(2)))).await;
    let mended = load("C12", &*store, &route).await.map(|c| c.position);
    must!("C12", mended == Some(position(2)), "`reset` does not mend a damaged checkpoint");
    Tested::Holds
}

/// C13: `check` finds nothing wrong where the store works, and writes nothing.
pub async fn c13_check_writes_nothing<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (store, route, fresh) = (h.store().await, h.route(), h.route());
    stores("C13", &*store, &route, &at(1, 1)).await;
    let findings = within("C13", "check", LIMIT, store.check()).await;
    if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
        panic!("C13: `check` finds an error in a store that works: {}", finding.what);
    }
    must!("C13", load("C13", &*store, &route).await == Some(at(1, 1)), "`check` changed a checkpoint");
    must!("C13", load("C13", &*store, &fresh).await.is_none(), "`check` made a checkpoint");
    Tested::Holds
}

/// C14: a store that cannot be reached is a `Transient` error of `load` and `save`, never "none"; when it is back, the
/// same value works.
pub async fn c14_an_unreachable_store_is_transient<H: StoreHarness + ?Sized>(h: &H) -> Tested {
    let (before, route) = (h.store().await, h.route());
    stores("C14", &*before, &route, &at(1, 1)).await;
    if !h.disrupt().await {
        return Tested::Skipped("the harness cannot make the store unreachable");
    }
    let store = h.store().await;
    let loaded = within("C14", "load", LIMIT, store.load(&route)).await;
    refused("C14", "load from an unreachable store", loaded, &[ErrorKind::Transient]);
    let saved = within("C14", "save", LIMIT, store.save(&route, &at(2, 2))).await;
    refused("C14", "save to an unreachable store", saved, &[ErrorKind::Transient]);
    h.mend().await;
    must!("C14", load("C14", &*store, &route).await == Some(at(1, 1)), "the checkpoint is not there any more");
    stores("C14", &*store, &route, &at(2, 2)).await;
    Tested::Holds
}
