//! The cases of oplogtoredis' own suite with Meteor: two apps, one writes and both see it; and what is known of the client's and
//! the protocol's limits.

use std::sync::Arc;

use bson::{Bson, Document, doc, oid::ObjectId};
use oplogue_api::{Event, Sink};
use oplogue_testkit::{sample, servers};

use super::{
    client::Client,
    ejson::parse,
    mongo::{Condition, Mongo, Query},
    observer::Said,
};
use crate::support::{Place, Subscriber, at, with_images, write};

/// A database, the sink, and two apps that show a collection.
struct Apps {
    place: Place,
    sink: Arc<dyn Sink>,
    subscriber: Subscriber,
    mongo: Mongo,
    clients: [Client; 2],
    heard: usize,
    n: u32,
}

impl Apps {
    async fn new(options: &str, query: Query, before: &[Document]) -> Apps {
        let redis = servers::redis().await;
        let place = Place::new(redis.url());
        let mut mongo = Mongo::default();
        for doc in before {
            mongo.put("tasks", &doc["_id"], Some(doc.clone()));
        }
        let clients = [(); 2].map(|()| {
            let mut client = Client::new(&place.ns(""), true);
            client.observe(&mongo, "tasks", query.clone());
            client
        });
        Apps {
            sink: place.sink_of(options),
            subscriber: Subscriber::of(&place, redis.client()).await,
            place,
            mongo,
            clients,
            heard: 0,
            n: 0,
        }
    }

    fn ns(&self) -> String {
        self.place.ns("tasks")
    }

    /// A method of the first app: writes, and runs its own observers at once, before the message comes.
    async fn method(&mut self, event: Event, own: &str, id: impl Into<Bson>, after: Option<Document>) {
        self.write(event, id, after).await;
        let channel = self.ns();
        self.clients[0].receive(&self.mongo, &channel, own).unwrap();
        let own = self.said(0);
        self.deliver().await;
        assert_eq!(self.said(0), own, "the message repeats what the app has seen");
    }

    async fn write(&mut self, event: Event, id: impl Into<Bson>, after: Option<Document>) {
        self.mongo.put("tasks", &id.into(), after);
        write(&self.sink, &[at(self.n, event)], self.n).await;
        self.n += 1;
    }

    async fn deliver(&mut self) {
        let messages = self.subscriber.all().await;
        for (channel, text) in &messages[self.heard..] {
            for client in &mut self.clients {
                client.receive(&self.mongo, channel, text).unwrap();
            }
        }
        self.heard = messages.len();
    }

    fn said(&self, app: usize) -> Vec<Said> {
        self.clients[app].observers[0].said.clone()
    }

    fn both_said(&self, expected: &[Said]) {
        assert_eq!((self.said(0), self.said(1)), (expected.to_vec(), expected.to_vec()));
    }
}

fn two(n: i32) -> Document {
    doc! {"_id": "t1", "n": n}
}

