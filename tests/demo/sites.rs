//! The two deployments: those of the environment, or our own.

use std::{env, fs, net::TcpListener, time::Instant};

use bson::{Document, doc};
use mongodb::{Client, Collection};
use oplogue_testkit::{
    proxy::Proxy,
    servers::{Mongo, MongoOptions},
};
use tempfile::TempDir;
use tokio::time::{Duration, sleep};

use crate::{
    oplogue::{Outcome, PATIENCE, program},
    show::{DEMO, Who, say},
};

pub const DATABASE: &str = "oplogue_demo";
pub const COLLECTION: &str = "tasks";

const CONFIG: &str = r#"# Written by `make demo-mmm`.
[sources.factory]
type = "mongo-oplog"
uri = "${FACTORY_MONGO_URL}"

[sources.cloud]
type = "mongo-oplog"
uri = "${CLOUD_MONGO_URL}"

[sinks.to-cloud]
type = "mongo-mmm"
uri = "${CLOUD_MONGO_URL}"
node = "demo-factory"
peer = "demo-cloud"
namespaces = ["oplogue_demo.*"]

[sinks.to-factory]
type = "mongo-mmm"
uri = "${FACTORY_MONGO_URL}"
node = "demo-cloud"
peer = "demo-factory"
namespaces = ["oplogue_demo.*"]

[[routes]]
from = ["factory"]
to = ["to-cloud"]

[[routes]]
from = ["cloud"]
to = ["to-factory"]

[http]
listen = "${OPLOGUE_HTTP}"

[state]
dir = "${OPLOGUE_STATE}"
"#;

/// A deployment.
pub struct Site {
    pub who: Who,
    /// How oplogue reaches it.
    uri: String,
    client: Client,
    own: Option<Mongo>,
}

pub struct Sites {
    pub factory: Site,
    pub cloud: Site,
    /// Where oplogue is to serve HTTP.
    pub http: String,
    dir: TempDir,
    /// Before our own cloud.
    line: Option<Proxy>,
}

impl Site {
    async fn start(variable: &str, who: Who) -> Outcome<Site> {
        let (uri, own) = match env::var(variable) {
            Ok(uri) => {
                say(DEMO, &format!("{}: the one of ${variable}", who.name));
                (uri, None)
            }
            Err(_) => {
                say(DEMO, &format!("{}: starting a MongoDB, fetched on first use ...", who.name));
                let own = Mongo::start(MongoOptions::default()).await;
                say(DEMO, &format!("{:>7}  in {}", "", own.folder().display()));
                (own.uri(), Some(own))
            }
        };
        let client = Client::with_uri_str(&uri).await?;
        Ok(Site { who, uri, client, own })
    }

    pub fn tasks(&self) -> Collection<Document> {
        self.client.database(DATABASE).collection(COLLECTION)
    }

    /// The entries of its log that change something.
    async fn entries(&self) -> Outcome<u64> {
        let log = self.client.database("local").collection::<Document>("oplog.rs");
        Ok(log.count_documents(doc! {"op": {"$ne": "n"}}).await?)
    }

    /// What all of its documents amount to.
    async fn hash(&self) -> Outcome<String> {
        let reply = self.client.database(DATABASE).run_command(doc! {"dbHash": 1}).await?;
        Ok(reply.get_str("md5")?.to_owned())
    }
}

impl Sites {
    pub async fn start() -> Outcome<Sites> {
        let factory = Site::start("FACTORY_MONGO_URL", Who { name: "factory", colour: "33" }).await?;
        let mut cloud = Site::start("CLOUD_MONGO_URL", Who { name: "cloud", colour: "35" }).await?;
        let mut line = None;
        if let Some(own) = &cloud.own {
            let proxy = Proxy::start(own.addr(0)).await;
            cloud.uri = own.direct_uri(&proxy.addr());
            line = Some(proxy);
        }
        for site in [&factory, &cloud] {
            if site.tasks().find_one(doc! {}).await?.is_some() {
                return Err(format!("there are documents in {DATABASE}.{COLLECTION} of the {}", site.who.name).into());
            }
        }
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let sites = Sites { factory, cloud, http, dir: tempfile::tempdir()?, line };
        fs::write(sites.config(), CONFIG)?;
        Ok(sites)
    }

    /// The file for oplogue.
    pub fn config(&self) -> String {
        self.dir.path().join("pair.toml").display().to_string()
    }

    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("FACTORY_MONGO_URL", self.factory.uri.clone()),
            ("CLOUD_MONGO_URL", self.cloud.uri.clone()),
            ("OPLOGUE_HTTP", self.http.clone()),
            ("OPLOGUE_STATE", self.dir.path().join("state").display().to_string()),
        ]
    }

    /// Whether there is a line that can be cut; it is, then.
    pub fn cut(&self) -> bool {
        self.line.as_ref().map(Proxy::cut).is_some()
    }

    pub fn heal(&self) -> bool {
        self.line.as_ref().map(Proxy::heal).is_some()
    }

    pub async fn wait_until_equal(&self) -> Outcome<()> {
        let since = Instant::now();
        while self.factory.hash().await? != self.cloud.hash().await? {
            if since.elapsed() > PATIENCE {
                return Err("the two did not become equal".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// By how many entries both logs grow, once the last checkpoint is written.
    pub async fn idle(&self, time: Duration) -> Outcome<u64> {
        let both = async || Outcome::Ok(self.factory.entries().await? + self.cloud.entries().await?);
        let since = Instant::now();
        loop {
            let before = both().await?;
            sleep(time).await;
            let grown = both().await? - before;
            if grown == 0 || since.elapsed() > PATIENCE {
                return Ok(grown);
            }
        }
    }

    /// Ends our own servers; takes back what was left on others.
    pub async fn leave(self) {
        if self.factory.own.is_some() && self.cloud.own.is_some() {
            return;
        }
        if let Err(e) = self.clean().await {
            say(DEMO, &format!("something may be left in {DATABASE} and __mmm: {e}"));
        }
    }

    async fn clean(&self) -> Outcome<()> {
        let reset = tokio::process::Command::new(program()?)
            .args(["position", "reset", &self.config(), "--yes"])
            .envs(self.environment())
            .output()
            .await?;
        if !reset.status.success() {
            return Err(String::from_utf8_lossy(&reset.stderr).trim().to_owned().into());
        }
        for site in [&self.factory, &self.cloud] {
            site.client.database(DATABASE).drop().await?;
            let mmm = site.client.database("__mmm");
            let ours = doc! {"link": {"$in": ["demo-factory->demo-cloud", "demo-cloud->demo-factory"]}};
            mmm.collection::<Document>("conflicts").delete_many(ours).await?;
            let tombstones = doc! {"_id.ns": format!("{DATABASE}.{COLLECTION}")};
            mmm.collection::<Document>("tombstones").delete_many(tombstones).await?;
        }
        Ok(())
    }
}
