//! The plugin contract of oplogue.
//!
//! A *source* reads changes and hands them on as [`Batch`]es of normalised [`Event`]s; *transforms* edit or drop
//! events; a *sink* delivers them; a *checkpoint store* remembers how far a route has come. All four are plugins,
//! entered in a [`Registry`] under the name that the configuration's `type` key uses.
//!
//! The contract is `docs/plugin-contract.md`: numbered clauses, each held by a conformance test in `oplogue-testkit`.
//! This crate knows no driver and no runtime, so that a plugin depends on nothing it does not use.
#![deny(missing_docs)]

mod change;
mod doc;
mod error;
mod event;
mod footprint;
mod key;
mod namespace;
pub mod number;
pub mod oplog;
pub mod order;
mod plugin;
pub mod raw;
mod registry;
mod selection;
mod suggest;
mod tool;
mod units;
mod verdict;
mod wire;

pub use change::{Change, Path, PathPart, Update};
pub use doc::Doc;
pub use error::{Error, ErrorKind, Result};
pub use event::{BadEvent, Batch, Event, EventId, Op, Position, Txn};
pub use footprint::{Footprint, Supply};
pub use key::{hash_key, same_key};
pub use namespace::{MARKERS, Namespace, NamespaceCache, REPLICATION_DATABASE};
pub use plugin::{
    Checkpoint, CheckpointStore, Failed, Finding, Interest, Ordering, Progress, Replicated, Saved, Severity, Sink,
    Source, StartAt, Transform, Written,
};
pub use registry::{Context, Field, FieldType, Options, Origin, Plugin, Registry, StoreBuild};
pub use registry::{SinkBuild, SourceBuild, TransformBuild};
pub use selection::{NamespacePattern, Selection, Share, globs_overlap};
pub use suggest::closest;
pub use tool::{
    Action, Argument, ArgumentKind, Outcome, RunTool, Tool, ToolArguments, ToolContext, ToolNode, ToolRoute,
};
pub use units::{ByteSize, Period};
pub use verdict::{Verdict, Verdicts};

pub use async_trait::async_trait;
pub use bson;
pub use bytes;
