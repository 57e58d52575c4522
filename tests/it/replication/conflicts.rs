//! Concurrent writes, made so by stopping the router: the policy decides, and every conflict is recorded.

use mongodb::bson::{Document, doc};
use oplogue_testkit::wait_for;

use super::mesh::{Mesh, ends, text};

/// Both ends hold `_id: 1..=5`; then, unseen by each other, both change them; then the router goes on.
async fn collide(mesh: &mut Mesh) -> Vec<String> {
    mesh.router.start();
    for n in 1..=5 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n, "x": 0, "y": 0}).await.unwrap();
    }
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    for end in 0..2 {
        let c = mesh.coll(end, "c");
        let field = ["x", "y"][end];
        // Fields apart, the same field, an update and a delete, two inserts.
        c.update_one(doc! {"_id": 1}, doc! {"$set": {field: 1}}).await.unwrap();
        c.update_one(doc! {"_id": 2}, doc! {"$set": {"x": 10 + end as i32}}).await.unwrap();
        if end == 0 {
            c.delete_one(doc! {"_id": 3}).await.unwrap();
        } else {
            c.update_one(doc! {"_id": 3}, doc! {"$set": {"x": 30}}).await.unwrap();
        }
        c.insert_one(doc! {"_id": 6, "from": field}).await.unwrap();
        // Both delete it: no conflict.
        c.delete_one(doc! {"_id": 4}).await.unwrap();
    }
    mesh.router.start();
    mesh.settle_equal("after the conflicts").await;
    assert!(mesh.router.terminate().success());
    let mut kinds = Vec::new();
    for end in 0..2 {
        for record in mesh.conflicts(end).await {
            assert_eq!(text(&record, "status"), "resolved");
            assert!(record.get_document("local").is_ok() && record.get_document("remote").is_ok());
            kinds.push(format!("{} {}", record.get_i32("key").unwrap(), text(&record, "kind")));
        }
    }
    kinds.sort();
    kinds
}

async fn at(mesh: &Mesh, id: i32) -> Option<Document> {
    mesh.coll(0, "c").find_one(doc! {"_id": id}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_write_stays() {
    let mut mesh = Mesh::pair().await;
    let kinds = collide(&mut mesh).await;
    // The second end wrote later, or in the same millisecond under the greater name; each end has a record of its own.
    for id in [1, 2, 3, 6] {
        assert!(kinds.iter().any(|kind| kind.starts_with(&format!("{id} "))), "{id}: {kinds:?}");
    }
    assert!(!kinds.iter().any(|kind| kind.starts_with("5 ")), "{kinds:?}");
    assert_eq!(at(&mesh, 5).await, Some(doc! {"_id": 5, "x": 0, "y": 0}));
    assert_eq!(at(&mesh, 4).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_with_priority_wins_whenever_it_wrote() {
    let both = ends(2, "mongo-oplog").await;
    let sink = format!("conflicts = \"priority\"\npriority = [\"{}\", \"{}\"]", both[0].name, both[1].name);
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], &sink);
    collide(&mut mesh).await;
    assert_eq!(at(&mesh, 1).await, Some(doc! {"_id": 1, "x": 1, "y": 0}));
    assert_eq!(at(&mesh, 2).await, Some(doc! {"_id": 2, "x": 10, "y": 0}));
    assert_eq!(at(&mesh, 3).await, None);
    assert_eq!(at(&mesh, 6).await, Some(doc! {"_id": 6, "from": "x"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_lose_or_win_as_they_are_told() {
    for (deletes, expected) in [("win", None), ("lose", Some(doc! {"_id": 3, "x": 30, "y": 0}))] {
        let sink = format!("deletes = \"{deletes}\"");
        let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], &sink);
        collide(&mut mesh).await;
        assert_eq!(at(&mesh, 3).await, expected, "{deletes}");
    }
}

/// A document at the peer has another shape than the change was made for: it becomes as at the origin, never null.
#[tokio::test(flavor = "multi_thread")]
async fn another_shape_is_a_conflict_and_nothing_becomes_null() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1, "a": {"b": 1, "c": [1, 2]}}).await.unwrap();
    mesh.coll(0, "c").insert_one(doc! {"_id": 2, "n": 1}).await.unwrap();
    mesh.settle().await;
    mesh.coll(1, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"a": "text"}}).await.unwrap();
    mesh.coll(1, "c").delete_one(doc! {"_id": 2}).await.unwrap();
    mesh.coll(0, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"a.c.1": 3}}).await.unwrap();
    mesh.coll(0, "c").update_one(doc! {"_id": 2}, doc! {"$set": {"n": 2}}).await.unwrap();
    mesh.settle_equal("another shape").await;
    let mut kinds: Vec<String> = Vec::new();
    for record in mesh.conflicts(1).await {
        kinds.push(text(&record, "kind").to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["missing", "shape"]);
    assert!(mesh.router.terminate().success());
}

