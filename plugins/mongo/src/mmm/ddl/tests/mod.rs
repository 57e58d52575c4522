//! Against real servers, with the events that the real sources give.

mod crash;
mod every_kind;
mod refused;
mod support;
