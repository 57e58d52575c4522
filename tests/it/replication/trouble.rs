//! Trouble under load: both ends are equal afterwards, and nothing was applied twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use mongodb::{
    Client,
    bson::{Document, doc},
    options::UpdateModifications,
};
use oplogue_testkit::{proxy::Proxy, servers::Mongo, wait_for};
use tokio::task::JoinHandle;

use super::{
    mesh::{End, Mesh, Ops, ends, set, shared},
    work::Worker,
};
use crate::support::Chance;

/// Writes at one end until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(client: &Client, db: &str, seed: u64, keys: u64) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&done));
        let mut worker = Worker::new(client, db, seed, keys);
        worker.swaps = false;
        let task = tokio::spawn(async move {
            while !stopping.load(Relaxed) {
                worker.work(1).await;
                counting.fetch_add(1, Relaxed);
            }
        });
        Load { stop, done, task }
    }

    /// At each end, with keys of its own or the same ones.
    fn at_all(mesh: &Mesh, chance: &Chance, is_apart: bool) -> Vec<Load> {
        let ends = mesh.ends.iter().enumerate();
        ends.map(|(n, end)| {
            let keys = if is_apart { n as u64 + 1 } else { 0 };
            Load::start(&end.client, &mesh.db, chance.seed() ^ (n as u64) << 7, keys)
        })
        .collect()
    }

    async fn more(&self, n: usize) {
        let until = self.done.load(Relaxed) + n;
        wait_for(format!("{n} more writes"), || async { self.done.load(Relaxed) >= until }).await;
    }

    async fn finish(self) {
        self.stop.store(true, Relaxed);
        self.task.await.expect("the load");
    }
}

async fn end_of(loads: Vec<Load>) {
    for load in loads {
        load.finish().await;
    }
}

