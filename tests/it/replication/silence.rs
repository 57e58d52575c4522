//! An idle pair writes nothing.

use mongodb::{
    Client,
    bson::{Document, Timestamp, doc},
};
use oplogue_testkit::wait_for;

use super::mesh::{End, Mesh, newest, set, text};

/// The entries behind `from` that are no no-ops: their namespaces.
pub(super) async fn written(client: &Client, from: Timestamp) -> Vec<Document> {
    use futures_util::TryStreamExt;
    let log = client.database("local").collection::<Document>("oplog.rs");
    let found = log.find(doc! {"ts": {"$gt": from}, "op": {"$ne": "n"}}).await.expect("the oplog");
    found.try_collect().await.expect("the oplog")
}

/// Waits until the log has `n` more no-ops: so many seconds have gone by at the server.
pub(super) async fn seconds(client: &Client, n: u64) {
    let (log, from) = (client.database("local").collection::<Document>("oplog.rs"), newest(client).await);
    wait_for(format!("{n} no-ops"), || async {
        log.count_documents(doc! {"ts": {"$gt": from}, "op": "n"}).await.expect("the oplog") >= n
    })
    .await;
}

/// On servers of its own, where nobody else writes.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pair_writes_nothing() {
    let ends = vec![
        End::new("factory", set("6.0.5", 1).await, "mongo-oplog").await,
        End::new("cloud", set("6.0.5", 1).await, "mongo-change-stream").await,
    ];
    let mut mesh = Mesh::new(ends, &[(0, 1), (1, 0)], "");
    mesh.router.start();
    for n in 0..10 {
        mesh.coll(n % 2, "c").insert_one(doc! {"_id": n as i32}).await.unwrap();
    }
    mesh.settle().await;
    // A position is written by itself at most every ten seconds, and only when there was something: after the data, and once more
    // for what came in meanwhile. Then there is silence, longer than that pace.
    let mut markers = 0;
    loop {
        let starts = [newest(&mesh.ends[0].client).await, newest(&mesh.ends[1].client).await];
        seconds(&mesh.ends[0].client, 12).await;
        let mut all = Vec::new();
        for (end, start) in mesh.ends.iter().zip(starts) {
            all.extend(written(&end.client, start).await);
        }
        if all.is_empty() {
            break;
        }
        let namespaces: Vec<&str> = all.iter().map(|entry| text(entry, "ns")).collect();
        assert!(namespaces.iter().all(|ns| *ns == "__mmm.markers"), "{namespaces:?}");
        markers += all.len();
        assert!(markers <= 4, "it goes on: {markers}");
    }
    mesh.settle_equal("idle").await;
    assert!(mesh.router.terminate().success());
}
