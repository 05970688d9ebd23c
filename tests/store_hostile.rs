//! CAR files from strangers: whatever the bytes, a clear error, no panic, and no
//! memory for what was not there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{Manifest, ManifestBuilder, SnapshotFields, hash};
use snapswarm::store::{StoreError, Verified, check_car};

/// Inputs of each kind.
const INPUTS: usize = 60_000;

/// The most that a short input may have allocated at once: the step by which the
/// buffer of a block grows, and what a manifest of the input's size takes.
const MAX_ALLOCATED_BYTES: isize = 3 << 20;

/// Counts what this thread holds and its highest point.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Checks a CAR; gives the outcome and the most bytes held meanwhile.
fn check(bytes: &[u8]) -> (Result<Verified, StoreError>, isize) {
    let before = HELD.get();
    MOST.set(before);
    let outcome = check_car(bytes, Path::new("hostile.car"), &mut |_, _| {
        ControlFlow::Continue(())
    });
    (outcome, MOST.get() - before)
}

fn varint(number: u64) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::u64_buffer();
    unsigned_varint::encode::u64(number, &mut buffer).to_vec()
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let mut cid = vec![1, 0x55, 0x12, 0x20];
    cid.extend_from_slice(hash::sha256(bytes).as_bytes());
    [varint(36 + bytes.len() as u64), cid, bytes.to_vec()].concat()
}

/// A CAR with these blocks whose root is the first.
fn car(blocks: &[&[u8]]) -> Vec<u8> {
    let mut car = b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00\x01\x55\x12\x20".to_vec();
    car.extend_from_slice(hash::sha256(blocks[0]).as_bytes());
    car.extend_from_slice(b"\x67version\x01");
    for bytes in blocks {
        car.extend(block(bytes));
    }
    car
}

fn chunks() -> Vec<Vec<u8>> {
    vec![b"one".to_vec(), vec![2; 300], b"three".to_vec()]
}

fn manifest() -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in chunks() {
        builder.push(&chunk).unwrap();
    }
    builder
        .finish(SnapshotFields {
            chain_id: "hostile".to_owned(),
            height: 5,
            app_hash: Some(Bytes::from_static(&[1; 32])),
            format: 1,
            hash: None,
            metadata: Bytes::from_static(b"metadata"),
        })
        .unwrap()
}

/// Changes bytes, takes some out, puts some in, cuts, doubles.
fn mutate(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    for _ in 0..random.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..8) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => {
                bytes.remove(at);
            }
            4 => bytes.insert(at, random.random()),
            // A length or number of any size.
            5 => {
                let number = random.random::<u64>() >> random.random_range(0..64);
                let end = bytes.len().min(at + random.random_range(0..4));
                bytes.splice(at..end, varint(number));
            }
            6 => {
                let end = random.random_range(at..=bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes[at] = [0x00, 0x7f, 0x80, 0xff][random.random_range(0..4)],
        }
    }
}

fn assert_harmless(input: &[u8], good: &[u8], what: &str) {
    let (outcome, held) = check(input);
    assert!(
        held <= MAX_ALLOCATED_BYTES,
        "{what}: {held} bytes for an input of {}",
        input.len()
    );
    match outcome {
        Ok(_) => assert!(input == good, "{what}: other bytes were taken"),
        Err(error) => {
            assert!(matches!(error, StoreError::Car { .. }), "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains("hostile.car, byte "), "{what}: {text}");
        }
    }
}

fn good() -> Vec<u8> {
    let (manifest, chunks) = (manifest(), chunks());
    let mut blocks: Vec<&[u8]> = vec![manifest.encoded()];
    blocks.extend(chunks.iter().map(|chunk| &chunk[..]));
    car(&blocks)
}

#[test]
fn the_valid_car_is_taken() {
    let (outcome, held) = check(&good());
    assert_eq!(outcome.unwrap().id, manifest().id());
    assert!(held <= MAX_ALLOCATED_BYTES, "{held}");
}

#[test]
fn changed_cars_are_refused() {
    let good = good();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for input in 0..INPUTS {
        let mut bytes = good.clone();
        mutate(&mut bytes, &mut random);
        assert_harmless(&bytes, &good, &format!("input {input}"));
    }
}

#[test]
fn cars_whose_root_names_a_changed_manifest_are_refused() {
    let (manifest, chunks) = (manifest(), chunks());
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let good = good();
    let mut taken = 0;
    for input in 0..INPUTS {
        let mut bytes = manifest.encoded().to_vec();
        mutate(&mut bytes, &mut random);
        let mut blocks: Vec<&[u8]> = vec![&bytes];
        blocks.extend(chunks.iter().map(|chunk| &chunk[..]));
        let car = car(&blocks);
        // A manifest of another height or metadata is a manifest too.
        if Manifest::decode(bytes.clone().into()).is_ok() {
            let (_, held) = check(&car);
            assert!(held <= MAX_ALLOCATED_BYTES, "input {input}: {held}");
            taken += 1;
        } else {
            assert_harmless(&car, &good, &format!("input {input}"));
        }
    }
    assert!(taken < INPUTS / 2, "{taken} manifests were valid");
}

#[test]
fn random_bytes_are_refused() {
    let good = good();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for input in 0..INPUTS {
        let mut bytes = vec![0; random.random_range(0..400)];
        random.fill_bytes(&mut bytes);
        // A third of them begins like a CAR, a third like one of this manifest.
        let begin = [0, 1, 59, 59 + 2 + 36][random.random_range(0..4)];
        bytes.splice(0..0, good[..begin].iter().copied());
        assert_harmless(&bytes, &good, &format!("input {input}"));
    }
}

#[test]
fn blocks_in_another_order_repeated_or_left_out_are_refused() {
    let (manifest, chunks) = (manifest(), chunks());
    let m = &manifest.encoded()[..];
    let [a, b, c] = [&chunks[0][..], &chunks[1][..], &chunks[2][..]];
    let cases: [&[&[u8]]; 6] = [
        &[m],
        &[m, a, b],
        &[m, b, a, c],
        &[m, a, a, b, c],
        &[m, a, b, c, c],
        &[a, m, b, c],
    ];
    for blocks in cases {
        assert_harmless(&car(blocks), b"", "blocks");
    }
}

#[test]
fn a_manifest_that_promises_much_costs_little() {
    // 100,000 chunks of 16 MB that never come.
    let chunk = [
        b"\x08\xc0\xc7\xd0\x07".to_vec(),
        [&b"\x12\x20"[..], &[1; 32]].concat(),
        [&b"\x1a"[..], &varint(16 * 32), &[2; 16 * 32]].concat(),
    ]
    .concat();
    let manifest = manifest();
    let head = manifest.encoded();
    let first = [0x52, 70];
    let at = head.windows(2).position(|pair| pair == first).unwrap();
    let field = [&b"\x52"[..], &varint(chunk.len() as u64), &chunk].concat();
    let bytes = [&head[..at], &field.repeat(50_000)].concat();
    assert!(Manifest::decode(bytes.clone().into()).is_ok());
    let car = car(&[&bytes]);
    let (outcome, held) = check(&car);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("the file ends in chunk block 0"), "{error}");
    // The manifest, its decoded form, and nothing for the chunks.
    let limit = 4 * bytes.len() as isize + MAX_ALLOCATED_BYTES;
    assert!(held < limit, "{held} bytes for {}", bytes.len());
}
