//! Foreign bytes against every decoder of the pure rooms: an error that can be
//! printed, or a value that encodes to what decodes to it again; never a panic,
//! and never more memory than the decoder's bound for an input of that length.
//!
//! Each input is made from its seed alone. A failure prints the seed; with it
//! `SNAPSWARM_HOSTILE_SEED=<seed> cargo test --release --test hostile_bytes
//! <test>` makes that one input again. `SNAPSWARM_HOSTILE_INPUTS=<number>` runs
//! more than the usual 120,000 for each decoder.

mod allocator;
mod endorsements;
mod harness;
mod input;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use harness::Target;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{
    Bitmap, ChunkId, Digest, EndorsementKind, MAX_CHUNKS, MAX_CID_TEXT_BYTES, MAX_MANIFEST_BYTES,
    MAX_PIECES, MAX_PIECES_PER_CHUNK, Manifest, ManifestBuilder, ManifestId, PIECE_BYTES,
    SnapshotFields,
};
use snapswarm::wire::{
    Answer, Ask, CatalogueEntry, CatalogueRequest, CatalogueResponse, FRAME_HEADER_BYTES,
    FrameHeader, Holding, MAX_CATALOGUE_BYTES, MAX_CATALOGUE_ENTRIES, MAX_CONTROL_BYTES,
    MAX_HAVE_PIECES, MAX_MANIFEST_RESPONSE_BYTES, MAX_PROBE_CHUNKS, MAX_SHORT_REQUEST_BYTES,
    ManifestRequest, ManifestResponse, PeerHint, Refusal, RequestId,
};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// Manifests compare by their bytes.
#[derive(Debug)]
struct Decoded(Manifest);

impl PartialEq for Decoded {
    fn eq(&self, other: &Self) -> bool {
        self.0.encoded() == other.0.encoded()
    }
}

fn manifest_samples() -> Vec<Vec<u8>> {
    let make = |chain_id: &str, app_hash: Option<&'static [u8]>, sizes: &[usize]| {
        let mut builder = ManifestBuilder::new();
        for size in sizes {
            builder.push(&vec![*size as u8; *size]).unwrap();
        }
        let fields = SnapshotFields {
            chain_id: chain_id.to_owned(),
            height: 77,
            app_hash: app_hash.map(Bytes::from_static),
            format: 2,
            hash: None,
            metadata: Bytes::from_static(b"metadata"),
        };
        builder.finish(fields).unwrap().encoded().to_vec()
    };
    let piece = PIECE_BYTES as usize;
    let many: Vec<usize> = (1..60).collect();
    vec![
        make("a", Some(b"app hash"), &[1]),
        make("chain-2", None, &[3 * piece + 5, 9]),
        make("chain-3", Some(&[7; 32]), &[4, 5, 4, 5, 6]),
        make("chain-4", Some(&[8; 64]), &many),
        state::manifest(None),
        state::manifest(Some(ManifestId(Digest([3; 32])))),
    ]
}

#[test]
fn manifests() {
    manifest_target(PER_SCOPE_BYTE).run();
}

/// Memory for each byte of a manifest whose bytes are of chunks.
const PER_CHUNK_BYTE: usize = 6;

/// Of one whose bytes are of scopes: a name of one byte takes three bytes there,
/// and here two texts with their heads, in a list that grew by doubling.
const PER_SCOPE_BYTE: usize = 32;

fn manifest_target(per_byte: usize) -> Target<Decoded, snapswarm::snapshot::ManifestError> {
    Target {
        samples: manifest_samples(),
        structured: |rng| {
            let mut bytes = vec![8, 1];
            bytes.extend(input::protobuf(rng));
            bytes
        },
        decode: |bytes| {
            let decoded = Manifest::decode(bytes.clone()).map(Decoded)?;
            let manifest = &decoded.0;
            // Every number that the manifest mints can be asked about.
            let pieces = manifest.piece_indexes().map(|at| manifest.piece(at));
            let lengths: u64 = pieces.map(|piece| u64::from(piece.len)).sum();
            assert_eq!(lengths, manifest.unique_bytes());
            for position in manifest.chunk_indexes() {
                manifest.unique_chunk(manifest.unique_at(position));
                if let Some(state) = manifest.state() {
                    let scopes = state.scopes_of(position);
                    assert_eq!(scopes.is_empty(), state.scopes().is_empty());
                }
            }
            Ok(decoded)
        },
        encode: |manifest| manifest.0.encoded().to_vec(),
        canonical: true,
        most: MAX_MANIFEST_BYTES as usize,
        fixed: 4 << 10,
        per_byte,
    }
}

