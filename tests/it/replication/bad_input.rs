//! What is refused, with its remedy, and what goes to the records of conflicts.

use mongodb::bson::{Document, doc};
use oplogue_testkit::servers::{Credentials, Mongo, MongoOptions};

use super::mesh::{End, Mesh, ends, shared, text};
use crate::cli;

/// Waits until the only route has ended, and the process with it, and looks for a text in what it logged.
fn ends_with(mesh: &mut Mesh, text: &str) {
    let status = mesh.router.wait_exit();
    assert_eq!(status.code(), Some(1));
    assert!(mesh.router.log().contains(text), "{text}");
}

fn says(mesh: &mut Mesh, text: &str) {
    mesh.router.spawn();
    ends_with(mesh, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deployment_as_both_ends() {
    let (a, b) = (
        End::new("factory", shared(0).await, "mongo-oplog").await,
        End::new("cloud", shared(0).await, "mongo-oplog").await,
    );
    let mut mesh = Mesh::new(vec![a, b], &[(0, 1)], "");
    says(&mut mesh, "the source and the peer are the same deployment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_as_the_peer() {
    let alone = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    let mut both = ends(2, "mongo-oplog").await;
    both[1].uri = alone.uri();
    let mut mesh = Mesh::new(both, &[(0, 1)], "");
    says(&mut mesh, "the peer is a standalone mongod: it has no transactions");
}

/// A namespace that a link of other names replicates already would be applied twice, and each change come back as one of another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_replicated_already() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.settle().await;
    let db = mesh.db.clone();
    let renamed = |config: &str, namespaces: &str| {
        let names = config.replace(&mesh.ends[0].name, "other-name").replace(&mesh.ends[1].name, &format!("x{db}"));
        names.replace(&format!("namespaces = [\"{db}.*\"]"), namespaces)
    };
    let overlap = format!("namespaces = [\"elsewhere.*\", \"{db}.?\"]");
    let told = format!("`{db}.*` there, `{db}.?` here");
    let mut other = mesh.another_with(|config| renamed(config, &overlap));
    other.spawn();
    assert_eq!(other.wait_exit().code(), Some(1));
    let log = other.log();
    assert!(log.contains(&told) && log.contains("oplogue position reset"), "{log}");
    // It leaves nothing that would stand in the way of the first link.
    let metadata = mesh.ends[1].client.database("__mmm");
    let mine = doc! {"_id": {"$regex": format!("x{db}$")}};
    for name in ["links", "markers"] {
        let left = metadata.collection::<Document>(name).count_documents(mine.clone()).await.unwrap();
        assert_eq!(left, 0, "{name}");
    }
    let config = other.config();
    let checked = cli::run(&["check", "--connect", config.to_str().unwrap()]).await.expect(1);
    assert!(checked.stdout.contains(&told), "{}", checked.stdout);

    // What has nothing in common goes beside it, and the first link starts again beside that.
    let mut beside = mesh.another_with(|config| renamed(config, &format!("namespaces = [\"{db}x.*\"]")));
    beside.start();
    assert_eq!(metadata.collection::<Document>("links").count_documents(mine.clone()).await.unwrap(), 1);
    assert!(mesh.router.terminate().success());
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 2}).await.unwrap();
    mesh.settle_equal("nothing has been refused").await;
    mesh.assert_once("by one link").await;

    // A link that is given up is forgotten with its position.
    assert!(beside.terminate().success());
    let config = beside.config();
    cli::run(&["position", "reset", config.to_str().unwrap()]).await.expect(0);
    assert_eq!(metadata.collection::<Document>("links").count_documents(mine).await.unwrap(), 0, "it is forgotten");
}

