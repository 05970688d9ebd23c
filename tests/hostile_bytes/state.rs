//! State content: its chunks, its notes, its manifests.

use std::sync::OnceLock;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{
    Digest, MAX_SCOPES, ManifestBuilder, ManifestId, STATE_FORMAT, ScopeRange, SnapshotFields,
    StateFields,
};
use snapswarm::state::{
    Change, Changes, ChunkSize, Decoder, Encoder, Key, MAX_VALUE_BYTES, OpenChunk, Place, Record,
    Scope, Stamp, StampText, StateDigest, StateError, StateNotes,
};

use crate::harness::Target;
use crate::{PER_SCOPE_BYTE, allocator, input, manifest_target};

/// What a decoder takes beside the chunk: room for two blocks of the payload, and
/// the changes that are kept here. zstd's own memory is not counted: it is limited
/// by the window.
const BLOCKS_BYTES: usize = 2 << 20;

/// The manifest of a content with a few scopes.
pub fn manifest(base: Option<ManifestId>) -> Vec<u8> {
    let scopes = [
        "contract_state/con_a",
        "contract_state/currency",
        "run_state/__n",
    ];
    let scopes = scopes.map(|text| Scope::new(text).unwrap()).to_vec();
    manifest_with(base, scopes, &[(0, 1), (1, 2)])
}

fn manifest_with(base: Option<ManifestId>, scopes: Vec<Scope>, ranges: &[(u32, u32)]) -> Vec<u8> {
    let mut builder = ManifestBuilder::new();
    let mut chunks = Vec::new();
    for (at, (first, last)) in ranges.iter().enumerate() {
        builder.push(&[at as u8]).unwrap();
        chunks.push(ScopeRange {
            first: *first,
            last: *last,
        });
    }
    let fields = SnapshotFields {
        chain_id: "chain-5".to_owned(),
        height: 77,
        app_hash: None,
        format: STATE_FORMAT,
        hash: None,
        metadata: notes(Some(Digest([9; 32]))).into(),
    };
    let state = StateFields {
        base,
        scopes,
        chunks,
    };
    let manifest = builder.finish_state(fields, state).unwrap();
    manifest.encoded().to_vec()
}

fn notes(patches_sha256: Option<Digest>) -> Vec<u8> {
    let state = StateDigest {
        sha256: Digest([7; 32]),
        records: 1_000_000,
        bytes: 135_000_000,
    };
    StateNotes {
        state,
        patches_sha256,
    }
    .encode()
}

#[test]
fn state_notes() {
    Target {
        samples: vec![notes(None), notes(Some(Digest([8; 32])))],
        structured: input::protobuf,
        decode: |bytes| StateNotes::decode(bytes),
        encode: StateNotes::encode,
        canonical: true,
        most: 200,
        fixed: 1 << 10,
        per_byte: 0,
    }
    .run();
}

/// The scopes that every chunk here has by its manifest.
fn scopes() -> Vec<Scope> {
    ["a", "b"].map(|text| Scope::new(text).unwrap()).to_vec()
}

fn samples() -> Vec<Vec<Change>> {
    let place = |scope: &str, key: &[u8]| Place {
        scope: Scope::new(scope).unwrap(),
        key: Key::new(Bytes::copy_from_slice(key)).unwrap(),
    };
    let put = |place, value: Option<&'static [u8]>, stamp| {
        Change::Put(Record::new(place, value.map(Bytes::from_static), stamp).unwrap())
    };
    let text = || Stamp::Text(StampText::new("1722470400123456789").unwrap());
    let few = vec![
        put(place("a", b"x"), Some(b"1"), Stamp::Int(-1)),
        Change::Removed(place("a", b"xy")),
        put(place("b", b""), None, text()),
    ];
    let of = |scope: &str, number: u8| put(place(scope, &[number; 9]), Some(b"1000"), text());
    let many = (0..60).map(|number| of("a", number));
    let many = many.chain((0..60).map(|number| of("b", number)));
    vec![few, many.collect()]
}

fn encode(changes: &[Change]) -> Vec<u8> {
    let mut encoder = Encoder::new(ChunkSize::MAX).unwrap();
    for change in changes {
        assert_eq!(encoder.push(change), Ok(None), "one chunk");
    }
    encoder.finish().unwrap().chunk.bytes.to_vec()
}

fn decode(bytes: &Bytes) -> Result<Vec<Change>, StateError> {
    let chunk = OpenChunk {
        bytes: bytes.clone(),
        scopes: scopes(),
    };
    Changes::new(std::iter::once(Ok(chunk)))?.collect()
}

/// A frame as chunks have it.
fn frame(payload: &[u8]) -> Vec<u8> {
    zstd::encode_all(payload, 1).unwrap()
}