#[test]
fn bitmaps() {
    Target {
        samples: vec![
            Bitmap::new(0).as_bytes().to_vec(),
            Bitmap::full(61).as_bytes().to_vec(),
            Bitmap::full(64).as_bytes().to_vec(),
            vec![0x55; 13],
        ],
        structured: input::random,
        // The length comes from a checked manifest, never from the bytes; here it
        // is near what the bytes hold.
        decode: |bytes| {
            let bits = bytes.len() as u32 * 8;
            let less = bytes.first().map_or(0, |byte| u32::from(byte % 11));
            Bitmap::from_bytes(bits.saturating_sub(less), bytes)
        },
        encode: |bits| {
            assert_eq!(bits.iter().count() as u32, bits.count());
            assert!(bits.iter().all(|n| bits.contains(n) && n < bits.len()));
            bits.as_bytes().to_vec()
        },
        canonical: true,
        most: usize::MAX,
        fixed: 256,
        per_byte: 1,
    }
    .run();
}

#[test]
fn frame_headers() {
    Target {
        samples: vec![vec![0, 0, 0, 1, 0], vec![1, 0, 0, 255, 255]],
        structured: input::frame_header,
        decode: |bytes| {
            let mut head = [0; FRAME_HEADER_BYTES];
            let len = bytes.len().min(FRAME_HEADER_BYTES);
            head[..len].copy_from_slice(&bytes[..len]);
            FrameHeader::decode(head)
        },
        encode: |header| header.encode().to_vec(),
        canonical: false,
        most: usize::MAX,
        fixed: 256,
        per_byte: 0,
    }
    .run();
}

fn manifest_id() -> ManifestId {
    ManifestId(Digest([7; 32]))
}

fn holdings() -> Vec<Holding> {
    vec![
        Holding::Complete,
        Holding::Pieces(vec![0x5a; 40].into()),
        Holding::Refused(Refusal::Busy),
    ]
}

/// The payloads of whole frames.
fn payloads(frames: Vec<Bytes>) -> Vec<Vec<u8>> {
    let payload = |frame: Bytes| frame[FRAME_HEADER_BYTES..].to_vec();
    frames.into_iter().map(payload).collect()
}

fn ask_samples() -> Vec<Vec<u8>> {
    let (id, manifest) = (RequestId(9), manifest_id());
    let chunk = ChunkId(Digest([3; 32]));
    let mut asks = vec![
        Ask::Open(manifest),
        Ask::Probe {
            id,
            chunks: vec![chunk; 3],
        },
        Ask::Request {
            id,
            chunk,
            piece: 4,
        },
        Ask::Cancel(id),
        Ask::Have {
            manifest,
            pieces: vec![1, 200, 30_000],
        },
        Ask::Ack { bytes: 1 << 40 },
    ];
    asks.extend(
        holdings()
            .into_iter()
            .map(|holding| Ask::Holdings { manifest, holding }),
    );
    payloads(asks.iter().map(Ask::to_frame).collect())
}

fn ask_target() -> Target<Ask, snapswarm::wire::WireError> {
    Target {
        samples: ask_samples(),
        structured: input::protobuf,
        decode: |bytes| {
            let ask = Ask::decode(bytes.clone())?;
            match &ask {
                Ask::Probe { chunks, .. } => assert!(chunks.len() <= MAX_PROBE_CHUNKS),
                Ask::Request { piece, .. } => assert!(*piece < MAX_PIECES_PER_CHUNK),
                Ask::Have { pieces, .. } => {
                    assert!(pieces.len() <= MAX_HAVE_PIECES);
                    assert!(pieces.iter().all(|piece| *piece < MAX_PIECES));
                }
                Ask::Open(_) | Ask::Cancel(_) | Ask::Holdings { .. } | Ask::Ack { .. } => {}
            }
            Ok(ask)
        },
        encode: |ask| ask.to_frame()[FRAME_HEADER_BYTES..].to_vec(),
        canonical: false,
        most: MAX_CONTROL_BYTES as usize,
        fixed: 1 << 10,
        per_byte: 12,
    }
}

#[test]
fn asks() {
    ask_target().run();
}

