//! Each kind of DDL, there and back.

use bson::{Document, doc};

use super::support::{Pair, names};

const OPLOG: &str = "mongo-oplog";

#[tokio::test]
async fn from_4_4_to_5_0() {
    common(Pair::new("4.4.2", "5.0.4", OPLOG).await).await;
}

#[tokio::test]
async fn from_5_0_to_6_0() {
    common(Pair::new("5.0.4", "6.0.5", OPLOG).await).await;
}

#[tokio::test]
async fn from_6_0_to_4_4() {
    common(Pair::new("6.0.5", "4.4.2", OPLOG).await).await;
}

#[tokio::test]
async fn by_change_streams() {
    common(Pair::new("6.0.5", "6.0.27", "mongo-change-stream").await).await;
}

async fn common(mut p: Pair) {
    collections(&mut p).await;
    indexes(&mut p).await;
    changes(&mut p).await;
    views(&mut p).await;
    renames(&mut p).await;
    drops(&mut p).await;
    copies(&mut p).await;
    database(&mut p).await;
}

async fn collections(p: &mut Pair) {
    p.run_a(doc! {"create": "x"}).await;
    p.everything("create").await;
    p.run_a(doc! {"create": "capped", "capped": true, "size": 5000, "max": 10}).await;
    p.everything("capped").await;
    p.run_a(doc! {"create": "german", "collation": {"locale": "de", "strength": 2}}).await;
    p.everything("collation").await;
    let validator = doc! {"$jsonSchema": {"required": ["a"], "properties": {"a": {"bsonType": "int"}}}};
    p.run_a(
        doc! {"create": "valid", "validator": validator, "validationLevel": "moderate", "validationAction": "warn"},
    )
    .await;
    p.everything("validator").await;
    p.at_a("implicit").insert_one(doc! {"_id": 1}).await.unwrap();
    p.everything("implicit").await;
}

async fn indexes(p: &mut Pair) {
    let specs = |n: &str| -> Vec<Document> {
        let name = |kind: &str| format!("{kind}{n}");
        vec![
            doc! {"key": {"u": 1, "w": -1}, "name": name("unique"), "unique": true},
            doc! {"key": {"s": 1}, "name": name("sparse"), "sparse": true},
            doc! {"key": {"p": 1}, "name": name("partial"), "partialFilterExpression": {"q": {"$gt": 5}}},
            doc! {"key": {"t": 1}, "name": name("ttl"), "expireAfterSeconds": 3600},
            doc! {"key": {"c": 1}, "name": name("collation"), "collation": {"locale": "fr"}},
            doc! {"key": {"text": "text", "more": "text"}, "name": name("text"), "weights": {"text": 5}, "default_language": "german"},
            doc! {"key": {"g": "2dsphere"}, "name": name("geo")},
            doc! {"key": {"f": "2d"}, "name": name("flat"), "bits": 20, "min": -10, "max": 10},
            doc! {"key": {"h": "hashed"}, "name": name("hashed")},
            doc! {"key": {"$**": 1}, "name": name("wild"), "wildcardProjection": {"a": 1}},
            doc! {"key": {"hidden": 1}, "name": name("hidden"), "hidden": true},
        ]
    };
    p.run_a(doc! {"createIndexes": "x", "indexes": specs("")}).await;
    p.everything("indexes of an empty collection").await;
    p.run_a(doc! {"create": "full"}).await;
    p.everything("create full").await;
    for coll in [p.at_a("full"), p.at_b("full")] {
        coll.insert_one(doc! {"_id": 1, "text": "hallo"}).await.unwrap();
    }
    p.run_a(doc! {"createIndexes": "full", "indexes": specs("2")}).await;
    p.everything("indexes of a collection with documents").await;
    p.run_a(doc! {"dropIndexes": "full", "index": "sparse2"}).await;
    p.everything("dropIndexes").await;
    p.run_a(doc! {"dropIndexes": "full", "index": "*"}).await;
    p.everything("dropIndexes of all").await;
    // Where there are no documents, the target logs each index by itself.
    p.at_b("full").delete_many(doc! {}).await.unwrap();
    p.run_a(doc! {"createIndexes": "full", "indexes": specs("3")}).await;
    p.everything("indexes that come together and are made one by one").await;
}

