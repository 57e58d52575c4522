//! `initial = "merge"`.

use oplogue_api::ErrorKind;

use super::*;

/// The other direction of the pair.
fn back(pair: &Pair) -> Pair {
    let link = Link { node: pair.link.peer.clone(), peer: pair.link.node.clone() };
    Pair { from: pair.to.clone(), to: pair.from.clone(), db: pair.db.clone(), link }
}

#[tokio::test]
async fn both_directions_at_once_agree() {
    let pair = Pair::new().await;
    let back = back(&pair);
    // Disjoint, identical, differing; and ids that are equal for the server alone.
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for (n, doc) in mixed(150).into_iter().enumerate() {
        match n % 4 {
            0 => one.push(doc),
            1 => two.push(doc),
            2 => (one.push(doc.clone()), two.push(doc)).1,
            _ => {
                let mut other = doc.clone();
                other.append(bson::raw::cstr!("differs"), true);
                one.push(doc);
                two.push(other);
            }
        }
    }
    // And the one that follows.
    let differing = mixed(150).len() / 4 + 1;
    one.push(rawdoc! {"_id": 1_000_001, "a": 1});
    two.push(rawdoc! {"_id": 1_000_001.0, "a": 1});
    pair.insert(&pair.from, "c", one).await;
    pair.insert(&pair.to, "c", two).await;
    let (there, again) = (pair.copy(Initial::Merge).await, back.copy(Initial::Merge).await);
    let (a, b) = tokio::join!(there.run(), again.run());
    a.unwrap();
    b.unwrap();
    assert_eq!(pair.assert_equal("c").await, mixed(150).len() + 1);
    // What the greater name has is there on both sides.
    let winner = pair.all(&pair.to, "c").await;
    assert!(winner.iter().all(|doc| doc.get("differs").unwrap().is_none()), "the loser is there");
    let records = pair.conflicts().await;
    // One that the other direction has settled before this one came to it is no conflict any more.
    assert!(!records.is_empty() && records.len() <= differing, "{} of {differing}", records.len());
    for record in &records {
        assert_eq!(record.get_str("kind").unwrap(), "copy");
        assert_eq!(record.get_str("winner").unwrap(), pair.link.node);
        assert_eq!(record.get_str("status").unwrap(), "resolved");
        assert!(record.get_document("local").unwrap().contains_key("doc"));
        assert!(record.get_document("remote").unwrap().contains_key("doc"));
    }
    let text = pair
        .all(&pair.from, "c")
        .await
        .iter()
        .filter(|d| matches!(d.get("_id"), Ok(Some(bson::RawBsonRef::Int32(1_000_001)))))
        .count();
    assert_eq!(text, 1, "of 1000001 and 1000001.0 that of the winner");
}

#[tokio::test]
async fn what_is_equal_is_not_written() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", mixed(50)).await;
    pair.insert(
        &pair.to,
        "c",
        mixed(50).into_iter().filter(|d| !matches!(d.get("_id"), Ok(Some(bson::RawBsonRef::ObjectId(_))))).collect(),
    )
    .await;
    // The same documents here, so that only the order of creation differs.
    let copied = pair.copy(Initial::Merge).await.run().await.unwrap();
    assert_eq!(copied.conflicts, 0);
    let same = Pair::new().await;
    let docs = || (0..500).map(numbered).collect();
    same.insert(&same.from, "c", docs()).await;
    same.insert(&same.to, "c", docs()).await;
    let markers = metadata(&same.to, names::MARKERS);
    same.copy(Initial::Merge).await.run().await.unwrap();
    let seqs: Vec<Document> = markers.find(doc! {"node": &same.link.node}).await.unwrap().try_collect().await.unwrap();
    assert_eq!(seqs.len(), 3);
    // Transactions that would have written nothing but their marker were not committed.
    assert!(seqs.iter().all(|marker| marker.get_i64("seq").unwrap() == 1), "{seqs:?}");
}

#[tokio::test]
async fn what_was_deleted_at_the_target_stays_deleted() {
    let pair = Pair::new().await;
    pair.insert(&pair.from, "c", (0..4).map(numbered).collect()).await;
    let ns = format!("{}.c", pair.db);
    let stones = metadata(&pair.to, names::TOMBSTONES);
    for (id, node) in [(1, &pair.link.peer), (2, &pair.link.node)] {
        let stone = doc! {"_id": {"ns": &ns, "id": id}, "node": node, "clock": 1i64, "at": bson::DateTime::now()};
        stones.insert_one(stone).await.unwrap();
    }
    pair.copy(Initial::Merge).await.run().await.unwrap();
    let there = pair.all(&pair.to, "c").await;
    let ids: Vec<i32> = there.iter().map(|doc| doc.get_i32("_id").unwrap()).collect();
    // 2 was deleted by the source itself, which has it again.
    assert_eq!(ids, [0, 2, 3]);
    let records = pair.conflicts().await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].get_i32("key").unwrap(), 1);
    assert_eq!(records[0].get_document("local").unwrap().get_str("op").unwrap(), "delete");
}

