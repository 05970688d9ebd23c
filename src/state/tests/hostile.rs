//! Chunks that nobody honest makes.

use std::io::Write as _;

use super::*;
use crate::snapshot::MAX_CHUNK_BYTES;
use crate::state::frame::FrameWriter;

/// A chunk with this payload.
fn chunk(payload: &[u8]) -> Bytes {
    FrameWriter::new(payload).unwrap().finish().unwrap()
}

fn open(bytes: Bytes, scopes: &[&str]) -> OpenChunk {
    let scope = |text: &&str| Scope::new(text).unwrap();
    OpenChunk {
        bytes,
        scopes: scopes.iter().map(scope).collect(),
    }
}

/// Reads a payload whose scopes the manifest says as they are.
fn read(entries: &[&[u8]]) -> Result<Vec<Change>, StateError> {
    let payload = [&[1], &entries.concat()[..]].concat();
    let scopes: &[&str] = if entries.is_empty() { &[] } else { &["a"] };
    changes_of(vec![open(chunk(&payload), scopes)])
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, StateError>, what: &str) {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(what),
        "expected something about {what}: {text}"
    );
}

/// Scope a, key k, value v.
const FIRST: &[u8] = &[0b11, 1, b'a', 0, 1, b'k', 1, b'v'];

#[test]
fn an_entry_has_one_way_to_be_written() {
    assert_eq!(
        read(&[FIRST]).unwrap(),
        puts(&[Record::new(place("a", b"k"), Some("v".into()), Stamp::Absent).unwrap()])
    );
    let second = |entry: &[u8]| read(&[FIRST, entry]);
    assert_eq!(second(&[2, 1, 1, b'x', 0]).unwrap().len(), 2, "k, kx");
    assert_eq!(second(&[2, 0, 1, b'l', 0]).unwrap().len(), 2, "k, l");
    assert_eq!(
        second(&[0b1_0000, 0, 1, b'l']).unwrap().len(),
        2,
        "a removal"
    );

    for (entry, what) in [
        (&[2, 1, 0, 0][..], "stands again"),
        (&[2, 0, 1, b'k', 0], "stands again"),
        (&[2, 0, 1, b'j', 0], "behind a later one"),
        (&[2, 0, 0, 0], "behind a later one"),
        (&[2, 0, 2, b'k', b'x', 0], "less in common"),
        (&[2, 2, 1, b'x', 0], "more in common"),
        (&[0b11, 1, b'a', 0, 1, b'l', 0], "a scope stands again"),
        (&[2, 0x81, 0, 1, b'x', 0], "longer than it needs"),
        (&[0, 0, 1, b'l'], "no entry begins with byte 0x00"),
        (
            &[0b1110, 0, 1, b'l', 0, 0],
            "no entry begins with byte 0x0e",
        ),
        (&[0b1_0010, 0, 1, b'l', 0], "no entry begins with byte 0x12"),
        (
            &[0b10_0010, 0, 1, b'l', 0],
            "no entry begins with byte 0x22",
        ),
        (&[0x82, 0, 1, b'l', 0], "no entry begins with byte 0x82"),
        (&[2, 0, 1, b'l'], "cut off"),
        (&[2, 0, 1, b'l', 9, b'v'], "cut off"),
        (&[0b100, 0, 1, b'l', 1, 0], "NUL"),
        (&[0b100, 0, 1, b'l', 1, 0xff], "UTF-8"),
    ] {
        refused(second(entry), what);
    }
    refused(read(&[&[2, 0, 1, b'k', 0]]), "the first entry has no scope");
    refused(read(&[&[0b11, 1, 7, 0, 1, b'k', 0]]), "control character");
    refused(read(&[&[0b11, 0, 0, 1, b'k', 0]]), "scope: has 0 bytes");
    refused(read(&[&[0b11, 2, 0xc3, 0x28, 0, 1, b'k', 0]]), "UTF-8");
    refused(read(&[&[0b11, 1, b'a', 1, 1, b'k', 0]]), "more in common");
}

