//! The rules of a manifest: what its fields may be, and what makes its chunk
//! list one.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::encoding::decode_varint;

use super::shape::{BOOL, CODE, DIGEST, Kind, Shape, ShapeError, U32, U64, many, one};
use super::{
    ChunkId, Digest, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS,
    MAX_HEIGHT, MAX_METADATA_BYTES, MAX_PIECES_PER_CHUNK, MAX_SCOPE_BYTES, MAX_SCOPES,
    MAX_SNAPSHOT_HASH_BYTES, ManifestError, PIECE_BYTES, UniqueChunk, proto,
};

/// The smallest entry of the chunk list: a size below 128, a SHA-256 and one
/// piece hash. It keeps the memory for a list in proportion to its bytes.
const LEAST_CHUNK_ENTRY_BYTES: usize = 2 + 34 + 34;

/// The largest entry of the chunk list: with all its pieces and two scopes.
const MOST_CHUNK_ENTRY_BYTES: usize = 5 + 34 + 3 + 32 * MAX_PIECES_PER_CHUNK as usize + 2 * 6;

/// What a manifest may contain; the inside of a chunk entry is judged with its
/// position, by [`Chunks::check`].
pub(super) const MANIFEST_SHAPE: Shape = Shape {
    fields: &[
        one(1, "version", U32),
        one(2, "chain_id", Kind::Bytes(0, MAX_CHAIN_ID_BYTES)),
        one(3, "height", U64),
        one(4, "app_hash", Kind::Bytes(0, MAX_APP_HASH_BYTES)),
        one(5, "unproven", BOOL),
        one(6, "format", U32),
        one(7, "hash", Kind::Bytes(0, MAX_SNAPSHOT_HASH_BYTES)),
        one(8, "metadata", Kind::Bytes(0, MAX_METADATA_BYTES)),
        one(9, "content", CODE),
        many(
            10,
            "chunks",
            MAX_CHUNKS as usize,
            Kind::Bytes(LEAST_CHUNK_ENTRY_BYTES, MOST_CHUNK_ENTRY_BYTES),
        ),
        one(11, "base", DIGEST),
        many(12, "scopes", MAX_SCOPES, Kind::Bytes(1, MAX_SCOPE_BYTES)),
    ],
    one_of: false,
};

impl From<ShapeError> for ManifestError {
    fn from(error: ShapeError) -> Self {
        match error {
            ShapeError::TooMany { what: "chunks", .. } => Self::TooManyChunks,
            ShapeError::TooMany { what, limit } => field(what, format!("are more than {limit}")),
            ShapeError::TooLong { what, found, limit } => field(
                what,
                format!("has {found} bytes, at most {limit} are possible"),
            ),
            ShapeError::Value { what, problem } => field(what, problem),
            ShapeError::Syntax(problem) => Self::Syntax(problem),
        }
    }
}

/// Refuses other versions by the first field alone, whatever shape they have.
pub(super) fn check_version(bytes: &[u8]) -> Result<(), ManifestError> {
    const VERSION_KEY: u8 = 1 << 3;
    let Some((&VERSION_KEY, mut rest)) = bytes.split_first() else {
        return Err(ManifestError::Syntax(
            "it does not begin with a version".to_owned(),
        ));
    };
    match decode_varint(&mut rest) {
        Ok(1) => Ok(()),
        Ok(version) => Err(ManifestError::Version(version)),
        Err(error) => Err(ManifestError::Syntax(error.to_string())),
    }
}

/// Refuses other kinds of content.
pub(super) fn check_content(message: &proto::Manifest) -> Result<(), ManifestError> {
    match proto::ContentKind::try_from(message.content) {
        Ok(proto::ContentKind::Opaque | proto::ContentKind::State) => Ok(()),
        Ok(proto::ContentKind::Unspecified) | Err(_) => {
            Err(ManifestError::Content(message.content))
        }
    }
}

