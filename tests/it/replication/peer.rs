//! A peer that takes no writes for a while, or is not all that the user may use: the route waits and says so, and nothing is lost.

use std::process::Command;

use mongodb::bson::{Document, doc};
use oplogue_testkit::{
    servers::{Credentials, Mongo, MongoOptions},
    wait_for,
};

use super::mesh::{End, Mesh, ends, set, shared};

async fn admin(end: &End, command: Document) {
    end.client.database("admin").run_command(command).await.expect("a command of the test");
}

fn retries(mesh: &mut Mesh) {
    mesh.router.wait("trying again", |o| o.log().contains("the sink failed; trying again for as long as it takes"));
}

/// `fsyncLock`: reads go on, writes wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_read_only_for_a_while() {
    let locked = set("6.0.5", 1).await;
    let both = vec![End::new("a", shared(0).await, "mongo-oplog").await, End::new("b", locked, "mongo-oplog").await];
    let mut mesh = Mesh::new(both, &[(0, 1)], "");
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 0}).await.unwrap();
    mesh.settle().await;
    admin(&mesh.ends[1], doc! {"fsync": 1, "lock": true}).await;
    for n in 1..50 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n}).await.unwrap();
        mesh.coll(0, "c").update_one(doc! {"_id": n - 1}, doc! {"$set": {"x": n}}).await.unwrap();
    }
    retries(&mut mesh);
    admin(&mesh.ends[1], doc! {"fsyncUnlock": 1}).await;
    mesh.settle_equal("unlocked").await;
    mesh.assert_once("unlocked").await;
    assert!(mesh.router.terminate().success());
}

/// From the first of the shared sets to one that can be told to fail.
async fn to_one_that_fails() -> (Mongo, Mesh) {
    let args = vec!["--setParameter=enableTestCommands=1".into(), "--setParameter=periodicNoopIntervalSecs=1".into()];
    let fails = Mongo::start(MongoOptions { args, oplog_mb: 512, ..Default::default() }).await;
    let both = vec![End::new("a", shared(0).await, "mongo-oplog").await, End::new("b", &fails, "mongo-oplog").await];
    let mesh = Mesh::new(both, &[(0, 1)], "");
    (fails, mesh)
}

/// What the peer cannot take at once it gets in several transactions, which is said: by the log and by a metric.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_too_large_for_the_peer() {
    let (_fails, mut mesh) = to_one_that_fails().await;
    mesh.router.start();
    mesh.settle().await;
    let split = format!(
        "oplogue_sink_total{{route=\"{}-{}\",what=\"split_transaction\"}} ",
        mesh.ends[0].name, mesh.ends[1].name
    );
    assert_eq!(mesh.router.metric(&split), Some(0.0));
    // TransactionTooLargeForCache.
    let data = doc! {"failCommands": ["insert"], "errorCode": 257, "appName": "oplogue"};
    admin(&mesh.ends[1], doc! {"configureFailPoint": "failCommand", "mode": {"times": 2}, "data": data}).await;
    let mut session = mesh.ends[0].client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..8 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    mesh.settle_equal("in several").await;
    mesh.assert_once("in several").await;
    // The eight did not go, nor did the first four of them.
    assert_eq!(mesh.router.metric(&split), Some(2.0));
    assert!(mesh.router.log().contains("is too large for one at the peer"), "{}", mesh.router.log());
    assert!(mesh.router.terminate().success());
}

/// No disk is filled for this: the server is told to answer as if it were.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_disk_is_full_for_a_while() {
    let (_fails, mut mesh) = to_one_that_fails().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 0}).await.unwrap();
    mesh.settle().await;
    let data = doc! {"failCommands": ["insert", "update", "delete"], "errorCode": 14031, "appName": "oplogue"};
    admin(&mesh.ends[1], doc! {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data}).await;
    for n in 1..50 {
        mesh.coll(0, "c").insert_one(doc! {"_id": n}).await.unwrap();
    }
    retries(&mut mesh);
    assert!(mesh.router.log().contains("MongoDB error 14031"), "{}", mesh.router.log());
    assert_eq!(mesh.coll(1, "c").count_documents(doc! {}).await.unwrap(), 1);
    admin(&mesh.ends[1], doc! {"configureFailPoint": "failCommand", "mode": "off"}).await;
    mesh.settle_equal("with room again").await;
    mesh.assert_once("with room again").await;
    assert!(mesh.router.terminate().success());
}

