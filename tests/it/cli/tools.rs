//! The subcommands that plugins bring, and the import of MongoMultiMaster.

use std::fs;

use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};
use oplogue_testkit::{servers, unique};

use super::{File, run};

#[tokio::test]
async fn a_pair_is_verified_and_its_conflicts_are_listed() {
    let (factory, cloud) = (servers::mongo().await, servers::mongo_version("6.0.27").await);
    let db = unique("cli");
    let file = File::new(&format!(
        r#"
[sources.factory]
type = "mongo-oplog"
uri = "{}"
[sinks.to-cloud]
type = "mongo-mmm"
uri = "{}"
node = "factory-{db}"
peer = "cloud-{db}"
namespaces = ["{db}.*"]
[[routes]]
from = "factory"
to = "to-cloud"
"#,
        factory.uri(),
        cloud.uri()
    ));
    let coll = |client: &mongodb::Client| client.database(&db).collection::<Document>("c");
    let (here, there) = (coll(&factory.client().await), coll(&cloud.client().await));
    for coll in [&here, &there] {
        coll.insert_one(doc! {"_id": 1, "a": "content"}).await.unwrap();
    }
    let equal = file.run(&["verify"], &[]).await.expect(0);
    assert!(equal.stdout.contains("\"differing\":0"), "{}", equal.stdout);
    there.delete_one(doc! {"_id": 1}).await.unwrap();
    let differs = file.run(&["verify"], &["--settle", "100ms"]).await.expect(1);
    assert!(differs.stdout.contains(&format!("\"id\":1,\"state\":\"only at factory-{db}\"")), "{}", differs.stdout);
    assert!(!differs.stderr.contains("content") && !differs.stdout.contains("content"));
    file.run(&["verify"], &["--repair", "--settle=100ms", "factory->to-cloud"]).await.expect(0);
    file.run(&["verify"], &[]).await.expect(0);

    let record = doc! {
        "_id": ObjectId::new(), "at": DateTime::now(), "link": format!("factory-{db}->cloud-{db}"), "ns": format!("{db}.c"),
        "key": 2, "kind": "unique", "winner": null, "status": "parked", "local": {}, "remote": {"doc": {"_id": 2}},
    };
    let conflicts = cloud.client().await.database("__mmm").collection::<Document>("conflicts");
    conflicts.insert_one(&record).await.unwrap();
    let listed = file.run(&["conflicts", "list"], &["--status", "parked"]).await.expect(0);
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
    file.run(&["conflicts", "redrive"], &["--all"]).await.expect(0);
    assert!(there.find_one(doc! {"_id": 2}).await.unwrap().is_some());

    for wrong in [&["--rate", "fast"][..], &["nowhere->else"], &["--fly"]] {
        let done = file.run(&["verify"], wrong).await.expect(2);
        assert_eq!(done.stdout, "", "{wrong:?}");
    }
    file.run(&["conflicts"], &[]).await.expect(2);
}

#[tokio::test]
async fn what_is_imported_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let servers = "a:\n  id: '2c88ae84-7cb9-40f7-835d-c05e981f564d'\n  uri: 'mongodb://h:1'\n\
                   b:\n  id: '0d9c284b-b47c-40b5-932c-547b8685edd0'\n  uri: 'mongodb://h:2'\n";
    fs::write(path("mmm.yml"), servers).unwrap();
    fs::write(path("links"), "=== b Replication Config\n - x.y <= a/x.y\n - x.q <= a/x.z\n").unwrap();
    let done = run(&["import", "mmm", &path("mmm.yml"), "--links", &path("links")]).await.expect(0);
    assert!(done.stderr.contains("warning: a/x.z -> b/x.q is left out"), "{}", done.stderr);
    fs::write(path("oplogue.toml"), &done.stdout).unwrap();
    let checked = run(&["check", &path("oplogue.toml")]).await.expect(0);
    assert!(checked.stdout.contains("a->a-to-b"), "{}", checked.stdout);
    let bare = run(&["import", "mmm", &path("mmm.yml")]).await.expect(0);
    assert!(bare.stderr.contains("dump-config"), "{}", bare.stderr);
    run(&["import", "mmm", &path("links")]).await.expect(2);
    run(&["import", "mmm", &path("nothing")]).await.expect(2);
}
