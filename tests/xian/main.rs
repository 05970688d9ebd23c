//! A Xian node's storage: read by worker processes of the real program, made anew, and
//! held against the chain's own code and against h5py.

mod clones;
mod golden;
mod hostile;
mod kill;
mod load;
mod node;
#[path = "../support/mod.rs"]
mod process;
mod restore;
mod snapshots;
mod support;
mod workers;
