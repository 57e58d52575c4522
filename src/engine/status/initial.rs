//! How far the work of a sink before its stream has come: an initial copy.

use oplogue_api::Progress;
use serde::Serialize;

use super::RouteStatus;

/// An initial copy, as `/api/v1/routes` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct InitialView {
    /// Documents copied or compared, by earlier runs too.
    pub documents: u64,
    /// About how many there are.
    pub documents_estimated: u64,
    /// Their size.
    pub bytes: u64,
    /// About the size of all.
    pub bytes_estimated: u64,
    /// How many of them needed a decision.
    pub conflicts: u64,
    /// The collection that is being copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How long it has been going on, or took.
    pub seconds: f64,
    /// Nothing is left.
    pub done: bool,
}

pub(super) type Watched = Box<dyn Fn() -> Option<Progress> + Send>;

impl From<Progress> for InitialView {
    fn from(p: Progress) -> InitialView {
        InitialView {
            documents: p.documents,
            documents_estimated: p.documents_estimated,
            bytes: p.bytes,
            bytes_estimated: p.bytes_estimated,
            conflicts: p.conflicts,
            namespace: p.namespace.map(|ns| ns.as_str().to_owned()),
            seconds: p.seconds,
            done: p.done,
        }
    }
}

impl RouteStatus {
    /// How to learn how far the sink's work before the stream has come: asked whenever somebody looks.
    pub fn watch_progress(&self, progress: impl Fn() -> Option<Progress> + Send + 'static) {
        *self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Box::new(progress));
    }

    /// How far the sink's work before the stream has come; `None` when there was none in this run.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().and_then(|progress| progress())
    }
}
