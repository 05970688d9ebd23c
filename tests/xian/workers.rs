//! The processes that read.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use snapswarm::xian::{Reading, StorageRecords, Workers, XianError};

use crate::support::*;

/// A storage of some small contracts and one that is larger than what a pipe holds.
fn contracts(folder: &Path, count: usize) {
    let options = [
        "--records",
        &(count * 40).to_string(),
        "--files",
        &count.to_string(),
    ]
    .map(|option| Path::new(option).to_owned());
    let mut all = vec![folder];
    all.extend(options.iter().map(|option| option.as_path()));
    python("generate.py", &all, None);
}

fn read_with(storage: &Path, lanes: usize, spool_bytes: u64) -> Vec<snapswarm::state::Record> {
    let mut reading = reading();
    reading.workers.at_most = NonZeroUsize::new(lanes).unwrap();
    reading.spool_bytes = spool_bytes;
    let records = StorageRecords::open(storage, &reading).unwrap();
    records.collect::<Result<_, _>>().unwrap()
}

#[test]
fn the_order_is_the_same_with_any_number_of_workers_and_any_room() {
    let folder = tempfile::tempdir().unwrap();
    contracts(folder.path(), 90);
    let records = read_with(folder.path(), 1, SPOOL_BYTES);
    assert_eq!(records.len(), 90 * 40);
    let in_order = |one: &snapswarm::state::Record, other: &snapswarm::state::Record| {
        one.place() < other.place()
    };
    assert!(records.is_sorted_by(in_order));
    for (lanes, spool_bytes) in [(1, 0), (2, 0), (7, 0), (2, 100_000), (7, SPOOL_BYTES)] {
        assert_eq!(
            read_with(folder.path(), lanes, spool_bytes),
            records,
            "{lanes}, {spool_bytes}"
        );
    }
}

/// Reads golden files with another program as the worker.
fn read_by(program: &str, script: &str, patience: Duration) -> XianError {
    let reading = Reading {
        workers: Workers {
            program: program.into(),
            arguments: vec!["-c".into(), script.into()],
            at_most: NonZeroUsize::MIN,
            patience,
        },
        ..reading()
    };
    let records = StorageRecords::open(&storage("golden/xian/storage"), &reading).unwrap();
    records.collect::<Result<Vec<_>, _>>().unwrap_err()
}

#[test]
fn a_worker_that_dies_is_an_error_that_names_the_file() {
    let patience = Workers::PATIENCE;
    let died = |script| match read_by("/bin/sh", script, patience) {
        XianError::Worker { file, problem, .. } => {
            assert!(file.ends_with("contract_state/con_big"));
            problem
        }
        error => panic!("{error}"),
    };
    assert!(died("kill -SEGV $$").contains("signal: 11"));
    assert!(died("exit 0").contains("without an answer"));
    // A frame of one byte, of a kind that is none.
    assert!(died(r"printf '\001\000\000\000\011'").contains("no record"));
    // The frame that ends a stream of one record, after none.
    assert!(died(r"printf '\011\000\000\000\003\001\000\000\000\000\000\000\000'").contains("no"));
    // A frame that is longer than any.
    assert!(died(r"printf '\377\377\377\377\001'").contains("no record"));
    // A frame that is cut off.
    assert!(died(r"printf '\011\000\000\000\003\001'").contains("without an answer"));
}

#[test]
fn a_worker_that_hangs_is_killed() {
    let error = read_by("/bin/sh", "exec sleep 1000", Duration::from_millis(50));
    assert!(error.to_string().contains("hangs"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = read_by("/nowhere/snapswarm", "", Workers::PATIENCE);
    assert!(error.to_string().contains("/nowhere/snapswarm"), "{error}");
}

#[test]
fn an_error_in_one_file_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    contracts(folder.path(), 9);
    fs::write(folder.path().join("contract_state/con_005"), b"no HDF5").unwrap();
    for lanes in [1, 2, 9] {
        let mut reading = reading();
        reading.workers.at_most = NonZeroUsize::new(lanes).unwrap();
        let mut records = StorageRecords::open(folder.path(), &reading).unwrap();
        let error = records.find_map(Result::err).unwrap();
        assert!(error.to_string().contains("con_005"), "{error}");
        assert!(records.next().is_none());
    }
}

#[test]
fn who_takes_a_few_records_only_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    contracts(folder.path(), 20);
    for taken in [0, 1, 41] {
        let mut reading = reading();
        reading.spool_bytes = 0;
        let records = StorageRecords::open(folder.path(), &reading).unwrap();
        assert_eq!(records.take(taken).filter(Result::is_ok).count(), taken);
        // The processes and the threads were waited for: nobody uses the files any more.
    }
}

#[test]
fn who_gives_up_does_not_wait_for_a_worker_that_hangs() {
    let mut reading = reading();
    reading.workers.program = "/bin/sh".into();
    reading.workers.arguments = vec!["-c".into(), "exec sleep 1000".into()];
    let began = std::time::Instant::now();
    drop(StorageRecords::open(&storage("golden/xian/storage"), &reading).unwrap());
    assert!(began.elapsed() < Duration::from_secs(100));
}

#[test]
fn a_storage_that_changes_meanwhile_is_no_state() {
    let folder = tempfile::tempdir().unwrap();
    contracts(folder.path(), 3);
    let mut records = StorageRecords::open(folder.path(), &reading()).unwrap();
    assert!(records.next().unwrap().is_ok());
    let latest = folder.path().join("__latest_block.json");
    fs::write(&latest, r#"{"hash": "62", "height": 2}"#).unwrap();
    let error = records.find_map(Result::err).unwrap();
    assert!(matches!(error, XianError::Changed { .. }), "{error}");
}

#[test]
fn a_file_that_the_node_is_writing_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    contracts(folder.path(), 40);
    let records = StorageRecords::open(folder.path(), &reading()).unwrap();
    for entry in fs::read_dir(folder.path().join("contract_state")).unwrap() {
        fs::write(entry.unwrap().path(), "half of a write").unwrap();
    }
    let error = records.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, XianError::Changed { .. }), "{error}");
}
