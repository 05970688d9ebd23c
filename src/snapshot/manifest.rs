//! The manifest: checked, indexed, canonical.

use bytes::Bytes;
use prost::Message;

use super::rules::{self, Chunks, MANIFEST_SHAPE};
use super::{
    ChunkId, Digest, MAX_CHUNKS, MAX_MANIFEST_BYTES, ManifestId, PIECE_BYTES, StateContent, hash,
    proto,
};

/// The position of a chunk in its snapshot: the ABCI chunk index. Only a
/// manifest mints one, so it is always in range for that manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkIndex(u32);

/// The number of a distinct chunk, in the order of first positions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UniqueIndex(u32);

/// The number of a piece among the pieces of all distinct chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PieceIndex(u32);

macro_rules! index_as_number {
    ($($name:ident)*) => {$(
        impl $name {
            /// The plain number.
            pub fn get(self) -> u32 {
                self.0
            }
        }
    )*};
}
index_as_number!(ChunkIndex UniqueIndex PieceIndex);

/// A distinct chunk of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UniqueChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its size in bytes.
    pub size: u32,
    /// The number of its first piece; the others follow.
    pub first_piece: u32,
}

impl UniqueChunk {
    /// How many pieces it has.
    pub fn piece_count(&self) -> u32 {
        self.size.div_ceil(PIECE_BYTES)
    }
}

/// A piece of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The distinct chunk it belongs to.
    pub chunk: UniqueIndex,
    /// Which piece of that chunk, from 0.
    pub index_in_chunk: u32,
    /// Where it begins in the chunk, in bytes.
    pub offset: u32,
    /// Its length in bytes: 1 MiB, less for the last of a chunk.
    pub len: u32,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// A manifest that was checked against every rule of the format.
#[derive(Clone)]
pub struct Manifest {
    id: ManifestId,
    encoded: Bytes,
    chain_id: String,
    height: u64,
    app_hash: Bytes,
    format: u32,
    hash: Bytes,
    metadata: Bytes,
    chunks: Chunks,
    state: Option<StateContent>,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("id", &self.id)
            .field("chain_id", &self.chain_id)
            .field("height", &self.height)
            .field("chunks", &self.chunk_count())
            .field("total_bytes", &self.total_bytes())
            .finish_non_exhaustive()
    }
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// More bytes than a manifest may have.
    #[error("a manifest has at most {MAX_MANIFEST_BYTES} bytes, this one has {0}")]
    TooLarge(usize),
    /// More chunks than a snapshot may have.
    #[error("a snapshot has at most {MAX_CHUNKS} chunks")]
    TooManyChunks,
    /// Bytes that are no protobuf message of this shape.
    #[error("the bytes are no manifest message: {0}")]
    Syntax(String),
    /// Another encoding of the same message.
    #[error("the manifest is not canonically encoded")]
    NotCanonical,
    /// A version that this program does not know.
    #[error(
        "manifest version {0} is unknown here; version 1 is known, a newer snapswarm may know it"
    )]
    Version(u64),
    /// A content kind that this program does not know.
    #[error("content kind {0} is unknown here; a newer snapswarm may know it")]
    Content(i32),
    /// A field outside its limits.
    #[error("{field}: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A chunk outside its limits.
    #[error("chunk {position}: {problem}")]
    Chunk {
        /// Its position.
        position: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The bytes are a manifest, but not the one that was asked for.
    #[error("asked for manifest {expected}, these bytes are {found}")]
    OtherManifest {
        /// Asked for.
        expected: ManifestId,
        /// What the bytes hash to.
        found: ManifestId,
    },
}

impl Manifest {
    /// Checks foreign bytes against every rule of the format. Memory taken beside
    /// the bytes themselves: their size once more while it works, and up to 100
    /// bytes for each chunk and each scope, and the scopes' names, that stay.
    pub fn decode(bytes: Bytes) -> Result<Self, ManifestError> {
        check_size(&bytes)?;
        let id = ManifestId(hash::sha256(&bytes));
        Self::decode_named(id, bytes)
    }

    /// As [`Manifest::decode`], and the bytes must be those that `expected`
    /// names.
    pub fn decode_as(expected: &ManifestId, bytes: Bytes) -> Result<Self, ManifestError> {
        check_size(&bytes)?;
        let found = ManifestId(hash::sha256(&bytes));
        if found != *expected {
            return Err(ManifestError::OtherManifest {
                expected: *expected,
                found,
            });
        }
        Self::decode_named(found, bytes)
    }

