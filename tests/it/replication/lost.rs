//! The oplog of one side has rolled over while it was cut off.

use std::process::{Command, Output};

use mongodb::bson::doc;
use oplogue_testkit::{
    servers::{Mongo, MongoOptions},
    unique,
};

use super::mesh::{End, Mesh, shared};
use crate::outage::roll_over;

fn oplogue(mesh: &Mesh, arguments: &[&str]) -> Output {
    let (first, rest) = arguments.split_first().expect("a subcommand");
    let config = mesh.router.config();
    let words = first.split(' ');
    Command::new(env!("CARGO_BIN_EXE_oplogue")).args(words).arg(config).args(rest).output().expect("the binary runs")
}

/// Both directions say so and stop; then the way that the runbook tells makes both ends equal.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_rolled_over_while_cut_off() {
    let args = vec!["--syncdelay=1".to_owned(), "--setParameter=periodicNoopIntervalSecs=1".to_owned()];
    let small = Mongo::start(MongoOptions { oplog_mb: 16, args, ..Default::default() }).await;
    let both =
        vec![End::new("factory", &small, "mongo-oplog").await, End::new("cloud", shared(1).await, "mongo-oplog").await];
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], "");
    mesh.router.start();
    for n in 0..3 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n, "x": 0}).await.unwrap();
    }
    mesh.settle().await;
    assert!(mesh.router.terminate().success());
    for end in 0..2 {
        let c = mesh.coll(end, "c");
        c.update_one(doc! {"_id": 0}, doc! {"$set": {"x": 1 + end as i32}}).await.unwrap();
        c.update_one(doc! {"_id": 1 + end as i32}, doc! {"$set": {"y": 1}}).await.unwrap();
        c.insert_one(doc! {"_id": format!("of {end}")}).await.unwrap();
    }
    roll_over(&small, &unique("filler")).await;

    let count = mesh.coll(1, "c").count_documents(doc! {}).await.unwrap();
    mesh.router.spawn();
    assert_eq!(mesh.router.wait_exit().code(), Some(1));
    let log = mesh.router.log();
    assert!(log.contains("position_lost") && log.contains("oplogue position set"), "the outgoing link: {log}");
    assert!(log.contains("the oplog of the peer no longer reaches back"), "the incoming link: {log}");
    assert!(log.contains("oplogue verify --repair"), "what to do: {log}");
    assert_eq!(mesh.coll(1, "c").count_documents(doc! {}).await.unwrap(), count, "nothing is skipped in silence");

    for (from, to) in [(0, 1), (1, 0)] {
        let route = format!("{}-{}", mesh.ends[from].name, mesh.ends[to].name);
        let set = oplogue(&mesh, &["position set", &route, "--now"]);
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    }
    mesh.router.start();
    mesh.settle().await;
    let repaired = oplogue(&mesh, &["verify", "--repair", "--settle", "2s"]);
    assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stderr));
    mesh.settle_equal("repaired").await;
    for end in 0..2 {
        assert_eq!(mesh.coll(end, "c").count_documents(doc! {}).await.unwrap(), 5, "nothing is lost");
    }
    let records = mesh.conflicts(0).await.len() + mesh.conflicts(1).await.len();
    assert!(records >= 3, "each repair has a record: {records}");
    assert!(mesh.router.terminate().success());
}
