//! forward = "all": hubs, chains and rings, in which writes come to nodes that have no link with where they were made.

use std::collections::HashSet;

use mongodb::bson::{Document, Timestamp, doc};
use oplogue_testkit::{unique, wait_for};

use super::{
    mesh::{Mesh, ends, newest, shared, text},
    random::{apart, together},
    silence::{seconds, written},
};
use crate::{process::Oplogue, replication_docs::block};

pub(super) const FORWARD: &str = "forward = \"all\"";

pub(super) async fn mesh(n: usize, links: &[(usize, usize)]) -> Mesh {
    Mesh::new(ends(n, "mongo-oplog").await, links, FORWARD)
}

const CHAIN: &[(usize, usize)] = &[(0, 1), (1, 0), (1, 2), (2, 1)];
/// The last one is the hub.
pub(super) const HUB: &[(usize, usize)] = &[(0, 3), (3, 0), (1, 3), (3, 1), (2, 3), (3, 2)];
pub(super) const RING: &[(usize, usize)] = &[(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (3, 0), (0, 3)];
const ONE_WAY_RING: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 3), (3, 0)];

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_in_one_direction() {
    apart(mesh(3, &[(0, 1), (1, 2)]).await, &[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_change_streams() {
    let ends = ends(3, "mongo-change-stream").await;
    apart(Mesh::new(ends, CHAIN, FORWARD), &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_keys_of_their_own() {
    apart(mesh(4, HUB).await, &[0, 1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_with_keys_of_their_own() {
    apart(mesh(4, RING).await, &[0, 1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_on_the_same_keys() {
    together(mesh(4, RING).await, &[0, 1, 2, 3], "a ring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_in_one_direction_on_the_same_keys() {
    together(mesh(4, ONE_WAY_RING).await, &[0, 1, 2, 3], "a ring in one direction").await;
}

/// How many commands of that name are in the log of an end.
async fn commands(mesh: &Mesh, end: usize, name: &str) -> usize {
    let is_one = |op: &Document| op.get_document("o").is_ok_and(|o| o.contains_key(name));
    mesh.log(end).await.iter().filter(|logged| text(&logged.op, "op") == "c" && is_one(&logged.op)).count()
}

/// DDL comes everywhere once, and does not come back; what was dropped can be made again at once, anywhere.
async fn collections(n: usize, links: &[(usize, usize)]) {
    let mut mesh = mesh(n, links).await;
    mesh.router.start();
    let (first, last) = (mesh.ends[0].client.database(&mesh.db), mesh.ends[2].client.database(&mesh.db));
    first.run_command(doc! {"create": "c", "collation": {"locale": "de"}}).await.unwrap();
    let index = doc! {"createIndexes": "c", "indexes": [{"key": {"x": 1}, "name": "x"}]};
    first.run_command(index).await.unwrap();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1, "x": 1}).await.unwrap();
    mesh.settle_equal("made").await;
    last.run_command(doc! {"collMod": "c", "validator": {"x": {"$exists": true}}}).await.unwrap();
    let rename = doc! {"renameCollection": format!("{}.c", mesh.db), "to": format!("{}.d", mesh.db)};
    mesh.ends[2].client.database("admin").run_command(rename).await.unwrap();
    mesh.settle_equal("changed").await;
    mesh.coll(0, "d").drop().await.unwrap();
    mesh.coll(0, "d").insert_one(doc! {"_id": 2, "x": 2}).await.unwrap();
    mesh.settle_equal("dropped, and made again").await;
    mesh.coll(2, "d").drop().await.unwrap();
    mesh.settle_equal("dropped").await;
    // Whoever has heard of it makes one of that name: it is another, and stays.
    mesh.coll(1, "d").insert_one(doc! {"_id": 3, "x": 3}).await.unwrap();
    mesh.settle_equal("made again elsewhere").await;
    for end in 0..n {
        assert_eq!(mesh.coll(end, "d").count_documents(doc! {}).await.unwrap(), 1, "at {end}");
        assert_eq!(mesh.conflicts(end).await, [], "at {end}");
        assert_eq!(commands(&mesh, end, "drop").await, 2, "at {end}");
        assert_eq!(commands(&mesh, end, "renameCollection").await, 1, "at {end}");
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_and_indexes_go_along_a_chain() {
    collections(3, CHAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_and_indexes_go_around() {
    collections(4, RING).await;
    collections(4, ONE_WAY_RING).await;
}

/// What two leaves have written without knowing of each other is decided alike everywhere, and the record names the leaves.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaves_write_the_same_document() {
    let mut mesh = mesh(4, HUB).await;
    mesh.router.start();
    for id in 1..=3 {
        mesh.coll(3, "c").insert_one(doc! {"_id": id, "by": "hub"}).await.unwrap();
    }
    mesh.settle_equal("at first").await;
    assert!(mesh.router.terminate().success());
    let set = |by: &str| doc! {"$set": {"by": by}};
    mesh.coll(0, "c").update_one(doc! {"_id": 1}, set("first")).await.unwrap();
    mesh.coll(0, "c").update_one(doc! {"_id": 2}, set("first")).await.unwrap();
    mesh.coll(0, "c").delete_one(doc! {"_id": 3}).await.unwrap();
    // The clocks are of one machine: in another millisecond it is later.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    mesh.coll(1, "c").update_one(doc! {"_id": 1}, set("second")).await.unwrap();
    mesh.coll(1, "c").delete_one(doc! {"_id": 2}).await.unwrap();
    mesh.coll(1, "c").update_one(doc! {"_id": 3}, set("second")).await.unwrap();
    mesh.router.start();
    mesh.settle_equal("decided").await;
    let found = mesh.coll(2, "c").find_one(doc! {"_id": 1}).await.unwrap().expect("it is there");
    assert_eq!(text(&found, "by"), "second");
    assert_eq!(mesh.coll(2, "c").find_one(doc! {"_id": 2}).await.unwrap(), None);
    assert!(mesh.coll(2, "c").find_one(doc! {"_id": 3}).await.unwrap().is_some());
    // What has lost at the hub goes no further.
    for end in [0, 3] {
        let records = mesh.conflicts(end).await;
        let record = records.iter().find(|record| record.get_i32("key").is_ok_and(|key| key == 1));
        let Some(record) = record else { panic!("none at {end}: {records:?}") };
        assert_eq!(text(record, "winner"), mesh.ends[1].name);
        let nodes = ["local", "remote"].map(|side| text(record.get_document(side).unwrap(), "node").to_owned());
        assert_eq!(HashSet::from(nodes), HashSet::from([0, 1].map(|leaf| mesh.ends[leaf].name.clone())));
    }
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_through_a_hub_and_then_there_is_silence() {
    silence_behind_a_transaction(HUB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_around_and_then_there_is_silence() {
    silence_behind_a_transaction(RING).await;
}

/// A transaction stays one on its way, and nobody writes any more when it has arrived.
async fn silence_behind_a_transaction(links: &[(usize, usize)]) {
    let mut mesh = mesh(4, links).await;
    mesh.router.start();
    for name in ["a", "b", "c"] {
        mesh.coll(0, name).insert_one(doc! {"_id": 0}).await.unwrap();
    }
    mesh.settle().await;
    let mut session = mesh.ends[0].client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        mesh.coll(0, name).insert_one(doc! {"_id": "t", "n": n as i32}).session(&mut session).await.unwrap();
        mesh.coll(0, name).update_one(doc! {"_id": 0}, doc! {"$set": {"n": 1}}).session(&mut session).await.unwrap();
    }
    mesh.coll(0, "a").delete_one(doc! {"_id": 0}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    mesh.settle_equal("a transaction").await;
    for end in 1..4 {
        let log = mesh.log(end).await;
        let of = |name: &str| format!("{}.{name}", mesh.db);
        let is_one = |op: &Document| {
            [of("a"), of("b"), of("c")].iter().any(|ns| text(op, "ns") == ns)
                && op.get_document("o").is_ok_and(|o| text(o, "_id") == "t")
        };
        let times: Vec<_> = log
            .iter()
            .filter(|logged| is_one(&logged.op))
            .map(|logged| logged.entry.get_timestamp("ts").unwrap())
            .collect();
        assert_eq!((times.len(), HashSet::<Timestamp>::from_iter(times).len()), (3, 1), "at {end}");
    }
    // Where it came by the other way too, that may still be looked at.
    mesh.settle().await;
    let mut starts = Vec::new();
    for end in &mesh.ends {
        starts.push(newest(&end.client).await);
    }
    seconds(&mesh.ends[0].client, 4).await;
    for (end, start) in mesh.ends.iter().zip(starts) {
        let ours = |entry: &Document| mesh.ends.iter().any(|end| format!("{entry}").contains(&end.name));
        let all: Vec<Document> = written(&end.client, start).await.into_iter().filter(ours).collect();
        // A position by itself, at most once in ten seconds a link (others write to these servers), and nothing else.
        let last = all.last().and_then(|entry| entry.get_timestamp("ts").ok()).unwrap_or(start);
        let most = 3 * (1 + (last.time - start.time) as usize / 10);
        assert!(all.iter().all(|entry| text(entry, "ns") == "__mmm.markers") && all.len() <= most, "{all:?}");
    }
    assert!(mesh.router.terminate().success());
}

/// The markers of transactions in the log of an end: their size in bytes, and how many writes they tell of.
async fn markers(mesh: &Mesh, end: usize) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    let mut known = HashSet::new();
    for logged in mesh.log(end).await.iter().filter(|logged| logged.is_applied) {
        if !known.insert(logged.entry.get_timestamp("ts").unwrap()) {
            continue;
        }
        let first = logged.entry.get_document("o").unwrap().get_array("applyOps").unwrap()[0].as_document().unwrap();
        if text(first, "ns") == "__mmm.markers" {
            let marker = first.get_document("o").unwrap();
            let bytes = mongodb::bson::serialize_to_vec(marker).unwrap().len();
            all.push((bytes, marker.get_binary_generic("writes").unwrap().len() / 24));
        }
    }
    all
}

/// What it costs to say whose the writes are: 24 bytes for each and some for all. Links that do not forward say nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_takes_a_few_bytes_for_each_write() {
    for (sink, each) in [(FORWARD, 24), ("", 0)] {
        let mut mesh = Mesh::new(ends(3, "mongo-oplog").await, &[(0, 1), (1, 2)], sink);
        mesh.router.start();
        mesh.coll(0, "c").insert_many((0..2000).map(|n| doc! {"_id": n})).await.unwrap();
        mesh.settle().await;
        for end in 1..=if sink == FORWARD { 2 } else { 1 } {
            let all = markers(&mesh, end).await;
            let (bytes, writes) = all.iter().fold((0, 0), |(bytes, writes), one| (bytes + one.0, writes + one.1));
            eprintln!("{sink:?} at {end}: {} transactions, {bytes} bytes, {writes} writes", all.len());
            assert_eq!(writes >= 2000, each > 0, "{all:?}");
            assert!(all.iter().all(|(bytes, writes)| *bytes <= 1000 + writes * each), "{all:?}");
        }
        assert!(mesh.router.terminate().success());
    }
}

/// The file of docs/replication.md.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_of_the_documentation() {
    let db = unique("hub");
    let mut config = block("### Hubs, rings and chains", "toml").replace("app.*", &format!("{db}.*"));
    let names = ["north", "south", "cloud"];
    for (n, name) in names.iter().enumerate() {
        let uri = format!("${{{}_MONGO_URL}}", name.to_uppercase());
        config = config.replace(&uri, &shared(n).await.uri()).replace(name, &format!("{name}-{db}"));
    }
    let mut oplogue = Oplogue::new(&config);
    oplogue.start();
    let mut all = Vec::new();
    for n in 0..3 {
        all.push(shared(n).await.client().await.database(&db).collection::<Document>("items"));
    }
    for from in 0..2 {
        all[from].insert_one(doc! {"_id": names[from], "n": 1}).await.unwrap();
        all[from].update_one(doc! {"_id": names[from]}, doc! {"$set": {"n": 2}}).await.unwrap();
    }
    for (n, there) in all.iter().enumerate() {
        wait_for(format!("both at {}", names[n]), async || there.count_documents(doc! {"n": 2}).await.unwrap() == 2)
            .await;
    }
    assert!(oplogue.terminate().success(), "{}", oplogue.log());

    // Without `forward` in one of them it is said which one.
    let lame = config.replacen("forward = \"all\"\n", "", 1);
    let mut oplogue = Oplogue::new(&lame);
    oplogue.start();
    all[0].insert_one(doc! {"_id": "late"}).await.unwrap();
    let said = format!("what the link `north-{db}->cloud-{db}` brings to cloud-{db} cannot go on to south-{db}");
    oplogue.wait("the error", |oplogue| oplogue.log().contains(&said));
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_oplogue"));
    let out = { check }.args(["check", "--connect"]).arg(oplogue.config()).output().unwrap();
    let found = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(found.contains("does not go on to south"), "{found}");
    drop(oplogue);
    // And with it, what was held up comes.
    let mut oplogue = Oplogue::new(&config);
    oplogue.start();
    all[0].insert_one(doc! {"_id": "later"}).await.unwrap();
    wait_for("the later one", async || all[1].find_one(doc! {"_id": "later"}).await.unwrap().is_some()).await;
    assert!(oplogue.terminate().success(), "{}", oplogue.log());
}