    fn decode_named(id: ManifestId, bytes: Bytes) -> Result<Self, ManifestError> {
        rules::check_version(&bytes)?;
        MANIFEST_SHAPE.check(&bytes)?;
        let message = proto::Manifest::decode(bytes.clone())
            .map_err(|error| ManifestError::Syntax(error.to_string()))?;
        // Ahead of the canonical form: another kind of content brings fields that
        // are unknown here, and the better answer is that it is unknown.
        rules::check_content(&message)?;
        if message.encoded_len() != bytes.len() || message.encode_to_vec() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        rules::check_fields(&message)?;
        let chunks = Chunks::check(&message.chunks)?;
        Ok(Self {
            id,
            state: StateContent::check(&message, &chunks)?,
            chunks,
            encoded: bytes,
            chain_id: message.chain_id,
            height: message.height,
            app_hash: message.app_hash,
            format: message.format,
            hash: message.hash,
            metadata: message.metadata,
        })
    }

    /// Its name.
    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// Its canonical bytes.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The chain whose state it is.
    pub fn chain_id(&self) -> &str {
        &self.chain_id
    }

    /// The height whose state it is.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// The application hash of that height (header H+1), where the maker knew
    /// it. It is a claim until a light client confirms it.
    pub fn app_hash(&self) -> Option<&Bytes> {
        (!self.app_hash.is_empty()).then_some(&self.app_hash)
    }

    /// ABCI snapshot format.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// ABCI snapshot hash.
    pub fn hash(&self) -> &Bytes {
        &self.hash
    }

    /// What state content says besides; none of opaque content.
    pub fn state(&self) -> Option<&StateContent> {
        self.state.as_ref()
    }

    /// What it builds on, if it is a delta.
    pub fn base(&self) -> Option<ManifestId> {
        self.state.as_ref().and_then(StateContent::base)
    }

    /// ABCI snapshot metadata.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// How many chunks the snapshot has, repeated ones counted each time.
    pub fn chunk_count(&self) -> u32 {
        self.chunks.positions.len() as u32
    }

    /// Bytes of all chunks, repeated ones counted each time.
    pub fn total_bytes(&self) -> u64 {
        self.chunks.total_bytes
    }

    /// Bytes of the distinct chunks: what a download moves.
    pub fn unique_bytes(&self) -> u64 {
        self.chunks.unique_bytes
    }

    /// The chunk index of an ABCI index, or nothing beyond the last.
    pub fn chunk_index(&self, position: u32) -> Option<ChunkIndex> {
        (position < self.chunk_count()).then_some(ChunkIndex(position))
    }

    /// All positions in order.
    pub fn chunk_indexes(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..self.chunk_count()).map(ChunkIndex)
    }

    /// The distinct chunk that stands at a position.
    pub fn unique_at(&self, position: ChunkIndex) -> UniqueIndex {
        UniqueIndex(self.chunks.positions[position.0 as usize])
    }

    /// Distinct chunks.
    pub fn unique_count(&self) -> u32 {
        self.chunks.unique.len() as u32
    }

    /// The distinct chunk of a number, or nothing beyond the last.
    pub fn unique_index(&self, number: u32) -> Option<UniqueIndex> {
        (number < self.unique_count()).then_some(UniqueIndex(number))
    }

    /// All distinct chunks in order.
    pub fn unique_indexes(&self) -> impl Iterator<Item = UniqueIndex> + use<> {
        (0..self.unique_count()).map(UniqueIndex)
    }

    /// Name, size and first piece of a distinct chunk.
    pub fn unique_chunk(&self, chunk: UniqueIndex) -> UniqueChunk {
        self.chunks.unique[chunk.0 as usize]
    }

    /// Pieces of all distinct chunks.
    pub fn piece_count(&self) -> u32 {
        self.chunks.piece_count
    }

    /// The piece of a number, or nothing beyond the last.
    pub fn piece_index(&self, number: u32) -> Option<PieceIndex> {
        (number < self.piece_count()).then_some(PieceIndex(number))
    }

    /// All pieces in order.
    pub fn piece_indexes(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// The pieces of a distinct chunk, in order.
    pub fn pieces_of(&self, chunk: UniqueIndex) -> impl Iterator<Item = PieceIndex> + use<> {
        let chunk = self.unique_chunk(chunk);
        (chunk.first_piece..chunk.first_piece + chunk.piece_count()).map(PieceIndex)
    }

    /// Where a piece lies and what it hashes to. Panics when another manifest
    /// minted the number and this one has no such piece.
    pub fn piece(&self, piece: PieceIndex) -> Piece {
        let chunk = self
            .chunks
            .unique
            .partition_point(|chunk| chunk.first_piece <= piece.0)
            - 1;
        let UniqueChunk {
            size, first_piece, ..
        } = self.chunks.unique[chunk];
        let index_in_chunk = piece.0 - first_piece;
        let offset = index_in_chunk * PIECE_BYTES;
        Piece {
            chunk: UniqueIndex(chunk as u32),
            index_in_chunk,
            offset,
            len: (size - offset).min(PIECE_BYTES),
            sha256: self.chunks.piece_hash(chunk, index_in_chunk),
        }
    }
}

fn check_size(bytes: &[u8]) -> Result<(), ManifestError> {
    if bytes.len() > MAX_MANIFEST_BYTES as usize {
        return Err(ManifestError::TooLarge(bytes.len()));
    }
    Ok(())
}
