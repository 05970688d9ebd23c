//! From one state to another and back.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn ok(records: &[Record]) -> impl Iterator<Item = Result<Record, StateError>> {
    records.iter().cloned().map(Ok)
}

fn differences(base: &[Record], new: &[Record]) -> Vec<Difference> {
    Differences::new(ok(base), ok(new))
        .collect::<Result<_, _>>()
        .unwrap()
}

fn delta(base: &[Record], new: &[Record]) -> Vec<Change> {
    let changes = differences(base, new).into_iter();
    changes.map(Difference::into_change).collect()
}

fn apply(base: &[Record], changes: &[Change]) -> Result<Vec<Record>, StateError> {
    Applied::new(ok(base), changes.iter().cloned().map(Ok)).collect()
}

fn state() -> impl Strategy<Value = Vec<Record>> {
    let one = (0..3u8, 0..20u8, 0..3i64, any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|ones| {
        let mut records = BTreeMap::new();
        for (scope, key, stamp, is_tombstone) in ones {
            let place = place(["a", "b", "c"][usize::from(scope)], &[key]);
            let value = (!is_tombstone).then(|| Bytes::from_static(b"v"));
            let record = Record::new(place.clone(), value, Stamp::Int(stamp)).unwrap();
            records.insert(place, record);
        }
        records.into_values().collect()
    })
}

proptest! {
    #[test]
    fn a_chain_of_deltas_ends_in_the_records_of_the_full_snapshot(
        states in prop::collection::vec(state(), 2..5)
    ) {
        let deltas: Vec<Vec<Change>> =
            states.windows(2).map(|pair| delta(&pair[0], &pair[1])).collect();
        let mut now = states[0].clone();
        for (changes, after) in deltas.iter().zip(&states[1..]) {
            let read = changes_of(encode(changes, least()).open()).unwrap();
            prop_assert_eq!(&read, changes);
            now = apply(&now, &read).unwrap();
            prop_assert_eq!(&now, after);
        }
        let base: RecordStream<StateError> = Box::new(ok(&states[0]));
        let streams = deltas.into_iter().map(|changes| changes.into_iter().map(Ok));
        let all: Vec<Record> = applied_all(base, streams).collect::<Result<_, _>>().unwrap();
        let last = states.last().unwrap();
        prop_assert_eq!(digest_of(&all), digest_of(last));
        prop_assert_eq!(&all, last);
    }
}

#[test]
fn a_delta_says_what_is_there_otherwise_and_what_is_gone() {
    let tombstone = Record::new(place("a", b"3"), None, Stamp::Int(9)).unwrap();
    let before = [
        record("a", b"1", b"same", 1),
        record("a", b"2", b"old", 1),
        record("a", b"3", b"deleted by the chain", 1),
        record("b", b"1", b"gone altogether", 1),
    ];
    let after = [
        before[0].clone(),
        record("a", b"2", b"old", 2),
        tombstone.clone(),
        record("c", b"1", b"new", 2),
    ];
    let changes = delta(&before, &after);
    assert_eq!(
        changes,
        [
            Change::Put(after[1].clone()),
            Change::Put(tombstone),
            Change::Removed(place("b", b"1")),
            Change::Put(after[3].clone()),
        ]
    );
    assert_eq!(apply(&before, &changes).unwrap(), after);
    assert!(delta(&after, &after).is_empty());
}

#[test]
fn a_summary_counts_by_scope() {
    let before = [record("a", b"1", b"x", 1), record("b", b"1", b"12345", 1)];
    let after = [record("a", b"1", b"yy", 1), record("a", b"22", b"zzz", 1)];
    let mut summary = Summary::default();
    for difference in differences(&before, &after) {
        summary.add(&difference);
    }
    let tally = |records, bytes| Tally { records, bytes };
    let found: Vec<_> = summary
        .scopes()
        .map(|(scope, sums)| (scope.as_str(), *sums))
        .collect();
    let a = ScopeSummary {
        added: tally(1, 5),
        changed: tally(1, 3),
        removed: Tally::default(),
    };
    let b = ScopeSummary {
        removed: tally(1, 6),
        ..ScopeSummary::default()
    };
    assert_eq!(found, [("a", a), ("b", b)]);
}

#[test]
fn a_delta_of_another_base_is_refused() {
    let base = [record("a", b"1", b"x", 1)];
    let changes = [Change::Removed(place("a", b"2"))];
    assert_eq!(
        apply(&base, &changes),
        Err(StateError::OtherBase("a, key 2".to_owned()))
    );
    let notes = StateNotes {
        state: digest_of(&base),
        patches_sha256: None,
    };
    assert_eq!(notes.check(&digest_of(&base)), Ok(()));
    assert!(matches!(
        notes.check(&digest_of(&[])),
        Err(StateError::OtherState { .. })
    ));
}

#[test]
fn a_stream_out_of_order_or_one_that_fails_ends_a_merge() {
    let (a, b) = (record("a", b"1", b"x", 1), record("a", b"2", b"x", 1));
    let wrong = [b.clone(), a.clone()];
    let right = [a.clone(), b.clone()];
    for (base, new) in [(&wrong, &right), (&right, &wrong)] {
        let mut merge = Differences::new(ok(base), ok(new));
        assert!(merge.any(|item| matches!(item, Err(StateError::Order(_)))));
        assert!(merge.next().is_none(), "it ends after an error");
    }
    let failing = || vec![Ok(a.clone()), Err(StateError::Version(9))].into_iter();
    let mut merge = Differences::new(failing(), ok(&right));
    assert_eq!(merge.next(), Some(Err(StateError::Version(9))));
    let changes = puts(&right).into_iter().map(Ok);
    let mut applied = Applied::new(failing(), changes);
    assert_eq!(applied.next(), Some(Ok(a.clone())));
    assert_eq!(applied.next(), Some(Err(StateError::Version(9))));
    assert_eq!(applied.next(), None);
}

#[test]
fn notes_survive_their_bytes_and_foreign_ones_are_checked() {
    let state = digest_of(&balances(10, 1));
    for patches_sha256 in [None, Some(state.sha256)] {
        let notes = StateNotes {
            state,
            patches_sha256,
        };
        let bytes = notes.encode();
        assert_eq!(StateNotes::decode(&bytes), Ok(notes));
        let more = [&bytes[..], &[0x28, 1]].concat();
        assert!(StateNotes::decode(&more).is_err(), "an unknown field");
        assert!(StateNotes::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    for bytes in [&[][..], &[0x10, 7], &[0x0a, 3, 1, 2, 3], &[0x10, 0x80]] {
        let error = StateNotes::decode(bytes).unwrap_err();
        assert!(matches!(error, StateError::Notes(_)), "{error}");
    }
}
