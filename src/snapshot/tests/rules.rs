//! What a manifest may say, and the one way to say it.

use bytes::Bytes;
use prost::Message;

use super::{Raw, refused_field};
use crate::snapshot::*;

fn chunk(size: u32, fill: u8) -> proto::Chunk {
    proto::Chunk {
        size,
        sha256: vec![fill; 32].into(),
        pieces: vec![fill; size.div_ceil(PIECE_BYTES) as usize * 32].into(),
        first_scope: 0,
        last_scope: 0,
    }
}

fn valid() -> proto::Manifest {
    proto::Manifest {
        version: 1,
        chain_id: "chain-1".to_owned(),
        height: 42,
        app_hash: vec![0xaa; 32].into(),
        unproven: false,
        format: 1,
        hash: vec![0xbb; 32].into(),
        metadata: vec![0xcc; 3].into(),
        content: proto::ContentKind::Opaque as i32,
        chunks: vec![chunk(PIECE_BYTES + 1, 1), chunk(7, 2)],
        base: Bytes::new(),
        scopes: Vec::new(),
    }
}

fn decode(message: &proto::Manifest) -> Result<Manifest, ManifestError> {
    Manifest::decode(message.encode_to_vec().into())
}

fn with(change: impl FnOnce(&mut proto::Manifest)) -> Result<Manifest, ManifestError> {
    let mut message = valid();
    change(&mut message);
    decode(&message)
}

#[track_caller]
fn refused_chunk(result: Result<Manifest, ManifestError>, at: usize, what: &str) {
    match result {
        Err(ManifestError::Chunk { position, problem })
            if position == at && problem.contains(what) => {}
        other => panic!("expected an error in chunk {at} about {what}, found {other:?}"),
    }
}

fn valid_manifest() -> Manifest {
    decode(&valid()).unwrap()
}

#[test]
fn a_valid_manifest_says_what_it_was_made_of() {
    let message = valid();
    let bytes = Bytes::from(message.encode_to_vec());
    let manifest = Manifest::decode(bytes.clone()).unwrap();
    assert_eq!(manifest.id(), ManifestId(hash::sha256(&bytes)));
    assert_eq!(manifest.encoded(), &bytes);
    assert_eq!(manifest.chain_id(), "chain-1");
    assert_eq!(manifest.height(), 42);
    assert_eq!(manifest.app_hash(), Some(&message.app_hash));
    assert_eq!(manifest.format(), 1);
    assert_eq!(manifest.hash(), &message.hash);
    assert_eq!(manifest.metadata(), &message.metadata);
    assert_eq!(manifest.chunk_count(), 2);
    assert_eq!(manifest.total_bytes(), u64::from(PIECE_BYTES) + 8);
}

#[test]
fn bytes_above_the_limit_are_refused_before_they_are_read() {
    let limit = MAX_MANIFEST_BYTES as usize;
    assert!(matches!(
        Manifest::decode(vec![0; limit].into()),
        Err(ManifestError::Syntax(_))
    ));
    let over = Bytes::from(vec![0; limit + 1]);
    assert_eq!(
        Manifest::decode(over.clone()).unwrap_err(),
        ManifestError::TooLarge(limit + 1)
    );
    let name = valid_manifest().id();
    assert_eq!(
        Manifest::decode_as(&name, over).unwrap_err(),
        ManifestError::TooLarge(limit + 1)
    );
}

#[test]
fn a_manifest_is_taken_under_its_own_name_only() {
    let manifest = valid_manifest();
    let bytes = manifest.encoded().clone();
    assert!(Manifest::decode_as(&manifest.id(), bytes.clone()).is_ok());
    let expected = ManifestId(hash::sha256(b"another"));
    assert_eq!(
        Manifest::decode_as(&expected, bytes).unwrap_err(),
        ManifestError::OtherManifest {
            expected,
            found: manifest.id()
        }
    );
}

#[test]
fn other_versions_are_named_whatever_shape_they_have() {
    assert!(with(|m| m.version = 2).is_err_and(|e| e == ManifestError::Version(2)));
    let newer = Raw::default().number(1, 7).bytes(2, vec![9; 5000]).0;
    assert_eq!(
        Manifest::decode(newer.into()).unwrap_err(),
        ManifestError::Version(7)
    );
    let zero = Raw::default().number(1, 0).0;
    assert_eq!(
        Manifest::decode(zero.into()).unwrap_err(),
        ManifestError::Version(0)
    );
    let huge = Raw::default().number(1, u64::MAX).0;
    assert_eq!(
        Manifest::decode(huge.into()).unwrap_err(),
        ManifestError::Version(u64::MAX)
    );
    for none in [Bytes::new(), with_version_left_out(), vec![8, 0x80].into()] {
        assert!(matches!(
            Manifest::decode(none),
            Err(ManifestError::Syntax(_))
        ));
    }
}