/// The same where many documents change in one transaction: those of another shape are found among them, the others are written.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_another_shape_are_found_among_many() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    let all = (1..=40).map(|id| doc! {"_id": id, "a": {"b": 0, "c": {"d": 0}}, "l": [1, 2]});
    mesh.coll(0, "c").insert_many(all).await.unwrap();
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    for (id, change) in [
        (1, doc! {"$set": {"a": "text"}}),
        (2, doc! {"$unset": {"a": 1}}),
        (3, doc! {"$set": {"a": [{"b": 0, "c": {"d": 0}}]}}),
        (4, doc! {"$set": {"l": {"2": 0}}}),
        (5, doc! {"$unset": {"a.c": 1}}),
    ] {
        mesh.coll(1, "c").update_one(doc! {"_id": id}, change).await.unwrap();
    }
    for n in 1..=2 {
        let change = doc! {"$set": {"a.b": n, "a.c.d": n}, "$push": {"l": n}};
        mesh.coll(0, "c").update_many(doc! {}, change).await.unwrap();
    }
    mesh.router.start();
    mesh.settle_equal("shapes among many").await;
    let mut found: Vec<_> = Vec::new();
    for record in mesh.conflicts(1).await {
        found.push((record.get_i32("key").unwrap(), text(&record, "kind").to_owned()));
    }
    found.sort();
    assert_eq!(found, (1..=5).map(|id| (id, "shape".to_owned())).collect::<Vec<_>>());
    assert!(mesh.router.terminate().success());
}

/// Who has heard of a drop may write again, though the other end has written nothing since.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_dropped_by_the_other_end_is_filled_again() {
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1, "old": true}).await.unwrap();
    mesh.settle().await;
    mesh.coll(1, "c").drop().await.unwrap();
    let (here, there) = (mesh.coll(0, "c"), mesh.coll(1, "c"));
    wait_for("the drop", || async { here.find_one(doc! {}).await.unwrap().is_none() }).await;
    // And that it was heard.
    let log = mesh.ends[1].client.database("local").collection::<Document>("oplog.rs");
    let drop = log.find_one(doc! {"ns": format!("{}.$cmd", mesh.db), "o.drop": "c"}).await.unwrap().expect("the drop");
    let (markers, id) = mesh.marker(1, 0);
    let heard = doc! {"_id": &id, "done.time": {"$gte": drop.get_timestamp("ts").unwrap()}};
    wait_for("the marker", || async { markers.find_one(heard.clone()).await.unwrap().is_some() }).await;
    // What is not replicated goes on at the other end, and tells nothing of it.
    let beside = mesh.ends[1].client.database(&format!("{}_beside", mesh.db)).collection::<Document>("c");
    for id in 2..5 {
        beside.insert_one(doc! {"_id": id}).await.unwrap();
        here.insert_one(doc! {"_id": id}).await.unwrap();
        wait_for("the new document", || async { there.find_one(doc! {"_id": id}).await.unwrap().is_some() }).await;
    }
    mesh.settle_equal("filled again").await;
    for end in 0..2 {
        assert_eq!(mesh.conflicts(end).await, []);
    }
    assert!(mesh.router.terminate().success());
}

/// Collections, indexes and options, from either side: the same at both ends, and no command comes back.
#[tokio::test(flavor = "multi_thread")]
async fn ddl_both_ways() {
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    for end in 0..2 {
        let db = mesh.ends[end].client.database(&mesh.db);
        let run = async |command: Document| db.run_command(command).await.map(|_| ()).expect("a command");
        let name = |what: &str| format!("{what}{end}");
        run(doc! {"create": name("plain"), "collation": {"locale": "de"}}).await;
        run(doc! {"createIndexes": name("plain"), "indexes": [{"key": {"a": 1}, "name": "a"}, {"key": {"b": 1}, "name": "b"}]}).await;
        run(doc! {"dropIndexes": name("plain"), "index": "b"}).await;
        run(doc! {"collMod": name("plain"), "validator": {"n": {"$lt": 5}}}).await;
        run(doc! {"create": name("moved")}).await;
        let (from, to) = (format!("{}.{}", mesh.db, name("moved")), format!("{}.{}", mesh.db, name("there")));
        mesh.ends[end].client.database("admin").run_command(doc! {"renameCollection": from, "to": to}).await.unwrap();
        run(doc! {"create": name("gone")}).await;
        mesh.coll(end, &name("gone")).insert_one(doc! {"_id": 1}).await.unwrap();
        run(doc! {"drop": name("gone")}).await;
        run(doc! {"create": name("gone")}).await;
        mesh.coll(end, &name("gone")).insert_one(doc! {"_id": 2}).await.unwrap();
    }
    mesh.settle().await;
    mesh.settle_equal("after the commands").await;
    for end in 0..2 {
        let commands = |log: Vec<super::mesh::Logged>| {
            let drops = log.iter().filter(|l| l.op.get_document("o").is_ok_and(|o| o.contains_key("drop")));
            drops.count()
        };
        assert_eq!(commands(mesh.log(end).await), 2, "each collection is dropped once");
        assert_eq!(mesh.conflicts(end).await, Vec::<Document>::new());
    }
    assert!(mesh.router.terminate().success());
}
