//! A library in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use libp2p::PeerId;
use snapswarm::net::Library;
use snapswarm::snapshot::{
    Bitmap, ChunkId, Manifest, ManifestBuilder, ManifestId, PIECE_BYTES, PieceIndex, SnapshotFields,
};
use snapswarm::wire::{CatalogueEntry, Holding};

/// One snapshot, complete unless told otherwise.
pub struct Shelf {
    pub manifest: Arc<Manifest>,
    chunks: Mutex<BTreeMap<ChunkId, Bytes>>,
    /// Chunks that are here but whose bytes cannot be read.
    pub damaged: Mutex<Vec<ChunkId>>,
    pub holding: Mutex<Holding>,
    pub in_use: Mutex<Vec<(ManifestId, PeerId)>>,
    pub reads: AtomicUsize,
}

impl Shelf {
    /// Chunks of these sizes, each with its own content.
    pub fn new(sizes: &[usize]) -> Arc<Self> {
        let mut builder = ManifestBuilder::new();
        let mut chunks = BTreeMap::new();
        for (number, size) in sizes.iter().enumerate() {
            let mut state = (number as u32).wrapping_mul(2_654_435_761) + 1;
            let chunk: Vec<u8> = (0..*size)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let id = builder.push(&chunk).unwrap();
            chunks.insert(id, Bytes::from(chunk));
        }
        let manifest = builder
            .finish(SnapshotFields {
                chain_id: "pieces-1".to_owned(),
                height: 7,
                app_hash: None,
                format: 1,
                hash: None,
                metadata: Bytes::new(),
            })
            .unwrap();
        Arc::new(Self {
            manifest: Arc::new(manifest),
            chunks: Mutex::new(chunks),
            damaged: Mutex::default(),
            holding: Mutex::new(Holding::Complete),
            in_use: Mutex::default(),
            reads: AtomicUsize::new(0),
        })
    }

    /// `count` pieces of full size, each a chunk of its own.
    pub fn of_pieces(count: usize) -> Arc<Self> {
        Self::new(&vec![PIECE_BYTES as usize; count])
    }

    /// What to ask for to get a piece: chunk, piece in it, length.
    pub fn request(&self, number: u32) -> (ChunkId, u32, u32) {
        let piece = self.manifest.piece(self.index(number));
        let chunk = self.manifest.unique_chunk(piece.chunk);
        (chunk.id, piece.index_in_chunk, piece.len)
    }

    pub fn index(&self, number: u32) -> PieceIndex {
        self.manifest.piece_index(number).unwrap()
    }

    /// The right bytes of a piece.
    pub fn bytes(&self, number: u32) -> Bytes {
        let (chunk, piece, len) = self.request(number);
        let from = (piece * PIECE_BYTES) as usize;
        self.chunks.lock().unwrap()[&chunk].slice(from..from + len as usize)
    }

    pub fn forget(&self, chunk: &ChunkId) {
        self.chunks.lock().unwrap().remove(chunk);
    }
}

impl Library for Shelf {
    fn catalogue(&self, _: Option<&str>) -> Vec<CatalogueEntry> {
        Vec::new()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        (*id == self.manifest.id()).then(|| self.manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        let holding = self.holding.lock().unwrap().clone();
        (*id == self.manifest.id()).then(|| (holding, self.manifest.piece_count()))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        let here = self.chunks.lock().unwrap();
        let mut bits = Bitmap::new(chunks.len() as u32);
        for (number, chunk) in chunks.iter().enumerate() {
            if here.contains_key(chunk) {
                bits.insert(number as u32);
            }
        }
        bits
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        let here = self.chunks.lock().unwrap();
        here.get(chunk).map(|bytes| bytes.len() as u32)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.damaged.lock().unwrap().contains(chunk) {
            return Err(io::Error::other("a bad sector"));
        }
        let here = self.chunks.lock().unwrap();
        Ok(here.get(chunk).map(|bytes| {
            let from = (piece * PIECE_BYTES) as usize;
            bytes.slice(from..bytes.len().min(from + PIECE_BYTES as usize))
        }))
    }

    fn in_use(&self, id: &ManifestId, peer: &PeerId) {
        self.in_use.lock().unwrap().push((*id, *peer));
    }
}

/// Several snapshots, of which only the holdings can be asked.
pub struct Shelves(pub Vec<Arc<Shelf>>);

impl Shelves {
    fn of(&self, id: &ManifestId) -> Option<&Arc<Shelf>> {
        self.0.iter().find(|shelf| shelf.manifest.id() == *id)
    }
}

impl Library for Shelves {
    fn catalogue(&self, _: Option<&str>) -> Vec<CatalogueEntry> {
        Vec::new()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        self.of(id)?.manifest(id)
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        self.of(id)?.holding(id)
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        Bitmap::new(chunks.len() as u32)
    }

    fn chunk_size(&self, _: &ChunkId) -> Option<u32> {
        None
    }

    fn read_piece(&self, _: &ChunkId, _: u32) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn in_use(&self, _: &ManifestId, _: &PeerId) {}
}
