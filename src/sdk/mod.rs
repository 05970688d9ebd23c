//! The snapshot folder of a running Cosmos SDK node as a source of snapshots: its
//! files are read from the disk, so the rates of the peer protocol have no part in
//! it.
//!
//! # What stands there
//!
//! `data/snapshots/<height>/<format>/<index>`, one file for each chunk, and beside
//! the heights `metadata.db`, whose lock the node holds. What that database knows of
//! a snapshot beyond its files follows from their bytes: the hash is the SHA-256 of
//! all of them, the metadata lists the SHA-256 of each chunk. So the offer made here
//! equals the node's own, byte for byte, and the database is left alone.
//!
//! # When a snapshot is finished
//!
//! The node writes the files one after the other, under their names, and nothing
//! but the database says that the last one is there; a node that is killed, or
//! whose disk is full, leaves what it has. The stream says it as well: an SDK of
//! any version (formats 1 to 3) writes *one zlib stream* cut at 10,000,000 bytes,
//! and closes it, with its checksum, when nothing failed. Therefore a snapshot is
//!
//! * *waiting* until all its files were the same for a while, and until the chain is
//!   two blocks further;
//! * then *read once*: the files are 0 to n-1, all have 10,000,000 bytes but the last,
//!   which has 1 to 10,000,000, and the stream decodes to its end at the last byte;
//! * *offered* if that holds, *left out* otherwise, until its files change.
//!
//! A snapshot of a format that no SDK writes today is left out: how its end is
//! known is not known here, and half of it would look like a whole one.
//!
//! What a node restored from its peers lies in the folder, too; the node offers it
//! to others when its last chunk is written, and so does this source.
//!
//! # Laws
//!
//! * Nothing in the folder is opened for writing, locked or changed, and below it no
//!   symbolic link is followed.
//! * After each chunk as long a rest as it took (`pace.rs`): the node has its disk and its
//!   cores for itself half of the time.
//! * Memory: one chunk, and the names, sizes and hashes of the chunks.
//! * Files that did not change are read twice, however long they lie there: once to
//!   examine them, once to be taken; what is in the store already, not at all.
//! * A chunk is given away only with the SHA-256 that it was examined with. A
//!   snapshot that the node prunes, or changes, meanwhile is gone: no error.

mod error;
mod examine;
mod files;
mod pace;
mod source;
mod stream;
#[cfg(test)]
mod tests;

pub use error::SdkError;
pub use source::{MAX_OFFERS, SnapshotFolder, View};