pub(super) async fn killed(mut mesh: Mesh, is_apart: bool) {
    let mut chance = Chance::new();
    mesh.router.start();
    let loads = Load::at_all(&mesh, &chance, is_apart);
    for round in 0..6 {
        loads[0].more(5).await;
        tokio::time::sleep(Duration::from_millis(chance.below(if round % 3 == 2 { 150 } else { 1200 }))).await;
        mesh.router.kill();
        loads[0].more(5).await;
        mesh.router.spawn();
    }
    mesh.router.wait("ready", |o| o.get("/readyz").is_some_and(|(code, _)| code == 200));
    // By SIGTERM too.
    assert!(mesh.router.terminate().success());
    mesh.router.start();
    end_of(loads).await;
    mesh.settle().await;
    mesh.settle().await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    if is_apart {
        mesh.assert_once(&format!("seed {}", chance.seed())).await;
        assert_eq!(mesh.conflicts(0).await.len() + mesh.conflicts(1).await.len(), 0, "seed {}", chance.seed());
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_is_killed_over_and_over() {
    killed(Mesh::pair().await, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_is_killed_over_and_over_reading_change_streams() {
    killed(Mesh::new(ends(2, "mongo-change-stream").await, &[(0, 1), (1, 0)], ""), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_is_killed_over_and_over_amid_conflicts() {
    killed(Mesh::pair().await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_is_killed_over_and_over_amid_merges() {
    killed(Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], "conflicts = \"merge\""), false).await;
}

/// 20,000 inserts in bulk, killed meanwhile: each is there, none was made twice.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_twenty_thousand_inserts() {
    let mut chance = Chance::new();
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    let coll = mesh.coll(0, "bulk");
    let task = tokio::spawn(async move {
        for n in 0..40 {
            let documents: Vec<Document> = (0..500).map(|m| doc! {"_id": n * 500 + m, "n": m}).collect();
            coll.insert_many(documents).await.unwrap();
        }
    });
    let there = mesh.coll(1, "bulk");
    for round in 1..=3_u64 {
        wait_for("some of it", || async { there.estimated_document_count().await.unwrap() >= round * 3000 }).await;
        tokio::time::sleep(Duration::from_millis(chance.below(300))).await;
        mesh.router.kill();
        mesh.router.spawn();
    }
    task.await.unwrap();
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    let all = Ops { inserts: 20_000, ..Ops::default() };
    assert_eq!(mesh.ops(0).await, [all, Ops::default()], "seed {}", chance.seed());
    assert_eq!(mesh.ops(1).await, [Ops::default(), all], "seed {}", chance.seed());
    assert!(mesh.router.terminate().success());
}

/// Both ends are cut off from the router and from each other, write on, and come back.
async fn partition(is_apart: bool, sink: &str) {
    let mut chance = Chance::new();
    let proxies = [Proxy::start(shared(0).await.addr(0)).await, Proxy::start(shared(1).await.addr(0)).await];
    let near = End::behind("factory", shared(0).await, "mongo-oplog", &proxies[0]).await;
    let far = End::behind("cloud", shared(1).await, "mongo-oplog", &proxies[1]).await;
    let mut mesh = Mesh::new(vec![near, far], &[(0, 1), (1, 0)], sink);
    mesh.router.start();
    let loads = Load::at_all(&mesh, &chance, is_apart);
    for round in 0..4 {
        loads[0].more(10).await;
        let proxy = &proxies[round % 2];
        match round {
            // In the middle of a reply, more than once.
            0 | 1 => {
                for _ in 0..3 {
                    proxy.cut_after_bytes(1 + chance.below(5000));
                    loads[1].more(5).await;
                }
            }
            2 => {
                proxy.stall();
                loads[0].more(30).await;
                loads[1].more(30).await;
            }
            _ => {
                proxies.iter().for_each(Proxy::cut);
                loads[0].more(60).await;
                loads[1].more(60).await;
            }
        }
        proxies.iter().for_each(Proxy::heal);
    }
    end_of(loads).await;
    mesh.settle().await;
    mesh.settle().await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    if is_apart {
        mesh.assert_once(&format!("seed {}", chance.seed())).await;
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_are_cut_off_for_a_while() {
    partition(true, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_are_cut_off_for_a_while_amid_conflicts() {
    partition(false, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_are_cut_off_for_a_while_amid_merges() {
    partition(false, "conflicts = \"merge\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_step_down() {
    let many = set("6.0.5", 3).await;
    let (one, three) =
        (End::new("one", shared(0).await, "mongo-oplog").await, End::new("three", many, "mongo-oplog").await);
    elections(Mesh::new(vec![one, three], &[(0, 1), (1, 0)], ""), many).await;
}

/// The primary of an end that has several members steps down, and is killed once.
pub(super) async fn elections(mut mesh: Mesh, many: &Mongo) {
    let chance = Chance::new();
    mesh.router.start();
    let loads = Load::at_all(&mesh, &chance, true);
    for round in 0..3 {
        loads[0].more(20).await;
        loads[1].more(20).await;
        if round == 1 {
            let primary = many.wait_for_primary().await;
            many.kill(primary).await;
            many.start_member(primary).await;
        } else {
            many.step_down().await;
        }
    }
    loads[1].more(20).await;
    end_of(loads).await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    assert!(mesh.router.terminate().success());
}

/// Two processes on one link: one is fenced and says so, and nothing is applied twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_routers_on_one_link() {
    let chance = Chance::new();
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    let loads = vec![Load::start(&mesh.ends[0].client, &mesh.db, chance.seed(), 1)];
    loads[0].more(20).await;
    let mut other = mesh.another();
    other.spawn();
    loads[0].more(20).await;
    assert_eq!(mesh.router.wait_exit().code(), Some(1));
    assert!(mesh.router.log().contains("run one router per link"), "it says what to do");
    loads[0].more(20).await;
    end_of(loads).await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    mesh.assert_once(&format!("seed {}", chance.seed())).await;
    assert!(other.terminate().success());
}

/// A local writer on the same documents, as fast as it can: the router retries, and gets through; neither loses a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_local_writer() {
    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1)], "conflicts = \"origin\"");
    mesh.router.start();
    for n in 0..5 {
        mesh.coll(0, "hot").insert_one(doc! {"_id": n, "near": 0, "far": 0}).await.unwrap();
    }
    mesh.settle().await;
    let stop = Arc::new(AtomicBool::new(false));
    let local = {
        let (stop, coll) = (Arc::clone(&stop), mesh.coll(1, "hot"));
        tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Relaxed) {
                let update: UpdateModifications = doc! {"$inc": {"far": 1}}.into();
                coll.update_one(doc! {"_id": n % 5}, update).await.unwrap();
                n += 1;
            }
            n
        })
    };
    for n in 0..500 {
        mesh.coll(0, "hot").update_one(doc! {"_id": n % 5}, doc! {"$inc": {"near": 1}}).await.unwrap();
    }
    mesh.settle().await;
    stop.store(true, Relaxed);
    let written = local.await.unwrap();
    let (mut near, mut far) = (0, 0);
    for n in 0..5 {
        let document = mesh.coll(1, "hot").find_one(doc! {"_id": n}).await.unwrap().unwrap();
        near += document.get_i32("near").unwrap();
        far += document.get_i32("far").unwrap();
    }
    assert_eq!((near, far), (500, written));
    assert!(mesh.router.terminate().success());
}
