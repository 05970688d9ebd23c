//! What these tests share.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng};
use snapswarm::snapshot::{
    Manifest, ManifestBuilder, ManifestId, PIECE_BYTES, PieceIndex, ReceivedPiece, SnapshotFields,
    VerifiedPiece, hash,
};
use snapswarm::store::{Archive, Origin, Store, StoreError, StoreSettings};

/// `len` bytes that differ from those of any other seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Fields of a small chain.
pub fn fields(height: u64) -> SnapshotFields {
    SnapshotFields {
        chain_id: "test-chain".to_owned(),
        height,
        app_hash: Some(Bytes::from_static(&[0xab; 32])),
        format: 1,
        hash: None,
        metadata: Bytes::from_static(b"metadata"),
    }
}

/// The manifest of these chunks.
pub fn manifest_of(height: u64, chunks: &[Vec<u8>]) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in chunks {
        builder.push(chunk).unwrap();
    }
    builder.finish(fields(height)).unwrap()
}

/// Opens a home with the default limits.
pub fn open(home: &Path) -> Store {
    Store::open(home, StoreSettings::default()).unwrap()
}

/// Makes a snapshot, as a person who loads it.
pub fn publish(store: &Store, height: u64, chunks: &[Vec<u8>]) -> Result<Archive, StoreError> {
    publish_as(Origin::Loaded, store, height, chunks)
}

/// Makes a snapshot.
pub fn publish_as(
    origin: Origin,
    store: &Store,
    height: u64,
    chunks: &[Vec<u8>],
) -> Result<Archive, StoreError> {
    let mut spool = store.publish()?;
    for chunk in chunks {
        spool.push(chunk)?;
    }
    spool.finish(fields(height), origin, false, &mut quiet)
}

/// Never stops.
pub fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Reads a whole snapshot back.
pub fn verify(store: &Store, id: &ManifestId) -> Result<(), StoreError> {
    store.verify(id, &mut quiet).map(|_| ())
}

/// A piece, verified. `chunks` are the distinct chunks in order.
pub fn piece(manifest: &Manifest, chunks: &[Vec<u8>], index: PieceIndex) -> VerifiedPiece {
    let piece = manifest.piece(index);
    let begin = piece.offset as usize;
    let chunk = &chunks[piece.chunk.get() as usize];
    let bytes = Bytes::copy_from_slice(&chunk[begin..begin + piece.len as usize]);
    hash::verify(manifest, vec![ReceivedPiece { index, bytes }])
        .remove(0)
        .unwrap()
}

/// Where chunk `index` lies in an archive or a download, by the index at its
/// beginning.
pub fn offset_in(file: &Path, index: usize) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(&bytes[..8], b"SNAPARC\n");
    let at = 80 + 8 * index;
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Changes one byte of a file.
pub fn flip(file: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// The names in a folder, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// `manifest.proto`, so that tests can make manifests that no builder makes.
#[derive(Clone, PartialEq, Message)]
pub struct RawManifest {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub chain_id: String,
    #[prost(uint64, tag = "3")]
    pub height: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub app_hash: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pub format: u32,
    #[prost(bytes = "vec", tag = "7")]
    pub hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub metadata: Vec<u8>,
    #[prost(int32, tag = "9")]
    pub content: i32,
    #[prost(message, repeated, tag = "10")]
    pub chunks: Vec<RawChunk>,
}

/// A chunk of it.
#[derive(Clone, PartialEq, Message)]
pub struct RawChunk {
    #[prost(uint32, tag = "1")]
    pub size: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub sha256: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub pieces: Vec<u8>,
}

impl RawChunk {
    /// A chunk of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let pieces = bytes.chunks(PIECE_BYTES as usize);
        Self {
            size: bytes.len() as u32,
            sha256: hash::sha256(bytes).as_bytes().to_vec(),
            pieces: pieces.flat_map(|piece| hash::sha256(piece).0).collect(),
        }
    }
}

/// A manifest of any chunks.
pub fn raw_manifest(chunks: Vec<RawChunk>) -> Manifest {
    let raw = RawManifest {
        version: 1,
        chain_id: "test-chain".to_owned(),
        height: 1,
        app_hash: vec![1; 32],
        format: 1,
        hash: vec![2; 32],
        metadata: Vec::new(),
        content: 1,
        chunks,
    };
    Manifest::decode(raw.encode_to_vec().into()).unwrap()
}
