//! Configuration: text to [`Plan`], or every diagnostic at once.

pub mod plan;

pub use plan::{CheckpointPlan, LogPlan, Node, OnBadEvent, OnPositionLost, Plan, RoutePlan};
