//! What the store has, as the network serves it.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;

use crate::net::Library;
use crate::snapshot::{Bitmap, ChunkId, ManifestId};
use crate::store::{Servable, Store, Stored};
use crate::wire::{CatalogueEntry, Holding, MAX_CATALOGUE_ENTRIES};

/// The store's verified chunks, for peers.
pub(super) struct StoreLibrary(pub(super) Store);

impl Library for StoreLibrary {
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        self.0
            .list()
            .iter()
            .filter(|stored| chain_id.is_none_or(|chain| chain == stored.manifest.chain_id()))
            .take(MAX_CATALOGUE_ENTRIES)
            .map(entry)
            .collect()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        self.0
            .manifest(id)
            .map(|manifest| manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        let pieces = self.0.manifest(id)?.piece_count();
        let holding = match self.0.servable(id)? {
            Servable::Complete => Holding::Complete,
            Servable::Pieces(bits) => Holding::Pieces(Bytes::copy_from_slice(bits.as_bytes())),
        };
        Some((holding, pieces))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        self.0.holds(chunks)
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.0.find_chunk(chunk).map(|found| found.size)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        self.0.read_piece(chunk, piece).map_err(|error| {
            tracing::error!(%chunk, piece, %error, "a chunk cannot be read and is not served");
            io::Error::other(error)
        })
    }

    fn in_use(&self, id: &ManifestId, _peer: &PeerId) {
        self.0.lease(id, Instant::now());
    }
}

fn entry(stored: &Stored) -> CatalogueEntry {
    let manifest = &stored.manifest;
    CatalogueEntry {
        chain_id: manifest.chain_id().to_owned(),
        height: manifest.height(),
        format: manifest.format(),
        app_hash: manifest.app_hash().cloned().unwrap_or_default(),
        manifest: manifest.id(),
        manifest_bytes: manifest.encoded().len() as u32,
        total_bytes: manifest.total_bytes(),
        chunks: manifest.chunk_count(),
        complete: stored.complete,
    }
}
