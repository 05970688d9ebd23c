//! Inputs from a seed: random bytes, valid messages that were damaged, and
//! protobuf written by someone who knows where decoders are weak.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Makes the input of a seed out of samples of what is valid. `structured` writes
/// the third kind of input.
pub fn generate(
    seed: u64,
    samples: &[Vec<u8>],
    structured: fn(&mut ChaCha8Rng) -> Vec<u8>,
) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    match seed % 4 {
        0 => random(&mut rng),
        1 => structured(&mut rng),
        _ => damaged(&mut rng, samples),
    }
}

/// Bytes of no form; mostly few, sometimes many.
pub fn random(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let most = *pick(rng, &[4, 16, 64, 256, 2048]);
    let mut bytes = vec![0; rng.random_range(0..=most)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A valid sample after a few blows.
pub fn damaged(rng: &mut ChaCha8Rng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = pick(rng, samples).clone();
    for _ in 0..rng.random_range(0..4) {
        blow(rng, &mut bytes, samples);
    }
    bytes
}

fn blow(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.push(rng.random());
    }
    let at = rng.random_range(0..bytes.len());
    let to = rng.random_range(at..=bytes.len()).min(at + 300);
    match rng.random_range(0..9) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = *pick(rng, &[0, 1, 0x7f, 0x80, 0xff]),
        2 => bytes[at] = bytes[at].wrapping_add(1),
        3 => drop(bytes.drain(at..to)),
        4 => bytes.truncate(at),
        5 => {
            let copy = bytes[at..to].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let mut number = Vec::new();
            varint(rng, &mut number);
            bytes.splice(at..at, number);
        }
        7 => {
            let other = pick(rng, samples);
            let from = rng.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let mut field = Vec::new();
            write_field(rng, &mut field, 1);
            bytes.splice(at..at, field);
        }
    }
}

/// A message of fields that may be right, too many, nested too deep, cut short.
pub fn protobuf(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    match rng.random_range(0..20) {
        // The same small field over and over.
        0 => {
            let mut field = Vec::new();
            write_field(rng, &mut field, 0);
            let copies = rng.random_range(0..6000) / field.len().max(1);
            bytes.extend(field.iter().cycle().take(copies * field.len()));
            bytes = in_fields(rng, bytes, 2);
        }
        // Groups in groups.
        1 => {
            let depth = rng.random_range(1..2000);
            let number = rng.random_range(1..16u8) << 3;
            bytes.resize(depth, number | 3);
            let closed = rng.random_range(0..=depth);
            bytes.resize(depth + closed, number | 4);
            bytes = in_fields(rng, bytes, 2);
        }
        // Messages in messages.
        2 => {
            bytes = random(rng);
            let depth = rng.random_range(1..150);
            bytes = in_fields(rng, bytes, depth);
        }
        _ => {
            for _ in 0..rng.random_range(0..10) {
                write_field(rng, &mut bytes, 3);
            }
        }
    }
    bytes
}