fn answer_target() -> Target<Answer, snapswarm::wire::WireError> {
    let (id, manifest) = (RequestId(9), manifest_id());
    let mut answers = vec![
        Answer::Have {
            manifest,
            pieces: vec![1, 200, 30_000],
        },
        Answer::Holds {
            id,
            chunks: vec![3; 12].into(),
        },
        Answer::Started {
            id,
            size: PIECE_BYTES,
        },
        Answer::Refused {
            id,
            refusal: Refusal::OverLimit,
        },
        Answer::Aborted(id),
    ];
    answers.extend(
        holdings()
            .into_iter()
            .map(|holding| Answer::Holdings { manifest, holding }),
    );
    Target {
        samples: payloads(answers.iter().map(Answer::to_frame).collect()),
        structured: input::protobuf,
        decode: |bytes| {
            let answer = Answer::decode(bytes.clone())?;
            if let Answer::Started { size, .. } = answer {
                assert!((1..=PIECE_BYTES).contains(&size));
            }
            Ok(answer)
        },
        encode: |answer| answer.to_frame()[FRAME_HEADER_BYTES..].to_vec(),
        canonical: false,
        most: MAX_CONTROL_BYTES as usize,
        fixed: 1 << 10,
        per_byte: 12,
    }
}

#[test]
fn answers() {
    answer_target().run();
}

#[test]
fn catalogue_requests() {
    Target {
        samples: vec![
            CatalogueRequest { chain_id: None }.encode(),
            CatalogueRequest {
                chain_id: Some("chain-1".to_owned()),
            }
            .encode(),
        ],
        structured: input::protobuf,
        decode: |bytes| CatalogueRequest::decode(bytes),
        encode: CatalogueRequest::encode,
        canonical: false,
        most: MAX_SHORT_REQUEST_BYTES as usize,
        fixed: 1 << 10,
        per_byte: 0,
    }
    .run();
}

fn catalogue_target() -> Target<CatalogueResponse, snapswarm::wire::WireError> {
    let entry = CatalogueEntry {
        chain_id: "chain-1".to_owned(),
        height: 70,
        format: 1,
        app_hash: vec![4; 32].into(),
        manifest: manifest_id(),
        manifest_bytes: 500,
        total_bytes: 1 << 30,
        chunks: 103,
        complete: true,
        delta: false,
        endorsements: Vec::new(),
    };
    let hint = PeerHint {
        peer_id: vec![1; 38].into(),
        addresses: vec![vec![2; 8].into(), vec![3; 11].into()],
    };
    let response = |entries, peers| {
        CatalogueResponse {
            entries: vec![entry.clone(); entries],
            peers: vec![hint.clone(); peers],
        }
        .encode()
    };
    let endorsed = |entries, endorsements: u8| {
        let told = (0..endorsements)
            .map(|seed| endorsements::endorsement(seed, EndorsementKind::Computed));
        let entry = CatalogueEntry {
            endorsements: told.collect(),
            ..entry.clone()
        };
        CatalogueResponse {
            entries: vec![entry; entries],
            peers: Vec::new(),
        }
        .encode()
    };
    Target {
        samples: vec![
            response(0, 0),
            response(1, 1),
            response(3, 2),
            response(0, 3),
            response(MAX_CATALOGUE_ENTRIES, 1),
            endorsed(2, 1),
            endorsed(24, 32),
        ],
        structured: input::protobuf,
        decode: |bytes| CatalogueResponse::decode(bytes.clone()),
        encode: CatalogueResponse::encode,
        canonical: false,
        most: MAX_CATALOGUE_BYTES as usize,
        fixed: 64 << 10,
        per_byte: 8,
    }
}

#[test]
fn catalogue_responses() {
    catalogue_target().run();
}

#[test]
fn manifest_requests() {
    Target {
        samples: vec![ManifestRequest(manifest_id()).encode()],
        structured: input::protobuf,
        decode: |bytes| ManifestRequest::decode(bytes),
        encode: ManifestRequest::encode,
        canonical: false,
        most: MAX_SHORT_REQUEST_BYTES as usize,
        fixed: 1 << 10,
        per_byte: 0,
    }
    .run();
}

#[test]
fn manifest_responses() {
    Target {
        samples: vec![
            ManifestResponse::Size(70_000).encode(),
            ManifestResponse::Refused(Refusal::Gone).encode(),
        ],
        structured: input::protobuf,
        decode: |bytes| ManifestResponse::decode(bytes),
        encode: ManifestResponse::encode,
        canonical: false,
        most: MAX_MANIFEST_RESPONSE_BYTES as usize,
        fixed: 1 << 10,
        per_byte: 0,
    }
    .run();
}