fn with_version_left_out() -> Bytes {
    let mut message = valid();
    message.version = 0;
    message.encode_to_vec().into()
}

#[test]
fn other_content_is_named_even_when_it_brings_fields_of_its_own() {
    assert_eq!(
        with(|m| m.content = 0).unwrap_err(),
        ManifestError::Content(0)
    );
    let mut message = valid();
    message.content = 3;
    let with_more = Raw(message.encode_to_vec()).bytes(13, b"more");
    assert_eq!(
        Manifest::decode(with_more.0.into()).unwrap_err(),
        ManifestError::Content(3)
    );
}

#[test]
fn a_chain_id_is_short_printable_ascii() {
    for good in ["a".to_owned(), "~".repeat(MAX_CHAIN_ID_BYTES)] {
        assert!(with(|m| m.chain_id = good.clone()).is_ok(), "{good}");
    }
    for bad in [
        String::new(),
        "a".repeat(MAX_CHAIN_ID_BYTES + 1),
        "a b".to_owned(),
        "a\n".to_owned(),
        "\u{7f}".to_owned(),
        "ä".to_owned(),
    ] {
        refused_field(with(|m| m.chain_id = bad.clone()), "chain_id");
    }
    let not_text = Raw::default().number(1, 1).bytes(2, [0xff]).0;
    assert!(matches!(
        Manifest::decode(not_text.into()),
        Err(ManifestError::Syntax(_))
    ));
}

#[test]
fn a_height_is_one_that_cometbft_can_count_to() {
    for good in [1, MAX_HEIGHT] {
        assert!(with(|m| m.height = good).is_ok(), "{good}");
    }
    for bad in [0, MAX_HEIGHT + 1, u64::MAX] {
        refused_field(with(|m| m.height = bad), "height");
    }
}

#[test]
fn byte_fields_may_have_their_limit_and_not_one_byte_more() {
    let filled = |len: usize| Bytes::from(vec![1; len]);
    assert!(with(|m| m.app_hash = filled(MAX_APP_HASH_BYTES)).is_ok());
    refused_field(
        with(|m| m.app_hash = filled(MAX_APP_HASH_BYTES + 1)),
        "app_hash",
    );
    assert!(with(|m| m.hash = filled(MAX_SNAPSHOT_HASH_BYTES)).is_ok());
    refused_field(
        with(|m| m.hash = filled(MAX_SNAPSHOT_HASH_BYTES + 1)),
        "hash",
    );
    assert!(with(|m| m.metadata = filled(MAX_METADATA_BYTES)).is_ok());
    refused_field(
        with(|m| m.metadata = filled(MAX_METADATA_BYTES + 1)),
        "metadata",
    );
    assert!(with(|m| m.hash = filled(1)).is_ok());
    refused_field(with(|m| m.hash = Bytes::new()), "hash");
    assert!(with(|m| m.metadata = Bytes::new()).is_ok());
}

#[test]
fn an_app_hash_is_missing_exactly_where_the_snapshot_is_unproven() {
    let unproven = with(|m| {
        m.app_hash = Bytes::new();
        m.unproven = true;
    })
    .unwrap();
    assert_eq!(unproven.app_hash(), None);
    refused_field(with(|m| m.app_hash = Bytes::new()), "app_hash");
    refused_field(with(|m| m.unproven = true), "app_hash");
}

#[test]
fn a_snapshot_has_from_one_chunk_to_the_most_that_cometbft_takes() {
    refused_field(with(|m| m.chunks.clear()), "chunks");
    let most = MAX_CHUNKS as usize;
    let full = with(|m| m.chunks = vec![chunk(1, 3); most]).unwrap();
    assert_eq!(full.chunk_count(), MAX_CHUNKS);
    assert_eq!(
        with(|m| m.chunks = vec![chunk(1, 3); most + 1]).unwrap_err(),
        ManifestError::TooManyChunks
    );
}

