//! conflicts = "merge": what both ends have changed in different fields stays, and both are equal to the byte.

use std::collections::BTreeMap;

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use oplogue_testkit::{generate::Rng, wait_for};

use super::mesh::{Mesh, ends, newest, text};
use crate::support::Chance;

const MERGE: &str = "conflicts = \"merge\"";

async fn pair(kind: &'static str) -> Mesh {
    Mesh::new(ends(2, kind).await, &[(0, 1), (1, 0)], MERGE)
}

/// What was written last, by document and path; `None`: removed.
type Last = BTreeMap<(i32, String), Option<Bson>>;

/// An application at one end, which writes only fields of its own: at the top, beside those of others in one document, and in
/// documents and arrays of its own.
struct Application {
    client: Client,
    db: String,
    name: &'static str,
    rng: Rng,
    n: i32,
    last: Last,
}

const KEYS: i32 = 10;

impl Application {
    fn new(mesh: &Mesh, end: usize, seed: u64) -> Application {
        let client = mesh.ends[end].client.clone();
        let rng = Rng::new(seed ^ (end as u64) << 7);
        Application { client, db: mesh.db.clone(), name: ["x", "y", "z"][end], rng, n: 0, last: Last::new() }
    }

    async fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        self.n += 1;
        let (n, name) = (self.n, self.name);
        let key = self.rng.below(KEYS as usize) as i32;
        let field = self.rng.below(2);
        let path = match self.rng.below(4) {
            0 => format!("{name}{field}"),
            1 => format!("shared.{name}{field}"),
            2 => format!("shared.deep.{name}.f{field}"),
            _ => format!("{name}own.f{field}"),
        };
        let (path, update, value) = match self.rng.below(6) {
            0 => {
                let unset = doc! {"$unset": {&path: 1}};
                (path, unset, None)
            }
            1 => {
                let path = format!("shared.{name}list");
                let known = self.last.get(&(key, path.clone())).cloned().flatten();
                let mut list = known.and_then(|list| list.as_array().cloned()).unwrap_or_default();
                list.push(n.into());
                let list = list.split_off(list.len().saturating_sub(4));
                (path.clone(), doc! {"$push": {path: {"$each": [n], "$slice": -4}}}, Some(Bson::Array(list)))
            }
            _ => {
                let set = doc! {"$set": {&path: n}};
                (path, set, Some(n.into()))
            }
        };
        let coll = self.client.database(&self.db).collection::<Document>("c");
        let done = coll.update_one(doc! {"_id": key}, update).await.expect("an update");
        assert_eq!(done.matched_count, 1);
        self.last.insert((key, path), value);
    }
}

fn at<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (document.get(first)?, rest) {
        (value, None) => Some(value),
        (Bson::Document(inner), Some(rest)) => at(inner, rest),
        _ => None,
    }
}

/// Waits until all words are heard: what comes leads to a word, and a word that cannot be taken yet to another question.
async fn settle(mesh: &mut Mesh, why: &str) {
    mesh.settle_until_equal(why).await;
}

