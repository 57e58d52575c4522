//! The sink `mongo-mmm` against the contract, clause by clause, on real servers.

use std::sync::Arc;

use bson::{Bson, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use oplogue_api::{
    Change, Checkpoint, CheckpointStore, Context, Event, Finding, Interest, Op, Options, Ordering, Origin, Position,
    Registry, Result, Saved, Sink, Written, async_trait,
};
use oplogue_testkit::{
    conformance::{self, Seen, SinkHarness, StoreHarness, Tested, store},
    proxy::Proxy,
    sample, servers, unique,
};

/// A link between two of the shared servers, the peer behind a proxy.
struct Link {
    registry: Registry,
    options: Options,
    origin: Origin,
    db: String,
    peer: Client,
    proxy: Proxy,
    /// The newest entry of the peer's log when the link was made.
    since: Timestamp,
}

impl Link {
    async fn new() -> Link {
        let (from, to) = (servers::mongo().await, servers::mongo_version("6.0.27").await);
        let mut registry = Registry::default();
        oplogue_mongo::register(&mut registry);
        let (db, proxy, peer) = (unique("kit"), Proxy::start(to.addr(0)).await, to.client().await);
        let table = |text: String| Options::new(text.parse().expect("TOML"));
        let names = format!("node = \"from-{db}\"\npeer = \"to-{db}\"\nnamespaces = [\"{db}.*\"]");
        // The commands behind the kit's barriers are made up.
        let sink =
            format!("uri = {:?}\n{names}\nddl = \"ignore\"\nddl_drops = \"ignore\"", to.direct_uri(&proxy.addr()));
        let log = peer.database("local").collection::<Document>("oplog.rs");
        let newest = log.find_one(doc! {}).sort(doc! {"$natural": -1}).await.unwrap().expect("an entry");
        Link {
            registry,
            options: table(sink),
            origin: Origin { kind: "mongo-oplog", options: table(format!("uri = {:?}", from.uri())) },
            db,
            peer,
            proxy,
            since: newest.get_timestamp("ts").unwrap(),
        }
    }

    fn build(&self) -> Arc<dyn Sink> {
        let context = Context {
            name: "kit".into(),
            route: Some("kit".into()),
            source: Some("from".into()),
            origin: Some(self.origin.clone()),
            state_dir: "/nowhere".into(),
            ..Context::default()
        };
        (self.registry.sinks["mongo-mmm"].build)(&context, &self.options).expect("the sink is built")
    }

    fn marker(&self) -> String {
        format!("from-{0}->to-{0}", self.db)
    }
}

/// The sink as the engine has it: the route is claimed when it is opened.
struct Claimed(Arc<dyn Sink>);

#[async_trait]
impl Sink for Claimed {
    fn ordering(&self) -> Ordering {
        self.0.ordering()
    }
    fn interest(&self) -> Interest {
        self.0.interest()
    }
    fn whole_transactions(&self) -> bool {
        self.0.whole_transactions()
    }
    async fn open(&self) -> Result<()> {
        self.0.open().await?;
        let store = self.0.checkpoints().expect("it keeps checkpoints");
        let claim = match store.load("kit").await? {
            Some(stored) => Checkpoint { generation: stored.generation + 1, ..stored },
            None => {
                let position = Position { token: sample::key_of(0), time: Timestamp { time: 1, increment: 1 } };
                Checkpoint { position, generation: 1 }
            }
        };
        assert_eq!(store.save("kit", &claim).await?, Saved::Stored);
        self.0.begin(&claim.position).await
    }
    async fn write(&self, events: &[Event], upto: Option<&Position>) -> Result<Written> {
        self.0.write(events, upto).await
    }
    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
    fn checkpoints(&self) -> Option<Arc<dyn CheckpointStore>> {
        self.0.checkpoints()
    }
    async fn check(&self) -> Vec<Finding> {
        self.0.check().await
    }
}

/// What an operation in the log of the peer says, as the change that led to it would: its kind and the fields.
fn what(op: &str, mut names: Vec<String>) -> String {
    // The server puts `_id` first, and logs an update of a small document as a replacement.
    names.retain(|name| name != "_id");
    names.sort();
    format!("{op} {}", names.join(","))
}

fn names(document: &Document) -> Vec<String> {
    document.keys().map(ToOwned::to_owned).collect()
}

/// Fields that an update has set at the top, from either form of a diff.
fn set_by(diff: &Document) -> Vec<String> {
    let sections = ["u", "i"].into_iter().filter_map(|section| diff.get_document(section).ok());
    sections.flat_map(names).collect()
}

#[async_trait]
impl SinkHarness for Link {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Claimed(self.build()))
    }

    async fn delivered(&self) -> Vec<Seen> {
        let log = self.peer.database("local").collection::<Document>("oplog.rs");
        let ns = self.ns();
        let filter = doc! {"ts": {"$gt": self.since}, "$or": [{"ns": &ns}, {"o.applyOps.ns": &ns}]};
        let entries: Vec<Document> = log.find(filter).await.unwrap().try_collect().await.unwrap();
        let mut all = Vec::new();
        for entry in entries {
            let inner = entry.get_document("o").and_then(|o| o.get_array("applyOps"));
            let ops: Vec<Document> = match inner {
                Ok(inner) => inner.iter().filter_map(Bson::as_document).cloned().collect(),
                Err(_) => vec![entry.clone()],
            };
            for op in ops.iter().filter(|op| op.get_str("ns").is_ok_and(|of| of == ns)) {
                let o = op.get_document("o").unwrap();
                let kind = op.get_str("op").unwrap();
                let (of, what) = match (kind, o.get_document("diff")) {
                    ("i", _) => (o, what("i", names(o))),
                    ("u", Ok(diff)) => (op.get_document("o2").unwrap(), what("u", set_by(diff))),
                    ("u", Err(_)) => (o, what("u", names(o))),
                    ("d", _) => (o, what("d", Vec::new())),
                    _ => continue,
                };
                all.push(Seen { key: of.get("_id").unwrap().to_string(), what });
            }
        }
        all
    }

    fn seen(&self, event: &Event) -> Option<Seen> {
        let document = |raw: &bson::RawDocument| Document::try_from(raw).expect("a document of the kit");
        let what = match (&event.op, &event.after, &event.change) {
            (Op::Insert, Some(after), _) => what("i", names(&document(after))),
            (Op::Replace, Some(after), _) => what("u", names(&document(after))),
            (Op::Update, _, Some(Change::OplogV2(diff))) => what("u", set_by(&document(diff))),
            (Op::Delete, ..) => what("d", Vec::new()),
            _ => return None,
        };
        Some(Seen { key: document(event.key.as_deref()?).get("_id")?.to_string(), what })
    }

    fn ns(&self) -> String {
        format!("{}.items", self.db)
    }

    // No event is refused as `Data`: what the peer refuses goes to its records of conflicts, and counts as delivered. So K4 has
    // nothing to test; tests/it/replication/bad_input.rs shows the records.

    async fn disrupt(&self) -> bool {
        self.proxy.cut();
        true
    }

    async fn mend(&self) {
        self.proxy.heal();
    }

    fn commits(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_sink() {
    let report = conformance::sink(&Link::new().await).await;
    // K9: a total order has one lane.
    assert_eq!(report.skipped_clauses(), ["K4", "K9"]);
}

/// The store of the sink, which is the marker of the link.
struct Marker(Link);

#[async_trait]
impl StoreHarness for Marker {
    async fn store(&self) -> Arc<dyn CheckpointStore> {
        let sink = self.0.build();
        sink.open().await.ok();
        sink.checkpoints().expect("it keeps checkpoints")
    }

    async fn damage(&self, _route: &str) -> bool {
        let markers = self.0.peer.database("__mmm").collection::<Document>("markers");
        let done = markers.update_one(doc! {"_id": self.0.marker()}, doc! {"$set": {"position": "damaged"}}).await;
        done.unwrap().matched_count == 1
    }

    async fn disrupt(&self) -> bool {
        self.0.proxy.cut();
        true
    }

    async fn mend(&self) {
        self.0.proxy.heal();
    }
}

/// The clauses one by one, each with a link of its own, since there is one marker for a link, whatever the route is called. C8 and
/// C13, which name several routes, do not fit for that reason. Nor do C2, C3, C4, C6, C7, C9, C10, C11 and C14, which store one later position after the other:
/// a position alone is written only when something has happened at the origin by then, and at most every ten seconds; else
/// the answer is `Held` (C15), which they take for a refusal. `tests/it/replication` shows what they are about: positions come back after
/// `kill -9`, and of two routers on one link one is told.
#[tokio::test]
async fn the_store() {
    macro_rules! holds {
        ($($clause:ident),*) => {$(
            let tested = store::$clause(&Marker(Link::new().await)).await;
            assert_eq!(tested, Tested::Holds, stringify!($clause));
        )*};
    }
    holds!(
        c1_a_new_route_has_no_checkpoint,
        c5_a_missing_checkpoint_is_no_other_writer,
        c12_a_damaged_checkpoint_is_an_error
    );
}

/// The engine does not wait for a save when it is told to stop, and then delivers what is left.
#[tokio::test]
async fn a_save_that_is_not_waited_for_is_no_other_router() {
    let link = Link::new().await;
    let sink = Claimed(link.build());
    sink.open().await.unwrap();
    let store = sink.checkpoints().unwrap();
    let event = |n: u32| {
        let insert = sample::insert(&link.ns(), doc! {"_id": n});
        Event { time: Timestamp { time: n, increment: 1 }, ..insert }
    };
    let place = |n: u32| Position { token: sample::key_of(n as i32), time: Timestamp { time: n, increment: 1 } };
    let write = async |n: u32| sink.write(&[event(n)], Some(&place(n))).await.map(|_| ());
    write(2).await.unwrap();
    let markers = link.peer.database("__mmm").collection::<Document>("markers");
    let saved = doc! {"$inc": {"generation": 1_i64, "seq": 1_i64}};
    markers.update_one(doc! {"_id": link.marker()}, saved.clone()).await.unwrap();
    write(3).await.unwrap();
    // The same once more, as the engine does until it knows.
    let again = Checkpoint { position: place(2), generation: 2 };
    assert_eq!(store.save("kit", &again).await.unwrap(), Saved::Stored);
    write(4).await.unwrap();
    // Of another process.
    let other = doc! {"$set": {"session": bson::Uuid::new()}, "$inc": {"generation": 1_i64, "seq": 1_i64}};
    markers.update_one(doc! {"_id": link.marker()}, other).await.unwrap();
    let e = write(5).await.unwrap_err();
    assert!(e.message().contains("another process"), "{e}");
    let items = link.peer.database(&link.db).collection::<Document>("items");
    assert_eq!(items.count_documents(doc! {}).await.unwrap(), 3);
}
