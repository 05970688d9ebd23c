//! Records into chunks and back.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::snapshot::MAX_CHUNK_BYTES;

fn any_change() -> impl Strategy<Value = Change> {
    let scope = prop_oneof!["[a-c]", "[a-z/]{1,20}", "ä{1,9}"];
    let key = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6),
        prop::collection::vec(0..2u8, 0..9),
        prop::collection::vec(any::<u8>(), 100..400),
    ];
    let value = prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(0..3u8, 2000..9000),
    ]);
    let stamp = prop_oneof![
        Just(Stamp::Absent),
        any::<i64>().prop_map(Stamp::Int),
        "[^\0]{0,30}".prop_map(|text| Stamp::Text(StampText::new(&text).unwrap())),
    ];
    (scope, key, value, stamp).prop_map(|(scope, key, value, stamp)| {
        let place = place(&scope, &key);
        match Record::new(place.clone(), value.map(Bytes::from), stamp) {
            Ok(record) => Change::Put(record),
            Err(_) => Change::Removed(place),
        }
    })
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(any_change(), 0..120).prop_map(|mut changes| {
        changes.sort_by(|a, b| a.place().cmp(b.place()));
        changes.dedup_by(|a, b| a.place() == b.place());
        changes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_goes_into_chunks_comes_out_of_them(changes in any_changes()) {
        let content = encode(&changes, least());
        prop_assert_eq!(changes_of(content.open()), Ok(changes.clone()));

        // Each chunk can be read by itself, and says what scopes it has.
        let mut alone = Vec::new();
        for chunk in content.open() {
            let scopes = chunk.scopes.clone();
            let changes = changes_of(vec![chunk]).unwrap();
            let mut found: Vec<Scope> =
                changes.iter().map(|change| change.place().scope.clone()).collect();
            found.dedup();
            prop_assert_eq!(found, scopes);
            alone.extend(changes);
        }
        prop_assert_eq!(alone, changes);
    }
}

#[test]
fn a_content_without_a_change_is_one_chunk_that_says_so() {
    let content = encode(&[], least());
    assert_eq!(content.chunks.len(), 1);
    assert!(content.scopes.is_empty());
    assert_eq!(changes_of(content.open()), Ok(Vec::new()));
    let manifest = content.manifest(None, digest_of(&[]));
    let state = manifest.state().unwrap();
    let chunk = manifest.chunk_index(0).unwrap();
    assert!(state.scopes_of(chunk).is_empty());
}

#[test]
fn an_encoder_takes_places_in_order_only() {
    for (first, second) in [
        (("b", "a"), ("a", "b")),
        (("a", "b"), ("a", "a")),
        (("a", "a"), ("a", "a")),
    ] {
        let mut encoder = Encoder::new(least()).unwrap();
        let mut push = |(scope, key): (&str, &str)| {
            encoder.push(&Change::Put(record(scope, key.as_bytes(), b"1", 1)))
        };
        assert_eq!(push(first), Ok(None));
        assert!(matches!(push(second), Err(StateError::Order(_))));
    }
}

#[test]
fn chunks_end_between_a_quarter_of_the_size_and_one_and_a_half() {
    let records = balances(30_000, 1);
    let size = ChunkSize::new(64 << 10).unwrap();
    let content = encode(&puts(&records), size);
    let sizes: Vec<usize> = content
        .chunks
        .iter()
        .map(|chunk| chunk.bytes.len())
        .collect();
    assert!(sizes.len() > 12, "{sizes:?}");
    // The size of the block that is being filled is a guess.
    let slack = 8 << 10;
    let (least, most) = ((16 << 10) - slack, (96 << 10) + slack);
    for size in &sizes[..sizes.len() - 1] {
        assert!((least..most).contains(size), "{sizes:?}");
    }
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((38 << 10..54 << 10).contains(&mean), "{mean}");
}

#[test]
fn the_longest_records_fit_chunks_even_where_they_do_not_shrink() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut random = |len: usize| {
        let mut bytes = vec![0; len];
        rng.fill_bytes(&mut bytes);
        Bytes::from(bytes)
    };
    let scope = "s".repeat(MAX_SCOPE_BYTES);
    let records: Vec<Record> = (0..3)
        .map(|number| {
            let mut key = random(MAX_KEY_BYTES).to_vec();
            key[0] = number;
            let text = StampText::new(&"7".repeat(MAX_STAMP_BYTES)).unwrap();
            let value = random(MAX_VALUE_BYTES);
            Record::new(place(&scope, &key), Some(value), Stamp::Text(text)).unwrap()
        })
        .collect();
    let content = encode(&puts(&records), ChunkSize::MAX);
    assert_eq!(content.chunks.len(), 3);
    for chunk in &content.chunks {
        assert!(chunk.bytes.len() <= MAX_CHUNK_BYTES as usize);
    }
    assert_eq!(records_of(content.open()), Ok(records));
}