#[test]
fn numbers_are_of_64_bits_and_stamps_keep_every_one() {
    for number in [0, 1, -1, i64::MIN, i64::MAX, 1_722_470_400_000_000_000] {
        let record = Record::new(place("a", b"k"), None, Stamp::Int(number)).unwrap();
        let content = encode(&puts(std::slice::from_ref(&record)), least());
        assert_eq!(records_of(content.open()), Ok(vec![record]));
    }
    let entry = |tail: &[u8]| [&[0b1001, 1, b'a', 0, 1, b'k'], tail].concat();
    let most = [&[0xff; 9][..], &[1]].concat();
    assert!(read(&[&entry(&most)]).is_ok());
    let over = [&[0xff; 9][..], &[2]].concat();
    refused(read(&[&entry(&over)]), "more than 64 bits");
    let endless = [0xff; 20];
    refused(read(&[&entry(&endless)]), "more than 64 bits");
}

#[test]
fn lengths_are_refused_before_their_bytes_are_waited_for() {
    let varint = |number: usize| {
        let raw = crate::snapshot::tests::Raw::default();
        raw.varint(number as u64).0
    };
    for (what, most, before) in [
        ("scope", MAX_SCOPE_BYTES, &[0b11][..]),
        ("key", MAX_KEY_BYTES, &[0b11, 1, b'a', 0]),
        ("value", MAX_VALUE_BYTES, &[0b11, 1, b'a', 0, 1, b'k']),
        ("stamp", MAX_STAMP_BYTES, &[0b101, 1, b'a', 0, 1, b'k']),
    ] {
        refused(read(&[before, &varint(most)]), "cut off");
        refused(read(&[before, &varint(most + 1)]), what);
        refused(read(&[before, &varint(usize::MAX)]), what);
    }
    // What a key has in common counts.
    let key = vec![b'k'; MAX_KEY_BYTES];
    let first = [&[0b11, 1, b'a', 0], &varint(key.len())[..], &key, &[0]].concat();
    let second = [&[2], &varint(key.len())[..], &[1, b'k', 0]].concat();
    refused(read(&[&first, &second]), "key");
}

#[test]
fn a_payload_begins_with_its_version() {
    assert!(changes_of(vec![open(chunk(&[1]), &[])]).unwrap().is_empty());
    let version = |payload: &[u8]| changes_of(vec![open(chunk(payload), &[])]);
    assert_eq!(version(&[2, 9, 9]), Err(StateError::Version(2)));
    refused(version(&[]), "empty");
}

#[test]
fn places_stand_in_order_from_chunk_to_chunk() {
    let next = |entry: &[u8], scope: &str| {
        let first = open(chunk(&[&[1], FIRST].concat()), &["a"]);
        let second = open(chunk(&[&[1], entry].concat()), &[scope]);
        changes_of(vec![first, second])
    };
    assert_eq!(next(&[0b11, 1, b'a', 0, 1, b'l', 0], "a").unwrap().len(), 2);
    assert_eq!(next(&[0b11, 1, b'b', 0, 1, b'a', 0], "b").unwrap().len(), 2);
    refused(next(FIRST, "a"), "a, key k stands again");
    refused(next(&[0b11, 1, b'a', 0, 1, b'j', 0], "a"), "key j");
    refused(next(&[0b11, 1, b'A', 0, 1, b'z', 0], "A"), "not in order");
}

#[test]
fn the_order_is_held_over_chunks_without_a_change_and_chunks_left_unread() {
    let mut decoder = Decoder::new().unwrap();
    let full = || open(chunk(&[&[1], FIRST].concat()), &["a"]);
    decoder.begin(full()).unwrap();
    assert!(decoder.next_change().unwrap().is_some());
    decoder.begin(open(chunk(&[1]), &[])).unwrap();
    assert_eq!(decoder.next_change(), Ok(None));
    decoder.begin(full()).unwrap();
    assert!(matches!(decoder.next_change(), Err(StateError::Order(_))));
    assert_eq!(decoder.next_change(), Ok(None), "it ends after an error");
}

