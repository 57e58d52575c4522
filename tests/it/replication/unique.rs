//! Unique values that both ends have given away, unseen by each other.

use std::time::Duration;

use mongodb::{
    Client, Collection,
    bson::{Bson, Document, doc},
    error::Result,
};
use oplogue_testkit::generate::Rng;

use super::mesh::{Mesh, ends, text};
use crate::support::Chance;

/// Unique: an ordinary index, a partial one of a path, one with a collation.
async fn indexes(client: &Client, db: &str) {
    let indexes = [
        doc! {"key": {"u": 1}, "name": "u", "unique": true, "sparse": true},
        doc! {"key": {"s.w": 1}, "name": "sw", "unique": true, "partialFilterExpression": {"s.w": {"$exists": true}}},
        doc! {"key": {"c": 1}, "name": "c", "unique": true, "sparse": true, "collation": {"locale": "de", "strength": 2}},
    ];
    client.database(db).run_command(doc! {"createIndexes": "x", "indexes": indexes.to_vec()}).await.unwrap();
}

/// A pair whose ends do not hear of each other while `work` is done.
async fn apart(sink: &str, work: impl AsyncFn(&Mesh)) -> Mesh {
    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], sink);
    for end in &mesh.ends {
        indexes(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    for n in 0..2 {
        mesh.coll(0, "x").insert_one(doc! {"_id": format!("old {n}"), "u": format!("old {n}")}).await.unwrap();
    }
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    work(&mesh).await;
    mesh.router.start();
    mesh.settle_until_equal("after the conflicts").await;
    mesh
}

async fn ids(mesh: &Mesh) -> Vec<String> {
    let all = mesh.coll(0, "x").distinct("_id", doc! {}).await.unwrap();
    all.iter().filter_map(Bson::as_str).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_later_write_keeps_the_value() {
    let mut mesh = apart("", async |mesh| {
        let insert = async |end: usize, document: Document| {
            mesh.coll(end, "x").insert_one(document).await.unwrap();
            // Not within one millisecond: then the names would decide.
            tokio::time::sleep(Duration::from_millis(3)).await;
        };
        insert(0, doc! {"_id": "a1", "u": 1}).await;
        insert(1, doc! {"_id": "b1", "u": 1}).await;
        insert(1, doc! {"_id": "b2", "c": "wert"}).await;
        insert(0, doc! {"_id": "a2", "c": "WERT"}).await;
        insert(0, doc! {"_id": "a3", "s": {"w": 5}}).await;
        insert(1, doc! {"_id": "b3", "s": {"w": 5}}).await;
        // It meets two, of which one is later.
        insert(1, doc! {"_id": "b4", "u": 40}).await;
        insert(0, doc! {"_id": "a4", "u": 40, "s": {"w": 50}}).await;
        insert(1, doc! {"_id": "b5", "s": {"w": 50}}).await;
        // By updates of what both have. The loser is no more.
        mesh.coll(1, "x").update_one(doc! {"_id": "old 0"}, doc! {"$set": {"u": "new"}}).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        mesh.coll(0, "x").update_one(doc! {"_id": "old 1"}, doc! {"$set": {"u": "new"}}).await.unwrap();
    })
    .await;
    let mut left = ids(&mesh).await;
    left.retain(|id| id != "b4");
    assert_eq!(left, ["a2", "b1", "b3", "b5", "old 1"]);
    for end in 0..2 {
        let records = mesh.conflicts(end).await;
        assert!(records.iter().all(|r| text(r, "kind") == "unique" && text(r, "status") == "resolved"), "{records:?}");
        let first = records.iter().find(|r| ["a1", "b1"].contains(&text(r, "key"))).expect("a record");
        assert_eq!(text(first, "winner"), mesh.ends[1].name);
        let (local, remote) = (first.get_document("local").unwrap(), first.get_document("remote").unwrap());
        assert_eq!(text(local, "key"), ["a1", "b1"][end]);
        let doc = |side: &Document| text(side.get_document("doc").unwrap(), "_id").to_owned();
        assert_eq!((doc(local), doc(remote)), (["a1", "b1"][end].to_owned(), ["b1", "a1"][end].to_owned()));
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_with_priority_keeps_the_value() {
    let both = ends(2, "mongo-oplog").await;
    let sink = format!("conflicts = \"priority\"\npriority = [\"{}\", \"{}\"]", both[0].name, both[1].name);
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], &sink);
    for end in &mesh.ends {
        indexes(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    mesh.coll(0, "x").insert_one(doc! {"_id": "a", "u": 1}).await.unwrap();
    mesh.coll(1, "x").insert_one(doc! {"_id": "b", "u": 1}).await.unwrap();
    // Later, and without the value: it follows from a document that is no more.
    mesh.coll(1, "x").update_one(doc! {"_id": "b"}, doc! {"$set": {"more": 1}}).await.unwrap();
    mesh.router.start();
    mesh.settle().await;
    mesh.settle_equal("priority").await;
    assert_eq!(ids(&mesh).await, ["a"]);
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_stops() {
    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], "conflicts = \"stop\"");
    for end in &mesh.ends {
        indexes(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    mesh.coll(0, "x").insert_one(doc! {"_id": "a", "u": 1}).await.unwrap();
    mesh.coll(1, "x").insert_one(doc! {"_id": "b", "u": 1}).await.unwrap();
    mesh.router.spawn();
    assert_eq!(mesh.router.wait_exit().code(), Some(1));
    assert!(mesh.router.log().contains("a unique value was given away at both sides"));
    assert_eq!(mesh.conflicts(0).await.len() + mesh.conflicts(1).await.len(), 0);
}

/// Two documents exchange their values in a transaction: in no order of its writes does each find its value free.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_exchanged_in_a_transaction() {
    let mut mesh = apart("", async |mesh| {
        for end in 0..2 {
            let x = mesh.coll(end, "x");
            let mut session = mesh.ends[end].client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            for (id, u) in [(0, "between"), (1, "old 0"), (0, "old 1")] {
                let set = doc! {"$set": {"u": u, "by": end as i32}};
                x.update_one(doc! {"_id": format!("old {id}")}, set).session(&mut session).await.unwrap();
            }
            session.commit_transaction().await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await;
    let found = mesh.coll(0, "x").find_one(doc! {"_id": "old 0"}).await.unwrap().expect("it is there");
    assert_eq!((text(&found, "u"), found.get_i32("by").unwrap()), ("old 1", 1));
    for end in 0..2 {
        assert!(mesh.conflicts(end).await.iter().all(|r| text(r, "status") == "resolved"));
    }
    assert!(mesh.router.terminate().success());
}

/// An index that only the peer has: what it refuses is for a person, who may not want any of the two to go.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_only_one_end_has() {
    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], "ddl = \"ignore\"");
    indexes(&mesh.ends[1].client, &mesh.db).await;
    mesh.router.start();
    for n in 0..2 {
        mesh.coll(0, "x").insert_one(doc! {"_id": n, "u": 1}).await.unwrap();
    }
    mesh.settle().await;
    mesh.settle().await;
    let records = mesh.conflicts(1).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((text(&records[0], "kind"), text(&records[0], "status")), ("unique", "parked"));
    assert_eq!(mesh.coll(0, "x").count_documents(doc! {}).await.unwrap(), 2);
    assert_eq!(mesh.coll(1, "x").count_documents(doc! {}).await.unwrap(), 1);
    assert!(mesh.router.terminate().success());
}

/// Random work on few documents with few values.
struct Giver {
    client: Client,
    x: Collection<Document>,
    rng: Rng,
    n: i32,
}

impl Giver {
    fn fields(&mut self) -> Document {
        self.n += 1;
        let mut fields = doc! {"n": self.n};
        if self.rng.below(5) > 0 {
            let u = self.rng.below(5) as i32;
            fields.insert("u", if self.rng.below(6) == 0 { Bson::from(vec![u, u + 1]) } else { u.into() });
        }
        if self.rng.below(3) == 0 {
            fields.insert("s", doc! {"w": self.rng.below(5) as i32});
        }
        if self.rng.below(3) == 0 {
            fields.insert("c", ["ab", "AB", "Ab", "cd", "CD", "e"][self.rng.below(6)]);
        }
        fields
    }

    async fn step(&mut self) -> Result<()> {
        let key = doc! {"_id": self.rng.below(16) as i32};
        let fields = self.fields();
        let x = self.x.clone();
        match self.rng.below(20) {
            0..=4 => {
                let mut document = key;
                document.extend(fields);
                x.insert_one(document).await?;
            }
            5 | 6 => {
                x.delete_one(key).await?;
            }
            7 | 8 => drop(x.replace_one(key, fields).upsert(true).await?),
            9..=13 => drop(x.update_one(key, doc! {"$set": fields}).await?),
            14 => drop(x.update_one(key, doc! {"$unset": {"u": "", "c": ""}}).await?),
            15..=17 => drop(x.update_one(key, doc! {"$inc": {"n": 1}}).await?),
            _ => {
                let mut session = self.client.start_session().await?;
                session.start_transaction().await?;
                let other = doc! {"_id": self.rng.below(16) as i32};
                let (a, b) = (
                    x.find_one(key.clone()).session(&mut session).await?,
                    x.find_one(other.clone()).session(&mut session).await?,
                );
                let of = |found: Option<Document>| found.and_then(|d| d.get_i32("u").ok());
                if let (Some(a), Some(b)) = (of(a), of(b)) {
                    for (id, u) in [(&key, -1), (&other, a), (&key, b)] {
                        x.update_one(id.clone(), doc! {"$set": {"u": u}}).session(&mut session).await?;
                    }
                }
                session.commit_transaction().await?;
            }
        }
        Ok(())
    }
}

pub(super) async fn at_random(mut mesh: Mesh, why: &str) {
    let mut chance = Chance::new();
    for end in &mesh.ends {
        indexes(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    for round in 0..4 {
        let works = mesh.ends.iter().enumerate().map(|(n, end)| {
            let seed = chance.seed() ^ (n as u64) << 7 ^ round << 20;
            let (client, x) = (end.client.clone(), mesh.coll(n, "x"));
            let mut giver = Giver { client, x, rng: Rng::new(seed), n: 0 };
            async move {
                for _ in 0..100 {
                    // Some are refused where they are made.
                    giver.step().await.ok();
                }
            }
        });
        let works = futures_util::future::join_all(works);
        if round % 2 == 0 {
            // Unseen by each other; or killed amid it.
            tokio::time::sleep(Duration::from_millis(chance.below(200))).await;
            mesh.router.kill();
            works.await;
            mesh.router.spawn();
        } else {
            works.await;
        }
    }
    mesh.settle_until_equal(&format!("{why}, seed {}", chance.seed())).await;
    let mut met = 0;
    for end in 0..mesh.ends.len() {
        let records = mesh.conflicts(end).await;
        assert!(records.iter().all(|r| text(r, "status") == "resolved"), "{why}, seed {}", chance.seed());
        met += records.iter().filter(|r| text(r, "kind") == "unique").count();
    }
    assert!(met > 0, "they met, {why}, seed {}", chance.seed());
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn few_values_given_away_at_random() {
    at_random(Mesh::pair().await, "last write").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_values_given_away_at_random_by_change_streams() {
    at_random(Mesh::new(ends(2, "mongo-change-stream").await, &[(0, 1), (1, 0)], ""), "change streams").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_values_given_away_at_random_with_priority() {
    let both = ends(2, "mongo-oplog").await;
    let sink = format!("conflicts = \"priority\"\npriority = [\"{}\", \"{}\"]", both[0].name, both[1].name);
    at_random(Mesh::new(both, &[(0, 1), (1, 0)], &sink), "priority").await;
}
