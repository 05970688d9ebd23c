//! Storages, workers, and the Python that stands for the node.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// For the adapter of other tests.
pub use crate::process::{Home, Running};
use bytes::Bytes;
use snapswarm::snapshot::{Manifest, ManifestBuilder};
use snapswarm::state::{ChunkSize, Record, Stamp};
use snapswarm::xian::{
    Reading, Restore, RestoreStats, StorageRecords, Workers, XianError, XianSource,
};

/// Room for what is read ahead.
pub const SPOOL_BYTES: u64 = 1 << 30;

pub fn workers() -> Workers {
    Workers {
        program: env!("CARGO_BIN_EXE_snapswarm").into(),
        arguments: vec!["__xian".into()],
        at_most: NonZeroUsize::new(2).unwrap(),
        patience: Workers::PATIENCE,
    }
}

pub fn reading() -> Reading {
    Reading {
        workers: workers(),
        spool: std::env::temp_dir(),
        spool_bytes: SPOOL_BYTES,
    }
}

/// All records of a storage.
pub fn read(storage: &Path) -> Result<Vec<Record>, XianError> {
    StorageRecords::open(storage, &reading())?.collect()
}

/// The manifest and the chunks of a storage, in small chunks.
pub fn snapshot_of(
    chain_id: &str,
    storage: &Path,
    patches: Option<&Path>,
) -> (Manifest, Vec<Bytes>) {
    let source = XianSource::new(storage, &reading(), ChunkSize::MIN, patches, || false);
    let (mut builder, mut chunks) = (ManifestBuilder::new(), Vec::new());
    let made = source.make(|chunk| {
        builder.push(chunk).unwrap();
        chunks.push(Bytes::copy_from_slice(chunk));
        Ok::<_, XianError>(())
    });
    let made = made.unwrap();
    let manifest = builder.finish_state(made.fields(chain_id), made.state);
    (manifest.unwrap(), chunks)
}

/// Makes a storage of the records of another.
pub fn restore(from: &Path, to: &Path) -> Result<RestoreStats, XianError> {
    let records = StorageRecords::open(from, &reading())?;
    let mut restore = Restore::begin(to, records.block(), &workers())?;
    for record in records {
        restore.put(&record?)?;
    }
    restore.finish()
}

pub fn storage(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Copies a storage.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Runs a script of this folder with the chain's own code in reach; gives what it says.
pub fn python(script: &str, arguments: &[&Path], word: Option<&str>) -> String {
    let python = std::env::var("SNAPSWARM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let source = std::env::var("SNAPSWARM_TEST_XIAN").unwrap_or_default();
    let output = Command::new(&python)
        .env("PYTHONPATH", source)
        .arg(storage("xian").join(script))
        .args(word)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    assert!(
        output.status.success(),
        "{}\nRun the tests by testnet/test.sh, or set SNAPSWARM_TEST_PYTHON to a Python that has \
         the packages of tests/requirements.txt, and SNAPSWARM_TEST_XIAN to the folder src of \
         xian-contracting-py311.",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A record in words: scope, path, value, time of its block.
pub fn words(record: &Record) -> serde_json::Value {
    let key = std::str::from_utf8(record.key().as_bytes()).unwrap();
    let value = record
        .value()
        .map(|value| std::str::from_utf8(value).unwrap());
    let stamp = match record.stamp() {
        Stamp::Absent => serde_json::Value::Null,
        Stamp::Text(text) => text.as_str().into(),
        Stamp::Int(number) => (*number).into(),
    };
    let path = format!("/{}", key.replace('\0', "/"));
    serde_json::json!([record.scope().as_str(), path, value, stamp])
}