/// Half of these are the payload of a sample after a few blows, the others entries
/// that may be right, out of order, or of impossible lengths.
fn payload(rng: &mut ChaCha8Rng) -> Vec<u8> {
    if rng.random() {
        static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let payload = |changes: &Vec<Change>| zstd::decode_all(&encode(changes)[..]).unwrap();
        let samples = SAMPLES.get_or_init(|| samples().iter().map(payload).collect());
        return frame(&input::damaged(rng, samples));
    }
    let mut payload = vec![*input::pick(rng, &[1, 1, 1, 1, 1, 1, 0, 2])];
    for scope in [b'a', b'b'] {
        for at in 0..rng.random_range(1..4u8) {
            let head = *input::pick(rng, &[2, 2, 2, 6, 10, 8, 4, 16, 0, 14, 0xff]);
            payload.push(head | u8::from(at == 0 || rng.random_ratio(1, 20)));
            if payload.last().is_some_and(|head| head & 1 == 1) {
                payload.extend([1, scope]);
            }
            let mut part = |right: u64| match rng.random_range(0..15) {
                0 => input::varint(rng, &mut payload),
                _ => payload.push(right as u8),
            };
            part(0);
            part(1);
            payload.push(b'k' + at);
            for _ in 0..(head & 0x0e).count_ones() {
                let len = rng.random_range(0..9u8);
                payload.push(len);
                payload.extend(std::iter::repeat_n(b'7', usize::from(len)));
            }
        }
    }
    frame(&payload)
}

#[test]
fn state_chunks() {
    Target {
        samples: samples().iter().map(|changes| encode(changes)).collect(),
        structured: payload,
        decode,
        encode: |changes| encode(changes),
        canonical: false,
        most: usize::MAX,
        fixed: BLOCKS_BYTES,
        per_byte: 0,
    }
    .run();
}

/// The most memory that one pass over a chunk takes, and how many changes it gives.
fn pass(chunk: Vec<u8>) -> (Result<usize, StateError>, usize) {
    let chunk = OpenChunk {
        bytes: chunk.into(),
        scopes: vec![Scope::new("a").unwrap()],
    };
    allocator::peak(|| {
        let mut decoder = Decoder::new()?;
        decoder.begin(chunk)?;
        let mut changes = 0;
        while decoder.next_change()?.is_some() {
            changes += 1;
        }
        Ok(changes)
    })
}

fn number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[test]
fn a_claimed_length_costs_nothing_until_its_bytes_come() {
    let mut payload = vec![1, 0b11, 1, b'a', 0, 1, b'k'];
    number(MAX_VALUE_BYTES, &mut payload);
    payload.extend([7; 100]);
    let (result, peak) = pass(frame(&payload));
    assert!(result.is_err());
    assert!(peak <= BLOCKS_BYTES, "{peak}");
}

#[test]
fn a_bomb_costs_one_entry_and_no_more() {
    // Values of zeros: each block of 128 KiB is four bytes of the chunk.
    let mut payload = vec![1, 0b11, 1, b'a', 0, 1, 0];
    number(MAX_VALUE_BYTES, &mut payload);
    payload.resize(payload.len() + MAX_VALUE_BYTES, 0);
    for key in 1..40 {
        payload.extend([0b10, 0, 1, key]);
        number(MAX_VALUE_BYTES, &mut payload);
        payload.resize(payload.len() + MAX_VALUE_BYTES, 0);
    }
    let chunk = frame(&payload);
    assert!(chunk.len() < 1 << 20, "{}", chunk.len());
    let (result, peak) = pass(chunk);
    assert!(
        matches!(result, Err(StateError::Limit { .. })),
        "{result:?}"
    );
    // The entry in a buffer that grew by doubling, and the value of the record.
    assert!(peak <= 4 * MAX_VALUE_BYTES, "{peak}");
}

#[test]
fn many_small_entries_cost_no_more_than_few() {
    let mut payload = vec![1, 0b11, 1, b'a', 0, 3, 0, 0, 0, 0];
    for key in 1..=0xff_ffffu32 {
        let [_, key @ ..] = key.to_be_bytes();
        let zeros = key.iter().rev().position(|byte| *byte != 0).unwrap();
        payload.extend([0b10, 2 - zeros as u8, 1 + zeros as u8]);
        payload.extend_from_slice(&key[2 - zeros..]);
        payload.push(0);
        if payload.len() > 8 << 20 {
            break;
        }
    }
    let (result, peak) = pass(frame(&payload));
    assert!(result.unwrap() > 1 << 20);
    assert!(peak <= BLOCKS_BYTES, "{peak}");
}

#[test]
fn the_most_scopes_stay_within_the_bound_of_a_manifest() {
    let name = |number: usize| {
        let digits = [number / (47 * 47), number / 47 % 47, number % 47];
        let text: String = digits
            .map(|digit| (b'0' + digit as u8) as char)
            .iter()
            .collect();
        Scope::new(&text).unwrap()
    };
    let scopes: Vec<Scope> = (0..MAX_SCOPES).map(name).collect();
    let last = scopes.len() as u32 - 1;
    let bytes = manifest_with(None, scopes, &[(0, last)]);
    assert!(manifest_target(PER_SCOPE_BYTE).check(&bytes.into()));
}
