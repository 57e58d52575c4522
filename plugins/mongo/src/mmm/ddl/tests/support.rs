//! Two deployments, the sources of both, and a link in each direction.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Context, Event, Interest, Namespace, Options, Registry, Source, StartAt};
use oplogue_testkit::{servers, unique};

use crate::mmm::{
    ddl::{
        Applier, DdlPolicy, Outcome,
        canonical::canonical,
        described::name_of,
        state::{collections, indexes},
    },
    marker::Link,
    names::{DATABASE, LEDGER},
};

const LIMIT: Duration = Duration::from_secs(90);

/// A deployment and the source that reads it.
pub struct Side {
    pub client: Client,
    source: Box<dyn Source>,
    seen: i32,
}

impl Side {
    async fn new(version: &str, kind: &str) -> Side {
        let server = servers::mongo_version(version).await;
        let mut registry = Registry::default();
        crate::register(&mut registry);
        let options = Options::new(format!("uri = {:?}", server.uri()).parse().expect("TOML"));
        let context =
            Context { name: "source".into(), route: Some("route".into()), state_dir: ".".into(), ..Context::default() };
        let mut source = (registry.sources[kind].build)(&context, &options).expect("the options are right");
        source.open(StartAt::Now, &Interest::default()).await.expect("the source opens");
        Side { client: server.client().await, source, seen: 0 }
    }

    /// The DDL events of the databases, up to now.
    async fn events(&mut self, dbs: &[String]) -> Vec<Event> {
        self.seen += 1;
        let end = Namespace::of(&format!("{}_end", dbs[0]), "end");
        self.client
            .database(end.db())
            .collection::<Document>("end")
            .insert_one(doc! {"_id": self.seen})
            .await
            .expect("it can be written");
        let since = Instant::now();
        let mut events: Vec<Event> = Vec::new();
        loop {
            assert!(since.elapsed() < LIMIT, "the end does not come");
            let batch = self.source.next().await.expect("it is read").expect("it does not end");
            assert!(batch.bad.is_empty(), "{:?}", batch.bad);
            events.extend(batch.events);
            let is_end = |e: &Event| {
                e.ns == end && e.after.as_ref().is_some_and(|after| after.get_i32("_id").is_ok_and(|n| n == self.seen))
            };
            if events.iter().any(is_end) {
                break;
            }
        }
        events.retain(|e| e.op.is_barrier() && dbs.iter().any(|db| db == e.ns.db()));
        events
    }
}

pub struct Pair {
    pub db: String,
    pub other: String,
    pub a: Side,
    pub b: Side,
    pub ab: Applier,
    pub ba: Applier,
}

/// Everything that can be told about the definitions in a database.
type State = Vec<(String, String, String, Vec<String>)>;

impl Pair {
    pub async fn new(a: &str, b: &str, kind: &str) -> Pair {
        let (a, b) = (Side::new(a, kind).await, Side::new(b, kind).await);
        let db = unique("ddl");
        let link = |node: &str, peer: &str| Link { node: format!("{node}{db}"), peer: format!("{peer}{db}") };
        let policy = DdlPolicy::default();
        let ab = Applier::new(link("a", "b"), policy, false, &a.client, &b.client);
        let ba = Applier::new(link("b", "a"), policy, false, &b.client, &a.client);
        Pair { other: format!("{db}_other"), db, a, b, ab, ba }
    }

    pub fn ns(&self, coll: &str) -> Namespace {
        Namespace::of(&self.db, coll)
    }

    pub fn at_a(&self, coll: &str) -> Collection<Document> {
        self.a.client.database(&self.db).collection(coll)
    }

    pub fn at_b(&self, coll: &str) -> Collection<Document> {
        self.b.client.database(&self.db).collection(coll)
    }

    pub async fn run_a(&self, command: Document) {
        let text = command.to_string();
        self.a.client.database(&self.db).run_command(command).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }

    pub async fn run_b(&self, command: Document) {
        let text = command.to_string();
        self.b.client.database(&self.db).run_command(command).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }

    pub async fn events_a(&mut self) -> Vec<Event> {
        self.a.events(&[self.db.clone(), self.other.clone()]).await
    }

