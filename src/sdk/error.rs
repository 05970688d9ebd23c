//! What can be wrong with the folder, and with a snapshot in it.

use std::io;
use std::path::PathBuf;

use super::files::CHUNK_BYTES;
use crate::snapshot::MAX_CHUNKS;

/// Why the folder cannot be read. A snapshot that is not there any more is no
/// error.
#[derive(Debug, thiserror::Error)]
pub enum SdkError {
    /// The folder itself.
    #[error("the snapshot folder {} cannot be read", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A chunk of a snapshot.
    #[error("{} cannot be read", path.display())]
    Chunk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why files are no finished snapshot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it has no chunk")]
    Empty,
    #[error("its chunk {0} is no regular file")]
    NoFile(u32),
    #[error("its chunk {0} is missing")]
    Gap(u32),
    #[error("it has more than {MAX_CHUNKS} chunks")]
    TooManyChunks,
    #[error("its chunk {index} has {bytes} bytes; all but the last have {CHUNK_BYTES}")]
    ChunkBytes { index: u32, bytes: u64 },
    #[error("its last chunk has {0} bytes; it has 1 to {CHUNK_BYTES} in a finished one")]
    LastChunkBytes(u64),
    #[error("its zlib stream has no end: the node did not finish it")]
    NoEnd,
    #[error("bytes follow the end of its zlib stream")]
    Trailing,
    #[error("its zlib stream is damaged")]
    Damaged,
}