async fn changes(p: &mut Pair) {
    p.run_a(doc! {"collMod": "x", "index": {"name": "ttl", "expireAfterSeconds": 7200}}).await;
    p.everything("ttl").await;
    p.run_a(doc! {"collMod": "x", "index": {"keyPattern": {"s": 1}, "hidden": true}}).await;
    p.everything("hidden").await;
    p.run_a(doc! {"collMod": "x", "index": {"name": "sparse", "hidden": false}}).await;
    p.everything("not hidden").await;
    p.run_a(doc! {"collMod": "valid", "validator": {"b": {"$exists": true}}, "validationLevel": "strict"}).await;
    p.everything("another validator").await;
    p.run_a(doc! {"collMod": "valid", "validator": {}, "validationAction": "error"}).await;
    p.everything("no validator").await;
}

async fn views(p: &mut Pair) {
    let pipeline = |n: i32| vec![doc! {"$match": {"a": n}}];
    p.run_a(doc! {"create": "view", "viewOn": "x", "pipeline": pipeline(1), "collation": {"locale": "de"}}).await;
    p.everything("view").await;
    p.run_a(doc! {"collMod": "view", "viewOn": "x", "pipeline": pipeline(2)}).await;
    p.everything("another view").await;
    p.run_a(doc! {"drop": "view"}).await;
    p.everything("drop of a view").await;
    p.run_a(doc! {"create": "view2", "viewOn": "x", "pipeline": pipeline(1)}).await;
    p.everything("a view that stays").await;
}

async fn renames(p: &mut Pair) {
    let admin = p.a.client.database("admin");
    let full = |coll: &str| p.ns(coll).as_str().to_owned();
    let rename =
        |from: &str, to: &str, over: bool| doc! {"renameCollection": full(from), "to": full(to), "dropTarget": over};
    let (away, over, back) =
        (rename("implicit", "renamed", false), rename("renamed", "german", true), rename("german", "implicit", false));
    admin.run_command(away).await.unwrap();
    p.everything("rename").await;
    let before = p.ab.kinds().of(&p.ns("german")).await.unwrap();
    assert!(before.takes_transactions());
    admin.run_command(over).await.unwrap();
    p.everything("rename onto another").await;
    admin.run_command(back).await.unwrap();
    p.everything("rename back").await;
}

async fn drops(p: &mut Pair) {
    p.run_a(doc! {"drop": "full"}).await;
    p.everything("drop").await;
    // The echo of the drop comes when there is a new collection of that name.
    p.at_a("phoenix").insert_one(doc! {"_id": 1}).await.unwrap();
    p.run_a(doc! {"createIndexes": "phoenix", "indexes": [{"key": {"a": 1}, "name": "a"}]}).await;
    p.run_a(doc! {"drop": "phoenix"}).await;
    p.at_a("phoenix").insert_one(doc! {"_id": 2}).await.unwrap();
    p.everything("drop and create").await;
    assert_eq!(p.at_a("phoenix").count_documents(doc! {}).await.unwrap(), 1);
    let names: Vec<_> = p.a.state(&p.db).await.into_iter().filter(|c| c.0 == "phoenix").map(|c| c.3.len()).collect();
    assert_eq!(names, [1], "the index of the old one has come back");
}

async fn copies(p: &mut Pair) {
    p.run_a(doc! {"create": "grow"}).await;
    p.everything("create").await;
    for coll in [p.at_a("grow"), p.at_b("grow")] {
        coll.insert_many((0..5).map(|n| doc! {"_id": n})).await.unwrap();
    }
    p.run_a(doc! {"convertToCapped": "grow", "size": 10_000}).await;
    p.everything("convertToCapped").await;
    assert_eq!(p.at_b("grow").count_documents(doc! {}).await.unwrap(), 5);

    let out = vec![doc! {"$out": "out"}];
    p.run_a(doc! {"aggregate": "grow", "pipeline": out, "cursor": {}}).await;
    let outcomes = names(&p.forth().await);
    assert!(outcomes.len() == 1 && outcomes[0].ends_with("Resync out"), "{outcomes:?}");

    let to = format!("{}.moved", p.other);
    let rename = doc! {"renameCollection": p.ns("out").as_str(), "to": to};
    p.a.client.database("admin").run_command(rename).await.unwrap();
    let outcomes = names(&p.forth().await);
    assert!(outcomes.iter().any(|o| o.ends_with("Resync moved")), "{outcomes:?}");
    p.back().await;
}

