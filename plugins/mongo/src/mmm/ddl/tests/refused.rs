//! What contradicts the target, and what the options say.

use bson::{Document, doc};
use oplogue_api::ErrorKind;

use super::support::{Pair, apply, names};
use crate::mmm::ddl::{Applier, Ddl, DdlPolicy, Outcome, kind::CollectionKind};

async fn pair() -> Pair {
    Pair::new("6.0.5", "4.4.2", "mongo-oplog").await
}

/// The one event of A is refused; gives the record.
async fn refused(p: &mut Pair, what: &str) -> Document {
    let before = p.b.state(&p.db).await;
    let mut outcomes = p.forth().await;
    assert_eq!(outcomes.len(), 1, "{what}: {:?}", names(&outcomes));
    let Some((_, Outcome::Refused(refusal))) = outcomes.pop() else { panic!("{what}: {:?}", names(&outcomes)) };
    assert_eq!(p.b.state(&p.db).await, before, "{what}");
    let record = refusal.record;
    for field in ["_id", "at", "link", "ns", "kind", "local", "remote", "error", "status"] {
        assert!(record.contains_key(field), "{what}: {record}");
    }
    assert_eq!(record.get_str("kind").unwrap(), "ddl");
    // Nothing of it is left to be taken for an echo.
    let ns = record.get_str("ns").unwrap();
    assert_eq!(p.ledger_b().count_documents(doc! {"ns": ns, "state": "running"}).await.unwrap(), 0, "{what}");
    record
}

#[tokio::test]
async fn contradictions() {
    let mut p = pair().await;
    for coll in ["x", "dup", "view", "dropped"] {
        p.run_a(doc! {"create": coll}).await;
    }
    p.everything("create").await;

    p.run_b(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "i", "sparse": true}]}).await;
    p.run_a(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "i"}]}).await;
    refused(&mut p, "an index with other options").await;
    p.run_a(doc! {"dropIndexes": "x", "index": "i"}).await;
    p.run_a(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "other", "sparse": true}]}).await;
    let outcomes = names(&p.forth().await);
    assert_eq!(outcomes, ["index x: Applied", "index x: Applied"], "the drop makes place for it");

    p.at_b("dup").insert_many([doc! {"_id": 1, "u": 1}, doc! {"_id": 2, "u": 1}]).await.unwrap();
    p.run_a(doc! {"createIndexes": "dup", "indexes": [{"key": {"u": 1}, "name": "u", "unique": true}]}).await;
    let record = refused(&mut p, "a unique index over duplicates").await;
    assert_eq!(record.get_document("error").unwrap().get_i32("code").unwrap(), 11000);

    p.run_b(doc! {"create": "mine", "capped": true, "size": 4096}).await;
    p.run_a(doc! {"create": "mine"}).await;
    refused(&mut p, "a collection with other options").await;

    p.run_a(doc! {"create": "clustered", "clusteredIndex": {"key": {"_id": 1}, "unique": true}}).await;
    refused(&mut p, "an option that the target does not know").await;

    // The target's is another one by now.
    p.run_b(doc! {"drop": "dropped"}).await;
    p.run_b(doc! {"create": "dropped"}).await;
    p.run_a(doc! {"drop": "dropped"}).await;
    refused(&mut p, "a drop of a collection that was made anew").await;

    p.run_b(doc! {"drop": "view"}).await;
    p.run_b(doc! {"create": "view", "viewOn": "x", "pipeline": []}).await;
    p.run_a(doc! {"drop": "view"}).await;
    refused(&mut p, "a drop of a collection where there is a view").await;

    p.run_b(doc! {"create": "taken"}).await;
    let rename = doc! {"renameCollection": p.ns("x").as_str(), "to": p.ns("taken").as_str()};
    p.a.client.database("admin").run_command(rename).await.unwrap();
    refused(&mut p, "a rename to a name that is taken").await;

    p.run_a(doc! {"dropDatabase": 1}).await;
    let outcomes = names(&p.forth().await);
    assert!(outcomes[outcomes.len() - 1].contains("dropDatabase : Refused"), "{outcomes:?}");
    assert!(p.b.state(&p.db).await.iter().any(|c| c.0 == "taken"));
}

#[tokio::test]
async fn the_options_say_what_is_applied() {
    let mut p = pair().await;
    p.run_a(doc! {"create": "x"}).await;
    p.everything("create").await;
    p.run_a(doc! {"createIndexes": "x", "indexes": [{"key": {"a": 1}, "name": "a"}]}).await;
    p.run_a(doc! {"drop": "x"}).await;
    let events = p.events_a().await;
    let with =
        |changes, drops| Applier::new(p.ab.link.clone(), DdlPolicy { changes, drops }, false, &p.a.client, &p.b.client);
    let ignoring = with(Ddl::Ignore, Ddl::Ignore);
    assert_eq!(names(&apply(&ignoring, &events).await), ["index x: Ignored", "drop x: Ignored"]);
    for (applier, at) in [(with(Ddl::Stop, Ddl::Apply), 0), (with(Ddl::Apply, Ddl::Stop), 1)] {
        let e = applier.apply(&events[at]).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Operator);
        assert!(e.get_hint().is_some_and(|hint| hint.contains("ignore")));
    }
    // Echoes do not stop anything.
    let back = Applier::new(
        p.ba.link.clone(),
        DdlPolicy { changes: Ddl::Stop, drops: Ddl::Stop },
        false,
        &p.b.client,
        &p.a.client,
    );
    apply(&p.ab, &events).await;
    let events = p.events_b().await;
    assert_eq!(names(&apply(&back, &events).await), ["index x: Echo", "drop x: Echo"]);
}

#[tokio::test]
async fn the_kind_of_a_collection() {
    let mut p = Pair::new("5.0.4", "6.0.5", "mongo-oplog").await;
    p.run_b(doc! {"create": "x"}).await;
    p.run_b(doc! {"create": "capped", "capped": true, "size": 8192, "max": 5}).await;
    p.run_b(doc! {"create": "view", "viewOn": "x", "pipeline": []}).await;
    p.run_b(doc! {"create": "series", "timeseries": {"timeField": "at"}}).await;
    for (coll, kind, transactions) in [
        ("x", CollectionKind::Plain, true),
        ("capped", CollectionKind::Capped { size: 8192, max: Some(5) }, false),
        ("view", CollectionKind::View, false),
        ("series", CollectionKind::TimeSeries, false),
        ("none", CollectionKind::Missing, true),
    ] {
        let found = p.ab.kinds().of(&p.ns(coll)).await.unwrap();
        assert_eq!((found, found.takes_transactions()), (kind, transactions), "{coll}");
    }
    // The link's own DDL is seen.
    p.run_a(doc! {"create": "x"}).await;
    p.run_a(doc! {"convertToCapped": "x", "size": 4096}).await;
    p.forth().await;
    let kind = p.ab.kinds().of(&p.ns("x")).await.unwrap();
    assert_eq!(kind, CollectionKind::Capped { size: 4096, max: None });
}
