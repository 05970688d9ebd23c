//! What the store has, as the network serves it.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;

use super::trust::Trust;
use crate::net::Library;
use crate::snapshot::{Bitmap, ChunkId, Endorsement, ManifestId};
use crate::store::{Servable, Store, Stored};
use crate::wire::{CatalogueEntry, Holding, MAX_CATALOGUE_ENTRIES};

/// The store's verified chunks, for peers.
pub(super) struct StoreLibrary {
    store: Store,
    trust: Trust,
}

impl StoreLibrary {
    pub(super) fn new(store: Store, trust: Trust) -> Self {
        Self { store, trust }
    }

    fn entry(&self, stored: &Stored) -> CatalogueEntry {
        let manifest = &stored.manifest;
        let endorsements = self.store.endorsements(&manifest.id());
        let passed_on = endorsements
            .iter()
            .filter(|one| self.trust.passes_on(&one.key()));
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
            delta: manifest.base().is_some(),
            endorsements: passed_on.map(Endorsement::told).collect(),
        }
    }
}

impl Library for StoreLibrary {
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        self.store
            .list()
            .iter()
            .filter(|stored| chain_id.is_none_or(|chain| chain == stored.manifest.chain_id()))
            .take(MAX_CATALOGUE_ENTRIES)
            .map(|stored| self.entry(stored))
            .collect()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        self.store
            .manifest(id)
            .map(|manifest| manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        let pieces = self.store.manifest(id)?.piece_count();
        let holding = match self.store.servable(id)? {
            Servable::Complete => Holding::Complete,
            Servable::Pieces(bits) => Holding::Pieces(Bytes::copy_from_slice(bits.as_bytes())),
        };
        Some((holding, pieces))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        self.store.holds(chunks)
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.store.find_chunk(chunk).map(|found| found.size)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        self.store
            .read_piece(chunk, piece)
            .map_err(io::Error::other)
    }

    fn in_use(&self, id: &ManifestId, _peer: &PeerId) {
        self.store.lease(id, Instant::now());
    }
}