async fn database(p: &mut Pair) {
    p.run_a(doc! {"dropDatabase": 1}).await;
    p.everything("dropDatabase").await;
    assert_eq!(p.b.state(&p.db).await, []);
}

#[tokio::test]
async fn what_only_newer_servers_have() {
    for (a, kind) in [("6.0.5", OPLOG), ("6.0.5", "mongo-change-stream")] {
        let mut p = Pair::new(a, "6.0.27", kind).await;
        let clustered = doc! {"key": {"_id": 1}, "unique": true, "name": "by_id"};
        p.run_a(doc! {"create": "clustered", "clusteredIndex": clustered, "expireAfterSeconds": 1000}).await;
        p.everything("clustered").await;
        p.run_a(doc! {"create": "images", "changeStreamPreAndPostImages": {"enabled": true}}).await;
        p.everything("images").await;
        p.run_a(doc! {"collMod": "images", "changeStreamPreAndPostImages": {"enabled": false}}).await;
        p.everything("no images").await;
        let series = doc! {"timeField": "at", "metaField": "m", "granularity": "minutes"};
        p.run_a(doc! {"create": "series", "timeseries": series, "expireAfterSeconds": 1000}).await;
        p.everything("time series").await;
        p.run_a(doc! {"drop": "series"}).await;
        p.everything("drop of a time series").await;
    }
    let mut p = Pair::new("5.0.4", "6.0.5", OPLOG).await;
    p.run_a(doc! {"create": "series", "timeseries": {"timeField": "at"}}).await;
    p.everything("time series of 5.0").await;
    p.run_a(doc! {"dropDatabase": 1}).await;
    p.everything("dropDatabase").await;
}

/// They show less: no collections and indexes that are made, and not whether a rename has dropped another collection.
#[tokio::test]
async fn change_streams_before_6_0() {
    for version in ["4.4.2", "5.0.4"] {
        let mut p = Pair::new(version, "6.0.5", "mongo-change-stream").await;
        for coll in ["x", "y", "z"] {
            p.run_a(doc! {"create": coll}).await;
            p.run_b(doc! {"create": coll}).await;
        }
        assert!(p.events_a().await.is_empty());
        p.back().await;
        let rename = doc! {"renameCollection": p.ns("x").as_str(), "to": p.ns("y").as_str(), "dropTarget": true};
        p.a.client.database("admin").run_command(rename).await.unwrap();
        let outcomes = names(&p.forth().await);
        assert!(outcomes.iter().any(|o| o == "rename x: Applied"), "{outcomes:?}");
        p.run_a(doc! {"drop": "y"}).await;
        assert_eq!(names(&p.forth().await), ["drop y: Applied"]);
        p.assert_equal(version).await;
        p.run_a(doc! {"dropDatabase": 1}).await;
        assert_eq!(names(&p.forth().await), ["drop z: Applied", "dropDatabase : AlreadySo"]);
        let back = names(&p.back().await);
        assert!(back.len() >= 3 && back.iter().all(|o| o.ends_with("Echo")), "{back:?}");
        assert!(p.events_a().await.is_empty());
    }
}

#[tokio::test]
async fn collections_that_are_created_in_a_transaction() {
    for (version, kind) in [("4.4.2", OPLOG), ("6.0.5", OPLOG), ("6.0.5", "mongo-change-stream")] {
        let mut p = Pair::new(version, "6.0.27", kind).await;
        let mut session = p.a.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for coll in ["x", "y"] {
            let coll = p.at_a(coll);
            coll.insert_one(doc! {"_id": 1}).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
        p.everything("created in a transaction").await;
        assert_eq!(p.b.state(&p.db).await.len(), 2);
    }
}
