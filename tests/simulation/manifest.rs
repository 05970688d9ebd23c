//! Manifests of any shape without their bytes: the simulation never hashes.

use std::sync::Arc;

use bytes::Bytes;
use snapswarm::snapshot::{Manifest, PIECE_BYTES};

/// A manifest whose chunks have these sizes. Digests are made up, different for
/// each piece and chunk; a chunk of one piece has that piece's.
pub fn manifest(chunk_sizes: &[u32]) -> Arc<Manifest> {
    let mut message = Vec::new();
    put_number(&mut message, 1, 1);
    put_bytes(&mut message, 2, b"simulation-1");
    put_number(&mut message, 3, 1000);
    put_bytes(&mut message, 4, &[7; 32]);
    put_number(&mut message, 6, 1);
    put_bytes(&mut message, 7, &[8; 32]);
    put_number(&mut message, 9, 1);
    let mut next_piece = 0;
    for (number, size) in chunk_sizes.iter().enumerate() {
        let mut pieces = Vec::new();
        for _ in 0..size.div_ceil(PIECE_BYTES) {
            next_piece += 1;
            pieces.extend_from_slice(&digest(1, next_piece));
        }
        let sha256 = if pieces.len() == 32 {
            pieces.clone()
        } else {
            digest(2, number as u64).to_vec()
        };
        let mut chunk = Vec::new();
        put_number(&mut chunk, 1, u64::from(*size));
        put_bytes(&mut chunk, 2, &sha256);
        put_bytes(&mut chunk, 3, &pieces);
        put_bytes(&mut message, 10, &chunk);
    }
    Arc::new(Manifest::decode(Bytes::from(message)).expect("a manifest by the rules"))
}

fn digest(kind: u8, number: u64) -> [u8; 32] {
    let mut digest = [kind; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest
}

fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(out, field << 3);
    put_varint(out, number);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
