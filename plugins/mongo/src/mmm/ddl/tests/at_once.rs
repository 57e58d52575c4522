//! Both sides do something before they hear of each other.

use bson::doc;

use super::support::{Pair, apply, names};
use crate::mmm::ddl::{Removed, removed};

#[tokio::test]
async fn the_same_on_both_sides() {
    let mut p = Pair::new("5.0.4", "6.0.5", "mongo-oplog").await;
    let index = doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "a"}]};
    for command in [doc! {"create": "x"}, index, doc! {"dropIndexes": "x", "index": "a"}, doc! {"drop": "x"}] {
        p.run_a(command.clone()).await;
        p.run_b(command).await;
    }
    let (a, b) = (p.events_a().await, p.events_b().await);
    let (forth, back) = (names(&apply(&p.ab, &a).await), names(&apply(&p.ba, &b).await));
    assert!(
        forth.iter().chain(&back).all(|o| o.ends_with("Applied") || o.ends_with("AlreadySo")),
        "{forth:?} {back:?}"
    );
    for echoes in [names(&p.forth().await), names(&p.back().await)] {
        assert!(!echoes.is_empty() && echoes.iter().all(|o| o.ends_with("Echo")), "{echoes:?}");
    }
    p.assert_equal("at once").await;
}

#[tokio::test]
async fn late_echoes_hit_nothing() {
    for kind in ["mongo-oplog", "mongo-change-stream"] {
        let mut p = Pair::new("6.0.5", "6.0.27", kind).await;
        // Each round is applied at B before the next; nothing of it has come back yet.
        for n in 0..3 {
            p.at_a("x").insert_one(doc! {"_id": n}).await.unwrap();
            p.run_a(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "a"}]}).await;
            let from = p.ns("x");
            let to = p.ns("y");
            let rename = doc! {"renameCollection": from.as_str(), "to": to.as_str(), "dropTarget": true};
            p.a.client.database("admin").run_command(rename).await.unwrap();
            p.at_a("x").insert_one(doc! {"_id": n}).await.unwrap();
            p.run_a(doc! {"drop": "x"}).await;
            let forth = names(&p.forth().await);
            assert!(forth.iter().all(|o| o.ends_with("Applied")), "{forth:?}");
        }
        p.at_a("x").insert_one(doc! {"_id": 9}).await.unwrap();
        p.forth().await;
        let back = names(&p.back().await);
        assert!(back.len() == 16 && back.iter().all(|o| o.ends_with("Echo")), "{back:?}");
        assert!(p.events_a().await.is_empty());
        assert_eq!(p.at_a("x").count_documents(doc! {}).await.unwrap(), 1);
        assert_eq!(p.at_a("y").count_documents(doc! {}).await.unwrap(), 1);
        p.assert_equal("late echoes").await;
    }
}

#[tokio::test]
async fn what_is_taken_away() {
    let mut p = Pair::new("6.0.5", "4.4.2", "mongo-oplog").await;
    for coll in ["x", "y"] {
        p.run_a(doc! {"create": coll}).await;
    }
    let (x, y) = (p.ns("x"), p.ns("y"));
    let rename = doc! {"renameCollection": x.as_str(), "to": y.as_str(), "dropTarget": true};
    p.a.client.database("admin").run_command(rename).await.unwrap();
    p.run_a(doc! {"drop": "y"}).await;
    p.run_a(doc! {"dropDatabase": 1}).await;
    let events = p.events_a().await;
    let gone: Vec<_> = events.iter().flat_map(|e| removed(e).unwrap()).collect();
    let database = Removed::Database(p.db.clone());
    assert_eq!(gone, [Removed::Dropped(y.clone()), Removed::Moved(x, y.clone()), Removed::Dropped(y), database]);
}
