//! The plugins of this crate against the contract, clause by clause.

use std::sync::{Arc, Mutex};

use bson::Bson;
use futures_util::StreamExt;
use oplogue_api::{Change, CheckpointStore, Context, Event, Op, Options, Registry, Sink, async_trait};
use oplogue_testkit::{
    conformance::{self, Seen, SinkHarness, StoreHarness, sink},
    proxy::Proxy,
    sample, servers, unique, wait_for,
};

/// Plugins behind a proxy before the shared Redis, with keys of their own.
struct Place {
    proxy: Proxy,
    url: String,
    metadata_prefix: String,
    registry: Registry,
}

impl Place {
    async fn new() -> Place {
        let redis = servers::redis().await;
        let proxy = Proxy::start(redis.addr()).await;
        let mut registry = Registry::default();
        oplogue_redis::register(&mut registry);
        Place { url: redis.url_at(&proxy.addr()), proxy, metadata_prefix: unique("kit"), registry }
    }

    fn options(&self) -> Options {
        let mut table = toml::Table::new();
        table.insert("url".into(), self.url.clone().into());
        table.insert("metadata_prefix".into(), self.metadata_prefix.clone().into());
        Options::new(table)
    }

    fn context(&self, route: &str) -> Context {
        Context { name: "kit".into(), route: Some(route.into()), state_dir: "/nowhere".into(), ..Context::default() }
    }

    async fn damage(&self, key: &str) {
        let mut connection = servers::redis().await.connection().await;
        let _: () = redis::cmd("HSET").arg(key).arg("token").arg("damaged").query_async(&mut connection).await.unwrap();
    }
}

/// The store `redis`.
struct Alone(Place);

#[async_trait]
impl StoreHarness for Alone {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        (self.0.registry.stores["redis"].build)(&self.0.context("any"), &self.0.options()).unwrap()
    }
    async fn damage(&self, route: &str) -> bool {
        self.0.damage(&format!("{}checkpoint::{route}", self.0.metadata_prefix)).await;
        true
    }
    async fn disrupt(&self) -> bool {
        self.0.proxy.cut();
        true
    }
    async fn mend(&self) {
        self.0.proxy.heal();
    }
}

/// The store of the sink `redis-oplog`.
struct WithSink(Place);

#[async_trait]
impl StoreHarness for WithSink {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        let sink = (self.0.registry.sinks["redis-oplog"].build)(&self.0.context("any"), &self.0.options()).unwrap();
        sink.checkpoints().unwrap()
    }
    async fn damage(&self, route: &str) -> bool {
        self.0.damage(&format!("{}route::{route}", self.0.metadata_prefix)).await;
        true
    }
    async fn disrupt(&self) -> bool {
        self.0.proxy.cut();
        true
    }
    async fn mend(&self) {
        self.0.proxy.heal();
    }
}

#[tokio::test]
async fn the_store_alone() {
    let report = conformance::store(&Alone(Place::new().await)).await;
    assert!(report.skipped.is_empty(), "{report:?}");
}

#[tokio::test]
async fn the_store_with_the_sink() {
    let report = conformance::store(&WithSink(Place::new().await)).await;
    assert!(report.skipped.is_empty(), "{report:?}");
}

/// The sink, seen by a real subscriber of the collection's channel.
struct Publisher {
    place: Place,
    db: String,
    heard: Arc<Mutex<Vec<String>>>,
    /// Whether events without an id are among those that the kit writes.
    with_bad: bool,
}

impl Publisher {
    async fn new(with_bad: bool) -> Publisher {
        let db = unique("kit");
        let mut subscription = servers::redis().await.client().get_async_pubsub().await.unwrap();
        subscription.subscribe(format!("{db}.items")).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut messages = subscription.into_on_message();
            while let Some(message) = messages.next().await {
                list.lock().unwrap().push(message.get_payload::<String>().unwrap());
            }
        });
        Publisher { place: Place::new().await, db, heard, with_bad }
    }
}

/// The id as the message has it; `None` where Meteor knows no such id. For the ids that the kit uses.
fn ejson(id: &Bson) -> Option<String> {
    match id {
        Bson::String(text) => Some(format!("\"{text}\"")),
        Bson::ObjectId(oid) => Some(format!(r#"{{"$type":"oid","$value":"{oid}"}}"#)),
        Bson::Int32(n) => Some(n.to_string()),
        Bson::Int64(n) => Some(n.to_string()),
        Bson::Double(d) => Some(d.to_string()),
        _ => None,
    }
}

#[async_trait]
impl SinkHarness for Publisher {
    async fn sink(&self) -> Arc<dyn Sink> {
        (self.place.registry.sinks["redis-oplog"].build)(&self.place.context("kit"), &self.place.options()).unwrap()
    }

    async fn delivered(&self) -> Vec<Seen> {
        let end = unique("end");
        let mut connection = servers::redis().await.connection().await;
        let channel = format!("{}.items", self.db);
        let _: () = redis::cmd("PUBLISH").arg(channel).arg(&end).query_async(&mut connection).await.unwrap();
        wait_for("the marker", || async { self.heard.lock().unwrap().contains(&end) }).await;
        let mut heard = self.heard.lock().unwrap();
        heard.retain(|text| text.starts_with('{'));
        heard
            .iter()
            .map(|text| {
                let (what, key) = text.split_once(r#""d":{"_id":"#).unwrap();
                let (key, fields) = key.rsplit_once(r#"},"f":"#).unwrap();
                Seen { key: key.to_owned(), what: format!("{what}{fields}") }
            })
            .collect()
    }

    fn seen(&self, event: &Event) -> Option<Seen> {
        let names = |doc: &bson::RawDocument| {
            let names: Vec<_> = doc.iter_elements().map(|e| format!("\"{}\"", e.unwrap().key().as_str())).collect();
            names.join(",")
        };
        let (e, fields) = match (&event.op, &event.after, &event.change) {
            (Op::Insert, Some(after), _) => ('i', names(after)),
            (Op::Replace, Some(after), _) => ('u', names(after)),
            (Op::Update, _, Some(Change::OplogV2(diff))) => ('u', names(diff.get_document("u").unwrap())),
            (Op::Delete, ..) => ('r', String::new()),
            _ => return None,
        };
        let id: Bson = event.key.as_ref()?.get("_id").ok()??.try_into().ok()?;
        Some(Seen { key: ejson(&id)?, what: format!(r#"{{"e":"{e}",[{fields}]}}"#) })
    }

    fn ns(&self) -> String {
        format!("{}.items", self.db)
    }

    fn undeliverable(&self, id: &Bson) -> Option<Event> {
        // An insert that does not say what it inserted.
        let event = sample::insert(&self.ns(), bson::doc! {"_id": id.clone()});
        self.with_bad.then_some(Event { after: None, ..event })
    }

    async fn disrupt(&self) -> bool {
        self.place.proxy.cut();
        true
    }

    async fn mend(&self) {
        self.place.proxy.heal();
    }

    fn commits(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_sink() {
    let report = conformance::sink(&Publisher::new(false).await).await;
    // K9: one lane. K4: below.
    assert_eq!(report.skipped_clauses(), ["K4", "K9"]);
}

/// The sink refuses all events behind one that failed, of whatever key, because a watermark that has passed an event takes
/// it for sent. The clauses about bad events that do not exclude this:
#[tokio::test]
async fn the_sink_with_bad_events() {
    let harness = Publisher::new(true).await;
    for tested in
        [sink::k3_accounts_add_up(&harness).await, sink::k12_the_position_is_kept_with_the_data(&harness).await]
    {
        assert_eq!(tested, conformance::Tested::Holds);
    }
}
