//! Others can read our files: h5py the archives, another implementation of CIDs
//! the names and the CARs.

use std::io::Write;
use std::process::{Command, Stdio};

use snapswarm::snapshot::hash;

use crate::support::*;

#[path = "../python/venv.rs"]
mod venv;

#[test]
fn h5py_and_another_cid_implementation_agree_with_us() {
    let python = venv::python();
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = vec![
        noise(1, (2 << 20) + 77),
        b"tiny".to_vec(),
        noise(2, 1 << 20),
        b"tiny".to_vec(),
        noise(3, 10 << 20),
        noise(4, 4096),
    ];
    let archive = publish(&store, 9_007_199_254_740_993, &chunks).unwrap();
    let manifest = archive.manifest();
    let car = home.path().join("snapshot.car");
    store.export_car(&manifest.id(), &car, &mut quiet).unwrap();
    let listed: Vec<_> = manifest
        .chunk_indexes()
        .map(|index| {
            let chunk = manifest.unique_chunk(manifest.unique_at(index));
            serde_json::json!({"cid": chunk.id.to_string(), "size": chunk.size})
        })
        .collect();
    let whole = chunks.concat();
    let expected = serde_json::json!({
        "manifest": manifest.id().to_string(),
        "attributes": {
            "kind": "snapswarm snapshot archive, version 1",
            "manifest_cid": manifest.id().to_string(),
            "chain_id": "test-chain",
            "height": 9_007_199_254_740_993u64,
            "app_hash": "ab".repeat(32),
            "format": 1,
            "hash": hash::sha256(&whole).to_string(),
            "chunks": 6,
            "bytes": whole.len(),
        },
        "chunks": listed,
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_archive.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(archive.path())
        .arg(&car)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    { stdin }
        .write_all(expected.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stdout.trim(), "6 chunks agree");
}
