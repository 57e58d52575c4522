//! The router ends between a command and what it writes about it.

use std::task::Poll;

use bson::doc;

use super::support::{Pair, apply, names};
use crate::mmm::ddl::{
    Applier, DdlPolicy, Outcome,
    described::Read,
    ledger::{Id, Ledger},
};

async fn pair() -> Pair {
    Pair::new("6.0.5", "5.0.4", "mongo-oplog").await
}

/// As if the router had ended before the ledger was completed.
async fn forget_the_end(p: &Pair, mark: &str) {
    let mark = format!("{mark} {}", p.ns("x"));
    let unset = doc! {"$set": {"state": "running"}, "$unset": {"end": 1, "peer_uuid": 1}};
    let updated = p.ledger_b().update_one(doc! {"marks": mark}, unset).await.unwrap();
    assert_eq!(updated.modified_count, 1);
}

#[tokio::test]
async fn what_was_carried_out_is_not_repeated() {
    let mut p = pair().await;
    p.run_a(doc! {"create": "x"}).await;
    p.forth().await;
    p.run_a(doc! {"drop": "x"}).await;
    let events = p.events_a().await;
    assert_eq!(names(&apply(&p.ab, &events).await), ["drop x: Applied"]);
    forget_the_end(&p, "drop").await;
    // Meanwhile an application makes a new one.
    p.at_b("x").insert_one(doc! {"_id": 1}).await.unwrap();
    assert_eq!(names(&apply(&p.ab, &events).await), ["drop x: AlreadySo"]);
    assert_eq!(p.at_b("x").count_documents(doc! {}).await.unwrap(), 1);
    // What came of the first is an echo, and the new one is news.
    assert_eq!(names(&p.back().await), ["create x: Echo", "drop x: Echo", "create x: Applied"]);
}

#[tokio::test]
async fn what_was_not_carried_out_is_done() {
    let mut p = pair().await;
    p.run_a(doc! {"create": "x"}).await;
    let events = p.events_a().await;
    let read = Read::new(&events[0]).unwrap();
    let id = Id { origin: format!("a{}", p.db), time: events[0].time, index: events[0].index };
    let ledger = Ledger::new(&p.b.client);
    ledger.begin(&id, "link", (&read, read.uuid.as_ref()), &read.marks(), ledger.now().await.unwrap()).await.unwrap();
    assert_eq!(names(&apply(&p.ab, &events).await), ["create x: Applied"]);
    assert_eq!(names(&p.back().await), ["create x: Echo"]);
    p.assert_equal("create").await;
}

#[tokio::test]
async fn while_the_end_is_not_known_the_first_is_the_echo() {
    let mut p = pair().await;
    p.run_a(doc! {"create": "x"}).await;
    p.forth().await;
    p.run_a(doc! {"drop": "x"}).await;
    p.forth().await;
    forget_the_end(&p, "drop").await;
    p.run_b(doc! {"create": "x"}).await;
    p.run_b(doc! {"drop": "x"}).await;
    let events = p.events_b().await;
    let expected = ["create x: Echo", "drop x: Echo", "create x: Applied", "drop x: Applied"];
    assert_eq!(names(&apply(&p.ba, &events).await), expected);
    // Asked again, the answers are the same.
    let again = ["create x: Echo", "drop x: Echo", "create x: AlreadySo", "drop x: AlreadySo"];
    assert_eq!(names(&apply(&p.ba, &events).await), again);
}

#[tokio::test]
async fn a_third_node_gets_it_once() {
    let mut p = pair().await;
    p.run_a(doc! {"create": "x"}).await;
    p.forth().await;
    // To C, which is A's own server under another name: only what the link says counts here.
    let mut link = p.ba.link.clone();
    link.peer = "c".into();
    let forwarding = Applier::new(link.clone(), DdlPolicy::default(), true, &p.b.client, &p.a.client);
    let plain = Applier::new(link, DdlPolicy::default(), false, &p.b.client, &p.a.client);
    let home = Applier::new(p.ba.link.clone(), DdlPolicy::default(), true, &p.b.client, &p.a.client);
    p.run_a(doc! {"drop": "x"}).await;
    let events = p.events_b().await;
    assert!(matches!(plain.apply(&events[0]).await.unwrap(), Outcome::Echo));
    assert!(matches!(home.apply(&events[0]).await.unwrap(), Outcome::Echo));
    assert!(matches!(forwarding.apply(&events[0]).await.unwrap(), Outcome::Applied));
    assert!(matches!(forwarding.apply(&events[0]).await.unwrap(), Outcome::AlreadySo));
}

/// The value of a future, unless it has to be asked more than `polls` times: then it is dropped.
async fn within<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn given_up_anywhere_it_still_happens_once() {
    let mut p = pair().await;
    let (mut given_up, mut whole) = (0, 0);
    for polls in 0..30 {
        p.at_a("x").insert_one(doc! {"_id": 1}).await.unwrap();
        p.run_a(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "a"}]}).await;
        p.run_a(doc! {"drop": "x"}).await;
        p.run_a(doc! {"create": "x"}).await;
        p.run_a(doc! {"drop": "x"}).await;
        for event in p.events_a().await {
            let outcome = within(polls, p.ab.apply(&event)).await;
            if outcome.is_some() {
                whole += 1
            } else {
                given_up += 1
            }
            let again = p.ab.apply(&event).await.unwrap();
            assert!(matches!(again, Outcome::Applied | Outcome::AlreadySo), "{again:?} after {polls} polls");
            assert!(outcome.is_none() || matches!(again, Outcome::AlreadySo), "{again:?} after {polls} polls");
        }
        p.assert_equal("after all").await;
        let back = names(&p.back().await);
        assert!(back.len() == 5 && back.iter().all(|o| o.ends_with("Echo")), "{back:?} after {polls} polls");
        assert!(p.events_a().await.is_empty());
    }
    assert!(given_up > 20 && whole > 0, "{given_up} given up, {whole} not");
}