#[test]
fn a_chunk_has_the_scopes_that_its_manifest_says() {
    let b = [0b11, 1, b'b', 0, 1, b'k', 0];
    let payload = [&[1], FIRST, &b].concat();
    let with = |scopes: &[&str]| changes_of(vec![open(chunk(&payload), scopes)]);
    assert_eq!(with(&["a", "b"]).unwrap().len(), 2);
    for scopes in [
        &[][..],
        &["a"],
        &["b"],
        &["a", "c"],
        &["a", "aa", "b"],
        &["A", "a", "b"],
    ] {
        refused(with(scopes), "scope that the manifest does not say");
    }
    refused(with(&["a", "b", "c"]), "ahead of a scope");
    let empty = changes_of(vec![open(chunk(&[1]), &["a"])]);
    refused(empty, "ahead of a scope");
}

#[test]
fn a_full_snapshot_removes_nothing() {
    let removal = [0b1_0001, 1, b'a', 0, 1, b'k'];
    let chunk = || vec![open(chunk(&[&[1], &removal[..]].concat()), &["a"])];
    assert_eq!(
        changes_of(chunk()),
        Ok(vec![Change::Removed(place("a", b"k"))])
    );
    refused(records_of(chunk()), "removes nothing");
}

/// A frame by zstd's own writer with other settings.
fn frame(set: impl FnOnce(&mut zstd::Encoder<Vec<u8>>)) -> Bytes {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    set(&mut encoder);
    encoder.write_all(&[&[1], FIRST].concat()).unwrap();
    encoder.finish().unwrap().into()
}

#[test]
fn a_chunk_is_one_frame_without_optional_fields() {
    let with = |bytes: Bytes| changes_of(vec![open(bytes, &["a"])]);
    let plain = frame(|_| {});
    assert_eq!(
        with(plain.clone()).unwrap().len(),
        1,
        "of another compressor"
    );

    let head = "without optional fields";
    refused(
        with(frame(|zstd| zstd.include_checksum(true).unwrap())),
        head,
    );
    let sized = |zstd: &mut zstd::Encoder<Vec<u8>>| {
        zstd.set_pledged_src_size(Some(1 + FIRST.len() as u64))
            .unwrap();
    };
    refused(with(frame(sized)), head);
    refused(with(Bytes::new()), head);
    refused(with(Bytes::from_static(b"PK\x03\x04 and more")), head);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &plain[..]].concat();
    refused(with(skippable.into()), head);

    for end in [&[0][..], &plain, &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]] {
        let more = [&plain[..], end].concat();
        refused(with(more.into()), "bytes follow the frame");
    }
    for len in 5..plain.len() {
        assert!(with(plain.slice(..len)).is_err(), "{len} bytes");
    }
}

#[test]
fn a_frame_that_looks_back_too_far_is_refused() {
    let mut bytes = frame(|_| {}).to_vec();
    // The window descriptor: its upper five bits are the logarithm less ten.
    bytes[5] = (23 - 10) << 3;
    assert!(changes_of(vec![open(bytes.clone().into(), &["a"])]).is_ok());
    bytes[5] += 1;
    refused(
        changes_of(vec![open(bytes.into(), &["a"])]),
        "too much memory",
    );
}

#[test]
fn a_chunk_of_more_bytes_than_abci_carries_is_not_looked_at() {
    let over = Bytes::from(vec![0; MAX_CHUNK_BYTES as usize + 1]);
    refused(changes_of(vec![open(over, &["a"])]), "15999937 bytes");
}

#[test]
fn a_bomb_goes_off_at_its_limit() {
    // Values of zeros, each as long as may be, in ascending keys.
    let mut payload = vec![1, 0b11, 1, b'a', 0, 1, 0];
    let value = [&[0x80, 0x80, 0xc0, 7][..], &vec![0; MAX_VALUE_BYTES]].concat();
    payload.extend_from_slice(&value);
    for key in 1..10 {
        payload.extend([0b10, 0, 1, key]);
        payload.extend_from_slice(&value);
    }
    let bomb = chunk(&payload);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let mut decoder = Decoder::new().unwrap();
    decoder.begin(open(bomb, &["a"])).unwrap();
    let mut read = 0;
    let error = loop {
        match decoder.next_change() {
            Ok(change) => read += usize::from(change.is_some()),
            Err(error) => break error,
        }
    };
    refused(Err::<(), _>(error), "holds more than");
    // The limit lies in the tenth value, and the one before may not be given yet.
    assert!((8..=9).contains(&read), "{read}");
}