#[tokio::test]
async fn meteor_insert() {
    let mut apps = Apps::new("", Query::default(), &[]).await;
    let event = sample::insert(&apps.ns(), two(1));
    apps.method(event, r#"{"e":"i","d":{"_id":"t1"}}"#, "t1", Some(two(1))).await;
    apps.both_said(&[Said::Added("t1".into(), doc! {"_id": "t1", "n": 1.0})]);
}

#[tokio::test]
async fn meteor_update() {
    let mut apps = Apps::new("", Query::default(), &[two(1)]).await;
    let event = sample::update(&apps.ns(), "t1", doc! {"n": 2});
    apps.method(event, r#"{"e":"u","d":{"_id":"t1"},"f":["n"]}"#, "t1", Some(two(2))).await;
    apps.both_said(&[Said::Changed("t1".into(), doc! {"n": 2.0})]);
}

#[tokio::test]
async fn meteor_remove() {
    let mut apps = Apps::new("", Query::default(), &[two(1)]).await;
    let event = sample::delete(&apps.ns(), "t1");
    apps.method(event, r#"{"e":"r","d":{"_id":"t1"}}"#, "t1", None).await;
    apps.both_said(&[Said::Removed("t1".into())]);
}

#[tokio::test]
async fn meteor_inc_of_an_object_id() {
    let id = ObjectId::parse_str("5ae7d0042b2acc1f1796c0b6").unwrap();
    let task = |n: i32| doc! {"_id": id, "n": n};
    for query in [Query::default(), Query { ids: Some(vec![id.into()]), ..Query::default() }] {
        let mut apps = Apps::new("", query, &[task(1)]).await;
        let event = sample::update(&apps.ns(), id, doc! {"n": 2});
        apps.write(event, id, Some(task(2))).await;
        apps.deliver().await;
        apps.both_said(&[Said::Changed(id.into(), doc! {"n": 2.0})]);
    }
}

#[tokio::test]
async fn meteor_inc_in_an_array() {
    let task = |n: i32| doc! {"_id": "t1", "list": [{"v": 1}, {"v": n}]};
    for fields in ["top-level", "logged", "deep"] {
        let mut apps = Apps::new(&format!("fields = '{fields}'"), Query::default(), &[task(1)]).await;
        let diff = doc! {"slist": {"a": true, "s1": {"u": {"v": 2}}}};
        let change = oplogue_api::Change::OplogV2(bson::RawDocumentBuf::try_from(&diff).unwrap().into());
        let event = Event { change: Some(change), ..sample::update(&apps.ns(), "t1", doc! {}) };
        apps.method(event, r#"{"e":"u","d":{"_id":"t1"},"f":["list"]}"#, "t1", Some(task(2))).await;
        apps.both_said(&[Said::Changed("t1".into(), doc! {"list": [{"v": 1.0}, {"v": 2.0}]})]);
    }
}

/// Mistakes of other publishers (tests/redis/meteor/mod.rs), row 10: with the document as it was before, a sorted list hears that its field has
/// gone; without it, nobody can tell.
#[tokio::test]
async fn a_replacement_that_drops_the_field_of_a_sorted_list() {
    let sorted = Query { sort: vec![("n", true)], limit: Some(1), ..Query::default() };
    let other = doc! {"_id": "t2", "n": 1};
    for known in [true, false] {
        let mut apps = Apps::new("", sorted.clone(), &[two(5), other.clone()]).await;
        let new = doc! {"_id": "t1", "m": 1};
        let event = with_images(sample::replace(&apps.ns(), new.clone()), known.then(|| two(5)), None);
        apps.write(event, "t1", Some(new)).await;
        apps.deliver().await;
        let right = apps.clients[1].observers[0].docs() == apps.mongo.find("tasks", &sorted);
        assert_eq!(right, known);
    }
}

/// Mistake 9: a sort on a field of array elements does not recognise a deep path.
#[tokio::test]
async fn deep_paths_miss_a_sort_in_an_array_and_top_level_names_do_not() {
    let sorted = Query { sort: vec![("list.v", true)], limit: Some(1), ..Query::default() };
    let task = |id: &str, n: i32| doc! {"_id": id, "list": [{"v": n}]};
    for (fields, right) in [("top-level", true), ("logged", true), ("deep", false)] {
        let before = [task("t1", 5), task("t2", 3)];
        let mut apps = Apps::new(&format!("fields = '{fields}'"), sorted.clone(), &before).await;
        let diff = doc! {"slist": {"a": true, "s0": {"u": {"v": 1}}}};
        let change = oplogue_api::Change::OplogV2(bson::RawDocumentBuf::try_from(&diff).unwrap().into());
        let event = Event { change: Some(change), ..sample::update(&apps.ns(), "t1", doc! {}) };
        apps.write(event, "t1", Some(task("t1", 1))).await;
        apps.deliver().await;
        let has = apps.clients[1].observers[0].docs();
        assert_eq!(has == apps.mongo.find("tasks", &sorted), right, "{fields}");
    }
}

/// Mistake 6. And the limit of it: an app that reads for itself, and finds nothing because the document was deleted
/// after it moved, does not hear of the deletion where the document was.
#[tokio::test]
async fn a_document_that_moves_leaves_the_namespace_it_was_in() {
    let table = "collections = [{ match = 'DB.tasks', namespaces = ['company::{companyId}'] }]";
    let of_c9 = Query {
        conditions: vec![Condition::Is("companyId", "c9".into())],
        namespaces: vec!["company::c9".into()],
        ..Query::default()
    };
    let at_company = |name: &str| doc! {"_id": "t1", "companyId": name};
    for deleted_before_the_read in [false, true] {
        let mut apps = Apps::new(table, of_c9.clone(), &[at_company("c9")]).await;
        let event = sample::update(&apps.ns(), "t1", doc! {"companyId": "c10"});
        let moved = with_images(event, Some(at_company("c9")), Some(at_company("c10")));
        apps.write(moved, "t1", Some(at_company("c10"))).await;
        if deleted_before_the_read {
            let deleted = with_images(sample::delete(&apps.ns(), "t1"), Some(at_company("c10")), None);
            apps.write(deleted, "t1", None).await;
        }
        apps.deliver().await;
        let left = apps.clients[1].observers[0].docs().is_empty();
        assert_eq!(left, !deleted_before_the_read);
    }
}

/// What the client dies of, so that the random workloads would show it.
#[test]
fn what_ends_a_process() {
    for text in [
        "ping",
        "",
        r#"{"e":"i","d":{"_id":{"$type":"nope","$value":1}}}"#,
        r#"{"e":"i","d":{"_id":1,"r":{"$regexp":"(","$flags":""}}}"#,
        r#"{"e":"i","d":{"_id":1,"r":{"$regexp":"(?i)a","$flags":""}}}"#,
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(r#"{"e":"i","d":{"_id":1,"x":{"$escape":{"$type":"nope","$value":1}}}}"#).is_ok());
}

/// A message without a document, or one that is the app's own, does no harm.
#[test]
fn what_is_passed_over() {
    let mongo = Mongo::default();
    let mut client = Client::new("app.", true);
    client.observe(&mongo, "tasks", Query::default());
    for (text, thrown) in [
        (r#"{"e":"u","f":[]}"#, 1),
        (r#"{"e":"u","u":"me","d":{"_id":1},"f":[]}"#, 1),
        (r#"{"e":"u","d":{"_id":true},"f":[]}"#, 2),
        (r#"{"e":"u","d":{"_id":0},"f":[]}"#, 2),
    ] {
        client.receive(&mongo, "app.tasks", text).unwrap();
        assert_eq!(client.thrown.len(), thrown, "{text}");
    }
    assert!(client.receive(&mongo, "app.others", "ping").is_ok());
    assert!(client.receive(&mongo, "app.tasks", "ping").is_err());
}
