//! Where snapshots come from and where they go. Both traits are blocking and
//! object-safe and move one chunk at a time; the hall runs them on the blocking
//! pool. A new kind of chain is a new Source or Target.

use bytes::Bytes;

use super::{ChunkIndex, Manifest};

/// A snapshot that a source can give: the fields of the ABCI Snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The height whose state it is.
    pub height: u64,
    /// Format, by the application's own numbering.
    pub format: u32,
    /// How many chunks it has.
    pub chunks: u32,
    /// The application's own hash over it.
    pub hash: Bytes,
    /// The application's own metadata.
    pub metadata: Bytes,
}

impl Offer {
    /// What a manifest says of its snapshot.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            height: manifest.height(),
            format: manifest.format(),
            chunks: manifest.chunk_count(),
            hash: manifest.hash().clone(),
            metadata: manifest.metadata().clone(),
        }
    }
}

/// Why a source cannot give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The snapshot is not there any more; another one may be.
    #[error("the source has no snapshot of height {height}, format {format} any more")]
    Gone {
        /// Its height.
        height: u64,
        /// Its format.
        format: u32,
    },
    /// The source itself failed.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Lists snapshots and opens them.
pub trait Source: Send {
    /// What can be opened now, newest first.
    fn list(&mut self) -> Result<Vec<Offer>, SourceError>;

    /// Opens one of them.
    fn open(&mut self, offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError>;
}

/// A snapshot under reading.
pub trait OpenSnapshot: Send {
    /// The next chunk in order, or nothing after the last.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError>;
}

/// Why a target did not take a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The snapshot was refused; another one may be taken.
    #[error("the snapshot was refused: {0}")]
    Refused(String),
    /// The target itself failed.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Takes one snapshot.
pub trait Target: Send {
    /// Prepares for the chunks of `manifest`.
    fn begin(&mut self, manifest: &Manifest) -> Result<(), TargetError>;

    /// Takes a chunk whose bytes were verified; positions come in order.
    fn chunk(&mut self, index: ChunkIndex, bytes: &[u8]) -> Result<(), TargetError>;

    /// All chunks are there.
    fn finish(&mut self) -> Result<(), TargetError>;
}