#[test]
fn a_chunk_has_from_one_byte_to_the_most_that_cometbft_takes() {
    assert!(with(|m| m.chunks = vec![chunk(1, 1)]).is_ok());
    let largest = with(|m| m.chunks = vec![chunk(MAX_CHUNK_BYTES, 1)]).unwrap();
    assert_eq!(largest.piece_count(), MAX_PIECES_PER_CHUNK);
    refused_chunk(
        with(|m| m.chunks[1].size = MAX_CHUNK_BYTES + 1),
        1,
        "has 15999937 bytes",
    );
    let empty = |m: &mut proto::Manifest| {
        m.chunks[1] = chunk(PIECE_BYTES + 1, 2);
        m.chunks[1].size = 0;
    };
    refused_chunk(with(empty), 1, "has 0 bytes");
}

#[test]
fn a_chunk_entry_has_one_digest_and_one_for_each_piece() {
    refused_chunk(
        with(|m| m.chunks[0].sha256 = vec![1; 31].into()),
        0,
        "SHA-256 has 31",
    );
    refused_chunk(
        with(|m| m.chunks[0].sha256 = vec![1; 33].into()),
        0,
        "SHA-256 has 33",
    );
    refused_chunk(
        with(|m| m.chunks[0].sha256 = Bytes::new()),
        0,
        "SHA-256 has 0",
    );
    refused_chunk(
        with(|m| m.chunks[0].pieces = vec![1; 96].into()),
        0,
        "have 96 bytes, not 64",
    );
    refused_chunk(
        with(|m| m.chunks[0].pieces = vec![1; 63].into()),
        0,
        "have 63 bytes, not 64",
    );
    // Entries too small or too large to be whole cost no memory at all.
    refused_field(with(|m| m.chunks[1].pieces = Bytes::new()), "chunks");
    refused_field(
        with(|m| m.chunks[0].pieces = vec![1; 32 * 17].into()),
        "chunks",
    );
}

#[test]
fn equal_chunks_are_one_and_pieces_are_numbered_over_distinct_chunks() {
    let (a, b, c) = (
        chunk(2 * PIECE_BYTES, 1),
        chunk(5, 2),
        chunk(PIECE_BYTES + 1, 3),
    );
    let order = vec![a.clone(), b.clone(), a.clone(), c.clone(), b.clone()];
    let manifest = with(|m| m.chunks = order).unwrap();
    assert_eq!(manifest.chunk_count(), 5);
    assert_eq!(manifest.unique_count(), 3);
    assert_eq!(manifest.piece_count(), 5);
    let sizes = [a.size, b.size, c.size].map(u64::from);
    assert_eq!(manifest.unique_bytes(), sizes.iter().sum::<u64>());
    assert_eq!(
        manifest.total_bytes(),
        manifest.unique_bytes() + sizes[0] + sizes[1]
    );

    let unique_at = |at| manifest.unique_at(manifest.chunk_index(at).unwrap()).get();
    assert_eq!([0, 1, 2, 3, 4].map(unique_at), [0, 1, 0, 2, 1]);
    assert_eq!(manifest.chunk_index(5), None);
    assert_eq!(manifest.unique_index(3), None);
    assert_eq!(manifest.piece_index(5), None);
    assert_eq!(manifest.chunk_indexes().count(), 5);
    assert_eq!(manifest.unique_indexes().count(), 3);

    let pieces: Vec<Piece> = manifest
        .piece_indexes()
        .map(|index| manifest.piece(index))
        .collect();
    let layout: Vec<_> = pieces
        .iter()
        .map(|p| (p.chunk.get(), p.index_in_chunk, p.offset, p.len))
        .collect();
    assert_eq!(
        layout,
        [
            (0, 0, 0, PIECE_BYTES),
            (0, 1, PIECE_BYTES, PIECE_BYTES),
            (1, 0, 0, 5),
            (2, 0, 0, PIECE_BYTES),
            (2, 1, PIECE_BYTES, 1),
        ]
    );
    let of_last = manifest.pieces_of(manifest.unique_index(2).unwrap());
    assert_eq!(of_last.map(|p| p.get()).collect::<Vec<_>>(), [3, 4]);
    let chunk = manifest.unique_chunk(manifest.unique_index(2).unwrap());
    assert_eq!((chunk.first_piece, chunk.piece_count()), (3, 2));
    assert_eq!(pieces[3].sha256, Digest([3; 32]));
}

#[test]
fn each_piece_number_finds_its_own_digest() {
    let digests: Vec<u8> = (0..64).collect();
    let manifest = with(|m| m.chunks[0].pieces = digests.clone().into()).unwrap();
    let digest = |n| manifest.piece(manifest.piece_index(n).unwrap()).sha256;
    assert_eq!(digest(0).as_bytes()[..], digests[..32]);
    assert_eq!(digest(1).as_bytes()[..], digests[32..]);
    assert_eq!(digest(2), Digest([2; 32]));
}

