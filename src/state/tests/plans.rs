//! What to fetch.

use super::*;
use crate::snapshot::ChunkId;

/// States of one chain, each with another part of the keys written anew.
fn states() -> Vec<Vec<Record>> {
    let mut records = balances(6_000, 1);
    let mut states = vec![records.clone()];
    for round in 0..3 {
        for record in &mut records[round * 50..][..300] {
            let place = record.place().clone();
            *record = Record::new(place, Some("9".into()), Stamp::Int(round as i64)).unwrap();
        }
        states.push(records.clone());
    }
    states
}

fn full(records: &[Record]) -> Manifest {
    encode(&puts(records), least()).manifest(None, digest_of(records))
}

fn delta(base: &Manifest, before: &[Record], after: &[Record]) -> Manifest {
    let [old, new] = [before, after].map(|records| records.iter().cloned());
    let ok = Ok::<_, StateError>;
    let changes: Vec<Change> = Differences::new(old.map(ok), new.map(ok))
        .map(|difference| difference.unwrap().into_change())
        .collect();
    encode(&changes, least()).manifest(Some(base.id()), digest_of(after))
}

fn has(manifest: &Manifest) -> impl Fn(&ChunkId) -> bool {
    let ids: Vec<ChunkId> = manifest
        .unique_indexes()
        .map(|index| manifest.unique_chunk(index).id)
        .collect();
    move |id| ids.contains(id)
}

fn plan_of(
    goal: &[Record],
    states: &[(&Manifest, &[Record])],
    has_chunk: &dyn Fn(&ChunkId) -> bool,
    offers: &[&Manifest],
) -> Option<Plan> {
    let state = |(manifest, records): &(&Manifest, &[Record])| (manifest.id(), digest_of(records));
    let states: Vec<_> = states.iter().map(state).collect();
    let at_hand = AtHand {
        states: &states,
        has_chunk,
    };
    plan(&digest_of(goal), &at_hand, offers)
}

#[test]
fn who_has_nothing_takes_the_full_snapshot() {
    let states = states();
    let first = full(&states[0]);
    let last = full(&states[1]);
    let between = delta(&first, &states[0], &states[1]);
    let found = plan_of(&states[1], &[], &|_| false, &[&first, &last, &between]).unwrap();
    assert_eq!(found.start, None);
    assert_eq!(found.steps, [last.id()]);
    assert_eq!(found.fetch_bytes, last.unique_bytes());
    assert_eq!(
        plan_of(&states[2], &[], &|_| false, &[&first, &between]),
        None
    );
}

#[test]
fn who_has_the_base_takes_a_chain_of_deltas() {
    let states = states();
    let fulls: Vec<Manifest> = states.iter().map(|state| full(state)).collect();
    let deltas: Vec<Manifest> = (0..3)
        .map(|at| delta(&fulls[at], &states[at], &states[at + 1]))
        .collect();
    let offers: Vec<&Manifest> = fulls.iter().chain(&deltas).collect();
    let here = [(&fulls[0], &states[0][..])];
    let found = plan_of(&states[3], &here, &|_| false, &offers).unwrap();
    assert_eq!(found.start, Some(fulls[0].id()));
    let ids: Vec<ManifestId> = deltas.iter().map(Manifest::id).collect();
    assert_eq!(found.steps, ids);
    let bytes: u64 = deltas.iter().map(Manifest::unique_bytes).sum();
    assert_eq!(found.fetch_bytes, bytes);
    assert!(bytes < fulls[3].unique_bytes());

    // One delta over all of it has less than three.
    let jump = delta(&fulls[0], &states[0], &states[3]);
    let mut offers = offers;
    offers.push(&jump);
    let found = plan_of(&states[3], &here, &|_| false, &offers).unwrap();
    assert_eq!(found.steps, [jump.id()]);

    // And what is at hand is not fetched.
    let found = plan_of(&states[0], &here, &|_| false, &offers).unwrap();
    assert!(found.steps.is_empty() && found.fetch_bytes == 0);
}

#[test]
fn chunks_at_hand_cost_nothing() {
    let states = states();
    let (first, last) = (full(&states[0]), full(&states[1]));
    let between = delta(&first, &states[0], &states[1]);
    let offers = [&last, &between];
    // The new full snapshot has most of its chunks in common with the old one, but
    // the delta is smaller still.
    let here = [(&first, &states[0][..])];
    let found = plan_of(&states[1], &here, &has(&first), &offers).unwrap();
    assert_eq!(found.steps, [between.id()]);
    // Who has the chunks and not the state takes what the chunks do not have.
    let found = plan_of(&states[1], &[], &has(&first), &offers).unwrap();
    assert_eq!(found.steps, [last.id()]);
    assert!(found.fetch_bytes < last.unique_bytes() / 2);
}

