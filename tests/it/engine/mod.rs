//! The engine over sources and sinks in memory, with the clock paused: retries, order, checkpoints, policies, shutdown.

mod storm;
mod trouble;
mod whole;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use mongodb::bson::doc;
use oplogue::{
    config::{CheckpointPlan, LogPlan, Node, OnBadEvent, OnPositionLost, Plan, RoutePlan},
    engine::{Engine, Outcome as EngineOutcome},
    telemetry::Telemetry,
};
use oplogue_api::{
    CheckpointStore, ErrorKind, Op, Options, Ordering, Sink, SinkBuild, Source, SourceBuild, StoreBuild,
};
use oplogue_testkit::sample::{self, MemoryLog, MemorySink, MemoryStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One route from a log in memory to a sink in memory, and a store for its checkpoint.
struct Bench {
    log: MemoryLog,
    sink: MemorySink,
    store: MemoryStore,
    routes: Vec<RoutePlan>,
}

struct Running {
    stop: CancellationToken,
    telemetry: Arc<Telemetry>,
    task: JoinHandle<EngineOutcome>,
}

impl Running {
    async fn stop(self) -> EngineOutcome {
        self.stop.cancel();
        self.task.await.expect("the engine")
    }
    async fn end(self) -> EngineOutcome {
        self.task.await.expect("the engine")
    }
    fn metrics(&self) -> String {
        self.telemetry.metrics.render(&self.telemetry.routes)
    }
    fn view(&self) -> serde_json::Value {
        serde_json::to_value(self.telemetry.routes[0].snapshot()).expect("JSON")
    }
}

fn source_node(log: &MemoryLog) -> Node<SourceBuild> {
    let log = log.clone();
    let build: Arc<SourceBuild> = Arc::new(move |_, _| Ok(Box::new(log.source().batch(10)) as Box<dyn Source>));
    Node { name: "log".into(), kind: "memory", options: Options::default(), build }
}

fn sink_node(sink: &MemorySink) -> Node<SinkBuild> {
    let sink = sink.clone();
    let build: Arc<SinkBuild> = Arc::new(move |_, _| Ok(Arc::new(sink.clone()) as Arc<dyn Sink>));
    Node { name: "sink".into(), kind: "memory", options: Options::default(), build }
}

fn store_node(store: &MemoryStore) -> Node<StoreBuild> {
    let store = store.clone();
    let build: Arc<StoreBuild> = Arc::new(move |_, _| Ok(Arc::new(store.clone()) as Arc<dyn CheckpointStore>));
    Node { name: "store".into(), kind: "memory", options: Options::default(), build }
}

fn route(name: &str, log: &MemoryLog, sink: &MemorySink, store: &MemoryStore) -> RoutePlan {
    RoutePlan {
        name: name.into(),
        source: source_node(log),
        choice: None,
        via: Vec::new(),
        sink: sink_node(sink),
        checkpoint: CheckpointPlan::Store(store_node(store)),
        on_position_lost: OnPositionLost::Stop,
        on_bad_event: OnBadEvent::Stop,
        max_catch_up: None,
        max_in_flight: 1 << 20,
        lanes: 4,
        max_batch: 50,
        checkpoint_interval: Duration::from_secs(1),
        state_dir: PathBuf::from("."),
        config_dir: PathBuf::new(),
    }
}

impl Bench {
    fn new(ordering: Ordering) -> Bench {
        let (log, sink, store) = (MemoryLog::new("a"), MemorySink::new().ordering(ordering), MemoryStore::new());
        let routes = vec![route("r", &log, &sink, &store)];
        Bench { log, sink, store, routes }
    }

    fn push(&self, n: usize) {
        for i in 0..n {
            self.log.push(sample::update("d.c", (i % 7) as i32, doc! {"n": i as i32}));
        }
    }

    fn run(&self) -> Running {
        let plan = Plan {
            http: None,
            denylist: None,
            log: LogPlan::default(),
            shutdown_grace: Duration::from_secs(10),
            routes: self.routes.clone(),
            sources: Default::default(),
        };
        let mut telemetry = Telemetry::new();
        let stop = CancellationToken::new();
        let engine = Engine::new(plan, &mut telemetry, stop.clone());
        Running { stop, telemetry: Arc::new(telemetry), task: tokio::spawn(engine.run()) }
    }

    /// Every event of the log is there; per key, in the order of first sight, they are in source order.
    fn assert_complete_and_ordered(&self) {
        let mut seen: HashMap<String, Vec<_>> = HashMap::new();
        for d in self.sink.deliveries() {
            let of_key = seen.entry(format!("{:?}", d.key.map(|k| k.as_bytes().to_vec()))).or_default();
            if !of_key.contains(&d.id) {
                of_key.push(d.id);
            }
        }
        let mut expected: HashMap<String, Vec<_>> = HashMap::new();
        for e in self.log.events() {
            let key = format!("{:?}", e.key.as_ref().map(|k| k.as_bytes().to_vec()));
            expected.entry(key).or_default().push(e.id());
        }
        assert_eq!(seen, expected);
    }
}

impl Running {
    /// Stops when the sink has got so many events.
    async fn stop_after(self, sink: &MemorySink, events: usize) {
        sink.wait_len(events).await;
        self.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_once_in_order_and_the_checkpoint_follows() {
    for ordering in [Ordering::Total, Ordering::PerKey] {
        let b = Bench::new(ordering);
        b.push(500);
        let running = b.run();
        b.sink.wait_len(500).await;
        b.push(33);
        b.sink.wait_len(533).await;
        assert!(running.stop().await.failed.is_empty());
        assert_eq!(b.sink.len(), 533);
        b.assert_complete_and_ordered();
        if ordering == Ordering::Total {
            assert_eq!(b.sink.ids(), b.log.ids());
        }
        let saved = b.store.get("r").expect("a checkpoint");
        assert_eq!(saved.position, b.log.end());
        assert_eq!((b.sink.closes(), b.log.closes()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_has_its_own_limit_and_its_own_store() {
    let mut b = Bench::new(Ordering::PerKey);
    let (with_sink, file) = (MemoryStore::new(), b.store.clone());
    b.routes[0].sink = sink_node(&b.sink.clone().max_batch(3).with_store(Arc::new(with_sink.clone())));
    b.routes[0].checkpoint = CheckpointPlan::Sink(store_node(&file));
    b.push(100);
    b.log.finish();
    assert!(b.run().end().await.failed.is_empty());
    assert!(b.sink.writes().iter().all(|w| w.len() <= 3));
    assert_eq!(with_sink.get("r").unwrap().position, b.log.end());
    assert!(file.get("r").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_restart_resumes_behind_the_checkpoint() {
    let b = Bench::new(Ordering::Total);
    b.push(20);
    let running = b.run();
    b.sink.wait_len(20).await;
    running.stop().await;
    b.push(5);
    let running = b.run();
    b.sink.wait_len(25).await;
    running.stop().await;
    assert_eq!(b.sink.ids(), b.log.ids(), "nothing twice, nothing missing");
}

#[tokio::test(start_paused = true)]
async fn the_initial_position_is_durable_before_anything_is_delivered() {
    let b = Bench::new(Ordering::Total);
    b.sink.hold();
    b.push(3);
    let running = b.run();
    while b.sink.writing() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(b.store.get("r").expect("saved before the first write").position, b.log.start());
    b.sink.release();
    b.sink.wait_len(3).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_moves_the_checkpoint() {
    let b = Bench::new(Ordering::PerKey);
    b.push(1);
    let running = b.run();
    b.sink.wait_len(1).await;
    for _ in 0..5 {
        b.log.tick();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(b.store.get("r").unwrap().position, b.log.end());
    assert_eq!(b.log.committed().last(), Some(&b.log.end()), "the source is told");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_holds_the_checkpoint_and_loses_nothing() {
    let b = Bench::new(Ordering::PerKey);
    b.sink.judge(|e| (e.id().time.time % 3 == 0).then_some(ErrorKind::Transient));
    b.push(100);
    let running = b.run();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let held = b.store.get("r").unwrap().position;
    assert!(held.time < b.log.end().time, "I1: the checkpoint waits for what is not delivered");
    assert_eq!(running.view()["state"], "retrying");
    assert!(running.metrics().contains("oplogue_retries_total{kind=\"transient\",place=\"sink\",route=\"r\"}"));
    b.sink.forgive();
    b.sink.wait_len(100).await;
    running.stop().await;
    b.assert_complete_and_ordered();
    assert_eq!(b.sink.len(), 100, "what was accepted is not written again");
}

#[tokio::test(start_paused = true)]
async fn a_barrier_waits_for_everything_before_it_and_holds_everything_behind() {
    let b = Bench::new(Ordering::PerKey);
    b.push(40);
    let barrier = b.log.push(sample::barrier(Op::Drop, "d.c"));
    b.push(40);
    b.log.finish();
    assert!(b.run().end().await.failed.is_empty());
    let ids = b.sink.ids();
    let at = ids.iter().position(|id| *id == barrier).expect("the barrier arrives");
    assert_eq!(at, 40);
    assert!(ids[..at].iter().all(|id| *id < barrier) && ids[at + 1..].iter().all(|id| *id > barrier));
    assert!(b.sink.writes().iter().any(|w| w == &[barrier]), "alone in its write");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_by_the_window_whatever_the_backlog() {
    let mut b = Bench::new(Ordering::Total);
    b.routes[0].max_in_flight = 20_000;
    b.sink.hold();
    b.push(5000);
    let running = b.run();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let in_flight = running.view()["in_flight_bytes"].as_u64().expect("a number");
    assert!(in_flight > 0 && in_flight <= 20_000, "{in_flight}");
    b.sink.release();
    b.sink.wait_len(5000).await;
    running.stop().await;
    assert_eq!(b.sink.ids(), b.log.ids());
}

#[tokio::test(start_paused = true)]
async fn one_broken_route_neither_stops_nor_delays_another() {
    let mut b = Bench::new(Ordering::Total);
    let (broken, held) = (MemorySink::new(), MemorySink::new());
    broken.judge(|_| Some(ErrorKind::Operator));
    held.hold();
    b.routes.push(route("broken", &b.log, &broken, &MemoryStore::new()));
    b.routes.push(route("held", &b.log, &held, &MemoryStore::new()));
    b.push(1000);
    let running = b.run();
    b.sink.wait_len(1000).await;
    b.push(10);
    b.sink.wait_len(1010).await;
    let text = running.metrics();
    assert!(text.contains("oplogue_route_up{route=\"r\"} 1"), "{text}");
    assert!(text.contains("oplogue_route_up{route=\"broken\"} 0"), "{text}");
    held.release();
    let outcome = running.stop().await;
    assert_eq!(outcome.failed.len(), 1);
    assert_eq!(outcome.failed[0].0, "broken");
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Operator);
}
