//! The router against real servers, one binary for all of it.

mod config;
mod crash;
mod engine;
mod process;
mod subscriber;
mod support;