/// The user of the ten minutes in docs/replication.md, beside a database that is none of its business.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_what_the_documentation_asks_for() {
    let root = Credentials::new("root", "secret of root");
    let guarded = Mongo::start(MongoOptions { auth: Some(root), oplog_mb: 512, ..Default::default() }).await;
    let mut both =
        vec![End::new("a", &guarded, "mongo-oplog").await, End::new("b", shared(1).await, "mongo-oplog").await];
    both[0].client.database("private").collection("c").insert_one(doc! {"_id": 1}).await.unwrap();
    let user = Credentials::new("oplogue", "secret of the user");
    both[0].uri = guarded.uri_of(Some(&user));
    let mut mesh = Mesh::new(both, &[(0, 1), (1, 0)], "initial = \"merge\"");
    let roles = [("readWrite", &*mesh.db), ("dbAdmin", &mesh.db), ("readWrite", "__mmm"), ("dbAdmin", "__mmm")];
    let mut roles: Vec<Document> = roles.iter().map(|(role, db)| doc! {"role": *role, "db": *db}).collect();
    roles.extend([doc! {"role": "read", "db": "local"}, doc! {"role": "clusterMonitor", "db": "admin"}]);
    guarded.add_user(&user, roles).await;
    mesh.coll(0, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.coll(1, "c").insert_one(doc! {"_id": 2}).await.unwrap();
    mesh.router.start();
    mesh.settle_equal("merged").await;
    let verify = |more: &[&str]| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_oplogue")).arg("verify").arg(mesh.router.config()).args(more).output();
        let out = out.expect("the binary runs");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = verify(&["--settle", "2s"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(mesh.router.terminate().success());

    // With all namespaces that other database is wanted too, and the user may not look into it.
    let text = std::fs::read_to_string(mesh.router.config()).unwrap();
    let wanted = format!("namespaces = [\"{}.*\"]", mesh.db);
    assert!(text.contains(&wanted));
    std::fs::write(mesh.router.config(), text.replace(&wanted, "")).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_oplogue")).arg("verify").arg(mesh.router.config()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(
        said.contains("may not list the collections of the database `private`") && said.contains("`read` on `private`"),
        "{said}"
    );
}

/// An application writes the same documents at the peer as fast as it can, and conflicts are looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_local_writer_whose_writes_count() {
    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1), (1, 0)], "");
    mesh.router.start();
    for n in 0..3 {
        mesh.coll(0, "hot").insert_one(doc! {"_id": n, "near": 0, "far": 0}).await.unwrap();
    }
    mesh.settle().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let local = {
        let coll = mesh.coll(1, "hot");
        tokio::spawn(async move {
            let mut stopped = std::pin::pin!(stopped);
            let mut n = 0;
            while futures_util::poll!(&mut stopped).is_pending() {
                coll.update_one(doc! {"_id": n % 3}, doc! {"$inc": {"far": 1}}).await.unwrap();
                n += 1;
            }
            n
        })
    };
    for n in 0..200 {
        mesh.coll(0, "hot").update_one(doc! {"_id": n % 3}, doc! {"$inc": {"near": 1}}).await.unwrap();
    }
    // It gets through while the other one goes on.
    let sentinel = mesh.coll(1, "through");
    mesh.coll(0, "through").insert_one(doc! {"_id": 1}).await.unwrap();
    wait_for("what came behind them", || async { sentinel.find_one(doc! {"_id": 1}).await.unwrap().is_some() }).await;
    stop.send(()).unwrap();
    assert!(local.await.unwrap() > 0);
    mesh.settle().await;
    mesh.settle_equal("a hot local writer").await;
    assert!(!mesh.conflicts(0).await.is_empty() || !mesh.conflicts(1).await.is_empty(), "they met");
    assert!(mesh.router.terminate().success());
}
