//! Settings of collections, from a real MongoDB to a real subscriber: whole documents, namespaces and channels.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{servers, unique, wait_for};

use crate::{dropin::ear::Ear, process::Oplogue};

struct Place {
    db: String,
    oplogue: Oplogue,
    ear: Ear,
    coll: mongodb::Collection<Document>,
}

impl Place {
    /// `source` is what the source needs to deliver documents; `DB` in it is the database.
    async fn new(kind: &str, source: &str, settings: &str) -> Place {
        let (mongo, redis) = (servers::mongo().await, servers::redis().await);
        let db = unique("colls");
        let source = source.replace("DB", &db);
        let config = format!(
            r#"
            [sources.a]
            type = "{kind}"
            uri = "{}"
            {source}
            [transforms.mine]
            type = "filter"
            namespaces = ["{db}.*"]
            [sinks.meteor]
            type = "redis-oplog"
            url = "{}"
            metadata_prefix = "{db}::"
            [[sinks.meteor.collections]]
            match = "{db}.tasks"
            {settings}
            [[routes]]
            name = "publish"
            from = ["a"]
            via = ["mine"]
            to = ["meteor"]
            "#,
            mongo.uri(),
            redis.url()
        );
        let database = mongo.client().await.database(&db);
        database.create_collection("tasks").await.unwrap();
        let images = doc! {"collMod": "tasks", "changeStreamPreAndPostImages": {"enabled": true}};
        database.run_command(images).await.unwrap();
        let ear = Ear::open(&redis.url(), &db).await;
        let mut oplogue = Oplogue::new(&config);
        oplogue.start();
        Place { coll: database.collection("tasks"), db, oplogue, ear }
    }

    /// The messages on a channel of the database, when the last write has come.
    async fn on(&self, channel: &str) -> Vec<String> {
        let end = unique("end");
        let ends = self.coll.client().database(&self.db).collection::<Document>("ends");
        ends.insert_one(doc! {"_id": &end}).await.unwrap();
        let last = format!("{}.ends::{end}", self.db);
        wait_for("the last write", || async { !self.ear.on(&last).is_empty() }).await;
        self.ear.on(&format!("{}.{channel}", self.db))
    }
}

async fn full_documents(kind: &str, source: &str) {
    let settings = r#"document = "full"
            namespaces = ["company::{companyId}"]
            skip_if_only = ["lastSeen"]"#;
    let mut p = Place::new(kind, source, settings).await;
    let id = doc! {"_id": "t1"};
    p.coll.insert_one(doc! {"_id": "t1", "companyId": "c9", "list": [1, 2]}).await.unwrap();
    let inserted = r#"{"e":"i","d":{"_id":"t1","companyId":"c9","list":[1,2]},"f":["_id","companyId","list"]}"#;
    assert_eq!(p.on("tasks").await, [inserted]);
    // Each is waited for: a look-up may find a later document.
    p.coll.update_one(id.clone(), doc! {"$push": {"list": 3}}).await.unwrap();
    let pushed = r#"{"e":"u","d":{"_id":"t1","companyId":"c9","list":[1,2,3]},"f":["list"]}"#;
    assert_eq!(p.on("tasks").await, [inserted, pushed]);
    p.coll.update_one(id.clone(), doc! {"$set": {"lastSeen": 5}}).await.unwrap();
    p.coll.delete_one(id).await.unwrap();
    let gone = r#"{"e":"r","d":{"_id":"t1"},"f":[]}"#;
    assert_eq!(p.on("tasks::t1").await, [inserted, pushed, gone]);
    assert_eq!(p.on("company::c9::tasks").await[..2], [inserted, pushed]);
    assert!(p.oplogue.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_documents_that_the_oplog_source_looks_up() {
    full_documents("mongo-oplog", "full_document = \"update-lookup\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_documents_of_change_streams() {
    full_documents("mongo-change-stream", "full_document = \"update-lookup\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_told_where_the_document_was_and_where_it_is() {
    // Other collections keep no images: a stream of this one alone.
    let source = r#"database = "DB"
            collection = "tasks"
            full_document = "required"
            full_document_before_change = "required""#;
    let settings = r#"document = "previous"
            namespaces = ["company::{companyId}"]
            channels = ["threads::{threadId}::messages"]"#;
    let mut p = Place::new("mongo-change-stream", source, settings).await;
    p.coll.insert_one(doc! {"_id": "t1", "companyId": "c9", "threadId": 42}).await.unwrap();
    p.coll.update_one(doc! {"_id": "t1"}, doc! {"$set": {"companyId": "c10"}}).await.unwrap();
    p.coll.delete_one(doc! {"_id": "t1"}).await.unwrap();
    let inserted = r#"{"e":"i","d":{"_id":"t1"},"f":["_id","companyId","threadId"]}"#;
    let moved = r#"{"e":"u","d":{"_id":"t1","companyId":"c9","threadId":42},"f":["companyId"]}"#;
    let gone = r#"{"e":"r","d":{"_id":"t1","companyId":"c10","threadId":42},"f":[]}"#;
    let on = |channel: &str| p.ear.on(&format!("{}.{channel}", p.db));
    wait_for("the deletion", || async { on("tasks").len() == 3 }).await;
    assert_eq!(on("tasks"), [inserted, moved, gone]);
    wait_for("all channels", || async { on("threads::42::messages").len() == 3 }).await;
    assert_eq!(on("threads::42::messages"), [inserted, moved, gone]);
    assert_eq!(on("company::c9::tasks"), [inserted, moved]);
    assert_eq!(on("company::c10::tasks"), [moved, gone]);
    assert!(p.oplogue.terminate().success());
}
