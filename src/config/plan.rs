//! What a configuration comes to: everything resolved, nothing connected.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use oplogue_api::{
    CheckpointStore, Context, Options, Origin, Result, Sink, SinkBuild, Source, SourceBuild, StoreBuild, Transform,
    TransformBuild,
};

/// A whole configuration, resolved. Building the parts of a plan does no I/O.
#[derive(Clone)]
pub struct Plan {
    /// `[http]`; `None` when the table is absent.
    pub http: Option<HttpPlan>,
    /// `[denylist]`; `None` when the table is absent.
    pub denylist: Option<DenylistPlan>,
    /// `[log]`.
    pub log: LogPlan,
    /// `[engine]` limits that hold for the process.
    pub shutdown_grace: Duration,
    /// The (source, sink) pairs, in the order of the file.
    pub routes: Vec<RoutePlan>,
    /// Every source of the file, used by a route or not, by name (for `tap` and `check`).
    pub sources: BTreeMap<String, Node<SourceBuild>>,
}

/// `[http]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// `listen`.
    pub listen: SocketAddr,
    /// `style = "oplogtoredis"`.
    pub like_oplogtoredis: bool,
}

/// `[denylist]`.
#[derive(Clone)]
pub struct DenylistPlan {
    /// The databases that are on the list at every start.
    pub databases: Vec<String>,
    /// Where changes of the list are kept.
    pub store: Node<StoreBuild>,
    /// `[state] dir`.
    pub state_dir: PathBuf,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// A level or a filter of tracing-subscriber's syntax; `None`: `info`.
    pub level: Option<String>,
    /// `text` or `json`; `None`: text on a terminal, JSON otherwise.
    pub json: Option<bool>,
}

/// What the `when` of a route is called among the transforms of its chain, in dead letters too. No transform can have this name.
pub const WHEN: &str = "(when)";

/// Which events of its source a route takes: asked in front of `via`, by each route for itself.
#[derive(Clone)]
pub struct ChoicePlan {
    /// `group`; `None`: the route decides by itself.
    pub group: Option<String>,
    /// The `when`s of the routes of the group that come first: what one of them takes is none of this route's.
    pub before: Vec<Node<TransformBuild>>,
    /// The route's own; `None` for the default of a group.
    pub when: Option<Node<TransformBuild>>,
}

/// One (source, sink) pair.
#[derive(Clone)]
pub struct RoutePlan {
    /// The route's name where its table makes one pair; `<name>/<source>-><sink>` where it makes several;
    /// `<source>-><sink>` where it has no name. Unique. Checkpoints are kept under it.
    pub name: String,
    /// Where events come from.
    pub source: Node<SourceBuild>,
    /// Which of them are the route's; `None`: all.
    pub choice: Option<ChoicePlan>,
    /// What they pass, in order.
    pub via: Vec<Node<TransformBuild>>,
    /// Where they go.
    pub sink: Node<SinkBuild>,
    /// Where the checkpoint is kept when the sink does not keep it.
    pub checkpoint: CheckpointPlan,
    /// What happens when the position is lost.
    pub on_position_lost: OnPositionLost,
    /// A checkpoint older than this at the start of the process counts as lost, with [`OnPositionLost::FromNow`].
    pub max_catch_up: Option<Duration>,
    /// What happens with an event that cannot be decoded or delivered.
    pub on_bad_event: OnBadEvent,
    /// How many bytes may be between source and sink (I6).
    pub max_in_flight: u64,
    /// How many lanes a sink with `Ordering::PerKey` or `Any` gets.
    pub lanes: usize,
    /// The most events in one `Sink::write`.
    pub max_batch: usize,
    /// How often the checkpoint is saved, at the most.
    pub checkpoint_interval: Duration,
    /// `[state] dir`.
    pub state_dir: PathBuf,
    /// The folder of the configuration file.
    pub config_dir: PathBuf,
}

impl RoutePlan {
    /// What the plugin of the table `name` is built with for this route.
    pub fn context(&self, name: &str) -> Context {
        Context {
            name: name.to_owned(),
            route: Some(self.name.clone()),
            source: Some(self.source.name.clone()),
            origin: Some(Origin { kind: self.source.kind, options: self.source.options.clone() }),
            state_dir: self.state_dir.clone(),
            config_dir: self.config_dir.clone(),
            replay: false,
        }
    }

    /// The transforms of `via`, built, each with its name.
    ///
    /// # Errors
    /// What the plugins say of their options.
    pub fn chain(&self) -> Result<Vec<(String, Box<dyn Transform>)>> {
        let build = |node: &Node<TransformBuild>| Ok((node.name.clone(), node.build(&self.context(&node.name))?));
        self.via.iter().map(build).collect()
    }
}

/// Where a route keeps its checkpoint.
#[derive(Clone)]
pub enum CheckpointPlan {
    /// With the sink if it has a store, otherwise in this one (`checkpoint = "sink"`, the default).
    Sink(Node<StoreBuild>),
    /// In this one.
    Store(Node<StoreBuild>),
}

/// `on_position_lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPositionLost {
    /// The route stops, and says so.
    Stop,
    /// The route goes on from now, with a gap event.
    FromNow,
}

/// `on_bad_event`.
#[derive(Clone)]
pub enum OnBadEvent {
    /// The route stops, and says so.
    Stop,
    /// The event is delivered to this sink instead, before the checkpoint passes it.
    DeadLetter(Node<SinkBuild>),
    /// The event is logged (without its content), counted and passed over.
    Skip,
}

/// A plugin with its options.
pub struct Node<B: ?Sized> {
    /// The name of its table: `meteor` for `[sinks.meteor]`.
    pub name: String,
    /// Its `type`.
    pub kind: &'static str,
    /// Its options.
    pub options: Options,
    /// Makes one.
    pub build: Arc<B>,
}

impl<B: ?Sized> Clone for Node<B> {
    fn clone(&self) -> Self {
        Node { name: self.name.clone(), kind: self.kind, options: self.options.clone(), build: Arc::clone(&self.build) }
    }
}

macro_rules! building {
    ($build:ty => $out:ty) => {
        impl Node<$build> {
            /// Makes one. No I/O.
            pub fn build(&self, context: &Context) -> Result<$out> {
                (self.build)(context, &self.options)
            }
        }
    };
}
building!(SourceBuild => Box<dyn Source>);
building!(TransformBuild => Box<dyn Transform>);
building!(SinkBuild => Arc<dyn Sink>);
building!(StoreBuild => Arc<dyn CheckpointStore>);