    pub async fn events_b(&mut self) -> Vec<Event> {
        self.b.events(&[self.db.clone(), self.other.clone()]).await
    }

    /// Applies what has happened at A; says what became of it.
    pub async fn forth(&mut self) -> Vec<(String, Outcome)> {
        let events = self.events_a().await;
        apply(&self.ab, &events).await
    }

    /// Applies what has happened at B; says what became of it.
    pub async fn back(&mut self) -> Vec<(String, Outcome)> {
        let events = self.events_b().await;
        apply(&self.ba, &events).await
    }

    /// What has happened at A is applied once, not a second time, and does not come back; both sides are equal.
    pub async fn everything(&mut self, what: &str) {
        let events = self.events_a().await;
        assert!(!events.is_empty(), "{what}: no event");
        let first = names(&apply(&self.ab, &events).await);
        assert!(first.iter().any(|o| o.ends_with("Applied")), "{what}: {first:?}");
        assert!(first.iter().all(|o| o.ends_with("Applied") || o.ends_with("AlreadySo")), "{what}: {first:?}");
        self.assert_equal(what).await;
        // As after a crash before the checkpoint, …
        let again = names(&apply(&self.ab, &events).await);
        assert!(again.iter().all(|o| o.ends_with("AlreadySo")), "{what}: {again:?}");
        // … and as if the ledger knew nothing of the last one.
        let mut unknown = events[events.len() - 1].clone();
        unknown.index += 1000;
        let by_state = names(&apply(&self.ab, &[unknown]).await);
        assert!(by_state.iter().all(|o| o.ends_with("AlreadySo")), "{what}: {by_state:?}");
        let before = self.a.state(&self.db).await;
        let back = names(&self.back().await);
        assert!(!back.is_empty(), "{what}: nothing came back");
        assert!(back.iter().all(|o| o.ends_with("Echo")), "{what}: {back:?}");
        assert_eq!(self.a.state(&self.db).await, before, "{what}");
        let calm = self.events_a().await;
        assert!(calm.is_empty(), "{what}: {:?}", calm.iter().map(|e| (e.op, &e.ns)).collect::<Vec<_>>());
    }

    pub async fn assert_equal(&self, what: &str) {
        let (a, b) = (self.a.state(&self.db).await, self.b.state(&self.db).await);
        assert_eq!(a, b, "{what}");
    }

    pub fn ledger_b(&self) -> Collection<Document> {
        self.b.client.database(DATABASE).collection(LEDGER)
    }
}

impl Side {
    pub async fn state(&self, db: &str) -> State {
        let mut state = State::new();
        for c in collections(&self.client, db).await.expect("it can be listed") {
            if c.name.starts_with("system.") {
                continue;
            }
            let mut specs: Vec<_> = indexes(&self.client, &Namespace::of(db, &c.name))
                .await
                .expect("indexes")
                .iter()
                .map(canonical)
                .collect();
            // It is in the options; versions differ in what they show of it here.
            specs.retain(|s| !s.contains_key("clustered"));
            specs.sort_by_key(|s| name_of(s).to_owned());
            let mut options = canonical(&c.options);
            if c.kind == "timeseries" {
                options.remove("clusteredIndex");
            }
            let specs = specs.iter().map(Document::to_string).collect();
            state.push((c.name, c.kind, options.to_string(), specs));
        }
        state.sort_by(|a, b| a.0.cmp(&b.0));
        state
    }
}

pub async fn apply(applier: &Applier, events: &[Event]) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    for event in events {
        let what = format!("{} {}", event.op.name(), event.ns.coll());
        let outcome = applier.apply(event).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        outcomes.push((what, outcome));
    }
    outcomes
}

/// `create x: Applied`
pub fn names(outcomes: &[(String, Outcome)]) -> Vec<String> {
    let name = |outcome: &Outcome| match outcome {
        Outcome::Refused(r) => format!("Refused, {}", r.record.get_document("error").unwrap()),
        Outcome::Resync { ns, .. } => format!("Resync {}", ns.coll()),
        other => format!("{other:?}"),
    };
    outcomes.iter().map(|(what, outcome)| format!("{what}: {}", name(outcome))).collect()
}
