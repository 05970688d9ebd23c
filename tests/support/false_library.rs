//! A library that says what a test wants.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use snapswarm::net::{Library, PeerId};
use snapswarm::snapshot::{
    Bitmap, ChunkId, Manifest, ManifestId, PIECE_BYTES, UniqueChunk, UntrustedEndorsement,
};
use snapswarm::wire::{CatalogueEntry, Holding};

/// What a false library holds: one manifest, and for each chunk that it names
/// the bytes that are given out for it.
pub struct FalseLibrary {
    pub manifest: Arc<Manifest>,
    pub chunks: BTreeMap<ChunkId, Bytes>,
    /// What the catalogue says instead of the manifest's own height.
    pub claimed_height: Option<u64>,
    /// Who speaks for it, as the catalogue says.
    pub endorsements: Vec<UntrustedEndorsement>,
}

impl FalseLibrary {
    /// Zeros of the right length for every chunk of a true manifest.
    pub fn of_zeros(manifest: Arc<Manifest>) -> Self {
        let chunks = manifest.unique_indexes();
        let chunks: Vec<_> = chunks.map(|index| manifest.unique_chunk(index)).collect();
        let largest = chunks.iter().map(|chunk| chunk.size).max();
        let zeros = Bytes::from(vec![0; largest.unwrap_or(0) as usize]);
        let of_zeros = |chunk: &UniqueChunk| (chunk.id, zeros.slice(..chunk.size as usize));
        Self {
            chunks: chunks.iter().map(of_zeros).collect(),
            manifest,
            claimed_height: None,
            endorsements: Vec::new(),
        }
    }
}

impl Library for FalseLibrary {
    fn catalogue(&self, _chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        let manifest = &self.manifest;
        vec![CatalogueEntry {
            chain_id: manifest.chain_id().to_owned(),
            height: self.claimed_height.unwrap_or(manifest.height()),
            format: manifest.format(),
            app_hash: manifest.app_hash().cloned().unwrap_or_default(),
            manifest: manifest.id(),
            manifest_bytes: manifest.encoded().len() as u32,
            total_bytes: manifest.total_bytes(),
            chunks: manifest.chunk_count(),
            complete: true,
            delta: false,
            endorsements: self.endorsements.clone(),
        }]
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        (*id == self.manifest.id()).then(|| self.manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        (*id == self.manifest.id()).then(|| (Holding::Complete, self.manifest.piece_count()))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        let mut bits = Bitmap::new(chunks.len() as u32);
        for (number, chunk) in chunks.iter().enumerate() {
            if self.chunks.contains_key(chunk) {
                bits.insert(number as u32);
            }
        }
        bits
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.chunks.get(chunk).map(|bytes| bytes.len() as u32)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        Ok(self.chunks.get(chunk).and_then(|bytes| {
            let start = (piece * PIECE_BYTES) as usize;
            let end = (start + PIECE_BYTES as usize).min(bytes.len());
            (start < end).then(|| bytes.slice(start..end))
        }))
    }

    fn in_use(&self, _id: &ManifestId, _peer: &PeerId) {}
}