#[test]
fn a_payload_that_shrinks_to_nothing_is_cut_as_well() {
    let value = vec![b'0'; 1 << 20];
    let records: Vec<Record> = (0..200u8)
        .map(|number| record("s", &[number], &value, 0))
        .collect();
    let content = encode(&puts(&records), ChunkSize::MAX);
    assert!(content.chunks.len() >= 2, "{}", content.chunks.len());
    for chunk in content.open() {
        let payload = records_of(vec![chunk]).unwrap().len() << 20;
        assert!(payload <= MAX_PAYLOAD_BYTES, "{payload}");
    }
}

#[test]
fn a_chunk_is_the_same_whatever_was_encoded_before_it() {
    let records = balances(20_000, 2);
    let content = encode(&puts(&records), least());
    let opened = content.open();
    for at in [1, opened.len() / 2, opened.len() - 1] {
        let alone = records_of(vec![opened[at].clone()]).unwrap();
        let again = encode(&puts(&alone), ChunkSize::MAX);
        assert_eq!(again.chunks.len(), 1);
        assert_eq!(again.chunks[0].bytes, opened[at].bytes, "chunk {at}");
    }
}

/// The chunks of `after` that `before` does not have.
fn new_chunks(before: &[Record], after: &[Record]) -> (usize, usize) {
    let chunks = |records: &[Record]| encode(&puts(records), least()).chunks;
    let known: BTreeSet<Bytes> = chunks(before)
        .into_iter()
        .map(|chunk| chunk.bytes)
        .collect();
    let after = chunks(after);
    let new = after.iter().filter(|chunk| !known.contains(&chunk.bytes));
    (new.count(), after.len())
}

#[test]
fn an_insertion_or_a_removal_changes_a_chunk_and_seldom_the_next() {
    let records = balances(40_000, 3);
    let mut new = 0;
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..8 {
        let mut after = records.clone();
        let at = rng.random_range(0..after.len());
        after.remove(at);
        let added = balance("contract_state/currency", &mut rng);
        let at = after.partition_point(|record| record.place() < added.place());
        after.insert(at, added);
        new += new_chunks(&records, &after).0;
    }
    assert!(
        new <= 8 * 2 + 4,
        "{new} new chunks after 8 times two changes"
    );
}

#[test]
fn other_values_in_a_twentieth_of_the_keys_leave_nine_tenths_of_the_chunks() {
    let records = balances(60_000, 5);
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut after = records.clone();
    for record in &mut after[20_000..23_000] {
        let value = "9".repeat(rng.random_range(1..60));
        let place = record.place().clone();
        *record = Record::new(place, Some(value.into()), Stamp::Int(8)).unwrap();
    }
    let (new, all) = new_chunks(&records, &after);
    assert!(all > 60 && new * 10 <= all, "{new} of {all} chunks are new");
}

#[test]
fn a_thousand_records_more_in_one_place_leave_the_other_chunks() {
    let records = balances(60_000, 7);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut after = records.clone();
    for _ in 0..1000 {
        let address = format!(
            "balances\x00{}{}",
            "77",
            hex::encode(rng.random::<[u8; 31]>())
        );
        after.push(record(
            "contract_state/currency",
            address.as_bytes(),
            b"1",
            1,
        ));
    }
    after.sort_by(|a, b| a.place().cmp(b.place()));
    let (new, all) = new_chunks(&records, &after);
    assert!(all > 60 && new <= 5, "{new} of {all} chunks are new");
}

#[test]
fn a_state_that_goes_on_beyond_its_name_is_stopped_at_once() {
    let records = balances(100, 9);
    let named = digest_of(&records[..60]);
    let pushed = |mut named: StateDigest, change: fn(&mut StateDigest)| {
        change(&mut named);
        let mut hasher = StateHasher::expecting(named);
        let taken = records
            .iter()
            .take_while(|record| hasher.push(record).is_ok());
        taken.count()
    };
    assert_eq!(pushed(named, |_| {}), 60);
    assert_eq!(pushed(named, |named| named.bytes -= 1), 59);
    assert_eq!(pushed(named, |named| named.bytes = u64::MAX), 60);
    assert_eq!(pushed(named, |named| named.records = u64::MAX), 60);
}

#[test]
fn one_state_has_one_digest_and_others_have_others() {
    let records = balances(100, 9);
    let digest = digest_of(&records);
    assert_eq!(digest, digest_of(&records));
    assert_eq!(digest.records, 100);
    let change = |change: fn(&mut Vec<Record>)| {
        let mut other = records.clone();
        change(&mut other);
        digest_of(&other)
    };
    let others = [
        change(|records| drop(records.pop())),
        change(|records| {
            let place = records[50].place().clone();
            records[50] = Record::new(place, Some("1".into()), Stamp::Int(7)).unwrap();
        }),
        change(|records| {
            let value = records[50].value().cloned();
            let place = records[50].place().clone();
            let text = StampText::new("7").unwrap();
            records[50] = Record::new(place, value, Stamp::Text(text)).unwrap();
        }),
    ];
    assert_eq!(BTreeSet::from(others).len(), 3);
    assert!(!others.contains(&digest));
}
