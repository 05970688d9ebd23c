//! A Xian node's storage: read by worker processes of the real program, made anew, and
//! held against the chain's own code and against h5py.

#[path = "../support/adapter.rs"]
mod adapter;
#[allow(dead_code)] // a part of it is for other tests
#[path = "../abci/app.rs"]
mod app;
mod clones;
#[allow(dead_code)] // likewise
#[path = "../abci/node.rs"]
mod comet;
mod golden;
mod hostile;
mod kill;
mod load;
mod node;
#[path = "../support/mod.rs"]
mod process;
mod restore;
mod running;
mod snapshots;
mod support;
mod workers;