#[tokio::test]
async fn what_the_target_refuses_is_parked() {
    for version in ["4.4.2", "5.0.4", "6.0.5"] {
        refused(&Pair::of(other().await, servers::mongo_version(version).await).await).await;
    }
}

async fn refused(pair: &Pair) {
    let to = pair.to.database(&pair.db);
    to.run_command(doc! {"create": "c", "validator": {"n": {"$type": "int"}}}).await.unwrap();
    to.run_command(
        doc! {"createIndexes": "c", "indexes": [{"key": {"u": 1}, "name": "u", "unique": true, "sparse": true}]},
    )
    .await
    .unwrap();
    pair.insert(&pair.to, "c", vec![rawdoc! {"_id": "here", "n": 1, "u": 7}]).await;
    let mut docs: Vec<_> = (0..250).map(|n| rawdoc! {"_id": n, "n": n}).collect();
    docs[17] = rawdoc! {"_id": 17, "n": "text"};
    docs[99] = rawdoc! {"_id": 99, "n": 5, "u": 7};
    docs[100] = rawdoc! {"_id": 100, "n": "text"};
    pair.insert(&pair.from, "c", docs).await;
    let copied = pair.copy(Initial::Merge).await.run().await.unwrap();
    assert_eq!((copied.documents, copied.conflicts), (250, 3));
    assert_eq!(pair.all(&pair.to, "c").await.len(), 250 - 3 + 1);
    let mut records = pair.conflicts().await;
    records.sort_by_key(|record| record.get_i32("key").unwrap());
    let seen: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r.get_i32("key").unwrap(),
                r.get_str("kind").unwrap(),
                r.get_document("error").unwrap().get_i32("code").unwrap(),
                r.get_str("status").unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(17, "refused", 121, "parked"), (99, "unique", 11000, "parked"), (100, "refused", 121, "parked")]
    );
}

#[tokio::test]
async fn a_local_writer_meanwhile_loses_nothing() {
    let pair = Pair::new().await;
    let docs = || -> Vec<_> { (0..2000).map(numbered).collect() };
    pair.insert(&pair.from, "c", docs()).await;
    pair.insert(&pair.to, "c", docs().into_iter().step_by(2).collect()).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let coll = pair.to.database(&pair.db).collection::<Document>("c");
    let writing = async move {
        let mut acknowledged = 0;
        for n in (0..).map(|n| n * 7 % 2000) {
            if stopped.try_recv().is_ok() {
                break;
            }
            let id = n / 2 * 2;
            coll.update_one(doc! {"_id": id}, doc! {"$inc": {"local": 1}}).await.unwrap();
            acknowledged += 1;
        }
        acknowledged
    };
    let mut copy = pair.copy(Initial::Merge).await;
    // The target's own version wins, so that every local write has to be there.
    copy.remote_wins = Arc::new(|_| false);
    let copying = async {
        let copied = copy.run().await;
        stop.send(()).ok();
        copied.unwrap()
    };
    let (acknowledged, copied) = tokio::join!(writing, copying);
    assert_eq!(copied.documents, 2000);
    let there = pair.all(&pair.to, "c").await;
    assert_eq!(there.len(), 2000);
    let counted: i32 = there.iter().map(|doc| doc.get_i32("local").unwrap_or(0)).sum();
    assert_eq!(counted, acknowledged);
}

#[tokio::test]
async fn what_cannot_be_merged_is_refused() {
    for (there, here, words) in [
        (doc! {"create": "x", "capped": true, "size": 4096}, None, "capped"),
        (doc! {"create": "x", "timeseries": {"timeField": "t"}}, None, "time-series"),
        (doc! {"create": "x", "collation": {"locale": "fr"}}, Some(doc! {"create": "x"}), "collation"),
        (doc! {"create": "x"}, Some(doc! {"create": "x", "capped": true, "size": 4096}), "capped"),
    ] {
        let pair = Pair::new().await;
        pair.from.database(&pair.db).run_command(there).await.unwrap();
        if let Some(here) = here {
            pair.to.database(&pair.db).run_command(here).await.unwrap();
        }
        let e = pair.copy(Initial::Merge).await.run().await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
        assert!(e.to_string().contains(words) && e.get_hint().is_some(), "{e}");
    }
}
