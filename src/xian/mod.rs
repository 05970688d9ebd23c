//! The storage of a Xian node, generation 1 (HDF5 files): read as a state, copied while
//! the node runs, and made anew.
//!
//! # The parts
//!
//! * `layout` says which files are the state and what their scopes are; `path` how a
//!   group becomes a key.
//! * `walk` and `write` read and make one file, with the raw calls of
//!   `hdf5`. They run in processes of their own (`worker`).
//! * `records` reads all files of a storage by several processes, in order.
//! * `copy` makes a consistent copy of a storage that a node is writing.
//! * `restore` makes a storage of records and puts it in the place of the node's.
//! * Small things beside the state: `latest`, `patches`, `genesis`.
//!
//! # Laws
//!
//! * libhdf5 never opens a file that a node may open: only copies, a stopped node's
//!   files, and new ones.
//! * No process of ours but workers calls libhdf5 through this room: a damaged file ends
//!   a worker, and is an error here.
//! * What the chain never writes is an error with file and group, never left out.
//! * Texts are carried byte for byte, numbers as numbers.
//! * Everything here blocks: it is for the blocking pool, or a thread of its own.

mod copy;
mod error;
mod genesis;
mod hdf5;
mod latest;
mod layout;
mod links;
mod patches;
mod path;
mod pump;
mod records;
mod restore;
mod room;
mod source;
mod stamp;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod walk;
mod worker;
mod write;

pub use copy::{Copied, Copier, CopyStats, Held};
pub use error::XianError;
pub use genesis::GenesisWriter;
pub use latest::LatestBlock;
pub use layout::{NONCES, RUN};
pub use patches::patches_hash;
pub use restore::{
    KEPT, Restore, RestoreStats, accept, discard_old, has_left_something, is_as_restored,
    is_unaccepted, keeps_old, recover, undo,
};
pub use source::{Made, Reading, StorageRecords, XianSource};
pub use target::XianTarget;
pub use worker::{Work, Workers, work};