/// Wraps `bytes` into up to `depth` messages.
fn in_fields(rng: &mut ChaCha8Rng, mut bytes: Vec<u8>, depth: usize) -> Vec<u8> {
    for _ in 0..rng.random_range(0..=depth) {
        let mut outer = vec![rng.random_range(1..16u8) << 3 | 2];
        minimal_varint(bytes.len() as u64, &mut outer);
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

fn write_field(rng: &mut ChaCha8Rng, out: &mut Vec<u8>, depth: u32) {
    let number = *pick(
        rng,
        &[
            1,
            1,
            2,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            10,
            11,
            12,
            0,
            1 << 20,
            1 << 29,
        ],
    );
    let wire_type = *pick(rng, &[0, 0, 0, 2, 2, 2, 2, 2, 1, 3, 4, 5, 6, 7]);
    minimal_varint(number << 3 | wire_type, out);
    match wire_type {
        0 => varint(rng, out),
        1 => out.extend(rng.random::<[u8; 8]>()),
        2 => {
            let mut inner = Vec::new();
            if depth > 0 && rng.random_bool(0.5) {
                for _ in 0..rng.random_range(0..5) {
                    write_field(rng, &mut inner, depth - 1);
                }
            } else {
                let len = *pick(rng, &[0, 1, 2, 31, 32, 33, 50, 51, 64, 128, 256, 257, 512]);
                inner.resize(len, rng.random());
            }
            let claimed = match rng.random_range(0..20) {
                0 => *pick(rng, &[u64::MAX, u64::from(u32::MAX), 1 << 31, 1 << 63]),
                1 => inner.len() as u64 + 1,
                _ => inner.len() as u64,
            };
            minimal_varint(claimed, out);
            out.extend(inner);
        }
        5 => out.extend(rng.random::<[u8; 4]>()),
        _ => {}
    }
}

/// A number: small, at an edge, longer than it needs to be, or endless.
pub fn varint(rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
    let edges = [
        0,
        1,
        2,
        15,
        16,
        4096,
        100_000,
        1 << 20,
        15_999_936,
        u64::from(u32::MAX),
        1 << 32,
        1 << 62,
        i64::MAX as u64,
        u64::MAX,
    ];
    match rng.random_range(0..10) {
        0 => out.extend([0xff; 11]),
        1 => {
            out.extend([rng.random::<u8>() | 0x80, 0x80, 0x80]);
            out.push(0);
        }
        2..6 => minimal_varint(rng.random_range(0..200), out),
        _ => {
            let near = rng.random_range(0..3u64);
            minimal_varint(pick(rng, &edges).wrapping_add(near).wrapping_sub(1), out);
        }
    }
}

fn minimal_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The head of a frame with a length near the limits.
pub fn frame_header(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let near = rng.random_range(0..3u32);
    let len = pick(rng, &[0, 1 << 16, 1 << 18, u32::MAX]).wrapping_add(near);
    let mut bytes = vec![rng.random_range(0..4u8)];
    bytes.extend(len.wrapping_sub(1).to_be_bytes());
    bytes
}

/// A text near that of a CID: right and wrong versions, kinds, digests and bases,
/// with something before or behind.
pub fn cid_text(rng: &mut ChaCha8Rng) -> Vec<u8> {
    use cid::multibase::{Base, encode};
    let mut binary = Vec::new();
    for right in [1, 0x55, 0x12, 32] {
        match rng.random_range(0..12) {
            0 => varint(rng, &mut binary),
            _ => minimal_varint(right, &mut binary),
        }
    }
    let len = *pick(rng, &[32, 32, 32, 32, 31, 33, 0, 64, 100]);
    let digest: Vec<u8> = (0..len).map(|_| rng.random()).collect();
    binary.extend(digest);
    let base = *pick(
        rng,
        &[
            Base::Base32Lower,
            Base::Base32Upper,
            Base::Base32PadLower,
            Base::Base58Btc,
            Base::Base16Lower,
            Base::Base64,
            Base::Base64UrlPad,
            Base::Base2,
            Base::Base10,
            Base::Base36Lower,
            Base::Base256Emoji,
            Base::Identity,
        ],
    );
    let text = match base {
        // This one shows the bytes as they are, and panics where they are no text.
        Base::Identity => format!("\0\u{1}U\u{12} {}", "é".repeat(20)),
        _ => encode(base, binary),
    };
    let text = match rng.random_range(0..10) {
        0 => format!("/ipfs/{text}"),
        1 => format!("{text}{}", pick(rng, &["=", " ", "/", "\0", "a", "ä"])),
        2 => text[text.char_indices().nth(1).map_or(0, |(at, _)| at)..].to_owned(),
        3 => text.to_uppercase(),
        4 => text.repeat(rng.random_range(1..200)),
        _ => text,
    };
    text.into_bytes()
}

pub fn pick<'a, T>(rng: &mut ChaCha8Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}
