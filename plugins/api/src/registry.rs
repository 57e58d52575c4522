use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use serde::de::DeserializeOwned;

use crate::{CheckpointStore, Error, Result, Sink, Source, Tool, Transform};

/// The type of an option's value, for checks, messages and `oplogue plugins`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Any text.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Bool,
    /// A duration such as `"30s"`, read with [`Period`](crate::Period).
    Duration,
    /// A size such as `"64MiB"`, read with [`ByteSize`](crate::ByteSize).
    Size,
    /// A list of texts.
    Strings,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Whatever the plugin itself understands.
    Any,
}

/// One option of a plugin.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key in the TOML table.
    pub name: &'static str,
    /// What its value must be.
    pub kind: FieldType,
    /// Whether it must be there.
    pub required: bool,
    /// What holds when it is absent, as it would be written in TOML.
    pub default: Option<&'static str>,
    /// Whether its value must never be shown (URIs hold passwords).
    pub secret: bool,
    /// Whether an example shows it as set, although it may be absent: one of several ways to say what must be said.
    pub usual: bool,
    /// A value that an example shows, as it would be written in TOML, where any text or number would not do.
    pub example: Option<&'static str>,
    /// What it does, in a sentence.
    pub help: &'static str,
}

impl Field {
    /// An option that may be absent.
    pub const fn new(name: &'static str, kind: FieldType, help: &'static str) -> Field {
        Field { name, kind, required: false, default: None, secret: false, usual: false, example: None, help }
    }
    /// The same, with the value that holds when it is absent.
    pub const fn default(self, default: &'static str) -> Field {
        Field { default: Some(default), ..self }
    }
    /// The same, but it must be there.
    pub const fn required(self) -> Field {
        Field { required: true, ..self }
    }
    /// The same, and examples show it as set.
    pub const fn usual(self) -> Field {
        Field { usual: true, ..self }
    }
    /// The same, with the value that examples show.
    pub const fn example(self, example: &'static str) -> Field {
        Field { example: Some(example), ..self }
    }
    /// The same, but its value is never shown.
    pub const fn secret(self) -> Field {
        Field { secret: true, ..self }
    }
}

/// Where a plugin is built for.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The name of the table in the configuration: `meteor` for `[sinks.meteor]`.
    pub name: String,
    /// The route it will serve; `None` when it is built only to be checked.
    pub route: Option<String>,
    /// The name of the source of that route: what a sink tells its readers where an event came from.
    pub source: Option<String>,
    /// The type of that source and its options, for a sink that has to ask the deployment itself.
    pub origin: Option<Origin>,
    /// `[state] dir`.
    pub state_dir: PathBuf,
    /// The folder of the configuration file: what files beside it are relative to. Empty: the working directory.
    pub config_dir: PathBuf,
    /// The events are some that were given up or captured before (`oplogue replay`): a sink must not leave them out because later ones
    /// were delivered meanwhile.
    pub replay: bool,
}

/// The source of a route, as its sink sees it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The `type` of the source.
    pub kind: &'static str,
    /// Its options.
    pub options: Options,
}

/// The options of a plugin: its TOML table without `type`, variables expanded, keys and simple types already checked.
#[derive(Clone, Default)]
pub struct Options(toml::Table);

impl Options {
    /// Options from a table.
    pub fn new(table: toml::Table) -> Options {
        Options(table)
    }
    /// Reads the options into a struct. Give it `#[serde(deny_unknown_fields)]` and defaults.
    ///
    /// # Errors
    /// [`Operator`](crate::ErrorKind::Operator), naming the key. It may quote a value of the wrong type: the router checks the
    /// types of [`Field`]s before it builds a plugin, and cuts the values of secret ones out of what it tells.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(self.0.clone()).map_err(|e| Error::operator(e.message().to_owned()))
    }
    /// The table itself.
    pub fn table(&self) -> &toml::Table {
        &self.0
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// Builds a source for one route. No I/O: connecting is `open`'s.
pub type SourceBuild = dyn Fn(&Context, &Options) -> Result<Box<dyn Source>> + Send + Sync;
/// Builds a transform for one route.
pub type TransformBuild = dyn Fn(&Context, &Options) -> Result<Box<dyn Transform>> + Send + Sync;
/// Builds a sink for one route. No I/O: connecting is `open`'s.
pub type SinkBuild = dyn Fn(&Context, &Options) -> Result<Arc<dyn Sink>> + Send + Sync;
/// Builds a checkpoint store. No I/O.
pub type StoreBuild = dyn Fn(&Context, &Options) -> Result<Arc<dyn CheckpointStore>> + Send + Sync;

/// A plugin as the registry knows it.
pub struct Plugin<B: ?Sized> {
    /// The `type` in the configuration.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Its options.
    pub fields: &'static [Field],
    /// Makes one.
    pub build: Arc<B>,
}

/// All plugins of a program. Filled explicitly: each plugin crate has a `register(&mut Registry)`.
#[derive(Default)]
pub struct Registry {
    /// Sources by type.
    pub sources: BTreeMap<&'static str, Plugin<SourceBuild>>,
    /// Transforms by type.
    pub transforms: BTreeMap<&'static str, Plugin<TransformBuild>>,
    /// Sinks by type.
    pub sinks: BTreeMap<&'static str, Plugin<SinkBuild>>,
    /// Checkpoint stores by type.
    pub stores: BTreeMap<&'static str, Plugin<StoreBuild>>,
    /// Tools by name.
    pub tools: BTreeMap<&'static str, Tool>,
}

fn enter<B: ?Sized>(map: &mut BTreeMap<&'static str, Plugin<B>>, plugin: Plugin<B>) {
    let name = plugin.name;
    assert!(map.insert(name, plugin).is_none(), "two plugins of the same kind are called `{name}`");
}

macro_rules! registration {
    ($(#[$doc:meta])* $method:ident, $field:ident, $build:ty, $out:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// When the name is taken.
        pub fn $method(
            &mut self,
            name: &'static str,
            summary: &'static str,
            fields: &'static [Field],
            build: impl Fn(&Context, &Options) -> Result<$out> + Send + Sync + 'static,
        ) {
            let build: Arc<$build> = Arc::new(build);
            enter(&mut self.$field, Plugin { name, summary, fields, build });
        }
    };
}

impl Registry {
    registration!(
        /// Adds a source.
        source, sources, SourceBuild, Box<dyn Source>
    );
    registration!(
        /// Adds a transform.
        transform, transforms, TransformBuild, Box<dyn Transform>
    );
    registration!(
        /// Adds a sink.
        sink, sinks, SinkBuild, Arc<dyn Sink>
    );
    registration!(
        /// Adds a checkpoint store.
        store, stores, StoreBuild, Arc<dyn CheckpointStore>
    );

    /// Adds a tool.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn tool(&mut self, tool: Tool) {
        let name = tool.name;
        assert!(self.tools.insert(name, tool).is_none(), "two tools are called `{name}`");
    }
}
