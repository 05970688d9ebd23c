//! What this node can give to others, as the network sees it.

use std::io;

use bytes::Bytes;
use libp2p::PeerId;

use crate::snapshot::{Bitmap, ChunkId, ManifestId};
use crate::wire::{CatalogueEntry, Holding};

/// Answers for the requests of peers. All calls may block on the disk: the
/// network makes them on the blocking pool, never on an async thread, and they
/// must be safe to make from many threads at once. Nothing here calls an
/// application.
pub trait Library: Send + Sync + 'static {
    /// The newest entries of a chain, or of all chains; newest first.
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry>;

    /// The canonical bytes of a manifest.
    fn manifest(&self, id: &ManifestId) -> Option<Bytes>;

    /// What is here of a snapshot, and how many pieces it has.
    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)>;

    /// Which of these chunks are here, verified, under whatever manifest.
    fn holds(&self, chunks: &[ChunkId]) -> Bitmap;

    /// The size of a chunk that is here and verified.
    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32>;

    /// The bytes of a piece of a verified chunk (the last of a chunk is
    /// shorter); nothing when the chunk is not here (any more).
    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>>;

    /// `peer` opened this snapshot on a piece stream: it is being downloaded
    /// from us. Called again at least once a minute while it is.
    fn in_use(&self, id: &ManifestId, peer: &PeerId);
}
