//! Against real servers, with the events that the real sources give.

mod at_once;
mod crash;
mod every_kind;
mod refused;
mod support;
