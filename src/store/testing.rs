//! What the tests of this room share.

use std::path::Path;

use bytes::Bytes;

use crate::snapshot::{
    Manifest, ManifestBuilder, PieceIndex, ReceivedPiece, SnapshotFields, VerifiedPiece, hash,
};

/// Fields of a small chain.
pub(super) fn fields(height: u64) -> SnapshotFields {
    SnapshotFields {
        chain_id: "test-chain".to_owned(),
        height,
        app_hash: Some(Bytes::from_static(&[0xab; 32])),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    }
}

/// The manifest of these chunks at height 1.
pub(super) fn manifest_of(chunks: &[&[u8]]) -> Manifest {
    manifest_at(1, chunks)
}

/// The manifest of these chunks at a height.
pub(super) fn manifest_at(height: u64, chunks: &[&[u8]]) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in chunks {
        builder.push(chunk).unwrap();
    }
    builder.finish(fields(height)).unwrap()
}

/// `len` bytes that differ from those of any other seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A piece of `chunks`, verified.
pub(super) fn piece(manifest: &Manifest, chunks: &[&[u8]], index: PieceIndex) -> VerifiedPiece {
    let piece = manifest.piece(index);
    let position = manifest
        .chunk_indexes()
        .find(|position| manifest.unique_at(*position) == piece.chunk)
        .unwrap();
    let chunk = chunks[position.get() as usize];
    let begin = piece.offset as usize;
    let bytes = Bytes::copy_from_slice(&chunk[begin..begin + piece.len as usize]);
    hash::verify(manifest, vec![ReceivedPiece { index, bytes }])
        .remove(0)
        .unwrap()
}

/// The names in a folder, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
