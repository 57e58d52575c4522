//! Random work at all ends, and both ends equal to the byte.

use mongodb::bson::{Document, doc};
use oplogue_testkit::generate::Rng;

use super::{
    merge::three,
    mesh::{End, Mesh, ends, set, shared},
    work::{Worker, unique_index},
};
use crate::support::Chance;

/// Works at the ends in `at`, with keys of their own or the same ones.
pub(super) async fn work(mesh: &Mesh, at: &[usize], steps: usize, is_apart: bool, chance: &Chance) {
    let workers = at.iter().map(|end| {
        let keys = if is_apart { *end as u64 + 1 } else { 0 };
        let mut worker = Worker::new(&mesh.ends[*end].client, &mesh.db, chance.seed() ^ (*end as u64) << 7, keys);
        worker.swaps = is_apart && mesh.is_of_today;
        worker.dollars = mesh.is_of_today;
        async move {
            worker.work(steps).await;
            worker.finish();
        }
    });
    futures_util::future::join_all(workers).await;
}

async fn one_way(mut mesh: Mesh) {
    let chance = Chance::new();
    for end in &mesh.ends {
        unique_index(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    work(&mesh, &[0], 300, true, &chance).await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    mesh.assert_once(&format!("seed {}", chance.seed())).await;
    assert_eq!(mesh.conflicts(1).await.len(), 0, "seed {}", chance.seed());
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_from_an_oplog() {
    one_way(Mesh::one_way().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_from_a_change_stream() {
    one_way(Mesh::new(ends(2, "mongo-change-stream").await, &[(0, 1)], "")).await;
}

pub(super) async fn apart(mut mesh: Mesh, at: &[usize]) {
    let chance = Chance::new();
    for end in &mesh.ends {
        unique_index(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    work(&mesh, at, 200, true, &chance).await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    mesh.assert_once(&format!("seed {}", chance.seed())).await;
    // From an old server's change stream some documents must be looked up, and are found as they are later.
    for end in at.iter().filter(|_| mesh.is_of_today) {
        assert_eq!(mesh.conflicts(*end).await.len(), 0, "seed {}", chance.seed());
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_with_keys_of_their_own() {
    apart(Mesh::pair().await, &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_by_change_streams_with_keys_of_their_own() {
    apart(Mesh::new(ends(2, "mongo-change-stream").await, &[(0, 1), (1, 0)], ""), &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn among_three_with_keys_of_their_own() {
    apart(Mesh::of_three().await, &[0, 1, 2]).await;
}

/// An older server with another that is newer, both ways. Change streams of versions before 6.0 do not tell of new
/// collections and indexes, which are made at both ends here; the older ones do not have all the operators.
async fn versions(version: &'static str, kind: &'static str) {
    let old = End::new("old", set(version, 1).await, kind).await;
    let new = End::new("new", shared(1).await, kind).await;
    let mut mesh = Mesh::new(vec![old, new], &[(0, 1), (1, 0)], "");
    mesh.is_of_today = version != "4.4.2";
    apart(mesh, &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_of_4_4_by_oplogs() {
    versions("4.4.2", "mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_of_4_4_by_change_streams() {
    versions("4.4.2", "mongo-change-stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_of_5_0_by_change_streams() {
    versions("5.0.4", "mongo-change-stream").await;
}

/// The same keys at both ends at the same time: the policy decides, and both ends are equal.
pub(super) async fn together(mut mesh: Mesh, at: &[usize], policy: &str) {
    let chance = Chance::new();
    for end in &mesh.ends {
        unique_index(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    work(&mesh, at, 150, false, &chance).await;
    // Under "merge" there are words to be heard after what was written.
    mesh.settle().await;
    mesh.settle().await;
    mesh.settle_equal(&format!("{policy}, seed {}", chance.seed())).await;
    let mut conflicts = 0;
    for end in at {
        conflicts += mesh.conflicts(*end).await.len();
    }
    assert!(conflicts > 0, "they met, seed {}", chance.seed());
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_on_the_same_keys() {
    together(Mesh::pair().await, &[0, 1], "last write").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_on_the_same_keys_by_change_streams() {
    let ends = ends(2, "mongo-change-stream").await;
    together(Mesh::new(ends, &[(0, 1), (1, 0)], ""), &[0, 1], "last write").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_win_on_the_same_keys() {
    let ends = ends(2, "mongo-oplog").await;
    together(Mesh::new(ends, &[(0, 1), (1, 0)], "deletes = \"win\""), &[0, 1], "deletes win").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_has_priority_on_the_same_keys() {
    let ends = ends(2, "mongo-oplog").await;
    let sink = format!("conflicts = \"priority\"\npriority = [\"{}\", \"{}\"]", ends[1].name, ends[0].name);
    together(Mesh::new(ends, &[(0, 1), (1, 0)], &sink), &[0, 1], "priority").await;
}

/// Few documents that are deleted and made again at all nodes all the time: what deletes nothing, since another was faster, counts too.
pub(super) async fn deleted_and_made_again(mut mesh: Mesh) {
    let chance = Chance::new();
    mesh.router.start();
    let work = mesh.ends.iter().enumerate().map(|(n, end)| {
        let coll = end.client.database(&mesh.db).collection::<Document>("few");
        let mut rng = Rng::new(chance.seed() ^ (n as u64) << 7);
        async move {
            for step in 0..400 {
                let key = doc! {"_id": rng.below(3) as i32};
                match rng.below(2) {
                    0 => drop(coll.delete_one(key).await.expect("a delete")),
                    _ => {
                        let document = doc! {"by": n as i32, "step": step};
                        drop(coll.replace_one(key, document).upsert(true).await.expect("an upsert"));
                    }
                }
            }
        }
    });
    futures_util::future::join_all(work).await;
    mesh.settle().await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    // Of each one tombstone, however often it was deleted.
    for end in &mesh.ends {
        let stones = end.client.database("__mmm").collection::<Document>("tombstones");
        let ours = doc! {"_id.ns": format!("{}.few", mesh.db)};
        assert_eq!(stones.count_documents(ours).await.expect("a count"), 3, "at {}", end.name);
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_delete_the_same_documents_and_make_them_again() {
    deleted_and_made_again(Mesh::of_three().await).await;
}

const MERGE: &str = "conflicts = \"merge\"";

#[tokio::test(flavor = "multi_thread")]
async fn one_node_merges_on_the_same_keys() {
    together(Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], MERGE), &[0, 1], "merge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_merges_on_the_same_keys_by_change_streams() {
    together(Mesh::new(ends(2, "mongo-change-stream").await, &[(0, 1), (1, 0)], MERGE), &[0, 1], "merge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_merges_among_three_on_the_same_keys() {
    together(three(&mut Chance::new()).await, &[0, 1, 2], "merge").await;
}

/// The router is killed every so often, with work at all ends that goes on.
async fn killed(mut mesh: Mesh, chance: &Chance) {
    let why = format!("merge and kills, seed {}", chance.seed());
    let at: Vec<usize> = (0..mesh.ends.len()).collect();
    for end in &mesh.ends {
        unique_index(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    let workers = at.iter().map(|end| {
        let mut worker = Worker::new(&mesh.ends[*end].client, &mesh.db, chance.seed() ^ (*end as u64) << 7, 0);
        worker.swaps = false;
        worker
    });
    let mut workers: Vec<Worker> = workers.collect();
    for _ in 0..4 {
        let work = futures_util::future::join_all(workers.iter_mut().map(|worker| worker.work(40)));
        let router = &mut mesh.router;
        // In the middle of it, whenever that is: the ends take as long as they take.
        let kill = async {
            tokio::task::yield_now().await;
            tokio::task::block_in_place(|| {
                router.kill();
                router.spawn();
            });
        };
        futures_util::future::join(work, kill).await;
    }
    workers.into_iter().for_each(Worker::finish);
    mesh.settle_until_equal(&why).await;
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_merges_and_the_router_is_killed() {
    killed(Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], MERGE), &Chance::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_merges_and_the_router_is_killed() {
    let mut chance = Chance::new();
    killed(three(&mut chance).await, &chance).await;
}

/// An old server at the end that merges, and at the other: what an oplog of 4.4 says of fields, and documents that cannot be had as
/// they were.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_merges_with_a_server_of_4_4() {
    for first in ["old", "new"] {
        let old = End::new("old", set("4.4.2", 1).await, "mongo-oplog").await;
        let new = End::new("new", shared(1).await, "mongo-oplog").await;
        let sink = format!("{MERGE}\npriority = [\"{}\"]", if first == "old" { &old.name } else { &new.name });
        let mut mesh = Mesh::new(vec![old, new], &[(0, 1), (1, 0)], &sink);
        mesh.is_of_today = false;
        together(mesh, &[0, 1], &format!("merge at the {first} one")).await;
    }
}
