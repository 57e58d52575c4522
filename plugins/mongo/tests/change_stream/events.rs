//! What comes, and from where.

use super::*;

#[tokio::test]
async fn events_of_documents_are_normalised() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let mut r = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    c.insert_one(doc! {"_id": 1, "a": {"b": 1}}).await.unwrap();
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a.b": 2}}).await.unwrap();
    c.replace_one(doc! {"_id": 1}, doc! {"x": 1}).await.unwrap();
    c.delete_one(doc! {"_id": 1}).await.unwrap();
    r.count(4).await;
    let ops: Vec<Op> = r.events.iter().map(|e| e.op).collect();
    assert_eq!(ops, [Op::Insert, Op::Update, Op::Replace, Op::Delete]);
    assert!(r.events.iter().all(|e| e.ns == Namespace::of(&db, "c") && e.wall.is_some() && e.txn.is_none()));
    assert_eq!(int_ids(&r.events), [1, 1, 1, 1]);
    assert_eq!(document(r.events[0].after.as_ref().unwrap()), doc! {"_id": 1, "a": {"b": 1}});
    assert!(matches!(r.events[1].change, Some(Change::OplogV2(_))), "6.0 gives the exact diff");
    assert!(r.events[1].after.is_none(), "not asked for");
    assert_eq!(document(r.events[2].after.as_ref().unwrap()), doc! {"_id": 1, "x": 1});
    assert!(r.events[3].after.is_none() && r.events[3].change.is_none());
}

#[tokio::test]
async fn scopes_show_what_lies_in_them() {
    let mongo = servers::mongo().await;
    let client = mongo.client().await;
    let (a, b) = (unique("cs"), unique("cs"));
    let (ax, ay, bx) = (coll(&client, &a, "x").await, coll(&client, &a, "y").await, coll(&client, &b, "x").await);
    let mut one = Reader::open(KIND, &mongo.uri(), &scope(&a, "x"), StartAt::Now).await;
    let mut db = Reader::open(KIND, &mongo.uri(), &database(&a), StartAt::Now).await;
    let mut all = Reader::open(KIND, &mongo.uri(), "await = \"100ms\"", StartAt::Now).await;
    insert(&bx, [1]).await;
    insert(&ay, [2]).await;
    insert(&ax, [3]).await;
    one.count(1).await;
    db.count(2).await;
    // Other tests write too.
    let mine = |r: &Reader| -> Vec<Event> {
        r.events.iter().filter(|e| e.op == Op::Insert && [&a, &b].iter().any(|d| e.ns.db() == *d)).cloned().collect()
    };
    all.until("three inserts", |r| mine(r).len() == 3).await;
    assert_eq!(int_ids(&one.events), [3]);
    assert_eq!(int_ids(&db.events), [2, 3]);
    assert_eq!(int_ids(&mine(&all)), [1, 2, 3]);
}

#[tokio::test]
async fn the_index_counts_operations_outside_the_scope_too() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let (x, y) = (coll(&client, &db, "x").await, coll(&client, &db, "y").await);
    let mut r = Reader::open(KIND, &mongo.uri(), &scope(&db, "y"), StartAt::Now).await;
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 0..3 {
        x.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
        y.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    r.count(3).await;
    assert_eq!(r.events.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 3, 5]);
}

#[tokio::test]
async fn classic_descriptions_on_request() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let c = coll(&client, &db, "c").await;
    let toml = scope(&db, "c") + "update_description = \"classic\"";
    let mut r = Reader::open(KIND, &mongo.uri(), &toml, StartAt::Now).await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    r.count(2).await;
    assert!(matches!(r.events[1].change, Some(Change::ChangeStream(_))));
}

#[tokio::test]
async fn system_collections_are_shown_on_request_only() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let mut without = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    let system = database(&db) + "include_system = true";
    let mut with = Reader::open(KIND, &mongo.uri(), &system, StartAt::Now).await;
    let series = doc! {"create": "weather", "timeseries": {"timeField": "t"}};
    client.database(&db).run_command(series).await.unwrap();
    client.database(&db).collection("weather").insert_one(doc! {"t": bson::DateTime::now(), "c": 5}).await.unwrap();
    let plain = coll(&client, &db, "plain").await;
    insert(&plain, [1]).await;
    let last = |r: &Reader| r.events.iter().any(|e| e.op == Op::Insert && e.ns.coll() == "plain");
    without.until("the last insert", last).await;
    with.until("the last insert", last).await;
    assert!(without.events.iter().all(|e| !e.ns.is_system()), "{:?}", brief(&without.events));
    assert!(
        with.events.iter().any(|e| e.op == Op::Insert && e.ns.coll() == "system.buckets.weather"),
        "{:?}",
        brief(&with.events)
    );
    // The position of the one is good for the other, which shows less: resumed by time, and nothing comes twice.
    let (seen, end) = with.ends.iter().rev().find(|(n, _)| *n < with.events.len()).cloned().expect("an earlier end");
    let rest: Vec<_> = with.events[seen..].iter().filter(|e| !e.ns.is_system()).map(Event::id).collect();
    let mut again = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Position(&end)).await;
    again.count(rest.len()).await;
    assert_eq!(again.events.iter().map(Event::id).collect::<Vec<_>>(), rest);
}