async fn fields_apart(mut mesh: Mesh, mut chance: Chance) {
    let why = format!("seed {}", chance.seed());
    mesh.router.start();
    for key in 0..KEYS {
        mesh.coll(0, "c").insert_one(doc! {"_id": key, "shared": {"deep": {}}}).await.unwrap();
    }
    mesh.settle().await;
    let mut applications: Vec<_> =
        (0..mesh.ends.len()).map(|end| Application::new(&mesh, end, chance.seed())).collect();
    for round in 0..6 {
        let steps = 20 + chance.below(60) as usize;
        let work = applications.iter_mut().map(|application| application.work(steps));
        if round % 2 == 0 {
            futures_util::future::join_all(work).await;
            continue;
        }
        // Cut off from each other, and killed while it catches up.
        mesh.router.kill();
        futures_util::future::join_all(work).await;
        mesh.router.spawn();
    }
    mesh.router.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    settle(&mut mesh, &why).await;
    let mut records = 0;
    mesh.show_conflicts().await;
    for end in 0..mesh.ends.len() {
        for application in &applications {
            for ((key, path), value) in &application.last {
                let found = mesh.coll(end, "c").find_one(doc! {"_id": key}).await.unwrap().expect("a document");
                assert_eq!(at(&found, path), value.as_ref(), "{path} of {key} at {end}, {why}");
            }
        }
        records += mesh.conflicts(end).await.len();
    }
    assert!(records > 0, "they met, {why}");
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_end_writes_in_its_own_fields_stays() {
    fields_apart(pair("mongo-oplog").await, Chance::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_end_writes_in_its_own_fields_stays_by_change_streams() {
    fields_apart(pair("mongo-change-stream").await, Chance::new()).await;
}

/// Three ends, of which one merges, by chance.
pub async fn three(chance: &mut Chance) -> Mesh {
    let first = chance.below(3) as usize;
    let ends = ends(3, "mongo-oplog").await;
    let sink = format!("{MERGE}\npriority = [\"{}\"]", ends[first].name);
    Mesh::new(ends, &[(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)], &sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_of_three_writes_in_its_own_fields_stays() {
    let mut chance = Chance::new();
    fields_apart(three(&mut chance).await, chance).await;
}

/// Between two nodes of which neither merges nothing is carried; and that there is no other way is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_third_one_merges_waits_for_its_links() {
    let ends = ends(3, "mongo-oplog").await;
    let sink = format!("{MERGE}\npriority = [\"{}\"]", ends[0].name);
    let mut mesh = Mesh::new(ends, &[(1, 2), (2, 1)], &sink);
    mesh.router.start();
    mesh.coll(1, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    let said = format!("is merged by `{}`, the first of `priority`, and no link leads from there", mesh.ends[0].name);
    mesh.router.wait("told of the missing link", |o| o.log().contains(&said));
    assert_eq!(mesh.coll(2, "c").find_one(doc! {}).await.unwrap(), None);
    assert!(mesh.router.terminate().success());
}

/// Both ends change the same documents while the router is stopped. The second end writes later.
#[tokio::test(flavor = "multi_thread")]
async fn fields_that_both_have_changed_are_decided_by_rank() {
    let mut mesh = pair("mongo-oplog").await;
    mesh.router.start();
    let fresh = |id: i32| doc! {"_id": id, "a": 0, "n": {"p": 0, "q": 0}, "l": [1, 2, 3]};
    for id in 1..=8 {
        mesh.coll(0, "c").insert_one(fresh(id)).await.unwrap();
    }
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    let changes = [
        // Apart; the same field; a field and what it lies in, both ways round; two elements of an array.
        (1, doc! {"$set": {"n.p": 1, "x": 1}}, doc! {"$set": {"n.q": 2, "y": 2}, "$unset": {"a": 1}}),
        (2, doc! {"$set": {"a": 1, "n.p": 1}}, doc! {"$set": {"a": 2, "n.q": 2}}),
        (3, doc! {"$set": {"n": {"p": 1}}}, doc! {"$set": {"n.q": 2}}),
        (4, doc! {"$set": {"n.q": 1, "a": 1}}, doc! {"$set": {"n": {"z": 2}}}),
        (5, doc! {"$set": {"l.0": 10, "a": 1}}, doc! {"$set": {"l.2": 30}}),
    ];
    for (end, pick) in [(0, 0), (1, 1)] {
        let c = mesh.coll(end, "c");
        for (id, first, second) in &changes {
            let change = [first, second][pick].clone();
            c.update_one(doc! {"_id": id}, change).await.unwrap();
        }
        // Updates of both ends against a replacement, a delete and an insert: the later one stays whole.
        if end == 0 {
            c.update_one(doc! {"_id": 6}, doc! {"$set": {"a": 1}}).await.unwrap();
            c.delete_one(doc! {"_id": 7}).await.unwrap();
            c.update_one(doc! {"_id": 8}, doc! {"$set": {"a": 1}}).await.unwrap();
        } else {
            c.replace_one(doc! {"_id": 6}, doc! {"r": 2}).await.unwrap();
            c.update_one(doc! {"_id": 7}, doc! {"$set": {"a": 2}}).await.unwrap();
            c.delete_one(doc! {"_id": 8}).await.unwrap();
        }
        c.insert_one(doc! {"_id": 9, "from": end as i32}).await.unwrap();
    }
    mesh.router.start();
    settle(&mut mesh, "after the conflicts").await;
    let mut merged = BTreeMap::new();
    for end in 0..2 {
        for record in mesh.conflicts(end).await {
            assert_eq!(text(&record, "status"), "resolved");
            if text(&record, "winner") == "merged" {
                merged.insert(record.get_i32("key").unwrap(), record.get_document("fields").unwrap().clone());
            }
        }
    }
    mesh.show_conflicts().await;
    assert_eq!(merged.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5], "one end records it");
    let mut found = Vec::new();
    for id in 1..=9 {
        found.push(mesh.coll(0, "c").find_one(doc! {"_id": id}).await.unwrap());
    }
    // Equal are both; which of the two has merged depends on the names. The values are the same whoever does.
    let of = |id: usize, path: &str| at(found[id - 1].as_ref().expect("a document"), path).cloned();
    assert_eq!([of(1, "n.p"), of(1, "n.q"), of(1, "x"), of(1, "y")], [1, 2, 1, 2].map(|n: i32| Some(n.into())));
    assert_eq!(of(1, "a"), None);
    assert_eq!([of(2, "a"), of(2, "n.p"), of(2, "n.q")], [2, 1, 2].map(|n: i32| Some(n.into())));
    assert_eq!(of(3, "n.q"), Some(2.into()));
    assert_eq!([of(4, "n"), of(4, "a")], [Some(doc! {"z": 2}.into()), Some(1.into())]);
    assert_eq!([of(5, "l"), of(5, "a")], [Some(Bson::Array(vec![1.into(), 2.into(), 30.into()])), Some(1.into())]);
    assert_eq!(found[5], Some(doc! {"_id": 6, "r": 2}));
    assert_eq!(of(7, "a"), Some(2.into()));
    assert_eq!(found[7], None);
    assert_eq!(found[8], Some(doc! {"_id": 9, "from": 1}));
    // All words are heard, and nobody has anything to say any more.
    for _ in 0..3 {
        mesh.settle().await;
    }
    let starts = [newest(&mesh.ends[0].client).await, newest(&mesh.ends[1].client).await];
    let names: Vec<&str> = mesh.ends.iter().map(|end| end.name.as_str()).collect();
    for (end, start) in mesh.ends.iter().zip(starts) {
        let log = end.client.database("local").collection::<Document>("oplog.rs");
        wait_for("three no-ops", || async {
            log.count_documents(doc! {"ts": {"$gt": start}, "op": "n"}).await.expect("the oplog") >= 3
        })
        .await;
        let ours = doc! {"ts": {"$gt": start}, "o.applyOps.0.o.node": {"$in": &names}};
        assert_eq!(log.count_documents(ours).await.unwrap(), 0, "transactions of an idle pair");
    }
    assert!(mesh.router.terminate().success());
}

/// The other end is the one that merges: the same comes out.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_priority_merges() {
    for first in 0..2 {
        let both = ends(2, "mongo-oplog").await;
        let sink = format!("{MERGE}\npriority = [\"{}\"]", both[first].name);
        let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], &sink);
        mesh.router.start();
        mesh.coll(0, "c").insert_one(doc! {"_id": 1, "x": 0}).await.unwrap();
        mesh.settle().await;
        assert!(mesh.router.terminate().success());
        for end in 0..2 {
            let set = doc! {"$set": {["x", "y"][end]: 1}};
            mesh.coll(end, "c").update_one(doc! {"_id": 1}, set).await.unwrap();
        }
        mesh.router.start();
        settle(&mut mesh, "merged").await;
        let found = mesh.coll(1, "c").find_one(doc! {"_id": 1}).await.unwrap();
        assert_eq!(found, Some(doc! {"_id": 1, "x": 1, "y": 1}));
        assert_eq!(mesh.conflicts(first).await.len(), 1);
        assert_eq!(mesh.conflicts(1 - first).await, Vec::<Document>::new());
        assert!(mesh.router.terminate().success());
    }
}

/// A pair of which the first end merges, with a document at both.
async fn of_one_document() -> Mesh {
    let both = ends(2, "mongo-oplog").await;
    let sink = format!("{MERGE}\npriority = [\"{}\"]", both[0].name);
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], &sink);
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1, "x": 0}).await.unwrap();
    settle(&mut mesh, "at first").await;
    mesh
}

