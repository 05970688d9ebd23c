//! Code that nobody here wrote agrees on every golden name: Python's hashlib and
//! the package `multiformats` (`tests/requirements.txt`).
//!
//! `testnet/test.sh` installs them and sets `SNAPSWARM_TEST_PYTHON`.

use std::path::Path;
use std::process::Command;

#[test]
fn another_implementation_gives_every_chunk_and_manifest_the_same_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var("SNAPSWARM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python)
        .arg(root.join("tests/python/names.py"))
        .arg(root.join("tests/golden"))
        .output()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{errors}\nRun the tests by testnet/test.sh, or set SNAPSWARM_TEST_PYTHON to a Python \
         that has the packages of tests/requirements.txt."
    );
    let names = include_str!("golden/names.txt").lines().count();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), format!("{names} names agree"));
}
