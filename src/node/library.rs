//! What the store has, as the network serves it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;

use super::services::lock;
use crate::net::Library;
use crate::snapshot::{Bitmap, ChunkId, ManifestId, hash};
use crate::store::{Servable, Store, Stored};
use crate::wire::{CatalogueEntry, Holding, MAX_CATALOGUE_ENTRIES};

/// The store's verified chunks, for peers.
///
/// A disk can change what was verified when it was written. So each piece is
/// hashed when it is first served in this process: a damaged one is refused, and
/// the operator told, instead of being sent and banned for.
pub(super) struct StoreLibrary {
    store: Store,
    /// Pieces found right, of each snapshot: a bit for each piece of what was
    /// served.
    found_right: Mutex<BTreeMap<ManifestId, Bitmap>>,
}

impl StoreLibrary {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            found_right: Mutex::default(),
        }
    }

    fn is_right(&self, chunk: &ChunkId, piece: u32, bytes: &[u8]) -> bool {
        let Some(found) = self.store.find_chunk(chunk) else {
            return false;
        };
        let Some(manifest) = self.store.manifest(&found.manifest) else {
            return false;
        };
        let number = manifest.unique_chunk(found.unique).first_piece + piece;
        let Some(index) = manifest.piece_index(number) else {
            return false;
        };
        let known = |found_right: &BTreeMap<ManifestId, Bitmap>| {
            found_right
                .get(&found.manifest)
                .is_some_and(|pieces| pieces.contains(number))
        };
        if known(&lock(&self.found_right)) {
            return true;
        }
        if hash::sha256(bytes) != manifest.piece(index).sha256 {
            let problem = format!("piece {number} that was read to be served is not what it was");
            self.store.doubt(&found.manifest, &problem);
            return false;
        }
        let mut found_right = lock(&self.found_right);
        // Snapshots that are gone take their bits with them.
        if !found_right.contains_key(&found.manifest) {
            found_right.retain(|id, _| self.store.manifest(id).is_some());
        }
        found_right
            .entry(found.manifest)
            .or_insert_with(|| Bitmap::new(manifest.piece_count()))
            .insert(number);
        true
    }
}

impl Library for StoreLibrary {
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        self.store
            .list()
            .iter()
            .filter(|stored| chain_id.is_none_or(|chain| chain == stored.manifest.chain_id()))
            .take(MAX_CATALOGUE_ENTRIES)
            .map(entry)
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
        let read = self.store.read_piece(chunk, piece).map_err(|error| {
            tracing::error!(%chunk, piece, %error, "a chunk cannot be read and is not served");
            io::Error::other(error)
        })?;
        Ok(read.filter(|bytes| self.is_right(chunk, piece, bytes)))
    }

    fn in_use(&self, id: &ManifestId, _peer: &PeerId) {
        self.store.lease(id, Instant::now());
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
