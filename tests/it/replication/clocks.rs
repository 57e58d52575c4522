//! The clock of one side is wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use mongodb::{
    ClusterTime,
    bson::{Binary, Timestamp, deserialize_from_document, doc, spec::BinarySubtype},
};

use super::mesh::{End, Mesh, set, shared, text};

/// A deployment whose cluster time, by which each of its writes is stamped, is two minutes ahead. The wall clock of a single server cannot
/// be moved without moving that of the machine; a write's clock is kept within the second of its cluster time, so that this does the same.
async fn ahead(end: &End, seconds: u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let unsigned = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 20] };
    let time = doc! {
        "clusterTime": Timestamp { time: now + seconds, increment: 1 },
        "signature": {"hash": unsigned, "keyId": 0_i64},
    };
    let time: ClusterTime = deserialize_from_document(time).expect("a cluster time");
    let mut session = end.client.start_session().await.unwrap();
    session.advance_cluster_time(&time);
    end.client.database("admin").run_command(doc! {"ping": 1}).session(&mut session).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_clock_is_two_minutes_fast() {
    let fast = set("6.0.5", 1).await;
    let both =
        vec![End::new("fast", fast, "mongo-oplog").await, End::new("right", shared(1).await, "mongo-oplog").await];
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], "");
    ahead(&mesh.ends[0], 120).await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1, "by": "fast"}).await.unwrap();
    mesh.coll(0, "c").insert_one(doc! {"_id": 2, "by": "fast"}).await.unwrap();
    mesh.settle().await;
    // Whoever has read the other's write is later, whatever the clocks say.
    mesh.coll(1, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"by": "right"}}).await.unwrap();
    mesh.coll(1, "c").delete_one(doc! {"_id": 2}).await.unwrap();
    mesh.settle_equal("in turn").await;
    for end in 0..2 {
        let found = mesh.coll(end, "c").find_one(doc! {"_id": 1}).await.unwrap().expect("it is there");
        assert_eq!(text(&found, "by"), "right");
        assert_eq!(mesh.coll(end, "c").find_one(doc! {"_id": 2}).await.unwrap(), None);
        assert_eq!(mesh.conflicts(end).await.len(), 0);
    }
    // And again from the fast one.
    mesh.coll(0, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"by": "fast again"}}).await.unwrap();
    mesh.settle_equal("in turn, back").await;
    let found = mesh.coll(1, "c").find_one(doc! {"_id": 1}).await.unwrap().expect("it is there");
    assert_eq!(text(&found, "by"), "fast again");
    // Unseen by each other the fast one wins, though the other wrote later; both ends agree.
    assert!(mesh.router.terminate().success());
    for end in 0..2 {
        let name = ["fast", "right"][end];
        mesh.coll(end, "c").update_one(doc! {"_id": 1}, doc! {"$set": {"by": name}}).await.unwrap();
    }
    mesh.router.start();
    mesh.settle_equal("at the same time").await;
    let found = mesh.coll(1, "c").find_one(doc! {"_id": 1}).await.unwrap().expect("it is there");
    assert_eq!(text(&found, "by"), "fast");
    assert!(mesh.router.log().contains("s ahead of this machine"), "it is told");
    assert!(mesh.router.terminate().success());
}