/// The second end has another document, and asks for a word on it; its router does not run.
async fn ask(mesh: &Mesh) {
    // As the link towards the second end does it: a transaction with the marker in front is no write of an application.
    let (markers, id) = mesh.marker(0, 1);
    let mut marker = markers.find_one(doc! {"_id": &id}).await.unwrap().expect("a marker");
    let asked = doc! {"ns": format!("{}.c", mesh.db), "id": 1, "base": newest(&mesh.ends[0].client).await};
    marker.insert("waits", vec![asked]);
    marker.insert("seq", marker.get_i64("seq").unwrap() + 1);
    let mut session = mesh.ends[1].client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    markers.replace_one(doc! {"_id": &id}, marker).session(&mut session).await.unwrap();
    let other = doc! {"_id": 1, "x": 5};
    mesh.coll(1, "c").replace_one(doc! {"_id": 1}, other).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
}

/// Who waits for a word gets one even if the arbiter has not noticed that there is something to say: here nobody could, since what
/// the second end has stands in no log.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered() {
    let mut mesh = of_one_document().await;
    assert!(mesh.router.terminate().success());
    ask(&mesh).await;
    mesh.router.start();
    settle(&mut mesh, "answered").await;
    assert_eq!(mesh.coll(1, "c").find_one(doc! {"_id": 1}).await.unwrap(), Some(doc! {"_id": 1, "x": 0}));
    assert!(mesh.router.terminate().success());
}