/// What the shape does not say about the fields.
pub(super) fn check_fields(message: &proto::Manifest) -> Result<(), ManifestError> {
    check_chain_id(&message.chain_id).map_err(|problem| field("chain_id", problem))?;
    if message.height == 0 || message.height > MAX_HEIGHT {
        return Err(field(
            "height",
            format!("{} is not in 1 to {MAX_HEIGHT}", message.height),
        ));
    }
    if message.hash.is_empty() {
        return Err(field("hash", "is empty; CometBFT takes no such snapshot"));
    }
    if message.app_hash.is_empty() != message.unproven {
        return Err(field(
            "app_hash",
            "must be empty in a snapshot that is marked unproven, and only there",
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

/// The chunk list, checked and turned into the three numberings.
#[derive(Clone)]
pub(super) struct Chunks {
    /// The number of the distinct chunk at each position.
    pub positions: Vec<u32>,
    /// The distinct chunks.
    pub unique: Vec<UniqueChunk>,
    /// The piece hashes of each distinct chunk: parts of the manifest's bytes.
    piece_hashes: Vec<Bytes>,
    pub piece_count: u32,
    pub total_bytes: u64,
    pub unique_bytes: u64,
}

impl Chunks {
    pub fn check(chunks: &[proto::Chunk]) -> Result<Self, ManifestError> {
        if chunks.is_empty() {
            return Err(field("chunks", "a snapshot has at least one chunk"));
        }
        let mut this = Self {
            positions: Vec::with_capacity(chunks.len()),
            unique: Vec::new(),
            piece_hashes: Vec::new(),
            piece_count: 0,
            total_bytes: 0,
            unique_bytes: 0,
        };
        let mut numbers: BTreeMap<Digest, u32> = BTreeMap::new();
        for (position, chunk) in chunks.iter().enumerate() {
            let digest = check_chunk(position, chunk)?;
            let number = *numbers
                .entry(digest)
                .or_insert_with(|| this.add_unique(digest, chunk));
            if this.unique[number as usize].size != chunk.size
                || this.piece_hashes[number as usize] != chunk.pieces
            {
                return Err(ManifestError::Chunk {
                    position,
                    problem: "has the SHA-256 of an earlier chunk with another size or other \
                              pieces"
                        .to_owned(),
                });
            }
            this.positions.push(number);
            this.total_bytes += u64::from(chunk.size);
        }
        this.unique.shrink_to_fit();
        this.piece_hashes.shrink_to_fit();
        Ok(this)
    }

    fn add_unique(&mut self, digest: Digest, chunk: &proto::Chunk) -> u32 {
        let number = self.unique.len() as u32;
        let unique = UniqueChunk {
            id: ChunkId(digest),
            size: chunk.size,
            first_piece: self.piece_count,
        };
        self.piece_count += unique.piece_count();
        self.unique_bytes += u64::from(chunk.size);
        self.unique.push(unique);
        self.piece_hashes.push(chunk.pieces.clone());
        number
    }

    /// The SHA-256 of a piece. Panics where the chunk has no such piece: only
    /// numbers that this list minted come here.
    pub fn piece_hash(&self, unique: usize, index_in_chunk: u32) -> Digest {
        let at = index_in_chunk as usize * 32;
        Digest::from_slice(&self.piece_hashes[unique][at..at + 32]).expect("32 bytes were taken")
    }
}

/// Checks an entry of the chunk list for itself; gives its SHA-256.
pub(super) fn check_chunk(position: usize, chunk: &proto::Chunk) -> Result<Digest, ManifestError> {
    let error = |problem: String| ManifestError::Chunk { position, problem };
    check_chunk_size(position, chunk.size as usize)?;
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

/// Whether a chunk may have so many bytes.
pub(super) fn check_chunk_size(position: usize, size: usize) -> Result<(), ManifestError> {
    if size == 0 || size > MAX_CHUNK_BYTES as usize {
        return Err(ManifestError::Chunk {
            position,
            problem: format!("has {size} bytes; 1 to {MAX_CHUNK_BYTES} are possible"),
        });
    }
    Ok(())
}

pub(super) fn field(field: &'static str, problem: impl Into<String>) -> ManifestError {
    ManifestError::Field {
        field,
        problem: problem.into(),
    }
}
