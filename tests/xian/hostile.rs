//! Storages that are damaged, or that no node wrote: an error with file and group, and
//! the process lives.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::xian::XianError;

use crate::support::*;

/// Far longer than a file of a few kilobytes takes on a busy machine, also where libhdf5
/// goes round in circles and the system ends it.
const A_HANG: Duration = Duration::from_secs(120);

/// The group and the words that belong to a case of `hostile.py`.
const CASES: &[(&str, &str, &str)] = &[
    ("soft link", "/balances/link", "soft link"),
    ("dangling link", "/balances/link", "soft link"),
    ("external link", "/balances/link", "another file"),
    ("cycle to root", "/", "2 links"),
    ("cycle", "/balances", "2 links"),
    ("cycle to itself", "/balances", "2 links"),
    ("twice", "/balances/001", "2 links"),
    ("deep", "/balances/g/g/g", "deeper"),
    ("dataset", "/balances/link", "no group"),
    ("committed type", "/balances/link", "no group"),
    ("name not UTF-8", "/balances/\\xff\\xfe", "not UTF-8"),
    ("value of fixed length", "/balances/link", "neither text"),
    ("value a number", "/balances/link", "a number"),
    ("value a list", "/balances/link", "single value"),
    ("value in a list", "/balances/link", "single value"),
    ("value too long", "/balances/link", "more than"),
    ("value nothing", "/balances/link", "single value"),
    ("value a reference", "/balances/link", "neither text"),
    ("block a list", "/balances/link", "single value"),
    ("block of 32 bits", "/balances/link", "neither text"),
    ("block unsigned", "/balances/link", "neither text"),
    ("block big-endian", "/balances/link", "neither text"),
    ("block a fraction", "/balances/link", "neither text"),
    ("block a structure", "/balances/link", "neither text"),
    ("block too long", "/balances/link", "more than"),
    ("block of a named type", "/kind", "no group"),
    (
        "another attribute",
        "/balances/link",
        "beside value and block",
    ),
    ("hidden cycle", "/balances/link", "in circles"),
    ("hidden doubles", "/balances/", "in circles"),
];

#[test]
fn what_no_node_writes_is_an_error_with_file_and_group() {
    let folder = tempfile::tempdir().unwrap();
    python("hostile.py", &[folder.path()], None);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), CASES.len());
    for (case, group, words) in CASES {
        let began = Instant::now();
        let error = read(&folder.path().join(case)).expect_err(case);
        assert!(began.elapsed() < A_HANG, "{case}");
        let XianError::Content {
            file,
            group: found,
            problem,
        } = &error
        else {
            panic!("{case}: {error}");
        };
        assert!(file.ends_with("contract_state/con_x"), "{case}: {error}");
        assert!(found.starts_with(group), "{case}: {error}");
        assert!(problem.contains(words), "{case}: {error}");
    }
}

/// A storage of one file with these bytes.
fn storage_of(folder: &Path, bytes: &[u8]) {
    fs::create_dir_all(folder.join("contract_state")).unwrap();
    fs::write(folder.join("contract_state/con_x"), bytes).unwrap();
    fs::write(
        folder.join("__latest_block.json"),
        r#"{"hash": "61", "height": 1}"#,
    )
    .unwrap();
}

/// Reads it; says whether that worked. An error names the file.
fn survives(folder: &Path) -> bool {
    let began = Instant::now();
    let read = read(folder);
    assert!(began.elapsed() < A_HANG);
    match read {
        Ok(_) => true,
        Err(XianError::Content { file, .. } | XianError::Worker { file, .. }) => {
            assert!(file.ends_with("contract_state/con_x"));
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    let original = fs::read(storage("golden/xian/storage/contract_state/currency")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for part in 0..20 {
        let len = original.len() * part / 20;
        storage_of(folder.path(), &original[..len]);
        assert!(
            !survives(folder.path()),
            "{len} of {} bytes",
            original.len()
        );
    }
    storage_of(folder.path(), &original);
    assert!(survives(folder.path()));
}

#[test]
fn a_file_with_other_bytes_anywhere_ends_a_worker_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let compact = folder.path().join("compact");
    restore(&storage("golden/xian/storage"), &compact).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut failed = 0;
    for file in [
        storage("golden/xian/storage/contract_state/submission"),
        compact.join("contract_state/currency"),
    ] {
        let original = fs::read(file).unwrap();
        for _ in 0..150 {
            let mut bytes = original.clone();
            for _ in 0..random.random_range(1..20) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            let spoiled = folder.path().join("spoiled");
            storage_of(&spoiled, &bytes);
            failed += usize::from(!survives(&spoiled));
        }
    }
    assert!(failed > 50, "{failed} of 300");
}
