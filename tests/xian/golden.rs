//! Storages that the newest driver of the chain made (`xian-network/xian-contracting`,
//! its `Driver`, h5py 3.16): contracts, balances, typed values, tombstones, both types of
//! `block`, a source above 64 KiB, a key that leads to the root, names with `/` and of
//! other scripts, nonces. `records.txt` says what h5py finds in them.

use sha2::{Digest, Sha256};

use crate::support::*;

/// What stands in `records.txt` for a record.
fn listed(record: &snapswarm::state::Record) -> serde_json::Value {
    let mut words = words(record);
    if let Some(value) = words[2].as_str().filter(|value| value.len() > 200) {
        let digest = Sha256::digest(value.as_bytes());
        words[2] = format!("sha256:{}", hex::encode(digest)).into();
    }
    words
}

#[test]
fn what_the_newest_driver_wrote_is_read_as_h5py_reads_it() {
    let found = read(&storage("golden/xian/storage")).unwrap();
    let expected = include_str!("../golden/xian/records.txt").lines();
    let expected: Vec<serde_json::Value> = expected
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(listed(found), *expected);
    }
}

#[test]
fn what_is_made_of_it_holds_the_same_in_less() {
    let original = storage("golden/xian/storage");
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("xian");
    let stats = restore(&original, &made).unwrap();
    assert_eq!((stats.records, stats.files), (38, 4));
    assert_eq!(read(&made).unwrap(), read(&original).unwrap());
    let latest = std::fs::read_to_string(made.join("__latest_block.json")).unwrap();
    let latest: serde_json::Value = serde_json::from_str(&latest).unwrap();
    assert_eq!(
        latest,
        serde_json::json!({"hash": "3f".repeat(64), "height": 4})
    );
    // The chain opens files for writing even to read them.
    let shown = folder.path().join("shown");
    copy(&original, &shown);
    let shown = [&shown, &made].map(|storage| python("node.py", &[storage], Some("show")));
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[0].lines().count(), 38);
}
