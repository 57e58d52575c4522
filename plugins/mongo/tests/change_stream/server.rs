//! What a server can do, and what `check` says of it.

use super::*;

#[tokio::test]
async fn what_an_old_server_lacks_is_left_out_or_said() {
    let mongo = servers::mongo_version("4.4.2").await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let mut r = Reader::open(KIND, &mongo.uri(), &database(&db), StartAt::Now).await;
    let c = coll(&client, &db, "c").await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    r.count(2).await;
    assert_eq!(r.events.iter().map(|e| e.op).collect::<Vec<_>>(), [Op::Insert, Op::Update]);
    assert!(matches!(r.events[1].change, Some(Change::ChangeStream(_))));
    let raw = database(&db) + "update_description = \"raw\"";
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &raw, StartAt::Now).await else { panic!("opened") };
    assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some("update_description")), "{e}");
    let images = database(&db) + "full_document = \"required\"";
    let Err(e) = Reader::try_open(KIND, &mongo.uri(), &images, StartAt::Now).await else { panic!("opened") };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
}

#[tokio::test]
async fn images_come_where_they_are_stored() {
    let mongo = servers::mongo().await;
    let (client, db) = (mongo.client().await, unique("cs"));
    let images = doc! {"create": "c", "changeStreamPreAndPostImages": {"enabled": true}};
    client.database(&db).run_command(images).await.unwrap();
    let c = client.database(&db).collection::<Document>("c");
    let required = "full_document = \"required\"\nfull_document_before_change = \"required\"\n";
    let mut source = build(KIND, &mongo.uri(), &(scope(&db, "c") + required)).unwrap();
    assert!(errors(&source.check().await).is_empty());
    let mut r = Reader::open(KIND, &mongo.uri(), &(database(&db) + required), StartAt::Now).await;
    insert(&c, [1]).await;
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 1}}).await.unwrap();
    c.update_one(doc! {"_id": 1}, doc! {"$set": {"a": 2}}).await.unwrap();
    r.count(3).await;
    // As it was then, not as it is now.
    assert_eq!(document(r.events[1].after.as_ref().unwrap()), doc! {"_id": 1, "a": 1});
    assert_eq!(document(r.events[1].before.as_ref().unwrap()), doc! {"_id": 1});
    let bare = coll(&client, &db, "bare").await;
    insert(&bare, [1]).await;
    bare.delete_one(doc! {"_id": 1}).await.unwrap();
    let e = loop {
        if let Err(e) = r.step().await {
            break e;
        }
    };
    assert_eq!(e.kind(), ErrorKind::Operator, "{e}");
    assert!(e.get_hint().is_some_and(|hint| hint.contains("changeStreamPreAndPostImages")));
    let mut source = build(KIND, &mongo.uri(), &(database(&db) + required)).unwrap();
    let findings = source.check().await;
    assert!(errors(&findings).iter().any(|f| f.what.contains(&format!("{db}.bare"))), "{findings:?}");
}

#[tokio::test]
async fn check_names_what_is_missing() {
    let lone = Mongo::start(MongoOptions { standalone: true, ..Default::default() }).await;
    let mut source = build(KIND, &lone.direct_uri(&lone.addr(0)), "").unwrap();
    let findings = source.check().await;
    assert!(errors(&findings)[0].what.contains("standalone"), "{findings:?}");
    assert!(errors(&findings)[0].hint.as_ref().is_some_and(|h| h.contains("--replSet")));
    let Err(e) = Reader::try_open(KIND, &lone.direct_uri(&lone.addr(0)), "", StartAt::Now).await else {
        panic!("opened")
    };
    assert_eq!(e.kind(), ErrorKind::Operator);

    let root = Credentials::new("root", "p@ss/word");
    let mongo = Mongo::start(MongoOptions { auth: Some(root), ..Default::default() }).await;
    let reader = Credentials::new("reader", "secret");
    mongo.add_user(&reader, vec![doc! {"role": "read", "db": "mine"}]).await;
    let mut mine = build(KIND, &mongo.uri_of(Some(&reader)), "database = \"mine\"").unwrap();
    assert!(errors(&mine.check().await).is_empty());
    let mut all = build(KIND, &mongo.uri_of(Some(&reader)), "").unwrap();
    let findings = all.check().await;
    assert!(errors(&findings)[0].what.contains("privilege"), "{findings:?}");
    assert!(errors(&findings)[0].hint.as_ref().is_some_and(|h| h.contains("changeStream")));
    let stranger = Credentials::new("reader", "hunter2");
    let mut source = build(KIND, &mongo.uri_of(Some(&stranger)), "").unwrap();
    let findings = source.check().await;
    assert!(errors(&findings)[0].what.contains("password"), "{findings:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
    let mut nowhere = build(KIND, "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300", "").unwrap();
    let findings = nowhere.check().await;
    assert_eq!(errors(&findings).len(), 1, "{findings:?}");
}