#[test]
fn a_delta_of_a_delta_counts_from_any_snapshot_of_the_same_state() {
    let states = states();
    let fulls: Vec<Manifest> = states.iter().map(|state| full(state)).collect();
    let first = delta(&fulls[0], &states[0], &states[1]);
    let second = delta(&first, &states[1], &states[2]);
    // At hand is the full snapshot of the state that `first` makes.
    let here = [(&fulls[1], &states[1][..])];
    let found = plan_of(&states[2], &here, &|_| false, &[&first, &second]).unwrap();
    assert_eq!(found.steps, [second.id()]);
    assert_eq!(found.start, Some(fulls[1].id()));
}

#[test]
fn a_chain_is_no_longer_than_can_be_read_at_once() {
    let records = balances(300, 3);
    let state = |number: usize| [&[record("a", b"1", &[number as u8], 1)], &records[..]].concat();
    let mut chain = vec![full(&state(0))];
    for number in 1..=MAX_DELTAS + 1 {
        let before = chain.last().unwrap();
        chain.push(delta(before, &state(number - 1), &state(number)));
    }
    let offers: Vec<&Manifest> = chain.iter().collect();
    let first = state(0);
    let here = [(&chain[0], &first[..])];
    let found = |number| plan_of(&state(number), &here, &|_| false, &offers);
    assert_eq!(found(MAX_DELTAS).unwrap().steps.len(), MAX_DELTAS);
    assert_eq!(found(MAX_DELTAS + 1), None);
}

#[test]
fn offers_without_notes_are_passed_over() {
    let mut builder = ManifestBuilder::new();
    builder.push(b"chunk").unwrap();
    let fields = SnapshotFields {
        chain_id: "chain-1".to_owned(),
        height: 1,
        app_hash: None,
        format: 1,
        hash: None,
        metadata: digest_of(&[]).sha256.as_bytes().to_vec().into(),
    };
    let opaque = builder.finish(fields).unwrap();
    assert_eq!(plan_of(&[], &[], &|_| false, &[&opaque]), None);
    assert_eq!(StateNotes::of(&opaque), Err(StateError::Opaque));
    assert_eq!(Selection::new(&opaque, &[]), Err(StateError::Opaque));
}

#[test]
fn a_selection_has_just_the_chunks_that_hold_the_scopes() {
    let mut records = balances(8_000, 4);
    records.push(record("run_state/__z", b"small", b"1", 1));
    let content = encode(&puts(&records), least());
    let manifest = content.manifest(None, digest_of(&records));
    let scope = |text: &str| Scope::new(text).unwrap();
    let last = manifest.chunk_count() - 1;

    let positions = |wanted: &[&str]| {
        let wanted: Vec<Scope> = wanted.iter().map(|text| scope(text)).collect();
        let selection = Selection::new(&manifest, &wanted).unwrap();
        let sizes = selection
            .chunks
            .iter()
            .map(|chunk| manifest.unique_chunk(manifest.unique_at(*chunk)).size);
        assert_eq!(selection.bytes, sizes.map(u64::from).sum::<u64>());
        selection
            .chunks
            .iter()
            .map(|chunk| chunk.get())
            .collect::<Vec<u32>>()
    };
    assert_eq!(positions(&["run_state/__z"]), [last]);
    assert!(positions(&[]).is_empty());
    let every: Vec<&str> = content.scopes.iter().map(Scope::as_str).collect();
    assert_eq!(positions(&every).len() as u32, last + 1);

    // What is read of the chosen chunks alone is all that the scope has.
    let currency = scope("contract_state/currency");
    let opened = content.open();
    let chosen = positions(&["contract_state/currency"]);
    assert!(chosen.len() < opened.len() / 2 + 2 && chosen[0] > 0);
    let chunks = chosen
        .iter()
        .map(|at| opened[*at as usize].clone())
        .collect();
    let of_scope = |records: Vec<Record>| -> Vec<Record> {
        let is_of = |record: &Record| *record.scope() == currency;
        records.into_iter().filter(is_of).collect()
    };
    assert_eq!(of_scope(records_of(chunks).unwrap()), of_scope(records));
    assert_eq!(
        Selection::new(&manifest, &[scope("contract_state/nobody")]),
        Err(StateError::UnknownScope(scope("contract_state/nobody")))
    );
}
