//! Predicates of a filter, from a real MongoDB to what comes out.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{servers, unique};

use crate::{process::Oplogue, support::source};

/// What the router tells of a workload, as operation and `_id`. `predicates` are lines of the filter; the end of the workload must pass
/// them.
async fn told(kind: &str, options: &str, predicates: &str) -> Vec<String> {
    let mongo = servers::mongo().await;
    let db = unique("predicates");
    let database = mongo.client().await.database(&db);
    database.create_collection("c").await.unwrap();
    let images = doc! {"collMod": "c", "changeStreamPreAndPostImages": {"enabled": true}};
    database.run_command(images).await.unwrap();
    let mut oplogue = Oplogue::new(&format!(
        "{}{options}\n[transforms.mine]\ntype = \"filter\"\nnamespaces = [\"{db}.c\"]\n{predicates}\n\
         [sinks.out]\ntype = \"stdout\"\nformat = \"json\"\n\
         [[routes]]\nname = \"r\"\nfrom = [\"a\"]\nvia = [\"mine\"]\nto = [\"out\"]\n",
        source(kind, &mongo.uri())
    ));
    oplogue.start();
    let c = database.collection::<Document>("c");
    c.insert_one(doc! {"_id": "bought", "status": "open", "lines": [{"price": 5}]}).await.unwrap();
    c.update_one(doc! {"_id": "bought"}, doc! {"$set": {"status": "paid"}}).await.unwrap();
    c.insert_one(doc! {"_id": "seen", "status": "paid", "lines": []}).await.unwrap();
    c.update_one(doc! {"_id": "seen"}, doc! {"$set": {"seen": 1}}).await.unwrap();
    c.insert_one(doc! {"_id": "open", "status": "open"}).await.unwrap();
    c.update_one(doc! {"_id": "open"}, doc! {"$set": {"lines.0.price": 7}}).await.unwrap();
    c.replace_one(doc! {"_id": "open"}, doc! {"status": "open", "n": 1}).await.unwrap();
    c.insert_one(doc! {"_id": "gone", "status": "open"}).await.unwrap();
    c.delete_one(doc! {"_id": "gone"}).await.unwrap();
    c.insert_one(doc! {"_id": "end", "status": "paid", "end": true}).await.unwrap();
    let is_end = |e: &serde_json::Value| e["key"]["_id"] == "end";
    oplogue.wait("the end", |o| o.events().iter().any(is_end));
    let name = |e: &serde_json::Value| format!("{} {}", e["op"].as_str().unwrap(), e["key"]["_id"].as_str().unwrap());
    oplogue.events().iter().filter(|e| !is_end(e)).map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn predicates_choose_the_same_events_from_both_sources() {
    let paid = r#"after = { status = { "$in" = ["paid", "sent"] } }"#;
    for (kind, options) in
        [("mongo-oplog", "full_document = \"update-lookup\""), ("mongo-change-stream", "full_document = \"required\"")]
    {
        let all_known = told(kind, options, paid).await;
        assert_eq!(all_known, ["update bought", "insert seen", "update seen", "delete gone"], "{kind}");
        let known = told(kind, options, &format!("{paid}\nmissing = \"drop\"")).await;
        assert_eq!(known, ["update bought", "insert seen", "update seen"], "{kind}");
        // Without full documents nothing is known of updates, and nothing is lost.
        let unknown = told(kind, "", paid).await;
        assert_eq!(unknown, ["update bought", "insert seen", "update seen", "update open", "delete gone"], "{kind}");
        let changed =
            told(kind, "", "changed = [\"lines.price\", \"status\"]\noperations = [\"update\", \"insert\"]").await;
        let inserts = ["insert bought", "insert seen", "insert open", "insert gone"];
        assert_eq!(changed, [inserts[0], "update bought", inserts[1], inserts[2], "update open", inserts[3]], "{kind}");
        let but = told(
            kind,
            "",
            "changed = [\"!seen\", \"!status\", \"!lines\"]\nafter = '{\"$or\": [{\"n\": 1}, {\"end\": true}]}'",
        );
        assert_eq!(but.await, ["replace open", "delete gone"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_before_a_change_are_asked_where_the_source_has_them() {
    let options = "full_document = \"required\"\nfull_document_before_change = \"required\"";
    let predicates = "before = { status = \"open\" }\nafter = { status = \"paid\" }\nmissing = \"error\"";
    let told = told("mongo-change-stream", options, predicates).await;
    // There is no document before an insert, and none after a delete.
    assert_eq!(told, ["update bought", "insert seen", "delete gone"]);
}
