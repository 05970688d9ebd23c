//! Archives and CARs are the same bytes on every machine. A change here is a
//! new format: old files must stay readable.

use std::path::PathBuf;

use snapswarm::snapshot::hash;
use snapswarm::store::{Origin, Store};

use crate::support::*;

/// SHA-256 of the archive of [`tiny`].
const ARCHIVE: &str = "4b5b8bc697a018bb48ff5aabe3f69e201042afe2f0eeaf9278d8c3960042a382";
/// SHA-256 of its CAR.
const CAR: &str = "e9d49f4d588d1fefd2138cac274d8fe2a5ac6aed463c75d0d8c1db16c59b0bdf";
/// Its name.
const MANIFEST: &str = "bafkreieo3y2sjuh7qqp7rf6nu4y6vqhb2ccvk6xnxrp3sghrfq2zhpbudi";

/// A chunk of two pieces would make the files too large for a repository; that
/// is left to the tests with h5py.
fn tiny() -> Vec<Vec<u8>> {
    vec![
        b"first".to_vec(),
        (0..=255).collect(),
        b"first".to_vec(),
        vec![7; 1000],
    ]
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Compares with the file in the repository. With `SNAPSWARM_BLESS` set it is
/// written instead.
fn compare(name: &str, found: &[u8], digest: &str) {
    let path = golden(name);
    if std::env::var_os("SNAPSWARM_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read(&path).unwrap();
    assert!(found == expected, "{name} has other bytes than {path:?}");
    assert_eq!(hash::sha256(found).to_string(), digest, "{name}");
}

#[test]
fn the_archive_and_the_car_of_a_snapshot_are_the_golden_ones() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let archive = publish(&store, 42, &tiny()).unwrap();
    let id = archive.manifest().id();
    compare(
        "store_tiny.h5",
        &std::fs::read(archive.path()).unwrap(),
        ARCHIVE,
    );
    let car = home.path().join("tiny.car");
    store.export_car(&id, &car, &mut quiet).unwrap();
    compare("store_tiny.car", &std::fs::read(&car).unwrap(), CAR);
    assert_eq!(id.to_string(), MANIFEST);
}

#[test]
fn the_golden_files_are_read() {
    let home = tempfile::tempdir().unwrap();
    let verified = Store::verify_car(&golden("store_tiny.car"), &mut quiet).unwrap();
    assert_eq!(verified.id.to_string(), MANIFEST);
    let snapshots = home.path().join("snapshots");
    std::fs::create_dir(&snapshots).unwrap();
    std::fs::copy(
        golden("store_tiny.h5"),
        snapshots.join(format!("{MANIFEST}.h5")),
    )
    .unwrap();
    let store = open(home.path());
    verify(&store, &verified.id).unwrap();
    let archive = store.archive(&verified.id).unwrap();
    for (index, chunk) in archive.manifest().chunk_indexes().zip(tiny()) {
        assert_eq!(archive.read_chunk(index).unwrap(), chunk);
    }
    let other = tempfile::tempdir().unwrap();
    let imported = open(other.path())
        .import_car(
            &golden("store_tiny.car"),
            &|_| Ok(()),
            Origin::Loaded,
            &mut quiet,
        )
        .unwrap();
    assert_eq!(imported.manifest.id(), verified.id);
}
