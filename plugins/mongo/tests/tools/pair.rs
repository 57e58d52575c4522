//! Two deployments with routes between them, and the tools run over these routes.

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection};
use oplogue_api::{Options, Outcome, Registry, Result, ToolArguments, ToolContext, ToolNode, ToolRoute};
use oplogue_testkit::{servers, unique};

/// `factory` and `cloud`, under names of their own, since the metadata is shared with other tests.
pub struct Pair {
    pub factory: Client,
    pub cloud: Client,
    /// The names of the nodes.
    pub nodes: [String; 2],
    /// A database of this test.
    pub db: String,
    uris: [String; 2],
    more: String,
}

/// What a tool came to.
pub struct Ran {
    pub result: Result<Outcome>,
    pub out: String,
    pub notes: String,
}

impl Ran {
    #[track_caller]
    pub fn expect(self, outcome: Outcome) -> String {
        assert!(matches!(&self.result, Ok(o) if *o == outcome), "{:?}\n{}\n{}", self.result, self.out, self.notes);
        self.out
    }
}

impl Pair {
    /// `more`: further options of both sinks.
    pub async fn new(more: &str) -> Pair {
        let (factory, cloud) = (servers::mongo().await, servers::mongo_version("6.0.27").await);
        let name = unique("tools");
        Pair {
            factory: factory.client().await,
            cloud: cloud.client().await,
            nodes: [format!("factory-{name}"), format!("cloud-{name}")],
            uris: [factory.uri(), cloud.uri()],
            db: name,
            more: more.to_owned(),
        }
    }

    /// The link `from` one of the nodes to the other.
    pub fn link(&self, from: usize) -> String {
        format!("{}->{}", self.nodes[from], self.nodes[1 - from])
    }

    /// The priority is that node alone.
    pub fn prefer(&mut self, node: usize) {
        self.more = format!("priority = [{:?}]", self.nodes[node]);
    }

    /// Both nodes are one deployment.
    pub fn merge(&mut self) {
        self.uris[1] = self.uris[0].clone();
    }

    pub fn conflicts(&self) -> Collection<Document> {
        self.cloud.database("__mmm").collection("conflicts")
    }

    pub fn at(&self, node: usize, coll: &str) -> Collection<Document> {
        [&self.factory, &self.cloud][node].database(&self.db).collection(coll)
    }

    /// The document of an id at both ends.
    pub async fn both(&self, coll: &str, id: impl Into<bson::Bson>) -> [Option<RawDocumentBuf>; 2] {
        let id = id.into();
        let get = |node: usize| {
            let coll = self.at(node, coll).clone_with_type::<RawDocumentBuf>();
            let query = doc! {"_id": &id};
            async move { coll.find_one(query).await.unwrap() }
        };
        [get(0).await, get(1).await]
    }

    fn routes(&self) -> Vec<ToolRoute> {
        let table = |text: String| Options::new(text.parse().expect("TOML"));
        (0..2)
            .map(|from| {
                let [node, peer] = [&self.nodes[from], &self.nodes[1 - from]];
                let sink = format!(
                    "uri = {:?}\nnode = {node:?}\npeer = {peer:?}\nnamespaces = [\"{}.*\"]\n{}",
                    self.uris[1 - from],
                    self.db,
                    self.more
                );
                let source = format!("uri = {:?}", self.uris[from]);
                ToolRoute {
                    name: format!("{}-out", ["factory", "cloud"][from]),
                    source: ToolNode { name: node.clone(), kind: "mongo-oplog", options: table(source) },
                    sink: ToolNode { name: peer.clone(), kind: "mongo-mmm", options: table(sink) },
                }
            })
            .collect()
    }

    /// Runs a tool. `given`: arguments `name`, or `name=value`.
    pub async fn run(&self, tool: &str, action: &str, given: &[&str], terminal: bool) -> Ran {
        let mut registry = Registry::default();
        oplogue_mongo::register(&mut registry);
        let mut arguments = ToolArguments::default();
        for given in given {
            match given.split_once('=') {
                Some((name, value)) => arguments.insert(name, [value.to_owned()]),
                None => arguments.insert(given, []),
            }
        }
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut context =
            ToolContext { action, routes: self.routes(), arguments, out: &mut out, notes: &mut notes, terminal };
        let result = registry.tools[tool].run.run(&mut context).await;
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { result, out: text(out), notes: text(notes) }
    }
}