#[test]
fn equal_digests_with_different_sizes_or_pieces_are_refused() {
    let earlier = "SHA-256 of an earlier chunk";
    let other_size = |m: &mut proto::Manifest| {
        m.chunks[1] = m.chunks[0].clone();
        m.chunks[1].size += 1;
    };
    refused_chunk(with(other_size), 1, earlier);
    let other_pieces = |m: &mut proto::Manifest| {
        m.chunks[1] = m.chunks[0].clone();
        m.chunks[1].pieces = vec![9; 64].into();
    };
    refused_chunk(with(other_pieces), 1, earlier);
}

#[test]
fn one_message_has_one_encoding() {
    let canonical = valid().encode_to_vec();
    let mut chunkless = valid();
    let chunks = std::mem::take(&mut chunkless.chunks);
    let head = chunkless.encode_to_vec();
    let entry = |at: usize| chunks[at].encode_to_vec();
    let rebuilt = Raw(head.clone()).bytes(10, entry(0)).bytes(10, entry(1));
    assert_eq!(rebuilt.0, canonical, "the parts make the whole");

    let chunks_first = Raw::default()
        .number(1, 1)
        .bytes(10, entry(0))
        .bytes(10, entry(1))
        .then(&head[2..]);
    let unknown_field = Raw(canonical.clone()).bytes(13, b"maker");
    let unknown_number = Raw(canonical.clone()).number(500, 1);
    let unknown_fixed = Raw(canonical.clone()).then(&[0x6d, 1, 2, 3, 4]);
    let default_present = Raw(head[..11].to_vec())
        .number(3, 42)
        .bytes(4, [0xaa; 32])
        .number(5, 0)
        .then(&canonical[13 + 34..]);
    let long_version = Raw(vec![8, 0x81, 0]).then(&canonical[2..]);
    let mut long_length = Raw(head.clone()).varint(10 << 3 | 2);
    long_length.0.extend([entry(0).len() as u8 | 0x80, 0]);
    let long_length = long_length.then(&entry(0)).bytes(10, entry(1));
    let unknown_in_chunk = Raw(head.clone())
        .bytes(10, Raw(entry(0)).bytes(9, b"x").0)
        .bytes(10, entry(1));
    let twice_in_chunk = Raw(head.clone())
        .bytes(10, Raw(entry(0)).number(1, 5).0)
        .bytes(10, entry(1));
    let reordered_in_chunk = Raw(head)
        .bytes(
            10,
            Raw::default()
                .bytes(2, [1; 32])
                .number(1, 7)
                .bytes(3, [1; 32])
                .0,
        )
        .bytes(10, entry(1));
    for (name, raw) in [
        ("reordered fields", chunks_first),
        ("unknown field", unknown_field),
        ("unknown number", unknown_number),
        ("unknown fixed field", unknown_fixed),
        ("default value present", default_present),
        ("non-minimal number", long_version),
        ("non-minimal length", long_length),
        ("unknown field in a chunk", unknown_in_chunk),
        ("duplicate field in a chunk", twice_in_chunk),
        ("reordered fields in a chunk", reordered_in_chunk),
    ] {
        assert_eq!(
            Manifest::decode(raw.0.into()).unwrap_err(),
            ManifestError::NotCanonical,
            "{name}"
        );
    }
}

#[test]
fn duplicates_groups_and_numbers_that_do_not_fit_are_refused() {
    let canonical = valid().encode_to_vec();
    for (name, raw) in [
        ("duplicate", Raw(canonical.clone()).number(3, 42)),
        ("group", Raw(canonical.clone()).then(&[0x6b, 0x6c])),
        (
            "wire type",
            Raw(canonical.clone()).then(&[0x35, 0, 0, 0, 0]),
        ),
        ("cut short", Raw(canonical[..canonical.len() - 1].to_vec())),
        ("field zero", Raw(canonical.clone()).then(&[0, 0])),
    ] {
        assert!(
            matches!(
                Manifest::decode(raw.0.into()),
                Err(ManifestError::Syntax(_))
            ),
            "{name}"
        );
    }
    let wide = Raw::default().number(1, 1).number(6, 1 << 32);
    refused_field(Manifest::decode(wide.0.into()), "format");
    let not_bool = Raw::default().number(1, 1).number(5, 2);
    refused_field(Manifest::decode(not_bool.0.into()), "unproven");
    let negative = Raw::default().number(1, 1).number(9, u64::MAX);
    refused_field(Manifest::decode(negative.0.into()), "content");
}
