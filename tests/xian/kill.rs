//! A process that restores one storage after the other and is killed (SIGKILL) at random
//! moments: what is there afterwards is one of them, whole.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::state::{Key, Place, Record, Scope, Stamp};
use snapswarm::xian::{LatestBlock, Restore, recover};

use crate::support::*;

/// The child's storage; set in children only.
const STORAGE: &str = "SNAPSWARM_TEST_KILL_STORAGE";

/// The state of a height: its values say so.
fn state(height: u64) -> Vec<Record> {
    let mut records = Vec::new();
    for scope in [
        "contract_state/con_a",
        "contract_state/con_b",
        "run_state/__n",
    ] {
        for key in 0..50 + height % 7 {
            let place = Place {
                scope: Scope::new(scope).unwrap(),
                key: Key::new(format!("{key:03}").into()).unwrap(),
            };
            let value = Bytes::from(height.to_string());
            records.push(Record::new(place, Some(value), Stamp::Int(1)).unwrap());
        }
    }
    records
}

#[test]
fn child_restores() {
    let Some(storage) = std::env::var_os(STORAGE) else {
        return;
    };
    let storage = Path::new(&storage);
    let first = LatestBlock::read(storage).map_or(1, |block| block.height + 1);
    for height in first.. {
        let block = LatestBlock {
            height,
            app_hash: Bytes::from_static(b"x"),
        };
        let mut new = Restore::begin(storage, &block, &workers()).unwrap();
        for record in state(height) {
            new.put(&record).unwrap();
        }
        new.finish().unwrap();
        println!("\n@{height}");
    }
}

#[test]
fn killed_at_any_moment_a_storage_is_one_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut told = 0;
    for _ in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_restores", "--nocapture"])
            .env(STORAGE, storage)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told_now = |line: Result<String, _>| line.ok()?.strip_prefix('@')?.parse::<u64>().ok();
        let mut heights = lines.filter_map(told_now);
        told = heights.next().unwrap().max(told);
        // The moment is random; whatever it is, the assertions hold.
        std::thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
        child.kill().unwrap();
        told = heights.last().unwrap_or(0).max(told);
        child.wait().unwrap();

        recover(storage).unwrap();
        let height = LatestBlock::read(storage).unwrap().height;
        assert!(
            height == told || height == told + 1,
            "{height}, told {told}"
        );
        assert_eq!(read(storage).unwrap(), state(height));
        told = height;
    }
    // The first one had nothing before it, and the others come from snapshots: what is
    // kept is a storage without files.
    let kept = storage.join(".snapswarm-restore/old");
    assert!(!kept.join("contract_state").exists());
}
