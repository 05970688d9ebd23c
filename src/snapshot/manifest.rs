//! The manifest: checked, indexed, canonical.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{
    ChunkId, Digest, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS,
    MAX_HEIGHT, MAX_MANIFEST_BYTES, MAX_METADATA_BYTES, MAX_SNAPSHOT_HASH_BYTES, ManifestId,
    PIECE_BYTES, hash, proto, scan,
};

/// The number of the chunk list in `manifest.proto`.
const CHUNKS_FIELD: u32 = 10;

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
    positions: Vec<u32>,
    unique: Vec<UniqueChunk>,
    piece_hashes: Vec<Digest>,
    total_bytes: u64,
    unique_bytes: u64,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("id", &self.id)
            .field("chain_id", &self.chain_id)
            .field("height", &self.height)
            .field("chunks", &self.positions.len())
            .field("total_bytes", &self.total_bytes)
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
    Version(u32),
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
    /// Checks foreign bytes against every rule of the format.
    pub fn decode(bytes: Bytes) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES as usize {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        match scan::count_field(&bytes, CHUNKS_FIELD) {
            Ok(count) if count > MAX_CHUNKS as usize => return Err(ManifestError::TooManyChunks),
            Ok(_) => {}
            Err(problem) => return Err(ManifestError::Syntax(problem)),
        }
        let message = proto::Manifest::decode(bytes.clone())
            .map_err(|error| ManifestError::Syntax(error.to_string()))?;
        if message.encode_to_vec() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Self::check(message, bytes)
    }

    /// As [`Manifest::decode`], and the bytes must be those that `expected`
    /// names.
    pub fn decode_as(expected: &ManifestId, bytes: Bytes) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES as usize {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let found = ManifestId(hash::sha256(&bytes));
        if found != *expected {
            return Err(ManifestError::OtherManifest {
                expected: *expected,
                found,
            });
        }
        Self::decode(bytes)
    }

    /// Checks a message whose canonical encoding is `encoded`.
    pub(super) fn check(message: proto::Manifest, encoded: Bytes) -> Result<Self, ManifestError> {
        if message.version != 1 {
            return Err(ManifestError::Version(message.version));
        }
        if message.content != proto::ContentKind::Opaque as i32 {
            return Err(ManifestError::Content(message.content));
        }
        check_fields(&message)?;
        let chunks = Chunks::check(&message.chunks)?;
        Ok(Self {
            id: ManifestId(hash::sha256(&encoded)),
            encoded,
            chain_id: message.chain_id,
            height: message.height,
            app_hash: message.app_hash,
            format: message.format,
            hash: message.hash,
            metadata: message.metadata,
            positions: chunks.positions,
            unique: chunks.unique,
            piece_hashes: chunks.piece_hashes,
            total_bytes: chunks.total_bytes,
            unique_bytes: chunks.unique_bytes,
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

    /// ABCI snapshot metadata.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// How many chunks the snapshot has, repeated ones counted each time.
    pub fn chunk_count(&self) -> u32 {
        self.positions.len() as u32
    }

    /// Bytes of all chunks, repeated ones counted each time.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes of the distinct chunks: what a download moves and a disk holds.
    pub fn unique_bytes(&self) -> u64 {
        self.unique_bytes
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
        UniqueIndex(self.positions[position.0 as usize])
    }

    /// Distinct chunks.
    pub fn unique_count(&self) -> u32 {
        self.unique.len() as u32
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
        self.unique[chunk.0 as usize]
    }

    /// Pieces of all distinct chunks.
    pub fn piece_count(&self) -> u32 {
        self.piece_hashes.len() as u32
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

    /// Where a piece lies and what it hashes to.
    pub fn piece(&self, piece: PieceIndex) -> Piece {
        let chunk = self
            .unique
            .partition_point(|chunk| chunk.first_piece <= piece.0)
            - 1;
        let UniqueChunk {
            size, first_piece, ..
        } = self.unique[chunk];
        let index_in_chunk = piece.0 - first_piece;
        let offset = index_in_chunk * PIECE_BYTES;
        Piece {
            chunk: UniqueIndex(chunk as u32),
            index_in_chunk,
            offset,
            len: (size - offset).min(PIECE_BYTES),
            sha256: self.piece_hashes[piece.0 as usize],
        }
    }
}

/// The chunk list, checked and turned into the three numberings.
struct Chunks {
    positions: Vec<u32>,
    unique: Vec<UniqueChunk>,
    piece_hashes: Vec<Digest>,
    total_bytes: u64,
    unique_bytes: u64,
}

impl Chunks {
    fn check(chunks: &[proto::Chunk]) -> Result<Self, ManifestError> {
        if chunks.is_empty() {
            return Err(field("chunks", "a snapshot has at least one chunk"));
        }
        if chunks.len() > MAX_CHUNKS as usize {
            return Err(ManifestError::TooManyChunks);
        }
        let mut this = Self {
            positions: Vec::with_capacity(chunks.len()),
            unique: Vec::new(),
            piece_hashes: Vec::new(),
            total_bytes: 0,
            unique_bytes: 0,
        };
        let mut numbers: BTreeMap<Digest, u32> = BTreeMap::new();
        for (position, chunk) in chunks.iter().enumerate() {
            let digest = check_chunk(position, chunk)?;
            let number = *numbers
                .entry(digest)
                .or_insert_with(|| this.add_unique(digest, chunk));
            let known = &this.unique[number as usize];
            let first = known.first_piece as usize;
            let same_pieces = || {
                chunk
                    .pieces
                    .chunks_exact(32)
                    .zip(&this.piece_hashes[first..])
                    .all(|(a, b)| a == b.0)
            };
            if known.size != chunk.size || !same_pieces() {
                return Err(ManifestError::Chunk {
                    position,
                    problem: "has the SHA-256 of an earlier chunk with other sizes or pieces"
                        .to_owned(),
                });
            }
            this.positions.push(number);
            this.total_bytes += u64::from(chunk.size);
        }
        Ok(this)
    }

    fn add_unique(&mut self, digest: Digest, chunk: &proto::Chunk) -> u32 {
        let number = self.unique.len() as u32;
        self.unique.push(UniqueChunk {
            id: ChunkId(digest),
            size: chunk.size,
            first_piece: self.piece_hashes.len() as u32,
        });
        self.piece_hashes
            .extend(chunk.pieces.chunks_exact(32).filter_map(Digest::from_slice));
        self.unique_bytes += u64::from(chunk.size);
        number
    }
}

fn check_chunk(position: usize, chunk: &proto::Chunk) -> Result<Digest, ManifestError> {
    let error = |problem: String| ManifestError::Chunk { position, problem };
    if chunk.size == 0 || chunk.size > MAX_CHUNK_BYTES {
        return Err(error(format!(
            "has {} bytes; 1 to {MAX_CHUNK_BYTES} are possible",
            chunk.size
        )));
    }
    let digest = Digest::from_slice(&chunk.sha256)
        .ok_or_else(|| error(format!("its SHA-256 has {} bytes", chunk.sha256.len())))?;
    let expected = chunk.size.div_ceil(PIECE_BYTES) as usize * 32;
    if chunk.pieces.len() != expected {
        return Err(error(format!(
            "its piece hashes have {} bytes, not {expected}",
            chunk.pieces.len()
        )));
    }
    Ok(digest)
}

fn field(field: &'static str, problem: impl Into<String>) -> ManifestError {
    ManifestError::Field {
        field,
        problem: problem.into(),
    }
}

fn check_fields(message: &proto::Manifest) -> Result<(), ManifestError> {
    check_chain_id(&message.chain_id).map_err(|problem| field("chain_id", problem))?;
    if message.height == 0 || message.height > MAX_HEIGHT {
        return Err(field(
            "height",
            format!("{} is not in 1 to {MAX_HEIGHT}", message.height),
        ));
    }
    let at_most = |name, found: usize, limit: usize| {
        if found > limit {
            return Err(field(name, format!("has {found} bytes, at most {limit}")));
        }
        Ok(())
    };
    at_most("app_hash", message.app_hash.len(), MAX_APP_HASH_BYTES)?;
    at_most("hash", message.hash.len(), MAX_SNAPSHOT_HASH_BYTES)?;
    at_most("metadata", message.metadata.len(), MAX_METADATA_BYTES)?;
    if message.hash.is_empty() {
        return Err(field("hash", "is empty; CometBFT takes no such snapshot"));
    }
    if message.app_hash.is_empty() != message.unproven {
        return Err(field(
            "app_hash",
            "is empty in exactly the snapshots that are marked unproven",
        ));
    }
    Ok(())
}

/// A chain id that is safe to print and that CometBFT takes.
pub(crate) fn check_chain_id(chain_id: &str) -> Result<(), String> {
    if chain_id.is_empty() || chain_id.len() > MAX_CHAIN_ID_BYTES {
        return Err(format!(
            "has {} bytes; 1 to {MAX_CHAIN_ID_BYTES} are possible",
            chain_id.len()
        ));
    }
    if !chain_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a character that is not printable ASCII".to_owned());
    }
    Ok(())
}
