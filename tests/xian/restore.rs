//! Storages that are made, and put in the place of others.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use snapswarm::state::{Key, Place, Record, Scope, Stamp};
use snapswarm::xian::{LatestBlock, Restore, Workers, XianError, discard_old, recover};

use crate::support::*;

#[path = "../support/small_disk.rs"]
mod small_disk;

fn block(height: u64) -> LatestBlock {
    LatestBlock {
        height,
        app_hash: Bytes::from_static(&[0x3f; 64]),
    }
}

fn record(scope: &str, key: &str, value: &str) -> Record {
    let place = Place {
        scope: Scope::new(scope).unwrap(),
        key: Key::new(Bytes::copy_from_slice(key.as_bytes())).unwrap(),
    };
    let value = Bytes::copy_from_slice(value.as_bytes());
    Record::new(place, Some(value), Stamp::Int(1)).unwrap()
}

/// What a node has before: a state of its own, and what is no part of a state.
fn node_with_a_state(storage: &Path) -> Vec<Record> {
    python("node.py", &[storage], Some("fill"));
    fs::write(storage.join("notes.txt"), b"the operator's").unwrap();
    read(storage).unwrap()
}

#[test]
fn a_restored_storage_takes_the_place_of_the_old_one_which_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path();
    let old = node_with_a_state(storage);
    let mut new = Restore::begin(storage, &block(7), &workers()).unwrap();
    let records = [
        record("contract_state/currency", "balances\0alice", "1"),
        record("run_state/__n", "alice", "2"),
    ];
    for record in &records {
        new.put(record).unwrap();
        assert_eq!(read(storage).unwrap(), old);
    }
    let stats = new.finish().unwrap();
    assert_eq!((stats.records, stats.files), (2, 2));
    assert_eq!(read(storage).unwrap(), records);
    assert_eq!(LatestBlock::read(storage).unwrap(), block(7));
    assert!(storage.join("notes.txt").exists());
    assert!(!storage.join("run_state/__pn").exists());

    let kept = storage.join(".snapswarm-restore/old");
    assert_eq!(read(&kept).unwrap(), old);
    assert!(!recover(storage).unwrap());
    assert_eq!(read(&kept).unwrap(), old);
    discard_old(storage).unwrap();
    assert!(!kept.exists());
    assert_eq!(read(storage).unwrap(), records);
}

#[test]
fn what_is_given_up_leaves_the_old_storage_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path();
    let old = node_with_a_state(storage);
    let mut new = Restore::begin(storage, &block(7), &workers()).unwrap();
    new.put(&record("contract_state/currency", "a", "1"))
        .unwrap();
    drop(new);
    assert_eq!(read(storage).unwrap(), old);
    assert!(!recover(storage).unwrap());
    assert!(!storage.join(".snapswarm-restore/new").exists());
    assert_eq!(read(storage).unwrap(), old);
}

#[test]
fn records_that_are_no_state_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let begin = || Restore::begin(folder.path(), &block(7), &workers()).unwrap();
    for scope in [
        "contract_state/..",
        "elsewhere/currency",
        "contract_state/a.b",
    ] {
        let error = begin().put(&record(scope, "a", "1")).unwrap_err();
        assert!(matches!(error, XianError::Records { .. }), "{error}");
    }
    // These are found where they are written.
    for records in [
        [
            ("contract_state/con_x", "a/b", "1"),
            ("contract_state/con_y", "a", "1"),
        ],
        [
            ("contract_state/con_x", "a", "1\0"),
            ("contract_state/con_y", "a", "1"),
        ],
        [
            ("contract_state/con_x", "b", "1"),
            ("contract_state/con_x", "a", "1"),
        ],
        [
            ("contract_state/con_x", "a", "1"),
            ("contract_state/con_x", "a", "1"),
        ],
    ] {
        let mut new = begin();
        let put = records
            .iter()
            .try_for_each(|(scope, key, value)| new.put(&record(scope, key, value)));
        let error = put.and_then(|()| new.finish().map(drop)).unwrap_err();
        assert!(matches!(error, XianError::Records { .. }), "{error}");
        assert!(error.to_string().contains("con_x"), "{error}");
    }
    // A file that comes a second time is not written over.
    let mut new = begin();
    let put = ["con_x", "con_y", "con_x"]
        .iter()
        .try_for_each(|name| new.put(&record(&format!("contract_state/{name}"), "a", "1")));
    let error = put.and_then(|()| new.finish().map(drop)).unwrap_err();
    assert!(error.to_string().contains("con_x"), "{error}");
    assert!(!folder.path().join("contract_state").exists());
}

#[test]
fn a_full_disk_leaves_the_old_storage_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = small_disk::small_disk(folder.path(), "24m") else {
        return;
    };
    let storage = folder.path().join("xian");
    let old = node_with_a_state(&storage);
    let mut new = Restore::begin(&storage, &block(7), &workers()).unwrap();
    let value = "7".repeat(100_000);
    let put = (0..1000).try_for_each(|number| {
        new.put(&record(
            "contract_state/currency",
            &format!("{number:04}"),
            &value,
        ))
    });
    let error = put.and_then(|()| new.finish().map(drop)).unwrap_err();
    assert!(matches!(error, XianError::NoSpace { .. }), "{error}");
    assert_eq!(read(&storage).unwrap(), old);
    recover(&storage).unwrap();
    assert_eq!(read(&storage).unwrap(), old);
}

#[test]
fn what_the_disk_refuses_is_told_as_the_system_says_it() {
    let folder = tempfile::tempdir().unwrap();
    // Room for bytes, and for no more than a few files.
    let Some(_disk) = small_disk::small_disk(folder.path(), "64m,nr_inodes=12") else {
        return;
    };
    let mut new = Restore::begin(folder.path(), &block(7), &workers()).unwrap();
    let put = (0..20).try_for_each(|number| {
        let scope = format!("contract_state/con_{number:02}");
        new.put(&record(&scope, "a", "1"))
    });
    let error = put.and_then(|()| new.finish().map(drop)).unwrap_err();
    let XianError::Io { op, path, source } = error else {
        panic!("{error}");
    };
    assert_eq!(op, "write");
    assert!(path.to_string_lossy().contains("con_"), "{path:?}");
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_writer_that_dies_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let killed = Workers {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), "kill -9 $$".into()],
        ..workers()
    };
    let mut new = Restore::begin(folder.path(), &block(7), &killed).unwrap();
    let put = new.put(&record("contract_state/con_x", "a", "1"));
    let error = put.and_then(|()| new.finish().map(drop)).unwrap_err();
    assert!(matches!(error, XianError::Writer { .. }), "{error}");
    assert!(error.to_string().contains("signal: 9"), "{error}");
}

#[test]
fn a_state_without_records_is_a_storage() {
    let folder = tempfile::tempdir().unwrap();
    let new = Restore::begin(folder.path(), &block(7), &workers()).unwrap();
    new.finish().unwrap();
    assert_eq!(read(folder.path()).unwrap(), []);
    assert_eq!(LatestBlock::read(folder.path()).unwrap(), block(7));
}
