//! Transforms that edit events, from a real MongoDB to a terminal, a file and a file of dead letters.

use mongodb::bson::{Document, doc};
use oplogue_testkit::{servers, unique};
use serde_json::{Value, json};

use crate::{cli::run, process::Oplogue, support::source};

const SECRET: &str = "s3cr3t-m4rk";

/// Events of collections that have all that a change may hold, redacted; and some that an earlier transform refuses.
async fn nothing_leaks(kind: &str, more: &str) {
    let mongo = servers::mongo().await;
    let db = unique("edit");
    let mut oplogue = Oplogue::new(&format!(
        r#"
        {}
        {more}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.*"]
        [transforms.names]
        type = "rename"
        collections = [{{ from = "{db}.users", to = "{db}.people" }}]
        fields = [{{ from = "nick", to = "name" }}]
        [transforms.no-pii]
        type = "redact"
        fields = ["ssn", "address.street", "cards.number", {{ field = "mail", mode = "hash" }}, {{ field = "note", mode = "mask" }}]
        key = "0123456789abcdef"
        [sinks.out]
        type = "stdout"
        [sinks.capture]
        type = "file"
        path = "DIR/capture.bson"
        [sinks.letters]
        type = "file"
        path = "DIR/letters.bson"
        [[routes]]
        from = ["a"]
        via = ["mine", "names", "no-pii"]
        to = ["out", "capture"]
        on_bad_event = "dead-letter"
        dead_letter = "letters"
        "#,
        source(kind, &mongo.uri())
    ));
    let text = std::fs::read_to_string(oplogue.config()).unwrap();
    std::fs::write(oplogue.config(), text.replace("DIR", oplogue.dir.path().to_str().unwrap())).unwrap();
    let database = mongo.client().await.database(&db);
    database.create_collection("users").await.unwrap();
    let images = doc! {"collMod": "users", "changeStreamPreAndPostImages": {"enabled": true}};
    database.run_command(images).await.unwrap();
    oplogue.start();

    let users = database.collection::<Document>("users");
    let id = doc! {"_id": 1};
    let card = doc! {"number": SECRET, "until": "27-01"};
    let full = doc! {
        "_id": 1, "nick": "Joe", "ssn": SECRET, "mail": SECRET, "note": [SECRET, 5], "address": {"street": SECRET, "city": "Berlin"},
        "cards": [card.clone()],
    };
    users.insert_one(full.clone()).await.unwrap();
    let mut refused = full;
    refused.insert("_id", 2);
    refused.insert("name", "Joe too");
    users.insert_one(refused).await.unwrap();
    let set = doc! {"$set": {"ssn": SECRET.repeat(2), "address.street": SECRET.repeat(3), "mail": SECRET.repeat(2), "n": 1}, "$push": {"cards": card}};
    users.update_one(id.clone(), set).await.unwrap();
    users.update_one(id.clone(), doc! {"$unset": {"address": true}, "$set": {"note": SECRET}}).await.unwrap();
    users.delete_one(id).await.unwrap();
    let letters = oplogue.dir.path().join("letters.bson");
    oplogue.wait("the deletion and the letters of both routes", |o| {
        o.events().iter().any(|e| e["op"] == "delete") && std::fs::metadata(&letters).is_ok_and(|m| m.len() > 600)
    });
    assert!(oplogue.terminate().success());

    let events: Vec<Value> = oplogue.events().into_iter().filter(|e| !e["key"].is_null()).collect();
    let ops: Vec<_> = events.iter().map(|e| e["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["insert", "update", "update", "delete"]);
    assert!(events.iter().all(|e| e["ns"] == format!("{db}.people")), "{events:?}");
    let after = &events[0]["after"];
    assert_eq!(
        (&after["name"], &after["note"], &after["address"]),
        (&json!("Joe"), &json!(["***", 0]), &json!({"city": "Berlin"}))
    );
    assert_eq!((&after["cards"], after["mail"].as_str().unwrap().len()), (&json!([{"until": "27-01"}]), 64));
    let changed = &events[1]["update"]["set"];
    assert_eq!((&changed["n"], changed["mail"].as_str().unwrap().len()), (&json!(1), 64));
    assert!(changed.get("ssn").is_none() && changed.get("address.street").is_none(), "{changed}");

    let read = |name: &str| std::fs::read(oplogue.dir.path().join(name)).unwrap();
    let (capture, letters) = (read("capture.bson"), read("letters.bson"));
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds(&capture, "Joe") && holds(&letters, "Joe"), "the test would find nothing");
    let printed = std::fs::read(oplogue.stdout()).unwrap();
    for (place, bytes) in
        [("stdout", &printed), ("capture", &capture), ("letters", &letters), ("log", &oplogue.log().into_bytes())]
    {
        assert!(!holds(bytes, SECRET), "{kind}: {place} holds what was redacted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_redacted_leaks_from_the_oplog() {
    nothing_leaks("mongo-oplog", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_redacted_leaks_from_a_change_stream() {
    nothing_leaks(
        "mongo-change-stream",
        "full_document = \"update-lookup\"\nfull_document_before_change = \"when-available\"",
    )
    .await;
}

/// Documents that were looked up go through the transforms behind like all others.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_looked_up_is_redacted_too() {
    let mongo = servers::mongo().await;
    let db = unique("enrich");
    let mut oplogue = Oplogue::new(&format!(
        r#"
        {}
        [transforms.mine]
        type = "filter"
        namespaces = ["{db}.users"]
        operations = ["update", "delete"]
        [transforms.full]
        type = "enrich"
        uri = "{}"
        [transforms.names]
        type = "rename"
        fields = [{{ from = "nick", to = "name" }}]
        [transforms.no-pii]
        type = "redact"
        fields = ["ssn"]
        [sinks.out]
        type = "stdout"
        [sinks.capture]
        type = "file"
        path = "DIR/capture.bson"
        [sinks.letters]
        type = "file"
        path = "DIR/letters.bson"
        [[routes]]
        from = ["a"]
        via = ["mine", "full", "names", "no-pii"]
        to = ["out", "capture"]
        on_bad_event = "dead-letter"
        dead_letter = "letters"
        "#,
        source("mongo-oplog", &mongo.uri()),
        mongo.uri()
    ));
    let text = std::fs::read_to_string(oplogue.config()).unwrap();
    std::fs::write(oplogue.config(), text.replace("DIR", oplogue.dir.path().to_str().unwrap())).unwrap();
    let checked = run(&["check", oplogue.config().to_str().unwrap(), "--connect"]).await.expect(0).stdout;
    assert!(checked.contains("transform full (enrich)\n  ✓ the server answers\n"), "{checked}");
    assert!(!checked.contains("transform mine"), "it asks nobody: {checked}");
    oplogue.start();
    let users = mongo.client().await.database(&db).collection::<Document>("users");
    // The second one cannot be renamed, which is found out when its document is there.
    for (id, more) in [(1, doc! {}), (2, doc! {"name": "Joe too"})] {
        let mut full = doc! {"_id": id, "nick": "Joe", "ssn": SECRET};
        full.extend(more);
        users.insert_one(full).await.unwrap();
        users.update_one(doc! {"_id": id}, doc! {"$set": {"n": 1}}).await.unwrap();
    }
    oplogue.wait("the update", |o| !o.events().is_empty());
    users.delete_one(doc! {"_id": 1}).await.unwrap();
    let letters = oplogue.dir.path().join("letters.bson");
    oplogue.wait("the deletion and the letters of both routes", |o| {
        let letters = std::fs::read(&letters).unwrap_or_default();
        o.events().iter().any(|e| e["op"] == "delete") && letters.windows(7).filter(|w| w == b"Joe too").count() == 2
    });
    assert!(oplogue.terminate().success());
    assert_eq!(oplogue.events()[0]["after"], json!({"_id": 1, "name": "Joe", "n": 1}));
    let read = |path: std::path::PathBuf| std::fs::read(path).unwrap();
    for file in [letters, oplogue.dir.path().join("capture.bson"), oplogue.stdout()] {
        let bytes = read(file.clone());
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{file:?} holds what was redacted");
    }
    assert!(!oplogue.log().contains(SECRET) && !oplogue.log().contains("panicked"), "{}", oplogue.log());
}

/// A backlog of many batches asks once for the documents that it changes again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_asks_once_for_a_document() {
    let mongo = servers::mongo().await;
    let db = unique("enrich");
    let mut oplogue = Oplogue::new(&format!(
        "{}batch_size = 50\n[transforms.mine]\ntype = \"filter\"\nnamespaces = [\"{db}.c\"]\noperations = [\"update\"]\n\
         [transforms.full]\ntype = \"enrich\"\nuri = \"{}\"\n[sinks.out]\ntype = \"stdout\"\n\
         [[routes]]\nfrom = [\"a\"]\nvia = [\"mine\", \"full\"]\nto = [\"out\"]\n",
        source("mongo-oplog", &mongo.uri()),
        mongo.uri()
    ));
    oplogue.start();
    assert!(oplogue.terminate().success());
    let database = mongo.client().await.database(&db);
    let c = database.collection::<Document>("c");
    database.run_command(doc! {"profile": 2}).await.unwrap();
    for id in 0..10 {
        c.insert_one(doc! {"_id": id, "n": 0}).await.unwrap();
    }
    for n in 1..=50 {
        c.update_many(doc! {}, doc! {"$set": {"n": n}}).await.unwrap();
    }
    oplogue.start();
    oplogue.wait("all updates", |o| o.events().len() == 500);
    assert!(oplogue.terminate().success());
    assert!(oplogue.events().iter().all(|e| e["after"]["n"] == 50), "{:?}", oplogue.events()[0]);
    let profile = database.collection::<Document>("system.profile");
    let finds =
        profile.count_documents(doc! {"op": "query", "appName": "oplogue full", "command.find": "c"}).await.unwrap();
    assert_eq!(finds, 1);
}