/// The marker is dropped or edited by hand: the link stops and says so, and does not begin anew in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_is_dropped_while_it_runs() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.settle().await;
    let (markers, id) = mesh.marker(0, 1);
    markers.delete_one(doc! {"_id": &id}).await.unwrap();
    mesh.coll(0, "c").insert_one(doc! {"_id": 2}).await.unwrap();
    ends_with(&mut mesh, "is gone from the peer");
    assert_eq!(mesh.coll(1, "c").count_documents(doc! {}).await.unwrap(), 1);
    assert_eq!(markers.count_documents(doc! {"_id": &id}).await.unwrap(), 0, "it is not made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_is_edited() {
    let mut mesh = Mesh::one_way().await;
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.settle().await;
    let (markers, id) = mesh.marker(0, 1);
    // While it runs.
    markers.update_one(doc! {"_id": &id}, doc! {"$unset": {"position": ""}}).await.unwrap();
    markers.update_one(doc! {"_id": &id}, doc! {"$set": {"seq": 1}}).await.unwrap();
    mesh.coll(0, "c").insert_one(doc! {"_id": 2}).await.unwrap();
    ends_with(&mut mesh, "has an unknown shape");
    // While it is stopped.
    let before = mesh.router.log().len();
    mesh.router.spawn();
    mesh.router.wait_exit();
    assert!(mesh.router.log()[before..].contains("has an unknown shape"));
    assert_eq!(mesh.coll(1, "c").count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_write() {
    let root = Credentials::new("root", "secret of root");
    let guarded = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    let reader = Credentials::new("reader", "secret of the reader");
    guarded.add_user(&reader, vec![doc! {"role": "readAnyDatabase", "db": "admin"}]).await;
    let mut both = ends(2, "mongo-oplog").await;
    both[1].uri = guarded.uri_of(Some(&reader));
    let mut mesh = Mesh::new(both, &[(0, 1)], "");
    says(&mut mesh, "the user lacks a privilege");
    assert!(!mesh.router.log().contains("secret of"));
    // With what the documentation asks for it works.
    let writer = Credentials::new("writer", "secret of the writer");
    let roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"];
    let roles = roles.map(|role| doc! {"role": role, "db": "admin"}).to_vec();
    guarded.add_user(&writer, roles).await;
    let mut both =
        vec![End::new("a", shared(0).await, "mongo-oplog").await, End::new("b", &guarded, "mongo-oplog").await];
    both[1].uri = guarded.uri_of(Some(&writer));
    let mut mesh = Mesh::new(both, &[(0, 1)], "");
    mesh.router.start();
    mesh.coll(0, "c").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.settle_equal("with enough roles").await;
    assert!(mesh.router.terminate().success());
}

/// A transaction cannot write it, so its changes would come back: in a pair it is refused, one way it goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_capped_collection() {
    let mut mesh = Mesh::pair().await;
    mesh.router.start();
    let create = doc! {"create": "log", "capped": true, "size": 100_000};
    mesh.ends[0].client.database(&mesh.db).run_command(create.clone()).await.unwrap();
    mesh.settle().await;
    mesh.coll(0, "log").insert_one(doc! {"_id": 1}).await.unwrap();
    mesh.router.wait("told", |o| o.log().contains("is a capped or time-series collection or a view at the peer"));
    assert!(mesh.router.log().contains("replicate it one way"), "with the remedy");
    assert_eq!(mesh.coll(1, "log").count_documents(doc! {}).await.unwrap(), 0);

    let mut mesh = Mesh::new(ends(2, "mongo-oplog").await, &[(0, 1)], "conflicts = \"origin\"");
    mesh.router.start();
    mesh.ends[0].client.database(&mesh.db).run_command(create).await.unwrap();
    let series = doc! {"create": "series", "timeseries": {"timeField": "at", "metaField": "who"}};
    mesh.ends[0].client.database(&mesh.db).run_command(series).await.unwrap();
    for n in 0..20 {
        mesh.coll(0, "log").insert_one(doc! {"_id": n}).await.unwrap();
    }
    mesh.settle().await;
    assert_eq!(mesh.coll(1, "log").count_documents(doc! {}).await.unwrap(), 20);
    assert!(mesh.router.log().contains("it is replicated one way, outside of transactions"));
    assert!(mesh.router.terminate().success());
}

/// A validator or a unique index at the peer refuses a document: it is parked, the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_the_peer_refuses() {
    let mut mesh = Mesh::one_way().await;
    let peer = mesh.ends[1].client.database(&mesh.db);
    peer.run_command(doc! {"create": "strict", "validator": {"n": {"$lt": 10}}}).await.unwrap();
    let index = doc! {"createIndexes": "unique", "indexes": [{"key": {"u": 1}, "name": "u", "unique": true}]};
    peer.run_command(index).await.unwrap();
    mesh.coll(1, "unique").insert_one(doc! {"_id": "local", "u": 1}).await.unwrap();
    mesh.router.start();
    for n in [1, 20, 2] {
        mesh.coll(0, "strict").insert_one(doc! {"_id": n, "n": n, "private": "words"}).await.unwrap();
        mesh.coll(0, "unique").insert_one(doc! {"_id": n, "u": n, "private": "words"}).await.unwrap();
    }
    mesh.settle().await;
    let mut parked: Vec<(String, i32, String)> = Vec::new();
    for record in mesh.conflicts(1).await.iter().filter(|r| text(r, "kind") != "ddl") {
        let coll = text(record, "ns").rsplit('.').next().unwrap_or_default().to_owned();
        parked.push((coll, record.get_i32("key").unwrap_or(-1), text(record, "status").to_owned()));
    }
    parked.sort();
    let expected = [("strict".to_owned(), 20, "parked".to_owned()), ("unique".to_owned(), 1, "parked".to_owned())];
    assert_eq!(parked, expected);
    let there = async |name: &str, n: i32| mesh.coll(1, name).find_one(doc! {"_id": n}).await.unwrap().is_some();
    assert!(there("strict", 1).await && there("strict", 2).await && !there("strict", 20).await);
    assert!(there("unique", 2).await && there("unique", 20).await && !there("unique", 1).await);
    assert!(!mesh.router.log().contains("words"));
    assert!(mesh.router.terminate().success());
}