/// A position that is saved by itself, behind markers of the other direction: what they have told is saved with it. Otherwise the next process
/// takes the writes of the node for such that did not know of what was replicated to it long ago.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_is_saved_with_a_position_alone() {
    let mut mesh = of_one_document().await;
    // Now there is nothing but markers behind what the link back has applied.
    let last = newest(&mesh.ends[1].client).await;
    let of = |document: &Document, path: &str| at(document, path).and_then(Bson::as_timestamp);
    let (markers, id) = mesh.marker(0, 1);
    let written = markers.find_one(doc! {"_id": id}).await.unwrap().expect("a marker");
    let written = of(&written, "done.time").expect("a time");
    let (markers, id) = mesh.marker(1, 0);
    wait_for("a position alone", || async {
        // An application writes at the node, outside of what is replicated: the position moves.
        let other = mesh.ends[1].client.database(&format!("{}_beside", mesh.db)).collection::<Document>("c");
        other.insert_one(doc! {}).await.unwrap();
        let marker = markers.find_one(doc! {"_id": &id}).await.unwrap().expect("a marker");
        of(&marker, "position.time").is_some_and(|position| position > last)
    })
    .await;
    let marker = markers.find_one(doc! {"_id": &id}).await.unwrap().expect("a marker");
    let heard = of(&marker, &format!("seen.{}", mesh.ends[0].name));
    assert!(heard.is_some_and(|heard| heard >= written), "{heard:?} of {written:?}");
    assert!(mesh.router.terminate().success());
}

/// Two replications share both deployments. What one asks, the other does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_another_replication_is_not_answered() {
    let mut other = of_one_document().await;
    assert!(other.router.terminate().success());
    let mut mesh = of_one_document().await;
    let start = newest(&mesh.ends[0].client).await;
    ask(&other).await;
    settle(&mut mesh, "behind the question").await;
    let log = mesh.ends[0].client.database("local").collection::<Document>("oplog.rs");
    let said = doc! {
        "ts": {"$gt": start},
        "o.applyOps.0.o.node": &mesh.ends[1].name,
        "o.applyOps.0.o.again": {"$exists": true},
    };
    assert_eq!(log.count_documents(said).await.unwrap(), 0, "words");
    assert!(mesh.router.terminate().success());
}
