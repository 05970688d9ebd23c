//! What can be wrong with a storage, and with what is done to it.

use std::io;
use std::path::{Path, PathBuf};

use crate::state::StateError;

/// Why something of this room did not work.
#[derive(Debug, thiserror::Error)]
pub enum XianError {
    /// An operation on a file failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried: "read", "create", …
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder is no storage of a Xian node.
    #[error(
        "{} is no storage of a Xian node: it has no folder contract_state. Name the folder \
         that holds it, as ~/.cometbft/xian", path.display()
    )]
    NoStorage {
        /// Which.
        path: PathBuf,
    },
    /// Something stands in the storage that is no file of the state.
    #[error("{} {problem}; move it out of the storage", path.display())]
    Stray {
        /// What.
        path: PathBuf,
        /// Why it cannot stay.
        problem: String,
    },
    /// A small file beside the state does not say what it should.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file of the state holds what the chain never writes, or cannot be read.
    #[error("{} is damaged, or no file of the chain: group {group}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The path of the group in it, made fit to be shown.
        group: String,
        /// What is wrong.
        problem: String,
    },
    /// The process that read a file ended without an answer.
    #[error(
        "the process that reads {} {problem}. A damaged file can do that: the last group \
         that came of it is {group}", file.display()
    )]
    Worker {
        /// The file.
        file: PathBuf,
        /// The last group before.
        group: String,
        /// How it ended.
        problem: String,
    },
    /// The process that wrote a file ended without an answer.
    #[error(
        "the process that writes {} {problem}; the last group that it was given is {group}",
        file.display()
    )]
    Writer {
        /// The file.
        file: PathBuf,
        /// That group.
        group: String,
        /// How it ended.
        problem: String,
    },
    /// The storage changed while it was being read or copied.
    #[error("{} changed meanwhile: the node is at work", path.display())]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// The storage holds the state of another block than it should.
    #[error(
        "the storage has the state of height {found} and not of {expected}: it is of another \
         node, or a block is being written"
    )]
    OtherHeight {
        /// The height that it has.
        found: u64,
        /// The height that was asked for.
        expected: u64,
    },
    /// The held part of a copy did not end in its time.
    #[error(
        "what changed since the copy ahead cannot be copied within {limit_ms} ms: {read_bytes} \
         bytes were read by then"
    )]
    HeldTooLong {
        /// The time it had.
        limit_ms: u64,
        /// Bytes read in it.
        read_bytes: u64,
    },
    /// The disk is too full.
    #[error(
        "no space in {}: {needed} bytes are needed, {available} are free", path.display()
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that are needed, with those that are left to the node.
        needed: u64,
        /// Bytes that its file system has left.
        available: u64,
    },
    /// Records that this room does not take, or makes no state of.
    #[error("the records are no state of a Xian chain: {problem}")]
    Records {
        /// Why.
        problem: String,
    },
    /// The state's own rules.
    #[error(transparent)]
    State(#[from] StateError),
    /// Whoever asked for it wants it no more.
    #[error("stopped")]
    Stopped,
}

impl XianError {
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}
