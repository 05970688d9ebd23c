//! A state of the swarm becomes the storage of an application that keeps it as Xian does:
//! by an adapter, and by `join`, with real processes on both sides of it.

#![allow(clippy::unwrap_used)]

#[path = "../abci/app.rs"]
#[allow(dead_code)]
mod app;
mod application;
#[path = "../support/comet_nodes.rs"]
mod comet_nodes;
#[path = "../support/comet_tools.rs"]
mod comet_tools;
mod join;
#[path = "../abci/node.rs"]
#[allow(dead_code)]
mod node;
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
#[path = "../xian/support.rs"]
#[allow(dead_code, unused_imports)]
mod xian;

/// What the storages of other tests are made with calls it so.
use support as process;
