//! The plugins of this crate against the contract, clause by clause.

use std::sync::Arc;

use oplogue_api::{CheckpointStore, Context, Options, Registry, async_trait};
use oplogue_testkit::{
    conformance::{self, StoreHarness},
    proxy::Proxy,
    servers, unique,
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
        Context { name: "kit".into(), route: Some(route.into()), source: None, state_dir: "/nowhere".into() }
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