#[test]
fn names_from_text() {
    let id = manifest_id();
    Target {
        samples: vec![id.to_string().into_bytes()],
        structured: input::cid_text,
        decode: |bytes| String::from_utf8_lossy(bytes).parse::<ManifestId>(),
        encode: |id| id.to_string().into_bytes(),
        canonical: false,
        most: usize::MAX,
        // The texts that are looked at are short; a longer one costs its copy
        // above and the beginning that the error shows.
        fixed: 8 * MAX_CID_TEXT_BYTES,
        per_byte: 6,
    }
    .run();
}

/// Large inputs are few: each is made to cost as much memory as it can.
#[test]
fn the_largest_inputs_stay_within_the_same_bounds() {
    let repeated = |field: &[u8], total: usize| Bytes::from(field.repeat(total / field.len()));
    let nested = |key: u8, inner: &[u8]| {
        let mut bytes = vec![key];
        let mut len = inner.len();
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend_from_slice(inner);
        Bytes::from(bytes)
    };
    let control = MAX_CONTROL_BYTES as usize;
    for field in [&[0x10, 1][..], &[0x12, 0], &[0x12, 1, 1], &[0x0a, 0]] {
        let inner = repeated(field, control - 8);
        let inside = (1..9u8).map(|number| nested(number << 3 | 2, &inner));
        let plain = [control, control + 3].map(|total| repeated(field, total));
        for message in inside.chain(plain) {
            // Some are taken: a message may have any number of unknown fields.
            ask_target().check(&message);
            answer_target().check(&message);
            catalogue_target().check(&message);
        }
    }
    let packed = nested(0x2a, &nested(0x12, &vec![1; control - 16]));
    assert!(!ask_target().check(&packed));

    let limit = MAX_MANIFEST_BYTES as usize;
    let manifest = manifest_target(PER_SCOPE_BYTE);
    for field in [
        &[0x52, 0][..],
        &[0x12, 0],
        &[0x0a, 1, 1],
        &[0x7a, 0],
        &[0x62, 1, b'a'],
    ] {
        for total in [limit - 2, limit + 3] {
            let bytes = [&[8, 1][..], &repeated(field, total)].concat();
            assert!(!manifest.check(&bytes.into()));
        }
    }
    let bytes = [&[8, 1][..], &nested(0x12, &vec![b'c'; limit - 16])].concat();
    assert!(!manifest.check(&bytes.into()));
}

/// The most chunks, all different and all equal, and the most bytes.
#[test]
fn the_largest_manifests_stay_within_the_same_bounds() {
    let manifest = manifest_target(PER_CHUNK_BYTE);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let head = manifest_samples().swap_remove(0);
    let chunks_at = head.windows(2).rposition(|key| key == [0x52, 70]).unwrap();
    for (pieces, equal) in [(1, false), (1, true), (9, false)] {
        let mut bytes = head[..chunks_at].to_vec();
        let digest: [u8; 32] = rng.random();
        for _ in 0..MAX_CHUNKS {
            let digest = if equal { digest } else { rng.random() };
            let mut entry = vec![8];
            push_varint(&mut entry, (pieces - 1) * u64::from(PIECE_BYTES) + 1);
            entry.extend([0x12, 32]);
            entry.extend(digest);
            entry.push(0x1a);
            push_varint(&mut entry, pieces * 32);
            entry.resize(entry.len() + pieces as usize * 32, 5);
            bytes.push(0x52);
            push_varint(&mut bytes, entry.len() as u64);
            bytes.extend(entry);
        }
        let fits = bytes.len() <= MAX_MANIFEST_BYTES as usize;
        assert_eq!(manifest.check(&bytes.into()), fits, "{pieces} pieces");
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn the_harness_sees_a_panic_a_second_encoding_and_too_much_memory() {
    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct No;
    let target = |decode| Target::<u8, No> {
        samples: vec![vec![1]],
        structured: input::random,
        decode,
        encode: |value| vec![*value],
        canonical: true,
        most: 100,
        fixed: 64,
        per_byte: 1,
    };
    let fails = |decode| catch_unwind(AssertUnwindSafe(|| target(decode).run())).is_err();
    assert!(fails(|bytes| Ok(bytes[0])), "an index beyond the end");
    assert!(
        fails(|bytes| bytes.first().copied().ok_or(No)),
        "a tail overlooked"
    );
    assert!(
        fails(|bytes| {
            let wasted = vec![0u8; 4096];
            std::hint::black_box(&wasted);
            match bytes[..] {
                [one] => Ok(one),
                _ => Err(No),
            }
        }),
        "too much memory"
    );
    assert!(fails(|_| Err(No)), "nothing taken");
    let honest = |bytes: &Bytes| match bytes[..] {
        [one] => Ok(one),
        _ => Err(No),
    };
    target(honest).run();
}
