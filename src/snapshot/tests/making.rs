//! Making a manifest from chunks, and checking pieces against it.

use bytes::Bytes;

use super::refused_field;
use crate::snapshot::*;

fn fields() -> SnapshotFields {
    SnapshotFields {
        chain_id: "chain-1".to_owned(),
        height: 9,
        app_hash: Some(Bytes::from_static(b"app hash")),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    }
}

#[test]
fn a_builder_makes_what_a_decoder_takes() {
    let chunks = [vec![1; PIECE_BYTES as usize + 1], vec![2; 10], vec![2; 10]];
    let mut builder = ManifestBuilder::new();
    for chunk in &chunks {
        assert_eq!(
            builder.push(chunk).unwrap(),
            ChunkId(hash::sha256(chunk)),
            "a chunk is named by its SHA-256"
        );
    }
    let manifest = builder.finish(fields()).unwrap();
    assert_eq!(manifest.unique_count(), 2);
    assert_eq!(
        manifest.hash()[..],
        hash::sha256(&chunks.concat()).as_bytes()[..],
        "without a hash of the application's own it is over all chunks in order"
    );
    let again = Manifest::decode_as(&manifest.id(), manifest.encoded().clone()).unwrap();
    let pieces = again.piece_indexes().map(|index| {
        let piece = again.piece(index);
        let at = piece.offset as usize;
        ReceivedPiece {
            index,
            bytes: Bytes::copy_from_slice(
                &chunks[piece.chunk.get() as usize][at..at + piece.len as usize],
            ),
        }
    });
    assert!(
        hash::verify(&again, pieces.collect())
            .iter()
            .all(Result::is_ok)
    );
}

#[test]
fn a_builder_refuses_a_chunk_at_once_and_goes_on_without_it() {
    let mut builder = ManifestBuilder::new();
    assert!(matches!(
        builder.push(&[]),
        Err(ManifestError::Chunk { position: 0, .. })
    ));
    let mut over = vec![0; MAX_CHUNK_BYTES as usize + 1];
    assert!(builder.push(&over).is_err());
    over.pop();
    assert!(builder.push(&over).is_ok());
    assert_eq!(builder.finish(fields()).unwrap().chunk_count(), 1);
}

#[test]
fn a_builder_takes_no_more_chunks_than_a_snapshot_may_have() {
    let mut builder = ManifestBuilder::new();
    for _ in 0..MAX_CHUNKS {
        builder.push(b"x").unwrap();
    }
    assert_eq!(
        builder.push(b"x").unwrap_err(),
        ManifestError::TooManyChunks
    );
    assert_eq!(
        builder.finish(fields()).unwrap().total_bytes(),
        u64::from(MAX_CHUNKS)
    );
}

#[test]
fn a_builder_holds_to_the_rules_of_the_fields() {
    let finish = |change: fn(&mut SnapshotFields)| {
        let mut fields = fields();
        change(&mut fields);
        let mut builder = ManifestBuilder::new();
        builder.push(b"x").unwrap();
        builder.finish(fields)
    };
    refused_field(finish(|f| f.height = 0), "height");
    refused_field(finish(|f| f.chain_id.clear()), "chain_id");
    refused_field(finish(|f| f.hash = Some(Bytes::new())), "hash");
    let empty_app_hash = finish(|f| f.app_hash = Some(Bytes::new())).unwrap();
    assert_eq!(empty_app_hash.app_hash(), None);
    refused_field(ManifestBuilder::new().finish(fields()), "chunks");
}

#[test]
fn pieces_are_verified_one_by_one_and_keep_their_order() {
    let mut builder = ManifestBuilder::new();
    let data: Vec<u8> = (0..3 * PIECE_BYTES + 17).map(|n| (n % 251) as u8).collect();
    builder.push(&data).unwrap();
    let manifest = builder.finish(fields()).unwrap();
    let piece = |number: u32, change: fn(&mut Vec<u8>)| {
        let index = manifest.piece_index(number).unwrap();
        let Piece { offset, len, .. } = manifest.piece(index);
        let mut bytes = data[offset as usize..(offset + len) as usize].to_vec();
        change(&mut bytes);
        ReceivedPiece {
            index,
            bytes: bytes.into(),
        }
    };
    let verdicts = hash::verify(
        &manifest,
        vec![
            piece(3, |_| {}),
            piece(0, |bytes| bytes[77] ^= 1),
            piece(1, |_| {}),
            piece(2, |bytes| bytes.truncate(bytes.len() - 1)),
            piece(3, |bytes| bytes.push(0)),
            piece(2, Vec::clear),
        ],
    );
    let number = |at: usize| verdicts[at].as_ref().unwrap().index().get();
    assert_eq!((number(0), number(2)), (3, 1));
    let expected = manifest.piece_index(0).unwrap();
    assert_eq!(
        verdicts[1].as_ref().unwrap_err(),
        &BadPiece::Digest { index: expected }
    );
    for (at, found) in [(3, PIECE_BYTES as usize - 1), (4, 18), (5, 0)] {
        assert!(
            matches!(&verdicts[at], Err(BadPiece::Length { found: f, .. }) if *f == found),
            "{at}"
        );
    }
}
